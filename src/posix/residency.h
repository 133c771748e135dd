// Whether bytes of a file are in the page cache, asked without waiting for the disk.
//
// preadv2 with RWF_NOWAIT answers truly to anybody who may read the file; mincore tells a process
// that does not own the file that all of it is there.
#pragma once

#include <cstdint>
#include <optional>

#include "posix/unique_fd.h"

namespace om {

enum class Residency { kResident, kAbsent, kUnknown };

// Looks at one byte in every megabyte, at the first one in any case and at four at most, and stops
// at the first that is absent. kUnknown: this file system does not say.
Residency residency(BorrowedFd file, std::uint64_t offset, std::uint64_t length);

// Whether most of it is, found without starting to read what is not, as RWF_NOWAIT does: by
// cachestat(2), of Linux 6.5, which later ones allow the owner of the file alone. One place is
// looked at, two from 256 KiB on, and eight where the two differ: each costs .3 us, and sending 1
// MiB from the page cache 90. nullopt: it does not say.
std::optional<bool> mostly_resident(BorrowedFd file, std::uint64_t offset, std::uint64_t length);

}  // namespace om
