// The disk tier's directories. An object from the file threshold up has a file,
// <disk>/objects/<xx>/<object id>, created in place and fallocated; smaller ones are appended to
// pack files, <disk>/packs/<number>. Nothing written is ever overwritten; space comes back by
// unlinking whole files. Each directory carries its number (1 to 4095) in <disk>/disk-id, so that
// segment ids stay right when the configuration's order changes.
//
// A directory whose file system fails (EIO, EROFS, anything unexpected) drops out: its objects are
// misses until the next start. One that is full only takes no new objects for a while.
// Accounts count whole blocks of files and whole packs. Loop thread; jobs use duplicates.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "posix/unique_fd.h"
#include "store/store.h"

namespace om::store {

class DiskTier {
 public:
  struct Options {
    std::vector<DiskConfig> disks;
    std::uint64_t pack_bytes = 0;
    // For tests: an errno to fail with, or 0.
    std::function<int(const char* operation, const std::string& path)> fault;
  };
  static Result<std::unique_ptr<DiskTier>> open(Options options, const Clock& clock);

  // --- recovery: first every object that the catalog names, then what is pinned, then the sweeps.
  // False: its bytes are not there (or its disk is not: then `unknown_disk` says which of the two).
  bool recover(ObjectId object, const std::vector<Extent>& extents, bool check_size);
  // Remove what nobody named.
  void sweep_files();
  void sweep_packs();
  // A number that no pack has had in an earlier life: a record that comes back with power loss must
  // not find another pack under the number of its own.
  void number_packs_from(std::uint64_t number) { next_pack_ = std::max(next_pack_, number); }
  [[nodiscard]] ObjectId highest_object() const { return highest_object_; }
  // Whether a segment's directory may come back: one of the configured ones failed to open.
  [[nodiscard]] bool may_return(SegmentId id) const;

  // --- files
  struct NewFile {
    SegmentId id = 0;
    UniqueFd file;
  };
  // kNoSpace: no directory has room. Tries the others when one fails.
  Result<NewFile> create_file(ObjectId object, std::uint64_t length);
  Result<void> grow_file(SegmentId id, BorrowedFd file, std::uint64_t from, std::uint64_t to);
  Result<void> trim_file(SegmentId id, BorrowedFd file, std::uint64_t from, std::uint64_t to);
  // --- packs
  struct PackSlot {
    Extent extent;
    UniqueFd file;
  };
  Result<PackSlot> take_pack(ObjectId object, std::uint64_t length);
  // Objects of a pack that is mostly dead, to be copied elsewhere: the pack and its members.
  struct Sparse {
    SegmentId pack = 0;
    std::vector<ObjectId> members;
  };
  // Whether that object may leave that pack now.
  using MayLeave = std::function<bool(SegmentId pack, ObjectId object)>;
  // The first such pack that one object at least may leave: others have to wait.
  [[nodiscard]] std::optional<Sparse> sparse_pack(unsigned live_percent_max,
                                                  const MayLeave& may_leave) const;

  // Gives the bytes of an object back: unlinks its file, or its pack when that was the last.
  void free(const std::vector<Extent>& extents);

  // --- reading
  [[nodiscard]] bool readable(SegmentId id) const;
  // From a cache of open descriptors: valid until the next call.
  Result<SegmentView> reader(SegmentId id);
  Result<UniqueFd> open_for_copy(SegmentId id);
  // The one that holds the file of an object or pack.
  Result<UniqueFd> open_directory_of(SegmentId id);
  // Whether it is a pack that has not been dropped.
  [[nodiscard]] bool has(SegmentId id) const;

  // --- regions' directories
  // With what it had, also when the region's memory went with a reboot: its owner judges that.
  Result<UniqueFd> region_directory(const std::string& name, std::uint64_t bytes);
  [[nodiscard]] std::vector<std::string> region_names() const;
  [[nodiscard]] std::uint64_t region_bytes(const std::string& name) const;
  void drop_region(const std::string& name);

  // --- state
  [[nodiscard]] bool any() const;
  // Whether an object of this length has room now, in a file or in a pack.
  [[nodiscard]] bool room_for(std::uint64_t length, bool file);
  void report_failure(SegmentId id, const Error& error);
  void report_failure(std::uint16_t id, const Error& error);
  // To be synced: a descriptor for each healthy directory.
  [[nodiscard]] std::vector<std::pair<std::uint16_t, UniqueFd>> directories() const;
  [[nodiscard]] std::uint64_t capacity() const;
  [[nodiscard]] std::uint64_t used() const;
  // Files of ours that are no bodies (the catalog) take `bytes` on the file system of `directory`:
  // the disk directory that lies there, if one does, has so much less for bodies.
  void count_beside(BorrowedFd directory, std::uint64_t bytes);
  // More is taken than was promised: the catalog has grown.
  [[nodiscard]] bool over_capacity() const;
  void add_status(std::vector<StatusItem>& items) const;
  // Of directories that have dropped out since the last call: a line for the log each.
  std::vector<std::string> take_troubles() { return std::exchange(troubles_, {}); }
  [[nodiscard]] int injected(const char* operation, const std::string& path) const {
    return options_.fault ? options_.fault(operation, path) : 0;
  }
  [[nodiscard]] std::string path_of(std::uint16_t id) const;

 private:
  struct Member {
    std::uint64_t offset = 0;
    ObjectId object = 0;  // 0: it is gone
  };
  struct Pack {
    std::uint64_t size = 0;
    std::uint64_t tail = 0;
    std::uint64_t live = 0;
    std::uint64_t live_objects = 0;
    bool current = false;
    std::vector<Member> members;
    std::size_t gone = 0;  // of them
    bool in_order = true;  // of their offsets
  };
  struct Disk {
    std::uint16_t id = 0;
    std::string path;
    UniqueFd root, objects, packs_dir, regions_dir;
    std::uint64_t capacity = 0;
    std::uint64_t used = 0;
    std::uint64_t beside = 0;  // taken by files that are no bodies
    std::string failure;       // empty: healthy
    // The file system said that it is full when that much was used: so much is what it has for us
    // for a while, and as usual what is older makes room.
    std::uint64_t full_at = 0;
    std::uint64_t full_until_ns = 0;
    std::map<std::uint64_t, Pack> packs;
    std::unordered_set<ObjectId> unclaimed;  // files that recovery has met in no record yet
    std::unordered_map<std::string, std::uint64_t> regions;
  };
  explicit DiskTier(Options options, const Clock& clock)
      : options_(std::move(options)), clock_(clock) {}
  Result<void> open_disk(Disk& disk, std::uint64_t bytes);
  Result<void> scan(Disk& disk);
  Disk* disk(std::uint16_t id);
  [[nodiscard]] const Disk* disk(std::uint16_t id) const;
  // Healthy directories with that much left, the emptiest first.
  std::vector<Disk*> by_room(std::uint64_t bytes);
  // What is left of the capacity, or of what the file system has.
  [[nodiscard]] std::uint64_t room(const Disk& disk) const;
  // A small directory gets small packs.
  [[nodiscard]] std::uint64_t pack_size(const Disk& disk, std::uint64_t length) const;
  // The directory drops out.
  void fail(Disk& disk, const Error& error);
  // What a failed call means for the directory; the error to answer with.
  Error judge(Disk& disk, Error error);
  static void forget_member(Pack& pack, std::uint64_t offset);
  void drop_pack(Disk& disk, std::uint64_t number);
  void forget_reader(SegmentId id);
  Result<UniqueFd> open_segment(SegmentId id, int flags);

  Options options_;
  const Clock& clock_;
  std::vector<std::unique_ptr<Disk>> disks_;
  bool some_did_not_open_ = false;
  std::vector<std::string> troubles_;
  std::uint64_t next_pack_ = 1;
  ObjectId highest_object_ = 0;
  std::list<std::pair<SegmentId, UniqueFd>> readers_;  // most recent first
  std::unordered_map<SegmentId, std::list<std::pair<SegmentId, UniqueFd>>::iterator> reader_index_;
};

}  // namespace om::store
