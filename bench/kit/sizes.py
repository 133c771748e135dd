"""Sizes as people write them."""

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MIB = 1 << 20
GIB = 1 << 30


def parse(size):
    return int(size[:-1]) * UNITS[size[-1]] if size[-1] in UNITS else int(size)


def some(size, total=64 * MIB):
    """Names of so many objects of a size that they are `total` together, or at least two."""
    count = max(2, min(64, total // parse(size)))
    return ["/o/%s/%d" % (size, i) for i in range(count)]
