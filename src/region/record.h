// record.h: reading and writing a Record (format.h) that lies in mapped memory.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "region/format.h"

namespace om::region {

// A record's own bytes, beyond which nothing of ours can be right: Varnish's http_resp_size (32 KiB
// of headers) many times over.
inline constexpr std::uint64_t kRecordBytesMax = std::uint64_t{16} << 20;

inline constexpr std::uint64_t kFileBytesMax = std::uint64_t{1} << 46;
inline constexpr std::uint64_t kFileNumberEnd = std::uint64_t{1} << 62;

// What is known of an object when its record is made; url and host are copied.
struct RecordPlan {
  std::array<std::uint8_t, 32> digest{};
  std::uint64_t vxid = 0;
  std::string_view url;
  std::string_view host;
  // Space for VARY and HEADERS together: what Varnish passes to allocobj. 16 are added for
  // rounding.
  std::uint32_t attribute_bytes = 0;
};

// A body in a file: which one (body_files.h).
struct FileRef {
  std::uint64_t number = 0;
  std::uint64_t inode = 0;
  std::uint64_t length = 0;
  bool operator==(const FileRef&) const = default;
};

// A body in an object of the daemon: that very one, no other under the same key.
struct LentRef {
  std::string_view key;
  std::uint64_t object_id = 0;  // never used again, as long as the daemon has its catalog
  std::uint64_t length = 0;
  // It was published by then (ns since 1970): what has the same number and is younger belongs to a
  // daemon that began anew.
  std::uint64_t created_by_ns = 0;
  bool operator==(const LentRef&) const = default;
};

enum class Variable { kVary, kHeaders };

// Bytes to allocate for it.
std::uint64_t record_bytes(const RecordPlan& plan);
// Makes the record, unsealed and unpublished, in `bytes` (= record_bytes(plan)) at `at`.
Record* init_record(std::byte* at, std::uint64_t offset, std::uint64_t region_id,
                    const RecordPlan& plan);

// Space for VARY or HEADERS, or the space given before when the length is the same; nullptr: no
// room, or another length than before. Only while unsealed. The memory never moves.
std::byte* set_variable(Record& record, Variable which, std::uint32_t length);
// Empty when not set.
std::span<const std::byte> variable(const Record& record, Variable which);
std::string_view url(const Record& record);
std::string_view host(const Record& record);
// A list that stays where it is until the record goes. Of a record that was checked, or is ours.
std::span<const Extent> extents(const Record& record, const std::byte* base);
// The body lies in a file, whose name stands in the place of the inline extents.
void set_file(Record& record, const FileRef& file);
std::optional<FileRef> file_of(const Record& record);
// The body lies in an object of the daemon; the caller has put the key into the block at `block`.
void set_lent(Record& record, const LentRef& lent, std::uint64_t block);
// Of a record that was checked with its block, or is ours.
std::optional<LentRef> lent_of(const Record& record, const std::byte* base);

// Timers as Varnish has them: each setter is atomic words, any thread.
struct Timers {
  double t_origin = 0;
  float ttl = 0;
  float grace = 0;
  float keep = 0;
  bool operator==(const Timers&) const = default;
};
void set_timers(Record& record, const Timers& timers);
Timers timers(const Record& record);
// 32 bits for the VMOD, in the word of keep.
void set_user_flags(Record& record, std::uint32_t flags);
std::uint32_t user_flags(const Record& record);

inline void store_double(Word& word, double value) {
  word.store(std::bit_cast<std::uint64_t>(value), std::memory_order_release);
}
inline double load_double(const Word& word) {
  return std::bit_cast<double>(word.load(std::memory_order_acquire));
}

// The last step before publish: computes the checksum over all that is immutable.
void seal_record(Record& record);

// Everything that can be told from the record's own bytes. `bytes` starts at the record's offset
// and reaches at least as far as record_bytes says (checked), `heap_begin` and `heap_end` bound the
// region. Does not look at the extents block, ESI data or body.
Drop check_record(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t region_id,
                  std::uint64_t heap_begin, std::uint64_t heap_end);
// A list of extents against the record and the heap.
Drop check_extents(const Record& record, std::span<const Extent> list, std::uint64_t heap_begin,
                   std::uint64_t heap_end);
std::uint64_t extents_block_bytes(std::uint64_t count);
std::uint64_t extents_block_checksum(std::span<const std::byte> block);

}  // namespace om::region
