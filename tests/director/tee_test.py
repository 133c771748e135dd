#!/usr/bin/env python3
"""What one cache fetches, the others have: published when it is whole, followed while it comes.

Each test has a path of its own. Bodies are compared; the origin's requests are counted.
"""

import http.client
import itertools
import os
import signal
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from caches import World, body_of, wait_until  # noqa: E402
from protocol.client import EPHEMERAL, PURGE, TAG, Connection  # noqa: E402

MIB = 1 << 20


class TeeCase(unittest.TestCase):
    """Two caches that live for all tests of a class; a test that kills something makes its own world."""

    arguments = {}

    @classmethod
    def setUpClass(cls):
        cls.world = World(**cls.arguments)
        cls.a = cls.world.cache("a")
        cls.b = cls.world.cache("b")
        cls.origin = cls.world.origin

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def published(self, cache, before, more=1):
        wait_until(lambda: cache.counter("c_tee_published") >= before + more, f"{cache.name} published", 30)

    def fetch(self, path, query, cache=None, headers=None):
        """Through one cache, until it is published."""
        cache = cache or self.a
        before = cache.counter("c_tee_published")
        answer = cache.get(f"{path}?{query}", headers)
        self.published(cache, before)
        return answer


class Published(TeeCase):
    def check(self, path, query, size, status=200):
        got, _, body = self.fetch(path, query)
        self.assertEqual((got, body), (status, body_of(path, size)))
        got, headers, body = self.b.get(f"{path}?{query}")
        self.assertEqual((got, body), (status, body_of(path, size)))
        self.assertEqual(headers["X-Hits"], "0")
        self.assertEqual(self.origin.count(path), 1)
        return headers

    def test_sizes(self):
        for size in (1, 100, 65536, 300_000, 5 * MIB):
            self.check(f"/size/{size}", f"size={size}", size)

    def test_chunked(self):
        for size in (1, 100_000, 3 * MIB):
            self.check(f"/chunked/{size}", f"size={size}&chunked=1", size)

    def test_empty(self):
        headers = self.check("/empty", "size=0", 0)
        self.assertEqual(headers["Content-Length"], "0")

    def test_error_responses_have_their_ttl(self):
        self.check("/404", "size=77&status=404", 77, status=404)

    def test_headers(self):
        headers = self.check("/headers", "size=50&etag=v1&xkey=red+blue", 50)
        self.assertEqual((headers["ETag"], headers["Xkey"]), ('"v1"', "red blue"))
        self.assertNotIn("X-Objmapper-Object", headers)

    def test_variants(self):
        path = "/vary"
        for value in ("one", "two"):
            got = self.fetch(path, "size=200000&vary=Foo", headers={"Foo": value})
            self.assertEqual(got[2], value.encode() + body_of(path, 200_000))
        self.assertEqual(self.origin.count(path), 2)
        for value in ("two", "one"):
            got = self.b.get(path + "?size=200000&vary=Foo", {"Foo": value})
            self.assertEqual(got[2], value.encode() + body_of(path, 200_000))
        self.assertEqual(self.origin.count(path), 2)
        got = self.b.get(path + "?size=200000&vary=Foo")
        self.assertEqual(got[2], b"-" + body_of(path, 200_000))
        self.assertEqual(self.origin.count(path), 3)

    def test_a_client_that_leaves(self):
        path, query = "/leaves", f"size={2 * MIB}&pause=0.3"
        before = self.a.counter("c_tee_published")
        response, connection = self.a.open(f"{path}?{query}")
        response.read(1000)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        self.published(self.a, before)
        self.assertEqual(self.b.get(f"{path}?{query}")[2], body_of(path, 2 * MIB))
        self.assertEqual(self.origin.count(path), 1)

    def test_what_is_not_cacheable(self):
        before = self.a.counter("c_tee_published")
        for number, query in enumerate(("cc=no-store", "cc=private", "cc=max-age=0", "cc=no-cache")):
            path = f"/never/{number}"
            for cache in (self.a, self.b):
                self.assertEqual(cache.get(f"{path}?size=5000&{query}")[2], body_of(path, 5000))
            self.assertEqual(self.origin.count(path), 2)
        # Pass never touches objmapper.
        asked = self.a.counter("c_lookup")
        self.a.get("/never/pass?size=10", {"Cookie": "x=1"})
        self.assertEqual(self.a.counter("c_lookup"), asked)
        self.assertEqual(self.a.counter("c_tee_published"), before)

    def test_a_backend_that_breaks_off(self):
        before = self.a.counter("c_tee_published")
        for number, query in enumerate(("", "&chunked=1")):
            path = f"/breaks/{number}"
            for cache in (self.a, self.b):
                with self.assertRaises(Exception):
                    status, _, body = cache.get(f"{path}?size={MIB}&die=1{query}")
                    self.assertEqual((status, len(body)), (200, MIB))
            self.assertGreaterEqual(self.origin.count(path), 2)
        self.assertEqual(self.a.counter("c_tee_published"), before)


class Landed(Published):
    """The same of caches that are trusted: large bodies are received in place."""

    arguments = {"trusted": True}

    def test_received_in_place(self):
        landed = self.a.counter("c_tee_landed")
        for number, size in enumerate((256 * 1024, 256 * 1024 + 1, 3 * MIB + 7, 20 * MIB)):
            path, query = f"/landed/{number}", f"size={size}"
            self.check(path, query, size)
            # And what is cached then is the same bytes.
            for _ in range(2):
                got, headers, body = self.a.get(f"{path}?{query}")
                self.assertEqual((got, body), (200, body_of(path, size)))
            self.assertEqual(headers["X-Hits"], "2")
            part = self.a.get(f"{path}?{query}", {"Range": f"bytes={size - 1000}-"})
            self.assertEqual((part[0], part[2]), (206, body_of(path, size)[-1000:]))
        self.assertEqual(self.a.counter("c_tee_landed"), landed + 4)
        # Smaller ones are copied.
        self.fetch("/landed/small", f"size={256 * 1024 - 1}")
        self.fetch("/landed/chunked", f"size={256 * 1024 - 1}&chunked=1")
        self.assertEqual(self.a.counter("c_tee_landed"), landed + 4)
        self.assertLess(self.a.store_bytes(), 3 * MIB)

    def test_received_in_place_when_it_turns_out_to_be_large(self):
        landed = self.a.counter("c_tee_landed")
        for number, size in enumerate((256 * 1024 + 1, 3 * MIB + 7, 20 * MIB)):
            path, query = f"/landedchunks/{number}", f"size={size}&chunked=1"
            self.check(path, query, size)
            got, headers, body = self.a.get(f"{path}?{query}")
            self.assertEqual((got, headers["X-Hits"], body), (200, "1", body_of(path, size)))
        self.assertEqual(self.a.counter("c_tee_landed"), landed + 3)

    def test_published_and_replaced(self):
        path, query = "/replaced", f"size={2 * MIB}"
        self.fetch(path, query)
        with Connection(self.world.daemon.socket) as connection:
            keys = [e["key"] for e in connection.list(b"cdn://test")["entries"] if b"/replaced" in e["key"]]
            self.assertEqual(len(keys), 1)
            connection.put(keys[0].decode(), b"another")
            fill(connection, 40)
        self.assertEqual(self.a.get(f"{path}?{query}")[2], body_of(path, 2 * MIB))

    def test_a_backend_that_breaks_off_gives_everything_back(self):
        with Connection(self.world.daemon.socket) as connection:
            before = connection.status()
            landed = self.a.counter("c_tee_landed")
            for number in range(3):
                with self.assertRaises(Exception):
                    status, _, body = self.a.get(f"/broken/{number}?size={8 * MIB}&die=1")
                    self.assertEqual((status, len(body)), (200, 8 * MIB))
            self.assertGreaterEqual(self.a.counter("c_tee_landed"), landed + 3)
            wait_until(lambda: all(connection.status()[n] == before[n] for n in ("leases", "held.bytes", "puts")),
                       "leases and room are given back", 30)


def fill(connection, count):
    """So much is written elsewhere that whatever is free is overwritten."""
    for number in range(count):
        connection.put(f"fill{number}", b"f" * (16 * MIB), flags=EPHEMERAL)


class Named(TeeCase):
    """VCL names the filter; no fetch goes through the director."""

    arguments = {"backend": "backend = origin",
                 "vcl": 'sub vcl_backend_response { set beresp.filters = beresp.filters + " objmapper"; }'}

    def test_a_filter_that_vcl_names(self):
        path = "/named"
        self.assertEqual(self.fetch(path, "size=200000")[2], body_of(path, 200_000))
        c = self.world.cache("c", backend="backend = objm.backend()", vcl="")
        self.assertEqual(c.get(path + "?size=200000")[2], body_of(path, 200_000))
        self.assertEqual(self.origin.count(path), 1)


class NamedAndLanded(Named):
    arguments = {**Named.arguments, "trusted": True}

    def test_in_place(self):
        landed, ahead = self.a.counter("c_tee_landed"), self.a.counter("c_tee_ahead")
        self.assertEqual(self.fetch("/inplace", f"size={2 * MIB}")[2], body_of("/inplace", 2 * MIB))
        self.assertEqual(self.a.counter("c_tee_landed"), landed + 1)
        self.assertEqual(self.a.counter("c_tee_ahead"), ahead + 1)
        got, headers, body = self.a.get(f"/inplace?size={2 * MIB}")
        self.assertEqual((got, headers["X-Hits"], body), (200, "1", body_of("/inplace", 2 * MIB)))

    def requests(self, connection):
        status = connection.status()
        return {name: status[f"requests.{name}_total"]
                for name in ("reserve", "hold", "amend", "commit", "put")}

    def test_one_message_for_each_body(self):
        sizes = (1, 5000, 256 * 1024 - 1, 256 * 1024, 300_001, MIB, 3 * MIB + 7, 4 * MIB)
        with Connection(self.world.daemon.socket) as connection:
            before, ahead = self.requests(connection), self.a.counter("c_tee_ahead")
            for number, size in enumerate(sizes):
                path = f"/one/{number}"
                self.assertEqual(self.fetch(path, f"size={size}")[2], body_of(path, size))
            seen = {name: count - before[name] for name, count in self.requests(connection).items()}
            self.assertEqual(seen, {**dict.fromkeys(seen, 0), "put": len(sizes)})
            self.assertEqual(self.a.counter("c_tee_ahead"), ahead + len(sizes))
        c = self.world.cache("c", backend="backend = objm.backend()", vcl="")
        for number, size in enumerate(sizes):
            path = f"/one/{number}"
            for cache in (c, self.a):
                self.assertEqual(cache.get(f"{path}?size={size}")[2], body_of(path, size))
            self.assertEqual(self.origin.count(path), 1)

    def burst(self, cache, paths):
        """The bodies, over one connection that asks for all of them at once."""
        with socket.create_connection(("127.0.0.1", cache.port), 60) as client, client.makefile("rb") as answers:
            client.sendall(b"".join(b"GET %s HTTP/1.1\r\nHost: w\r\n\r\n" % path.encode() for path in paths))
            bodies = []
            for _ in paths:
                self.assertIn(b" 200 ", answers.readline())
                headers = http.client.parse_headers(answers)
                bodies.append(answers.read(int(headers["Content-Length"])))
            return bodies

    def test_many_share_messages(self):
        """Where they come fast; and others find them all."""
        fast = self.world.cache("fast", backend="backend = origin", store=None,
                                vcl='sub vcl_recv { if (req.url ~ "^/many/") { return (synth(200)); } }')
        d = self.world.cache("d", backend="backend = fast", vcl=f'''
            backend fast {{ .host = "127.0.0.1"; .port = "{fast.port}"; }}
            {Named.arguments["vcl"]}''')
        e = self.world.cache("e", backend="backend = objm.backend()", store=None, vcl="")
        end = time.monotonic() + 120
        with Connection(self.world.daemon.socket) as connection:
            for turn in itertools.count():
                paths = [f"/many/{turn}/{n}" for n in range(1000)]
                messages, published = self.requests(connection)["put"], d.counter("c_tee_published")
                ahead = d.counter("c_tee_ahead")
                bodies = self.burst(d, paths)
                self.published(d, published, len(paths))
                messages = self.requests(connection)["put"] - messages
                ahead = d.counter("c_tee_ahead") - ahead
                self.assertGreater(ahead, 0)
                for n in range(0, len(paths), 111):
                    self.assertEqual(e.get(paths[n])[2], bodies[n])
                if messages < ahead:
                    break
                self.assertLess(time.monotonic(), end, "each has a message of its own")

    def test_the_first_burst_shares_messages(self):
        """It is not looked for at times whether there are many: that is told."""
        fast = self.world.cache("fast2", backend="backend = origin", store=None,
                                vcl='sub vcl_recv { if (req.url ~ "^/burst/") { return (synth(200)); } }')
        d = self.world.cache("d2", backend="backend = fast", vcl=f'''
            backend fast {{ .host = "127.0.0.1"; .port = "{fast.port}"; }}
            {Named.arguments["vcl"]}''')
        end = time.monotonic() + 120
        with Connection(self.world.daemon.socket) as connection:
            together = []
            for turn in itertools.count():
                # So that the burst before is forgotten.
                time.sleep(0.25)
                paths = [f"/burst/{turn}/{n}" for n in range(100)]
                messages, published = self.requests(connection)["put"], d.counter("c_tee_published")
                self.burst(d, paths)
                self.published(d, published, len(paths))
                together.append(self.requests(connection)["put"] - messages <= len(paths) // 2)
                if together[-8:].count(True) >= 5:
                    break
                self.assertLess(time.monotonic(), end, "each has a message of its own")

    def test_what_has_to_be_reserved(self):
        """Too large, of unknown length, or a variant."""
        ahead = self.a.counter("c_tee_ahead")
        for path, query, size in (("/large", "", 4 * MIB + 1), ("/large", "&chunked=1", MIB),
                                  ("/large", "&vary=Foo", MIB)):
            path += query.replace("&", "/").replace("=", "")
            before = self.a.counter("c_tee_published")
            body = self.fetch(path, f"size={size}{query}")[2]
            self.assertEqual(body, (b"-" if "vary" in query else b"") + body_of(path, size))
            self.assertEqual(self.a.counter("c_tee_published"), before + 1)
        self.assertEqual(self.a.counter("c_tee_ahead"), ahead)

    def test_what_was_removed_while_it_was_fetched_is_not_published(self):
        """By its key, or by its tag: nobody gets it, not even who fetched it."""
        c = self.world.cache("c", backend="backend = objm.backend()", vcl="")
        for number, kind in enumerate((PURGE, TAG)):
            path, query = f"/overtaken/{number}", f"size={2 * MIB}&hold=1&xkey=tag{number}"
            refused = self.a.counter("c_tee_failed") + self.a.counter("c_tee_behind")
            self.origin.release.clear()
            response, connection = self.a.open(f"{path}?{query}")
            half = response.read(MIB)
            with Connection(self.world.daemon.socket) as other:
                what = f"cdn://test/www.test{path}?{query}" if kind == PURGE else f"tag{number}"
                self.assertEqual(other.remove(kind, what, wait_ms=10_000)["unapplied"], 0)
                self.origin.release.set()
                self.assertEqual(half + response.read(), body_of(path, 2 * MIB))
                connection.close()
                wait_until(lambda: self.a.counter("c_tee_failed") + self.a.counter("c_tee_behind") == refused + 1,
                           "it is refused", 30)
                keys = [entry["key"] for entry in other.list(b"cdn://test")["entries"]]
                self.assertEqual([key for key in keys if path.encode() in key], [])
            self.origin.change(path)
            for cache in (c, self.a):
                self.assertEqual(cache.get(f"{path}?{query}")[2], body_of(path + "1", 2 * MIB))

    def test_a_backend_that_breaks_off_leaves_nothing(self):
        with Connection(self.world.daemon.socket) as connection:
            held, landed = connection.status()["held.bytes"], self.a.counter("c_tee_landed")
            for number in range(3):
                with self.assertRaises(Exception):
                    status, _, body = self.a.get(f"/brokenahead/{number}?size={3 * MIB}&die=1")
                    self.assertEqual((status, len(body)), (200, 3 * MIB))
            self.assertGreaterEqual(self.a.counter("c_tee_landed"), landed + 3)
            wait_until(lambda: connection.status()["held.bytes"] <= held, "what was held goes back", 30)
            keys = [entry["key"] for entry in connection.list(b"cdn://test")["entries"]]
            self.assertEqual([key for key in keys if b"/brokenahead" in key], [])


class NamedAndFull(TeeCase):
    """More is fetched than the daemon has memory for, and all of it is borrowed."""

    arguments = {**NamedAndLanded.arguments, "memory": "256M"}

    def seen(self):
        """Refused or asked back, dealt with, and published, so far."""
        with Connection(self.world.daemon.socket) as connection:
            refused = connection.status()["refused.no_space_total"]
        count = {name: self.a.counter(name) for name in
                 ("c_revoked", "c_tee_published", "c_tee_full", "c_tee_late", "c_tee_failed",
                  "c_tee_behind", "c_tee_down")}
        dealt = sum(count.values()) - count["c_revoked"]
        return refused + count["c_revoked"] + count["c_tee_full"], dealt, count["c_tee_published"]

    def test_less_is_borrowed_than_there_is(self):
        """So that the daemon finds room by itself: hardly anything is refused or asked back."""
        end = time.monotonic() + 180
        turns = [self.seen()]
        for turn in itertools.count():
            for n in range(100):
                path = f"/full/{turn}/{n}"
                self.assertEqual(self.a.get(f"{path}?size={MIB}")[2], body_of(path, MIB))
            wait_until(lambda: self.seen()[1] >= 100 * (turn + 1), "all of them are dealt with", 30)
            turns.append(self.seen())
            # The first ones find out how much there is.
            if turn >= 8:
                trouble, _, published = (now - then for now, then in zip(turns[-1], turns[-6]))
                if published >= 490 and trouble <= published * 3 // 100:
                    break
                self.assertLess(time.monotonic(), end, f"{trouble} troubles with {published}")
        # What was borrowed last is there, and is not fetched again.
        for n in range(90, 100):
            path = f"/full/{turn}/{n}"
            self.assertEqual(self.a.get(f"{path}?size={MIB}")[2], body_of(path, MIB))
            self.assertEqual(self.origin.count(path), 1)


class NamedTrouble(unittest.TestCase):
    """A body that was received in place, and of which the daemon has not heard yet."""

    def setUp(self):
        self.world = World(timeout="1s", **NamedAndLanded.arguments)
        self.origin = self.world.origin
        self.a = self.world.cache("a")

    def tearDown(self):
        self.world.close()

    def begin(self, path):
        self.origin.release.clear()
        response, connection = self.a.open(f"{path}?size={3 * MIB}&hold=1")
        half = response.read(MIB)
        self.assertEqual(half, body_of(path, 3 * MIB)[:MIB])
        self.assertEqual(self.a.counter("c_tee_landed"), 1)
        return response, connection, half

    def test_the_daemon_is_another_one(self):
        path = "/restarted"
        response, connection, half = self.begin(path)
        self.world.daemon.kill()
        self.world.daemon.start()
        self.world.open_socket()
        with Connection(self.world.daemon.socket) as other:
            fill(other, 40)
            self.origin.release.set()
            self.assertEqual(half + response.read(), body_of(path, 3 * MIB))
            connection.close()
            fill(other, 40)
            self.assertEqual(other.list(b"cdn://test")["entries"], [])
            wait_until(lambda: self.a.counter("c_lease_dropped", of="OBJM.store") == 1, "the object was removed", 30)
            wait_until(lambda: other.status()["held.bytes"] == 0, "its room goes back", 30)
        _, headers, body = self.a.get(f"{path}?size={3 * MIB}&hold=1")
        self.assertEqual((headers["X-Hits"], body), ("0", body_of(path, 3 * MIB)))
        self.assertEqual(self.origin.count(path), 2)
        wait_until(lambda: self.a.counter("c_tee_ahead") == 1, "and is published the second time", 30)

    def test_the_daemon_hangs_when_it_is_to_be_told(self):
        path = "/hangs"
        response, connection, half = self.begin(path)
        self.world.daemon.signal(signal.SIGSTOP)
        try:
            self.origin.release.set()
            self.assertEqual(half + response.read(), body_of(path, 3 * MIB))
            connection.close()
        finally:
            self.world.daemon.signal(signal.SIGCONT)
        wait_until(lambda: self.a.counter("c_tee_ahead") == 1, "published when it is back", 30)

    def test_the_daemon_is_stopped_before_the_body(self):
        path = "/stopped"
        self.origin.release.clear()
        bodies = []
        getter = threading.Thread(target=lambda: bodies.append(
            self.a.get(f"{path}?size={3 * MIB}&delay=1")[2]))
        getter.start()
        wait_until(lambda: self.origin.count(path) == 1, "the backend is asked")
        self.world.daemon.signal(signal.SIGSTOP)
        try:
            getter.join(20)
            self.assertEqual(bodies, [body_of(path, 3 * MIB)])
        finally:
            self.world.daemon.signal(signal.SIGCONT)
        self.assertEqual((self.a.counter("c_tee_landed"), self.a.counter("c_tee_late")), (0, 1))

    def test_the_fetching_cache_dies(self):
        _, connection, _ = self.begin("/dies")
        self.world.kill_cache("a")
        connection.close()
        with Connection(self.world.daemon.socket) as other:
            wait_until(lambda: [other.status()[name] for name in ("puts", "leases", "held.bytes")] == [0, 0, 0],
                       "nothing of it stays", 30)

    def test_a_cache_that_holds_all_of_the_daemons_memory(self):
        """Room for what it fetches is made by itself, also where the daemon lends it no more."""
        world = World(memory="90M", store="48MB", timeout="1s", **NamedAndLanded.arguments)
        try:
            a = world.cache("a")
            for number in range(120):
                path = f"/more/{number}"
                self.assertEqual(a.get(f"{path}?size={MIB}")[2], body_of(path, MIB))
            wait_until(lambda: a.counter("c_tee_published") == 120, "all are published", 30)
            self.assertEqual((a.counter("c_tee_full"), a.counter("c_tee_landed")), (0, 120))
            # There were 42 MB beside the region: what went ahead beyond them did so in room that was made for it.
            self.assertGreater(a.counter("c_tee_ahead"), 42)
            self.assertEqual(a.get(f"{path}?size={MIB}")[1]["X-Hits"], "1")
        finally:
            world.close()


class Followed(TeeCase):
    def begin(self, path, query):
        """a fetches, and has sent the first half; then b has it too."""
        first, c1 = self.a.open(f"{path}?{query}")
        half = 1 * MIB
        self.assertEqual(len(first.read(half)), half)
        second, c2 = self.b.open(f"{path}?{query}")
        return first, second, c1, c2

    def test_bytes_while_they_come(self):
        for query in ("", "&chunked=1"):
            path = f"/follow{len(query)}"
            self.origin.release.clear()
            follows = self.b.counter("c_follow")
            first, second, c1, c2 = self.begin(path, f"size={2 * MIB}&hold=1{query}")
            half = second.read(MIB)
            self.assertEqual(half, body_of(path, 2 * MIB)[:MIB])
            self.origin.release.set()
            self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
            first.read()
            c1.close()
            c2.close()
            self.assertEqual(self.origin.count(path), 1)
            self.assertEqual(self.b.counter("c_follow"), follows + 1)

    def test_headers_are_waited_for(self):
        path, query = "/late", "size=100000&delay=1"
        bodies = {}
        threads = [threading.Thread(target=lambda c=c: bodies.__setitem__(c.name, c.get(f"{path}?{query}")[2]))
                   for c in (self.a, self.b)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(bodies, {"a": body_of(path, 100_000), "b": body_of(path, 100_000)})
        self.assertEqual(self.origin.count(path), 1)

    def test_a_backend_that_breaks_off_once(self):
        """Who fetched fails its client, as without us; who followed goes on."""
        path = "/once"
        self.origin.release.clear()
        first, second, c1, c2 = self.begin(path, f"size={2 * MIB}&hold=1&die=1&first=1&etag=v1")
        half = second.read(MIB)
        self.origin.release.set()  # the first request is cut off; the second is whole
        self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
        self.assertEqual(self.origin.count(path), 2)
        with self.assertRaises(Exception):
            self.assertEqual(len(first.read()), MIB)
        c1.close()
        c2.close()


class FollowedAndLanded(Followed):
    arguments = {"trusted": True}


class TroubleCase(unittest.TestCase):
    """Each with processes of its own, which it stops or kills."""

    trusted = False
    vcl = ""

    def setUp(self):
        self.world = World(timeout="1s", trusted=self.trusted, vcl=self.vcl)
        self.origin = self.world.origin
        self.a = self.world.cache("a")

    def tearDown(self):
        self.world.close()

    def follow(self, path, query):
        b = self.world.cache("b")
        self.origin.release.clear()
        first, c1 = self.a.open(f"{path}?{query}")
        self.assertEqual(len(first.read(MIB)), MIB)
        second, c2 = b.open(f"{path}?{query}")
        half = second.read(MIB)
        self.assertEqual(b.counter("c_follow"), 1)
        self.assertEqual(half, body_of(path, 2 * MIB)[:MIB])
        return first, c1, second, c2, half


class Trouble(TroubleCase):
    def test_the_fetching_cache_dies(self):
        path = "/dies"
        first, c1, second, c2, half = self.follow(path, f"size={2 * MIB}&hold=1&first=1&etag=v1")
        self.world.kill_cache("a")
        self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
        self.assertEqual(self.origin.count(path), 2)
        # And it is there for others.
        b = self.world.cache("b")
        wait_until(lambda: b.counter("c_tee_published") == 1, "published by who took over", 30)
        self.assertEqual(self.world.cache("c").get(f"{path}?size={2 * MIB}&hold=1&first=1&etag=v1")[2],
                         body_of(path, 2 * MIB))
        self.assertEqual(self.origin.count(path), 2)
        for connection in (c1, c2):
            connection.close()

    def test_the_daemon_dies_in_mid_body(self):
        path = "/daemon"
        first, c1, second, c2, half = self.follow(path, f"size={2 * MIB}&hold=1&first=1&etag=v1")
        self.world.daemon.kill()
        self.origin.release.set()
        self.assertEqual(len(first.read()), MIB)
        self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
        self.assertEqual(self.origin.count(path), 2)
        for connection in (c1, c2):
            connection.close()

    def test_the_daemon_hangs_in_mid_body(self):
        path = "/hangs"
        first, c1, second, c2, half = self.follow(path, f"size={2 * MIB}&hold=1&first=1&etag=v1")
        self.world.daemon.signal(signal.SIGSTOP)
        try:
            begin = time.monotonic()
            self.origin.release.set()
            self.assertEqual(len(first.read()), MIB)
            self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
            self.assertLess(time.monotonic() - begin, 15)
        finally:
            self.world.daemon.signal(signal.SIGCONT)
        for connection in (c1, c2):
            connection.close()

    def test_a_daemon_that_is_full(self):
        world = World(memory="8M", store="4MB", timeout="1s", trusted=self.trusted)
        try:
            a = world.cache("a")
            self.assertEqual(a.get(f"/full?size={6 * MIB}")[2], body_of("/full", 6 * MIB))
            wait_until(lambda: a.counter("c_tee_full") + a.counter("c_tee_failed") >= 1, "said so", 30)
        finally:
            world.close()

    def test_a_writer_that_stalls(self):
        """Another cache that never says what it writes: the backend is asked after the bound."""
        b = self.world.cache("b")
        path = "/stalls"
        def ask(cache):
            try:
                cache.get(f"{path}?size=1000&delay=20")
            except OSError:
                pass  # it is stopped at the end

        threading.Thread(target=ask, args=(self.a,), daemon=True).start()
        wait_until(lambda: self.origin.count(path) == 1, "a asks")
        begin = time.monotonic()
        threading.Thread(target=ask, args=(b,), daemon=True).start()
        wait_until(lambda: self.origin.count(path) == 2, "b asks by itself", 15)
        self.assertGreater(time.monotonic() - begin, 4)
        self.assertEqual(b.counter("c_follow_late"), 1)


class WriterDies(TroubleCase):
    """What goes on then is the same response, or nothing."""

    vcl = "sub vcl_backend_response { set beresp.grace = 0s; set beresp.keep = 1h; }"

    def follow_a_new_version(self, path, query):
        """b follows a, which fetches a new version; the old one is still in the store. Then a dies."""
        self.origin.release.set()
        self.assertEqual(self.a.get(f"{path}?{query}")[2], body_of(path, 2 * MIB))
        end = time.time() + 1.1
        wait_until(lambda: self.a.counter("c_tee_published") == 1, "the old version is published", 30)
        wait_until(lambda: time.time() > end, "it is stale", 30)
        self.origin.change(path)
        _, c1, second, c2, half = self.follow(path, query)
        self.addCleanup(c1.close)
        self.addCleanup(c2.close)
        self.world.kill_cache("a")
        self.origin.release.set()
        return second, half

    def check(self, path, more, grown=0):
        query = f"size={2 * MIB}&hold=1&etag=v1&samehalf=1&cc=max-age=1&cc2=max-age=1000{more}"
        second, half = self.follow_a_new_version(path, query)
        self.assertEqual(second.headers["ETag"], '"v11"')
        new = body_of(path, 2 * MIB)[:MIB] + body_of(path + "1", 2 * MIB)[MIB:] + body_of(path + "grown", grown)
        self.assertEqual(half + second.read(), new)
        self.assertEqual(self.origin.count(path), 3)
        b = self.world.cache("b")
        wait_until(lambda: b.counter("c_tee_published") == 1, "the new version is published by b", 30)
        self.assertEqual(self.world.cache("c").get(f"{path}?{query}")[2], new)
        self.assertEqual(self.origin.count(path), 3)

    def test_a_stale_object_is_not_what_was_followed(self):
        self.check("/stale", "")

    def test_a_stale_object_of_another_length(self):
        self.check("/longer", "&grow=1000", 1000)

    def test_a_stale_object_and_a_body_of_unknown_length(self):
        self.check("/unknown", "&chunked=1")

    def test_a_response_without_validators(self):
        """Nobody knows whether the backend would give the same once more: the client sees that it failed."""
        query = f"size={2 * MIB}&hold=1&samehalf=1&cc=max-age=1&cc2=max-age=1000&chunked=1"
        second, _ = self.follow_a_new_version("/unsaid", query)
        with self.assertRaises(Exception):
            self.assertEqual(len(second.read()), MIB)
        self.assertEqual(self.world.cache("b").counter("c_follow_failed"), 1)
        self.assertEqual(self.origin.count("/unsaid"), 2)

    def test_an_answer_that_is_for_one_alone(self):
        """It goes on, for it is the same by its validator; but it is not for the others."""
        path = "/cookie"
        query = f"size={2 * MIB}&hold=1&first=1&etag=v1&setcookie=2"
        _, c1, second, c2, half = self.follow(path, query)
        self.world.kill_cache("a")
        self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
        self.assertNotIn("Set-Cookie", second.headers)
        for connection in (c1, c2):
            connection.close()
        self.assertEqual(self.world.cache("b").counter("c_tee_published"), 0)
        said = [headers for asked, headers in self.origin.requests if asked.startswith(path + "?")]
        self.assertEqual(len(said), 2)

    def test_nothing_of_hand_off_is_said_in_mid_body(self):
        path = "/says"
        query = f"size={2 * MIB}&hold=1&first=1&etag=v1"
        self.origin.release.clear()
        b = self.world.cache("b")
        _, c1 = self.a.open(f"{path}?{query}")
        wait_until(lambda: self.origin.in_mid_body == 1, "a has the first half", 30)
        second, c2 = b.open(f"{path}?{query}", headers={"X-Objmapper-Handoff": "cdn:"})
        half = second.read(MIB)
        self.world.kill_cache("a")
        self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
        for connection in (c1, c2):
            connection.close()
        said = [headers.get("X-Objmapper-Handoff") for asked, headers in self.origin.requests
                if asked.startswith(path + "?")]
        self.assertEqual(said, [None, None])


class OfNoUse(TroubleCase):
    vcl = WriterDies.vcl

    def test_neither_what_is_stale_nor_what_is_being_written(self):
        """Both are older than a ban: that is seen once, and the backend is asked."""
        path = "/neither"
        query = f"size={2 * MIB}&hold=1&first=2&cc=max-age=1&cc2=max-age=1000"
        self.origin.release.set()
        self.assertEqual(self.a.get(f"{path}?{query}")[2], body_of(path, 2 * MIB))
        end = time.time() + 1.1
        wait_until(lambda: self.a.counter("c_tee_published") == 1, "the old version is published", 30)
        wait_until(lambda: time.time() > end, "it is stale", 30)
        b = self.world.cache("b")
        self.origin.change(path)
        self.origin.release.clear()
        first, c1 = self.a.open(f"{path}?{query}")
        self.addCleanup(c1.close)
        self.assertEqual(len(first.read(MIB)), MIB)
        b.admin("ban", "req.url", "~", "^/neither")
        wait_until(lambda: b.counter("c_echoes", of="OBJMR.*") == 1, "the ban is recorded", 30)
        self.assertEqual(b.get(f"{path}?{query}")[2], body_of(path + "1", 2 * MIB))
        self.assertEqual(self.origin.count(path), 3)
        self.assertEqual((b.counter("c_miss_banned"), b.counter("c_follow"), b.counter("c_follow_late")), (1, 0, 0))
        wait_until(lambda: b.counter("c_tee_published") == 1, "what b got is published", 30)
        self.origin.release.set()
        self.assertEqual(len(first.read()), MIB)


class WriterDiesAndLanded(WriterDies):
    trusted = True


class Pauses(TroubleCase):
    """The backend pauses in mid-body, and whoever follows waits as long as Varnish itself does."""

    def test_longer_than_one_waits_for_headers(self):
        path, query = "/pauses", f"size={2 * MIB}&chunked=1&pause=21"
        _, c1, second, c2, half = self.follow(path, query)
        self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
        self.assertEqual(self.origin.count(path), 1)
        b = self.world.cache("b")
        self.assertEqual((b.counter("c_follow_changed"), b.counter("c_follow_failed")), (0, 0))
        for connection in (c1, c2):
            connection.close()

    def test_longer_than_between_bytes_timeout(self):
        """That of the cache that follows: then it asks the backend by itself, and publishes nothing."""
        path, query = "/too-long", f"size={2 * MIB}&chunked=1&hold=1&first=1&etag=v1"
        b = self.world.cache("b", vcl="sub vcl_backend_fetch { set bereq.between_bytes_timeout = 2s; }")
        first, c1, second, c2, half = self.follow(path, query)
        self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
        self.assertEqual((self.origin.count(path), b.counter("c_follow_changed")), (2, 1))
        self.assertEqual(b.counter("c_tee_published"), 0)
        self.origin.release.set()
        self.assertEqual(len(first.read()), MIB)
        wait_until(lambda: self.a.counter("c_tee_published") == 1, "published by who began", 30)
        for connection in (c1, c2):
            connection.close()


class TroubleAndLanded(Trouble):
    """Bytes that were received in place stay, whatever the daemon does meanwhile."""

    trusted = True

    def begin(self, path):
        """A body of 4 MiB of which half has come."""
        self.origin.release.clear()
        response, connection = self.a.open(f"{path}?size={4 * MIB}&hold=1")
        half = response.read(2 * MIB)
        self.assertEqual(half, body_of(path, 4 * MIB)[:2 * MIB])
        self.assertEqual(self.a.counter("c_tee_landed"), 1)
        return response, connection, half

    def test_the_daemon_is_another_one_in_mid_body(self):
        path = "/restarted"
        response, connection, half = self.begin(path)
        self.world.daemon.kill()
        self.world.daemon.start()
        self.world.open_socket()
        with Connection(self.world.daemon.socket) as other:
            fill(other, 40)
            self.origin.release.set()
            self.assertEqual(half + response.read(), body_of(path, 4 * MIB))
            connection.close()
            fill(other, 40)
            self.assertEqual(other.list(b"cdn://test")["entries"], [])
        # The daemon has not got it, and nobody may lease it again: where it lies goes back.
        wait_until(lambda: self.a.counter("c_lease_dropped", of="OBJM.store") == 1, "the object was removed", 30)
        status, headers, body = self.a.get(f"{path}?size={4 * MIB}&hold=1")
        self.assertEqual((headers["X-Hits"], body), ("0", body_of(path, 4 * MIB)))
        self.assertEqual(self.origin.count(path), 2)

    def test_removed_in_mid_body(self):
        path = "/removed"
        response, connection, half = self.begin(path)
        with Connection(self.world.daemon.socket) as other:
            keys = f"cdn://test/www.test{path}?size={4 * MIB}&hold=1"
            other.remove(PURGE, keys, wait_ms=1000)
            self.origin.release.set()
            wait_until(lambda: self.a.counter("c_tee_failed") + self.a.counter("c_tee_behind") == 1, "refused", 30)
            fill(other, 40)
        self.assertEqual(half + response.read(), body_of(path, 4 * MIB))
        connection.close()

    def test_a_cache_that_holds_all_of_the_daemons_memory(self):
        """What it holds and uses least makes room for what it fetches: all is published."""
        world = World(memory="90M", store="48MB", timeout="1s", trusted=True)
        try:
            a = world.cache("a")
            for number in range(120):
                path = f"/more/{number}"
                self.assertEqual(a.get(f"{path}?size={MIB}")[2], body_of(path, MIB))
            wait_until(lambda: a.counter("c_tee_published") == 120, "all are published", 30)
            self.assertEqual((a.counter("c_tee_full"), a.counter("c_tee_landed")), (0, 120))
            self.assertEqual(a.get(f"{path}?size={MIB}")[1]["X-Hits"], "1")
        finally:
            world.close()

    def test_a_daemon_that_gets_full_in_mid_body(self):
        world = World(memory="90M", store="48MB", timeout="1s", trusted=True)
        try:
            a = world.cache("a")
            path, size = "/grows", 44 * MIB
            with Connection(world.daemon.socket) as other:
                held = [other.get(key)[0] for key in ("x", "y") if other.put(key, b"x" * (8 * MIB), flags=EPHEMERAL)]
                self.assertEqual([item["status"] for item in held], [0, 0])
                response, connection = a.open(f"{path}?size={size}&chunked=1&pause=0.2")
                self.assertEqual(response.read(), body_of(path, size))
                connection.close()
                self.assertEqual(a.counter("c_tee_landed"), 1)
                self.assertEqual(a.counter("c_tee_full"), 1)
                self.assertEqual(a.get(f"{path}?size={size}&chunked=1&pause=0.2")[2], body_of(path, size))
                self.assertEqual(world.origin.count(path), 1)
        finally:
            world.close()

    def test_the_daemon_is_stopped_before_the_body(self):
        path = "/stopped"
        self.origin.release.clear()
        bodies = []
        getter = threading.Thread(target=lambda: bodies.append(
            self.a.get(f"{path}?size={4 * MIB}&delay=1")[2]))
        getter.start()
        wait_until(lambda: self.origin.count(path) == 1, "the backend is asked")
        self.world.daemon.signal(signal.SIGSTOP)
        try:
            getter.join(20)
            self.assertEqual(bodies, [body_of(path, 4 * MIB)])
        finally:
            self.world.daemon.signal(signal.SIGCONT)
        self.assertEqual(self.a.counter("c_tee_landed"), 0)
        self.assertEqual(self.a.counter("c_tee_late"), 1)


if __name__ == "__main__":
    unittest.main()
