#include "store/catalog/catalog.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "store/catalog/impl.h"

namespace om::catalog {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace

// --- under mutex_

const OverlayEntry* Catalog::Impl::overlaid(const HashedKey& key) const {
  const OverlayEntry* const entry = active_.find(key);
  return entry != nullptr ? entry : frozen_.find(key);
}

Result<std::string> Catalog::Impl::payload_of(const OverlayEntry& entry) {
  std::string payload(entry.payload_bytes, '\0');
  const auto got = OM_TRY(entry.file->log->read_at(
      entry.payload_offset, {reinterpret_cast<std::byte*>(payload.data()), payload.size()}));
  if (got != payload.size()) return Error{Errc::kCorrupt, 0, "the journal lost an entry"};
  return payload;
}

Result<Record> Catalog::Impl::record_of(const OverlayEntry& entry) {
  if (entry.record != nullptr) return *entry.record;
  const std::string payload = OM_TRY(payload_of(entry));
  auto record = OM_TRY(decode_record(bytes_of(payload)));
  if (record.sequence != entry.sequence)
    return Error{Errc::kCorrupt, 0, "the journal has another entry where one was written"};
  return record;
}

Result<Catalog::Impl::Ref> Catalog::Impl::shared_record_of(const OverlayEntry& entry) {
  if (!entry.live) return Ref();
  if (entry.record != nullptr) return entry.record;
  return Ref(std::make_shared<Record>(OM_TRY(record_of(entry))));
}

// --- changes

// Whoever shows others what is there must not show it when it is there no more.
Result<void> Catalog::Impl::tell(const Draft& draft) const {
  if (!options_.before_change || draft.old == nullptr) return {};
  const bool stays = draft.type == EntryType::kPublish &&
                     draft.record->object_id == draft.old->object_id &&
                     draft.record->place == draft.old->place;
  return options_.before_change(*draft.old, stays);
}

void Catalog::Impl::tell_presence(const Draft& draft, bool there) const {
  if (options_.on_presence) options_.on_presence(draft.key.text, there);
}

// Under mutex_.
void Catalog::Impl::prepare(Draft& draft, std::uint64_t sequence) {
  const OverlayEntry* const active = active_.find(draft.key);
  const OverlayEntry* const entry = active != nullptr ? active : frozen_.find(draft.key);
  draft.entry = entry;
  // A record that remove_all() was given is what its key names.
  OM_ASSERT(draft.type != EntryType::kRemove || entry == nullptr ||
            (entry->live && entry->object_id == draft.old->object_id));
  if (entry == nullptr) {
    // It is in the index by now, wherever it was when it was found.
    draft.hides_durable = draft.old != nullptr && draft.old->survives_boot();
  } else {
    // What `active` published never reaches the index.
    draft.hides_durable =
        entry->hides_durable || (active == nullptr && entry->live && entry->survives_boot);
  }
  draft.sequence = sequence;
  if (draft.record != nullptr) {
    draft.record->sequence = sequence;
    draft.record->durable = false;
  }
  EntryHeader header{};
  header.type = static_cast<std::uint16_t>(draft.type);
  header.sequence = sequence;
  header.synced_sequence = std::max(synced_, applied_);
  header.key_high = draft.key.hash.high;
  header.key_low = draft.key.hash.low;
  header.object_id = draft.object_id();
  draft.added = journal_->add(header, [&draft](std::string& out) {
    if (draft.record != nullptr)
      encode_record(*draft.record, out);
    else
      out.append(draft.key.text);
  });
}

// Under mutex_, once it is in the journal. Takes the record, if it is kept.
void Catalog::Impl::apply(Draft& draft) {
  // What is overlaid is not among them: look() finds it in the overlay first.
  if (draft.old != nullptr && draft.entry == nullptr) hot_.forget(draft.key.hash);
  sequence_ = draft.sequence;
  OverlayEntry entry;
  entry.object_id = draft.object_id();
  entry.sequence = draft.sequence;
  entry.file = draft.added.file;
  entry.payload_offset = draft.added.payload_offset;
  entry.payload_bytes = draft.added.payload_bytes;
  entry.live = draft.record != nullptr;
  entry.tagged = entry.live && !draft.record->tags.empty();
  entry.survives_boot = entry.live && draft.record->survives_boot();
  entry.hides_durable = draft.hides_durable;
  if (entry.live && draft.old == nullptr) ++objects_;
  if (!entry.live) --objects_;
  // So many as a group sync is called for at the latest: memory that objects take must not be.
  if (entry.live && active_.size() < options_.overlay_entries_wanted &&
      HotRecords::is_short(*draft.record))
    entry.record = std::move(draft.record);
  active_.put(draft.key, std::move(entry));
}

// Under mutex_.
Result<void> Catalog::Impl::write_all(std::span<Draft> drafts) {
  std::uint64_t sequence = sequence_;
  for (Draft& draft : drafts) prepare(draft, ++sequence);
  OM_TRY(journal_->write_added());
  for (Draft& draft : drafts) apply(draft);
  return {};
}

Result<std::optional<Record>> Catalog::Impl::change(EntryType type, Record record,
                                                    bool expect_object) {
  Draft draft;
  draft.type = type;
  draft.key = hashed(record.key);
  auto old = OM_TRY(find(draft.key));
  if (type == EntryType::kRemove && !old) return old;
  if (expect_object) {
    if (!old || old->object_id != record.object_id) return std::optional<Record>();
    Place place = std::move(record.place);
    record = *old;
    record.place = std::move(place);
  }
  std::shared_ptr<Record> said;
  if (type != EntryType::kRemove) {
    OM_TRY(check_limits(record));
    said = std::make_shared<Record>(std::move(record));
    draft.key.text = said->key;
    draft.record = said;
  }
  if (old) draft.old = &*old;
  OM_TRY(tell(draft));
  if (!old) tell_presence(draft, true);
  const auto write = [&]() -> Result<void> {
    const std::lock_guard lock(mutex_);
    return write_all({&draft, 1});
  };
  const auto done = write();
  if (done ? type == EntryType::kRemove : !old) tell_presence(draft, false);
  if (!done) return done.error();
  if (old) old->durable = draft.hides_durable;
  return old;
}

// Each of them is looked for before any is looked at: hardly anything of it is in the processor's
// cache, and so many can be waited for together.
Result<void> Catalog::Impl::look_all(std::span<Draft> drafts, std::span<Publication> publications) {
  {
    const std::lock_guard lock(mutex_);
    for (Draft& draft : drafts) draft.entry = overlaid(draft.key);
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      const OverlayEntry* const entry = drafts[i].entry;
      if (entry != nullptr) publications[i].replaced = OM_TRY(shared_record_of(*entry));
    }
  }
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    if (drafts[i].entry == nullptr)
      publications[i].replaced = OM_TRY(look_into_index(drafts[i].key, false));
    drafts[i].old = publications[i].replaced.get();
  }
  return {};
}

Result<void> Catalog::Impl::publish_all(std::vector<Publication>& publications) {
  if (publications.empty()) return {};
  std::vector<Draft> drafts(publications.size());
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    Publication& one = publications[i];
    Draft& draft = drafts[i];
    OM_TRY(check_limits(*one.record));
    draft.type = EntryType::kPublish;
    draft.key = hashed(one.record->key);
    draft.record = one.record;
  }
  OM_TRY(look_all(drafts, publications));
  for (const Draft& draft : drafts) OM_TRY(tell(draft));
  const auto tell_fresh = [&](bool there) {
    for (const Draft& draft : drafts)
      if (draft.old == nullptr) tell_presence(draft, there);
  };
  tell_fresh(true);
  const std::lock_guard lock(mutex_);
  if (auto written = write_all(drafts); !written) {
    tell_fresh(false);
    return written;
  }
  for (std::size_t i = 0; i < drafts.size(); ++i)
    publications[i].replaced_durable = drafts[i].old != nullptr && drafts[i].hides_durable;
  return {};
}

Result<void> Catalog::Impl::remove_all(std::vector<Record>& records) {
  if (records.empty()) return {};
  std::vector<Draft> drafts(records.size());
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    drafts[i].type = EntryType::kRemove;
    drafts[i].key = hashed(records[i].key);
    drafts[i].old = &records[i];
  }
  for (const Draft& draft : drafts) OM_TRY(tell(draft));
  {
    const std::lock_guard lock(mutex_);
    OM_TRY(write_all(drafts));
  }
  for (std::size_t i = 0; i < drafts.size(); ++i) {
    records[i].durable = drafts[i].hides_durable;
    tell_presence(drafts[i], false);
  }
  return {};
}

// --- looking

Result<std::optional<Record>> Catalog::Impl::find(const HashedKey& key) {
  if (key.text.empty() || key.text.size() > kKeyBytesMax) return std::optional<Record>();
  {
    const std::lock_guard lock(mutex_);
    if (const OverlayEntry* entry = overlaid(key)) {
      if (!entry->live) return std::optional<Record>();
      return std::optional<Record>(OM_TRY(record_of(*entry)));
    }
  }
  if (const auto hot = hot_.find(key.hash, key.text)) return std::optional<Record>(*hot);
  return index_->find(key.hash, key.text);
}

Result<Catalog::Impl::Ref> Catalog::Impl::look(std::string_view key) {
  if (key.empty() || key.size() > kKeyBytesMax) return Ref();
  const HashedKey known = hashed(key);
  {
    const std::lock_guard lock(mutex_);
    if (const OverlayEntry* entry = overlaid(known)) return shared_record_of(*entry);
  }
  return look_into_index(known, true);
}

Result<Catalog::Impl::Ref> Catalog::Impl::look_into_index(const HashedKey& key, bool remember) {
  if (Ref hot = hot_.find(key.hash, key.text)) return hot;
  auto found = OM_TRY(index_->find(key.hash, key.text));
  if (!found) return Ref();
  Ref record = std::make_shared<Record>(*std::move(found));
  if (remember) hot_.keep(key.hash, record);
  return record;
}

Result<std::optional<Record>> Catalog::Impl::find_object(std::uint64_t object_id) {
  for (;;) {
    std::uint64_t applied = 0;
    {
      const std::lock_guard lock(mutex_);
      applied = applied_;
      for (const Overlay* overlay : {&active_, &frozen_}) {
        const Overlay::Key* const key = overlay->key_of(object_id);
        if (key == nullptr) continue;
        const OverlayEntry* const entry = overlaid(key->view());
        if (!entry->live || entry->object_id != object_id) return std::optional<Record>();
        return std::optional<Record>(OM_TRY(record_of(*entry)));
      }
    }
    auto found = OM_TRY(index_->find_object(object_id));
    if (!found) return found;
    const std::lock_guard lock(mutex_);
    // A group sync was over between the two looks: what it took away may have been found still.
    if (applied_ != applied) continue;
    if (const OverlayEntry* entry = overlaid(hashed(found->key))) {
      // Removed or replaced since, or (written to the index between the two looks) the very same.
      if (!entry->live || entry->object_id != object_id) return std::optional<Record>();
    }
    return found;
  }
}

Result<void> Catalog::Impl::for_each(const std::function<void(const Record&)>& fn) {
  const std::lock_guard lock(mutex_);
  OM_TRY(index_->for_each([&](const Record& record) {
    if (overlaid(hashed(record.key)) == nullptr) fn(record);
    return true;
  }));
  for (const Overlay* overlay : {&active_, &frozen_}) {
    for (const auto& [key, entry] : overlay->entries()) {
      if (!entry.live || overlaid(key.view()) != &entry) continue;
      fn(OM_TRY(record_of(entry)));
    }
  }
  return {};
}

Result<void> Catalog::Impl::list(std::string_view prefix, std::string_view after, std::size_t limit,
                                 const std::function<bool(const Record&)>& fn) {
  if (limit == 0) return {};
  const std::lock_guard lock(mutex_);
  using Live = std::pair<std::string_view, const OverlayEntry*>;
  std::vector<Live> lives;
  for (const Overlay* overlay : {&active_, &frozen_}) {
    for (const auto& [key, entry] : overlay->entries()) {
      if (entry.live && std::string_view(key.text) > after &&
          key.text.compare(0, prefix.size(), prefix) == 0 && overlaid(key.view()) == &entry) {
        lives.emplace_back(key.text, &entry);
      }
    }
  }
  std::sort(lives.begin(), lives.end());
  auto next = lives.begin();
  std::size_t given = 0;
  bool go_on = true;
  Result<void> failed;
  const auto give = [&](const Record& record) {
    ++given;
    go_on = fn(record) && given < limit;
  };
  const auto give_until = [&](const std::string* key) {
    for (; go_on && next != lives.end() && (key == nullptr || next->first <= *key); ++next) {
      auto record = record_of(*next->second);
      if (!record) {
        failed = std::move(record).error();
        go_on = false;
        return;
      }
      give(*record);
    }
  };
  OM_TRY(index_->list(prefix, after, [&](const Record& record) {
    give_until(&record.key);
    if (go_on && overlaid(hashed(record.key)) == nullptr) give(record);
    return go_on;
  }));
  give_until(nullptr);
  return failed;
}

Result<std::vector<std::string>> Catalog::Impl::keys_with_tag(std::string_view tag) {
  std::vector<std::string> keys;
  const std::lock_guard lock(mutex_);
  OM_TRY(index_->with_tag(tag, [&](std::string_view key) {
    if (overlaid(hashed(key)) == nullptr) keys.emplace_back(key);
  }));
  for (const Overlay* overlay : {&active_, &frozen_}) {
    for (const auto& [key, entry] : overlay->entries()) {
      if (!entry.live || !entry.tagged || overlaid(key.view()) != &entry) continue;
      const Record record = OM_TRY(record_of(entry));
      if (std::find(record.tags.begin(), record.tags.end(), tag) != record.tags.end())
        keys.push_back(key.text);
    }
  }
  return keys;
}

// --- durability

Result<void> Catalog::Impl::sync_removals() {
  struct Work {
    Journal::FilePtr file;
    std::uint64_t last = 0;
  };
  std::vector<Work> work;
  std::uint64_t target = 0;
  {
    const std::lock_guard lock(mutex_);
    target = sequence_;
    if (std::max(synced_, applied_) >= target) return {};
    for (const auto& file : journal_->files()) {
      if (file->sync_failed && file->last_sequence > applied_)
        return Error{Errc::kUnavailable, 0, "the journal could not be synced; wait for the index"};
      if (file->last_sequence > std::max(file->synced_sequence, applied_))
        work.push_back({file, file->last_sequence});
    }
  }
  Result<void> outcome;
  for (const Work& one : work) {
    const auto synced = one.file->log->sync();
    const std::lock_guard lock(mutex_);
    if (synced) {
      one.file->synced_sequence = std::max(one.file->synced_sequence, one.last);
    } else {
      one.file->sync_failed = true;
      outcome = synced.error();
    }
  }
  if (!outcome) return outcome;
  const std::lock_guard lock(mutex_);
  synced_ = std::max(synced_, target);
  return {};
}

Result<void> Catalog::Impl::group_sync(const std::function<Result<void>()>& sync_bodies) {
  std::uint64_t cut = 0;
  {
    const std::lock_guard lock(mutex_);
    OM_ASSERT(frozen_.empty());
    frozen_.swap(active_);
    cut = sequence_;
  }
  auto outcome = sync_bodies();
  if (outcome) {
    // Its failure is remembered in the file. What follows makes the same changes durable, and the
    // journal then goes on in another file.
    (void)sync_removals();
    outcome = write_to_index(cut);
  }
  Overlay done;
  {
    const std::lock_guard lock(mutex_);
    if (outcome) {
      done.swap(frozen_);
      applied_ = std::max(applied_, cut);
      ++group_syncs_;
    } else {
      thaw();
    }
    last_group_sync_ns_ = clock_.monotonic_ns();
  }
  done.clear();
  if (!outcome) return outcome;
  return turn_journal(cut);
}

// Batches before the one that failed are in the index for good: what they published is durable by
// now, and whatever takes its place hides it.
void Catalog::Impl::thaw() {
  for (const auto& [key, entry] : frozen_.entries()) {
    if (active_.find(key.view()) != nullptr) continue;
    OverlayEntry back = entry;
    back.hides_durable = back.hides_durable || (back.live && back.survives_boot);
    active_.put(key.view(), std::move(back));
  }
  frozen_.clear();
}

// frozen_ is not changed by anybody else meanwhile, only read. The state goes with the last batch:
// before it, a change that a later one of the same key has overtaken may be in neither place.
Result<void> Catalog::Impl::write_to_index(std::uint64_t cut) {
  using Item = std::pair<const Overlay::Key*, const OverlayEntry*>;
  std::vector<Item> items;
  items.reserve(frozen_.size());
  for (const auto& [key, entry] : frozen_.entries()) items.emplace_back(&key, &entry);
  if (items.empty() && cut == index_->state().applied_sequence) return {};
  std::sort(items.begin(), items.end(),
            [](const Item& a, const Item& b) { return a.second->object_id < b.second->object_id; });
  std::vector<Change> batch;
  std::size_t at = 0;
  do {
    batch.clear();
    std::size_t bytes = 0;
    for (; at < items.size() && batch.size() < options_.batch_entries && bytes < (4u << 20); ++at) {
      const auto& [key, entry] = items[at];
      Change change{key->hash, key->text, entry->sequence, {}};
      if (entry->live) {
        change.object = OM_TRY(payload_of(*entry));
        if (const auto record = decode_record(bytes_of(change.object));
            !record || record->sequence != entry->sequence) {
          return Error{Errc::kCorrupt, 0, "the journal changed under us"};
        }
      }
      bytes += change.object.size() + change.key.size();
      batch.push_back(std::move(change));
    }
    if (options_.before_batch) OM_TRY(options_.before_batch());
    std::optional<Index::State> state;
    if (at == items.size()) state = Index::State{cut, boot_};
    OM_TRY(index_->apply(batch, state));
  } while (at < items.size());
  return {};
}

// Only this thread starts and takes away files, so the current one stays what it is.
Result<void> Catalog::Impl::turn_journal(std::uint64_t applied) {
  bool turn = false;
  std::uint64_t number = 0;
  std::uint64_t first = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto& current = journal_->current();
    turn = current->end > options_.journal_bytes_max || current->sync_failed;
    number = journal_->next_number();
    first = sequence_ + 1;
  }
  if (turn) {
    auto file = OM_TRY(journal_->make_file(number, first, boot_));
    const std::lock_guard lock(mutex_);
    journal_->use_file(std::move(file));
  }
  std::vector<Journal::FilePtr> obsolete;
  {
    const std::lock_guard lock(mutex_);
    obsolete = journal_->take_obsolete(applied);
  }
  for (const auto& file : obsolete) OM_TRY(journal_->delete_file(*file));
  return {};
}

bool Catalog::Impl::wants_sync() {
  const std::lock_guard lock(mutex_);
  if (active_.empty()) return false;
  return active_.size() >= options_.overlay_entries_wanted ||
         clock_.monotonic_ns() - last_group_sync_ns_ >= options_.sync_interval_ns;
}

Result<void> Catalog::Impl::mark_clean(const std::function<Result<void>()>& sync_bodies) {
  OM_TRY(group_sync(sync_bodies));
  {
    const std::lock_guard lock(mutex_);
    EntryHeader header{};
    header.type = static_cast<std::uint16_t>(EntryType::kClean);
    header.sequence = sequence_ + 1;
    header.synced_sequence = std::max(synced_, applied_);
    OM_TRY(journal_->append(header, {}));
    ++sequence_;
  }
  return sync_removals();
}

Status Catalog::Impl::status() {
  Status status;
  const auto sizes = index_->sizes();
  const std::lock_guard lock(mutex_);
  status.objects = objects_;
  status.overlay_entries = active_.size() + frozen_.size();
  status.sequence = sequence_;
  status.synced_sequence = std::max(synced_, applied_);
  status.durable_sequence = applied_;
  status.journal_bytes = journal_->bytes();
  status.index_bytes = sizes.used_bytes;
  status.map_bytes = sizes.map_bytes;
  status.group_syncs = group_syncs_;
  status.last_group_sync_ns = last_group_sync_ns_;
  return status;
}

// --- the door

Catalog::Catalog(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Catalog::~Catalog() = default;

Result<std::unique_ptr<Catalog>> Catalog::open(const std::string& directory, Options options,
                                               const Clock& clock) {
  auto impl = std::make_unique<Impl>(std::move(options), clock);
  OM_TRY(impl->recover(directory));
  return std::unique_ptr<Catalog>(new Catalog(std::move(impl)));
}

Result<std::optional<Record>> Catalog::publish(const Record& record) {
  OM_TRY(check_limits(record));
  return impl_->change(EntryType::kPublish, record, false);
}
Result<void> Catalog::publish_all(std::vector<Publication>& publications) {
  return impl_->publish_all(publications);
}
Result<std::optional<Record>> Catalog::remove(std::string_view key) {
  Record record;
  record.key = key;
  return impl_->change(EntryType::kRemove, std::move(record), false);
}
Result<void> Catalog::remove_all(std::vector<Record>& records) {
  return impl_->remove_all(records);
}
Result<std::optional<Record>> Catalog::move(std::string_view key, std::uint64_t object_id,
                                            const Place& place) {
  Record record;
  record.key = key;
  record.object_id = object_id;
  record.place = place;
  return impl_->change(EntryType::kMove, std::move(record), true);
}
Result<std::optional<Record>> Catalog::find(std::string_view key) { return impl_->find(key); }
Result<std::shared_ptr<const Record>> Catalog::look(std::string_view key) {
  return impl_->look(key);
}
Result<std::optional<Record>> Catalog::find_object(std::uint64_t object_id) {
  return impl_->find_object(object_id);
}
Result<void> Catalog::for_each(const std::function<void(const Record&)>& fn) {
  return impl_->for_each(fn);
}
Result<void> Catalog::list(std::string_view prefix, std::string_view after, std::size_t limit,
                           const std::function<bool(const Record&)>& fn) {
  return impl_->list(prefix, after, limit, fn);
}
Result<std::vector<std::string>> Catalog::keys_with_tag(std::string_view tag) {
  return impl_->keys_with_tag(tag);
}
Result<void> Catalog::sync_removals() { return impl_->sync_removals(); }
Result<void> Catalog::group_sync(const std::function<Result<void>()>& sync_bodies) {
  return impl_->group_sync(sync_bodies);
}
bool Catalog::wants_sync() const { return impl_->wants_sync(); }
Result<void> Catalog::mark_clean(const std::function<Result<void>()>& sync_bodies) {
  return impl_->mark_clean(sync_bodies);
}
const Recovery& Catalog::recovery() const { return impl_->recovery; }
Status Catalog::status() const { return impl_->status(); }

}  // namespace om::catalog
