#include "store/catalog/journal.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <optional>
#include <random>
#include <string_view>
#include <utility>

#include "base/assert.h"
#include "base/units.h"

namespace om::catalog {
namespace {

constexpr std::uint64_t kReserveStepBytes = std::uint64_t{1} << 20;
constexpr std::string_view kNamePrefix = "journal-";

std::uint64_t header_checksum(const EntryHeader& header, std::uint64_t salt) {
  std::byte bytes[sizeof header];
  std::memcpy(bytes, reinterpret_cast<const std::byte*>(&header) + sizeof header.header_checksum,
              sizeof header - sizeof header.header_checksum);
  std::memcpy(bytes + sizeof header - sizeof salt, &salt, sizeof salt);
  return checksum(bytes);
}

std::uint64_t file_header_checksum(const FileHeader& header) {
  return checksum({reinterpret_cast<const std::byte*>(&header), offsetof(FileHeader, checksum)});
}

bool known(std::uint16_t type) {
  return type >= static_cast<std::uint16_t>(EntryType::kPublish) &&
         type <= static_cast<std::uint16_t>(EntryType::kClean);
}

std::string file_name(std::uint64_t number) {
  char name[32];
  (void)std::snprintf(name, sizeof name, "journal-%016" PRIx64, number);
  return name;
}

std::optional<std::uint64_t> file_number(const std::string& name) {
  if (name.size() != kNamePrefix.size() + 16 || name.compare(0, kNamePrefix.size(), kNamePrefix))
    return std::nullopt;
  std::uint64_t number = 0;
  for (const char c : name.substr(kNamePrefix.size())) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'a' || c > 'f')) return std::nullopt;
    number = number * 16 + static_cast<std::uint64_t>(digit ? c - '0' : c - 'a' + 10);
  }
  return number;
}

std::uint64_t random_salt() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

Result<std::vector<std::byte>> read_all(LogFile& log) {
  std::vector<std::byte> bytes(OM_TRY(log.size()));
  bytes.resize(OM_TRY(log.read_at(0, bytes)));
  return bytes;
}

}  // namespace

Scan scan_journal(std::span<const std::byte> file,
                  const std::function<void(const ScannedEntry&)>& visit) {
  Scan scan;
  if (file.size() < sizeof scan.header) return scan;
  std::memcpy(&scan.header, file.data(), sizeof scan.header);
  if (scan.header.magic != kJournalMagic || scan.header.version != kJournalVersion ||
      scan.header.header_bytes != sizeof(FileHeader) ||
      scan.header.checksum != file_header_checksum(scan.header)) {
    return scan;
  }
  scan.header_valid = true;
  scan.end = sizeof(FileHeader);
  std::uint64_t last_sequence = 0;
  std::uint64_t at = scan.end;
  while (at <= file.size() && file.size() - at >= sizeof(EntryHeader)) {
    ScannedEntry entry;
    std::memcpy(&entry.header, file.data() + at, sizeof entry.header);
    const EntryHeader& header = entry.header;
    const bool valid =
        known(header.type) && header.zero == 0 && header.payload_bytes <= kPayloadBytesMax &&
        header.sequence > last_sequence && header.sequence >= scan.header.first_sequence &&
        header.header_checksum == header_checksum(header, scan.header.salt);
    if (!valid) {
      // Not an entry: look for the next one. Entries lie on multiples of eight.
      at += 8;
      continue;
    }
    entry.payload_offset = at + sizeof header;
    if (header.payload_bytes > file.size() - entry.payload_offset) break;  // cut off in the middle
    entry.payload = file.subspan(entry.payload_offset, header.payload_bytes);
    if (checksum(entry.payload) != header.payload_checksum) {
      entry.damaged = true;
      entry.payload = {};
    }
    last_sequence = header.sequence;
    at = entry.payload_offset + round_up(header.payload_bytes, 8);
    scan.end = std::min<std::uint64_t>(at, file.size());
    visit(entry);
  }
  scan.torn_bytes = file.size() - scan.end;
  return scan;
}

Result<Journal::Replay> Journal::replay(std::uint64_t applied, const ReplayEvents& events) {
  OM_ASSERT(files_.empty());
  std::vector<std::uint64_t> numbers;
  for (const std::string& name : OM_TRY(directory_.list())) {
    if (const auto number = file_number(name)) numbers.push_back(*number);
  }
  std::sort(numbers.begin(), numbers.end());
  Replay replay;
  replay.last_sequence = applied;
  bool first = true;
  for (const std::uint64_t number : numbers) {
    next_number_ = number + 1;
    auto file = std::make_shared<File>();
    file->name = file_name(number);
    file->number = number;
    file->log = OM_TRY(directory_.open(file->name));
    const auto bytes = OM_TRY(read_all(*file->log));
    const auto scan = scan_journal(bytes, [&](const ScannedEntry& entry) {
      const std::uint64_t sequence = entry.header.sequence;
      replay.claimed_synced = std::max(replay.claimed_synced, entry.header.synced_sequence);
      file->last_sequence = sequence;
      // What is not newer is in the index, or was in an older file: one that came back.
      if (sequence <= replay.last_sequence) return;
      if (sequence != replay.last_sequence + 1) events.gap(replay.last_sequence + 1, sequence - 1);
      replay.last_sequence = sequence;
      replay.clean = entry.header.type == static_cast<std::uint16_t>(EntryType::kClean);
      events.entry(entry, *file);
    });
    if (scan.header_valid) {
      replay.boot = {scan.header.boot_high, scan.header.boot_low};
      if (first && scan.header.first_sequence > applied + 1) replay.file_missing = true;
      first = false;
    } else if (bytes.size() > sizeof(FileHeader)) {
      replay.file_unreadable = true;
    }
    file->salt = scan.header.salt;
    file->end = scan.end;
    replay.torn_bytes += scan.torn_bytes;
    ++replay.files;
    files_.push_back(std::move(file));
  }
  return replay;
}

Result<Journal::FilePtr> Journal::make_file(std::uint64_t number, std::uint64_t first_sequence,
                                            KeyHash boot) {
  auto file = std::make_shared<File>();
  file->name = file_name(number);
  file->number = number;
  file->salt = random_salt();
  FileHeader header{kJournalMagic, kJournalVersion, sizeof(FileHeader), number, first_sequence,
                    file->salt,    boot.high,       boot.low,           0};
  header.checksum = file_header_checksum(header);
  file->log = OM_TRY(directory_.create(file->name));
  const auto fill = [&]() -> Result<void> {
    file->reserved = sizeof header + kRemovalReserveBytes + kReserveStepBytes;
    OM_TRY(file->log->reserve(0, file->reserved));
    OM_TRY(file->log->write_at(0, {reinterpret_cast<const std::byte*>(&header), sizeof header}));
    OM_TRY(file->log->sync());
    return directory_.sync();
  };
  if (auto filled = fill(); !filled) {
    (void)directory_.remove(file->name);
    return filled.error();
  }
  file->end = sizeof header;
  return file;
}

void Journal::use_file(FilePtr file) {
  if (!files_.empty()) wipe_leftover(*files_.back());  // nothing overwrites it any more
  next_number_ = file->number + 1;
  files_.push_back(std::move(file));
}

Result<void> Journal::write(File& file) {
  return file.log->write_at(file.end,
                            {reinterpret_cast<const std::byte*>(buffer_.data()), buffer_.size()});
}

// The size says how far any write has got: to go beyond it would take space that there may not be.
void Journal::note_leftover(File& file) const {
  const std::uint64_t reached = file.end + buffer_.size();
  const auto size = file.log->size();
  file.leftover_end = size ? std::min(*size, reached) : reached;
}

void Journal::wipe_leftover(File& file) {
  if (file.leftover_end <= file.end) return;
  buffer_.assign(file.leftover_end - file.end, '\0');
  if (write(file)) file.leftover_end = 0;
  buffer_.clear();
}

Journal::Added Journal::complete(EntryHeader header, std::size_t begin) {
  File& file = *files_.back();
  const auto payload = std::as_bytes(std::span(buffer_)).subspan(begin + sizeof header);
  OM_ASSERT(payload.size() <= kPayloadBytesMax);
  header.zero = 0;
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  header.payload_checksum = checksum(payload);
  header.header_checksum = header_checksum(header, file.salt);
  std::memcpy(buffer_.data() + begin, &header, sizeof header);
  buffer_.resize(round_up(buffer_.size(), 8));
  last_added_ = header.sequence;
  only_removals_ = only_removals_ && header.type == static_cast<std::uint16_t>(EntryType::kRemove);
  return {&file, file.end + begin + sizeof header, header.payload_bytes};
}

// Only removals may use the last of it.
Result<void> Journal::reserve(File& file, std::uint64_t end) {
  if (only_removals_ || end + kRemovalReserveBytes <= file.reserved) return {};
  std::uint64_t wanted = end + kRemovalReserveBytes + kReserveStepBytes;
  if (!file.log->reserve(file.reserved, wanted - file.reserved)) {
    wanted = end + kRemovalReserveBytes;
    OM_TRY(file.log->reserve(file.reserved, wanted - file.reserved));
  }
  file.reserved = wanted;
  return {};
}

Result<void> Journal::write_added() {
  File& file = *files_.back();
  const std::uint64_t end = file.end + buffer_.size();
  auto done = reserve(file, end);
  if (done) {
    if (file.leftover_end > end) buffer_.resize(file.leftover_end - file.end);
    done = write(file);
    if (!done) {
      note_leftover(file);
      wipe_leftover(file);
    }
  }
  buffer_.clear();
  only_removals_ = true;
  if (!done) return done;
  file.leftover_end = 0;
  file.end = end;
  file.last_sequence = last_added_;
  return {};
}

std::uint64_t Journal::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& file : files_) sum += file->end;
  return sum;
}

std::vector<Journal::FilePtr> Journal::take_obsolete(std::uint64_t applied) {
  std::vector<FilePtr> taken;
  while (files_.size() > 1 && files_.front()->last_sequence <= applied) {
    taken.push_back(std::move(files_.front()));
    files_.erase(files_.begin());
  }
  return taken;
}

std::vector<Journal::FilePtr> Journal::take_old() {
  std::vector<FilePtr> taken(std::make_move_iterator(files_.begin()),
                             std::make_move_iterator(files_.end() - 1));
  files_.erase(files_.begin(), files_.end() - 1);
  return taken;
}

}  // namespace om::catalog
