// index.h: the part of the catalog that lies on disk, in LMDB (docs/catalog-format.md, "Index").
//
//   records  object id            -> checksum, object     (ids rise: pages fill from the right)
//   hashes   XXH3-128 of the key  -> object ids           (more than one only where hashes collide)
//   keys     first 496 bytes      -> object ids           (the order of the keys)
//   tags     't' + tag            -> object ids
//   meta     "state"              -> State
//
// All transactions are synced (no MDB_NOSYNC, no MDB_WRITEMAP: a full disk is an error, not a
// SIGBUS).
//
// Threads: looking (find*, for_each, list, with_tag) on one thread; apply, drop_all and the other
// writers on one thread at a time; both at the same time is fine. The map grows by doubling while
// nobody looks (map_mutex_).
#pragma once

#include <lmdb.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/checksum.h"
#include "base/result.h"
#include "store/catalog/record.h"

namespace om::catalog {

// What one key becomes.
struct Change {
  KeyHash hash;
  std::string key;
  std::uint64_t sequence = 0;
  std::string object;  // encoded; empty: removed
};

class Index {
 public:
  struct State {
    std::uint64_t applied_sequence = 0;
    KeyHash boot;
  };
  struct Opened {
    std::unique_ptr<Index> index;
    bool lost = false;   // there was a file that is no index; it is <path>.lost now
    bool fresh = false;  // made just now
  };
  static Result<Opened> open(const std::string& path, std::uint64_t map_bytes,
                             KeyHash (*hash)(std::string_view));
  ~Index();
  Index(const Index&) = delete;
  Index& operator=(const Index&) = delete;

  [[nodiscard]] const State& state() const { return state_; }

  // --- looking. `durable` of what comes out is set.
  Result<std::optional<Record>> find(KeyHash hash, std::string_view key);
  Result<std::optional<Record>> find_object(std::uint64_t object_id);
  // Keys of the objects of one hash.
  Result<std::vector<std::string>> keys_of_hash(KeyHash hash);
  // Stops when fn says false. A record that does not check out is left out and counted.
  Result<void> for_each(const std::function<bool(const Record&)>& fn);
  // In the order of the keys, those that are greater than `after` and begin with `prefix`.
  Result<void> list(std::string_view prefix, std::string_view after,
                    const std::function<bool(const Record&)>& fn);
  Result<void> with_tag(std::string_view tag, const std::function<void(std::string_view key)>& fn);
  Result<std::uint64_t> objects();
  [[nodiscard]] std::uint64_t damaged_records() const { return damaged_; }

  // --- changing: one synced transaction each. With `state`, that becomes the index's state.
  Result<void> apply(std::span<const Change> changes, const std::optional<State>& state);
  // What a reboot takes away: objects that cannot outlive it, and those named in `removed` whose
  // record is older than the change.
  Result<std::uint64_t> drop(const std::function<bool(const Record&)>& doomed);
  Result<void> drop_all();

  struct Sizes {
    std::uint64_t used_bytes = 0;
    std::uint64_t map_bytes = 0;
  };
  [[nodiscard]] Sizes sizes() const;

 private:
  class ReadTxn;
  explicit Index(KeyHash (*hash)(std::string_view)) : hash_(hash) {}
  Result<void> start(const std::string& path, std::uint64_t map_bytes);
  Result<void> write(const std::function<int(MDB_txn*)>& body);
  int apply_one(MDB_txn* txn, const Change& change);
  int remove_object(MDB_txn* txn, std::uint64_t object_id, std::span<const std::byte> object);
  int put_state(MDB_txn* txn, const State& state);
  Result<void> list_group(MDB_cursor* cursor, std::string_view prefix, std::string_view after,
                          const std::function<bool(const Record&)>& fn, bool& go_on);

  KeyHash (*hash_)(std::string_view);
  MDB_env* env_ = nullptr;
  MDB_txn* reader_ = nullptr;  // reset between uses
  MDB_dbi records_ = 0;
  MDB_dbi hashes_ = 0;
  MDB_dbi keys_ = 0;
  MDB_dbi tags_ = 0;
  MDB_dbi meta_ = 0;
  State state_;
  std::uint64_t damaged_ = 0;
  mutable std::shared_mutex map_mutex_;  // shared: a transaction is open; exclusive: the map moves
};

}  // namespace om::catalog
