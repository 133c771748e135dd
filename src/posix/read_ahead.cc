#include "posix/read_ahead.h"

#include <unistd.h>

#include <cstddef>

namespace om {

namespace {
constexpr std::uint64_t kFirstWindowBytes = 256 * 1024;
}  // namespace

void begin_reading(BorrowedFd file, std::uint64_t offset, std::uint64_t length) {
  if (offset != 0 || length <= kFirstWindowBytes) return;
  std::byte first{};
  [[maybe_unused]] const ssize_t got = ::pread(file.raw(), &first, 1, 0);
}

}  // namespace om
