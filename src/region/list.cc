#include "region/list.h"

#include <algorithm>
#include <vector>

#include "posix/file.h"

namespace om::region {

namespace {

// Reads [offset, offset + bytes) into words, so that what lies there is aligned as in the file.
bool read_words(BorrowedFd file, std::uint64_t offset, std::uint64_t bytes,
                std::vector<std::uint64_t>& out) {
  out.resize((bytes + 7) / 8);
  return read_exactly(file, offset, std::as_writable_bytes(std::span(out)).first(bytes))
      .has_value();
}

// The record at `offset`, in `buffer`; nullptr when it does not check out, or goes away just now.
const Record* read_record(BorrowedFd file, std::uint64_t offset, const RegionHeader& header,
                          std::uint64_t heap_end, std::vector<std::uint64_t>& buffer) {
  if (offset < header.heap_offset || offset > heap_end || heap_end - offset < sizeof(Record) ||
      !read_words(file, offset, sizeof(Record), buffer)) {
    return nullptr;
  }
  const auto* record = reinterpret_cast<const Record*>(buffer.data());
  const std::uint64_t bytes = record->record_bytes;
  if (record->magic.load() != kRecordMagic || bytes < sizeof(Record) || bytes > kRecordBytesMax ||
      bytes > heap_end - offset || !read_words(file, offset, bytes, buffer)) {
    return nullptr;
  }
  if (check_record(std::as_bytes(std::span(buffer)).first(bytes), offset, header.region_id,
                   header.heap_offset, heap_end) != Drop::kNone) {
    return nullptr;
  }
  return reinterpret_cast<const Record*>(buffer.data());
}

bool header_holds(const RegionHeader& header, std::uint64_t file_bytes) {
  return header.magic == kRegionMagic && header.version == kRegionVersion &&
         header.checksum == header_checksum(header) && header.owner_length <= kOwnerBytesMax &&
         header.heap_offset < file_bytes &&
         (header.index_page_bytes == kIndexPageBytesSmall ||
          header.index_page_bytes == kIndexPageBytesLarge);
}

}  // namespace

Result<RegionSummary> list_objects(BorrowedFd region,
                                   const std::function<bool(const ListedObject&)>& fn) {
  const std::uint64_t file_bytes = OM_TRY(file_size(region));
  std::vector<std::uint64_t> header_words;
  if (!read_words(region, 0, sizeof(RegionHeader), header_words)) {
    return Error{Errc::kCorrupt, 0, "a region's file without a header"};
  }
  const auto& header = *reinterpret_cast<const RegionHeader*>(header_words.data());
  if (!header_holds(header, file_bytes)) {
    return Error{Errc::kCorrupt, 0, "not a region, or of another version"};
  }
  RegionSummary summary;
  summary.owner.assign(header.owner.data(), header.owner_length);
  summary.bytes = file_bytes;

  std::vector<std::uint64_t> page_words;
  std::vector<std::uint64_t> record_words;
  std::uint64_t next = header.index_root.load();
  // Slots are numbered from page to page, so a list that bites its own tail does not go round; the
  // count is for one that is made up.
  const std::uint64_t pages_max = file_bytes / header.index_page_bytes;
  for (std::uint64_t first = 0, pages = 0; next != 0 && pages < pages_max; ++pages) {
    const std::uint64_t offset = decode_pointer(next);
    if (offset < header.heap_offset ||
        !read_words(region, offset, header.index_page_bytes, page_words)) {
      break;
    }
    const auto& page = *reinterpret_cast<const IndexPage*>(page_words.data());
    if (page.magic != kIndexMagic || page.checksum != index_page_checksum(page) ||
        page.self != offset || page.region_id != header.region_id || page.first != first) {
      break;
    }
    const auto slots = std::span(page_words).subspan(sizeof(IndexPage) / sizeof(Word));
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (slots[i] == 0) continue;
      const Record* record =
          read_record(region, decode_pointer(slots[i]), header, file_bytes, record_words);
      if (record == nullptr || record->slot.load() != first + i + 1) {
        ++summary.skipped;
        continue;
      }
      ++summary.objects;
      summary.body_bytes += record->body_length;
      ListedObject object{
          first + i,     record->vxid,        record->digest,  url(*record),
          host(*record), record->body_length, timers(*record), load_double(record->ban_time)};
      if (!fn(object)) return summary;
    }
    first += slots.size();
    next = page.next.load();
  }
  return summary;
}

}  // namespace om::region
