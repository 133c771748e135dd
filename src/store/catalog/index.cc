#include "store/catalog/index.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <queue>
#include <set>
#include <type_traits>
#include <utility>

#include "base/limits.h"

namespace om::catalog {
namespace {

constexpr unsigned kReadersMax = 16;
constexpr unsigned kDatabases = 5;
// LMDB's keys end at 511 bytes.
constexpr std::size_t kOrderBytes = 496;
// Keys of one group that are looked at together (see list_group).
constexpr std::size_t kGroupChunk = 1024;

struct StateBytes {
  std::uint64_t magic;
  std::uint64_t version;
  std::uint64_t applied_sequence;
  std::uint64_t boot_high;
  std::uint64_t boot_low;
  std::uint64_t checksum;
};
static_assert(sizeof(StateBytes) == 48 && std::has_unique_object_representations_v<StateBytes>);
constexpr std::uint64_t kStateMagic = 0x313058444e494d4f;  // "OMINDX01"
constexpr std::uint64_t kStateVersion = 1;

struct HashBytes {
  std::uint64_t high;
  std::uint64_t low;
};
static_assert(sizeof(HashBytes) == 16);

Error lmdb_error(const char* what, int rc) {
  if (rc == ENOSPC || rc == EDQUOT) return {Errc::kNoSpace, rc, what};
  if (rc > 0) return {Errc::kSystem, rc, what};
  return {Errc::kCorrupt, 0, std::string(what) + ": " + mdb_strerror(rc)};
}

template <class T>
MDB_val val_of(const T& value) {
  return {sizeof value, const_cast<T*>(&value)};  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}
MDB_val val_of(std::string_view text) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast): LMDB does not write through it
  return {text.size(), const_cast<char*>(text.data())};
}
std::string_view text_of(const MDB_val& value) {
  return {static_cast<const char*>(value.mv_data), value.mv_size};
}
std::span<const std::byte> bytes_of(const MDB_val& value) {
  return {static_cast<const std::byte*>(value.mv_data), value.mv_size};
}
std::uint64_t id_of(const MDB_val& value) {
  std::uint64_t id = 0;
  if (value.mv_size == sizeof id) std::memcpy(&id, value.mv_data, sizeof id);
  return id;
}
std::string_view order_key(std::string_view key) { return key.substr(0, kOrderBytes); }
std::string tag_key(std::string_view tag) { return "t" + std::string(tag); }

// Checksum off; empty when it is wrong.
std::span<const std::byte> object_of(const MDB_val& value) {
  std::uint64_t sum = 0;
  const auto bytes = bytes_of(value);
  if (bytes.size() <= sizeof sum) return {};
  std::memcpy(&sum, bytes.data(), sizeof sum);
  const auto object = bytes.subspan(sizeof sum);
  return checksum(object) == sum ? object : std::span<const std::byte>{};
}

Result<Record> record_of(const MDB_val& value) {
  const auto object = object_of(value);
  if (object.empty()) return Error{Errc::kCorrupt, 0, "a record of the index does not check out"};
  auto record = OM_TRY(decode_record(object));
  record.durable = record.survives_boot();
  return record;
}

class Cursor {
 public:
  Cursor() = default;
  Cursor(const Cursor&) = delete;
  Cursor& operator=(const Cursor&) = delete;
  ~Cursor() {
    if (cursor_ != nullptr) mdb_cursor_close(cursor_);
  }
  int open(MDB_txn* txn, MDB_dbi dbi) { return mdb_cursor_open(txn, dbi, &cursor_); }
  [[nodiscard]] MDB_cursor* get() const { return cursor_; }

 private:
  MDB_cursor* cursor_ = nullptr;
};

bool means_no_index(int rc) {
  return rc == MDB_INVALID || rc == MDB_CORRUPTED || rc == MDB_VERSION_MISMATCH ||
         rc == MDB_PAGE_NOTFOUND || rc == MDB_PANIC || rc == MDB_INCOMPATIBLE;
}

}  // namespace

// A look at one state of the index, for the length of a call.
class Index::ReadTxn {
 public:
  explicit ReadTxn(Index& index)
      : index_(index),
        lock_(index.map_mutex_),
        rc_(index_.reader_ == nullptr
                ? mdb_txn_begin(index_.env_, nullptr, MDB_RDONLY, &index_.reader_)
                : mdb_txn_renew(index_.reader_)) {}
  ReadTxn(const ReadTxn&) = delete;
  ReadTxn& operator=(const ReadTxn&) = delete;
  ~ReadTxn() {
    if (rc_ == 0) mdb_txn_reset(index_.reader_);
  }
  [[nodiscard]] int rc() const { return rc_; }
  [[nodiscard]] MDB_txn* get() const { return index_.reader_; }

 private:
  Index& index_;
  std::shared_lock<std::shared_mutex> lock_;
  int rc_;
};

Result<Index::Opened> Index::open(const std::string& path, std::uint64_t map_bytes,
                                  KeyHash (*hash)(std::string_view)) {
  Opened opened;
  for (const bool again : {false, true}) {
    opened.index.reset(new Index(hash));
    auto started = opened.index->start(path, map_bytes);
    if (started) break;
    if (again || started.error().code != Errc::kCorrupt) return started.error();
    opened.index.reset();
    opened.lost = true;
    if (std::rename(path.c_str(), (path + ".lost").c_str()) != 0 && errno != ENOENT)
      return system_error("put aside " + path);
    (void)std::remove((path + "-lock").c_str());
  }
  opened.fresh = opened.index->state_.applied_sequence == 0;
  return opened;
}

Result<void> Index::start(const std::string& path, std::uint64_t map_bytes) {
  int rc = mdb_env_create(&env_);
  if (rc == 0) rc = mdb_env_set_maxdbs(env_, kDatabases);
  if (rc == 0) rc = mdb_env_set_maxreaders(env_, kReadersMax);
  if (rc == 0) rc = mdb_env_set_mapsize(env_, map_bytes);
  if (rc == 0)
    rc = mdb_env_open(env_, path.c_str(), MDB_NOSUBDIR | MDB_NOTLS | MDB_NORDAHEAD, 0600);
  if (rc != 0) {
    if (means_no_index(rc)) return Error{Errc::kCorrupt, 0, "no index"};
    return lmdb_error("open the index", rc);
  }
  int dead = 0;
  (void)mdb_reader_check(env_, &dead);
  std::optional<State> found;
  bool wrong = false;
  const auto begin = [&](MDB_txn* txn) {
    const unsigned ids = MDB_CREATE | MDB_DUPSORT | MDB_DUPFIXED | MDB_INTEGERDUP;
    int r = mdb_dbi_open(txn, "records", MDB_CREATE | MDB_INTEGERKEY, &records_);
    if (r == 0) r = mdb_dbi_open(txn, "hashes", ids, &hashes_);
    if (r == 0) r = mdb_dbi_open(txn, "keys", ids, &keys_);
    if (r == 0) r = mdb_dbi_open(txn, "tags", ids, &tags_);
    if (r == 0) r = mdb_dbi_open(txn, "meta", MDB_CREATE, &meta_);
    if (r != 0) return r;
    MDB_val key = val_of(std::string_view("state"));
    MDB_val data;
    r = mdb_get(txn, meta_, &key, &data);
    if (r == MDB_NOTFOUND) return put_state(txn, {});
    if (r != 0) return r;
    StateBytes bytes;
    if (data.mv_size != sizeof bytes) return MDB_INVALID;
    std::memcpy(&bytes, data.mv_data, sizeof bytes);
    wrong = bytes.magic != kStateMagic || bytes.version != kStateVersion ||
            bytes.checksum != checksum({static_cast<const std::byte*>(data.mv_data),
                                        offsetof(StateBytes, checksum)});
    if (wrong) return MDB_INVALID;
    found = State{bytes.applied_sequence, {bytes.boot_high, bytes.boot_low}};
    return 0;
  };
  OM_TRY(write(begin));
  if (found) state_ = *found;
  return {};
}

Index::~Index() {
  if (reader_ != nullptr) mdb_txn_abort(reader_);
  if (env_ != nullptr) mdb_env_close(env_);
}

// --- looking

Result<std::optional<Record>> Index::find(KeyHash hash, std::string_view key) {
  const ReadTxn txn(*this);
  if (txn.rc() != 0) return lmdb_error("read the index", txn.rc());
  const HashBytes hash_bytes{hash.high, hash.low};
  MDB_val hash_val = val_of(hash_bytes);
  MDB_val id;
  Cursor cursor;
  int rc = cursor.open(txn.get(), hashes_);
  if (rc == 0) rc = mdb_cursor_get(cursor.get(), &hash_val, &id, MDB_SET_KEY);
  while (rc == 0) {
    MDB_val data;
    if (mdb_get(txn.get(), records_, &id, &data) == 0) {
      auto record = record_of(data);
      if (!record) {
        ++damaged_;
        return std::move(record).error();
      }
      if (record->key == key) return std::optional<Record>(*std::move(record));
    }
    rc = mdb_cursor_get(cursor.get(), &hash_val, &id, MDB_NEXT_DUP);
  }
  if (rc == MDB_NOTFOUND) return std::optional<Record>();
  return lmdb_error("read the index", rc);
}

Result<std::optional<Record>> Index::find_object(std::uint64_t object_id) {
  const ReadTxn txn(*this);
  if (txn.rc() != 0) return lmdb_error("read the index", txn.rc());
  MDB_val id = val_of(object_id);
  MDB_val data;
  const int rc = mdb_get(txn.get(), records_, &id, &data);
  if (rc == MDB_NOTFOUND) return std::optional<Record>();
  if (rc != 0) return lmdb_error("read the index", rc);
  return std::optional<Record>(OM_TRY(record_of(data)));
}

Result<std::vector<std::string>> Index::keys_of_hash(KeyHash hash) {
  std::vector<std::string> found;
  const ReadTxn txn(*this);
  if (txn.rc() != 0) return lmdb_error("read the index", txn.rc());
  const HashBytes hash_bytes{hash.high, hash.low};
  MDB_val hash_val = val_of(hash_bytes);
  MDB_val id;
  Cursor cursor;
  int rc = cursor.open(txn.get(), hashes_);
  if (rc == 0) rc = mdb_cursor_get(cursor.get(), &hash_val, &id, MDB_SET_KEY);
  while (rc == 0) {
    MDB_val data;
    if (mdb_get(txn.get(), records_, &id, &data) == 0) {
      if (auto record = record_of(data)) found.push_back(record->key);
    }
    rc = mdb_cursor_get(cursor.get(), &hash_val, &id, MDB_NEXT_DUP);
  }
  if (rc != MDB_NOTFOUND) return lmdb_error("read the index", rc);
  return found;
}

Result<void> Index::for_each(const std::function<bool(const Record&)>& fn) {
  const ReadTxn txn(*this);
  Cursor cursor;
  MDB_val id;
  MDB_val data;
  int rc = txn.rc();
  if (rc == 0) rc = cursor.open(txn.get(), records_);
  if (rc == 0) rc = mdb_cursor_get(cursor.get(), &id, &data, MDB_FIRST);
  while (rc == 0) {
    if (auto record = record_of(data)) {
      if (!fn(*record)) return {};
    } else {
      ++damaged_;
    }
    rc = mdb_cursor_get(cursor.get(), &id, &data, MDB_NEXT);
  }
  if (rc == MDB_NOTFOUND) return {};
  return lmdb_error("read the index", rc);
}

Result<void> Index::list(std::string_view prefix, std::string_view after,
                         const std::function<bool(const Record&)>& fn) {
  const ReadTxn txn(*this);
  Cursor cursor;
  const std::string from(order_key(std::max(prefix, after)));
  MDB_val key = val_of(std::string_view(from));
  MDB_val id;
  int rc = txn.rc();
  if (rc == 0) rc = cursor.open(txn.get(), keys_);
  if (rc == 0) {
    rc = from.empty() ? mdb_cursor_get(cursor.get(), &key, &id, MDB_FIRST)
                      : mdb_cursor_get(cursor.get(), &key, &id, MDB_SET_RANGE);
  }
  const std::string_view short_prefix = order_key(prefix);
  while (rc == 0) {
    const std::string_view group = text_of(key);
    if (group.substr(0, short_prefix.size()) != short_prefix) break;
    bool go_on = true;
    OM_TRY(list_group(cursor.get(), prefix, after, fn, go_on));
    if (!go_on) break;
    rc = mdb_cursor_get(cursor.get(), &key, &id, MDB_NEXT_NODUP);
  }
  if (rc == 0 || rc == MDB_NOTFOUND) return {};
  return lmdb_error("read the index", rc);
}

// The cursor is on the first of the keys that begin alike. Those shorter than kOrderBytes are one;
// longer ones have no order in the index, and are taken smallest first, a thousand at a time.
Result<void> Index::list_group(MDB_cursor* cursor, std::string_view prefix, std::string_view after,
                               const std::function<bool(const Record&)>& fn, bool& go_on) {
  MDB_txn* const txn = mdb_cursor_txn(cursor);
  std::string last(after);
  bool all_seen = false;
  while (!all_seen && go_on) {
    using Named = std::pair<std::string, std::uint64_t>;
    std::priority_queue<Named> smallest;
    all_seen = true;
    MDB_val key;
    MDB_val id;
    int rc = mdb_cursor_get(cursor, &key, &id, MDB_FIRST_DUP);
    // MDB_FIRST_DUP gives no key and fails on a single value that LMDB keeps in the node itself.
    if (rc == 0 || rc == MDB_NOTFOUND) rc = mdb_cursor_get(cursor, &key, &id, MDB_GET_CURRENT);
    while (rc == 0) {
      MDB_val data;
      if (mdb_get(txn, records_, &id, &data) == 0 && data.mv_size > sizeof(std::uint64_t)) {
        if (auto name = encoded_key(bytes_of(data).subspan(sizeof(std::uint64_t)))) {
          if (*name > last && name->substr(0, prefix.size()) == prefix) {
            if (smallest.size() < kGroupChunk || *name < smallest.top().first) {
              smallest.emplace(std::string(*name), id_of(id));
            } else {
              all_seen = false;
            }
            if (smallest.size() > kGroupChunk) {
              smallest.pop();
              all_seen = false;
            }
          }
        }
      }
      rc = mdb_cursor_get(cursor, &key, &id, MDB_NEXT_DUP);
    }
    if (rc != MDB_NOTFOUND) return lmdb_error("read the index", rc);
    std::vector<Named> ordered;
    ordered.reserve(smallest.size());
    for (; !smallest.empty(); smallest.pop()) ordered.push_back(smallest.top());
    for (auto named = ordered.rbegin(); named != ordered.rend() && go_on; ++named) {
      last = named->first;
      MDB_val named_id = val_of(named->second);
      MDB_val data;
      if (mdb_get(txn, records_, &named_id, &data) != 0) continue;
      if (auto record = record_of(data)) {
        go_on = fn(*record);
      } else {
        ++damaged_;
      }
    }
  }
  return {};
}

Result<void> Index::with_tag(std::string_view tag,
                             const std::function<void(std::string_view key)>& fn) {
  if (tag.size() > kTagBytesMax) return {};
  const ReadTxn txn(*this);
  Cursor cursor;
  const std::string name = tag_key(tag);
  MDB_val key = val_of(std::string_view(name));
  MDB_val id;
  int rc = txn.rc();
  if (rc == 0) rc = cursor.open(txn.get(), tags_);
  if (rc == 0) rc = mdb_cursor_get(cursor.get(), &key, &id, MDB_SET_KEY);
  while (rc == 0) {
    MDB_val data;
    if (mdb_get(txn.get(), records_, &id, &data) == 0) {
      const auto object = object_of(data);
      if (auto object_key = encoded_key(object)) fn(*object_key);
    }
    rc = mdb_cursor_get(cursor.get(), &key, &id, MDB_NEXT_DUP);
  }
  if (rc == MDB_NOTFOUND) return {};
  return lmdb_error("read the index", rc);
}

Result<std::uint64_t> Index::objects() {
  const ReadTxn txn(*this);
  MDB_stat stat;
  int rc = txn.rc();
  if (rc == 0) rc = mdb_stat(txn.get(), records_, &stat);
  if (rc != 0) return lmdb_error("read the index", rc);
  return std::uint64_t{stat.ms_entries};
}

Index::Sizes Index::sizes() const {
  const std::shared_lock lock(map_mutex_);
  MDB_envinfo info;
  MDB_stat stat;
  if (mdb_env_info(env_, &info) != 0 || mdb_env_stat(env_, &stat) != 0) return {};
  return {(info.me_last_pgno + 1) * stat.ms_psize, info.me_mapsize};
}

// --- changing

// Runs `body` in a transaction and commits; where the map is full, makes it larger and starts over.
Result<void> Index::write(const std::function<int(MDB_txn*)>& body) {
  for (;;) {
    int rc = 0;
    {
      const std::shared_lock lock(map_mutex_);
      MDB_txn* txn = nullptr;
      rc = mdb_txn_begin(env_, nullptr, 0, &txn);
      if (rc == 0) {
        rc = body(txn);
        if (rc == 0) {
          rc = mdb_txn_commit(txn);
        } else {
          mdb_txn_abort(txn);
        }
      }
    }
    if (rc == 0) return {};
    if (rc != MDB_MAP_FULL) return lmdb_error("write the index", rc);
    const std::unique_lock lock(map_mutex_);
    MDB_envinfo info;
    rc = mdb_env_info(env_, &info);
    if (rc == 0) rc = mdb_env_set_mapsize(env_, info.me_mapsize * 2);
    if (rc != 0) return lmdb_error("make the index's map larger", rc);
  }
}

Result<void> Index::apply(std::span<const Change> changes, const std::optional<State>& state) {
  OM_TRY(write([&](MDB_txn* txn) {
    for (const Change& change : changes) {
      if (const int rc = apply_one(txn, change); rc != 0) return rc;
    }
    return state ? put_state(txn, *state) : 0;
  }));
  if (state) state_ = *state;
  return {};
}

int Index::apply_one(MDB_txn* txn, const Change& change) {
  const HashBytes hash_bytes{change.hash.high, change.hash.low};
  // What the key had.
  std::vector<std::uint64_t> ids;
  {
    Cursor cursor;
    MDB_val hash_val = val_of(hash_bytes);
    MDB_val id;
    int rc = cursor.open(txn, hashes_);
    if (rc == 0) rc = mdb_cursor_get(cursor.get(), &hash_val, &id, MDB_SET_KEY);
    while (rc == 0) {
      ids.push_back(id_of(id));
      rc = mdb_cursor_get(cursor.get(), &hash_val, &id, MDB_NEXT_DUP);
    }
    if (rc != MDB_NOTFOUND) return rc;
  }
  std::uint64_t new_id = 0;
  if (!change.object.empty()) {
    std::memcpy(&new_id, change.object.data(), sizeof new_id);  // ObjectHead begins with it
    if (std::find(ids.begin(), ids.end(), new_id) == ids.end()) ids.push_back(new_id);
  }
  for (const std::uint64_t old_id : ids) {
    MDB_val id = val_of(old_id);
    MDB_val data;
    const int rc = mdb_get(txn, records_, &id, &data);
    if (rc == MDB_NOTFOUND) continue;
    if (rc != 0) return rc;
    if (data.mv_size < sizeof(std::uint64_t)) return MDB_CORRUPTED;
    // A copy: pages move under us while we delete.
    const auto view = bytes_of(data).subspan(sizeof(std::uint64_t));
    const std::vector<std::byte> object(view.begin(), view.end());
    const auto key = encoded_key(object);
    const bool same_key = key && *key == change.key;
    if (!same_key && old_id != new_id) continue;  // a hash that collides
    if (const int removed = remove_object(txn, old_id, object); removed != 0) return removed;
  }
  if (change.object.empty()) return 0;

  const auto* const begin = reinterpret_cast<const std::byte*>(change.object.data());
  const auto record = decode_record({begin, change.object.size()});
  if (!record) return MDB_BAD_VALSIZE;
  const std::uint64_t sum = checksum({begin, change.object.size()});
  MDB_val id = val_of(new_id);
  MDB_val data{sizeof sum + change.object.size(), nullptr};
  int rc = mdb_put(txn, records_, &id, &data, MDB_RESERVE);
  if (rc != 0) return rc;
  std::memcpy(data.mv_data, &sum, sizeof sum);
  std::memcpy(static_cast<std::byte*>(data.mv_data) + sizeof sum, begin, change.object.size());
  const auto put = [&](MDB_dbi dbi, MDB_val key) {
    MDB_val value = val_of(new_id);
    const int r = mdb_put(txn, dbi, &key, &value, MDB_NODUPDATA);
    return r == MDB_KEYEXIST ? 0 : r;
  };
  rc = put(hashes_, val_of(hash_bytes));
  if (rc == 0) rc = put(keys_, val_of(order_key(change.key)));
  for (const std::string& tag : record->tags) {
    const std::string name = tag_key(tag);
    if (rc == 0) rc = put(tags_, val_of(std::string_view(name)));
  }
  return rc;
}

int Index::remove_object(MDB_txn* txn, std::uint64_t object_id, std::span<const std::byte> object) {
  MDB_val id = val_of(object_id);
  int rc = mdb_del(txn, records_, &id, nullptr);
  if (rc != 0 && rc != MDB_NOTFOUND) return rc;
  const auto record = decode_record(object);
  if (!record) return 0;  // its other entries lead nowhere, and look-ups pass over them
  const auto del = [&](MDB_dbi dbi, MDB_val key) {
    MDB_val value = val_of(object_id);
    const int r = mdb_del(txn, dbi, &key, &value);
    return r == MDB_NOTFOUND ? 0 : r;
  };
  const KeyHash hash = hash_(record->key);
  const HashBytes hash_bytes{hash.high, hash.low};
  rc = del(hashes_, val_of(hash_bytes));
  if (rc == 0) rc = del(keys_, val_of(order_key(record->key)));
  for (const std::string& tag : record->tags) {
    const std::string name = tag_key(tag);
    if (rc == 0) rc = del(tags_, val_of(std::string_view(name)));
  }
  return rc;
}

int Index::put_state(MDB_txn* txn, const State& state) {
  StateBytes bytes{kStateMagic,     kStateVersion,  state.applied_sequence,
                   state.boot.high, state.boot.low, 0};
  bytes.checksum =
      checksum({reinterpret_cast<const std::byte*>(&bytes), offsetof(StateBytes, checksum)});
  MDB_val key = val_of(std::string_view("state"));
  MDB_val data = val_of(bytes);
  return mdb_put(txn, meta_, &key, &data, 0);
}

Result<std::uint64_t> Index::drop(const std::function<bool(const Record&)>& doomed) {
  std::vector<std::uint64_t> ids;
  {
    const ReadTxn txn(*this);
    Cursor cursor;
    MDB_val id;
    MDB_val data;
    int rc = txn.rc();
    if (rc == 0) rc = cursor.open(txn.get(), records_);
    if (rc == 0) rc = mdb_cursor_get(cursor.get(), &id, &data, MDB_FIRST);
    while (rc == 0) {
      const auto record = record_of(data);
      if (!record || doomed(*record)) ids.push_back(id_of(id));
      rc = mdb_cursor_get(cursor.get(), &id, &data, MDB_NEXT);
    }
    if (rc != MDB_NOTFOUND) return lmdb_error("read the index", rc);
  }
  constexpr std::size_t kBatch = 1024;
  for (std::size_t at = 0; at < ids.size(); at += kBatch) {
    OM_TRY(write([&](MDB_txn* txn) {
      for (std::size_t i = at; i < std::min(ids.size(), at + kBatch); ++i) {
        MDB_val id = val_of(ids[i]);
        MDB_val data;
        int rc = mdb_get(txn, records_, &id, &data);
        if (rc == MDB_NOTFOUND) continue;
        if (rc != 0) return rc;
        if (data.mv_size < sizeof(std::uint64_t)) return MDB_CORRUPTED;
        const auto view = bytes_of(data).subspan(sizeof(std::uint64_t));
        const std::vector<std::byte> object(view.begin(), view.end());
        rc = remove_object(txn, ids[i], object);
        if (rc != 0) return rc;
      }
      return 0;
    }));
  }
  return std::uint64_t{ids.size()};
}

Result<void> Index::drop_all() {
  return write([&](MDB_txn* txn) {
    for (const MDB_dbi dbi : {records_, hashes_, keys_, tags_}) {
      if (const int rc = mdb_drop(txn, dbi, 0); rc != 0) return rc;
    }
    return 0;
  });
}

}  // namespace om::catalog
