// A file that the daemon shares with us, and the bounded cache of them that a connection keeps.
//
// A segment's descriptor travels the first time a connection meets it, and again when we ask
// (DESCRIBE). Leases hold the segments they speak of; beyond that the cache keeps those that many
// objects share (memory, packs, staging), the least recently used going first. A file of a single
// object is only remembered while somebody holds it: an unlinked file that we kept open would keep
// its space.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>

#include "posix/mapping.h"
#include "posix/unique_fd.h"
#include "wire/messages.h"

namespace om::client {

class Segment {
 public:
  Segment(const wire::Segment& description, UniqueFd file)
      : id(description.id),
        kind(static_cast<wire::SegmentKind>(description.kind)),
        writable(description.writable != 0),
        file_(std::move(file)),
        size_(description.size_bytes) {}
  const std::uint64_t id;
  const wire::SegmentKind kind;
  const bool writable;
  [[nodiscard]] BorrowedFd file() const { return file_.borrow(); }
  // Segments that are written to may grow: the newest size is right.
  [[nodiscard]] std::uint64_t size() const { return size_.load(std::memory_order_relaxed); }
  void set_size(std::uint64_t bytes) { size_.store(bytes, std::memory_order_relaxed); }
  // A part of a memory segment, which is mapped the first time somebody asks, as large as it is
  // then. Empty when it is of another kind, cannot be mapped, or has grown to that part since: then
  // read and write it by descriptor. Any thread.
  std::span<std::byte> map(std::uint64_t offset, std::uint64_t length);
  // After that: what keeps those bytes mapped, without the descriptor. Null where there are none.
  [[nodiscard]] std::shared_ptr<const void> mapping() const { return mapping_; }

 private:
  UniqueFd file_;
  std::atomic<std::uint64_t> size_;
  std::once_flag mapped_once_;
  std::shared_ptr<const Mapping> mapping_;  // that all connections of this process share
};

using SegmentRef = std::shared_ptr<Segment>;

// Any thread.
class SegmentCache {
 public:
  explicit SegmentCache(std::size_t segments_max) : segments_max_(segments_max) {}
  void insert(const SegmentRef& segment);
  // Null: not here (any more).
  SegmentRef find(std::uint64_t id, bool writable);
  // Closes what only the cache holds, down to half: for when descriptors run out.
  void shrink();
  [[nodiscard]] std::size_t size() const;

 private:
  struct Entry {
    std::uint64_t key = 0;
    SegmentRef held;               // null for files of one object
    std::weak_ptr<Segment> known;  // set for those
  };
  static std::uint64_t key_of(std::uint64_t id, bool writable) {
    return (id << 1) | std::uint64_t{writable};
  }
  void evict_to(std::size_t count);

  mutable std::mutex mutex_;
  const std::size_t segments_max_;
  std::list<Entry> by_use_;  // most recent first
  std::unordered_map<std::uint64_t, std::list<Entry>::iterator> entries_;
};

}  // namespace om::client
