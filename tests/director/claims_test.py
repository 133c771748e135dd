#!/usr/bin/env python3
"""Caches that write in place: who misses first asks the daemon nothing, and still there is one fetch for each key.

Bodies are compared, the origin's requests and the daemon's are counted.
"""

import os
import signal
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from caches import WAIT_S, World, body_of, wait_until  # noqa: E402
from protocol.client import BAN, PURGE, TAG, Connection  # noqa: E402

MIB = 1 << 20


class Getter(threading.Thread):
    """A client of its own; what it got, or what went wrong, is there when it has ended."""

    def __init__(self, cache, path, headers=None):
        super().__init__(daemon=True)
        self.cache, self.path, self.headers = cache, path, headers
        self.status = self.body = self.trouble = None
        self.start()

    def run(self):
        try:
            self.status, _, self.body = self.cache.get(self.path, self.headers)
        except Exception as trouble:  # pylint: disable=broad-except
            self.trouble = trouble

    def got(self):
        self.join(2 * WAIT_S)
        return (self.status, self.body) if self.trouble is None else self.trouble


class ClaimsCase(unittest.TestCase):
    arguments = {"trusted": True, "timeout": "5s"}

    @classmethod
    def setUpClass(cls):
        cls.world = World(**cls.arguments)
        cls.a, cls.b = cls.world.cache("a"), cls.world.cache("b")
        cls.origin = cls.world.origin
        cls.watch = Connection(cls.world.daemon.socket)
        for cache in (cls.a, cls.b):
            wait_until(lambda cache=cache: cache.counter("g_current", of="OBJMR.*") == 1, "directors may be used", WAIT_S)

    @classmethod
    def tearDownClass(cls):
        cls.watch.close()
        cls.world.close()

    def setUp(self):
        self.origin.release.clear()
        self.addCleanup(self.origin.release.set)

    def keys(self, path):
        return [entry["key"] for entry in self.watch.list(b"cdn://test")["entries"]
                if path.encode() + b"?" in entry["key"]]

    def published(self, path, count=1):
        wait_until(lambda: len(self.keys(path)) >= count, "it is published", WAIT_S)

    def b_waits(self, path_and_query, headers=None):
        """b asks for what a is fetching, and the daemon has put it off."""
        follows = self.watch.status()["requests.follow_total"]
        getter = Getter(self.b, path_and_query, headers)
        wait_until(lambda: self.watch.status()["requests.follow_total"] > follows, "b waits", WAIT_S)
        return getter

    def claimed(self):
        return self.a.counter("c_miss_claimed")

    def get_rooms(self):
        """Each of a's connections asks for room when it has something to put."""
        for number in range(4):
            path = f"/room/{self.id()}/{number}"
            self.a.get(f"{path}?size=10")
            self.published(path)


class Claimed(ClaimsCase):
    def test_a_small_body_is_one_message(self):
        self.get_rooms()
        names = [f"requests.{name}_total" for name in ("get", "reserve", "commit", "put", "unclaim", "amend", "hold")]
        before, claimed, ahead = self.watch.status(), self.claimed(), self.a.counter("c_tee_ahead")
        for number in range(20):
            path = f"/one/{number}"
            size = 1 + number * 3000
            self.assertEqual(self.a.get(f"{path}?size={size}&etag=v&xkey=red")[2], body_of(path, size))
            self.published(path)
        after = self.watch.status()
        self.assertEqual({name: after[name] - before[name] for name in names},
                         {**dict.fromkeys(names, 0), "requests.put_total": 20})
        self.assertEqual(self.claimed() - claimed, 20)
        # Those for room may have been counted late.
        wait_until(lambda: self.a.counter("c_tee_ahead") - ahead >= 20, "the daemon says so", WAIT_S)
        for number in range(20):
            path = f"/one/{number}"
            size = 1 + number * 3000
            got, headers, body = self.b.get(f"{path}?size={size}&etag=v&xkey=red")
            self.assertEqual((got, headers["ETag"], headers["X-Hits"], body), (200, '"v"', "0", body_of(path, size)))
            self.assertEqual(self.origin.count(path), 1)
        self.assertGreaterEqual(self.watch.status()["claims.holders"], 4)  # two connections each

    def test_the_backend_is_asked_while_the_daemon_hangs(self):
        self.get_rooms()
        path = "/hangs"
        before = self.a.counters()
        self.world.daemon.signal(signal.SIGSTOP)
        try:
            getter = Getter(self.a, f"{path}?size=5000")
            self.assertEqual(getter.got(), (200, body_of(path, 5000)))
            now = self.a.counters()
            for name in ("c_timeout", "c_failed", "c_tee_late"):
                self.assertEqual(now.get(name, 0), before.get(name, 0), name)
            self.assertEqual(now["c_miss_claimed"], before["c_miss_claimed"] + 1)
        finally:
            self.world.daemon.signal(signal.SIGCONT)
        self.published(path)
        self.assertEqual(self.b.get(f"{path}?size=5000")[2], body_of(path, 5000))
        self.assertEqual(self.origin.count(path), 1)

    def test_who_comes_while_it_is_fetched_has_it_from_there(self):
        claimed = self.claimed()
        for number, (query, size) in enumerate((
                ("delay=2&size=5000", 5000), ("hold=1&size=5000", 5000), ("hold=1&size=65535", 65535),
                ("hold=1&size=65536", 65536), ("hold=1&size=3000000", 3_000_000), ("delay=2&size=0", 0),
                ("hold=1&size=5000&chunked=1", 5000), ("hold=1&size=3000000&chunked=1", 3_000_000),
                ("delay=2&size=77&status=404", 77), ("delay=2&size=5000&etag=v&xkey=red+blue", 5000))):
            with self.subTest(query):
                path = f"/both/{number}"
                self.origin.release.clear()
                asked, half = self.origin.total(), self.origin.in_mid_body
                first = Getter(self.a, f"{path}?{query}")
                wait_until(lambda asked=asked: self.origin.total() > asked, "a asks", WAIT_S)
                if "hold" in query:
                    wait_until(lambda half=half: self.origin.in_mid_body > half, "half of it has come", WAIT_S)
                second = self.b_waits(f"{path}?{query}")
                self.origin.release.set()
                status = 404 if "404" in query else 200
                for getter in (first, second):
                    self.assertEqual(getter.got(), (status, body_of(path, size)))
                self.assertEqual(self.origin.count(path), 1)
        self.assertEqual(self.claimed(), claimed + 10)

    def test_variants(self):
        path, query = "/vary", "size=5000&vary=Foo&delay=2"
        claimed = self.claimed()
        first = Getter(self.a, f"{path}?{query}", {"Foo": "one"})
        wait_until(lambda: self.origin.count(path) == 1, "a asks", WAIT_S)
        same, other = self.b_waits(f"{path}?{query}", {"Foo": "one"}), Getter(self.b, f"{path}?{query}", {"Foo": "two"})
        for getter, value in ((first, b"one"), (same, b"one"), (other, b"two")):
            self.assertEqual(getter.got(), (200, value + body_of(path, 5000)))
        self.assertEqual(self.origin.count(path), 2)
        self.assertEqual(self.claimed(), claimed + 1)

    def test_what_is_not_published_is_for_the_next_one(self):
        """Those who wait do not wait on, and go to the backend one after the other, or together."""
        for number, query in enumerate(("cc=no-store", "cc=private", "cc=max-age=0")):
            path = f"/never/{number}"
            query = f"size=5000&delay=2&{query}"
            first = Getter(self.a, f"{path}?{query}")
            wait_until(lambda path=path: self.origin.count(path) == 1, "a asks", WAIT_S)
            second = self.b_waits(f"{path}?{query}")
            for getter in (first, second):
                self.assertEqual(getter.got(), (200, body_of(path, 5000)))
            self.assertEqual(self.origin.count(path), 2)
            self.assertEqual(self.keys(path), [])
        # A backend that breaks off is none to wait for either.
        path, query = "/breaks", "size=5000&hold=1&die=1&first=1"
        half = self.origin.in_mid_body
        first = Getter(self.a, f"{path}?{query}")
        wait_until(lambda: self.origin.in_mid_body > half, "half of it has come", WAIT_S)
        second = self.b_waits(f"{path}?{query}")
        self.origin.release.set()
        self.assertEqual(second.got(), (200, body_of(path, 5000)))
        self.assertNotEqual(first.got(), (200, body_of(path, 5000)))
        self.assertEqual(self.origin.count(path), 2)
        self.assertEqual(self.watch.status()["waits"], 0)

    def test_a_hit_for_miss_is_not_claimed(self):
        path = "/hfm?size=100&cc=max-age=0"
        self.a.get(path)
        claimed = self.claimed()
        for _ in range(3):
            self.a.get(path)
        self.assertEqual(self.claimed(), claimed)

    def test_what_is_removed_between_the_claim_and_the_put_is_not_published(self):
        """Small ones, put ahead, waited for or not; large ones, reserved. By key, by tag, and by ban."""
        number = 0
        for size, waited_for in ((5000, False), (5000, True), (2 * MIB, False)):
            for kind in (PURGE, TAG, BAN):
                number += 1
                path = f"/overtaken/{number}"
                with self.subTest(size=size, waited_for=waited_for, kind=kind):
                    self.overtake(path, f"size={size}&hold=1&first=1&xkey=tag{number}", size, kind, waited_for, number)

    def overtake(self, path, query, size, kind, waited_for, number):
        self.origin.release.clear()
        half = self.origin.in_mid_body
        first = Getter(self.a, f"{path}?{query}")
        wait_until(lambda: self.origin.in_mid_body > half, "half of it has come", WAIT_S)
        second = self.b_waits(f"{path}?{query}") if waited_for else None
        what = {PURGE: f"cdn://test/www.test{path}?{query}", TAG: f"tag{number}", BAN: f"req.url ~ ^{path}[?]"}[kind]
        refused = self.a.counter("c_tee_failed") + self.a.counter("c_tee_behind")
        self.assertEqual(self.watch.remove(kind, what, wait_ms=10_000)["unapplied"], 0)
        self.origin.change(path)
        self.origin.release.set()
        self.assertEqual(first.got(), (200, body_of(path, size)))
        if kind != BAN:
            wait_until(lambda: self.a.counter("c_tee_failed") + self.a.counter("c_tee_behind") == refused + 1,
                       "it is refused", WAIT_S)
        if second is not None:
            # It came before the removal: the old one, or the new one; but whole.
            status, body = second.got()
            self.assertEqual(status, 200)
            self.assertIn(body, (body_of(path, size), body_of(path + "1", size)))
        for cache in (self.b, self.a):
            status, _, body = cache.get(f"{path}?{query}")
            self.assertEqual((status, body), (200, body_of(path + "1", size)))


class ClaimsTrouble(unittest.TestCase):
    """Each with processes of its own, which it kills."""

    def setUp(self):
        self.world = World(trusted=True, timeout="5s")
        self.addCleanup(self.world.close)
        self.origin = self.world.origin
        self.a, self.b = self.world.cache("a"), self.world.cache("b")

    def test_the_fetching_cache_dies(self):
        """Before the headers, or in mid-body of something small: nobody has seen anything of it, and the next one asks."""
        with Connection(self.world.daemon.socket) as watch:
            path, query = "/dies", "size=5000&hold=1&first=1"
            self.origin.release.clear()
            Getter(self.a, f"{path}?{query}")
            wait_until(lambda: self.origin.in_mid_body == 1, "half of it has come", WAIT_S)
            self.assertEqual(self.a.counter("c_miss_claimed"), 1)
            second = Getter(self.b, f"{path}?{query}")
            wait_until(lambda: watch.status()["claims.wanted"] == 1, "b waits", WAIT_S)
            self.world.kill_cache("a")
            self.assertEqual(second.got(), (200, body_of(path, 5000)))
            self.assertEqual(self.origin.count(path), 2)
            wait_until(lambda: self.b.counter("c_tee_published") == 1, "b publishes it", WAIT_S)
            self.assertEqual(self.world.cache("c").get(f"{path}?{query}")[2], body_of(path, 5000))
            self.assertEqual(self.origin.count(path), 2)

    def test_the_daemon_is_another_one(self):
        """What was claimed of the one that is gone is published with nobody."""
        path, query = "/restarted", "size=5000&hold=1&first=1"
        self.origin.release.clear()
        first = Getter(self.a, f"{path}?{query}")
        wait_until(lambda: self.origin.in_mid_body == 1, "half of it has come", WAIT_S)
        connects = {cache: cache.counter("c_connects") for cache in (self.a, self.b)}
        self.world.daemon.kill()
        self.world.daemon.start()
        self.world.open_socket()
        for cache, before in connects.items():
            # Each with both of its connections.
            wait_until(lambda cache=cache, before=before: cache.counter("c_connects") == before + 2,
                       "it is asked again", WAIT_S)
        # Nobody waits for what was begun before.
        self.assertEqual(self.b.get(f"{path}?{query}")[2], body_of(path, 5000))
        self.assertEqual(self.origin.count(path), 2)
        self.assertEqual(self.b.counter("c_miss_claimed"), 1)
        self.origin.release.set()
        self.assertEqual(first.got(), (200, body_of(path, 5000)))


@unittest.skipUnless(os.getuid() == 0, "needs root: who is the daemon's user writes in place")
class Untrusted(unittest.TestCase):
    def test_asks_the_daemon(self):
        world = World(timeout="5s")
        try:
            a, b = world.cache("a"), world.cache("b")
            getters = [Getter(cache, "/k?size=5000&delay=0.5") for cache in (a, b)]
            for getter in getters:
                self.assertEqual(getter.got(), (200, body_of("/k", 5000)))
            self.assertEqual(world.origin.count("/k"), 1)
            self.assertEqual([cache.counter("c_miss_claimed") for cache in (a, b)], [0, 0])
        finally:
            world.close()


if __name__ == "__main__":
    unittest.main()
