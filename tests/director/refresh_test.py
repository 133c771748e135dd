#!/usr/bin/env python3
"""What is shared and has expired is fetched, or found to be still good, by one cache for all of them.

Each test has a path of its own. Bodies are compared; the origin's requests are counted.
"""

import json
import os
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from caches import World, body_of, wait_until  # noqa: E402
from support.daemon import OBJM  # noqa: E402

VCL = """
sub vcl_backend_response {
    set beresp.grace = 0s;
    set beresp.keep = 1h;
}
"""


class RefreshCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = World(vcl=VCL)
        cls.a, cls.b = cls.world.cache("a"), cls.world.cache("b")
        cls.origin = cls.world.origin

    @classmethod
    def tearDownClass(cls):
        cls.world.close()

    def stale(self, path, query, headers=None):
        """Fetched by a, published, and no longer fresh when this returns."""
        published = self.a.counter("c_tee_published")
        body = self.a.get(f"{path}?{query}&cc=max-age=1", headers)[2]
        end = time.time() + 1.1
        wait_until(lambda: self.a.counter("c_tee_published") > published, f"{path} is published", 30)
        wait_until(lambda: time.time() > end, f"{path} is stale", 30)
        return body

    def at_once(self, url, headers=None):
        """The answers of both caches to the same request."""
        answers = {}
        threads = [threading.Thread(target=lambda c=cache: answers.__setitem__(c.name, c.get(url, headers)))
                   for cache in (self.a, self.b)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers["a"], answers["b"]

    def shared(self, path):
        """Number and revision of what is shared of it."""
        found, = [key for key in self.keys() if path + "?" in key]
        info = json.loads(self.objm("stat", "--json", found))
        return info["object_id"], info["revision"]

    def keys(self):
        return [json.loads(line)["key"] for line in self.objm("list", "--json").splitlines()]

    def objm(self, *words):
        done = subprocess.run([OBJM, "--socket", self.world.daemon.socket, *words], stdout=subprocess.PIPE, text=True,
                              check=True)
        return done.stdout

    def refreshed(self, before):
        wait_until(lambda: self.a.counter("c_refreshed") > before, "a has published it anew", 30)


class NotModified(RefreshCase):
    def test_what_is_still_good_is_published_anew(self):
        for size in (100, 300_000, 5 << 20):
            path, query = f"/good/{size}", f"size={size}&etag=v1&cc304=max-age=1000"
            self.assertEqual(self.stale(path, query), body_of(path, size))
            before = self.a.counter("c_refreshed")
            url = f"{path}?{query}&cc=max-age=1"
            status, headers, body = self.a.get(url)
            self.assertEqual((status, headers["X-Turn"], body), (200, "2", body_of(path, size)))
            self.assertEqual((self.origin.count(path), self.origin.revalidations(path)), (2, 1))
            self.refreshed(before)
            status, headers, body = self.b.get(url)
            self.assertEqual((status, headers["X-Turn"], headers["ETag"]), (200, "2", '"v1"'))
            self.assertEqual(headers["Cache-Control"], "max-age=1000")
            self.assertEqual(body, body_of(path, size))
            self.assertEqual(self.origin.count(path), 2)

    def test_a_cache_that_has_nothing_asks_with_the_stored_validators(self):
        for size in (100, 300_000):
            path, query = f"/stored/{size}", f"size={size}&etag=v1&cc304=max-age=1000"
            self.stale(path, query)
            number, _ = self.shared(path)
            before = self.b.counter("c_revalidated"), self.b.counter("c_refreshed")
            url = f"{path}?{query}&cc=max-age=1"
            status, headers, body = self.b.get(url)
            self.assertEqual((status, headers["X-Turn"], headers["ETag"], body), (200, "2", '"v1"', body_of(path, size)))
            self.assertEqual((self.origin.count(path), self.origin.revalidations(path)), (2, 1))
            self.assertEqual(self.b.counter("c_revalidated"), before[0] + 1)
            wait_until(lambda: self.b.counter("c_refreshed") > before[1], "b has published it anew", 30)
            status, headers, body = self.a.get(url)
            self.assertEqual((status, headers["X-Turn"], body), (200, "2", body_of(path, size)))
            self.assertEqual(self.origin.count(path), 2)
            # What b took over stays the object that it is; of what it copied there is another one.
            now = self.shared(path)
            self.assertEqual(now, (number, 1) if size == 300_000 else (now[0], 0))

    def test_what_has_changed(self):
        path, query = "/changed", "size=300000&etag=v1&cc2=max-age=1000"
        self.stale(path, query)
        self.origin.change(path)
        url = f"{path}?{query}&cc=max-age=1"
        for _, headers, body in self.at_once(url):
            self.assertEqual((headers["ETag"], body), ('"v11"', body_of(path + "1", 300_000)))
        self.assertEqual((self.origin.count(path), self.origin.revalidations(path)), (2, 0))

    def test_variants(self):
        path, query = "/good/vary", "size=200000&etag=v1&vary=Foo&cc304=max-age=1000"
        one = {"Foo": "one"}
        body = self.stale(path, query, one)
        before = self.a.counter("c_refreshed")
        url = f"{path}?{query}&cc=max-age=1"
        self.assertEqual(self.a.get(url, one)[2], body)
        self.refreshed(before)
        self.assertEqual(self.b.get(url, one)[2], body)
        self.assertEqual(self.origin.count(path), 2)
        # Where variants are found stays known for longer than one of them lasts.
        index = min((key for key in self.keys() if path + "?" in key), key=len)
        life = json.loads(self.objm("stat", "--json", index))["expires_ns"] / 1e9 - time.time()
        self.assertGreater(life, 23 * 3600)
        self.assertEqual(self.b.get(url, {"Foo": "two"})[2], b"two" + body_of(path, 200_000))
        self.assertEqual(self.origin.count(path), 3)

    def test_both_at_once(self):
        path, query = "/good/both", "size=300000&etag=v1&cc304=max-age=1000&delay=0.5"
        self.stale(path, query)
        for _, headers, body in self.at_once(f"{path}?{query}&cc=max-age=1"):
            self.assertEqual((headers["X-Turn"], body), ("2", body_of(path, 300_000)))
        self.assertEqual(self.origin.count(path), 2)

    def test_what_may_not_be_kept_is_not(self):
        for number, cc in enumerate(("no-store", "private", "max-age=0")):
            path, query = f"/never/{number}", f"size=5000&etag=v1&cc304={cc}"
            self.stale(path, query)
            before = self.a.counter("c_tee_published"), self.a.counter("c_refreshed")
            url = f"{path}?{query}&cc=max-age=1"
            self.assertEqual(self.a.get(url)[2], body_of(path, 5000))
            self.assertEqual(self.b.get(url)[2], body_of(path, 5000))
            self.assertEqual(self.origin.count(path), 3)
            self.assertEqual((self.a.counter("c_tee_published"), self.a.counter("c_refreshed")), before)


class Expired(RefreshCase):
    def test_one_fetch_for_all(self):
        path, query = "/expired", "size=300000&delay=0.5&cc2=max-age=1000"
        self.stale(path, query)
        expired = self.a.counter("c_miss_expired") + self.b.counter("c_miss_expired")
        follows = self.a.counter("c_follow") + self.b.counter("c_follow")
        for status, _, body in self.at_once(f"{path}?{query}&cc=max-age=1"):
            self.assertEqual((status, body), (200, body_of(path, 300_000)))
        self.assertEqual(self.origin.count(path), 2)
        self.assertEqual(self.a.counter("c_follow") + self.b.counter("c_follow"), follows + 1)
        self.assertEqual(self.a.counter("c_miss_expired") + self.b.counter("c_miss_expired"), expired + 1)

    def test_one_fetch_of_what_is_banned(self):
        path, query = "/banned", "size=300000&delay=0.5"
        published = self.a.counter("c_tee_published")
        self.a.get(f"{path}?{query}")
        wait_until(lambda: self.a.counter("c_tee_published") > published, "published", 30)
        self.a.admin("ban", "req.url", "~", f"^{path}")
        wait_until(lambda: self.b.counter("c_applied", "OBJMR.*") + self.a.counter("c_echoes", "OBJMR.*") == 2,
                   "both know of the ban, and that the other does", 30)
        for cache in (self.a, self.b):
            wait_until(lambda c=cache: c.counter("g_current", "OBJMR.*") == 1, "current", 30)
        for _, _, body in self.at_once(f"{path}?{query}"):
            self.assertEqual(body, body_of(path, 300_000))
        self.assertEqual(self.origin.count(path), 2)


if __name__ == "__main__":
    unittest.main()
