#include "posix/residency.h"

#include <linux/magic.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

namespace om {

namespace {

constexpr std::uint64_t kStrideBytes = 1024 * 1024;
constexpr std::uint64_t kSamplesMax = 4;

// Not in the headers of Debian 12; one number for all processors.
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif
constexpr std::uint64_t kPlaceBytes = 128 * 1024;
constexpr std::uint64_t kPlacesMax = 8;

// A file system that is memory has nothing to wait for, and does not know RWF_NOWAIT.
bool is_memory(int file) {
  struct statfs about {};
  return ::fstatfs(file, &about) == 0 &&
         (about.f_type == TMPFS_MAGIC || about.f_type == RAMFS_MAGIC ||
          about.f_type == HUGETLBFS_MAGIC);
}

Residency look(int file, std::uint64_t offset) {
  std::byte byte{};
  const iovec place{.iov_base = &byte, .iov_len = 1};
  while (true) {
    if (::preadv2(file, &place, 1, static_cast<off_t>(offset), RWF_NOWAIT) >= 0)
      return Residency::kResident;  // also at the end of the file: nothing to wait for
    if (errno == EAGAIN) return Residency::kAbsent;
    if (errno == EOPNOTSUPP && is_memory(file)) return Residency::kResident;
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

std::optional<bool> mostly_resident(BorrowedFd file, std::uint64_t offset, std::uint64_t length) {
  struct {
    std::uint64_t offset;
    std::uint64_t length;
  } range{0, 1};
  struct {
    std::uint64_t cached, dirty, under_writeback, evicted, recently_evicted;
  } found{};
  const std::uint64_t places = std::clamp<std::uint64_t>(length / kPlaceBytes, 1, kPlacesMax);
  std::uint64_t there = 0;
  for (std::uint64_t i = 0; i < places; ++i) {
    range.offset = offset + length / places * i;
    if (::syscall(SYS_cachestat, file.raw(), &range, &found, 0) != 0) return std::nullopt;
    there += found.cached != 0 ? 1 : 0;
  }
  return there > places / 2;
}

}  // namespace om
