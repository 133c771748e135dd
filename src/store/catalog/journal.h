// journal.h: the catalog's append-only log, as files numbered one after the other.
//
//   file   = FileHeader, then entries
//   entry  = EntryHeader, payload, zero to seven zero bytes up to a multiple of eight
//
// Numbers (sequences) rise by one from entry to entry, across files. An entry is found by its
// header's checksum, which is salted with a random number of the file: bytes that a client chose
// (metadata inside a payload) can never pass for an entry.
//
// A failed append leaves the end where it was. What had got there, which may be whole entries where
// several were to go with one write, is overwritten with zeros: at once, or else by the next
// append.
//
// Threads: none of its own. The catalog calls everything here under its mutex, except what a File's
// LogFile allows (sync, read_at).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/checksum.h"
#include "base/result.h"
#include "store/catalog/log_file.h"

namespace om::catalog {

enum class EntryType : std::uint16_t {
  kPublish = 1,  // payload: the object
  kMove = 2,     // payload: the object, in its new place
  kRemove = 3,   // payload: the key
  kClean = 4,    // no payload: the process ended in order, the index has everything before
};

struct FileHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t header_bytes;
  std::uint64_t file_number;
  std::uint64_t first_sequence;  // no entry of a lower number is in it
  std::uint64_t salt;
  std::uint64_t boot_high;  // XXH3-128 of the boot id's text
  std::uint64_t boot_low;
  std::uint64_t checksum;  // of all before
};
static_assert(sizeof(FileHeader) == 64 && std::has_unique_object_representations_v<FileHeader>);

struct EntryHeader {
  std::uint64_t header_checksum;   // of the 56 bytes that follow, then the file's salt
  std::uint64_t payload_checksum;  // of the payload without padding
  std::uint32_t payload_bytes;
  std::uint16_t type;
  std::uint16_t zero;
  std::uint64_t sequence;
  std::uint64_t synced_sequence;  // when this was written, everything up to here was on disk
  std::uint64_t key_high;         // XXH3-128 of the key, so that a damaged payload has a name
  std::uint64_t key_low;
  std::uint64_t object_id;
};
static_assert(sizeof(EntryHeader) == 64 && std::has_unique_object_representations_v<EntryHeader>);

inline constexpr std::uint64_t kJournalMagic = 0x31304c4e524a4d4f;  // "OMJRNL01"
inline constexpr std::uint32_t kJournalVersion = 1;
// Key, metadata, tags and extents of one object at their limits fit with room to spare.
inline constexpr std::uint32_t kPayloadBytesMax = 4u << 20;
// Space that only removals may use, so that a full file system can be made less full.
inline constexpr std::uint64_t kRemovalReserveBytes = 256 * 1024;

// --- parsing: pure, bounded, trusts nothing

struct ScannedEntry {
  EntryHeader header{};
  std::uint64_t payload_offset = 0;
  std::span<const std::byte> payload;  // empty when damaged
  bool damaged = false;                // the payload does not check out
};
struct Scan {
  bool header_valid = false;
  FileHeader header{};
  std::uint64_t end = 0;         // after the last entry
  std::uint64_t torn_bytes = 0;  // after it that are no entry
};
Scan scan_journal(std::span<const std::byte> file,
                  const std::function<void(const ScannedEntry&)>& visit);

// --- the files

class Journal {
 public:
  struct File {
    std::string name;
    std::unique_ptr<LogFile> log;
    std::uint64_t number = 0;
    std::uint64_t salt = 0;
    std::uint64_t end = 0;
    std::uint64_t reserved = 0;
    std::uint64_t leftover_end = 0;     // beyond `end`: up to here a failed append may have got
    std::uint64_t last_sequence = 0;    // 0: no entry
    std::uint64_t synced_sequence = 0;  // of its entries
    bool sync_failed = false;           // nobody knows what is on disk: write no more into it
  };
  using FilePtr = std::shared_ptr<File>;

  struct ReplayEvents {
    // In the order of their numbers, only those after `applied`.
    std::function<void(const ScannedEntry&, File&)> entry;
    // Numbers first to last should be between the entries before and after, and are not.
    std::function<void(std::uint64_t first, std::uint64_t last)> gap;
  };
  struct Replay {
    std::uint64_t last_sequence = 0;  // at least `applied`
    std::uint64_t claimed_synced = 0;
    std::uint64_t torn_bytes = 0;
    std::uint64_t files = 0;
    bool file_missing = false;     // the oldest file that there should be is not there
    bool file_unreadable = false;  // one with content has no valid header
    bool clean = false;            // the last entry is kClean
    KeyHash boot;                  // of the newest file
  };

  explicit Journal(LogDirectory& directory) : directory_(directory) {}

  // Reads what is there. Every file is then kept as an old one; call start_file() before append().
  Result<Replay> replay(std::uint64_t applied, const ReplayEvents& events);
  // Begins another file, synced with its name, and appends to it from then on. When it fails the
  // old one stays in use. In two steps, because the first blocks and needs no lock.
  Result<FilePtr> make_file(std::uint64_t number, std::uint64_t first_sequence, KeyHash boot);
  void use_file(FilePtr file);
  [[nodiscard]] std::uint64_t next_number() const { return next_number_; }

  // Where an entry will be, once it is written.
  struct Added {
    File* file = nullptr;
    std::uint64_t payload_offset = 0;
    std::uint32_t payload_bytes = 0;
  };
  // An entry behind those that wait for the next write. `encode(out)` appends its payload to that
  // string; checksums and payload_bytes of `header` are filled in.
  template <class Encode>
  Added add(const EntryHeader& header, Encode encode) {
    const std::size_t begin = buffer_.size();
    buffer_.resize(begin + sizeof header);
    encode(buffer_);
    return complete(header, begin);
  }
  // All that were added with one write, or none of them. Their numbers rise by one.
  Result<void> write_added();
  // One of them.
  Result<void> append(const EntryHeader& header, std::span<const std::byte> payload) {
    add(header, [payload](std::string& out) {
      out.append(reinterpret_cast<const char*>(payload.data()), payload.size());
    });
    return write_added();
  }

  [[nodiscard]] const FilePtr& current() const { return files_.back(); }
  [[nodiscard]] const std::vector<FilePtr>& files() const { return files_; }
  [[nodiscard]] std::uint64_t bytes() const;
  // Takes files out whose entries all have numbers up to `applied`; the caller deletes them.
  std::vector<FilePtr> take_obsolete(std::uint64_t applied);
  // Everything but the current file.
  std::vector<FilePtr> take_old();
  Result<void> delete_file(const File& file) { return directory_.remove(file.name); }

 private:
  // The entry that begins there in buffer_.
  Added complete(EntryHeader header, std::size_t begin);
  Result<void> reserve(File& file, std::uint64_t end);
  // Of buffer_, to the end.
  Result<void> write(File& file);
  void note_leftover(File& file) const;
  void wipe_leftover(File& file);

  LogDirectory& directory_;
  std::vector<FilePtr> files_;  // oldest first; the last is current
  std::uint64_t next_number_ = 1;
  std::string buffer_;  // entries that were added
  std::uint64_t last_added_ = 0;
  bool only_removals_ = true;
};

}  // namespace om::catalog
