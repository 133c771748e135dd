// read_ahead.h: how the kernel's read-ahead of a file begins.
//
// Linux makes the first window as long as the first read asks for, up to four times (256 KiB for
// sendfile(2)), and fills it with single pages; each later window is up to four times as long, of
// folios four times as large (mm/readahead.c). So whoever asks for much at the beginning gets most
// of a megabyte in small pieces, for which the disk and the page cache take nearly twice as long.
#pragma once

#include <cstdint>

#include "posix/unique_fd.h"

namespace om {

// Before `length` bytes from `offset` on are read in sequence: waits for the first byte of the file
// where it is absent, so that the first window is four pages. Only where that pays: from the
// begin of a file that is longer than one first window. Errors show at the read itself.
void begin_reading(BorrowedFd file, std::uint64_t offset, std::uint64_t length);

}  // namespace om
