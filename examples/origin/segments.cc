#include "segments.h"

#include <sys/mman.h>
#include <sys/stat.h>

namespace origin {
namespace {

// Far more than a memory tier has; what is known beyond is forgotten.
constexpr std::size_t kKnownMax = 256;

}  // namespace

Segments::Mapped::~Mapped() { ::munmap(bytes_.data(), bytes_.size()); }

std::shared_ptr<Segments::Mapped> Segments::find(int fd, std::uint64_t end,
                                                 std::uint64_t daemon_epoch) {
  struct stat status {};
  if (::fstat(fd, &status) != 0 || static_cast<std::uint64_t>(status.st_size) < end) return nullptr;
  const std::lock_guard lock(mutex_);
  if (epoch_ != daemon_epoch || known_.size() > kKnownMax) known_.clear();
  epoch_ = daemon_epoch;
  const auto [entry, is_new] = known_.try_emplace({status.st_dev, status.st_ino});
  if (is_new || (entry->second != nullptr && entry->second->bytes().size() >= end))
    return entry->second;
  const auto size = static_cast<std::size_t>(status.st_size);
  void* const begin = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (begin == MAP_FAILED) return nullptr;
  entry->second = std::make_shared<Mapped>(static_cast<std::byte*>(begin), size);
  return entry->second;
}

}  // namespace origin
