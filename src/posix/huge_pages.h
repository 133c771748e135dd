// Which pages a file in memory has: what the kernel says, not what was asked for.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om {

// What a file in this tmpfs directory gets: "4 KiB", or "huge (2 MiB), huge=within_size" with the
// option of its mount. Where huge pages run out, the kernel takes small ones all the same.
std::string page_kind_of(BorrowedFd directory_or_file);
// Bytes of a mapping that is faulted in which lie on huge pages. kUnsupported: this kernel does not
// tell (before Linux 6.7).
Result<std::uint64_t> huge_bytes_of(std::span<const std::byte> mapping);

}  // namespace om
