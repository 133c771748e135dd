// snapshot.h: what a region knows of its bodies in files, written beside them when its user ends in
// order. The region itself, in memory, does not outlive the boot; files and snapshot do.
//
// The file `snapshot` in the region's directory is there and checks out only when everything that
// it names was synced before it got its name (docs/region-format.md). What is removed after it was
// begun is named in the file `snapshot.gone`, durably from the moment on in which the snapshot
// counts: connections that were open go on for a while, and what they fetch replaces objects.
// Whoever opens the region takes both away, durably, before anything else: they are used once, or
// not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"
#include "region/record.h"

namespace om::region {

struct SnapshotObject {
  std::span<const std::byte> record;  // as it lay in the region, words included
  std::span<const std::byte> esi;
};

class SnapshotWriter {
 public:
  SnapshotWriter(std::string_view owner, std::span<const std::byte> ban_specs, double bans_lost);
  void add(const SnapshotObject& object);
  // Under its temporary name, and on the disk; what it names as well.
  Result<void> write(BorrowedFd directory);

 private:
  std::vector<std::byte> bytes_;
  std::uint64_t objects_ = 0;
};
// The files of objects that left a snapshot after it was begun. One thread at a time.
class SnapshotGone {
 public:
  // Names none yet.
  static Result<SnapshotGone> begin(BorrowedFd directory);
  // The object of that file (FileRef::number) is not to come back.
  Result<void> add(std::uint64_t file_number);
  Result<void> sync();

 private:
  explicit SnapshotGone(UniqueFd file) : file_(std::move(file)) {}
  UniqueFd file_;
  std::uint64_t end_ = 0;
};
// From here on it counts.
Result<void> commit_snapshot(BorrowedFd directory);
// It does not count, not after a power loss either. Whether there was one.
bool withdraw_snapshot(BorrowedFd directory);

struct Snapshot {
  std::vector<std::byte> bytes;  // what the spans point to
  std::string_view owner;
  std::span<const std::byte> ban_specs;
  double bans_lost = 0;
  std::vector<SnapshotObject> objects;  // records that check out, but for their place
};
// Without those that have gone. nullopt: none, or one that does not check out. Does not take it
// away.
std::optional<Snapshot> read_snapshot(BorrowedFd directory);
std::optional<Snapshot> parse_snapshot(std::vector<std::byte> bytes);

}  // namespace om::region
