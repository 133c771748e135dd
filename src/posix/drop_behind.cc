#include "posix/drop_behind.h"

#include <fcntl.h>

#include <vector>

#include "posix/file.h"

namespace om {

void DropBehind::sent(BorrowedFd file, std::uint64_t offset, std::uint64_t bytes) {
  auto own = duplicate(file);
  if (!own || bytes == 0) return;
  std::vector<Sent> now;
  {
    const std::lock_guard lock(mutex_);
    sent_.push_back(Sent{*std::move(own), offset, bytes});
    bytes_ += bytes;
    // The newest stays: its pages were given to a socket a moment ago.
    while (sent_.size() > 1 && (bytes_ > kBehindBytes || sent_.size() > kFilesMost)) {
      bytes_ -= sent_.front().bytes;
      now.push_back(std::move(sent_.front()));
      sent_.pop_front();
    }
  }
  for (const Sent& old : now)
    (void)::posix_fadvise(old.file.raw(), static_cast<off_t>(old.offset),
                          static_cast<off_t>(old.bytes), POSIX_FADV_DONTNEED);
}

}  // namespace om
