// Bytes that no record names but somebody may still be using: bodies that were removed while they
// were leased, and places that direct writers were given. <memory-dir>/held, appended with write(2)
// before the record goes or the writer learns of its place, so that the next daemon can keep its
// hands off them for as long as the lock on their object says. Not needed after a boot.
//
// Entry: u64 checksum of the rest, u64 object id, u32 extents, u32 0, extents of 3 u64. Loop
// thread.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"
#include "store/store.h"

namespace om::store {

class HeldLog {
 public:
  using Entries = std::unordered_map<ObjectId, std::vector<Extent>>;
  // `fresh`: what it says is of no use.
  static Result<HeldLog> open(BorrowedFd directory, bool fresh);

  // What was there at open; an object's last entry counts. The newest first: bytes that two of them
  // name belong to the newer one, for which the older one had to let go.
  using Ordered = std::vector<std::pair<ObjectId, std::vector<Extent>>>;
  [[nodiscard]] const Ordered& recovered() const { return recovered_; }
  Result<void> append(ObjectId object, const std::vector<Extent>& extents);
  // Another file with `live` alone. Called when the log has grown (wants_rewrite).
  Result<void> rewrite(const Entries& live);
  [[nodiscard]] bool wants_rewrite() const { return size_ > (std::uint64_t{1} << 20); }

 private:
  UniqueFd directory_;
  UniqueFd file_;
  std::uint64_t size_ = 0;
  Ordered recovered_;
};

}  // namespace om::store
