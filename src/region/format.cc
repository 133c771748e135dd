#include "region/format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/checksum.h"
#include "base/units.h"

namespace om::region {

namespace {

// 16 bits of a mix of the granule number: enough that a flipped bit, or a word of a body, is seen.
std::uint64_t tag_of(std::uint64_t granule) {
  std::uint64_t mixed = granule * 0x9e3779b97f4a7c15ULL;
  mixed ^= mixed >> 29;
  mixed *= 0xbf58476d1ce4e5b9ULL;
  // Never 0: a pointer is never the word 0, which says "none".
  return std::max<std::uint64_t>(1, mixed >> 48);
}

}  // namespace

std::uint64_t encode_pointer(std::uint64_t offset) {
  const std::uint64_t granule = offset / kGranule;
  return granule | tag_of(granule) << 48;
}

std::uint64_t decode_pointer(std::uint64_t word) {
  const std::uint64_t granule = word & ((std::uint64_t{1} << 48) - 1);
  if (word == 0 || word >> 48 != tag_of(granule) || granule >= kRegionBytesMax / kGranule) return 0;
  return granule * kGranule;
}

Layout layout_for(std::uint64_t region_bytes) {
  Layout layout{};
  layout.ban_log_offset = kPage;
  // Two halves. A ban is some 60 to 300 bytes: 64 MiB of cache keep about a thousand of them.
  layout.ban_log_bytes =
      std::clamp(region_bytes / 128 & ~(2 * kPage - 1), 16 * kPage, std::uint64_t{16} << 20);
  layout.heap_offset = layout.ban_log_offset + layout.ban_log_bytes;
  layout.index_page_bytes =
      region_bytes >= (std::uint64_t{64} << 20) ? kIndexPageBytesLarge : kIndexPageBytesSmall;
  return layout;
}

std::uint64_t header_checksum(const RegionHeader& header) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&header);
  constexpr std::size_t kFrom = offsetof(RegionHeader, version);
  return checksum({bytes + kFrom, offsetof(RegionHeader, index_root) - kFrom});
}

std::uint64_t index_page_checksum(const IndexPage& page) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&page);
  constexpr std::size_t kFrom = offsetof(IndexPage, self);
  return checksum({bytes + kFrom, offsetof(IndexPage, next) - kFrom});
}

const char* to_string(Drop reason) {
  switch (reason) {
    case Drop::kNone: return "none";
    case Drop::kBadPointer: return "bad pointer";
    case Drop::kBadRecord: return "bad record";
    case Drop::kBadVersion: return "other version";
    case Drop::kBadChecksum: return "bad checksum";
    case Drop::kBadExtents: return "bad extents";
    case Drop::kOverlap: return "overlap";
    case Drop::kRemoved: return "removed";
    case Drop::kCrashedAt: return "crashed at it";
    case Drop::kRefused: return "refused";
    case Drop::kBadFile: return "without its file";
    case Drop::kBadLent: return "bad name of a shared object";
  }
  return "unknown";
}

}  // namespace om::region
