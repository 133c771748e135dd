// snapshot.h: what a region knows of its bodies in files, written beside them when its user ends in
// order. The region itself, in memory, does not outlive the boot; files and snapshot do.
//
// The file `snapshot` in the region's directory is there and checks out only when everything that
// it names was synced before it got its name, and nothing was removed since
// (docs/region-format.md). Whoever opens the region takes it away, durably, before anything else:
// it is used once, or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
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
// nullopt: none, or one that does not check out. Does not take it away.
std::optional<Snapshot> read_snapshot(BorrowedFd directory);
std::optional<Snapshot> parse_snapshot(std::vector<std::byte> bytes);

}  // namespace om::region
