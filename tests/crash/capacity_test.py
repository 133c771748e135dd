"""Capacity is a promise: what the daemon's files take, seen from outside, is never more than what it
was told, while clients put more than fits. A file system that is smaller than promised is met with
"no space", and space that is freed comes back.
"""

import os
import random
import sys
import tempfile
import threading
import time
import unittest

from crash import load, mounts
from protocol import client as om
from support.daemon import Daemon, StartFailed, wait_until

SEED = random.randrange(1 << 30)
MIB = 1 << 20
# Beside bodies: directories, leases, the held log, and what ext4 keeps for itself per file.
OVERHEAD = 2 * MIB


class Watch(threading.Thread):
    """Looks at a file system all the time, and keeps the most that was taken."""

    def __init__(self, system):
        super().__init__()
        self.system = system
        self.empty = system.used()
        self.most = 0
        self.looks = 0
        self.ending = False

    def run(self):
        while not self.ending:
            try:
                self.most = max(self.most, self.system.used() - self.empty)
            except FileNotFoundError:
                return  # the test has failed, and unmounted it
            self.looks += 1
            time.sleep(0.001)

    def end(self):
        self.ending = True
        self.join()
        return self.most


class Capacity(unittest.TestCase):
    def flood(self, daemon, seconds, **options):
        """Clients that put more than there is room for."""
        stop = load.Stop()
        with tempfile.TemporaryDirectory(prefix="om-crash-") as results:
            clients = [load.Client(i, daemon.socket, stop, SEED, keys=400, groups=40, **options)
                       for i in range(3)]
            pids = [load.fork(client.run, os.path.join(results, str(client.number)))
                    for client in clients]
            time.sleep(seconds)
            stop.ask()
            codes = [os.waitpid(pid, 0)[1] for pid in pids]
            stop.close()
            self.assertEqual(codes, [0, 0, 0], "a client fell")
            told = [load.load_result(os.path.join(results, str(client.number)))
                    for client in clients]
        self.assertTrue(daemon.alive(), daemon.log()[-2000:])
        self.assertEqual([words for one in told for words in one["wrong"]], [], f"seed {SEED}")
        return {name: sum(one[name] for one in told) for name in ("acknowledged", "refused")}

    def empties(self, daemon, watched, left):
        """After everything has been removed, at most that much is left."""
        with load.Connection(daemon.socket) as connection:
            connection.delete(b"", om.BY_PREFIX)
            self.assertEqual(connection.status()["objects"], 0)
        wait_until(lambda: watched.system.used() - watched.empty <= left,
                   "space comes back", 10)

    def test_disk(self):
        with mounts.FileSystem(200) as disk, \
                Daemon(memory="8M", disk=[disk.path + "/tier:32M"]) as daemon:
            watch = Watch(disk)
            watch.start()
            told = self.flood(daemon, 5, ephemeral=False)
            with load.Connection(daemon.socket) as connection:
                for i in range(60):
                    connection.put(b"large/%d" % i, bytes(MIB), flags=om.DISK)
                status = connection.status()
            most = watch.end()
            print(f"disk of 32 MiB: at most {most / MIB:.1f} MiB taken in {watch.looks} looks; "
                  f"{told}, {status['evicted.disk']} evicted", file=sys.stderr)
            self.assertLessEqual(most, 32 * MIB + OVERHEAD)
            self.assertGreater(most, 20 * MIB)
            self.assertGreater(status["evicted.disk"], 0)
            # A pack that is being filled stays.
            self.empties(daemon, watch, 4 * MIB + OVERHEAD)

    def test_memory(self):
        with mounts.FileSystem(200, "tmpfs") as memory, \
                Daemon(memory="24M", memory_dir=memory.path + "/mem") as daemon:
            watch = Watch(memory)
            watch.start()
            told = self.flood(daemon, 4, disk_flag=False)
            with load.Connection(daemon.socket) as connection:
                status = connection.status()
                self.assertLessEqual(status["memory.used_bytes"], 24 * MIB)
            # Regions and shared objects share the promise.
            with load.Connection(daemon.socket) as connection:
                connection.delete(b"", om.BY_PREFIX)
                # What the clients had leased when they ended is given back at the next look.
                wait_until(lambda: connection.status()["memory.used_bytes"] == 0,
                           "the clients' leases end", 10)
                granted = connection.region(b"capacity/test", 12 * MIB)
                told_too = self.flood(daemon, 2, disk_flag=False)
                for descriptor in granted["descriptors"]:
                    os.close(descriptor)
            most = watch.end()
            print(f"memory of 24 MiB: at most {most / MIB:.1f} MiB taken in {watch.looks} looks; "
                  f"{told}, with a region {told_too}, {status['evicted.memory']} evicted",
                  file=sys.stderr)
            self.assertLessEqual(most, 24 * MIB + OVERHEAD)
            self.assertGreater(status["evicted.memory"], 0)

    def test_file_systems_that_are_smaller_than_promised(self):
        with mounts.FileSystem(40) as disk, mounts.FileSystem(12, "tmpfs") as memory, \
                Daemon(memory="64M", memory_dir=memory.path + "/mem",
                       disk=[disk.path + "/tier:64M"]) as daemon:
            told = self.flood(daemon, 5)
            with load.Connection(daemon.socket) as connection:
                status = connection.status()
                self.assertEqual(status["disk.failed"], 0, status["disk.0.state"])
                refused = 0
                for i in range(80):
                    try:
                        connection.put(b"large/%d" % i, bytes(MIB), flags=om.DISK)
                    except om.Failure as failure:
                        self.assertEqual(failure.status, om.NO_SPACE)
                        refused += 1
                print(f"40 MiB where 64 MiB were promised: {told}, then {refused} of 80 puts of "
                      f"1 MiB refused", file=sys.stderr)
                # What is older makes room; what is refused tells how much there is.
                self.assertGreater(told["refused"] + refused, 0)
                self.assertLess(refused, 60)
                connection.delete(b"", om.BY_PREFIX)

                def room_again():
                    try:
                        connection.put(b"again", bytes(MIB), flags=om.DISK)
                        return True
                    except om.Failure as failure:
                        self.assertEqual(failure.status, om.NO_SPACE)
                        return False
                wait_until(room_again, "room after everything is removed", 12)
                self.assertEqual(connection.fetch(b"again"), bytes(MIB))
            # Full, killed, started again: it does start, and can be emptied.
            daemon.kill()
            with open(os.path.join(disk.path, "filler"), "wb") as filler:
                try:
                    while True:
                        filler.write(bytes(MIB))
                        filler.flush()
                except OSError:
                    pass
            # As when it was killed between a segment's size and its blocks.
            segment = os.path.join(memory.path, "mem", "segments", "900")
            with open(segment, "wb") as file:
                file.truncate(1 << 30)
            daemon.start()
            self.assertFalse(os.path.exists(segment))
            with load.Connection(daemon.socket) as connection:
                self.assertEqual(connection.fetch(b"again"), bytes(MIB))
                connection.delete(b"again")
                self.assertIsNone(connection.fetch(b"again"))

    def test_state_without_room(self):
        """The catalog's own file system is full: refused, and nothing is lost or wrong."""
        with mounts.FileSystem(16) as state, \
                Daemon(memory="32M", state_dir=state.path + "/state") as daemon:
            with load.Connection(daemon.socket) as connection:
                connection.put(b"before", b"it was full")
                filler = os.path.join(state.path, "filler")
                with open(filler, "wb") as file:
                    try:
                        while True:
                            file.write(bytes(65536))
                            file.flush()
                    except OSError:
                        pass
                kept, refused = [], 0
                for i in range(300):
                    try:
                        connection.put(b"k%d" % i, b"body %d" % i, metadata=bytes(60_000))
                        kept.append(i)
                    except om.Failure as failure:
                        self.assertEqual(failure.status, om.NO_SPACE, failure.reason)
                        refused += 1
                self.assertGreater(refused, 100)
                # Space for removals has been set aside.
                connection.delete(b"before")
                self.assertIsNone(connection.fetch(b"before"))
            daemon.kill()
            with self.assertRaises(StartFailed) as refusal:
                daemon.start()
            self.assertEqual(refusal.exception.code, 3)
            self.assertIn("no space", refusal.exception.text)
            os.unlink(filler)
            daemon.start()
            with load.Connection(daemon.socket) as connection:
                self.assertIsNone(connection.fetch(b"before"))
                for i in range(300):
                    self.assertEqual(connection.fetch(b"k%d" % i),
                                     b"body %d" % i if i in kept else None)
                connection.put(b"after", b"there is room")


if __name__ == "__main__":
    mounts.in_own_namespace()
    unittest.main()
