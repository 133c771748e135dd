#include "posix/residency.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace om {

namespace {

constexpr std::uint64_t kStrideBytes = 1024 * 1024;
constexpr std::uint64_t kSamplesMax = 4;

Residency look(int file, std::uint64_t offset) {
  std::byte byte{};
  const iovec place{.iov_base = &byte, .iov_len = 1};
  while (true) {
    if (::preadv2(file, &place, 1, static_cast<off_t>(offset), RWF_NOWAIT) >= 0)
      return Residency::kResident;  // also at the end of the file: nothing to wait for
    if (errno == EAGAIN) return Residency::kAbsent;
    if (errno != EINTR) return Residency::kUnknown;
  }
}

}  // namespace

Residency residency(BorrowedFd file, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t samples = std::clamp<std::uint64_t>(length / kStrideBytes, 1, kSamplesMax);
  for (std::uint64_t i = 0; i < samples; ++i)
    if (const Residency here = look(file.raw(), offset + length / samples * i);
        here != Residency::kResident)
      return here;
  return Residency::kResident;
}

}  // namespace om
