// recovery.cc: what open() makes of the index and the journal (rules: catalog.h, and the why in
// docs/catalog-format.md, "Recovery").
#include <fcntl.h>

#include <algorithm>
#include <map>
#include <utility>

#include "posix/file.h"
#include "posix/range_lock.h"
#include "store/catalog/impl.h"

namespace om::catalog {
namespace {

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What an entry says its key is now.
struct Said {
  std::string key;
  std::optional<Record> record;  // none: removed
};
std::optional<Said> read_entry(const ScannedEntry& entry) {
  if (entry.damaged) return std::nullopt;
  Said said;
  if (entry.header.type == static_cast<std::uint16_t>(EntryType::kRemove)) {
    said.key = text_of(entry.payload);
    return said;
  }
  auto record = decode_record(entry.payload);
  if (!record || record->sequence != entry.header.sequence) return std::nullopt;
  said.key = record->key;
  said.record = *std::move(record);
  return said;
}

bool is_clean_mark(const ScannedEntry& entry) {
  return entry.header.type == static_cast<std::uint16_t>(EntryType::kClean);
}

}  // namespace

Result<void> Catalog::Impl::recover(const std::string& directory) {
  const UniqueFd made = OM_TRY(open_directory(directory));
  lock_file_ = OM_TRY(open_at(made.borrow(), "lock", O_RDWR | O_CREAT));
  if (!OM_TRY(lock_range_exclusive(lock_file_.borrow(), 0, 1)))
    return Error{Errc::kBusy, 0, "another process has the catalog in " + directory};
  directory_ = options_.journal_directory;
  if (directory_ == nullptr) {
    own_directory_ = OM_TRY(open_log_directory(directory + "/journal"));
    directory_ = own_directory_.get();
  }
  if (options_.boot_id.empty()) options_.boot_id = OM_TRY(boot_id());
  boot_ = hash_key(options_.boot_id);

  auto opened = OM_TRY(Index::open(directory + "/index.mdb", options_.map_bytes, options_.hash));
  index_ = std::move(opened.index);
  recovery.index_lost = opened.lost;
  applied_ = index_->state().applied_sequence;

  journal_ = std::make_unique<Journal>(*directory_);
  bool gap_any = false;
  std::uint64_t gap_first = 0;  // the first number that is missing
  Result<void> failed;
  objects_ = OM_TRY(index_->objects());
  struct Later {
    std::uint64_t sequence = 0;
    bool live = false;
  };
  // Another boot: the last thing that was said of each key, by key, and of each damaged one by
  // hash.
  std::map<std::string, Later> later;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::uint64_t> later_damaged;
  const bool index_knows_boot = index_->state().boot != KeyHash{};
  bool same_boot = index_knows_boot && index_->state().boot == boot_;
  bool drop_index = false;

  Journal::ReplayEvents events;
  events.gap = [&](std::uint64_t first, std::uint64_t last) {
    if (!gap_any) gap_first = first;
    gap_any = true;
    recovery.records_missing += last - first + 1;
    if (!same_boot) return;
    // Removals may be among them: what is older than the hole goes.
    for (const auto& [key, entry] : active_.entries())
      recovery.objects_dropped_damage += entry.live ? 1 : 0;
    active_.clear();
    if (!drop_index) {
      auto count = index_->objects();
      if (count) recovery.objects_dropped_damage += *count;
      drop_index = true;
      if (auto dropped = index_->drop_all(); !dropped) failed = dropped;
    }
    objects_ = 0;
  };
  events.entry = [&](const ScannedEntry& entry, Journal::File& file) {
    ++recovery.records_replayed;
    if (is_clean_mark(entry)) return;
    const KeyHash hash{entry.header.key_high, entry.header.key_low};
    auto said = read_entry(entry);
    if (!said) {
      ++recovery.records_damaged;
      if (!same_boot) {
        later_damaged[{hash.high, hash.low}] = entry.header.sequence;
        return;
      }
      // We know whose entry it was, not what it said: that key is gone.
      std::vector<std::string> keys;
      if (auto indexed = index_->keys_of_hash(hash)) keys = *std::move(indexed);
      for (const auto& [key, overlay_entry] : active_.entries()) {
        if (key.hash == hash) keys.push_back(key.text);
      }
      std::sort(keys.begin(), keys.end());
      keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
      for (const std::string& key : keys) {
        const OverlayEntry* const old = active_.find(hashed(key));
        if (old != nullptr && !old->live) continue;
        OverlayEntry gone;
        gone.sequence = entry.header.sequence;
        gone.hides_durable = true;
        active_.put(hashed(key), std::move(gone));
        --objects_;
        ++recovery.objects_dropped_damage;
      }
      return;
    }
    if (!same_boot) {
      // A move removes nothing: the old place is kept until the index knows the new one.
      if (entry.header.type == static_cast<std::uint16_t>(EntryType::kMove)) return;
      later[said->key] = {entry.header.sequence, said->record.has_value()};
      return;
    }
    const HashedKey key = hashed(said->key);
    OverlayEntry now;
    now.object_id = said->record ? said->record->object_id : entry.header.object_id;
    now.sequence = entry.header.sequence;
    now.file = &file;
    now.payload_offset = entry.payload_offset;
    now.payload_bytes = entry.header.payload_bytes;
    now.live = said->record.has_value();
    now.tagged = now.live && !said->record->tags.empty();
    now.survives_boot = now.live && said->record->survives_boot();
    bool was = false;
    if (const OverlayEntry* old = active_.find(key)) {
      was = old->live;
      now.hides_durable = old->hides_durable;
    } else if (auto indexed = index_->find(key.hash, key.text)) {
      was = indexed->has_value();
      now.hides_durable = was && (*indexed)->durable;
    }
    if (now.live && !was) ++objects_;
    if (!now.live && was) --objects_;
    active_.put(key, std::move(now));
  };

  // Without an index the journal alone knows which boot it was.
  if (!index_knows_boot) {
    Journal peek(*directory_);
    const Journal::ReplayEvents nothing{[](const ScannedEntry&, Journal::File&) {},
                                        [](std::uint64_t, std::uint64_t) {}};
    const auto seen = OM_TRY(peek.replay(0, nothing));
    same_boot = seen.boot == boot_;
    recovery.fresh = seen.files == 0 && !recovery.index_lost;
  }
  const auto replay = OM_TRY(journal_->replay(applied_, events));
  OM_TRY(std::move(failed));
  recovery.same_boot = same_boot;
  recovery.clean = replay.clean;
  recovery.torn_bytes = replay.torn_bytes;
  sequence_ = replay.last_sequence;

  // A hole is only ordinary after power loss, and only where nobody had been told that it was
  // synced.
  const bool journal_gone = replay.files == 0 && (applied_ > 0 || recovery.index_lost);
  const bool hole = gap_any && (same_boot || replay.claimed_synced >= gap_first);
  const bool distrust = hole || journal_gone || replay.file_missing || replay.file_unreadable;
  recovery.removals_may_be_missing = distrust && !recovery.fresh;
  if (distrust && !drop_index) {
    recovery.objects_dropped_damage += OM_TRY(index_->objects());
    OM_TRY(index_->drop_all());
    // What the journal says after such a hole stays, if it is of this boot.
    objects_ = 0;
    if (replay.file_unreadable) {
      recovery.objects_dropped_damage += active_.size();
      active_.clear();
    }
    for (const auto& [key, entry] : active_.entries()) objects_ += entry.live ? 1 : 0;
  }
  if (!same_boot && !recovery.fresh) {
    std::uint64_t highest = sequence_;
    recovery.objects_dropped_boot += OM_TRY(index_->drop([&](const Record& record) {
      highest = std::max(highest, record.sequence);
      if (!record.survives_boot()) return true;
      if (const auto said = later.find(record.key);
          said != later.end() && said->second.sequence > record.sequence) {
        return true;
      }
      const KeyHash hash = options_.hash(record.key);
      const auto said = later_damaged.find({hash.high, hash.low});
      return said != later_damaged.end() && said->second > record.sequence;
    }));
    sequence_ = highest;
    objects_ = OM_TRY(index_->objects());
  }
  if (!same_boot) {
    applied_ = sequence_;
    OM_TRY(index_->apply({}, Index::State{sequence_, boot_}));
  }
  synced_ = applied_;

  auto file = OM_TRY(journal_->make_file(journal_->next_number(), sequence_ + 1, boot_));
  journal_->use_file(std::move(file));
  if (!same_boot) {
    for (const auto& old : journal_->take_old()) OM_TRY(journal_->delete_file(*old));
  }
  last_group_sync_ns_ = clock_.monotonic_ns();
  write_report(replay);
  return {};
}

void Catalog::Impl::write_report(const Journal::Replay& replay) {
  std::string& out = recovery.report;
  const auto say = [&](std::uint64_t count, const char* what) {
    if (count == 0) return;
    if (!out.empty()) out += ", ";
    out += std::to_string(count) + " " + what;
  };
  say(recovery.torn_bytes, "bytes of an unfinished journal entry cut");
  say(recovery.records_damaged, "damaged journal entries");
  say(recovery.records_missing, "journal entries missing");
  say(replay.file_unreadable ? 1 : 0, "journal file unreadable");
  say(replay.file_missing ? 1 : 0, "journal file missing");
  say(recovery.index_lost ? 1 : 0, "index file put aside because it is none");
  say(recovery.objects_dropped_boot, "objects dropped that did not survive the boot");
  say(recovery.objects_dropped_damage, "objects dropped because of the damage");
}

}  // namespace om::catalog
