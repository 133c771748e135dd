"""Page cache: what of a file is resident, and how to make it cold."""

import ctypes
import os
import pathlib

PAGE = 4096
CACHESTAT = 451
LIBC = ctypes.CDLL(None, use_errno=True)


def files_of(folder):
    return [path for path in pathlib.Path(folder).rglob("*") if path.is_file() and not path.is_symlink()]


def make_cold(folder):
    """Writes back and drops what can be dropped of the files below a folder. Pages that somebody has
    mapped stay: MemoryGroup.reclaim takes those."""
    for path in files_of(folder):
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # gone meanwhile
        try:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def cached_pages(fd):
    """cachestat(2), of Linux 6.5: pages of a file that are in memory. It reads nothing in; preadv2 with
    RWF_NOWAIT starts read-ahead, and takes a hole for resident."""
    span = (ctypes.c_uint64 * 2)(0, 0)  # to the end
    found = (ctypes.c_uint64 * 5)()
    if LIBC.syscall(CACHESTAT, fd, ctypes.byref(span), ctypes.byref(found), 0) != 0:
        raise OSError(ctypes.get_errno(), "cachestat")
    return found[0]


def resident_share(folder):
    """Of the bytes of files below a folder, the share that is in memory; None where the kernel cannot tell."""
    cached = total = 0
    for path in files_of(folder):
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            cached += cached_pages(fd) * PAGE
            total += os.fstat(fd).st_size
        except OSError:
            return None
        finally:
            os.close(fd)
    return cached / total if total else 0.0


def make_cold_for(contestant):
    """Drops the pages of a contestant's cache folders, and has its cgroup reclaim those that it has mapped:
    the kernel passes over a page that was used lately, so more than once. The share that is left."""
    left = 0.0
    for _ in range(6):
        for folder in contestant.cache_folders():
            make_cold(folder)
        shares = [resident_share(folder) for folder in contestant.cache_folders()]
        if None in shares:
            return None
        left = max(shares or [0.0])
        if left < 0.02 or contestant.group is None:
            break
        contestant.group.reclaim()
    return left


def stored_bytes(contestant):
    """What the files in a contestant's cache folders take on disk."""
    return sum(path.stat().st_blocks * 512 for folder in contestant.cache_folders() for path in files_of(folder))
