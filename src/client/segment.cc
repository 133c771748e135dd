#include "client/segment.h"

#include "posix/file.h"

namespace om::client {

std::span<std::byte> Segment::map() {
  if (kind != wire::SegmentKind::kMemory) return {};
  std::call_once(mapped_once_, [this] {
    // A segment that is shorter than it was said to be would be a SIGBUS.
    const auto actual = file_size(file());
    if (!actual || *actual < size()) return;
    auto mapping = Mapping::of(file(), 0, static_cast<std::size_t>(size()),
                               writable ? Access::kReadWrite : Access::kRead);
    if (mapping) mapping_ = *std::move(mapping);
  });
  return mapping_.bytes();
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
