#include "store/removal_log.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <type_traits>

#include "base/checksum.h"
#include "base/limits.h"

namespace om::store {

namespace {

struct FileHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t header_bytes;
  std::uint64_t log_id;
  std::uint64_t file_number;
  std::uint64_t first_sequence;
  std::uint64_t floor_ns;
  std::uint64_t counted;   // what floor_ns is about: removals before this one; 0: not known
  std::uint64_t checksum;  // of all before
};
static_assert(sizeof(FileHeader) == 64 && std::has_unique_object_representations_v<FileHeader>);

struct EntryHeader {
  std::uint64_t checksum;  // of all that follows, and of log_id and file_number
  std::uint64_t sequence;
  std::uint64_t time_ns;
  std::uint64_t token;
  std::uint32_t what_bytes;
  std::uint16_t tag_bytes;
  std::uint16_t origin_bytes;
  std::uint16_t kind;
  std::uint16_t zero;
  std::uint32_t zero_too;
};
static_assert(sizeof(EntryHeader) == 48 && std::has_unique_object_representations_v<EntryHeader>);

constexpr std::uint64_t kMagic = 0x3130564f4d524d4f;  // "OMRMOV01"
constexpr std::uint32_t kVersion = 1;
constexpr const char* kPrefix = "removals-";
constexpr const char* kAppliedFile = "applied";

std::uint64_t padded(std::uint64_t bytes) { return (bytes + 7) & ~std::uint64_t{7}; }

std::string file_name(std::uint64_t number) {
  char digits[17];
  (void)std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(number));
  return kPrefix + std::string(digits);
}

std::uint64_t entry_checksum(std::uint64_t log_id, std::uint64_t file, std::string_view entry) {
  std::string salted(reinterpret_cast<const char*>(&log_id), sizeof log_id);
  salted.append(reinterpret_cast<const char*>(&file), sizeof file);
  salted.append(entry.substr(sizeof(std::uint64_t)));
  return checksum(std::as_bytes(std::span(salted)));
}

std::string encode(const Removal& removal, std::uint64_t log_id, std::uint64_t file) {
  EntryHeader header{};
  header.sequence = removal.sequence;
  header.time_ns = removal.time_ns;
  header.token = removal.token;
  header.what_bytes = static_cast<std::uint32_t>(removal.what.size());
  header.tag_bytes = static_cast<std::uint16_t>(removal.tag.size());
  header.origin_bytes = static_cast<std::uint16_t>(removal.origin.size());
  header.kind = static_cast<std::uint16_t>(removal.kind);
  std::string entry(reinterpret_cast<const char*>(&header), sizeof header);
  entry += removal.what;
  entry += removal.tag;
  entry += removal.origin;
  entry.resize(padded(entry.size()));
  header.checksum = entry_checksum(log_id, file, entry);
  std::memcpy(entry.data(), &header.checksum, sizeof header.checksum);
  return entry;
}

// The entry at the start of `bytes`, and how many bytes it takes; nullopt: there is none.
std::optional<std::pair<Removal, std::size_t>> decode(std::string_view bytes, std::uint64_t log_id,
                                                      std::uint64_t file) {
  EntryHeader header{};
  if (bytes.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.what_bytes > kKeyBytesMax || header.tag_bytes > kTagBytesMax ||
      header.origin_bytes > kOwnerBytesMax || header.kind < 1 || header.kind > 4)
    return std::nullopt;
  const std::uint64_t length = padded(sizeof header + std::uint64_t{header.what_bytes} +
                                      header.tag_bytes + header.origin_bytes);
  if (length > bytes.size()) return std::nullopt;
  if (header.checksum != entry_checksum(log_id, file, bytes.substr(0, length))) return std::nullopt;
  Removal removal;
  removal.sequence = header.sequence;
  removal.time_ns = header.time_ns;
  removal.token = header.token;
  removal.kind = static_cast<RemovalKind>(header.kind);
  bytes.remove_prefix(sizeof header);
  removal.what = bytes.substr(0, header.what_bytes);
  removal.tag = bytes.substr(header.what_bytes, header.tag_bytes);
  removal.origin =
      bytes.substr(std::size_t{header.what_bytes} + header.tag_bytes, header.origin_bytes);
  return std::pair(std::move(removal), static_cast<std::size_t>(length));
}

// Whether an append that did not come to its end, with the process or with the power, leaves these
// bytes: the beginning of the entry of this number, and zeros. Nobody was told of that one.
bool is_unfinished(std::string_view bytes, std::uint64_t next) {
  const std::size_t last = bytes.find_last_not_of('\0');
  if (last == std::string_view::npos) return true;
  const std::size_t written = last + 1;
  EntryHeader header{};
  std::memcpy(&header, bytes.data(), std::min(written, sizeof header));
  if (written > offsetof(EntryHeader, sequence) && header.sequence != next) return false;
  const std::uint64_t length =
      sizeof header + std::uint64_t{header.what_bytes} + header.tag_bytes + header.origin_bytes;
  // Zeros at its end are part of it.
  return written < length || bytes.size() < padded(length);
}

// What follows the entries of a file that are good.
struct Behind {
  std::uint64_t newest_ns = 0;  // of the whole entries in it; 0: there are none
  bool lost = false;            // there may have been entries that somebody was told of
  bool unknown = false;         // and newer ones than newest_ns
};
// Entries begin at a multiple of eight.
Behind look_behind(std::string_view bytes, std::uint64_t log_id, std::uint64_t file,
                   std::uint64_t next) {
  Behind found;
  std::size_t end = 0;
  for (std::size_t at = 0; at + sizeof(EntryHeader) <= bytes.size();) {
    const auto entry = decode(bytes.substr(at), log_id, file);
    at += entry ? entry->second : 8;
    if (!entry) continue;
    found.lost = true;
    found.newest_ns = std::max(found.newest_ns, entry->first.time_ns);
    next = entry->first.sequence + 1;
    end = at;
  }
  found.unknown = !is_unfinished(bytes.substr(end), next);
  found.lost = found.lost || found.unknown;
  return found;
}

// Whether a file of the later id goes on with the log of the other one: begin() counts up where the
// log has lost its end. Ids that are drawn are nowhere near each other.
bool goes_on(std::uint64_t id, std::uint64_t later) {
  return later - id <= std::numeric_limits<std::uint32_t>::max();
}

Result<std::string> read_all(catalog::LogFile& log) {
  std::string bytes(OM_TRY(log.size()), '\0');
  bytes.resize(OM_TRY(log.read_at(0, std::as_writable_bytes(std::span(bytes)))));
  return bytes;
}

std::uint64_t random_id() {
  std::random_device device;
  const std::uint64_t id = std::uint64_t{device()} << 32 | device();
  return id == 0 ? 1 : id;
}

}  // namespace

Result<std::unique_ptr<RemovalLog>> RemovalLog::open(
    std::unique_ptr<catalog::LogDirectory> directory, Options options, const Clock& clock) {
  std::unique_ptr<RemovalLog> log(new RemovalLog(std::move(directory), options, clock));
  if (auto begun = log->begin(); !begun) {
    Error error = std::move(begun).error();
    // Now or never: the next start may find nothing of it any more.
    if (!log->report_.empty()) error.what += " (of the removals: " + log->report_ + ")";
    return error;
  }
  return log;
}

Result<void> RemovalLog::begin() {
  if (directory_ != nullptr) OM_TRY(recover());
  if (id_ == 0) {
    id_ = random_id();
    if (!options_.is_first && !end_lost_) {
      end_lost_ = true;
      floor_ns_ = std::max({floor_ns_, clock_.real_ns(), last_time_ns_});
      not_before(floor_ns_);
      report_ += (report_.empty() ? "" : "; ") + std::string("the log of earlier removals is gone");
    }
  } else if (end_lost_) {
    // By the number of the file that says so: the same step is not taken twice, also when that file
    // is lost as well.
    id_ += next_file_;
    applied_changed_ = true;
  }
  if (end_lost_) count_what_is_lost();
  if (directory_ == nullptr) return {};
  // What a torn end left is never written over, and never read: another file, then.
  if (files_.empty() || torn_bytes_ != 0 || end_lost_) {
    OM_TRY(start_file());
    OM_TRY(sync());
    // Where that fails they are forgotten with the id that stands there.
    (void)save_applied();
  } else if (counts_more_) {
    // For the next start, which would find the same otherwise, and say so.
    if (start_file()) (void)sync();
  }
  // Not before what they show is written down. One that stays is told of again, no more.
  for (const std::string& name : broken_) (void)directory_->remove(name);
  broken_.clear();
  return {};
}

Result<void> RemovalLog::recover() {
  std::vector<std::string> names;
  for (auto& name : OM_TRY(directory_->list()))
    if (name.starts_with(kPrefix)) names.push_back(std::move(name));
  std::ranges::sort(names);
  std::string lost;
  for (const auto& name : names) OM_TRY(recover_file(name, lost));
  // Removals have gone, and no file says of when the newest ban among them is: numbers that are
  // missing, or an oldest file that went before the one that counts it was there. They are older
  // than the first one that is here, or than now.
  if (oldest() > std::max(counted_, std::uint64_t{1})) {
    const std::uint64_t before =
        entries_.empty() ? std::max(clock_.real_ns(), last_time_ns_) : entries_.front().time_ns - 1;
    floor_ns_ = std::max(floor_ns_, before);
    counts_more_ = true;
    report_ += lost;
  }
  // Told while nothing goes on behind it, and so once: open() begins another file. An end within
  // the log is of a removal that was numbered anew, or shows as numbers that are missing.
  if (torn_bytes_ != 0)
    report_ += std::to_string(torn_bytes_) + " bytes at the end of " + files_.back().name +
               " are no entry, and dropped; ";
  auto read = read_applied();
  // What is lost at the end is older than now, and nothing that is here says more.
  if (end_unknown_) floor_ns_ = std::max({floor_ns_, clock_.real_ns(), last_time_ns_});
  not_before(floor_ns_);
  if (report_.ends_with("; ")) report_.resize(report_.size() - 2);
  return read;
}

Result<void> RemovalLog::recover_file(const std::string& name, std::string& lost) {
  std::shared_ptr<catalog::LogFile> log = OM_TRY(directory_->open(name));
  const std::string bytes = OM_TRY(read_all(*log));
  FileHeader header{};
  if (bytes.size() >= sizeof header) std::memcpy(&header, bytes.data(), sizeof header);
  const bool valid =
      header.magic == kMagic && header.version == kVersion &&
      header.header_bytes == sizeof header &&
      header.checksum ==
          checksum(std::as_bytes(std::span(bytes)).first(sizeof header - sizeof header.checksum));
  if (!valid) {
    // Its making was interrupted, or the disk lost it: what it may have said is unknown, which the
    // numbers of the next one will show. Where there is none it shows by what is behind the header.
    report_ += name + " has no valid header; ";
    std::uint64_t number = 0;
    const char* const digits = name.data() + std::strlen(kPrefix);
    (void)std::from_chars(digits, name.data() + name.size(), number, 16);
    next_file_ = std::max(next_file_, number + 1);
    if (bytes.find_first_not_of('\0', sizeof header) != std::string::npos)
      end_lost_ = end_unknown_ = true;
    broken_.push_back(name);
    return {};
  }
  const bool another = id_ != 0 && !goes_on(id_, header.log_id);
  if (another) {
    // Of another log: ours begins with it anew.
    drop_entries(entries_.size());
    while (!files_.empty()) drop_oldest_file();
    counted_ = 0;
    lost.clear();
  }
  if (id_ == 0 || another || header.first_sequence != next_) {
    if (id_ != 0 && !another && header.first_sequence > next_)
      lost += "removals " + std::to_string(next_) + " to " +
              std::to_string(header.first_sequence - 1) + " are lost; ";
    drop_entries(entries_.size());
    // When these files go, nothing goes with them any more.
    for (File& earlier : files_) earlier.entries = 0;
    next_ = std::max(header.first_sequence, std::uint64_t{1});
  }
  id_ = header.log_id;
  floor_ns_ = std::max(floor_ns_, header.floor_ns);
  counted_ = std::max(counted_, header.counted);
  next_file_ = std::max(next_file_, header.file_number + 1);
  File file{name, std::move(log), header.file_number, sizeof header, 0, 0};
  std::string_view rest = std::string_view(bytes).substr(sizeof header);
  while (auto entry = decode(rest, header.log_id, header.file_number)) {
    if (entry->first.sequence != next_) break;
    rest.remove_prefix(entry->second);
    file.end += entry->second;
    ++file.entries;
    take(std::move(entry->first));
  }
  torn_bytes_ = rest.size();
  // What is cut short is the last one, which was never answered. Whole entries behind one that does
  // not check out may have been, and those that are damaged before them are not newer.
  const Behind behind = look_behind(rest, header.log_id, header.file_number, next_);
  floor_ns_ = std::max(floor_ns_, behind.newest_ns);
  // Of the last file. What another one has lost is counted in the header of the next.
  end_lost_ = behind.lost;
  end_unknown_ = behind.unknown;
  files_.push_back(std::move(file));
  return {};
}

void RemovalLog::take(Removal removal) {
  next_ = removal.sequence + 1;
  last_time_ns_ = std::max(last_time_ns_, removal.time_ns);
  if (removal.kind == RemovalKind::kPurge) {
    purged_[removal.what] = removal.sequence;
    if (!removal.tag.empty()) tags_[removal.tag] = removal.sequence;
  } else if (removal.kind != RemovalKind::kBan) {
    tags_[removal.what] = removal.sequence;
  }
  entries_.push_back(std::move(removal));
}

// It has the next number, and no file has that: the header of the next one says so. What is left is
// older, and goes with it: whoever has not applied that has not applied this either.
void RemovalLog::count_what_is_lost() {
  drop_entries(entries_.size());
  for (File& file : files_) file.entries = 0;
  ++next_;
}

void RemovalLog::drop_entries(std::size_t count) {
  const auto forget = [](auto& map, const std::string& name, std::uint64_t sequence) {
    const auto found = map.find(name);
    if (found != map.end() && found->second == sequence) map.erase(found);
  };
  for (; count > 0 && !entries_.empty(); --count) {
    const Removal& oldest = entries_.front();
    if (oldest.kind == RemovalKind::kBan) {
      floor_ns_ = std::max(floor_ns_, oldest.time_ns);
    } else if (oldest.kind == RemovalKind::kPurge) {
      forget(purged_, oldest.what, oldest.sequence);
      if (!oldest.tag.empty()) forget(tags_, oldest.tag, oldest.sequence);
    } else {
      forget(tags_, oldest.what, oldest.sequence);
    }
    entries_.pop_front();
  }
}

void RemovalLog::drop_oldest_file() {
  // A file that stays costs space and is read once more, no more.
  (void)directory_->remove(files_.front().name);
  files_.pop_front();
}

Result<void> RemovalLog::start_file() {
  // What goes with the oldest file is counted in the header of the new one. A crash in between
  // shows: nobody has counted it.
  while (files_.size() >= options_.files_max) {
    drop_entries(files_.front().entries);
    drop_oldest_file();
  }
  FileHeader header{};
  header.magic = kMagic;
  header.version = kVersion;
  header.header_bytes = sizeof header;
  header.log_id = id_;
  header.file_number = next_file_;
  header.first_sequence = next_;
  header.floor_ns = floor_ns_;
  header.counted = oldest();
  header.checksum =
      checksum(std::as_bytes(std::span(&header, 1)).first(sizeof header - sizeof header.checksum));
  const std::string name = file_name(next_file_);
  std::shared_ptr<catalog::LogFile> log = OM_TRY(directory_->create(name));
  auto made = log->reserve(0, options_.file_bytes);
  if (made) made = log->write_at(0, std::as_bytes(std::span(&header, 1)));
  if (!made) {
    (void)directory_->remove(name);
    return made;
  }
  ++next_file_;
  {
    const std::lock_guard lock(mutex_);
    names_changed_ = true;
    unsynced_.push_back(log);
  }
  files_.push_back({name, std::move(log), header.file_number, sizeof header, 0, 0});
  return {};
}

Result<const Removal*> RemovalLog::append(Removal removal) {
  removal.sequence = next_;
  // A clock that was set back must not make a later ban look older, be it than another ban or than
  // what it means.
  removal.time_ns = std::max(clock_.real_ns(), last_time_ns_ + 1);
  if (directory_ == nullptr) {
    take(std::move(removal));
    return &entries_.back();
  }
  if (files_.empty() || files_.back().entries >= options_.entries_per_file ||
      files_.back().end >= options_.file_bytes) {
    // Where there is no room for another file, this one goes on, as long as that may be.
    if (auto started = start_file(); !started && files_.empty()) return std::move(started).error();
  }
  File& file = files_.back();
  std::string entry = encode(removal, id_, file.number);
  const std::uint64_t length = entry.size();
  // The rest of a longer one would look like an end that was lost.
  if (file.spoilt_until > file.end + length) entry.resize(file.spoilt_until - file.end);
  if (auto written = file.log->write_at(file.end, std::as_bytes(std::span(entry))); !written) {
    file.spoilt_until = file.end + entry.size();
    return std::move(written).error();
  }
  file.end += length;
  ++file.entries;
  {
    const std::lock_guard lock(mutex_);
    if (unsynced_.empty() || unsynced_.back() != file.log) unsynced_.push_back(file.log);
  }
  take(std::move(removal));
  return &entries_.back();
}

Result<void> RemovalLog::sync() {
  std::vector<std::shared_ptr<catalog::LogFile>> files;
  bool names = false;
  {
    const std::lock_guard lock(mutex_);
    files.swap(unsynced_);
    names = std::exchange(names_changed_, false);
  }
  Result<void> result;
  for (const auto& file : files)
    if (auto synced = file->sync(); !synced) result = std::move(synced);
  if (names && directory_ != nullptr)
    if (auto synced = directory_->sync(); !synced) result = std::move(synced);
  if (!result) {
    // Nobody knows what is on disk: the next call tries again, for what it is worth.
    const std::lock_guard lock(mutex_);
    unsynced_.insert(unsynced_.begin(), files.begin(), files.end());
    names_changed_ = names_changed_ || names;
  }
  return result;
}

const Removal* RemovalLog::find(std::uint64_t sequence) const {
  if (sequence < oldest() || sequence >= next_) return nullptr;
  return &entries_[static_cast<std::size_t>(sequence - oldest())];
}

bool RemovalLog::removed_since(std::uint64_t since, std::string_view key,
                               const std::vector<std::string>& tags) const {
  if (since >= head()) return false;
  if (since + 1 < oldest()) return true;
  const auto after = [since](const auto& map, const std::string& name) {
    const auto found = map.find(name);
    return found != map.end() && found->second > since;
  };
  for (const std::string& tag : tags)
    if (after(tags_, tag)) return true;
  if (purged_.empty()) return false;
  for (std::size_t at = key.find('#'); at != std::string_view::npos; at = key.find('#', at + 1))
    if (after(purged_, std::string(key.substr(0, at)))) return true;
  return after(purged_, std::string(key));
}

std::optional<std::uint64_t> RemovalLog::applied(const std::string& cache) const {
  const auto found = applied_.find(cache);
  if (found == applied_.end()) return std::nullopt;
  return found->second;
}

bool RemovalLog::note_applied(const std::string& cache, std::uint64_t sequence) {
  const auto found = applied_.find(cache);
  if (found == applied_.end()) {
    if (applied_.size() >= options_.caches_max) return false;
    applied_.emplace(cache, sequence);
    applied_changed_ = true;
  } else if (found->second < sequence) {
    found->second = sequence;
    applied_changed_ = true;
  }
  return true;
}

bool RemovalLog::forget_cache(const std::function<bool(const std::string&)>& keep) {
  auto least = applied_.end();
  for (auto one = applied_.begin(); one != applied_.end(); ++one)
    if ((least == applied_.end() || one->second < least->second) && !keep(one->first)) least = one;
  if (least == applied_.end()) return false;
  applied_.erase(least);
  applied_changed_ = true;
  return true;
}

// A line each: sequence, a blank, the name; before them the log's id, after them a checksum.
Result<void> RemovalLog::save_applied() {
  if (!applied_changed_ || directory_ == nullptr) return {};
  std::string text = std::to_string(id_) + "\n";
  for (const auto& [cache, sequence] : applied_)
    text += std::to_string(sequence) + " " + cache + "\n";
  text += std::to_string(checksum(std::as_bytes(std::span(text)))) + "\n";
  // A half-written one does not check out, and is no worse than none.
  const auto file = OM_TRY(directory_->create(kAppliedFile));
  OM_TRY(file->write_at(0, std::as_bytes(std::span(text))));
  applied_changed_ = false;
  return {};
}

Result<void> RemovalLog::read_applied() {
  auto file = directory_->open(kAppliedFile);
  if (!file) return {};
  const std::string text = OM_TRY(read_all(**file));
  const std::size_t end = text.rfind('\n', text.size() < 2 ? 0 : text.size() - 2);
  if (end == std::string::npos) return {};
  const std::string_view signed_part = std::string_view(text).substr(0, end + 1);
  if (text.substr(end + 1) !=
      std::to_string(checksum(std::as_bytes(std::span(signed_part)))) + "\n")
    return {};
  std::string_view rest = signed_part;
  bool first = true;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(line.size() + 1);
    std::uint64_t number = 0;
    const auto [after, code] = std::from_chars(line.data(), line.data() + line.size(), number);
    if (code != std::errc()) return {};
    if (first) {
      first = false;
      if (number != id_) return {};
      continue;
    }
    const auto skip = static_cast<std::size_t>(after - line.data()) + 1;
    // What was lost with the log's end had been applied at best, and its numbers are given anew.
    if (skip < line.size()) applied_[std::string(line.substr(skip))] = std::min(number, head());
    if (number <= head()) continue;
    if (!end_lost_) report_ += "a cache had applied more than is here; ";
    end_lost_ = end_unknown_ = true;
  }
  return {};
}

std::uint64_t RemovalLog::bytes() const {
  std::uint64_t total = 0;
  for (const File& file : files_) total += file.end;
  return total;
}

}  // namespace om::store
