// What was removed, for every cache of the machine: purges, bans and tags, numbered one after the
// other, in files of <state-dir>/removals. docs/catalog-format.md has their bytes.
//
// An append is in the file when it returns: it survives the death of the process. sync() makes it
// survive power loss, and blocks. The log is bounded (files, entries); the oldest go, and what they
// said about bans is kept as one time, floor_ns(): an object of before may have been banned by
// something that is not here any more. A log that was lost is another log, with another id; so is
// one that has lost its end: numbers of that end are given anew, and a cache that knows them from
// before must not take the new ones for them. What is lost counts as one removal, which is not here
// any more and which nobody is known to have applied: who begins anew, and may have objects of
// before, is told that it has missed something.
//
// It also knows how far each cache has got, as a lower bound: that is written from time to time,
// without haste.
//
// Threads: sync() on any, one call at a time; all else on the owner's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "store/catalog/log_file.h"

namespace om::store {

enum class RemovalKind : std::uint8_t { kPurge = 1, kBan = 2, kTag = 3, kTagSoft = 4 };

struct Removal {
  std::uint64_t sequence = 0;
  std::uint64_t time_ns = 0;  // since 1970
  RemovalKind kind{};
  std::string what;    // purge: what the keys begin with before '#'; ban: its text; else the tag
  std::string tag;     // purge: objects with this tag as well; may be empty
  std::string origin;  // the cache that asked for it; may be empty
  std::uint64_t token = 0;  // the origin's own number for it
};

class RemovalLog {
 public:
  struct Options {
    std::uint64_t file_bytes = std::uint64_t{1} << 20;
    std::size_t files_max = 8;
    std::size_t entries_per_file = 8192;
    std::size_t caches_max = 1024;
    // Nothing is here that removals of an earlier log may have been about.
    bool is_first = true;
  };
  // Without a directory it lives in memory alone, for tests. An error has report() in its text.
  static Result<std::unique_ptr<RemovalLog>> open(std::unique_ptr<catalog::LogDirectory> directory,
                                                  Options options, const Clock& clock);

  // Numbers it, dates it, writes it. An error: nothing was recorded.
  Result<const Removal*> append(Removal removal);
  // Something was there at that time that a removal of later may mean: they are dated later than
  // it, wherever the clock goes.
  void not_before(std::uint64_t time_ns) { last_time_ns_ = std::max(last_time_ns_, time_ns); }
  // Everything that was appended before the call is on disk when it returns.
  Result<void> sync();

  [[nodiscard]] std::uint64_t id() const { return id_; }
  // Of the last entry; 0: there was none yet.
  [[nodiscard]] std::uint64_t head() const { return next_ - 1; }
  // Of the oldest entry that is here, or head() + 1.
  [[nodiscard]] std::uint64_t oldest() const { return next_ - entries_.size(); }
  // Time of the newest ban that is not here any more, or later where that is not known; 0: all are
  // here.
  [[nodiscard]] std::uint64_t floor_ns() const { return floor_ns_; }
  // nullptr: not here.
  [[nodiscard]] const Removal* find(std::uint64_t sequence) const;
  // Whether a purge or a tag after `since` is about an object of this key and these tags. True also
  // where that is not known any more.
  [[nodiscard]] bool removed_since(std::uint64_t since, std::string_view key,
                                   const std::vector<std::string>& tags) const;

  // How far a cache has got; nullopt: nobody of that name is known.
  [[nodiscard]] std::optional<std::uint64_t> applied(const std::string& cache) const;
  // False: too many names.
  bool note_applied(const std::string& cache, std::uint64_t sequence);
  // The one that has got least far, of those that `keep` does not want kept: when it comes back it
  // drops all that it has. False: there is none.
  bool forget_cache(const std::function<bool(const std::string&)>& keep);
  // Writes what note_applied() was told since the last time.
  Result<void> save_applied();

  [[nodiscard]] std::uint64_t bytes() const;
  // What open() found, for people; empty: nothing to say.
  [[nodiscard]] const std::string& report() const { return report_; }

 private:
  struct File {
    std::string name;
    std::shared_ptr<catalog::LogFile> log;
    std::uint64_t number = 0;
    std::uint64_t end = 0;
    std::size_t entries = 0;
    std::uint64_t spoilt_until = 0;  // what a write that failed may have left lies before this
  };
  RemovalLog(std::unique_ptr<catalog::LogDirectory> directory, Options options, const Clock& clock)
      : directory_(std::move(directory)), options_(options), clock_(clock) {}
  Result<void> begin();
  Result<void> recover();
  // `lost`: what is missing, for the report.
  Result<void> recover_file(const std::string& name, std::string& lost);
  Result<void> read_applied();
  Result<void> start_file();
  void drop_oldest_file();
  void take(Removal removal);
  void count_what_is_lost();
  void drop_entries(std::size_t count);

  std::unique_ptr<catalog::LogDirectory> directory_;
  Options options_;
  const Clock& clock_;
  std::uint64_t id_ = 0;
  std::uint64_t next_ = 1;
  std::uint64_t next_file_ = 1;
  std::uint64_t floor_ns_ = 0;
  std::uint64_t counted_ = 0;       // at open(): what the files' floors are about, see FileHeader
  bool counts_more_ = false;        // at open(): floor_ns_ does, and no file says so
  std::uint64_t last_time_ns_ = 0;  // removals are later
  std::deque<Removal> entries_;
  std::deque<File> files_;                                 // oldest first; the last is appended to
  std::unordered_map<std::string, std::uint64_t> purged_;  // last sequence, by stem
  std::unordered_map<std::string, std::uint64_t> tags_;    // the same, by tag
  std::map<std::string, std::uint64_t> applied_;
  bool applied_changed_ = false;
  std::string report_;
  std::uint64_t torn_bytes_ = 0;  // behind the last entry of the last file
  bool end_lost_ = false;         // at open(): behind the last entry that is here there were others
  bool end_unknown_ = false;      // at open(): and nobody knows of when
  // At open(): files without a header, until what they show is written down.
  std::vector<std::string> broken_;

  std::mutex mutex_;
  std::vector<std::shared_ptr<catalog::LogFile>> unsynced_;  // guarded by mutex_
  bool names_changed_ = false;                               // guarded by mutex_
};

}  // namespace om::store
