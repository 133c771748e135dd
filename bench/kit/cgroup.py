"""A memory cgroup for all processes of a contestant, v1 or v2: a limit, and what was really used.

tmpfs and page cache are charged to the group that touches a page first, so a daemon's memory tier and
the files that a server reads count as long as nobody outside has them resident already: see
page_cache.make_cold. Charges outlive the process that made them; `remove` waits for those of tmpfs to
go with their files.
"""

import os
import pathlib
import time

V1 = {"limit": "memory.limit_in_bytes", "peak": "memory.max_usage_in_bytes", "usage": "memory.usage_in_bytes"}
V2 = {"limit": "memory.max", "peak": "memory.peak", "usage": "memory.current"}


def find(mounts="/proc/mounts"):
    """(version, root) of the hierarchy that has the memory controller, or None."""
    second = None
    for line in pathlib.Path(mounts).read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind == "cgroup" and "memory" in options.split(","):
            return 1, pathlib.Path(place)
        if kind == "cgroup2":
            controllers = pathlib.Path(place) / "cgroup.controllers"
            if controllers.exists() and "memory" in controllers.read_text().split():
                second = 2, pathlib.Path(place)
    return second


class MemoryGroup:
    """A context manager. `limit` in bytes, None to count only."""

    def __init__(self, name, limit=None, hierarchy=None):
        found = hierarchy or find()
        if found is None:
            raise RuntimeError("no cgroup hierarchy with a memory controller is mounted")
        self.version, self.root = found
        self.files = V1 if self.version == 1 else V2
        self.path = self.root / ("om-bench-%d-%s" % (os.getpid(), name))
        self.limit = limit

    def __enter__(self):
        if self.version == 2:
            # Children have a controller only if their parent hands it down.
            control = self.root / "cgroup.subtree_control"
            if "memory" not in control.read_text().split():
                control.write_text("+memory")
        self.path.mkdir()
        if self.limit is not None:
            (self.path / self.files["limit"]).write_text(str(self.limit))
        if self.version == 2 and (self.path / "memory.swap.max").exists():
            (self.path / "memory.swap.max").write_text("0")
        return self

    def enter(self):
        """Called in a child between fork and exec."""
        with open(self.path / "cgroup.procs", "w") as procs:
            procs.write(str(os.getpid()))

    def read(self, what):
        path = self.path / self.files[what]
        return int(path.read_text()) if path.exists() else None  # memory.peak came with Linux 5.19

    def usage(self):
        return self.read("usage")

    def peak(self):
        return self.read("peak")

    def kills(self):
        """How often the kernel killed a process of the group for want of memory."""
        path = self.path / ("memory.oom_control" if self.version == 1 else "memory.events")
        for line in path.read_text().splitlines() if path.exists() else ():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def reclaim(self):
        """Makes the kernel take back what it can: page cache, mapped or not."""
        try:
            if self.version == 1:
                (self.path / "memory.force_empty").write_text("0")
            else:
                (self.path / "memory.reclaim").write_text(str(self.usage()))
        except OSError:
            pass  # not all of it could be had: tmpfs and anonymous memory stay

    def __exit__(self, *_):
        for _ in range(100):
            try:
                self.path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.05)  # a process is still ending
