// Which bytes of the memory segments are free: best fit over all segments, neighbours merged.
// Arithmetic only; the files are MemoryTier's. Loop thread.
//
// Bodies get one extent where a hole is large enough, else the largest holes there are, so that a
// tier full of small gaps still takes a large body.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "store/store.h"

namespace om::store {

class Slots {
 public:
  // Slots begin at multiples of it: a cache line, so that neighbours do not share one.
  static constexpr std::uint64_t kGranule = 64;
  // More extents than this are not worth it: the body goes elsewhere.
  static constexpr std::size_t kExtentsMax = 64;

  // A segment whose bytes are all free. `size` is a multiple of the granule.
  void add_segment(SegmentId id, std::uint64_t size);
  // Only of a segment that is free altogether.
  void remove_segment(SegmentId id);
  [[nodiscard]] bool is_free(SegmentId id) const;

  // nullopt: there is no room. Lengths in the answer are those asked for, not rounded up. Where it
  // takes several holes, each gives a multiple of `piece`, which is one of the granule.
  std::optional<std::vector<Extent>> take(std::uint64_t length, std::uint64_t piece = kGranule);
  // Takes exactly these bytes (recovery). False: they are not free, or not in a segment.
  bool take_exactly(const Extent& extent);
  // Takes what is free of these bytes.
  std::vector<Extent> take_free_of(const Extent& extent);
  void give_back(const Extent& extent);

  [[nodiscard]] std::uint64_t free_bytes() const { return free_bytes_; }
  [[nodiscard]] std::uint64_t total_bytes() const { return total_bytes_; }
  [[nodiscard]] std::uint64_t largest_hole() const;
  static constexpr std::uint64_t rounded(std::uint64_t length) {
    const std::uint64_t at_least_one = length == 0 ? 1 : length;
    return (at_least_one + kGranule - 1) & ~(kGranule - 1);
  }

 private:
  struct Segment {
    std::uint64_t size = 0;
    std::map<std::uint64_t, std::uint64_t> holes;  // offset -> length
  };
  using Hole = std::tuple<std::uint64_t, SegmentId, std::uint64_t>;  // length, segment, offset
  void insert_hole(SegmentId id, std::uint64_t offset, std::uint64_t length);
  void erase_hole(SegmentId id, std::uint64_t offset, std::uint64_t length);
  void grow_hole(SegmentId id, std::map<std::uint64_t, std::uint64_t>::iterator hole,
                 std::uint64_t length);
  Extent cut(const Hole& hole, std::uint64_t length);

  std::unordered_map<SegmentId, Segment> segments_;
  std::set<Hole> by_size_;
  std::uint64_t free_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
};

}  // namespace om::store
