"""Commits that a client keeps for a moment (Client::defer), while the disk or the memory fills up: what is refused says so,
nobody sees it, whoever waits for it goes on, and nothing of it stays."""

import os
import subprocess
import tempfile
import unittest

from protocol import client as om
from support.daemon import BUILD, Daemon, wait_until

COUNT = 8
BYTES = 10_000
MIB = 1 << 20


class Keeper:
    """kept_commits.cc: each line that it is told is answered with lines."""

    def __init__(self, socket):
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen([os.path.join(BUILD, "test", "om_kept_commits"), socket],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, words):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line == ".\n":
                return lines
            lines.append(line.rstrip("\n"))
        raise AssertionError("kept_commits has ended")

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def body_of(key):
    line = key.encode() + b"\n"
    return (line * (BYTES // len(line) + 1))[:BYTES]


class Kept(unittest.TestCase):
    def keeps(self, keeper, words):
        keys = keeper.ask(words)
        self.assertEqual(len(keys), COUNT)
        for key in keys:
            self.assertNotIn(" ", key)
        return keys

    def nothing_is_left(self, connection):
        connection.delete(b"", om.BY_PREFIX)

        def left():
            status = connection.status()
            return {name: status[name] for name in ("puts", "leases", "held.bytes", "memory.used_bytes", "objects",
                                                    "claims.holders") if status[name] != 0}
        wait_until(lambda: not left(), "all of it is free again")

    def test_what_a_full_disk_refuses_leaves_no_trace(self):
        with tempfile.TemporaryDirectory(prefix="om-full-") as directory:
            full = os.path.join(directory, "full")
            preload = {"LD_PRELOAD": os.path.join(BUILD, "test", "full_disk.so"), "OM_TEST_FULL": full}
            with Daemon(memory="64M", env=preload) as daemon, om.Connection(daemon.socket) as other, \
                    om.Connection(daemon.socket) as waits:
                with Keeper(daemon.socket) as keeper:
                    keys = self.keeps(keeper, f"keep a/ {COUNT} {BYTES}")
                    for key in keys:
                        self.assertIsNone(other.fetch(key))
                    used = other.status()["memory.used_bytes"]
                    # Somebody wants one of them, and is told to wait.
                    asked = waits.send(om.RESERVE, waits.reserve_body(keys[3], 3, flags=om.OR_GET, wait_ms=20000))
                    waits.status()
                    self.assertNotIn(asked, waits.other)
                    with open(full, "wb"):
                        pass
                    with self.assertRaises(om.Failure) as refused:
                        other.put("other", b"no room")
                    self.assertEqual(refused.exception.status, om.NO_SPACE, refused.exception)
                    self.assertEqual(keeper.ask("flush"), [f"{key} no space" for key in keys])
                    # He is the one to write it now, and nobody has it.
                    reserved = waits.reply(asked)
                    self.assertEqual(reserved["outcome"], om.YOURS)
                    waits.abort(reserved["put_id"])
                    for key in keys:
                        self.assertIsNone(other.fetch(key))
                    self.assertLessEqual(other.status()["memory.used_bytes"], used - COUNT * BYTES)
                    self.assertEqual(other.status()["objects"], 0)
                    os.unlink(full)
                    # And all of them may be claimed again, and come.
                    self.assertEqual(keeper.ask("again"), keys)
                    self.assertEqual(keeper.ask("flush"), [f"{key} ok" for key in keys])
                    for key in keys:
                        self.assertEqual(other.fetch(key), body_of(key))
                self.nothing_is_left(other)
                daemon.kill()
                daemon.start()
                with om.Connection(daemon.socket) as after:
                    for key in keys:
                        self.assertIsNone(after.fetch(key))

    def test_what_has_its_room_comes_though_memory_is_full(self):
        with Daemon(memory="64M") as daemon, om.Connection(daemon.socket) as other:
            fillers = [om.Connection(daemon.socket) for _ in range(4)]
            try:
                with Keeper(daemon.socket) as keeper:
                    keys = self.keeps(keeper, f"keep a/ {COUNT} {BYTES}")
                    self.fill(fillers)
                    with self.assertRaises(om.Failure) as refused:
                        other.put("more", bytes(MIB))
                    self.assertEqual(refused.exception.status, om.NO_SPACE, refused.exception)
                    self.assertEqual(keeper.ask("flush"), [f"{key} ok" for key in keys])
                    for key in keys:
                        self.assertEqual(other.fetch(key), body_of(key))
            finally:
                for filler in fillers:
                    filler.close()
            self.nothing_is_left(other)

    @staticmethod
    def fill(fillers):
        """Objects that are leased, by each until it gets no more."""
        number = 0
        for filler in fillers:
            while True:
                number += 1
                try:
                    filler.put(f"fill/{number}", bytes(MIB))
                except om.Failure as failure:
                    if failure.status != om.NO_SPACE:
                        raise
                    return
                if filler.get(f"fill/{number}")[0]["status"] != om.OK:
                    break  # the next one leases more


if __name__ == "__main__":
    unittest.main()
