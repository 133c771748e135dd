// record.h: what the catalog knows of one object, and its bytes (docs/catalog-format.md).
//
// The catalog stores places, it does not understand them: tier, segment kind and extents are the
// store's words (store/store.h uses the same numbers) and come back as they went in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/catalog/extents.h"

namespace om::catalog {

// store::Tier and store::SegmentKind by number.
inline constexpr std::uint8_t kTierMemory = 0;
inline constexpr std::uint8_t kTierDisk = 1;

inline constexpr std::size_t kExtentsMax = 65536;
inline constexpr std::uint64_t kNoObjectId = ~std::uint64_t{0};  // tables by number need one

// Where a body lies: extents in the order of its bytes.
struct Place {
  std::uint8_t tier = kTierMemory;
  std::uint8_t segment_kind = 0;
  Extents extents;
  bool operator==(const Place&) const = default;
};

struct Record {
  std::uint64_t object_id = 0;  // unique for ever; index pages fill best when ids rise
  std::string key;
  std::uint64_t length = 0;       // of the body
  std::uint64_t total_bytes = 0;  // of the whole that this is a slice of; else length
  std::uint64_t offset = 0;       // of the slice in the whole
  std::uint64_t created_ns = 0;   // since 1970
  std::uint64_t expires_ns = 0;   // since 1970; 0: never
  std::uint64_t body_checksum = 0;
  bool has_body_checksum = false;
  bool ephemeral = false;      // gone with a reboot wherever it lies
  std::uint32_t revision = 0;  // how often expiry, metadata and tags were replaced
  Place place;
  std::string metadata;
  std::vector<std::string> tags;

  // Filled in by the catalog, ignored in what is given to it.
  std::uint64_t sequence = 0;  // of the journal record that published or moved it
  // A power loss now would not lose it: it lies on disk, is not ephemeral, and a group sync has
  // covered it.
  bool durable = false;

  // Whether it can outlive a boot at all.
  [[nodiscard]] bool survives_boot() const { return place.tier == kTierDisk && !ephemeral; }
  bool operator==(const Record&) const = default;
};

// kMalformed where a limit of base/limits.h is broken or the key is empty.
Result<void> check_limits(const Record& record);

// Appends the bytes of `record` to `out`, sequence included, durable left out.
void encode_record(const Record& record, std::string& out);
// kCorrupt for anything that encode_record() does not write: short, surplus, unknown flags, limits.
Result<Record> decode_record(std::span<const std::byte> bytes);
// Only the key, looking at nothing else: a view into `bytes`.
Result<std::string_view> encoded_key(std::span<const std::byte> bytes);

}  // namespace om::catalog
