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
// What is read by sendfile(2) in one window at first is there or not as a whole, as a rule.
constexpr std::uint64_t kWindowBytes = 256 * 1024;
constexpr std::uint64_t kPlaces = 8;

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

std::optional<bool> page_is_there(int file, std::uint64_t offset) {
  struct {
    std::uint64_t offset;
    std::uint64_t length;
  } range{offset, 1};
  struct {
    std::uint64_t cached, dirty, under_writeback, evicted, recently_evicted;
  } found{};
  if (::syscall(SYS_cachestat, file, &range, &found, 0) != 0) return std::nullopt;
  return found.cached != 0;
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
  const auto middle = page_is_there(file.raw(), offset + length / 2);
  if (!middle || length <= kWindowBytes) return middle;
  const auto begin = page_is_there(file.raw(), offset + length / kPlaces);
  if (begin == middle) return middle;
  std::uint64_t there = 0;
  for (std::uint64_t i = 0; i < kPlaces; ++i) {
    const auto here = page_is_there(file.raw(), offset + length / kPlaces * i);
    if (!here) return std::nullopt;
    there += *here ? 1 : 0;
  }
  return there > kPlaces / 2;
}

}  // namespace om
