"""One of two disks fails under load: cut off (EIO everywhere), or read-only as ext4 makes itself after
an error. It drops out and status says so; the other one and memory go on; no byte is wrong; nothing
that was removed while it was away comes back with it.
"""

import os
import random
import sys
import tempfile
import time
import unittest

from crash import load, mounts
from protocol import client as om
from support.daemon import Daemon, wait_until

SEED = random.randrange(1 << 30)


class FailingDisk(unittest.TestCase):
    def setUp(self):
        self.disks = [mounts.FileSystem(100), mounts.FileSystem(100)]
        for disk in self.disks:
            self.addCleanup(disk.close)
        state = tempfile.TemporaryDirectory(prefix="om-state-")
        self.addCleanup(state.cleanup)
        self.daemon = Daemon(memory="16M", disk=[disk.path + "/tier:80M" for disk in self.disks],
                             state_dir=state.name)
        self.addCleanup(self.daemon.close)

    def put_some(self, prefix, count):
        bodies = {}
        with om.Connection(self.daemon.socket) as connection:
            for i in range(count):
                key = b"%s/k%d" % (prefix, i)
                bodies[key] = load.make_body(key, i + 1, (500, 70_000, 300_000)[i % 3])
                connection.put(key, bodies[key], flags=om.DISK)
        return bodies

    def fails(self, fail):
        """Clients at work while it happens. Returns what was there before, and the connection that
        holds a lease on everything that was."""
        before = self.put_some(b"before", 60)
        stop = load.Stop()
        with tempfile.TemporaryDirectory(prefix="om-crash-") as results:
            clients = [load.Client(i, self.daemon.socket, stop, SEED, ephemeral=False,
                                   largest=400_000) for i in range(3)]
            pids = [load.fork(client.run, os.path.join(results, str(client.number)))
                    for client in clients]
            time.sleep(1)
            fail(self.disks[0])
            with om.Connection(self.daemon.socket) as connection:
                wait_until(lambda: connection.status()["disk.failed"] == 1,
                           "the disk drops out", 12)
                # What cannot be written is asked for before: puts are answered, all of them.
                started = self.reports(connection)
            time.sleep(3)
            stop.ask()
            codes = [os.waitpid(pid, 0)[1] for pid in pids]
            stop.close()
            self.assertEqual(codes, [0, 0, 0], "a client fell")
            told = [load.load_result(os.path.join(results, str(client.number)))
                    for client in clients]
        self.assertTrue(self.daemon.alive(), self.daemon.log()[-2000:])
        self.assertIn("disk failed", self.daemon.log())
        self.assertEqual([words for one in told for words in one["wrong"]], [], f"seed {SEED}")
        with om.Connection(self.daemon.socket) as connection:
            self.assertGreater(connection.status()["published"], started + 100)
        return before, told

    def reports(self, connection):
        status = connection.status()
        states = [status[f"disk.{i}.state"] for i in range(2)]
        self.assertTrue(states[0].startswith("failed: "), states)
        self.assertEqual(states[1], "ok")
        self.assertEqual(status["disk.capacity_bytes"], 80 << 20)
        return status["published"]

    def there(self, bodies):
        """How many are; none may be wrong."""
        count = 0
        with om.Connection(self.daemon.socket) as connection:
            for key, body in bodies.items():
                found = connection.fetch(key)
                self.assertIn(found, (body, None), key)
                count += found is not None
        return count

    def goes_on(self, before, told):
        """With the disk away, and with it back: no wrong byte, nothing removed comes back."""
        left = self.there(before)
        self.assertGreater(left, 0, "the other disk's objects are there")
        after = self.put_some(b"after", 60)
        self.assertEqual(self.there(after), 60)
        with om.Connection(self.daemon.socket) as connection:
            gone = [key for i, key in enumerate(before) if i % 4 == 0]
            for key in gone:
                try:
                    connection.delete(key)
                except om.Failure as failure:  # a miss already: its disk is away
                    self.assertEqual(failure.status, om.NOT_FOUND)
            replaced = {key: load.make_body(key, 99, 5000)
                        for i, key in enumerate(before) if i % 4 == 1}
            for key, body in replaced.items():
                connection.put(key, body, flags=om.DISK)
        # Started again while it is still away, and then with it back.
        self.daemon.kill()
        self.daemon.start()
        self.assertEqual(self.there(after), 60)
        self.daemon.stop()
        self.disks[0].unmount()
        self.disks[0].mount()
        self.daemon.start()
        with om.Connection(self.daemon.socket) as connection:
            self.assertEqual(connection.status()["disk.failed"], 0)
            for key in gone:
                self.assertIsNone(connection.fetch(key), key)
        self.assertEqual(self.there(replaced), len(replaced))
        self.assertEqual(self.there(after), 60)
        rest = {key: body for key, body in before.items()
                if key not in replaced and key not in gone}
        back = self.there(rest)
        lost = sum(len(one["lost"]) for one in told)
        acknowledged = sum(one["acknowledged"] for one in told)
        print(f"{acknowledged} puts acknowledged under load, {lost} misses by the failed disk; "
              f"{left} of 60 there without it, {back} of {len(rest)} with it back",
              file=sys.stderr)
        return back, len(rest)

    def test_read_only(self):
        before, told = self.fails(mounts.FileSystem.read_only)
        self.goes_on(before, told)

    def test_input_output_errors(self):
        before, told = self.fails(mounts.FileSystem.cut)
        self.goes_on(before, told)


if __name__ == "__main__":
    mounts.in_own_namespace()
    unittest.main()
