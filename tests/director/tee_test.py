#!/usr/bin/env python3
"""What one cache fetches, the others have: published when it is whole, followed while it comes.

Each test has a path of its own. Bodies are compared; the origin's requests are counted.
"""

import os
import signal
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from caches import World, body_of, wait_until  # noqa: E402

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
        first, second, c1, c2 = self.begin(path, f"size={2 * MIB}&hold=1&die=1&first=1")
        half = second.read(MIB)
        self.origin.release.set()  # the first request is cut off; the second is whole
        self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
        self.assertEqual(self.origin.count(path), 2)
        with self.assertRaises(Exception):
            self.assertEqual(len(first.read()), MIB)
        c1.close()
        c2.close()


class Trouble(unittest.TestCase):
    """Each with processes of its own, which it stops or kills."""

    def setUp(self):
        self.world = World(timeout="1s")
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
        first, c1, second, c2, half = self.follow(path, f"size={2 * MIB}&hold=1&first=1")
        self.world.daemon.kill()
        self.origin.release.set()
        self.assertEqual(len(first.read()), MIB)
        self.assertEqual(half + second.read(), body_of(path, 2 * MIB))
        self.assertEqual(self.origin.count(path), 2)
        for connection in (c1, c2):
            connection.close()

    def test_the_daemon_hangs_in_mid_body(self):
        path = "/hangs"
        first, c1, second, c2, half = self.follow(path, f"size={2 * MIB}&hold=1&first=1")
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
        world = World(memory="8M", store="4MB", timeout="1s")
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


if __name__ == "__main__":
    unittest.main()
