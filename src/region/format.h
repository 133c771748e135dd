// format.h: the bytes of a region file (docs/region-format.md).
//
//   0            RegionHeader, one page
//   4096         ban log area, two halves (ban_log.h)
//   heap_offset  heap in granules of 64 bytes: index pages, records, extents blocks, bodies
//
// Written by the one process that holds the region (varnishd's child), through its mapping; read by
// that process's successor at adoption, and by the daemon with pread for listings. Whoever reads
// trusts nothing: everything immutable lies under an XXH3 checksum that also covers the place where
// it lies; everything mutable is one 8-byte atomic store, so that it is old or new, never torn.
// Numbers are in host order: a region never leaves the machine, and never outlives its boot.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include "base/limits.h"

namespace om::region {

inline constexpr std::uint64_t kGranule = 64;
inline constexpr std::uint64_t kPage = 4096;
inline constexpr std::uint64_t kRegionMagic = 0x314e4f4947524d4fULL;  // "OMRGION1"
inline constexpr std::uint64_t kRecordMagic = 0x3144524f43524d4fULL;  // "OMRCORD1"
inline constexpr std::uint64_t kIndexMagic = 0x3158444e49524d4fULL;   // "OMRINDX1"
inline constexpr std::uint16_t kRegionVersion = 1;
inline constexpr std::uint16_t kRecordVersion = 1;
// Of a record whose body lies in a file: what does not know of files drops it.
inline constexpr std::uint16_t kRecordVersionFile = 2;
// Of a record whose body lies in an object of the daemon, as for files.
inline constexpr std::uint16_t kRecordVersionLent = 3;
// Smaller is no use: header, ban log and a first index page must fit, and something beside them.
inline constexpr std::uint64_t kRegionBytesMin = std::uint64_t{1} << 20;
// Granule numbers are 48 bits in a slot; this is far below.
inline constexpr std::uint64_t kRegionBytesMax = std::uint64_t{1} << 44;
// A body is at most this many extents, however full of holes the heap is.
inline constexpr std::uint32_t kExtentsPerBodyMax = std::uint32_t{1} << 20;

using Word = std::atomic<std::uint64_t>;
static_assert(sizeof(Word) == 8 && Word::is_always_lock_free);

// A run of bytes of a body. `capacity` is what the allocator gave (whole granules), `length` what
// is used of it; only the last extent of a finished body has less than it could.
struct Extent {
  std::uint64_t offset;  // from the start of the region
  std::uint32_t length;
  std::uint32_t capacity;
  bool operator==(const Extent&) const = default;
};
static_assert(sizeof(Extent) == 16 && std::has_unique_object_representations_v<Extent>);

// The five fixed attributes of Varnish, which it writes in place while the object is being fetched
// (GZIPBITS through a pointer that it keeps). Their bytes are Varnish's (big endian numbers).
struct FixedAttributes {
  std::array<std::uint8_t, 8> len;
  std::array<std::uint8_t, 8> vxid;  // 4 in Varnish 7.1, 8 since 7.4
  std::array<std::uint8_t, 32> gzipbits;
  std::array<std::uint8_t, 8> lastmodified;
  std::array<std::uint8_t, 1> flags;
  std::array<std::uint8_t, 7> reserved;
};
static_assert(sizeof(FixedAttributes) == 64 &&
              std::has_unique_object_representations_v<FixedAttributes>);

// A part of the record's own allocation. Offset from the start of the record; length 0 = not set.
struct Field {
  std::uint32_t offset;
  std::uint32_t length;
};

inline constexpr std::uint32_t kInlineExtents = 2;

// What Record::flags says.
inline constexpr std::uint32_t kHasBodyChecksum = 1;
inline constexpr std::uint32_t kBodyInFile = 2;  // `extents` name the file (record.h, FileRef)
// `extents` and the extents block name an object of the daemon (record.h, LentRef).
inline constexpr std::uint32_t kBodyLent = 4;

// One object. Everything from `checksum` on is immutable once sealed; what stands before it may be
// stored to at any time, each word by itself.
struct Record {
  // Mutable, each an atomic word. Accessors in record.h.
  Word magic;       // kRecordMagic. Its place is overwritten when the block is freed.
  Word slot;        // number of the slot that points here, plus 1; 0 = not published
  Word t_origin;    // double
  Word ttl_grace;   // float ttl (low half), float grace
  Word keep_flags;  // float keep (low half), u32 for the VMOD (high half)
  Word ban_time;    // double: BAN_Time of the newest ban that the object was tested against
  Word last_used;   // double: for the order of the LRU list after adoption
  Word removed;     // 0 = alive. Else removed for good, whatever else this record says.

  std::uint64_t checksum;  // XXH3 of [72, record_bytes)
  std::uint16_t version;   // kRecordVersion, kRecordVersionFile or kRecordVersionLent
  std::uint16_t reserved;
  std::uint32_t record_bytes;  // the whole allocation, in whole granules
  std::uint64_t self;          // offset of this record: a copy elsewhere is not this record
  std::uint64_t region_id;     // RegionHeader::region_id: nothing from before a reformat checks out
  std::array<std::uint8_t, 32> digest;
  std::uint64_t vxid;
  std::uint32_t oa_present;  // Varnish's bits of the attributes that are set
  std::uint32_t flags;
  FixedAttributes fixed;
  std::uint64_t body_length;
  std::uint64_t body_checksum;  // XXH3 of the body, when kHasBodyChecksum
  // For partial objects to come (Range on miss): 0 and body_length now.
  std::uint64_t partial_offset;
  std::uint64_t total_length;
  std::uint64_t extents_block;  // offset of an ExtentsBlock, or 0: they are in `extents`
  std::uint32_t extent_count;
  std::uint32_t esi_length;  // ESIDATA, a block of its own
  std::uint64_t esi_offset;  // or 0
  std::uint64_t esi_checksum;
  Field vary;
  Field headers;
  Field url;
  Field host;
  std::array<Extent, kInlineExtents> extents;
  // Then: url, host, and the space for vary and headers, each at a multiple of 8.
};
static_assert(std::is_standard_layout_v<Record> && sizeof(Record) == 336);
static_assert(offsetof(Record, checksum) == 64 && offsetof(Record, version) == 72);
static_assert(offsetof(Record, self) == 80 && offsetof(Record, digest) == 96);
static_assert(offsetof(Record, fixed) == 144 && offsetof(Record, body_length) == 208);
static_assert(offsetof(Record, extents_block) == 240 && offsetof(Record, vary) == 272);
static_assert(offsetof(Record, url) == 288 && offsetof(Record, extents) == 304);

// More than kInlineExtents extents. Immutable once its record is sealed. Of a body in an object of
// the daemon: the object's key, with zeros behind it up to a multiple of 16.
struct ExtentsBlock {
  std::uint64_t checksum;  // XXH3 of [8, 24 + 16 * count)
  std::uint64_t record;    // offset of the record that owns it
  std::uint64_t count;
  // Extent[count] follow, or 16 * count bytes
};
static_assert(sizeof(ExtentsBlock) == 24);

// Slots that point to records. Pages form a list; a page is filled with zeros and given its header
// before one store links it, and is never unlinked while the region lives.
struct IndexPage {
  std::uint64_t magic;     // kIndexMagic
  std::uint64_t checksum;  // XXH3 of the four words that follow
  std::uint64_t self;      // offset of this page
  std::uint64_t bytes;     // of this page, header included
  std::uint64_t first;     // number of its first slot
  std::uint64_t region_id;
  Word next;  // as a slot points: encode_pointer(offset of the next page), or 0
  std::uint64_t reserved;
  // Word slots[(bytes - 64) / 8] follow
};
static_assert(std::is_standard_layout_v<IndexPage> && sizeof(IndexPage) == 64);

inline constexpr std::uint64_t kIndexPageBytesSmall = 4096;
inline constexpr std::uint64_t kIndexPageBytesLarge = 65536;  // in regions of 64 MiB and more

struct RegionHeader {
  std::uint64_t magic;     // kRegionMagic
  std::uint64_t checksum;  // XXH3 of [16, 512)
  std::uint16_t version;
  std::uint16_t owner_length;
  std::uint32_t reserved0;
  std::uint64_t region_id;  // random, new with every format
  std::uint64_t ban_log_offset;
  std::uint64_t ban_log_bytes;  // both halves
  std::uint64_t heap_offset;
  std::uint64_t index_page_bytes;
  std::array<char, 256> owner;  // "instance/store"
  std::array<std::uint8_t, 192> reserved1;

  // Mutable words from here.
  Word index_root;       // encode_pointer(offset of the first index page), or 0
  Word clean;            // 1 = let go in order; 0 = in use, or its user died
  Word adopting;         // slot that was being adopted, plus 1; stays when that crashed
  Word bytes;            // size of the region at the last open: for people
  Word opened;           // times it was opened since it was formatted
  Word bans_current;     // number of the current half of the ban log: it is half (n & 1)
  Word bans_lost;        // double: some ban of this time or before was not recorded
  Word bans_lost_again;  // the same, stored after it
  Word drain;            // not 0 = new objects go elsewhere; the daemon's word, also during use
  Word next_file;        // number of the next file of a body
  Word bans_sent;        // double: bans of this time and before are known to all caches
};
static_assert(std::is_standard_layout_v<RegionHeader> && sizeof(RegionHeader) == 600);
static_assert(offsetof(RegionHeader, version) == 16 && offsetof(RegionHeader, index_root) == 512);

// A pointer that is stored alone: the granule in 48 bits, and 16 bits that tell a damaged one.
std::uint64_t encode_pointer(std::uint64_t offset);
// The offset, or 0 when the word is no pointer.
std::uint64_t decode_pointer(std::uint64_t word);

// How a region of this size is divided.
struct Layout {
  std::uint64_t ban_log_offset;
  std::uint64_t ban_log_bytes;
  std::uint64_t heap_offset;
  std::uint64_t index_page_bytes;
};
Layout layout_for(std::uint64_t region_bytes);

// The immutable parts. `at` must have the bytes that it claims (checked by the caller).
std::uint64_t header_checksum(const RegionHeader& header);
std::uint64_t index_page_checksum(const IndexPage& page);

// Why a record, or a whole region, is not taken over.
enum class Drop : std::uint8_t {
  kNone,
  kBadPointer,   // a slot that points nowhere
  kBadRecord,    // out of bounds, wrong magic, wrong place
  kBadVersion,   // an older or newer format
  kBadChecksum,  // a record, its extents block or its ESI data
  kBadExtents,   // extents outside the heap, or not as long as the body
  kOverlap,      // it shares bytes with another in a way that sharing never does
  kRemoved,      // it was removed before the crash
  kCrashedAt,    // the last adoption died at it
  kRefused,      // the caller did not want it (expired, too much, ban ...)
  kBadFile,      // the file of its body is not there, or another one
  kBadLent,      // the object of the daemon that it names cannot be one
};
inline constexpr std::size_t kDropReasons = 12;
const char* to_string(Drop reason);

}  // namespace om::region
