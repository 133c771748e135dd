// Anonymous files (memfd_create(2)). They are born with mode 0777, which lets another user that was
// handed a read-only descriptor open it again for writing: here they are 0600 from the start.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om {

// Of `length` bytes, sealable. `name` shows in /proc/<pid>/fd.
Result<UniqueFd> make_memfd(const char* name, std::uint64_t length);
// Its length cannot change any more (F_SEAL_SHRINK, F_SEAL_GROW).
Result<void> seal_length(BorrowedFd memfd);

}  // namespace om
