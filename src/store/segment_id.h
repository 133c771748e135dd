// Segment ids say by themselves what they name, also across a restart: kind (4 bits), disk (12
// bits), number (48 bits). They are names, not promises: whether there is such a segment is asked
// where segments live.
#pragma once

#include <cstdint>

#include "store/store.h"

namespace om::store {

inline constexpr std::uint64_t kSegmentNumberMax = (std::uint64_t{1} << 48) - 1;
inline constexpr std::uint16_t kDiskIdMax = 4095;

constexpr SegmentId segment_id(SegmentKind kind, std::uint16_t disk, std::uint64_t number) {
  return (static_cast<std::uint64_t>(kind) << 60) | (static_cast<std::uint64_t>(disk) << 48) |
         (number & kSegmentNumberMax);
}
constexpr SegmentKind kind_of(SegmentId id) { return static_cast<SegmentKind>(id >> 60); }
constexpr std::uint16_t disk_of(SegmentId id) {
  return static_cast<std::uint16_t>((id >> 48) & kDiskIdMax);
}
constexpr std::uint64_t number_of(SegmentId id) { return id & kSegmentNumberMax; }

static_assert(kind_of(segment_id(SegmentKind::kPack, 7, 9)) == SegmentKind::kPack);
static_assert(disk_of(segment_id(SegmentKind::kPack, 7, 9)) == 7);
static_assert(number_of(segment_id(SegmentKind::kPack, 7, 9)) == 9);

}  // namespace om::store
