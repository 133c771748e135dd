#!/usr/bin/env python3
"""Runs one conversation whose store has its disk on a file system of its own, which fills up or fails.

    run.py FILE.vtc          as root: it mounts, in a mount namespace of its own
    run.py ctl PATH fill     not a block is left       run.py ctl PATH unfill
    run.py ctl PATH cut      from now on everything on it answers EIO

The .vtc says `disks=MOUNT/tier:SIZE`, and `${om_mount}` is the file system's path.
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "..", "tests"))
from crash import mounts  # noqa: E402


def control(path, verb):
    filler = os.path.join(path, "filler")
    if verb == "fill":
        with open(filler, "wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass
            os.fsync(file.fileno())
    elif verb == "unfill":
        os.remove(filler)
    elif verb == "cut":
        file_system = mounts.FileSystem.__new__(mounts.FileSystem)
        file_system.path = path
        file_system.cut()
    else:
        raise SystemExit(f"unknown verb {verb}")


def main():
    if sys.argv[1] == "ctl":
        control(sys.argv[2], sys.argv[3])
        return 0
    mounts.in_own_namespace()
    with mounts.FileSystem(48) as disk:
        # varnishd's child, another user, gets to its files by a descriptor; its parent must be passable for nobody.
        environment = dict(os.environ, OM_VTC_MOUNT=disk.path)
        return subprocess.run([sys.executable, os.path.join(HERE, "..", "run_vtc.py"), sys.argv[1]],
                              env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
