#include "lease_body.h"

#include <sys/resource.h>

#include <array>
#include <atomic>
#include <vector>

#include "body.h"
#include "fetch.h"
#include "redirect.h"
#include "storage.h"

namespace om::vmod::lease_body {

using abi::varnish;

namespace {

thread_local const struct objcore* expected_object = nullptr;
thread_local std::array<std::uint8_t, 64> scrap;

// Each body on disk holds a descriptor. A quarter of what the process may have is theirs at most.
std::atomic<std::uint64_t> files_held{0};
std::uint64_t files_max() {
  static const std::uint64_t max = [] {
    struct rlimit limit = {};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return std::uint64_t{256};
    return static_cast<std::uint64_t>(limit.rlim_cur) / 4;
  }();
  return max;
}

class LeaseBody final : public AttachedBody {
 public:
  LeaseBody(std::shared_ptr<Client> client, Lease lease,
            std::vector<std::span<const std::byte>> memory)
      : client_(std::move(client)), lease_(std::move(lease)), memory_(std::move(memory)) {
    if (lease_.info().on_disk) files_held.fetch_add(lease_.slices().size());
  }
  ~LeaseBody() override {
    if (lease_.info().on_disk) files_held.fetch_sub(lease_.slices().size());
  }
  [[nodiscard]] std::optional<BodyView> view() const override {
    BodyView view;
    if (!memory_.empty()) {
      for (const auto& part : memory_) view.add(part.data(), part.size());
    } else {
      for (const Slice& slice : lease_.slices())
        view.add(BorrowedFd(slice.fd), slice.offset, slice.length);
    }
    return view;
  }

 private:
  const std::shared_ptr<Client> client_;  // leases end with their connection
  const Lease lease_;
  const std::vector<std::span<const std::byte>> memory_;
};

}  // namespace

bool may_take_over(const struct busyobj* bo) {
  if (files_held.load(std::memory_order_relaxed) >= files_max()) return false;
  if (bo->storage == nullptr || bo->storage == *varnish.stv_transient) return false;
  return Store::of(bo->storage) != nullptr || redirect::has_default(bo->vcl);
}

void expect(const struct objcore* oc) { expected_object = oc; }
bool expected(const struct objcore* oc) { return oc != nullptr && expected_object == oc; }

bool give_scrap(const struct objcore* oc, ssize_t* size, uint8_t** place) {
  if (!expected(oc)) return false;
  *size = static_cast<ssize_t>(scrap.size());
  *place = scrap.data();
  return true;
}

bool attach(struct objcore* oc, const std::shared_ptr<Client>& client, Lease& lease) {
  if (Store::of(oc) == nullptr || oc->boc == nullptr || attached_body(oc) != nullptr) return false;
  Fetch* fetch = Fetch::of(oc->boc);
  if (fetch == nullptr || fetch->settled || !fetch->pieces.empty()) return false;
  std::vector<std::span<const std::byte>> memory;
  if (!lease.info().on_disk) {
    auto mapped = lease.map();
    if (!mapped) return false;
    memory = *std::move(mapped);
  }
  attach_body(oc, std::make_unique<LeaseBody>(client, std::move(lease), std::move(memory)));
  fetch->settled = true;
  return true;
}

}  // namespace om::vmod::lease_body
