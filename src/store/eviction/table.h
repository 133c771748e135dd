// table.h: the objects of a policy. Slots of 32 bytes in chunks that never move, doubly linked into
// queues, found by a hash table of slot numbers (4 bytes each, at most three quarters full).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/assert.h"

namespace om::eviction {

using SlotIndex = std::uint32_t;
inline constexpr SlotIndex kNone = ~SlotIndex{0};

struct Slot {
  std::uint64_t id;
  std::uint64_t fingerprint;
  std::uint64_t bytes : 48;
  std::uint64_t hits : 2;
  std::uint64_t queue : 1;
  std::uint64_t unused : 13;
  SlotIndex newer;
  SlotIndex older;
};
static_assert(sizeof(Slot) == 32);

inline std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93;
  return x ^ (x >> 32);
}

class Table {
 public:
  [[nodiscard]] Slot& at(SlotIndex index) { return chunks_[index / kChunk][index % kChunk]; }
  [[nodiscard]] const Slot& at(SlotIndex index) const {
    return chunks_[index / kChunk][index % kChunk];
  }
  [[nodiscard]] SlotIndex find(std::uint64_t id) const {
    if (buckets_.empty()) return kNone;
    for (std::size_t b = mix(id) & mask(); buckets_[b] != kNone; b = (b + 1) & mask()) {
      if (at(buckets_[b]).id == id) return buckets_[b];
    }
    return kNone;
  }
  // `id` must not be in.
  SlotIndex add(std::uint64_t id) {
    if ((size_ + 1) * 4 > buckets_.size() * 3) grow();
    SlotIndex index = free_;
    if (index != kNone) {
      free_ = at(index).older;
    } else {
      if (used_ == chunks_.size() * kChunk) chunks_.push_back(std::make_unique<Slot[]>(kChunk));
      index = used_++;
    }
    at(index) = Slot{};
    at(index).id = id;
    place(index);
    ++size_;
    return index;
  }
  void remove(SlotIndex index) {
    std::size_t hole = mix(at(index).id) & mask();
    while (buckets_[hole] != index) hole = (hole + 1) & mask();
    // Closes the gap, so that there are no marks of what was removed.
    for (std::size_t b = (hole + 1) & mask(); buckets_[b] != kNone; b = (b + 1) & mask()) {
      const std::size_t home = mix(at(buckets_[b]).id) & mask();
      if (((b - home) & mask()) >= ((b - hole) & mask())) {
        buckets_[hole] = buckets_[b];
        hole = b;
      }
    }
    buckets_[hole] = kNone;
    at(index).older = free_;
    free_ = index;
    --size_;
  }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t memory_bytes() const {
    return chunks_.size() * (kChunk * sizeof(Slot) + sizeof(void*)) +
           buckets_.size() * sizeof(SlotIndex);
  }

 private:
  static constexpr std::size_t kChunk = 4096;
  [[nodiscard]] std::size_t mask() const { return buckets_.size() - 1; }
  void place(SlotIndex index) {
    std::size_t b = mix(at(index).id) & mask();
    while (buckets_[b] != kNone) b = (b + 1) & mask();
    buckets_[b] = index;
  }
  void grow() {
    std::vector<SlotIndex> old(buckets_.empty() ? 64 : buckets_.size() * 2, kNone);
    old.swap(buckets_);
    for (const SlotIndex index : old) {
      if (index != kNone) place(index);
    }
  }

  std::vector<std::unique_ptr<Slot[]>> chunks_;
  std::vector<SlotIndex> buckets_;
  SlotIndex used_ = 0;
  SlotIndex free_ = kNone;
  std::size_t size_ = 0;
};

// Slots in the order in which they came.
class Queue {
 public:
  void push(Table& table, SlotIndex index) {
    Slot& slot = table.at(index);
    slot.older = newest_;
    slot.newer = kNone;
    if (newest_ != kNone) table.at(newest_).newer = index;
    newest_ = index;
    if (oldest_ == kNone) oldest_ = index;
    bytes_ += slot.bytes;
    ++size_;
  }
  void unlink(Table& table, SlotIndex index) {
    Slot& slot = table.at(index);
    (slot.older == kNone ? oldest_ : table.at(slot.older).newer) = slot.newer;
    (slot.newer == kNone ? newest_ : table.at(slot.newer).older) = slot.older;
    OM_ASSERT(bytes_ >= slot.bytes && size_ > 0);
    bytes_ -= slot.bytes;
    --size_;
  }
  [[nodiscard]] SlotIndex oldest() const { return oldest_; }
  [[nodiscard]] SlotIndex newest() const { return newest_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  SlotIndex newest_ = kNone;
  SlotIndex oldest_ = kNone;
  std::uint64_t bytes_ = 0;
  std::size_t size_ = 0;
};

}  // namespace om::eviction
