// How objects go: removed, replaced, evicted; and what becomes of their bytes.
#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

// Enough to make room, few enough not to wake every reader there is.
constexpr std::size_t kAskedAtOnceMax = 64;
constexpr std::size_t kLookedAtMax = 1024;  // of them in one go
constexpr std::uint64_t kAskedShare = 64;   // of the tier, divided by
// Leases that are gone through in a tick to find those: more often only where they are few.
constexpr std::size_t kGoneThroughMax = 65536;
// How often in a tick it is found that nothing can be evicted. More than once, since a policy
// passes over what was asked for lately and comes to it the next time.
constexpr unsigned kStuckMax = 4;
// Of the tier, by division: while more than that is free, and in pieces that are too small, nothing
// goes for the sake of larger ones, nor does much at a time. Where objects go to disk as long as
// less than a sixteenth is free, half of that.
constexpr std::uint64_t kScrapsShare = 16;
// Packs with less than this alive are emptied to make room.
constexpr unsigned kEmptiedPercent = 25;
// What goes with one write to the journal: a small part of what that keeps for removals on a full
// file system (catalog/journal.h), or nothing could go there any more.
constexpr std::size_t kLeavingMax = 64;
constexpr std::size_t kLeavingKeyBytesMax = std::size_t{64} * 1024;

struct Leaving {
  std::vector<catalog::Record> records;
  std::size_t key_bytes = 0;

  void add(catalog::Record record) {
    key_bytes += record.key.size();
    records.push_back(std::move(record));
  }
  [[nodiscard]] bool has(ObjectId object) const {
    return std::any_of(records.begin(), records.end(),
                       [&](const auto& record) { return record.object_id == object; });
  }
  [[nodiscard]] bool is_full() const {
    return records.size() >= kLeavingMax || key_bytes >= kLeavingKeyBytesMax;
  }
};

std::vector<Extent> extents_of(const catalog::Record& record) {
  std::vector<Extent> extents;
  for (const auto& extent : record.place.extents)
    extents.push_back({extent.segment, extent.offset, extent.length});
  return extents;
}

}  // namespace

void StoreImpl::emit(EventKind kind, std::string_view key, ObjectId object, LeaseId lease_id,
                     HolderId holder) {
  if (listener_) listener_({kind, key, object, lease_id, holder});
}

void StoreImpl::free_place(std::vector<Extent> extents) {
  if (extents.empty()) return;
  if (kind_of(extents.front().segment) == SegmentKind::kMemory) {
    // A direct put that outgrew memory has its file last.
    while (!extents.empty() && kind_of(extents.back().segment) != SegmentKind::kMemory) {
      disks_->free({extents.back()});
      file_gone(extents.back().segment);
      extents.pop_back();
    }
    memory_->give_back(extents);
  } else {
    disks_->free(extents);
    file_gone(extents.front().segment);
  }
}

Result<void> StoreImpl::write_down(const catalog::Record& record) {
  if (!leases_->pinned(record.object_id) || record.place.extents.empty()) return {};
  return write_held(record.object_id, extents_of(record));
}

Result<void> StoreImpl::write_held(ObjectId object, const std::vector<Extent>& extents) {
  if (config_.disk_fault)
    if (const int reason = config_.disk_fault("held", config_.memory_dir); reason != 0)
      return Error{reason == ENOSPC ? Errc::kNoSpace : Errc::kSystem, reason, "write what is held"};
  return held_log_->append(object, extents);
}

void StoreImpl::retire(const catalog::Record& record) {
  memory_policy_->erase(record.object_id);
  disk_policy_->erase(record.object_id);
  if (record.expires_ns != 0) ++stale_expiries_;
  OM_ASSERT(!may_be_read_by_board(record.object_id));
  if (leases_->pinned(record.object_id)) return keep(record.object_id, extents_of(record));
  // Most lie in memory, in one piece.
  if (const auto& extents = record.place.extents;
      extents.size() == 1 && kind_of(extents.front().segment) == SegmentKind::kMemory) {
    const auto& [segment, offset, length] = extents.front();
    return memory_->give_back(Extent{segment, offset, length});
  }
  free_place(extents_of(record));
}

void StoreImpl::keep(ObjectId object, const std::vector<Extent>& extents) {
  for (const auto& extent : extents) held_bytes_ += extent.length;
  auto& held = held_[object];
  held.insert(held.end(), extents.begin(), extents.end());
}

void StoreImpl::unpinned(ObjectId object) {
  ++unpins_;
  forget_follow(object);
  const auto found = held_.find(object);
  if (found == held_.end()) return;
  auto extents = std::move(found->second);
  held_.erase(found);
  for (const auto& extent : extents) held_bytes_ -= extent.length;
  free_place(std::move(extents));
}

// `durable`: set when the removal must be synced before it is answered.
Result<void> StoreImpl::remove_records(std::vector<catalog::Record>& records, bool& durable) {
  for (const auto& record : records) OM_TRY(write_down(record));
  OM_TRY(catalog_->remove_all(records));
  for (const auto& record : records) {
    durable = durable || record.durable;
    retire(record);
    emit(EventKind::kRemoved, record.key, record.object_id);
  }
  return {};
}

Result<bool> StoreImpl::remove_object(std::string_view key, bool& durable) {
  auto record = OM_TRY(catalog_->find(key));
  if (!record) return false;
  std::vector<catalog::Record> records;
  records.push_back(*std::move(record));
  OM_TRY(remove_records(records, durable));
  return true;
}

// Some at a time. Returns how many there were.
Result<std::uint64_t> StoreImpl::remove_each(const std::vector<std::string>& keys, bool& durable) {
  std::uint64_t removed = 0;
  Leaving leaving;
  const auto remove_them = [&]() -> Result<void> {
    OM_TRY(remove_records(leaving.records, durable));
    removed += leaving.records.size();
    leaving = Leaving();
    return {};
  };
  for (const auto& key : keys) {
    auto record = OM_TRY(catalog_->find(key));
    if (!record || leaving.has(record->object_id)) continue;
    leaving.add(*std::move(record));
    if (leaving.is_full()) OM_TRY(remove_them());
  }
  OM_TRY(remove_them());
  return removed;
}

Result<Removed> StoreImpl::remove(std::string_view key) {
  Removed answer;
  const bool there = OM_TRY(look_up(key)).has_value();
  // What nobody may see any more is removed all the same, but does not count.
  const bool removed = OM_TRY(remove_object(key, answer.durable));
  if (removed && there) answer.count = 1;
  count_.removed += answer.count;
  return answer;
}

Result<std::uint64_t> StoreImpl::remove_keys(const std::string& prefix, bool& durable) {
  std::uint64_t removed = 0;
  std::string after;
  for (;;) {
    std::vector<std::string> keys;
    OM_TRY(catalog_->list(prefix, after, 1000, [&](const catalog::Record& record) {
      keys.push_back(record.key);
      if (board_ != nullptr) hide(record.object_id);  // so that one look does for all
      return true;
    }));
    if (keys.empty()) break;
    removed += OM_TRY(remove_each(keys, durable));
    after = keys.back();
  }
  return removed;
}

Result<Removed> StoreImpl::remove_prefix(std::string_view prefix) {
  Removed answer;
  answer.count = OM_TRY(remove_keys(std::string(prefix), answer.durable));
  count_.removed += answer.count;
  return answer;
}

Result<Removed> StoreImpl::remove_tag(std::string_view tag) {
  Removed answer;
  const auto keys = OM_TRY(catalog_->keys_with_tag(tag));
  answer.count = OM_TRY(remove_each(keys, answer.durable));
  count_.removed += answer.count;
  return answer;
}

// --- for every cache

Result<Recorded> StoreImpl::record(Removal removal) {
  Recorded recorded;
  bool durable = false;
  const auto remove_tagged = [&](const std::string& tag) -> Result<void> {
    const auto keys = OM_TRY(catalog_->keys_with_tag(tag));
    recorded.removed += OM_TRY(remove_each(keys, durable));
    return {};
  };
  // The objects go first: whoever learns of the removal does not find them any more, and a crash in
  // between has removed too much at worst.
  switch (removal.kind) {
    case RemovalKind::kPurge:
      if (OM_TRY(remove_object(removal.what, durable))) ++recorded.removed;
      recorded.removed += OM_TRY(remove_keys(removal.what + "#", durable));
      if (!removal.tag.empty()) OM_TRY(remove_tagged(removal.tag));
      break;
    case RemovalKind::kTag:
    case RemovalKind::kTagSoft: OM_TRY(remove_tagged(removal.what)); break;
    case RemovalKind::kBan: break;
  }
  const Removal* const entry = OM_TRY(removal_log_->append(std::move(removal)));
  recorded.sequence = entry->sequence;
  recorded.time_ns = entry->time_ns;
  count_.removed += recorded.removed;
  return recorded;
}

// What is on disk may come back after power loss, here or in a cache's own region: then its removal
// has to be on disk as well. In memory alone nothing comes back.
void StoreImpl::sync_removals(std::function<void(Result<void>)> done) {
  if (config_.disks.empty()) return done({});
  removal_syncs_.push_back(std::move(done));
  if (removal_sync_runs_) return;
  removal_sync_runs_ = true;
  // One sync for all that came meanwhile.
  auto waiting = std::make_shared<std::vector<std::function<void(Result<void>)>>>();
  waiting->swap(removal_syncs_);
  auto result = std::make_shared<Result<void>>();
  removal_worker_->run(
      [this, result] {
        *result = removal_log_->sync();
        if (*result) *result = catalog_->sync_removals();
      },
      [this, waiting, result] {
        removal_sync_runs_ = false;
        for (const auto& call : *waiting) call(*result);
        if (removal_syncs_.empty() || removal_sync_runs_) return;
        auto next = std::move(removal_syncs_.back());
        removal_syncs_.pop_back();
        sync_removals(std::move(next));
      });
}

// --- room

bool StoreImpl::evict_from(eviction::Policy& policy, std::uint64_t wanted) {
  const bool is_memory = &policy == memory_policy_.get();
  // To go through all that is there for each put that is refused would keep everybody waiting. It
  // is in vain until something is let go of or published.
  Stuck& stuck = is_memory ? memory_stuck_ : disk_stuck_;
  const std::uint64_t changes = unpins_ + count_.published;
  if (stuck.changes != changes) stuck = {changes, 0};
  if (stuck.times == kStuckMax) return false;
  // Nobody begins to read what was chosen: it is off the board, and was looked for (is_in_use()).
  Leaving leaving;
  std::uint64_t bytes = 0;
  while (leaving.records.empty() || (bytes < wanted && !leaving.is_full())) {
    const auto victim = policy.evict([this](ObjectId id) { return is_in_use(id); });
    if (!victim) {
      ++stuck.times;  // what has been chosen goes, and there is nothing else
      break;
    }
    auto record = catalog_->find_object(victim->id);
    if (!record) {
      policy.insert(victim->id, victim->bytes, victim->id);  // it is there still
      break;
    }
    if (!*record) continue;
    bytes += Slots::rounded(victim->bytes);
    leaving.add(**std::move(record));
  }
  if (leaving.records.empty()) return false;
  bool durable = false;
  if (!remove_records(leaving.records, durable)) {
    // They are there still, and must be found when there is room to write that they go.
    for (const auto& record : leaving.records)
      policy.insert(record.object_id, record.length, hash_key(record.key).low);
    return false;
  }
  (is_memory ? count_.evicted_memory : count_.evicted_disk) += leaving.records.size();
  return true;
}

Result<std::optional<std::vector<Extent>>> StoreImpl::take_memory(std::uint64_t length,
                                                                  bool may_evict, bool may_ask,
                                                                  std::uint64_t piece) {
  const std::uint64_t capacity = memory_->object_capacity();
  if (length > capacity) return std::optional<std::vector<Extent>>();
  const std::uint64_t needed = Slots::rounded(length);
  const std::uint64_t before = memory_->free_bytes();
  for (;;) {
    auto extents = memory_->take(length, piece);
    if (extents) return extents;
    const std::uint64_t there = memory_->free_bytes();
    if (piece > Slots::kGranule) {
      const std::uint64_t scraps = capacity / (may_evict ? kScrapsShare : 2 * kScrapsShare);
      if (there >= needed + scraps || there >= before + 2 * needed)
        return Error{Errc::kBusy, 0, "what memory has free is in small pieces: reserve"};
    }
    if (!may_evict) return extents;
    // Enough, but in too many pieces: as much more as a piece has to have.
    const std::uint64_t wanted = needed > there ? needed - there : needed / Slots::kExtentsMax;
    if (evict_from(*memory_policy_, wanted) || collect_all()) continue;
    if (may_ask) ask_back(Tier::kMemory, length);
    return std::optional<std::vector<Extent>>();
  }
}

bool StoreImpl::make_disk_room(std::uint64_t length) {
  const bool file = length >= config_.file_threshold;
  while (!disks_->room_for(length, file)) {
    if (length > disks_->capacity() || !disks_->any()) return false;
    if (evict_disk() || collect_all()) continue;
    ask_back(Tier::kDisk, length);
    return disks_->room_for(length, file);
  }
  return true;
}

bool StoreImpl::evict_disk() {
  if (!evict_from(*disk_policy_)) return false;
  // Objects in packs give no space back one by one: a pack that is mostly dead goes altogether.
  const auto may_leave = [this](SegmentId pack, ObjectId object) {
    return movable(pack, object).has_value();
  };
  if (const auto sparse = disks_->sparse_pack(kEmptiedPercent, may_leave)) {
    for (const ObjectId object : sparse->members) {
      const auto record = movable(sparse->pack, object);
      if (!record) continue;
      bool durable = false;
      const auto removed = remove_object(record->key, durable);
      if (removed && *removed) ++count_.evicted_disk;
    }
  }
  return true;
}

// Everything that is left in the tier is leased: readers are asked to let go of the oldest objects,
// of twice what is needed and some more (what they give back may be in pieces, and others wait
// too).
void StoreImpl::ask_back(Tier tier, std::uint64_t needed) {
  if (leases_gone_through_ >= kGoneThroughMax) return;
  leases_gone_through_ += leases_->leases();
  const std::uint64_t capacity =
      tier == Tier::kMemory ? memory_->object_capacity() : disks_->capacity();
  const std::uint64_t wanted = 2 * needed + capacity / kAskedShare;
  const std::uint64_t now = clock_.monotonic_ns();
  std::uint64_t bytes = 0;
  std::size_t asked = 0;
  // Those that nobody can be asked for, since their holders are gone or keep what they were asked
  // for, are not among them: they would stand in the way of all others.
  const std::vector<ObjectId> objects = leases_->revocable(now, config_.revoke_grace_ns);
  // What is still being written stays, whoever of its readers lets go.
  std::unordered_set<ObjectId> being_written;
  for (const auto& [id, put] : puts_) being_written.insert(put->object_id);
  auto at = std::lower_bound(objects.begin(), objects.end(), std::exchange(ask_from_, ObjectId{0}));
  for (std::size_t looked = 0; looked < objects.size(); ++looked, ++at) {
    if (at == objects.end()) at = objects.begin();
    const ObjectId object = *at;
    if (looked == kLookedAtMax) {
      ask_from_ = object;
      return;
    }
    if (being_written.count(object) != 0) continue;
    const auto record = catalog_->find_object(object);
    std::string key;
    std::uint64_t length = 0;
    if (record && *record) {
      if (static_cast<Tier>((*record)->place.tier) != tier) continue;
      key = (*record)->key;
      length = (*record)->length;
    } else if (const auto held = held_.find(object); held != held_.end()) {
      for (const auto& extent : held->second) length += extent.length;
    }
    const auto told = leases_->revoke(object, now);
    for (const auto& [holder, lease_id] : told) {
      emit(EventKind::kRevoked, key, object, lease_id, holder);
      ++count_.revoked;
    }
    if (!told.empty()) bytes += length;
    if (bytes >= wanted || ++asked == kAskedAtOnceMax) return;
  }
}

// An event may be lost on its way to a peer. One that keeps a lease because of that would be
// refused others for good.
void StoreImpl::ask_again(std::uint64_t now_ns) {
  for (const auto& one : leases_->tell_again(now_ns, config_.revoke_grace_ns)) {
    const auto record = catalog_->find_object(one.object);
    emit(EventKind::kRevoked, record && *record ? std::string_view((*record)->key) : "", one.object,
         one.lease, one.holder);
  }
}

}  // namespace om::store
