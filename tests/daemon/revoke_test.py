"""A reader that was asked to give its leases back: one that does, one that does not, one that is
stopped. The memory tier is small and has no disk behind it, so leases are all that can keep it full."""

import os
import signal
import time
import unittest

from protocol import client as c
from protocol.client import Connection, Failure
from support.daemon import Daemon, wait_until

BODY = 1_000_000
GRACE = 1
OBJECTS = 8  # as many as fit


def body_of(n):
    return bytes([n % 251 + 1]) * BODY


def tries_to_put(client, key):
    try:
        client.put(key, body_of(7))
        return True
    except Failure as failure:
        assert failure.status == c.NO_SPACE, failure
        return False


class Revocation(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(memory="8M", extra=["--revoke-grace", str(GRACE)])
        self.clients = []
        self.writer = self.connect()
        # While a segment is being made beside, an object may have to go for another one.
        wait_until(lambda: not self.put_missing(), "all are there")

    def put_missing(self):
        there = {entry["key"] for entry in self.writer.list(b"k/")["entries"]}
        missing = [n for n in range(OBJECTS) if f"k/{n}".encode() not in there]
        for n in missing:
            self.writer.put(f"k/{n}", body_of(n))
        return missing

    def tearDown(self):
        for client in self.clients:
            client.close()
        self.daemon.close()

    def connect(self):
        self.clients.append(Connection(self.daemon.socket))
        return self.clients[-1]

    def holders(self):
        """Two readers: the quota lets one of them have half of the tier and no more. The first has the oldest."""
        readers = [self.connect(), self.connect()]
        held = [[], []]
        for age, n in enumerate(sorted(range(OBJECTS), key=lambda n: self.writer.stat(f"k/{n}")["object_id"])):
            item = readers[age // 4].get(f"k/{n}")[0]
            self.assertEqual(item["status"], c.OK, n)
            held[age // 4].append((n, item))
        return readers, held

    def test_one_reader_cannot_pin_the_whole_tier(self):
        reader = self.connect()
        items = [reader.get(f"k/{n}")[0] for n in range(OBJECTS)]
        refused = [item for item in items if item["status"] == c.QUOTA]
        self.assertEqual(len(refused), OBJECTS // 2)
        self.assertTrue(tries_to_put(self.writer, "more"))

    def test_who_gives_back_what_was_asked_for_makes_room(self):
        readers, held = self.holders()
        for reader in readers:
            reader.subscribe(c.REVOKED)
        self.assertFalse(tries_to_put(self.writer, "more/1"))
        # Of the oldest, as many as have twice what it takes and some more: all of the same reader.
        own = [item["lease_id"] for _, item in held[0]]
        asked = [readers[0].next_event()["lease_id"] for _ in range(3)]
        self.assertEqual(asked, own[:3])
        readers[0].release(*asked)
        readers[0].status()
        self.assertTrue(tries_to_put(self.writer, "more/1"))
        self.assertEqual(self.writer.status()["revoked"], 3)
        time.sleep(GRACE)  # nothing is held against them later
        self.assertEqual(self.writer.status()["leases.overdue"], 0)
        self.assertEqual(readers[0].get("more/1")[0]["status"], c.OK)

    def test_who_does_not_gets_no_other_leases_and_keeps_its_bytes(self):
        readers, held = self.holders()
        # Each time others are asked, since those before do not come back.
        for _ in range(OBJECTS):
            self.assertFalse(tries_to_put(self.writer, "more/1"))
        wait_until(lambda: self.writer.status()["leases.overdue"] == OBJECTS, "all are overdue")
        self.assertEqual(readers[0].get("k/0")[0]["status"], c.QUOTA)
        with self.assertRaises(Failure) as caught:
            readers[0].reserve("k/0", 10, flags=c.OR_GET)
        self.assertEqual(caught.exception.status, c.QUOTA)
        # Nothing that is leased is written over, not even when its object is removed.
        self.writer.delete("k/", c.BY_PREFIX)
        self.assertFalse(tries_to_put(self.writer, "more/1"))
        for reader, items in zip(readers, held):
            for n, item in items:
                self.assertEqual(reader.read(item), body_of(n), n)
        # It lets go of all: at once it may lease again, and there is room.
        readers[0].release(*(item["lease_id"] for _, item in held[0]))
        self.assertTrue(tries_to_put(readers[0], "more/1"))
        self.assertEqual(readers[0].get("more/1")[0]["status"], c.OK)
        self.assertEqual(self.writer.status()["leases.overdue"], OBJECTS // 2)

    def test_a_holder_that_is_stopped_keeps_its_bytes_and_stops_nobody(self):
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            # Half of the tier, then stopped; after SIGCONT says whether its bytes are what they were.
            code = 1
            try:
                reader = Connection(self.daemon.socket)
                items = [(n, reader.get(f"k/{n}")[0]) for n in range(3)]
                os.write(tell, b"x")
                os.kill(os.getpid(), signal.SIGSTOP)
                code = 0 if all(reader.read(item) == body_of(n) for n, item in items) else 2
            finally:
                os._exit(code)
        try:
            os.read(told, 1)
            os.waitpid(child, os.WUNTRACED)
            for n in range(40):
                self.writer.put(f"churn/{n}", os.urandom(BODY))
            self.writer.delete("", c.BY_PREFIX)
            for n in range(40):
                self.writer.put(f"churn/{n}", os.urandom(BODY))
            self.assertEqual(self.writer.status()["held.bytes"], 3 * BODY)
            os.kill(child, signal.SIGCONT)
            _, status = os.waitpid(child, 0)
            child = 0
            self.assertEqual(os.waitstatus_to_exitcode(status), 0)
            wait_until(lambda: self.writer.status()["held.bytes"] == 0, "its bytes are back")
        finally:
            if child:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            os.close(told)
            os.close(tell)


if __name__ == "__main__":
    unittest.main()
