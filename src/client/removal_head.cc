// om::RemovalHead: the daemon's head page, mapped for reading.
#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>
#include <utility>

#include "base/result.h"
#include "objmapper/client.h"
#include "wire/messages.h"

namespace om {

RemovalHead::RemovalHead(RemovalHead&& other) noexcept
    : page_(std::exchange(other.page_, nullptr)) {}
RemovalHead& RemovalHead::operator=(RemovalHead&& other) noexcept {
  std::swap(page_, other.page_);
  return *this;
}
RemovalHead::~RemovalHead() {
  if (page_ != nullptr) ::munmap(page_, wire::HeadPage::kBytes);
}

Result<RemovalHead> RemovalHead::of(const Fd& page) {
  struct stat status {};
  if (::fstat(page.raw(), &status) != 0) return system_error("look at the head page");
  if (status.st_size < static_cast<off_t>(wire::HeadPage::kBytes))
    return Error{Errc::kMalformed, 0, "the head page is too short"};
  void* const mapped =
      ::mmap(nullptr, wire::HeadPage::kBytes, PROT_READ, MAP_SHARED, page.raw(), 0);
  if (mapped == MAP_FAILED) return system_error("map the head page");
  RemovalHead head;
  head.page_ = mapped;
  if (static_cast<const wire::HeadPage*>(mapped)->magic != wire::HeadPage::kMagic)
    return Error{Errc::kMalformed, 0, "that is no head page"};
  return head;
}

std::uint64_t RemovalHead::head() const noexcept {
  if (page_ == nullptr) return ~std::uint64_t{0};
  return std::atomic_ref<std::uint64_t>(static_cast<wire::HeadPage*>(page_)->head)
      .load(std::memory_order_acquire);
}

std::uint64_t RemovalHead::daemon_epoch() const noexcept {
  return page_ == nullptr ? 0 : static_cast<const wire::HeadPage*>(page_)->epoch;
}

}  // namespace om
