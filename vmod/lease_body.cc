#include "lease_body.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "fetch.h"
#include "redirect.h"
#include "storage.h"

namespace om::vmod::lease_body {

using abi::varnish;

namespace {

thread_local const struct objcore* expected_object = nullptr;
thread_local std::array<std::uint8_t, 64> scrap;

// Of a store: leases, and what of its memory their records may take. The daemon lends more than
// that to the two connections of a director.
constexpr std::uint64_t kLeasesMax = kLeasesPerPeerMax;
constexpr std::uint64_t kRecordsShare = 8;  // of the region, divided by

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

// Objects that hold leases, to be found when one is asked back. Never destroyed: threads use it.
struct Holders {
  struct Holder {
    struct objcore* oc;
    bool asked_back;
  };
  std::mutex mutex;
  std::multimap<std::pair<const Client*, std::uint64_t>, Holder> of;
  std::map<const Client*, std::size_t> asked_back;  // of those, how many are still held
};
Holders& holders() {
  static auto* all = new Holders;
  return *all;
}

// A landed body is published when its record is: soon after.
constexpr std::uint64_t kPublishedWithinNs = 60'000'000'000;

}  // namespace

void remove_shared(Client& client, const std::string& key, std::uint64_t object_id) noexcept {
  if (key.empty()) return;
  try {
    const auto there = client.stat(key);
    if (there && *there && (*there)->object_id == object_id) (void)client.remove(key);
  } catch (const std::exception&) {
    // Out of memory: whoever takes it next finds out.
  }
}

// What objects hold together: one lease, of one that was taken over and of those that a 304 made of
// it.
class Held {
 public:
  Held(std::shared_ptr<Client> with, Lease what, std::vector<std::span<const std::byte>> where,
       Name called, Pins pins, std::optional<std::uint64_t> sum = std::nullopt)
      : client(std::move(with)),
        lease(std::move(what)),
        memory(std::move(where)),
        name(std::move(called)),
        pins_(std::move(pins)),
        checksum_(sum) {
    if (lease.info().on_disk) files_held.fetch_add(lease.slices().size());
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    if (lease.info().on_disk) files_held.fetch_sub(lease.slices().size());
  }
  [[nodiscard]] BodyView view() const {
    BodyView view;
    if (!memory.empty()) {
      for (const auto& part : memory) view.add(part.data(), part.size());
    } else {
      for (const Slice& slice : lease.slices())
        view.add(BorrowedFd(slice.fd), slice.offset, slice.length);
    }
    return view;
  }
  // Of the body, computed once. nullopt: it cannot be read.
  [[nodiscard]] std::optional<std::uint64_t> checksum() const {
    const std::lock_guard lock(checksum_mutex_);
    if (!checksum_) checksum_ = checksum_of(view());
    return checksum_;
  }
  // The object was published by then. Said once: a later one of the same number is another.
  [[nodiscard]] std::uint64_t created_by_ns() const {
    const auto soon = static_cast<std::uint64_t>(VTIM_real() * 1e9) + kPublishedWithinNs;
    std::uint64_t by = 0;
    return created_by_ns_.compare_exchange_strong(by, soon) ? soon : by;
  }
  void remove_object() const noexcept { remove_shared(*client, name.key, lease.info().object_id); }
  const std::shared_ptr<Client> client;
  const Lease lease;
  const std::vector<std::span<const std::byte>> memory;
  const Name name;

 private:
  const Pins pins_;                                                    // of `memory`
  mutable std::atomic<std::uint64_t> created_by_ns_{name.created_ns};  // 0: not named yet
  mutable std::mutex checksum_mutex_;
  mutable std::optional<std::uint64_t> checksum_;
};

std::uint64_t record_bytes(const region::Record& record) {
  const bool lent = (record.flags & region::kBodyLent) != 0;
  return record.record_bytes + (lent ? region::extents_block_bytes(record.extent_count) : 0);
}

namespace {

class LeaseBody final : public AttachedBody {
 public:
  LeaseBody(struct objcore* oc, std::shared_ptr<const Held> held)
      : oc_(oc),
        store_(*Store::of(oc)),
        record_bytes_(record_bytes(record_of(oc))),
        held_(std::move(held)) {
    store_.lent().leases.fetch_add(1);
    store_.lent().record_bytes.fetch_add(record_bytes_);
    count(store_.counters().g_leases);
    count(store_.counters().g_lease_bytes, held_->lease.size());
    const std::lock_guard lock(holders().mutex);
    holders().of.emplace(key(), Holders::Holder{oc_, false});
  }
  ~LeaseBody() override {
    store_.lent().leases.fetch_sub(1);
    store_.lent().record_bytes.fetch_sub(record_bytes_);
    uncount(store_.counters().g_leases);
    uncount(store_.counters().g_lease_bytes, held_->lease.size());
    Holders& all = holders();
    const std::lock_guard lock(all.mutex);
    const auto [first, last] = all.of.equal_range(key());
    const auto ours =
        std::find_if(first, last, [this](const auto& one) { return one.second.oc == oc_; });
    if (ours == last) return;
    if (ours->second.asked_back)
      if (const auto left = all.asked_back.find(held_->client.get()); --left->second == 0)
        all.asked_back.erase(left);
    all.of.erase(ours);
  }
  [[nodiscard]] Place place() const override { return Place::kLease; }
  [[nodiscard]] std::optional<BodyView> view() const override { return held_->view(); }
  bool name(struct worker* wrk, region::Record& record) override {
    const Name& name = held_->name;
    // The region is that daemon's, and so says which one is meant.
    if (name.key.empty() || name.key.size() > kKeyBytesMax ||
        name.socket != store_.config().socket || held_->lease.info().object_id == 0)
      return false;
    region::LentRef ref;
    ref.key = name.key;
    ref.object_id = held_->lease.info().object_id;
    ref.length = held_->view().length();
    ref.created_by_ns = held_->created_by_ns();
    std::optional<std::uint64_t> sum;
    if (store_.config().verify != Verify::kNone) sum = held_->checksum();
    while (!store_.region()->attach_lent(record, ref, sum))
      if (!nuke(wrk, store_, Place::kMemory)) return false;
    const std::uint64_t more = record_bytes(record) - record_bytes_;
    record_bytes_ += more;
    store_.lent().record_bytes.fetch_add(more);
    return true;
  }
  void remove_source() const override { held_->remove_object(); }
  [[nodiscard]] std::unique_ptr<AttachedBody> share(struct objcore* target) const override {
    return std::make_unique<LeaseBody>(target, held_);
  }

 private:
  [[nodiscard]] std::pair<const Client*, std::uint64_t> key() const {
    return {held_->client.get(), held_->lease.id()};
  }
  struct objcore* const oc_;
  Store& store_;
  std::uint64_t record_bytes_;
  const std::shared_ptr<const Held> held_;
};

// One of the objcores, with a reference for us; not one of `done`. While the lock is held, its body
// is not being freed, and so it and its objhead are there; but it may be on its way. The one place
// where an objhead's mutex is taken under a lock of ours: nobody frees a body while he holds one.
struct objcore* reference(const Client* client, std::uint64_t lease_id,
                          const std::vector<struct objcore*>& done) {
  const std::lock_guard lock(holders().mutex);
  const auto [first, last] = holders().of.equal_range({client, lease_id});
  for (auto one = first; one != last; ++one) {
    struct objcore* oc = one->second.oc;
    if (std::ranges::find(done, oc) != done.end()) continue;
    Lck_Lock(&oc->objhead->mtx);
    const bool alive = oc->refcnt > 0;
    if (alive) oc->refcnt++;
    Lck_Unlock(&oc->objhead->mtx);
    if (!std::exchange(one->second.asked_back, true)) ++holders().asked_back[client];
    if (alive) return oc;
  }
  return nullptr;
}

struct Removal {
  struct pool_task task {};
  struct objcore* oc = nullptr;
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
};

bool is_busy(struct objcore* oc) {
  Lck_Lock(&oc->objhead->mtx);
  const bool busy = (oc->flags & OC_F_BUSY) != 0;
  Lck_Unlock(&oc->objhead->mtx);
  return busy;
}

void remove(struct worker* wrk, void* priv) noexcept {
  Removal& removal = *static_cast<Removal*>(priv);
  // Between getting its body and being there for all is a moment.
  for (int i = 0; i < 1000 && is_busy(removal.oc); ++i) usleep(1000);
  // Freeing it may log.
  std::array<std::byte, 1024> log_buffer;
  struct vsl_log log {};
  varnish.VSL_Setup(&log, log_buffer.data(), log_buffer.size());
  struct vsl_log* const before = wrk->vsl;
  wrk->vsl = &log;
  varnish.HSH_Kill(removal.oc);
  (void)varnish.HSH_DerefObjCore(wrk, &removal.oc, 0);
  varnish.VSL_Flush(&log, 0);
  wrk->vsl = before;
  const std::lock_guard lock(removal.mutex);
  removal.done = true;
  removal.finished.notify_one();
}

}  // namespace

bool revoked(const Client* client, std::uint64_t lease_id) {
  std::vector<struct objcore*> done;
  while (struct objcore* oc = reference(client, lease_id, done)) {
    done.push_back(oc);
    Removal removal;
    removal.oc = oc;
    removal.task.func = remove;
    removal.task.priv = &removal;
    // We have a reference that only a worker can give back.
    while (varnish.Pool_Task_Any(&removal.task, TASK_QUEUE_BO) != 0) usleep(10000);
    std::unique_lock lock(removal.mutex);
    removal.finished.wait(lock, [&] { return removal.done; });
  }
  return !done.empty();
}

namespace {

bool has_room_for_one(Store& store) {
  return has_room(*store.region(), store.lent().leases, store.lent().record_bytes);
}

}  // namespace

bool has_room(const region::Region& region, std::uint64_t leases, std::uint64_t record_bytes) {
  return files_held.load(std::memory_order_relaxed) < files_max() && leases < kLeasesMax &&
         record_bytes < region.allocator().heap_bytes() / kRecordsShare;
}

bool may_take_over(struct busyobj* bo) {
  if (bo->storage == nullptr || bo->storage == *varnish.stv_transient) return false;
  Store* store = Store::of(bo->storage);
  if (store == nullptr) store = redirect::default_of(bo->vcl);
  if (store == nullptr || store->region() == nullptr) return false;
  bo->wrk->strangelove = static_cast<int>((*varnish.cache_param)->nuke_limit);
  while (!has_room_for_one(*store))
    if (!nuke(bo->wrk, *store, Place::kLease)) return false;
  return true;
}

bool give_back(struct worker* wrk, const Client* client, unsigned how_many, bool for_room) {
  Store* store = nullptr;
  {
    Holders& all = holders();
    const std::lock_guard lock(all.mutex);
    if (!for_room && all.asked_back.contains(client)) return false;
    auto any = all.of.lower_bound({client, 0});
    if (any == all.of.end() || any->first.first != client) {
      if (!for_room) return false;
      any = std::ranges::find_if(all.of, [epoch = client->daemon().epoch](const auto& one) {
        return one.first.first->daemon().epoch == epoch;
      });
      if (any == all.of.end()) return false;
    }
    store = Store::of(any->second.oc);
  }
  const int limit = std::exchange(wrk->strangelove, static_cast<int>(how_many));
  unsigned gone = 0;
  while (gone < how_many && nuke(wrk, *store, Place::kLease)) ++gone;
  wrk->strangelove = limit;
  return gone > 0;
}

void expect(const struct objcore* oc) { expected_object = oc; }
bool expected(const struct objcore* oc) { return oc != nullptr && expected_object == oc; }

bool give_scrap(const struct objcore* oc, ssize_t* size, uint8_t** place) {
  if (!expected(oc)) return false;
  *size = static_cast<ssize_t>(scrap.size());
  *place = scrap.data();
  return true;
}

std::unique_ptr<AttachedBody> hold(const struct objcore* oc, std::shared_ptr<Client> client,
                                   Lease lease, std::vector<std::span<const std::byte>> memory,
                                   Name name, Pins pins) {
  return body_of(const_cast<struct objcore*>(oc),
                 std::make_shared<Held>(std::move(client), std::move(lease), std::move(memory),
                                        std::move(name), std::move(pins)));
}

std::unique_ptr<AttachedBody> body_of(struct objcore* oc, std::shared_ptr<const Held> held) {
  return std::make_unique<LeaseBody>(oc, std::move(held));
}

bool is_what_was_stored(const Held& held, const region::Record& record) {
  if (checksum_of(held.view()) == record.body_checksum) return true;
  held.remove_object();
  return false;
}

std::shared_ptr<const Held> take(std::shared_ptr<Client> client, Lease lease, Name name,
                                 std::optional<std::uint64_t> checksum) {
  std::vector<std::span<const std::byte>> memory;
  if (!lease.info().on_disk) {
    auto mapped = lease.map();
    if (!mapped) return nullptr;
    memory = *std::move(mapped);
  }
  return std::make_shared<Held>(std::move(client), std::move(lease), std::move(memory),
                                std::move(name), Pins(), checksum);
}

bool attach(struct objcore* oc, const std::shared_ptr<Client>& client, Lease& lease, Name name) {
  if (Store::of(oc) == nullptr || oc->boc == nullptr || attached_body(oc) != nullptr) return false;
  Fetch* fetch = Fetch::of(oc->boc);
  if (fetch == nullptr || fetch->settled || fetch->total != 0 || fetch->file != nullptr)
    return false;
  std::vector<std::span<const std::byte>> memory;
  if (!lease.info().on_disk) {
    auto mapped = lease.map();
    if (!mapped) return false;
    memory = *std::move(mapped);
  }
  name.created_ns = lease.info().created_ns;
  attach_body(oc, hold(oc, client, std::move(lease), std::move(memory), std::move(name)));
  fetch->settled = true;
  return true;
}

}  // namespace om::vmod::lease_body
