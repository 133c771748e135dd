#include "store/slots.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/assert.h"

namespace om::store {

void Slots::insert_hole(SegmentId id, std::uint64_t offset, std::uint64_t length) {
  segments_[id].holes.emplace(offset, length);
  by_size_.emplace(length, id, offset);
}

void Slots::erase_hole(SegmentId id, std::uint64_t offset, std::uint64_t length) {
  segments_[id].holes.erase(offset);
  by_size_.erase({length, id, offset});
}

// Nothing is allocated for it: most of what comes back lies behind what came before.
void Slots::grow_hole(SegmentId id, std::map<std::uint64_t, std::uint64_t>::iterator hole,
                      std::uint64_t length) {
  auto sized = by_size_.extract({hole->second, id, hole->first});
  OM_ASSERT(!sized.empty());
  hole->second = length;
  sized.value() = {length, id, hole->first};
  by_size_.insert(std::move(sized));
}

void Slots::add_segment(SegmentId id, std::uint64_t size) {
  OM_ASSERT(size % kGranule == 0 && segments_.count(id) == 0);
  segments_[id].size = size;
  insert_hole(id, 0, size);
  free_bytes_ += size;
  total_bytes_ += size;
}

void Slots::remove_segment(SegmentId id) {
  OM_ASSERT(is_free(id));
  const std::uint64_t size = segments_[id].size;
  by_size_.erase({size, id, 0});
  segments_.erase(id);
  free_bytes_ -= size;
  total_bytes_ -= size;
}

bool Slots::is_free(SegmentId id) const {
  const auto found = segments_.find(id);
  if (found == segments_.end()) return false;
  const auto& holes = found->second.holes;
  return holes.size() == 1 && holes.begin()->second == found->second.size;
}

std::uint64_t Slots::largest_hole() const {
  return by_size_.empty() ? 0 : std::get<0>(*by_size_.rbegin());
}

// Takes `length` bytes (or all of it, where it is smaller) from the hole's begin.
Extent Slots::cut(const Hole& hole, std::uint64_t length) {
  const auto [hole_length, id, offset] = hole;
  const std::uint64_t taken = std::min(rounded(length), hole_length);
  erase_hole(id, offset, hole_length);
  if (taken < hole_length) insert_hole(id, offset + taken, hole_length - taken);
  free_bytes_ -= taken;
  return {id, offset, std::min(length, taken)};
}

std::optional<std::vector<Extent>> Slots::take(std::uint64_t length, std::uint64_t piece) {
  if (rounded(length) > free_bytes_) return std::nullopt;
  const auto best = by_size_.lower_bound({rounded(length), 0, 0});
  if (best != by_size_.end()) return std::vector<Extent>{cut(*best, length)};
  // No single hole: do the largest ones suffice?
  std::uint64_t sum = 0;
  std::size_t count = 0;
  std::vector<Hole> holes;
  for (auto hole = by_size_.rbegin(); hole != by_size_.rend() && sum < length; ++hole) {
    const std::uint64_t whole = std::get<0>(*hole) / piece * piece;
    if (whole == 0 || ++count > kExtentsMax) return std::nullopt;
    sum += whole;
    holes.push_back(*hole);
  }
  if (sum < length) return std::nullopt;
  std::vector<Extent> extents;
  for (const Hole& hole : holes) {
    extents.push_back(cut(hole, std::min(length, std::get<0>(hole) / piece * piece)));
    length -= extents.back().length;
  }
  return extents;
}

bool Slots::take_exactly(const Extent& extent) {
  const auto found = segments_.find(extent.segment);
  const std::uint64_t length = rounded(extent.length);
  if (found == segments_.end() || extent.offset % kGranule != 0 ||
      extent.length > found->second.size || extent.offset > found->second.size ||
      length > found->second.size - extent.offset)
    return false;
  auto& holes = found->second.holes;
  auto hole = holes.upper_bound(extent.offset);
  if (hole == holes.begin()) return false;
  --hole;
  const auto [begin, hole_length] = *hole;
  const std::uint64_t skip = extent.offset - begin;
  if (skip > hole_length || length > hole_length - skip) return false;
  erase_hole(extent.segment, begin, hole_length);
  if (skip > 0) insert_hole(extent.segment, begin, skip);
  if (skip + length < hole_length)
    insert_hole(extent.segment, extent.offset + length, hole_length - skip - length);
  free_bytes_ -= length;
  return true;
}

std::vector<Extent> Slots::take_free_of(const Extent& extent) {
  std::vector<Extent> free;
  const auto found = segments_.find(extent.segment);
  if (found == segments_.end() || extent.length > found->second.size ||
      extent.offset > found->second.size - extent.length)
    return free;
  const std::uint64_t end = extent.offset + rounded(extent.length);
  const auto& holes = found->second.holes;
  auto hole = holes.upper_bound(extent.offset);
  if (hole != holes.begin()) --hole;
  for (; hole != holes.end() && hole->first < end; ++hole) {
    const std::uint64_t from = std::max(hole->first, extent.offset);
    const std::uint64_t to = std::min(hole->first + hole->second, end);
    // As long as what was asked for, not rounded up: as with take().
    if (from < to)
      free.push_back({extent.segment, from, std::min(to, extent.offset + extent.length) - from});
  }
  std::erase_if(free, [this](const Extent& part) { return !take_exactly(part); });
  return free;
}

void Slots::give_back(const Extent& extent) {
  const auto found = segments_.find(extent.segment);
  OM_ASSERT(found != segments_.end());
  auto& holes = found->second.holes;
  const std::uint64_t offset = extent.offset;
  std::uint64_t length = rounded(extent.length);
  free_bytes_ += length;
  auto after = holes.lower_bound(offset);
  OM_ASSERT(after == holes.end() || after->first >= offset + length);
  if (after != holes.end() && after->first == offset + length) {
    const auto [next_offset, next_length] = *after;
    erase_hole(extent.segment, next_offset, next_length);
    length += next_length;
    after = holes.lower_bound(offset);
  }
  if (after != holes.begin()) {
    const auto before = std::prev(after);
    const std::uint64_t before_end = before->first + before->second;
    OM_ASSERT(before_end <= offset);
    if (before_end == offset) return grow_hole(extent.segment, before, before->second + length);
  }
  insert_hole(extent.segment, offset, length);
}

}  // namespace om::store
