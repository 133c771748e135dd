#include "client/segment.h"

#include <sys/stat.h>

#include <map>
#include <tuple>

#include "posix/file.h"

namespace om::client {

namespace {

// Each page that a process has not touched yet through a mapping is a fault: so all connections of
// a process use the same one. By device, inode and whether it is for writing. Never destroyed:
// leases may be read until the process ends.
struct Mappings {
  using Key = std::tuple<dev_t, ino_t, bool>;
  std::mutex mutex;
  std::map<Key, std::weak_ptr<const Mapping>> known;
};
Mappings& mappings() {
  static auto* all = new Mappings;
  return *all;
}

// The first `size` bytes at least. nullptr: not to be had.
std::shared_ptr<const Mapping> map_file(BorrowedFd file, std::uint64_t size, bool writable) {
  struct stat status {};
  // A segment that is shorter than it was said to be would be a SIGBUS.
  if (::fstat(file.raw(), &status) != 0 || static_cast<std::uint64_t>(status.st_size) < size)
    return nullptr;
  Mappings& all = mappings();
  const std::lock_guard lock(all.mutex);
  std::erase_if(all.known, [](const auto& one) { return one.second.expired(); });
  auto& known = all.known[{status.st_dev, status.st_ino, writable}];
  if (auto there = known.lock(); there != nullptr && there->size() >= size) return there;
  auto mapping = Mapping::of(file, 0, static_cast<std::size_t>(size),
                             writable ? Access::kReadWrite : Access::kRead);
  if (!mapping) return nullptr;
  auto made = std::make_shared<const Mapping>(*std::move(mapping));
  known = made;
  return made;
}

}  // namespace

std::span<std::byte> Segment::map(std::uint64_t offset, std::uint64_t length) {
  if (kind != wire::SegmentKind::kMemory) return {};
  std::call_once(mapped_once_, [this] { mapping_ = map_file(file(), size(), writable); });
  if (mapping_ == nullptr) return {};
  const std::span<std::byte> all = mapping_->bytes();
  if (offset > all.size() || length > all.size() - offset) return {};
  return all.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(length));
}

void SegmentCache::insert(const SegmentRef& segment) {
  const std::uint64_t key = key_of(segment->id, segment->writable);
  // Staging of others is a file of one object too.
  const bool shared = segment->kind != wire::SegmentKind::kFile &&
                      (segment->kind != wire::SegmentKind::kStaging || segment->writable);
  const std::lock_guard lock(mutex_);
  if (auto old = entries_.find(key); old != entries_.end()) {
    by_use_.erase(old->second);
    entries_.erase(old);
  }
  by_use_.push_front({key, shared ? segment : nullptr, segment});
  entries_[key] = by_use_.begin();
  evict_to(segments_max_);
}

SegmentRef SegmentCache::find(std::uint64_t id, bool writable) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(key_of(id, writable));
  if (found == entries_.end()) return nullptr;
  SegmentRef segment = found->second->known.lock();
  if (segment == nullptr) {
    by_use_.erase(found->second);
    entries_.erase(found);
  } else if (found->second != by_use_.begin()) {
    by_use_.splice(by_use_.begin(), by_use_, found->second);
  }
  return segment;
}

void SegmentCache::shrink() {
  const std::lock_guard lock(mutex_);
  evict_to(by_use_.size() / 2);
}

std::size_t SegmentCache::size() const {
  const std::lock_guard lock(mutex_);
  return by_use_.size();
}

void SegmentCache::evict_to(std::size_t count) {
  while (by_use_.size() > count) {
    entries_.erase(by_use_.back().key);
    by_use_.pop_back();
  }
}

}  // namespace om::client
