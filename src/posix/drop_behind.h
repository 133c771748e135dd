// drop_behind.h: pages of files that were sent, taken out of the page cache again.
//
// A socket has pages that sendfile(2) gave it until the other side has taken them, and what
// somebody has cannot be taken away (posix_fadvise(2), POSIX_FADV_DONTNEED, does nothing then, and
// does not say so). So they go some time later: when so many bytes more were sent.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>

#include "posix/unique_fd.h"

namespace om {

// Any thread. Holds at most kFilesMost descriptors of its own.
class DropBehind {
 public:
  static constexpr std::uint64_t kBehindBytes = std::uint64_t{16} << 20;
  static constexpr std::size_t kFilesMost = 64;

  // These bytes need not stay. `file` may be closed right afterwards.
  void sent(BorrowedFd file, std::uint64_t offset, std::uint64_t bytes);

 private:
  struct Sent {
    UniqueFd file;
    std::uint64_t offset;
    std::uint64_t bytes;
  };
  std::mutex mutex_;
  std::deque<Sent> sent_;
  std::uint64_t bytes_ = 0;  // of all of sent_
};

}  // namespace om
