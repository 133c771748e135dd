// What happens without being asked for: group sync, orphan holders, making room in memory ahead of
// need, compaction of packs, looking after the disks; and what status() and take_troubles() tell.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/assert.h"
#include "posix/file.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

constexpr std::size_t kEvictedAtOnceMax = 64;  // per tick, when the catalog has grown
constexpr std::size_t kRelocatingMax = 64;     // copies under way for demotion or compaction
constexpr std::size_t kDirtyFilesMax = 128;    // open for the next group sync
constexpr unsigned kSparsePercent = 30;        // packs with less alive are compacted
constexpr std::uint64_t kProbeDisksNs = std::uint64_t{5} * 1'000'000'000;
constexpr std::uint64_t kSaveAppliedNs = std::uint64_t{1} * 1'000'000'000;
constexpr std::uint64_t kProbeLeasesNs = std::uint64_t{200} * 1'000'000;
// Memory is made room in until this share of it is free.
constexpr std::uint64_t kFreeShare = 16;

}  // namespace

void StoreImpl::tick() {
  leases_gone_through_ = 0;
  memory_stuck_.times = disk_stuck_.times = 0;
  on_wakeup();
  const std::uint64_t now = clock_.monotonic_ns();
  expire();
  if (now - last_lease_probe_ns_ >= kProbeLeasesNs) {
    last_lease_probe_ns_ = now;
    leases_->probe();
    leases_->settle();
    pages_->probe();
  }
  (void)collect_all();
  take_touches();
  (void)leases_->mark_overdue(now, config_.revoke_grace_ns);
  ask_again(now);
  if (held_log_->wants_rewrite()) {
    auto live = held_;
    for (const auto& [id, put] : puts_) {
      if (!put->direct) continue;
      auto& extents = live[put->object_id];
      extents = put->memory;
      if (put->file) extents.push_back({put->file_id, 0, put->file_room});
    }
    (void)held_log_->rewrite(live);
  }
  memory_->prepare();
  if (now - last_applied_save_ns_ >= kSaveAppliedNs) {
    last_applied_save_ns_ = now;
    (void)removal_log_->save_applied();
  }
  start_sync();
  count_catalog();
  demote();
  compact();
  if (disks_->any() && !probe_running_ && now - last_probe_ns_ >= kProbeDisksNs) probe_disks();
}

// The catalog's files take their part of the disk directory they lie beside; when they have grown,
// bodies make room.
void StoreImpl::count_catalog() {
  const catalog::Status status = catalog_->status();
  disks_->count_beside(state_dir_.borrow(),
                       status.journal_bytes + status.index_bytes + removal_log_->bytes());
  for (std::size_t i = 0; i < kEvictedAtOnceMax && disks_->over_capacity(); ++i)
    if (!evict_disk()) return;
}

// --- group sync

void StoreImpl::mark_dirty(ObjectId object, SegmentId segment) {
  const std::lock_guard lock(dirty_mutex_);
  auto& dirty = dirty_[segment];
  dirty.objects.push_back(object);
  // fdatasync(2) of a new file commits its name as well on the file systems that we know (ext4,
  // xfs, btrfs): its inode and its directory entry are in the same transaction.
  if (!dirty.file && dirty_.size() <= kDirtyFilesMax)
    if (auto file = disks_->open_for_copy(segment)) dirty.file = *std::move(file);
}

// A file that has been unlinked must not be kept on disk by our descriptor: its bytes count as
// free. The index may get its record all the same, by a group sync that is under way: then power
// loss must find no file instead of one with half a body, so its directory is synced in its stead.
void StoreImpl::file_gone(SegmentId segment) {
  if (disks_->has(segment)) return;  // a pack with others in it
  const std::lock_guard lock(dirty_mutex_);
  for (auto* const map : {&dirty_, &syncing_}) {
    const auto found = map->find(segment);
    if (found == map->end()) continue;
    found->second.gone = true;
    found->second.file.reset();
    if (auto directory = disks_->open_directory_of(segment))
      found->second.file = *std::move(directory);
  }
}

// On the worker's thread.
Result<void> StoreImpl::sync_bodies(std::vector<DirtyFailure>& failed) {
  {
    const std::lock_guard lock(dirty_mutex_);
    syncing_.swap(dirty_);
  }
  std::unordered_map<std::uint16_t, bool> whole;  // disk -> syncfs went well
  std::unordered_map<std::uint16_t, std::vector<ObjectId>> done;
  Result<void> result;
  for (;;) {
    SegmentId segment = 0;
    Dirty entry;
    {
      const std::lock_guard lock(dirty_mutex_);
      if (syncing_.empty()) break;
      segment = syncing_.begin()->first;
      entry = std::move(syncing_.begin()->second);
      syncing_.erase(syncing_.begin());
    }
    const std::uint16_t disk = disk_of(segment);
    Result<void> synced;
    if (entry.file) {
      if (entry.gone)
        synced =
            ::fsync(entry.file.raw()) == 0 ? Result<void>() : Result<void>(system_error("sync"));
      else
        synced = sync_data(entry.file.borrow());
    } else if (whole.count(disk) == 0) {
      synced = Error{Errc::kUnavailable, 0, "the disk directory has failed"};
      for (const auto& [id, directory] : sync_directories_)
        if (id == disk)
          synced =
              ::syncfs(directory.raw()) == 0 ? Result<void>() : Result<void>(system_error("sync"));
      whole[disk] = synced.has_value();
    } else if (!whole[disk]) {
      synced = Error{Errc::kUnavailable, 0, "the disk directory has failed"};
    }
    if (config_.disk_fault)
      if (const int reason = config_.disk_fault("sync", std::to_string(disk)); reason != 0)
        synced = Error{Errc::kSystem, reason, "sync"};
    if (synced) {
      auto& objects = done[disk];
      objects.insert(objects.end(), entry.objects.begin(), entry.objects.end());
      continue;
    }
    failed.push_back({disk, std::move(entry.objects), synced.error()});
    result = std::move(synced).error();
  }
  // A file system that is shut down while it syncs may say that all went well: ext4 looks whether
  // it still works at the begin, and a failure to note that bytes were written is told to nobody.
  // So what was synced holds once the file system is seen to work afterwards.
  for (auto& [disk, objects] : done) {
    if (auto works = still_works(disk); !works) {
      failed.push_back({disk, std::move(objects), works.error()});
      result = std::move(works).error();
    }
  }
  return result;
}

// On the worker's thread.
Result<void> StoreImpl::still_works(std::uint16_t disk) const {
  if (config_.disk_fault)
    if (const int reason = config_.disk_fault("still works", std::to_string(disk)); reason != 0)
      return Error{Errc::kSystem, reason, "sync"};
  for (const auto& [id, directory] : sync_directories_)
    if (id == disk)
      return ::fsync(directory.raw()) == 0 ? Result<void>() : Result<void>(system_error("sync"));
  return Error{Errc::kUnavailable, 0, "the disk directory has failed"};
}

// What could not be put on disk is not vouched for: the directory drops out, these objects go.
void StoreImpl::body_sync_failed(const std::vector<DirtyFailure>& failed) {
  for (const auto& failure : failed) {
    disks_->report_failure(failure.disk, failure.error);
    for (const ObjectId object : failure.objects) {
      const auto record = catalog_->find_object(object);
      if (!record || !*record || (*record)->place.extents.empty() ||
          disk_of((*record)->place.extents.front().segment) != failure.disk)
        continue;
      bool durable = false;
      (void)remove_object((*record)->key, durable);
    }
  }
}

void StoreImpl::start_sync() {
  if (sync_running_ || !catalog_->wants_sync()) return;
  sync_running_ = true;
  sync_directories_ = disks_->directories();
  struct Outcome {
    Result<void> result;
    std::vector<DirtyFailure> failed;
  };
  auto outcome = std::make_shared<Outcome>();
  auto leaving = std::make_shared<std::vector<std::vector<Extent>>>(std::exchange(after_sync_, {}));
  worker_->run(
      [this, outcome] {
        outcome->result =
            catalog_->group_sync([this, outcome] { return sync_bodies(outcome->failed); });
      },
      [this, outcome, leaving] {
        sync_running_ = false;
        if (outcome->result) {
          for (const auto& extents : *leaving) free_place(extents);
          if (std::exchange(dead_packs_wait_, false)) disks_->sweep_packs();
          sync_fails_ = false;
        } else {
          ++count_.sync_failures;
          if (!std::exchange(sync_fails_, true))
            troubles_.push_back("group sync failed, it is tried again error=\"" +
                                describe(outcome->result.error()) + "\"");
          for (auto& extents : *leaving) after_sync_.push_back(std::move(extents));
        }
        body_sync_failed(outcome->failed);
      });
}

// --- moving objects: from memory to disk, and out of packs that are mostly dead

void StoreImpl::demote() {
  if (!disks_->any() || relocating_.size() >= kRelocatingMax) return;
  const std::uint64_t capacity = memory_->object_capacity();
  std::uint64_t leaving = 0;
  while (relocating_.size() < kRelocatingMax &&
         memory_->used() > capacity - capacity / kFreeShare + leaving) {
    const auto victim = memory_policy_->evict([this](ObjectId id) { return is_in_use(id); });
    if (!victim) return;
    const auto record = catalog_->find_object(victim->id);
    if (!record) {
      memory_policy_->insert(victim->id, victim->bytes, victim->id);
      return;
    }
    if (!*record) continue;
    leaving += victim->bytes;
    if ((*record)->ephemeral || (*record)->length == 0) {
      if (!drop_from_memory(**record)) return;
      continue;
    }
    relocate(**record, false);
  }
}

// Of an object that memory's policy has let go of already. False: it cannot be, and is in it again.
bool StoreImpl::drop_from_memory(const catalog::Record& record) {
  bool durable = false;
  const auto removed = remove_object(record.key, durable);
  if (removed && *removed) ++count_.evicted_memory;
  if (!removed) memory_policy_->insert(record.object_id, record.length, hash_key(record.key).low);
  return removed.has_value();
}

// The record of an object that lies in this pack, where nobody is at it.
std::optional<catalog::Record> StoreImpl::movable(SegmentId pack, ObjectId object) {
  if (leases_->pinned(object) || relocating_.count(object) != 0) return std::nullopt;
  auto record = catalog_->find_object(object);
  if (!record || !*record || (*record)->place.extents.empty() ||
      (*record)->place.extents.front().segment != pack)
    return std::nullopt;
  return *std::move(record);
}

void StoreImpl::compact() {
  if (relocating_.size() >= kRelocatingMax) return;
  const auto may_leave = [this](SegmentId pack, ObjectId object) {
    return movable(pack, object).has_value();
  };
  const auto sparse = disks_->sparse_pack(kSparsePercent, may_leave);
  if (!sparse) return;
  for (const ObjectId object : sparse->members) {
    if (relocating_.size() >= kRelocatingMax) return;
    if (auto record = movable(sparse->pack, object)) relocate(*std::move(record), true);
  }
}

// Copies the object to disk and moves its record there. Not done when somebody leased it meanwhile:
// what a reader was given stays where it is.
void StoreImpl::relocate(catalog::Record record, bool from_pack) {
  const auto give_up = [&] {
    if (from_pack) return;
    // Out of memory's policy already: without a place on disk it goes.
    (void)drop_from_memory(record);
  };
  if (!from_pack && !make_disk_room(record.length)) return give_up();
  auto copy = std::make_shared<Copy>();
  std::vector<Extent> place;
  const auto prepare = [&]() -> Result<void> {
    for (const auto& extent : record.place.extents)
      copy->from.push_back(OM_TRY(source_of({extent.segment, extent.offset, extent.length})));
    // A file has its object's number: only what is not in one yet can get one.
    if (record.length >= config_.file_threshold && !from_pack) {
      auto made = OM_TRY(disks_->create_file(record.object_id, record.length));
      place = {{made.id, 0, record.length}};
      copy->to.push_back({std::move(made.file), 0, record.length});
    } else {
      auto slot = OM_TRY(disks_->take_pack(record.object_id, record.length));
      place = {slot.extent};
      copy->to.push_back({std::move(slot.file), slot.extent.offset, record.length});
    }
    copy->disk = disk_of(place.front().segment);
    copy->path = disks_->path_of(copy->disk);
    copy->fault = config_.disk_fault;
    return {};
  };
  if (auto prepared = prepare(); !prepared) return give_up();
  relocating_.insert(record.object_id);  // show() knows
  // The bytes must not be recycled under the worker's hands when the object is removed meanwhile.
  leases_->pin(record.object_id);
  const SegmentId source_segment = record.place.extents.front().segment;
  worker_->run([copy] { run_copy(*copy); },
               [this, copy, place, from_pack, source_segment, key = record.key,
                object = record.object_id, length = record.length, old = record.place] {
                 // Before it is said to be elsewhere.
                 take_off_board(object);
                 relocating_.erase(object);
                 const bool leased = leases_->pins(object) > 1;
                 const auto back = [&] {
                   const auto still = catalog_->find_object(object);
                   if (!from_pack && (!still || *still))
                     memory_policy_->insert(object, length, hash_key(key).low);
                 };
                 if (!copy->result || leased) {
                   // Only the disk that was at fault is blamed: the other one is healthy.
                   if (!copy->result && !copy->source_failed && copy->disk != 0)
                     disks_->report_failure(copy->disk, copy->result.error());
                   if (!copy->result && copy->source_failed &&
                       kind_of(source_segment) == SegmentKind::kPack &&
                       copy->result.error().code == Errc::kSystem)
                     disks_->report_failure(source_segment, copy->result.error());
                   free_place(place);
                   leases_->unpin(object);
                   return back();
                 }
                 catalog::Place where;
                 where.tier = catalog::kTierDisk;
                 where.segment_kind = static_cast<std::uint8_t>(kind_of(place.front().segment));
                 for (const auto& extent : place)
                   where.extents.push_back({extent.segment, extent.offset, extent.length});
                 mark_dirty(object, place.front().segment);  // first, as in publish()
                 const auto moved = catalog_->move(key, object, where);
                 if (!moved || !*moved) {
                   free_place(place);
                   leases_->unpin(object);
                   return back();
                 }
                 std::vector<Extent> freed;
                 for (const auto& extent : old.extents)
                   freed.push_back({extent.segment, extent.offset, extent.length});
                 if (from_pack && (*moved)->durable) {
                   // The old pack may go only when the new place is durable.
                   leases_->unpin(object);
                   after_sync_.push_back(std::move(freed));
                 } else {
                   leases_->unpin(object);
                   free_place(freed);
                 }
                 if (!from_pack) disk_policy_->insert(object, length, hash_key(key).low);
                 ++(from_pack ? count_.compacted : count_.demoted);
               });
}

void StoreImpl::probe_disks() {
  probe_running_ = true;
  last_probe_ns_ = clock_.monotonic_ns();
  struct Probe {
    std::vector<std::pair<std::uint16_t, UniqueFd>> directories;
    std::vector<std::pair<std::uint16_t, Error>> failed;
  };
  auto probe = std::make_shared<Probe>();
  probe->directories = disks_->directories();
  std::vector<std::string> paths;
  for (const auto& [id, directory] : probe->directories) paths.push_back(disks_->path_of(id));
  worker_->run(
      [probe, paths, fault = config_.disk_fault] {
        for (std::size_t i = 0; i < paths.size(); ++i) {
          const std::uint16_t id = probe->directories[i].first;
          const UniqueFd& directory = probe->directories[i].second;
          const auto try_it = [&]() -> Result<void> {
            if (fault)
              if (const int reason = fault("write", paths[i]); reason != 0)
                return Error{Errc::kSystem, reason, "write"};
            const std::array<std::byte, 512> bytes{};
            const auto file = OM_TRY(open_at(directory.borrow(), "probe", O_RDWR | O_CREAT));
            OM_TRY(write_exactly(file.borrow(), 0, bytes));
            return sync_data(file.borrow());
          };
          // A full file system is no broken one.
          if (auto tried = try_it(); !tried && tried.error().code != Errc::kNoSpace)
            probe->failed.emplace_back(id, std::move(tried).error());
        }
      },
      [this, probe] {
        probe_running_ = false;
        for (const auto& [id, error] : probe->failed) disks_->report_failure(id, error);
      });
}

// --- status

std::vector<StatusItem> StoreImpl::status() {
  std::vector<StatusItem> items;
  const auto number = [&](const char* name, std::uint64_t value) {
    items.push_back({name, value, ""});
  };
  const catalog::Status index = catalog_->status();
  (void)collect_all();
  take_touches();
  number("objects", index.objects);
  number("memory.capacity_bytes", memory_->capacity());
  number("memory.used_bytes", memory_->used());
  number("memory.objects", memory_policy_->objects());
  number("memory.segments", memory_->segment_count());
  number("memory.segment_bytes", memory_->segment_total());
  number("memory.faulted_bytes", memory_->faulted());
  items.push_back({"memory.pages", 0, memory_->pages()});
  number("memory.huge_bytes", memory_->huge());
  number("memory.region_bytes", memory_->region_bytes());
  number("memory.staging_bytes", staging_->used());
  number("held.objects", held_.size());
  number("held.bytes", held_bytes_);
  number("disk.objects", disk_policy_->objects());
  disks_->add_status(items);
  number("holders", leases_->holders());
  number("holders.orphans", leases_->orphans());
  number("leases", leases_->leases());
  number("leases.overdue", leases_->mark_overdue(clock_.monotonic_ns(), config_.revoke_grace_ns));
  number("board.bytes", board_ == nullptr ? 0 : board_->bytes());
  number("board.objects", board_ == nullptr ? 0 : board_->objects());
  number("board.counters", board_ == nullptr ? 0 : board_->counters());
  number("board.pages", pages_->pages());
  number("board.gets", pages_->gets());
  number("board.looks", pages_->looks());
  number("board.pins", pages_->pins());
  number("claims.holders", claims_ == nullptr ? 0 : claims_->given());
  number("claims.wanted", count_.claims_wanted);
  number("claims.reserved", count_.claims_reserved);
  number("claims.put", count_.claims_put);
  number("claims.dropped", count_.claims_dropped);
  number("puts", puts_.size());
  number("waits", waits_.size());
  number("expiries", expiries_.size() + sifting_.size());
  number("regions", regions_.size());
  number("hits", count_.hits);
  number("misses", count_.misses);
  number("published", count_.published);
  number("refreshed", count_.refreshed);
  number("aborted", count_.aborted);
  number("removed", count_.removed);
  number("expired", count_.expired);
  number("evicted.memory", count_.evicted_memory);
  number("evicted.disk", count_.evicted_disk);
  number("demoted", count_.demoted);
  number("compacted", count_.compacted);
  number("revoked", count_.revoked);
  number("no_space", count_.no_space);
  number("removals.head", removal_log_->head());
  number("removals.oldest", removal_log_->oldest());
  number("removals.bytes", removal_log_->bytes());
  number("catalog.index_bytes", index.index_bytes);
  number("catalog.journal_bytes", index.journal_bytes);
  number("catalog.overlay_entries", index.overlay_entries);
  number("catalog.group_syncs", index.group_syncs);
  number("catalog.sync_failures", count_.sync_failures);
  if (!removal_log_->report().empty())
    items.push_back({"removals.recovery", 0, removal_log_->report()});
  if (!catalog_->recovery().report.empty())
    items.push_back({"catalog.recovery", 0, catalog_->recovery().report});
  return items;
}

std::vector<std::string> StoreImpl::take_troubles() {
  auto troubles = std::exchange(troubles_, {});
  if (disks_ == nullptr) return troubles;  // the start did not get so far
  for (auto& line : disks_->take_troubles()) troubles.push_back(std::move(line));
  return troubles;
}

}  // namespace om::store
