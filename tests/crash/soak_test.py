"""Clients are killed with -9 at random, in the midst of whatever they do; the daemon must not mind.

    soak_test.py [--seconds S] [--seed S] [--clients N]     (bench/crash runs ten minutes)

After it, everything that the daemon keeps for clients is back where it was: descriptors, leases,
puts, waits, staging, held bytes, both tiers, private memory. No reader has met a wrong byte.
"""

import argparse
import collections
import os
import random
import re
import signal
import sys
import time
import unittest

from crash import load
from protocol import client as om
from support.daemon import Daemon, wait_until

OPTIONS = argparse.Namespace(seconds=20.0, seed=None, clients=16)
KEYS = [b"soak/k%d" % i for i in range(80)]
# What must be as before, from STATUS.
SAME = ("connections.open", "replies.queued_bytes", "objects",
        "memory.used_bytes", "memory.staging_bytes", "held.objects", "held.bytes", "disk.objects",
        "holders", "holders.orphans", "board.pages", "claims.holders", "leases", "puts", "waits", "events.subscribers")


def victim(socket, seed, problems):
    """Does everything, lets go of little, and is killed. Problems are written to a pipe."""
    rng = random.Random(seed)
    connection, leases, held = om.Connection(socket, seconds=30, features=om.BOARD | om.CLAIMS), [], []
    version = seed * 1000
    while True:
        key = rng.choice(KEYS)
        what = rng.random()
        version += 1
        try:
            if what < 0.1:
                item = connection.get_by_board(key)
                if item is not None and load.version_of(key, connection.read(item)) is None:
                    os.write(problems, b"%s: wrong bytes by the board\n" % key)
                # Some are let go of, some are read when the next one is, some when it is killed.
                if item is not None and rng.random() < 0.7:
                    connection.board.let_go(item)
            elif what < 0.35:
                keys = rng.sample(KEYS, rng.choice((1, 1, 4, 16)))
                for name, item in zip(keys, connection.get(*keys)):
                    if item["status"] == om.OK:
                        leases.append(item["lease_id"])
                        if load.version_of(name, connection.read(item)) is None:
                            os.write(problems, b"%s: wrong bytes\n" % name)
            elif what < 0.5:
                connection.release(*leases[:100])
                del leases[:100]
            elif what < 0.6:  # many requests before a reply is read
                sent = []
                for _ in range(rng.randint(1, 30)):
                    sent.append(connection.send(om.GET, connection.get_body(rng.choice(KEYS))))
                    sent.append(connection.send(om.RESERVE, connection.reserve_body(key, 5000)))
                if rng.random() < 0.5:
                    signal.pause()  # until it is killed
                for request in sent:  # a reply may bring a descriptor that later ones count on
                    try:
                        connection.reply(request)
                    except om.Failure as failure:
                        if failure.status not in load.MISSES:
                            raise
            elif what < 0.65:
                connection.reserve(key, flags=om.OR_GET, wait_ms=2000, length=4000)
            elif what < 0.7:
                connection.delete(key)
            elif what < 0.73:
                connection.subscribe(om.PUBLISHED | om.REMOVED | om.REVOKED, b"soak/")
            elif what < 0.76:
                held.append(connection)
                connection = om.Connection(socket, seconds=30, features=om.BOARD | om.CLAIMS)
                leases = []
                if len(held) > 3:
                    held.pop(0).close(keep_lease_file=True)
            elif what < 0.8:  # of some nothing comes until it is killed
                if connection.claim(key) and rng.random() < 0.5:
                    connection.unclaim(key)
            else:
                size = max(len(key) + 24, load.size_of(key, version, 1 << 20))
                flags = rng.choice((0, om.DIRECT)) | rng.choice((0, 0, om.EPHEMERAL, om.DISK))
                length = rng.choice((size, size, om.UNKNOWN))
                reserved = connection.reserve(key, length, flags=flags)
                extents = reserved["extents"]
                room = sum(extent["length"] for extent in extents)
                while room < size:
                    extents += connection.extend(reserved["put_id"], size - room)["extents"]
                    room = sum(extent["length"] for extent in extents)
                body = load.make_body(key, version, size)
                connection.write(extents, body)
                if rng.random() < 0.8:
                    connection.commit(reserved["put_id"], size)
        except om.Failure as failure:
            if failure.status not in load.MISSES + (om.NOT_FOUND,):
                os.write(problems, f"{failure}\n".encode())


# What AddressSanitizer keeps of freed memory is not the daemon's.
os.environ["ASAN_OPTIONS"] = ":".join(
    filter(None, [os.environ.get("ASAN_OPTIONS"), "quarantine_size_mb=1"]))


class Soak(unittest.TestCase):
    maxDiff = None

    def descriptors(self, daemon):
        """How many of what kind."""
        kinds = collections.Counter()
        for name in os.listdir(f"/proc/{daemon.pid}/fd"):
            try:
                target = os.readlink(f"/proc/{daemon.pid}/fd/{name}")
            except FileNotFoundError:
                continue  # closed meanwhile
            target = target.replace(daemon.directory, "").replace(daemon.memory_dir, "memory")
            kinds[re.sub(r"[0-9a-f]*[0-9][0-9a-f]*", "N", target)] += 1
        return kinds

    def numbers(self, daemon, connection):
        """What the daemon has, once it is at rest."""
        def at_rest():
            # Each time: a commit of a client that is dead by now may have been under way.
            connection.delete(b"", om.BY_PREFIX)
            status = connection.status()
            if status["connections.open"] > 1 or any(status[name] for name in (
                    "objects", "leases", "puts", "waits", "held.objects", "memory.staging_bytes",
                    "holders.orphans", "board.pages", "claims.holders")):
                return None
            # What a group sync is to put on disk, files and directories, is open until it has come.
            names = self.descriptors(daemon)
            waiting = [name for name in names if name.startswith("/disk/objects/") or
                       "(deleted)" in name and "objmapper-claims" not in name]
            return None if waiting or names["/disk"] > 2 else status

        try:
            status = wait_until(at_rest, "the daemon is at rest", 10)
        except AssertionError:
            status = connection.status()
            self.fail("not at rest: " + ", ".join(f"{name}={status[name]}" for name in SAME) +
                      f"\n{self.descriptors(daemon)}")
        numbers = {name: status[name] for name in SAME}
        descriptors = self.descriptors(daemon)
        # Three for each segment of memory; the pack that is being filled, to read and to sync.
        self.assertEqual(descriptors.pop("memory/segments/N", 0), 3 * status["memory.segments"])
        self.assertLessEqual(descriptors.pop("/disk/packs/N", 0), 2 * status["disk.0.packs"])
        numbers["descriptors"] = descriptors
        # Our own lease file, until the daemon sees that we have taken it.
        self.assertLessEqual(status["descriptors.under_way"], 1)
        numbers["lease files"] = len(os.listdir(os.path.join(daemon.memory_dir, "leases")))
        with open(f"/proc/{daemon.pid}/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        numbers["threads"] = int(lines["Threads"])
        return numbers, int(lines["RssAnon"].split()[0]) // 1024, status

    def soak(self, daemon, seconds, rng):
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        started = killed = 0
        living = []

        def start():
            nonlocal started
            started += 1
            living.append(load.fork(victim, daemon.socket, rng.randrange(1 << 30) + started,
                                    writer))

        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                while len(living) < OPTIONS.clients:
                    start()
                time.sleep(rng.uniform(0, 0.06))
                pid = living.pop(rng.randrange(len(living)))
                os.kill(pid, signal.SIGKILL)
                code = os.waitpid(pid, 0)[1]
                self.assertEqual(code, signal.SIGKILL, "a client fell before it was killed")
                killed += 1
                self.assertTrue(daemon.alive(), daemon.log()[-2000:])
        finally:
            for pid in living:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(writer)
        problems = b""
        while more := os.read(reader, 65536):
            problems += more
        os.close(reader)
        self.assertEqual(problems.decode(), "")
        return killed

    def test_clients_are_killed(self):
        seed = OPTIONS.seed if OPTIONS.seed is not None else random.randrange(1 << 30)
        rng = random.Random(seed)
        with Daemon(memory="64M", disk="256M") as daemon:
            # Once through everything, so that what is made once (caches, arenas) is there.
            warm_up = min(5.0, OPTIONS.seconds / 4)
            self.soak(daemon, warm_up, rng)
            with om.Connection(daemon.socket) as connection:
                before, memory_before, _ = self.numbers(daemon, connection)
            killed = self.soak(daemon, OPTIONS.seconds - warm_up, rng)
            with om.Connection(daemon.socket) as connection:
                after, memory_after, status = self.numbers(daemon, connection)
                print(f"seed {seed}: {killed} clients killed, {status['hits']} hits, "
                      f"{status['published']} published, {status['aborted']} aborted, "
                      f"{status['revoked']} revoked; private memory {memory_before} MiB, then "
                      f"{memory_after} MiB; descriptors {before['descriptors'].total()}, "
                      f"then {after['descriptors'].total()}", file=sys.stderr)
                self.assertEqual(after, before, f"seed {seed}")
                self.assertLess(memory_after, memory_before + 12, f"seed {seed}: memory grows")
                connection.put(b"alive", b"still")
                self.assertEqual(connection.fetch(b"alive"), b"still")
            self.assertEqual(daemon.stop(), 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=OPTIONS.seconds)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--clients", type=int, default=OPTIONS.clients)
    OPTIONS, rest = parser.parse_known_args(namespace=OPTIONS)
    unittest.main(argv=sys.argv[:1] + rest)
