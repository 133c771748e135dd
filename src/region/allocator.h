// allocator.h: blocks of a region's heap.
//
// Segregated fits in two levels (as TLSF): a power of two, and 32 steps within it; exact below
// 4 KiB. allocate, shrink and free are O(1). An allocated block carries nothing: 4096 bytes take
// 4096 bytes. A free block holds its links in its own first granule and its size in its last; which
// granules are first or last of a free block says one bit per granule in process memory, so that
// nothing in the region is believed or touched but free blocks, and neighbours merge at once.
// Records, lists and index pages come from the front of a free block, bodies from its back: they
// meet in the middle instead of mixing, and a region that becomes smaller loses bodies, not its
// index.
//
// Nothing here survives the process: after a crash rebuild() makes the free space out of what
// adopted records occupy. Any thread; one mutex (docs/adr/0003).
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "region/format.h"

namespace om::region {

struct Block {
  std::uint64_t offset = 0;  // from the start of the region
  std::uint64_t bytes = 0;   // whole granules
};

class Allocator {
 public:
  // Of [heap_begin, heap_end) of the mapping that starts at `base`; both in whole granules. All of
  // it counts as used until start_empty() or rebuild().
  Allocator(std::byte* base, std::uint64_t heap_begin, std::uint64_t heap_end);

  // The whole heap is free. Touches its first and last page only.
  void start_empty();
  // Begin, then claim() every block in use, then finish: what was not claimed is free. False: not
  // inside the heap, or claimed already (then nothing of it is claimed). Not beside other calls.
  void begin_rebuild();
  bool claim(std::uint64_t offset, std::uint64_t bytes);
  // Of exactly what was claimed.
  void unclaim(std::uint64_t offset, std::uint64_t bytes);
  void finish_rebuild();

  // At least `bytes`, rounded up to granules. nullopt: no free block is large enough (then free
  // something, and ask again).
  std::optional<Block> allocate(std::uint64_t bytes);
  // `bytes` in pieces of at most `extent_max` (kExtentBytesMax at most) and, but for the last, at
  // least `smallest`: for bodies, so that a heap full of small holes takes large ones. The extents'
  // length is 0. All or nothing. False: not enough, or holes smaller than `smallest` only.
  bool allocate_extents(std::uint64_t bytes, std::uint64_t extent_max, std::uint64_t smallest,
                        std::vector<Extent>& out);
  // Gives back all but the first `bytes` (rounded up; at least one granule stays).
  Block shrink(Block block, std::uint64_t bytes);
  void shrink(Extent& extent, std::uint64_t bytes);
  void free(Block block);
  void free(const Extent& extent) { free(Block{extent.offset, extent.capacity}); }

  [[nodiscard]] std::uint64_t heap_bytes() const { return heap_end_ - heap_begin_; }
  [[nodiscard]] std::uint64_t free_bytes() const {
    return free_bytes_.load(std::memory_order_relaxed);
  }
  // Of all allocations ever; does not fall when they are freed.
  [[nodiscard]] std::uint64_t allocated_bytes() const {
    return allocated_bytes_.load(std::memory_order_relaxed);
  }
  // Allocated or claimed, and not freed.
  [[nodiscard]] std::uint64_t blocks() const { return blocks_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t used_bytes() const { return heap_bytes() - free_bytes(); }
  // Something allocate() would give at this moment; the largest there is, but for steps of 1/32.
  [[nodiscard]] std::uint64_t largest() const;
  // Walks the heap and the lists and compares (tests). False: they disagree.
  [[nodiscard]] bool check() const;

 private:
  static constexpr unsigned kStepBits = 5;
  static constexpr unsigned kSteps = 1U << kStepBits;
  static constexpr unsigned kLevels = 40;
  struct FreeHead;
  struct Class {
    unsigned level;
    unsigned step;
  };

  static Class class_of(std::uint64_t granules);
  [[nodiscard]] FreeHead* head(std::uint64_t offset) const;
  [[nodiscard]] std::uint64_t& tail(std::uint64_t offset, std::uint64_t bytes) const;
  [[nodiscard]] bool edge(std::uint64_t offset) const;
  void set_edge(std::uint64_t offset, bool on);
  template <class Fn>
  bool each_word(std::uint64_t offset, std::uint64_t bytes, Fn fn);
  void insert(std::uint64_t offset, std::uint64_t bytes);
  void remove(std::uint64_t offset, std::uint64_t bytes);
  // Takes `bytes` of the free block (already off its list).
  enum class End { kFront, kBack };
  Block carve(Block from, std::uint64_t bytes, End end);
  std::optional<Block> allocate_locked(std::uint64_t bytes, End end);
  std::optional<Block> take_largest_locked(std::uint64_t at_most);
  void free_locked(Block block);

  std::byte* base_;
  std::uint64_t heap_begin_;
  std::uint64_t heap_end_;
  mutable std::mutex mutex_;
  std::atomic<std::uint64_t> free_bytes_{0};
  std::atomic<std::uint64_t> allocated_bytes_{0};
  std::atomic<std::uint64_t> blocks_{0};
  std::vector<std::uint64_t> edges_;  // one bit per granule; while rebuilding: claimed granules
  std::uint64_t levels_ = 0;          // which levels have a block
  std::array<std::uint32_t, kLevels> steps_{};
  std::array<std::array<std::uint64_t, kSteps>, kLevels> lists_{};  // offset of the first, or 0
};

}  // namespace om::region
