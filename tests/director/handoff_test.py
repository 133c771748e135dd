#!/usr/bin/env python3
"""An origin that gives its bodies through the store: taken over, followed, and what happens when it must not be."""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from caches import World, body_of, wait_until  # noqa: E402
from protocol import client as c  # noqa: E402


class Handoff(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World(init='objm.allow_handoff(origin, "origin:");', timeout="2s")
        cls.a = cls.world.cache("a")
        cls.origin = cls.world.origin
        cls.store = c.Connection(cls.world.daemon.socket)

    @classmethod
    def tearDownClass(cls):
        cls.store.close()
        cls.world.close()

    def put(self, key, body):
        self.store.put(key, body)

    def test_small_and_large(self):
        for size in (1, 5000, 3 << 20):
            key, path = f"origin:size/{size}", f"/handed/{size}"
            body = os.urandom(size)
            self.put(key, body)
            before = self.a.counter("c_handoff")
            status, headers, got = self.a.get(f"{path}?object={key}&etag=x")
            self.assertEqual((status, got), (200, body))
            self.assertEqual(headers["Content-Length"], str(size))
            self.assertEqual(headers["ETag"], '"x"')
            for name in ("X-Objmapper-Object", "X-Objmapper-Handoff", "X-Objmapper-Length"):
                self.assertNotIn(name, headers)
            self.assertEqual(self.a.counter("c_handoff"), before + 1)
            # It is cached as any response, and a part of it can be had.
            self.assertEqual(self.a.get(f"{path}?object={key}&etag=x")[2], body)
            self.assertEqual(self.origin.count(path), 1)
            if size > 100:
                status, _, part = self.a.get(f"{path}?object={key}&etag=x", {"Range": "bytes=10-99"})
                self.assertEqual((status, part), (206, body[10:100]))

    def test_the_request_says_what_is_allowed(self):
        path = "/announced"
        self.a.get(path, {"X-Objmapper-Handoff": "everything:"})
        headers = [h for p, h in self.origin.requests if p == path][0]
        self.assertEqual(headers.get("X-Objmapper-Handoff"), "origin:")

    def test_an_object_that_is_gone(self):
        path = "/gone"
        before = self.a.counter("c_handoff_gone")
        status, _, got = self.a.get(f"{path}?object=origin:never&size=3000")
        self.assertEqual((status, got), (200, body_of(path, 3000)))
        self.assertEqual(self.origin.count(path), 2)
        self.assertEqual(self.a.counter("c_handoff_gone"), before + 1)
        # An origin that insists gives no body at all: there is no response to deliver.
        status, _, _ = self.a.get("/insists?object=origin:never&size=3000&always=1")
        self.assertEqual(status, 503)

    def test_a_hand_off_without_a_length_is_no_empty_body(self):
        self.put("origin:chunked", b"x" * 3000)
        path = "/chunked"
        status, headers, got = self.a.get(f"{path}?object=origin:chunked&size=3000&chunkedhandoff=1")
        self.assertEqual((status, got), (200, body_of(path, 3000)))
        self.assertNotIn("X-Objmapper-Object", headers)
        said = [h.get("X-Objmapper-Handoff") for p, h in self.origin.requests if p.startswith(path + "?")]
        self.assertEqual(said, ["origin:", "no"])
        # One that insists has no response to deliver.
        status, _, _ = self.a.get("/chunked2?object=origin:chunked&chunkedhandoff=1&chunked=1&always=1")
        self.assertEqual(status, 503)

    def test_other_keys_are_not_its_own(self):
        self.put("cdn://secret", b"secret")
        before = self.a.counter("c_handoff_denied")
        status, headers, got = self.a.get("/steals?object=cdn://secret")
        self.assertEqual((status, got), (200, b""))
        self.assertNotIn("X-Objmapper-Object", headers)
        self.assertEqual(self.a.counter("c_handoff_denied"), before + 1)

    def test_a_backend_that_was_not_allowed(self):
        other = self.world.cache("other", init="")
        self.put("origin:other", b"other")
        status, headers, got = other.get("/other?object=origin:other&size=400")
        self.assertEqual((status, got), (200, body_of("/other", 400)))
        self.assertNotIn("X-Objmapper-Object", headers)
        status, headers, got = other.get("/other2?object=origin:other&size=400&always=1")
        self.assertEqual((status, got), (200, b""))
        self.assertNotIn("X-Objmapper-Object", headers)

    def test_a_304_of_another_response(self):
        """The second request is for the body itself: a hand-off would have gone unseen, and its empty body cached."""
        path, query = "/wrong304", "object=origin:304&size=3000&etag=v1&cc=max-age=1&cc2=max-age=1000&wrong304=1"
        self.put("origin:304", b"x" * 3000)
        # What is shared comes from a cache that gets no hand-offs.
        plain = self.world.cache("plain", init="")
        self.assertEqual(plain.get(f"{path}?{query}")[2], body_of(path, 3000))
        end = time.time() + 1.1
        wait_until(lambda: plain.counter("c_tee_published") == 1, "published", 30)
        wait_until(lambda: time.time() > end, "stale", 30)
        status, headers, got = self.a.get(f"{path}?{query}")
        self.assertEqual((status, got), (200, body_of(path, 3000)))
        self.assertNotIn("X-Objmapper-Object", headers)
        said = [(h.get("X-Objmapper-Handoff"), h.get("If-None-Match")) for p, h in self.origin.requests
                if p.startswith(path + "?")]
        self.assertEqual(said, [(None, None), ("origin:", '"v1"'), ("no", None)])
        self.assertEqual(self.a.get(f"{path}?{query}")[2], body_of(path, 3000))

    def test_pass(self):
        self.put("origin:pass", b"passed on")
        for _ in range(2):
            got = self.a.get("/pass?object=origin:pass", {"Cookie": "a=b"})
            self.assertEqual((got[0], got[2]), (200, b"passed on"))
        self.assertEqual(self.origin.count("/pass"), 2)

    def test_an_object_that_is_still_on_its_way(self):
        body = os.urandom(500_000)
        for declared in (False, True):
            key, path = f"origin:slow/{declared}", f"/slow/{declared}"
            put = self.store.reserve(key, len(body) if declared else c.UNKNOWN)
            extents = list(put["extents"])
            room = sum(e["length"] for e in extents)
            if room < len(body):
                extents += self.store.extend(put["put_id"], len(body) - room)["extents"]
            self.store.write(extents, body[:200_000])
            self.store.progress(put["put_id"], 200_000)
            response, connection = self.a.open(f"{path}?object={key}")
            self.assertEqual(response.read(200_000), body[:200_000])
            self.store.write(extents, body)
            self.store.commit(put["put_id"], len(body))
            self.assertEqual(response.read(), body[200_000:])
            connection.close()
            self.assertEqual(self.origin.count(path), 1)

    def test_a_writer_that_gives_up(self):
        body = os.urandom(200_000)
        put = self.store.reserve("origin:up", 400_000)
        self.store.write(put["extents"], body)
        self.store.progress(put["put_id"], len(body))
        response, connection = self.a.open("/gives-up?object=origin:up")
        self.assertEqual(response.read(len(body)), body)
        self.store.abort(put["put_id"])
        with self.assertRaises(Exception):
            self.assertEqual(len(response.read()), 200_000)
        connection.close()


class WithoutDaemon(unittest.TestCase):
    def test_the_origin_answers_in_the_normal_way(self):
        world = World(init='objm.allow_handoff(origin, "origin:");')
        try:
            a = world.cache("a")
            a.get("/first")
            world.daemon.kill()
            wait_until(lambda: a.counter("g_up") == 0, "noticed", 30)
            status, _, got = a.get("/down?object=origin:x&size=500")
            self.assertEqual((status, got), (200, body_of("/down", 500)))
            self.assertEqual(world.origin.count("/down"), 1)
        finally:
            world.close()


if __name__ == "__main__":
    unittest.main()
