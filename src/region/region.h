// region.h: a region, mapped and in use by this process.
//
//   opened      locked, mapped, header in order      scan() needed unless formatted() said so
//   scanned     candidates are known                 finish_scan() decides, and frees the rest
//   in use      everything else
//
// An object's way: create() -> attributes and extents filled -> attach_body(), attach_esi() ->
// seal() -> publish(). destroy() at any point undoes it all. Between create and publish nothing of
// it survives a crash, after publish all of it does; publish and retire are one store each.
// A removal that is answered must have called mark_removed() or retire() before.
//
// Any thread may call what stands under "in use", for different records; one record belongs to
// whoever made it (Varnish's busy objcore) until publish, later changes are atomic words.
// The region stays mapped until the Region is destroyed; varnishd's child never does that.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "posix/mapping.h"
#include "posix/unique_fd.h"
#include "region/allocator.h"
#include "region/ban_log.h"
#include "region/body_files.h"
#include "region/format.h"
#include "region/record.h"
#include "region/snapshot.h"

namespace om::region {

// XXH3 of a body that comes in pieces.
class BodyChecksum {
 public:
  BodyChecksum();
  BodyChecksum(const BodyChecksum&) = delete;
  BodyChecksum& operator=(const BodyChecksum&) = delete;
  ~BodyChecksum();
  void add(std::span<const std::byte> bytes);
  [[nodiscard]] std::uint64_t value() const;

 private:
  void* state_;
};

struct ScanReport {
  struct Candidate {
    std::uint64_t slot;
    Record* record;  // checked, in the mapping
  };
  std::vector<Candidate> candidates;
  std::array<std::uint64_t, kDropReasons> dropped{};  // by Drop
  std::uint64_t slots_in_use = 0;
  bool index_damaged = false;  // a page did not check out: what it and its followers held is lost
};

class Region {
 public:
  // Takes the lock on byte 0 through this description (held by another: kBusy), maps `size` bytes.
  // Formats it when `fresh`, or when the header does not check out (format_reason() says why). A
  // region of another owner is kDenied, and not touched. `size` may differ from last time's: what
  // lies beyond is dropped by scan().
  static Result<std::unique_ptr<Region>> open(UniqueFd memory, std::uint64_t size,
                                              std::string_view owner, bool fresh);
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region();

  // Empty: it was taken as it was, and wants scan() and finish_scan() before it is used.
  [[nodiscard]] const std::string& format_reason() const { return format_reason_; }
  [[nodiscard]] bool formatted() const { return !format_reason_.empty(); }
  // Its last user let go in order (mark_clean).
  [[nodiscard]] bool was_clean() const { return was_clean_; }

  // --- adoption: called by one thread, before any use ---

  // Where bodies in files lie; without it records that name one are dropped. Before scan(). A
  // region that is new since the last boot takes over the records of a snapshot that lies there,
  // and is then scanned like any other. The snapshot is used up.
  void use_files(std::unique_ptr<BodyFiles> files);
  // Checks every record; touches no bodies. Rejected ones are retired by finish_scan(). On several
  // threads, which are gone when it returns; 0: as many as the number of slots is worth.
  ScanReport scan(unsigned threads = 0);
  // Keeps the candidates of these slots, drops all others, makes the free space of the rest.
  void finish_scan(std::span<const std::uint64_t> kept);
  // A marker around the attaching of each object: one that was set when the process died makes the
  // next scan drop that slot (kCrashedAt).
  void set_adopting(std::uint64_t slot);
  void clear_adopting();
  // Reads the whole body. True also for records without a body checksum.
  // False also when its file cannot be read. Not for an object of the daemon.
  [[nodiscard]] bool verify_body(const Record& record) const;
  // XXH3 of the bytes of these extents: what attach_body() takes and verify_body() compares.
  [[nodiscard]] std::uint64_t body_checksum(std::span<const Extent> list) const;

  // --- in use: any thread ---

  // nullptr: no space (make some and try again).
  Record* create(const RecordPlan& plan);
  // The body's extents, lengths set; takes them over. False: no space for the list (nothing has
  // changed hands). `body_checksum` when there is one to keep.
  bool attach_body(Record& record, std::span<const Extent> body,
                   std::optional<std::uint64_t> body_checksum = std::nullopt);
  // The body is this file, finished; takes it over.
  void attach_file(Record& record, const FileRef& file,
                   std::optional<std::uint64_t> body_checksum = std::nullopt);
  // The body is this object of the daemon; whoever adopts the record has to lease it again. False:
  // no space for the key.
  bool attach_lent(Record& record, const LentRef& lent,
                   std::optional<std::uint64_t> body_checksum = std::nullopt);
  // The same extents, or the same file, as `from`'s body, by reference (a 304 refresh). `from` must
  // be alive. False: no space for the list. Not for an object of the daemon.
  bool share_body(Record& record, const Record& from);
  // A block of its own for ESIDATA; nullptr: no space. Fill it before seal().
  std::byte* attach_esi(Record& record, std::uint32_t length);
  // Empty when there is none.
  [[nodiscard]] std::span<const std::byte> esi(const Record& record) const;
  void seal(Record& record);
  // Makes it survive. False: no space for an index page.
  bool publish(Record& record);
  // It does not survive any more; idempotent. Before anything of it is freed.
  void retire(Record& record);
  // As retire(), and says so in the record (for removals that are answered). One store each.
  void mark_removed(Record& record);
  // Gives up body and ESI data, keeps the attributes (objslim). Retires it.
  void drop_body(Record& record);
  // Retires it and frees all that it has. The pointer is dead afterwards.
  void destroy(Record* record);

  [[nodiscard]] std::span<const Extent> body(const Record& record) const {
    return extents(record, base());
  }
  [[nodiscard]] std::optional<LentRef> lent(const Record& record) const {
    return lent_of(record, base());
  }
  // For body memory that is not attached yet.
  Allocator& allocator() { return *allocator_; }
  [[nodiscard]] const Allocator& allocator() const { return *allocator_; }
  BanLog& bans() { return bans_; }
  // nullptr: no disk.
  [[nodiscard]] BodyFiles* files() const { return files_.get(); }

  [[nodiscard]] std::byte* base() const { return mapping_.data(); }
  [[nodiscard]] std::uint64_t size() const { return mapping_.size(); }
  [[nodiscard]] std::byte* pointer(std::uint64_t offset) const { return base() + offset; }
  [[nodiscard]] std::uint64_t offset_of(const void* pointer) const {
    return static_cast<std::uint64_t>(static_cast<const std::byte*>(pointer) - base());
  }
  [[nodiscard]] bool contains(const void* pointer) const {
    return std::less_equal<>{}(base(), static_cast<const std::byte*>(pointer)) &&
           std::less<>{}(static_cast<const std::byte*>(pointer), base() + size());
  }
  [[nodiscard]] std::uint64_t region_id() const { return header()->region_id; }
  [[nodiscard]] std::uint64_t published() const {
    return published_.load(std::memory_order_relaxed);
  }
  // Faults in [offset, offset + bytes) without changing it; a background thread's work. False: the
  // kernel is older than MADV_POPULATE_WRITE (5.14), or memory is short.
  bool populate(std::uint64_t offset, std::uint64_t bytes) const;
  // In order: nothing was under way.
  void mark_clean();
  // And what makes bodies in files come back after a reboot; how many they are. Waits for the disk.
  Result<std::uint64_t> write_snapshot();
  void withdraw_snapshot();
  // The object as the snapshot may have it is not to come back: it was removed, or lasts less long.
  // Durable when it returns, if the snapshot counts by then. Any thread; nothing to do before
  // write_snapshot() begins.
  void leave_snapshot(const Record& record);
  // The daemon's word: new objects are to go elsewhere.
  [[nodiscard]] bool draining() const {
    return header()->drain.load(std::memory_order_relaxed) != 0;
  }
  [[nodiscard]] RegionHeader* header() const { return reinterpret_cast<RegionHeader*>(base()); }

 private:
  Region(UniqueFd file, Mapping mapping) : file_(std::move(file)), mapping_(std::move(mapping)) {}
  // Empty when the header checks out, else why not.
  [[nodiscard]] std::string check_header() const;
  void format(std::string_view owner);
  [[nodiscard]] Word& slot_word(std::uint64_t slot) const;
  IndexPage* add_index_page();
  bool attach_list(Record& record, std::span<const Extent> list);
  void release_body(const Record& record);
  void import(const Snapshot& snapshot);
  // What stands for a body in shared_: 0 for an empty one.
  [[nodiscard]] std::uint64_t body_key(const Record& record) const;
  struct Range {
    std::uint64_t begin;
    std::uint64_t end;
  };
  static void merge(std::vector<Range>& ranges);
  static bool touches(const std::vector<Range>& ranges, std::uint64_t offset, std::uint64_t bytes);
  struct Scan;
  void scan_pages(Scan& scan);
  std::uint64_t claim_kept(const std::vector<bool>& keep);
  void find_shared(const ScanReport& report, const std::vector<ScanReport::Candidate>& second_look,
                   std::vector<Range>& conflicts_out);
  [[nodiscard]] Drop check_candidate(std::uint64_t slot, std::uint64_t offset) const;

  UniqueFd file_;
  Mapping mapping_;
  std::string format_reason_;
  bool was_clean_ = false;
  std::optional<Allocator> allocator_;
  BanLog bans_;
  std::atomic<std::uint64_t> published_{0};

  // Between scan() and finish_scan().
  std::vector<ScanReport::Candidate> candidates_;
  std::vector<std::uint64_t> rejected_;
  bool claims_hold_ = false;  // no two of the candidates claimed the same bytes

  std::mutex index_mutex_;
  std::vector<IndexPage*> pages_;
  std::vector<std::uint64_t> free_slots_;  // capacity for all slots: giving back never allocates

  std::unique_ptr<BodyFiles> files_;
  std::mutex snapshot_mutex_;
  std::atomic<bool> snapshot_begun_{false};
  std::optional<SnapshotGone> snapshot_gone_;  // guarded by snapshot_mutex_, as what follows
  bool snapshot_counts_ = false;
  bool snapshot_void_ = false;

  // Bodies that more than one record names, by body_key().
  std::mutex shared_mutex_;
  std::unordered_map<std::uint64_t, std::uint32_t> shared_;
  std::atomic<std::size_t> shared_count_{0};  // most regions share little: no lock to learn that
};

}  // namespace om::region
