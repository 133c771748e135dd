"""Page cache: what of a file is resident, and how to make it cold."""

import os
import pathlib

PAGE = 4096


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


def resident_share(folder, samples=64):
    """Of the bytes below a folder, the share that is in memory, by looking at some pages of each file
    without reading any in (RWF_NOWAIT; mincore tells only owners the truth)."""
    seen = total = 0.0
    for path in files_of(folder):
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            size = os.fstat(fd).st_size
            pages = max(1, (size + PAGE - 1) // PAGE)
            step = max(1, pages // samples)
            looked, hit = 0, 0
            for page in range(0, pages, step):
                looked += 1
                try:
                    os.preadv(fd, [bytearray(1)], page * PAGE, os.RWF_NOWAIT)
                    hit += 1
                except OSError:
                    pass
            seen += size * hit / looked
            total += size
        finally:
            os.close(fd)
    return seen / total if total else 0.0
