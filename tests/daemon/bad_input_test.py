"""Whatever peers send or fail to do, objmapperd answers or closes, and goes on serving the others."""

import os
import random
import resource
import select
import socket
import time
import unittest

from protocol import client as c
from protocol.client import Closed, Connection, Failure
from support.daemon import Daemon, wait_until

KEY = "good"


def flood(peer, count, request):
    """Sends request(0), request(1) ... without reading, until `count` or until the daemon takes no
    more; the ids of what was sent."""
    peer.socket.setblocking(False)
    sent = []
    for n in range(count):
        while True:
            try:
                sent.append(peer.send(*request(n)))
                break
            except BlockingIOError:
                if not select.select([], [peer.socket], [], 0.3)[1]:
                    return sent
    return sent


class BadInput(unittest.TestCase):
    def setUp(self):
        # The sanitizers' runtime complains when it cannot open files: that must not end the daemon.
        self.daemon = Daemon(memory="64M", disk="64M", env={
            "UBSAN_OPTIONS": "halt_on_error=0:" + os.environ.get("UBSAN_OPTIONS", "")})
        self.addCleanup(self.daemon.close)
        self.good = Connection(self.daemon.socket)
        self.addCleanup(self.good.close)
        self.good.put(KEY, b"good" * 100)
        self.good.fetch(KEY)
        self.descriptors = self.daemon.descriptors()

    def check_served(self):
        self.assertTrue(self.daemon.alive(), self.daemon.log())
        self.assertEqual(self.good.fetch(KEY), b"good" * 100)

    def check_nothing_leaked(self):
        wait_until(lambda: self.good.status()["connections.open"] == 1, "connections are closed")
        wait_until(lambda: self.daemon.descriptors() <= self.descriptors + 4,
                   "descriptors are closed")

    def test_random_bytes(self):
        rng = random.Random(1)
        for _ in range(300):
            with Connection(self.daemon.socket, hello=rng.random() < .7) as peer:
                try:
                    for _ in range(rng.randrange(1, 5)):
                        peer.send_raw(rng.randbytes(rng.choice((1, 23, 24, 25, 100, 5000))))
                except OSError:
                    pass
        self.check_served()
        self.check_nothing_leaked()

    def test_random_bodies_behind_right_headers(self):
        rng = random.Random(2)
        for _ in range(1500):
            with Connection(self.daemon.socket) as peer:
                kind = rng.randrange(0, 20)
                body = bytearray(rng.randbytes(rng.randrange(0, 80)))
                for at in range(0, max(len(body) - 4, 0), 4):  # small counts get further
                    if rng.random() < .6:
                        body[at:at + 4] = c.u32(rng.choice((0, 1, 2, 8, 70)))
                peer.send(kind, bytes(body))
        self.check_served()
        self.check_nothing_leaked()

    def test_mutated_requests(self):
        rng = random.Random(3)
        bodies = [(c.GET, Connection.get_body(KEY, "none")),
                  (c.RESERVE, Connection.reserve_body("m", 100, tags=["a"], metadata=b"m")),
                  (c.COMMIT, c.u64(1) + c.u64(100)), (c.EXTEND, c.u64(1) + c.u64(2**63)),
                  (c.LIST, c.text("") + c.text("") + c.u32(0) + c.u32(0)),
                  (c.REGION, c.text("o") + c.u64(1 << 20) + c.u64(0)),
                  (c.DESCRIBE, c.list_of(c.u64, [1, 2])), (c.RELEASE, c.list_of(c.u64, [1])),
                  (c.SUBSCRIBE, c.u32(7) + c.text(""))]
        for _ in range(1500):
            with Connection(self.daemon.socket) as peer:
                kind, body = rng.choice(bodies)
                body = bytearray(body)
                for _ in range(rng.randrange(1, 4)):
                    body[rng.randrange(len(body))] = rng.randrange(256)
                peer.send(kind, bytes(body))
        self.check_served()
        self.check_nothing_leaked()

    def test_descriptors_that_nobody_asked_for(self):
        for count in (1, 2, 63, 64, 65, 253):
            with Connection(self.daemon.socket) as peer:
                peer.send(c.STATUS, descriptors=[0] * count)
                message = peer.receive()
                self.assertEqual(message.status, c.MALFORMED)
        self.check_served()
        self.check_nothing_leaked()

    def test_a_flood_of_requests_without_reading(self):
        floods = []
        sent_by = []
        for _ in range(8):
            peer = Connection(self.daemon.socket)
            floods.append(peer)
            sent = flood(peer, 50_000, lambda n: (
                c.LIST, c.text("") + c.text("") + c.u32(0) + c.u32(0)))
            sent_by.append(sent)
            self.assertLess(len(sent), 50_000, "the daemon reads without end")
        self.check_served()
        status = self.good.status()
        self.assertLess(status["replies.queued_bytes"], 8 * (5 << 20))
        self.assertGreater(status["connections.paused_total"], 0)
        # Who reads again is served again.
        peer = floods[0]
        peer.socket.setblocking(True)
        peer.socket.settimeout(20)
        for _ in range(len(sent_by[0])):
            peer.receive().close()
        peer.status()
        for peer in floods:
            peer.close()
        self.check_served()
        self.check_nothing_leaked()

    def test_descriptors_under_way_to_who_does_not_read_are_capped(self):
        for n in range(300):
            self.good.put(f"file/{n}", b"f" * 70_000, flags=c.DISK)
        peers = [Connection(self.daemon.socket) for _ in range(4)]
        sent = [flood(peer, 300, lambda n: (c.GET, Connection.get_body(f"file/{n}")))
                for peer in peers]
        self.check_served()
        self.assertLessEqual(self.good.status()["descriptors.under_way"], 5 * 256)
        for peer, numbers in zip(peers, sent):
            # Reading makes the rest come.
            peer.socket.setblocking(True)
            peer.socket.settimeout(20)
            for number in numbers:
                item = peer.reply(number)["items"][0]
                self.assertEqual(item["status"], c.OK)
            peer.close()
        self.check_served()

    def test_a_thousand_idle_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        idle = [Connection(self.daemon.socket, hello=n % 2 == 0) for n in range(1000)]
        start = time.monotonic()
        for _ in range(100):
            self.good.fetch(KEY)
        self.assertLess(time.monotonic() - start, 5)
        self.assertEqual(self.good.status()["connections.open"], 1001)
        for peer in idle:
            peer.close()
        self.check_served()
        self.check_nothing_leaked()

    def lowest_free_descriptor(self):
        taken = {int(n) for n in os.listdir(f"/proc/{self.daemon.pid}/fd")}
        return next(n for n in range(len(taken) + 1) if n not in taken)

    def leave_no_descriptor(self):
        """Lowers the daemon's limit (a number, not a count) until no accept(2) can succeed, not
        even in the place of a descriptor that was open only for a moment."""
        limit = None
        calm_since = time.monotonic()
        while limit is None or time.monotonic() - calm_since < 0.3:
            free = self.lowest_free_descriptor()
            if limit is None or free < limit:
                limit = free
                resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, (limit, 4096))
                calm_since = time.monotonic()

    def test_out_of_descriptors(self):
        self.leave_no_descriptor()
        for _ in range(20):
            with Connection(self.daemon.socket, hello=False) as peer:
                with self.assertRaises(Failure) as caught:
                    peer.receive().fields()
                self.assertEqual(caught.exception.status, c.UNAVAILABLE)
        self.check_served()
        # Room for a socket but not for all that HELLO needs, then a peer that sends descriptors.
        for room in range(1, 5):
            resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE,
                             (self.daemon.descriptors() + room, 4096))
            try:
                with Connection(self.daemon.socket) as peer:
                    peer.send(c.STATUS, descriptors=[0] * 60)
                    peer.receive()
                    self.good.put(f"emfile/{room}", b"x" * 100_000, flags=c.DISK)
                    self.good.fetch(f"emfile/{room}")
            except (Failure, Closed, OSError):
                pass
            self.check_served()
        resource.prlimit(self.daemon.pid, resource.RLIMIT_NOFILE, (4096, 4096))
        with Connection(self.daemon.socket) as peer:
            self.assertEqual(peer.fetch(KEY), b"good" * 100)
            peer.put("again", b"x" * 100_000, flags=c.DISK)
        self.check_served()

    def test_a_client_that_dies_leaves_nothing(self):
        for n in range(40):
            peer = Connection(self.daemon.socket)
            put = peer.reserve(f"dead/{n}", 100_000)
            peer.write(put["extents"], b"d" * 100_000)
            peer.reserve(f"dead/{n}/b")
            peer.close()
        self.check_served()
        wait_until(lambda: self.good.status()["puts"] == 0, "puts are aborted")
        self.assertEqual(self.good.list("dead/")["entries"], [])
        self.check_nothing_leaked()

    def test_requests_sent_before_the_end_are_done(self):
        peer = Connection(self.daemon.socket)
        put = peer.reserve("last", 4)
        peer.write(put["extents"], b"last")
        peer.send(c.COMMIT, c.u64(put["put_id"]) + c.u64(4))
        peer.close()
        wait_until(lambda: self.good.fetch("last") in (b"last", None), "an answer")
        self.check_served()


class SmallLimit(unittest.TestCase):
    def test_turns_connections_away_with_a_reason(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        with Daemon(memory="64M", preexec=limit, env={"UBSAN_OPTIONS": "halt_on_error=0"}) as daemon:
            with Connection(daemon.socket) as first:
                most = first.status()["connections.max"]
                self.assertLess(most, 256)
                peers = [Connection(daemon.socket, hello=False) for _ in range(most + 20)]
                turned_away = 0
                for peer in peers:
                    if select.select([peer.socket], [], [], 0.05 if turned_away == 0 else 0)[0]:
                        with self.assertRaises(Failure) as caught:
                            peer.receive().fields()
                        self.assertEqual(caught.exception.status, c.UNAVAILABLE)
                        turned_away += 1
                self.assertGreaterEqual(turned_away, 1)
                self.assertLessEqual(first.status()["connections.open"], most)
                for peer in peers:
                    peer.close()
                wait_until(lambda: first.status()["connections.open"] == 1, "they are gone")
                with Connection(daemon.socket) as again:
                    again.put("k", b"x")
                    self.assertEqual(again.fetch("k"), b"x")


if __name__ == "__main__":
    unittest.main()
