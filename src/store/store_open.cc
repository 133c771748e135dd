// The store's start, recovery and end.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "posix/file.h"
#include "posix/range_lock.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

// Object ids are never used twice, so the number to go on from lies ahead of the last one used.
constexpr ObjectId kObjectsAhead = ObjectId{1} << 20;
constexpr std::uint64_t kJournalBytesMin = std::uint64_t{1} << 20;
constexpr const char* kNextObjectFile = "next-object";

ObjectId read_next_object(BorrowedFd directory) {
  const auto file = open_at(directory, kNextObjectFile, O_RDONLY);
  if (!file) return 1;
  std::array<std::byte, 32> bytes{};
  const auto n = read_some(file->borrow(), 0, bytes);
  ObjectId number = 1;
  const char* const text = reinterpret_cast<const char*>(bytes.data());
  if (n) (void)std::from_chars(text, text + *n, number);
  return number == 0 ? 1 : number;
}

Result<void> write_next_object(BorrowedFd directory, ObjectId number) {
  const std::string text = std::to_string(number) + "\n";
  const std::string temporary = std::string(kNextObjectFile) + ".new";
  const auto file = OM_TRY(open_at(directory, temporary, O_WRONLY | O_CREAT | O_TRUNC));
  OM_TRY(write_exactly(file.borrow(), 0, std::as_bytes(std::span(text))));
  OM_TRY(sync_data(file.borrow()));
  return rename_at(directory, temporary, kNextObjectFile);
}

Result<void> remove_all(BorrowedFd directory) {
  for (const auto& name : OM_TRY(list_directory(directory))) OM_TRY(remove_at(directory, name));
  return {};
}

}  // namespace

Result<std::unique_ptr<Store>> Store::open(Config config, const Clock& clock,
                                           std::vector<std::string>* troubles) {
  if (config.memory_dir.empty() || config.state_dir.empty())
    return Error{Errc::kMalformed, 0, "the store wants a memory and a state directory"};
  auto store = std::make_unique<StoreImpl>(std::move(config), clock);
  if (auto started = store->start(); !started) {
    if (troubles != nullptr) *troubles = store->take_troubles();
    return std::move(started).error();
  }
  return std::unique_ptr<Store>(std::move(store));
}

Result<void> StoreImpl::start() {
  memory_dir_ = OM_TRY(open_directory(config_.memory_dir));
  state_dir_ = OM_TRY(open_directory(config_.state_dir));
  catalog::Options options;
  options.boot_id = config_.boot_id;
  options.sync_interval_ns = config_.sync_interval_ns;
  // The journal is part of what a small disk directory was promised to take.
  std::uint64_t disk_bytes = 0;
  bool whole_file_system = config_.disks.empty();
  for (const auto& one : config_.disks) {
    disk_bytes += one.bytes;
    whole_file_system = whole_file_system || one.bytes == 0;
  }
  if (!whole_file_system)
    options.journal_bytes_max =
        std::clamp(disk_bytes / 32, kJournalBytesMin, options.journal_bytes_max);
  options.before_change = [this](const catalog::Record& record, bool stays) {
    return about_to_change(record, stays);
  };
  options.on_presence = [this](std::string_view key, bool there) { count_key(key, there); };
  catalog_ = OM_TRY(catalog::Catalog::open(config_.state_dir + "/catalog", options, clock_));
  // The catalog's lock says that we are alone. Clients of an earlier daemon may be reading still,
  // and must not begin to any more: first of all.
  OM_TRY(Board::end_earlier(memory_dir_.borrow()));
  const catalog::Recovery& recovery = catalog_->recovery();
  const bool fresh = recovery.fresh || !recovery.same_boot;
  const bool rebooted = !recovery.fresh && !recovery.same_boot;

  worker_ = OM_TRY(Worker::start());
  removal_worker_ = OM_TRY(worker_->start_beside());
  MemoryTier::Options memory;
  memory.capacity = config_.memory_bytes;
  memory.segment_bytes = config_.segment_bytes;
  memory.background_faulting = config_.background_faulting;
  memory_ = OM_TRY(MemoryTier::open(OM_TRY(open_directory(config_.memory_dir + "/segments")),
                                    memory, fresh, *worker_));
  DiskTier::Options disk;
  disk.disks = config_.disks;
  disk.pack_bytes = config_.pack_bytes;
  disk.fault = config_.disk_fault;
  disks_ = OM_TRY(DiskTier::open(std::move(disk), clock_));
  OM_TRY(open_removals());

  if (config_.memory_object_bytes_max == 0)
    config_.memory_object_bytes_max =
        config_.disks.empty() ? config_.memory_bytes : config_.memory_bytes / 8;
  staging_ = std::make_unique<Staging>(config_.staging_bytes == 0 ? config_.memory_bytes
                                                                  : config_.staging_bytes);
  memory_policy_ = eviction::make_s3fifo(config_.memory_bytes);
  disk_policy_ = eviction::make_s3fifo(std::max<std::uint64_t>(disks_->capacity(), 1));

  auto lease_dir = OM_TRY(open_directory(config_.memory_dir + "/leases"));
  if (fresh) OM_TRY(remove_all(lease_dir.borrow()));
  LeaseBook::Limits limits;
  limits.leases = config_.holder.leases;
  limits.leased_bytes =
      config_.holder.leased_bytes == 0 ? config_.memory_bytes / 2 : config_.holder.leased_bytes;
  leases_ = OM_TRY(
      LeaseBook::open(std::move(lease_dir), limits, [this](ObjectId object) { unpinned(object); }));
  auto hazard_dir = OM_TRY(open_directory(config_.memory_dir + "/hazards"));
  if (fresh) OM_TRY(remove_all(hazard_dir.borrow()));
  pages_ = OM_TRY(HazardPages::open(std::move(hazard_dir), *leases_));
  held_log_ = OM_TRY(HeldLog::open(memory_dir_.borrow(), fresh));

  next_object_ = read_next_object(state_dir_.borrow());
  OM_TRY(recover_regions(rebooted));
  OM_TRY(cut_memory());
  make_board();  // nobody has it before we are here; it counts what is recovered
  OM_TRY(recover_objects());
  OM_TRY(recover_held());
  disks_->sweep_files();
  // The index may still name packs that the journal's moves have emptied.
  dead_packs_wait_ = catalog_->status().overlay_entries != 0;
  if (!dead_packs_wait_) disks_->sweep_packs();
  next_object_ = std::max(next_object_, disks_->highest_object() + 1);
  disks_->number_packs_from(next_object_);
  OM_TRY(write_next_object(state_dir_.borrow(), next_object_ + kObjectsAhead));
  count_catalog();
  return {};
}

Result<void> StoreImpl::open_removals() {
  const UniqueFd directory = OM_TRY(open_directory(config_.memory_dir + "/regions"));
  const std::vector<std::string> regions = OM_TRY(list_directory(directory.borrow()));
  RemovalLog::Options options;
  // A start that did not come so far has left a catalog, and nothing in it.
  options.is_first =
      catalog_->status().objects == 0 && disks_->region_names().empty() && regions.empty();
  removal_log_ = OM_TRY(RemovalLog::open(
      OM_TRY(catalog::open_log_directory(config_.state_dir + "/removals")), options, clock_));
  if (!removal_log_->report().empty())
    troubles_.push_back("removals recovered report=\"" + removal_log_->report() + "\"");
  return {};
}

// The tier was configured smaller than it was: segments go, with the objects in them, but for those
// that somebody still reads in.
Result<void> StoreImpl::cut_memory() {
  if (!memory_->over_capacity()) return {};
  std::unordered_set<SegmentId> keep;
  const auto look_at = [&](ObjectId object, const auto& extents) {
    claim(object);
    if (!leases_->pinned(object)) return;
    for (const auto& extent : extents) keep.insert(extent.segment);
  };
  OM_TRY(catalog_->for_each(
      [&](const catalog::Record& record) { look_at(record.object_id, record.place.extents); }));
  for (const auto& [object, extents] : held_log_->recovered()) look_at(object, extents);
  (void)memory_->cut_to_capacity(keep);
  return {};
}

Result<void> StoreImpl::recover_objects() {
  const bool rebooted = !catalog_->recovery().same_boot;
  std::vector<std::string> broken;
  const auto take = [&](const catalog::Record& record) {
    count_key(record.key, true);
    next_object_ = std::max(next_object_, record.object_id + 1);
    removal_log_->not_before(record.created_ns);
    claim(record.object_id);
    std::vector<Extent> extents;
    for (const auto& extent : record.place.extents)
      extents.push_back({extent.segment, extent.offset, extent.length});
    if (record.place.tier == catalog::kTierMemory) {
      std::vector<Extent> taken;
      for (const auto& extent : extents) {
        if (!memory_->take_exactly(extent)) break;
        taken.push_back(extent);
      }
      if (taken.size() != extents.size()) {
        memory_->give_back(taken);
        broken.push_back(record.key);
        return;
      }
      memory_policy_->insert(record.object_id, record.length, hash_key(record.key).low);
    } else {
      if (!disks_->recover(record.object_id, extents, rebooted)) {
        // A directory that is away just now may be back at the next start, with its objects: those
        // that are known to be on it. What no group sync covered is nowhere but in a page cache
        // that may go with the mount, and the next group sync would vouch for it.
        if (extents.empty() || !record.durable || !disks_->may_return(extents.front().segment))
          broken.push_back(record.key);
        return;
      }
      disk_policy_->insert(record.object_id, record.length, hash_key(record.key).low);
      // Known from the journal alone: no group sync has put its body on disk yet.
      if (!record.durable && !extents.empty())
        mark_dirty(record.object_id, extents.front().segment);
    }
    note_expiry(record);
  };
  OM_TRY(catalog_->for_each(take));
  for (const auto& key : broken) OM_TRY(catalog_->remove(key));
  return {};
}

Result<void> StoreImpl::recover_held() {
  for (const auto& [object, extents] : held_log_->recovered()) {
    // Of a room nobody but its writer may know the numbers that were lent with it.
    next_object_ = std::max(next_object_, object + 1 + kLentMax);
    claim(object);
    if (!leases_->pinned(object)) continue;
    if (OM_TRY(catalog_->find_object(object))) continue;
    std::vector<Extent> taken;
    for (const auto& extent : extents) {
      if (kind_of(extent.segment) == SegmentKind::kMemory) {
        // Parts of a room may be objects' by now.
        for (const auto& part : memory_->take_free_of(extent)) taken.push_back(part);
      } else if (disks_->recover(object, {extent}, false)) {
        taken.push_back(extent);
      }
    }
    for (const auto& extent : taken) held_bytes_ += extent.length;
    if (!taken.empty()) held_.emplace(object, std::move(taken));
  }
  leases_->end_recovery();
  pages_->end_recovery();
  return held_log_->rewrite(held_);
}

// What readers of an earlier life had leased is pinned.
void StoreImpl::claim(ObjectId object) {
  leases_->claim(object);
  pages_->claim(object);
}

Result<void> StoreImpl::shutdown() {
  // What the worker has begun is finished by its destructor; what waits behind it is not published
  // and so leaves nothing.
  end_lists();
  worker_.reset();
  removal_worker_.reset();
  if (board_ != nullptr) board_->end();
  (void)removal_log_->save_applied();
  sync_directories_ = disks_->directories();
  std::vector<DirtyFailure> failed;
  auto marked = catalog_->mark_clean([&] { return sync_bodies(failed); });
  pages_.reset();
  leases_.reset();
  return marked;
}

StoreImpl::~StoreImpl() {
  end_lists();
  worker_.reset();
  removal_worker_.reset();
  puts_.clear();
}

}  // namespace om::store
