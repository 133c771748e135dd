// catalog.h: the persistent index, key -> object.
//
// A change is appended to the journal with write(2) before publish(), move() or remove() returns:
// from then on it survives the death of the process. Of several that go with one write, a death in
// the middle leaves the first ones, or none. An overlay in memory holds what the index (LMDB) has
// not got yet; group_sync() moves it there in synced transactions, and what it covered survives
// power loss. Memory per object in the index: none.
//
// What is trusted at open():
//   same boot      everything whose call returned: index, then journal on top of it.
//   another boot   objects on disk, not ephemeral, that a group_sync() covered, and whose key has
//                  no later journal record but moves. Everything else is gone.
//   damage         a torn end of the journal is cut and reported. A hole in the middle (a bad disk)
//                  is reported: if the record's own header is whole, exactly that key is dropped;
//                  if not, removals may be missing, and only what was published after the hole is
//                  kept. Nothing is invented.
//
// What the caller must do for that to be worth something:
//   - remove(), or a publish() that replaced an object which was `durable`: call sync_removals()
//     before answering (a replacement is a removal). Not needed where the old one was not durable.
//   - move() of a durable object, remove(), replacement: free the old bytes on disk only after the
//     next sync_removals() or group_sync().
//   - group_sync(sync_bodies): `sync_bodies` makes the bodies of all objects durable that were
//     published or moved before group_sync() was entered.
//
// Threads: publish, publish_all, move, remove, remove_all, find, look, find_object, list,
// keys_with_tag, for_each and mark_clean on one thread, the owner's. group_sync() on one other
// thread (or the owner's), one call at a time. sync_removals() and status() on any. Callbacks must
// not call the catalog.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/checksum.h"
#include "base/clock.h"
#include "base/result.h"
#include "store/catalog/log_file.h"
#include "store/catalog/record.h"

namespace om::catalog {

struct Options {
  std::string boot_id;  // empty: the kernel's
  // How often the owner should call group_sync(); wants_sync() keeps the time.
  std::uint64_t sync_interval_ns = std::uint64_t{1'000'000'000};
  // wants_sync() says yes earlier with so many changes waiting: they cost about 250 bytes each.
  std::size_t overlay_entries_wanted = 4096;
  std::uint64_t journal_bytes_max = std::uint64_t{16} << 20;  // then group_sync() starts another
  std::uint64_t map_bytes = std::uint64_t{256} << 20;         // of LMDB at first; doubles when full
  std::size_t batch_entries = 1024;  // changes in one LMDB transaction: bounds its dirty pages
  // Called with each record before it is changed in any way or removed (publish, publish_all, move,
  // remove, remove_all), while everybody still finds it. `stays`: it is said anew of the same
  // object in the same place. An error leaves it as it is, and is the answer. It must not call the
  // catalog.
  std::function<Result<void>(const Record& record, bool stays)> before_change;
  // Called with a key that named nothing and is to name an object (true), before anybody finds it;
  // and with one that names none any more (false). It must not call the catalog. What open() finds
  // is not told.
  std::function<void(std::string_view key, bool there)> on_presence;
  // For tests: another journal directory than the real one, and hashes that collide.
  LogDirectory* journal_directory = nullptr;
  KeyHash (*hash)(std::string_view) = hash_key;
  // For tests: runs before each transaction of a group sync; an error is a crash there.
  std::function<Result<void>()> before_batch;
};

// What open() found. Numbers of records are of the journal.
struct Recovery {
  bool fresh = false;      // nothing was there
  bool same_boot = false;  // as the last process
  bool clean = false;      // it had ended with mark_clean()
  std::uint64_t records_replayed = 0;
  std::uint64_t torn_bytes = 0;            // cut off the journal's end
  std::uint64_t records_damaged = 0;       // header whole, content not: their keys were dropped
  std::uint64_t records_missing = 0;       // holes: numbers that are nowhere
  bool removals_may_be_missing = false;    // so what was older than the hole was dropped
  bool index_lost = false;                 // LMDB's file did not open; it was put aside
  std::uint64_t objects_dropped_boot = 0;  // another boot: could not outlive it, or not covered
  std::uint64_t objects_dropped_damage = 0;
  std::string report;  // one line for people, empty when there is nothing to say
};

struct Status {
  std::uint64_t objects = 0;           // in the index and in the overlay together
  std::uint64_t overlay_entries = 0;   // changes that the index has not got
  std::uint64_t sequence = 0;          // last given out
  std::uint64_t synced_sequence = 0;   // journal: on disk up to here
  std::uint64_t durable_sequence = 0;  // index: everything up to here, bodies too
  std::uint64_t journal_bytes = 0;
  std::uint64_t index_bytes = 0;  // pages in use
  std::uint64_t map_bytes = 0;
  std::uint64_t group_syncs = 0;
  std::uint64_t last_group_sync_ns = 0;  // Clock::monotonic_ns of its end
};

// One of many that publish_all() publishes.
struct Publication {
  // Nobody changes it once it is published: the catalog may keep it, too.
  std::shared_ptr<Record> record;
  // Filled in: what the key had, null where that was nothing, and the `durable` with which
  // publish() would return it.
  std::shared_ptr<const Record> replaced;
  bool replaced_durable = false;
};

class Catalog {
 public:
  // Makes `directory` where it is missing, locks it (kBusy: another process has it), recovers.
  static Result<std::unique_ptr<Catalog>> open(const std::string& directory, Options options,
                                               const Clock& clock);
  // Without mark_clean() this is a crash as far as the files are concerned.
  ~Catalog();
  Catalog(const Catalog&) = delete;
  Catalog& operator=(const Catalog&) = delete;

  // --- changes: in the journal when they return. kNoSpace: the file system is full, nothing
  // --- happened. Removals have 256 KiB of their own, so that space can be made.
  // Replaces what the key had, and returns it.
  Result<std::optional<Record>> publish(const Record& record);
  // Many of different keys, with one write: all or none.
  Result<void> publish_all(std::vector<Publication>& publications);
  // nullopt: there was none.
  Result<std::optional<Record>> remove(std::string_view key);
  // Many of different keys, with one write: all or none. They are looked up no more: each is what
  // find() or find_object() gave, and was not changed since. Their `durable` becomes what remove()
  // returns.
  Result<void> remove_all(std::vector<Record>& records);
  // A new place for the same object; returns the record as it was. nullopt: the key has gone, or
  // names another object by now, and nothing happened.
  Result<std::optional<Record>> move(std::string_view key, std::uint64_t object_id,
                                     const Place& place);

  // --- looking
  Result<std::optional<Record>> find(std::string_view key);
  // The same for who only reads it: what was looked at lately comes without a copy and without a
  // look into the index. Null: there is none.
  Result<std::shared_ptr<const Record>> look(std::string_view key);
  Result<std::optional<Record>> find_object(std::uint64_t object_id);
  // Every object, in no order, for the owner's start.
  Result<void> for_each(const std::function<void(const Record&)>& fn);
  // Keys greater than `after` that begin with `prefix`, in the order of their bytes, at most
  // `limit` of them; fn may end it earlier with false. Keys only appear once, those that stay are
  // all seen by a caller who goes on from the last one.
  Result<void> list(std::string_view prefix, std::string_view after, std::size_t limit,
                    const std::function<bool(const Record&)>& fn);
  Result<std::vector<std::string>> keys_with_tag(std::string_view tag);

  // --- durability
  // Puts everything that was appended before the call on disk, as far as journal records go.
  Result<void> sync_removals();
  // 1. takes the changes made so far, 2. calls sync_bodies, 3. syncs the journal, 4. writes those
  // changes to the index in synced transactions, 5. starts another journal file where the last is
  // long. When it fails nothing is lost and the next call tries again.
  Result<void> group_sync(const std::function<Result<void>()>& sync_bodies);
  Result<void> group_sync() {
    return group_sync([] { return Result<void>(); });
  }
  // Whether group_sync() is due: changes wait, and the interval is over or they are many.
  [[nodiscard]] bool wants_sync() const;
  // A last group_sync() and the mark of a clean end. Changes after it are allowed and undo it.
  Result<void> mark_clean(const std::function<Result<void>()>& sync_bodies);
  Result<void> mark_clean() {
    return mark_clean([] { return Result<void>(); });
  }

  [[nodiscard]] const Recovery& recovery() const;
  [[nodiscard]] Status status() const;

 private:
  class Impl;
  explicit Catalog(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace om::catalog
