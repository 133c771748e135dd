// impl.h: the inside of Catalog. catalog.cc has the calls, recovery.cc what open() does.
//
// Two overlays: `active_` takes changes; `frozen_` is what group_sync() is writing to the index. A
// look-up goes active, frozen, index, in this order; an entry leaves `frozen_` only after the
// index's transaction that has it was committed, so nothing falls between.
//
// Locks: mutex_ (everything below it), then Index's own. group_sync holds neither while it syncs.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "posix/unique_fd.h"
#include "store/catalog/catalog.h"
#include "store/catalog/hot_records.h"
#include "store/catalog/index.h"
#include "store/catalog/overlay.h"

namespace om::catalog {

class Catalog::Impl {
 public:
  Impl(Options options, const Clock& clock) : options_(std::move(options)), clock_(clock) {}

  Result<void> recover(const std::string& directory);

  Result<std::optional<Record>> change(EntryType type, Record record, bool expect_object);
  Result<void> publish_all(std::vector<Publication>& publications);
  Result<void> remove_all(std::vector<Record>& records);
  Result<std::optional<Record>> find(const HashedKey& key);
  Result<std::optional<Record>> find(std::string_view key) { return find(hashed(key)); }
  using Ref = std::shared_ptr<const Record>;
  Result<Ref> look(std::string_view key);
  Result<std::optional<Record>> find_object(std::uint64_t object_id);
  Result<void> for_each(const std::function<void(const Record&)>& fn);
  Result<void> list(std::string_view prefix, std::string_view after, std::size_t limit,
                    const std::function<bool(const Record&)>& fn);
  Result<std::vector<std::string>> keys_with_tag(std::string_view tag);
  Result<void> sync_removals();
  Result<void> group_sync(const std::function<Result<void>()>& sync_bodies);
  bool wants_sync();
  Result<void> mark_clean(const std::function<Result<void>()>& sync_bodies);
  Status status();

  Recovery recovery;

 private:
  // --- under mutex_
  const OverlayEntry* overlaid(const HashedKey& key) const;
  [[nodiscard]] HashedKey hashed(std::string_view key) const { return {options_.hash(key), key}; }
  static Result<std::string> payload_of(const OverlayEntry& entry);
  static Result<Record> record_of(const OverlayEntry& entry);
  // Null: there is none any more.
  static Result<Ref> shared_record_of(const OverlayEntry& entry);
  // A change on its way into the journal.
  struct Draft {
    EntryType type{};
    HashedKey key;                   // of `record`, or the caller's
    std::shared_ptr<Record> record;  // what is said of it; null: it is removed
    const Record* old = nullptr;     // what it has until then; null: nothing
    std::uint64_t sequence = 0;
    Journal::Added added;
    const OverlayEntry* entry = nullptr;  // of `old`, under the lock under which it was looked for
    bool hides_durable = false;
    [[nodiscard]] std::uint64_t object_id() const {
      return (record != nullptr ? record.get() : old)->object_id;
    }
  };
  // Without mutex_.
  [[nodiscard]] Result<void> tell(const Draft& draft) const;
  // That a key names something from now on, or nothing any more. With mutex_ or without.
  void tell_presence(const Draft& draft, bool there) const;
  void prepare(Draft& draft, std::uint64_t sequence);
  void apply(Draft& draft);
  // What those who are published replace.
  Result<void> look_all(std::span<Draft> drafts, std::span<Publication> publications);
  // All of them with one write, or none.
  Result<void> write_all(std::span<Draft> drafts);

  // Where no overlay has it. `remember` what comes from there.
  Result<Ref> look_into_index(const HashedKey& key, bool remember);

  void thaw();  // frozen_ back into active_: the group sync failed
  Result<void> write_to_index(std::uint64_t cut);
  Result<void> turn_journal(std::uint64_t applied);

  // --- recovery
  void write_report(const Journal::Replay& replay);

  Options options_;
  const Clock& clock_;
  UniqueFd lock_file_;
  std::unique_ptr<LogDirectory> own_directory_;
  LogDirectory* directory_ = nullptr;
  std::unique_ptr<Index> index_;
  KeyHash boot_;
  HotRecords hot_;

  mutable std::mutex mutex_;
  std::unique_ptr<Journal> journal_;
  Overlay active_;
  Overlay frozen_;
  std::uint64_t sequence_ = 0;
  std::uint64_t synced_ = 0;
  std::uint64_t applied_ = 0;
  std::uint64_t objects_ = 0;
  std::uint64_t group_syncs_ = 0;
  std::uint64_t last_group_sync_ns_ = 0;
};

}  // namespace om::catalog
