// Locks that go with an open file description (F_OFD_SETLK, fcntl(2)): they end when its last
// descriptor is closed, in whatever process, and so prove that a holder lives or is gone. A
// descriptor that was passed on shares its sender's locks.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om {

// Takes a lock on bytes [offset, offset + length) for the description behind `file`, which must be
// open for reading (shared) or writing (exclusive). False: somebody else's lock is in the way.
Result<bool> lock_range_shared(BorrowedFd file, std::uint64_t offset, std::uint64_t length);
Result<bool> lock_range_exclusive(BorrowedFd file, std::uint64_t offset, std::uint64_t length);
Result<void> unlock_range(BorrowedFd file, std::uint64_t offset, std::uint64_t length);
// Whether another description holds any lock in the range.
Result<bool> range_is_locked(BorrowedFd file, std::uint64_t offset, std::uint64_t length);
struct LockedRange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};
// The first range in it that another description has locked, as far as it lies in it. First by
// offset only where all locks are one description's.
Result<std::optional<LockedRange>> first_locked(BorrowedFd file, std::uint64_t offset,
                                                std::uint64_t length);

}  // namespace om
