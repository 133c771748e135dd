#include "region/record.h"

#include <bit>
#include <cstring>
#include <new>

#include "base/assert.h"
#include "base/checksum.h"
#include "base/units.h"

namespace om::region {

namespace {

// Fields start at multiples of 8: Varnish reads VARY and HEADERS as they lie.
constexpr std::uint64_t kFieldAlign = 8;
const std::byte* bytes_of(const Record& record) {
  return reinterpret_cast<const std::byte*>(&record);
}

std::string_view text(const Record& record, const Field& field) {
  if (field.length == 0) return {};
  return {reinterpret_cast<const char*>(bytes_of(record)) + field.offset, field.length};
}

bool inside(const Field& field, std::uint64_t record_bytes) {
  if (field.length == 0) return true;
  return field.offset >= sizeof(Record) && field.offset <= record_bytes &&
         field.length <= record_bytes - field.offset;
}

std::uint64_t pack(float low, std::uint32_t high) {
  return std::uint64_t{std::bit_cast<std::uint32_t>(low)} | std::uint64_t{high} << 32;
}

float low_float(std::uint64_t word) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(word));
}

std::uint32_t high_half(std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); }

}  // namespace

std::uint64_t record_bytes(const RecordPlan& plan) {
  return round_up(sizeof(Record) + round_up(plan.url.size(), kFieldAlign) +
                      round_up(plan.host.size(), kFieldAlign) +
                      round_up(plan.attribute_bytes, kFieldAlign) + 2 * kFieldAlign,
                  kGranule);
}

Record* init_record(std::byte* at, std::uint64_t offset, std::uint64_t region_id,
                    const RecordPlan& plan) {
  const std::uint64_t bytes = record_bytes(plan);
  OM_ASSERT(bytes <= kRecordBytesMax);
  // All of it: padding is under the checksum, and nothing of an old tenant is to be seen.
  std::memset(at, 0, bytes);
  auto* record = new (at) Record{};
  record->version = kRecordVersion;
  record->record_bytes = static_cast<std::uint32_t>(bytes);
  record->self = offset;
  record->region_id = region_id;
  record->digest = plan.digest;
  record->vxid = plan.vxid;
  auto next = static_cast<std::uint32_t>(sizeof(Record));
  for (const auto& [field, value] :
       {std::pair{&record->url, plan.url}, std::pair{&record->host, plan.host}}) {
    *field = {next, static_cast<std::uint32_t>(value.size())};
    if (!value.empty()) std::memcpy(at + next, value.data(), value.size());
    next += static_cast<std::uint32_t>(round_up(value.size(), kFieldAlign));
  }
  // Where the free space for the next variable attribute starts is kept in `headers` and `vary`:
  // both point at it until they are set.
  record->vary = {next, 0};
  record->headers = {next, 0};
  return record;
}

std::byte* set_variable(Record& record, Variable which, std::uint32_t length) {
  auto* at = reinterpret_cast<std::byte*>(&record);
  Field& mine = which == Variable::kVary ? record.vary : record.headers;
  Field& other = which == Variable::kVary ? record.headers : record.vary;
  if (mine.length != 0) return mine.length == length ? at + mine.offset : nullptr;
  if (length == 0) return at + mine.offset;
  if (mine.offset > record.record_bytes || length > record.record_bytes - mine.offset) {
    return nullptr;
  }
  mine.length = length;
  if (other.length == 0) {
    other.offset = mine.offset + static_cast<std::uint32_t>(round_up(length, kFieldAlign));
  }
  return at + mine.offset;
}

std::span<const std::byte> variable(const Record& record, Variable which) {
  const Field& field = which == Variable::kVary ? record.vary : record.headers;
  if (field.length == 0) return {};
  return {bytes_of(record) + field.offset, field.length};
}

std::string_view url(const Record& record) { return text(record, record.url); }
std::string_view host(const Record& record) { return text(record, record.host); }

std::span<const Extent> extents(const Record& record, const std::byte* base) {
  if ((record.flags & kBodyLent) != 0) return {};
  if (record.extents_block == 0) return {record.extents.data(), record.extent_count};
  return {reinterpret_cast<const Extent*>(base + record.extents_block + sizeof(ExtentsBlock)),
          record.extent_count};
}

void set_file(Record& record, const FileRef& file) {
  record.version = kRecordVersionFile;
  record.flags |= kBodyInFile;
  record.extents[0] = {file.number, 0, 0};
  record.extents[1] = {file.inode, 0, 0};
  record.body_length = file.length;
  record.total_length = file.length;
}

std::optional<FileRef> file_of(const Record& record) {
  if ((record.flags & kBodyInFile) == 0) return std::nullopt;
  return FileRef{record.extents[0].offset, record.extents[1].offset, record.body_length};
}

namespace {

std::uint32_t key_units(std::uint64_t key_bytes) {
  return static_cast<std::uint32_t>(round_up(key_bytes, sizeof(Extent)) / sizeof(Extent));
}

}  // namespace

void set_lent(Record& record, const LentRef& lent, std::uint64_t block) {
  record.version = kRecordVersionLent;
  record.flags |= kBodyLent;
  record.extents[0] = {lent.object_id, static_cast<std::uint32_t>(lent.key.size()), 0};
  record.extents[1] = {lent.created_by_ns, 0, 0};
  record.extents_block = block;
  record.extent_count = key_units(lent.key.size());
  record.body_length = lent.length;
  record.total_length = lent.length;
}

std::optional<LentRef> lent_of(const Record& record, const std::byte* base) {
  if ((record.flags & kBodyLent) == 0) return std::nullopt;
  const auto* key =
      reinterpret_cast<const char*>(base + record.extents_block + sizeof(ExtentsBlock));
  return LentRef{{key, record.extents[0].length},
                 record.extents[0].offset,
                 record.body_length,
                 record.extents[1].offset};
}

void set_timers(Record& record, const Timers& timers) {
  store_double(record.t_origin, timers.t_origin);
  record.ttl_grace.store(pack(timers.ttl, std::bit_cast<std::uint32_t>(timers.grace)),
                         std::memory_order_release);
  // The VMOD's flags share the word: kept as they are at this moment.
  std::uint64_t old = record.keep_flags.load(std::memory_order_relaxed);
  while (!record.keep_flags.compare_exchange_weak(old, pack(timers.keep, high_half(old)),
                                                  std::memory_order_release)) {
  }
}

Timers timers(const Record& record) {
  const std::uint64_t ttl_grace = record.ttl_grace.load(std::memory_order_acquire);
  Timers out;
  out.t_origin = load_double(record.t_origin);
  out.ttl = low_float(ttl_grace);
  out.grace = std::bit_cast<float>(high_half(ttl_grace));
  out.keep = low_float(record.keep_flags.load(std::memory_order_acquire));
  return out;
}

void set_user_flags(Record& record, std::uint32_t flags) {
  std::uint64_t old = record.keep_flags.load(std::memory_order_relaxed);
  while (!record.keep_flags.compare_exchange_weak(
      old, (old & 0xffffffffU) | std::uint64_t{flags} << 32, std::memory_order_release)) {
  }
}

std::uint32_t user_flags(const Record& record) {
  return high_half(record.keep_flags.load(std::memory_order_acquire));
}

namespace {

std::uint64_t record_checksum(std::span<const std::byte> bytes) {
  return checksum(bytes.subspan(offsetof(Record, version)));
}

}  // namespace

void seal_record(Record& record) {
  record.checksum = record_checksum({bytes_of(record), record.record_bytes});
  record.magic.store(kRecordMagic, std::memory_order_release);
}

Drop check_record(std::span<const std::byte> bytes, std::uint64_t offset, std::uint64_t region_id,
                  std::uint64_t heap_begin, std::uint64_t heap_end) {
  if (offset < heap_begin || offset % kGranule != 0 || offset > heap_end ||
      heap_end - offset < sizeof(Record) || bytes.size() < sizeof(Record)) {
    return Drop::kBadRecord;
  }
  const auto& record = *reinterpret_cast<const Record*>(bytes.data());
  if (record.magic.load(std::memory_order_acquire) != kRecordMagic) return Drop::kBadRecord;
  if (record.version < kRecordVersion || record.version > kRecordVersionLent)
    return Drop::kBadVersion;
  const std::uint64_t size = record.record_bytes;
  if (size < sizeof(Record) || size > kRecordBytesMax || size % kGranule != 0 ||
      size > heap_end - offset || size > bytes.size()) {
    return Drop::kBadRecord;
  }
  if (record.checksum != record_checksum(bytes.first(size))) return Drop::kBadChecksum;
  // Only now do the fields mean anything; a wrong writer may still have sealed nonsense.
  if (record.self != offset || record.region_id != region_id) return Drop::kBadRecord;
  for (const Field* field : {&record.vary, &record.headers, &record.url, &record.host}) {
    if (!inside(*field, size)) return Drop::kBadRecord;
  }
  if (record.extent_count > kExtentsPerBodyMax ||
      (record.extents_block == 0 && record.extent_count > kInlineExtents)) {
    return Drop::kBadExtents;
  }
  if ((record.version == kRecordVersionFile) != ((record.flags & kBodyInFile) != 0))
    return Drop::kBadVersion;
  if ((record.version == kRecordVersionLent) != ((record.flags & kBodyLent) != 0))
    return Drop::kBadVersion;
  if ((record.flags & kBodyLent) != 0) {
    const std::uint32_t key_bytes = record.extents[0].length;
    if (record.extents_block == 0 || key_bytes == 0 || key_bytes > kKeyBytesMax ||
        record.extent_count != key_units(key_bytes) || record.extents[0].offset == 0 ||
        record.body_length == 0 || record.body_length > kFileBytesMax)
      return Drop::kBadLent;
  }
  if ((record.flags & kBodyInFile) != 0 &&
      (record.extent_count != 0 || record.extents_block != 0 || record.body_length == 0 ||
       record.body_length > kFileBytesMax || record.extents[0].offset >= kFileNumberEnd))
    return Drop::kBadFile;
  if (record.removed.load(std::memory_order_acquire) != 0) return Drop::kRemoved;
  return Drop::kNone;
}

Drop check_extents(const Record& record, std::span<const Extent> list, std::uint64_t heap_begin,
                   std::uint64_t heap_end) {
  if ((record.flags & (kBodyInFile | kBodyLent)) != 0) return Drop::kNone;
  std::uint64_t total = 0;
  for (const Extent& extent : list) {
    if (extent.offset < heap_begin || extent.offset % kGranule != 0 || extent.length == 0 ||
        extent.capacity < extent.length || extent.capacity % kGranule != 0 ||
        extent.capacity > kExtentBytesMax || extent.offset > heap_end ||
        extent.capacity > heap_end - extent.offset) {
      return Drop::kBadExtents;
    }
    total += extent.length;
  }
  return total == record.body_length ? Drop::kNone : Drop::kBadExtents;
}

std::uint64_t extents_block_bytes(std::uint64_t count) {
  return round_up(sizeof(ExtentsBlock) + count * sizeof(Extent), kGranule);
}

std::uint64_t extents_block_checksum(std::span<const std::byte> block) {
  return checksum(block.subspan(sizeof(std::uint64_t)));
}

}  // namespace om::region
