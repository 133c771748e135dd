// The kernel's record of what one holder pins: shared locks on its lease file (lease_book.h), so
// that a later daemon can see it. What is pinned is always locked; what is locked need not be
// pinned any more.
//
// A lock is a system call, and the kernel looks at all locks of a file for each: so ids are locked
// in blocks of 64 neighbours, a block stays locked for a while after its last pin has gone, and
// when a holder has pins in very many blocks they become larger. The price is paid after a crash of
// the daemon alone: neighbours of what was leased stay where they are until the holder is done.
// Loop thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om::store {

class LeaseLocks {
 public:
  static constexpr unsigned kShiftAtFirst = 6;    // blocks of 64 ids
  static constexpr std::size_t kBlocksMax = 256;  // locked at a time, by growing them
  static constexpr std::size_t kIdleMax = 64;     // locked and not pinned

  // Its byte is locked when this returns well.
  Result<void> add(BorrowedFd file, std::uint64_t object);
  void remove(BorrowedFd file, std::uint64_t object);
  // Unlocks what is not pinned.
  void settle(BorrowedFd file);

  [[nodiscard]] std::size_t blocks() const { return blocks_.size(); }
  [[nodiscard]] std::size_t idle() const { return idle_; }

 private:
  Result<void> coarsen(BorrowedFd file);
  Result<void> lock_block(BorrowedFd file, std::uint64_t block, unsigned shift);

  std::unordered_map<std::uint64_t, std::uint32_t> blocks_;  // pins in each that is locked
  unsigned shift_ = kShiftAtFirst;
  std::size_t idle_ = 0;
};

}  // namespace om::store
