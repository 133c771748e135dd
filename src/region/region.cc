#include "region/region.h"

#include <sys/mman.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <random>

#include "base/assert.h"
#include "base/checksum.h"
#include "base/units.h"
#include "posix/file.h"
#include "posix/range_lock.h"
#include "posix/read_ahead.h"
#include "region/slots.h"

namespace om::region {

namespace {

std::uint64_t random_id() {
  std::random_device device;
  return (std::uint64_t{device()} << 32 | device()) | 1;
}

}  // namespace

BodyChecksum::BodyChecksum() : state_(XXH3_createState()) {
  OM_ASSERT(state_ != nullptr);
  (void)XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_));
}

BodyChecksum::~BodyChecksum() { (void)XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }

void BodyChecksum::add(std::span<const std::byte> bytes) {
  (void)XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), bytes.data(), bytes.size());
}

std::uint64_t BodyChecksum::value() const {
  return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_));
}

Region::~Region() = default;

Result<std::unique_ptr<Region>> Region::open(UniqueFd memory, std::uint64_t size,
                                             std::string_view owner, bool fresh) {
  size &= ~(kPage - 1);
  if (size < kRegionBytesMin || size > kRegionBytesMax) {
    return Error{Errc::kMalformed, 0,
                 "a region takes from " + format_size(kRegionBytesMin) + " to " +
                     format_size(kRegionBytesMax) + ", not " + format_size(size)};
  }
  if (owner.empty() || owner.size() > kOwnerBytesMax) {
    return Error{Errc::kMalformed, 0, "an owner's name has 1 to 255 bytes"};
  }
  // The lock first: before it the bytes belong to whoever holds it.
  if (!OM_TRY(lock_range_exclusive(memory.borrow(), 0, 1))) {
    return Error{Errc::kBusy, 0, "the region of " + std::string(owner) + " is in use"};
  }
  if (OM_TRY(file_size(memory.borrow())) < size) {
    return Error{Errc::kMalformed, 0, "the region's file is shorter than " + format_size(size)};
  }
  auto mapping = OM_TRY(Mapping::of(memory.borrow(), 0, size, Access::kReadWrite));
  std::unique_ptr<Region> region(new Region(std::move(memory), std::move(mapping)));
  region->format_reason_ = fresh ? "new" : region->check_header();
  RegionHeader* header = region->header();
  if (region->format_reason_.empty()) {
    const std::string_view theirs(header->owner.data(), header->owner_length);
    if (theirs != owner) {
      return Error{Errc::kDenied, 0,
                   "the region belongs to " + std::string(theirs) + ", not " + std::string(owner)};
    }
  } else {
    region->format(owner);
  }
  region->bans_ = BanLog(header, region->base() + header->ban_log_offset, header->ban_log_bytes);
  if (region->formatted()) region->bans_.format();
  region->allocator_.emplace(region->base(), header->heap_offset, size);
  if (region->formatted()) {
    region->allocator_->start_empty();
    // Only now is it one: a crash before leaves a header that does not check out.
    std::atomic_ref(header->magic).store(kRegionMagic);
  }
  region->was_clean_ = header->clean.exchange(0) == 1;
  header->opened.fetch_add(1);
  header->bytes.store(size);
  return region;
}

std::string Region::check_header() const {
  const RegionHeader& header = *this->header();
  if (header.magic != kRegionMagic) return header.magic == 0 ? "empty" : "not a region";
  if (header.version != kRegionVersion) {
    return "version " + std::to_string(header.version) + " instead of " +
           std::to_string(kRegionVersion);
  }
  if (header.checksum != header_checksum(header)) return "the header's checksum does not match";
  if (header.owner_length == 0 || header.owner_length > kOwnerBytesMax ||
      header.ban_log_offset != kPage || header.ban_log_bytes < 2 * kPage ||
      header.ban_log_bytes % (2 * kPage) != 0 || header.ban_log_bytes > kRegionBytesMax ||
      header.heap_offset != header.ban_log_offset + header.ban_log_bytes ||
      (header.index_page_bytes != kIndexPageBytesSmall &&
       header.index_page_bytes != kIndexPageBytesLarge)) {
    return "the header makes no sense";
  }
  if (header.heap_offset + 4 * header.index_page_bytes > size()) return "it has become too small";
  return {};
}

void Region::format(std::string_view owner) {
  RegionHeader* header = this->header();
  // A crash from here to open()'s last store leaves no region, rather than half of one.
  std::atomic_ref(header->magic).store(0);
  std::memset(base(), 0, kPage);
  header = new (base()) RegionHeader{};
  const Layout layout = layout_for(size());
  header->version = kRegionVersion;
  header->owner_length = static_cast<std::uint16_t>(owner.size());
  header->region_id = random_id();
  header->ban_log_offset = layout.ban_log_offset;
  header->ban_log_bytes = layout.ban_log_bytes;
  header->heap_offset = layout.heap_offset;
  header->index_page_bytes = layout.index_page_bytes;
  std::memcpy(header->owner.data(), owner.data(), owner.size());
  header->checksum = header_checksum(*header);
}

// --- adoption ---

void Region::use_files(std::unique_ptr<BodyFiles> files) {
  files_ = std::move(files);
  files_->count_in(header()->next_file);
  const auto snapshot = formatted() ? read_snapshot(files_->directory()) : std::nullopt;
  // Durably, before anything is removed that it names.
  om::region::withdraw_snapshot(files_->directory());
  const std::string_view owner(header()->owner.data(), header()->owner_length);
  if (snapshot && snapshot->owner == owner)
    import(*snapshot);
  else if (formatted())
    files_->remove_others({});  // of a life that this region does not know
}

void Region::import(const Snapshot& snapshot) {
  (void)bans_.replace(snapshot.ban_specs);
  bans_.mark_lost(snapshot.bans_lost);
  for (const SnapshotObject& object : snapshot.objects) {
    const auto& old = *reinterpret_cast<const Record*>(object.record.data());
    if ((old.flags & kBodyInFile) == 0) continue;
    const auto block = allocator_->allocate(object.record.size());
    if (!block) break;
    std::memcpy(pointer(block->offset), object.record.data(), object.record.size());
    auto* record = reinterpret_cast<Record*>(pointer(block->offset));
    record->slot.store(0);
    record->self = block->offset;
    record->region_id = region_id();
    record->esi_offset = 0;
    record->esi_length = 0;
    if (!object.esi.empty()) {
      std::byte* esi = attach_esi(*record, static_cast<std::uint32_t>(object.esi.size()));
      if (esi == nullptr) {
        allocator_->free(*block);
        break;
      }
      std::memcpy(esi, object.esi.data(), object.esi.size());
    }
    seal(*record);
    if (!publish(*record)) break;  // scan() makes the free space anew
  }
  format_reason_.clear();
}

Result<std::uint64_t> Region::write_snapshot() {
  if (files_ == nullptr) return std::uint64_t{0};
  {
    const std::lock_guard lock(snapshot_mutex_);
    snapshot_gone_ = OM_TRY(SnapshotGone::begin(files_->directory()));
  }
  snapshot_begun_.store(true);
  const BanLog::Loaded bans = bans_.load();
  SnapshotWriter writer({header()->owner.data(), header()->owner_length}, bans.specs,
                        bans.lost_until);
  std::uint64_t count = 0;
  {
    // Who frees a record has retired it before, and that waits for this lock.
    const std::lock_guard lock(index_mutex_);
    const std::uint64_t slots = pages_.size() * slots_per_page(*header());
    for (std::uint64_t slot = 0; slot < slots; ++slot) {
      const std::uint64_t offset = decode_pointer(slot_word(slot).load());
      if (offset == 0) continue;
      const auto& record = *reinterpret_cast<const Record*>(pointer(offset));
      if (record.slot.load() != slot + 1 || record.removed.load() != 0 || !file_of(record))
        continue;
      writer.add({{pointer(offset), record.record_bytes}, esi(record)});
      ++count;
    }
  }
  OM_TRY(writer.write(files_->directory()));
  const std::lock_guard lock(snapshot_mutex_);
  if (snapshot_void_) {
    om::region::withdraw_snapshot(files_->directory());
    return Error{Errc::kBusy, 0,
                 "it was given up, or what was removed meanwhile was not written down"};
  }
  OM_TRY(snapshot_gone_->sync());
  OM_TRY(commit_snapshot(files_->directory()));
  snapshot_counts_ = true;
  return count;
}

void Region::leave_snapshot(const Record& record) {
  if (!snapshot_begun_.load()) return;
  const auto ref = file_of(record);
  if (!ref) return;
  const std::lock_guard lock(snapshot_mutex_);
  if (snapshot_void_) return;
  auto left = snapshot_gone_->add(ref->number);
  if (left && snapshot_counts_) left = snapshot_gone_->sync();
  if (left) return;
  snapshot_void_ = true;
  om::region::withdraw_snapshot(files_->directory());
}

void Region::withdraw_snapshot() {
  const std::lock_guard lock(snapshot_mutex_);
  if (std::exchange(snapshot_void_, true)) return;
  om::region::withdraw_snapshot(files_->directory());
}

void Region::set_adopting(std::uint64_t slot) { header()->adopting.store(slot + 1); }
void Region::clear_adopting() { header()->adopting.store(0); }

std::uint64_t Region::body_checksum(std::span<const Extent> list) const {
  BodyChecksum sum;
  for (const Extent& extent : list) sum.add({pointer(extent.offset), extent.length});
  return sum.value();
}

bool Region::verify_body(const Record& record) const {
  if ((record.flags & kHasBodyChecksum) == 0) return true;
  const auto ref = file_of(record);
  if (!ref) return body_checksum(body(record)) == record.body_checksum;
  const auto file = files_->pin(*ref);
  if (!file) return false;
  constexpr std::size_t kSliceBytes = std::size_t{256} << 10;
  const auto slice = std::make_unique_for_overwrite<std::byte[]>(kSliceBytes);
  BodyChecksum sum;
  begin_reading((*file)->fd(), 0, ref->length);
  for (std::uint64_t at = 0; at < ref->length;) {
    const std::span bytes(slice.get(), std::min<std::uint64_t>(kSliceBytes, ref->length - at));
    if (!read_exactly((*file)->fd(), at, bytes)) return false;
    sum.add(bytes);
    at += bytes.size();
  }
  return sum.value() == record.body_checksum;
}

// --- in use ---

Record* Region::create(const RecordPlan& plan) {
  const std::optional<Block> block = allocator_->allocate(record_bytes(plan));
  if (!block) return nullptr;
  return init_record(pointer(block->offset), block->offset, region_id(), plan);
}

bool Region::attach_list(Record& record, std::span<const Extent> list) {
  OM_ASSERT(record.extent_count == 0 && record.slot.load() == 0);
  if (list.size() <= kInlineExtents) {
    std::copy(list.begin(), list.end(), record.extents.begin());
  } else {
    const auto block = allocator_->allocate(extents_block_bytes(list.size()));
    if (!block) return false;
    auto* header = new (pointer(block->offset)) ExtentsBlock{0, record.self, list.size()};
    std::memcpy(header + 1, list.data(), list.size_bytes());
    header->checksum =
        extents_block_checksum({pointer(block->offset), sizeof(ExtentsBlock) + list.size_bytes()});
    record.extents_block = block->offset;
  }
  record.extent_count = static_cast<std::uint32_t>(list.size());
  record.body_length = 0;
  for (const Extent& extent : list) record.body_length += extent.length;
  record.total_length = record.body_length;
  return true;
}

bool Region::attach_body(Record& record, std::span<const Extent> body,
                         std::optional<std::uint64_t> body_checksum) {
  if (!attach_list(record, body)) return false;
  if (body_checksum) {
    record.flags |= kHasBodyChecksum;
    record.body_checksum = *body_checksum;
  }
  return true;
}

void Region::attach_file(Record& record, const FileRef& file,
                         std::optional<std::uint64_t> body_checksum) {
  OM_ASSERT(record.extent_count == 0 && record.slot.load() == 0 && file.length > 0);
  set_file(record, file);
  if (!body_checksum) return;
  record.flags |= kHasBodyChecksum;
  record.body_checksum = *body_checksum;
}

bool Region::attach_lent(Record& record, const LentRef& lent,
                         std::optional<std::uint64_t> body_checksum) {
  OM_ASSERT(record.extent_count == 0 && record.slot.load() == 0 && lent.length > 0);
  OM_ASSERT(!lent.key.empty() && lent.key.size() <= kKeyBytesMax && lent.object_id != 0);
  const std::uint64_t units = round_up(lent.key.size(), sizeof(Extent)) / sizeof(Extent);
  const auto block = allocator_->allocate(extents_block_bytes(units));
  if (!block) return false;
  auto* header = new (pointer(block->offset)) ExtentsBlock{0, record.self, units};
  std::memset(static_cast<void*>(header + 1), 0, units * sizeof(Extent));
  std::memcpy(static_cast<void*>(header + 1), lent.key.data(), lent.key.size());
  header->checksum = extents_block_checksum(
      {pointer(block->offset), sizeof(ExtentsBlock) + units * sizeof(Extent)});
  set_lent(record, lent, block->offset);
  if (!body_checksum) return true;
  record.flags |= kHasBodyChecksum;
  record.body_checksum = *body_checksum;
  return true;
}

std::uint64_t Region::body_key(const Record& record) const {
  if (const auto file = file_of(record)) return file->number | std::uint64_t{1} << 63;
  const auto list = body(record);
  return list.empty() ? 0 : list.front().offset;
}

bool Region::share_body(Record& record, const Record& from) {
  if (const auto file = file_of(from))
    set_file(record, *file);
  else if (!attach_list(record, body(from)))
    return false;
  record.flags |= from.flags & kHasBodyChecksum;
  record.body_checksum = from.body_checksum;
  const std::uint64_t key = body_key(from);
  if (key == 0) return true;
  const std::lock_guard lock(shared_mutex_);
  std::uint32_t& count = shared_[key];
  count = count == 0 ? 2 : count + 1;
  shared_count_.store(shared_.size(), std::memory_order_release);
  return true;
}

std::byte* Region::attach_esi(Record& record, std::uint32_t length) {
  OM_ASSERT(record.esi_offset == 0 && length > 0);
  const auto block = allocator_->allocate(length);
  if (!block) return nullptr;
  record.esi_offset = block->offset;
  record.esi_length = length;
  return pointer(block->offset);
}

std::span<const std::byte> Region::esi(const Record& record) const {
  if (record.esi_offset == 0) return {};
  return {pointer(record.esi_offset), record.esi_length};
}

void Region::seal(Record& record) {
  if (record.esi_offset != 0) record.esi_checksum = checksum(esi(record));
  seal_record(record);
}

Word& Region::slot_word(std::uint64_t slot) const {
  const std::uint64_t per_page = slots_per_page(*header());
  return slots_of(pages_[slot / per_page])[slot % per_page];
}

IndexPage* Region::add_index_page() {
  const std::uint64_t bytes = header()->index_page_bytes;
  const std::uint64_t per_page = slots_per_page(*header());
  const auto block = allocator_->allocate(bytes);
  if (!block) return nullptr;
  free_slots_.reserve((pages_.size() + 1) * per_page);
  std::memset(pointer(block->offset), 0, bytes);
  auto* page = new (pointer(block->offset)) IndexPage{};
  page->magic = kIndexMagic;
  page->self = block->offset;
  page->bytes = bytes;
  page->first = pages_.size() * per_page;
  page->region_id = region_id();
  page->checksum = index_page_checksum(*page);
  (pages_.empty() ? header()->index_root : pages_.back()->next)
      .store(encode_pointer(block->offset), std::memory_order_release);
  pages_.push_back(page);
  for (std::uint64_t i = per_page; i-- > 0;) free_slots_.push_back(page->first + i);
  return page;
}

bool Region::publish(Record& record) {
  OM_ASSERT(record.magic.load() == kRecordMagic && record.slot.load() == 0);  // sealed, once
  const std::lock_guard lock(index_mutex_);
  if (free_slots_.empty() && add_index_page() == nullptr) return false;
  const std::uint64_t slot = free_slots_.back();
  free_slots_.pop_back();
  record.slot.store(slot + 1, std::memory_order_release);
  slot_word(slot).store(encode_pointer(record.self), std::memory_order_release);
  published_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

void Region::retire(Record& record) {
  // The exchange makes one of two callers do it. A crash after it leaves a slot whose record does
  // not name it, which is dropped.
  const std::uint64_t slot = record.slot.exchange(0, std::memory_order_acq_rel);
  if (slot == 0) return;
  const std::lock_guard lock(index_mutex_);
  slot_word(slot - 1).store(0, std::memory_order_release);
  free_slots_.push_back(slot - 1);
  published_.fetch_sub(1, std::memory_order_relaxed);
}

void Region::mark_removed(Record& record) {
  record.removed.store(1);
  leave_snapshot(record);
  retire(record);
}

void Region::release_body(const Record& record) {
  const std::uint64_t key = body_key(record);
  if (key == 0) return;
  if (shared_count_.load(std::memory_order_acquire) != 0) {
    const std::lock_guard lock(shared_mutex_);
    const auto found = shared_.find(key);
    if (found != shared_.end()) {
      // The last one to name it owns it alone, and frees it without this map.
      if (--found->second == 1) {
        shared_.erase(found);
        shared_count_.store(shared_.size(), std::memory_order_release);
      }
      return;
    }
  }
  if (const auto file = file_of(record))
    files_->remove(*file);
  else
    for (const Extent& extent : body(record)) allocator_->free(extent);
}

void Region::drop_body(Record& record) {
  retire(record);
  record.magic.store(0, std::memory_order_release);
  release_body(record);
  if (record.extents_block != 0) {
    allocator_->free(Block{record.extents_block, extents_block_bytes(record.extent_count)});
  }
  if (record.esi_offset != 0) {
    allocator_->free(Block{record.esi_offset, round_up(record.esi_length, kGranule)});
  }
  record.flags &= ~(kBodyInFile | kBodyLent);
  record.extents_block = 0;
  record.extent_count = 0;
  record.esi_offset = 0;
  record.esi_length = 0;
}

void Region::destroy(Record* record) {
  drop_body(*record);
  allocator_->free(Block{record->self, record->record_bytes});
}

bool Region::populate(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset >= size()) return false;
  const std::uint64_t begin = offset & ~(kPage - 1);
  const std::uint64_t end = std::min(size(), round_up(offset + bytes, kPage));
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, Linux 5.14; not in all headers
  return ::madvise(pointer(begin), end - begin, kPopulateWrite) == 0;
}

void Region::mark_clean() { header()->clean.store(1, std::memory_order_release); }

}  // namespace om::region
