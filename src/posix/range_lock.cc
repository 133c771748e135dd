#include "posix/range_lock.h"

#include <fcntl.h>

#include <algorithm>

namespace om {

namespace {

struct flock range_of(short type, std::uint64_t offset, std::uint64_t length) {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(offset);
  range.l_len = static_cast<off_t>(length);
  return range;
}

Result<bool> lock_range(BorrowedFd file, short type, std::uint64_t offset, std::uint64_t length) {
  struct flock range = range_of(type, offset, length);
  while (::fcntl(file.raw(), F_OFD_SETLK, &range) != 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EACCES) return false;
    return system_error("lock a range");
  }
  return true;
}

}  // namespace

Result<bool> lock_range_shared(BorrowedFd file, std::uint64_t offset, std::uint64_t length) {
  return lock_range(file, F_RDLCK, offset, length);
}

Result<bool> lock_range_exclusive(BorrowedFd file, std::uint64_t offset, std::uint64_t length) {
  return lock_range(file, F_WRLCK, offset, length);
}

Result<void> unlock_range(BorrowedFd file, std::uint64_t offset, std::uint64_t length) {
  struct flock range = range_of(F_UNLCK, offset, length);
  if (::fcntl(file.raw(), F_OFD_SETLK, &range) != 0) return system_error("unlock a range");
  return {};
}

Result<bool> range_is_locked(BorrowedFd file, std::uint64_t offset, std::uint64_t length) {
  struct flock range = range_of(F_WRLCK, offset, length);
  if (::fcntl(file.raw(), F_OFD_GETLK, &range) != 0) return system_error("look for locks");
  return range.l_type != F_UNLCK;
}

Result<std::optional<LockedRange>> first_locked(BorrowedFd file, std::uint64_t offset,
                                                std::uint64_t length) {
  struct flock range = range_of(F_WRLCK, offset, length);
  if (::fcntl(file.raw(), F_OFD_GETLK, &range) != 0) return system_error("look for locks");
  if (range.l_type == F_UNLCK) return std::optional<LockedRange>();
  const std::uint64_t end = offset + length;
  const std::uint64_t begin = std::max(static_cast<std::uint64_t>(range.l_start), offset);
  // Length 0 in a lock means: to the end, however long the file gets.
  const std::uint64_t stop =
      range.l_len == 0 ? end : static_cast<std::uint64_t>(range.l_start + range.l_len);
  return std::optional<LockedRange>(LockedRange{begin, std::min(stop, end) - begin});
}

}  // namespace om
