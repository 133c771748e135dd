"""An origin that hands its bodies over, behind a Varnish with the VCL of docs/handoff.md."""
import hashlib
import http.client
import os
import re
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import origin_test  # noqa: E402
from origin_test import MIB, numbers  # noqa: E402
from page import SOURCE, Chain  # noqa: E402
from support.daemon import OBJM, wait_until  # noqa: E402

PREFIX = "handoff:origin:"


class Cache(Chain):
    """The page's Varnish; connect() reaches it."""

    def __init__(self):
        super().__init__("handoff.md")

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.varnish_port, timeout=60)

    def get(self, path, method="GET", **headers):
        """(status, headers with small letters, body); the body is None where it broke off"""
        connection = self.connect()
        try:
            connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            head = {k.lower(): v for k, v in response.getheaders()}
            try:
                return response.status, head, response.read()
            except (http.client.IncompleteRead, ConnectionError):
                return response.status, head, None
        finally:
            connection.close()

    def store(self, *arguments):
        return subprocess.run([OBJM, "--socket", self.daemon.socket, *arguments], capture_output=True, timeout=60)

    def director(self, name):
        return self.counters()["OBJMD.objm." + name]


class Case(unittest.TestCase):
    def setUp(self):
        self.cache = Cache()
        self.addCleanup(self.cache.close)
        self.files = origin_test.make_files(self.cache.path("www"))
        self.start_origin()
        self.cache.start_varnish("handoff.vcl")

    def start_origin(self):
        self.origin = origin_test.Origin(self.cache.daemon.socket, prefix=PREFIX, files=self.cache.path("www"),
                                         unix=self.cache.path("run", "origin.sock"))
        self.addCleanup(self.origin.close)

    def assert_same(self, got, wanted, what=""):
        self.assertIsNotNone(got, what)
        self.assertEqual((len(got), hashlib.sha256(got).hexdigest()),
                         (len(wanted), hashlib.sha256(wanted).hexdigest()), what)

    def assert_right(self, path, body, is_hit=None):
        status, headers, got = self.cache.get(path)
        self.assertEqual(status, 200, path)
        self.assert_same(got, body, path)
        self.assertFalse([name for name in headers if name.startswith("x-objmapper")], headers)
        if is_hit is not None:
            self.assertEqual(len(headers["x-varnish"].split()) == 2, is_hit, path)
        return headers

    def stored_keys(self):
        return self.cache.store("list", PREFIX).stdout.decode().splitlines()


class HandOff(Case):
    def test_files_and_generated_bodies(self):
        bodies = {"/files/" + name: body for name, body in self.files.items()}
        bodies |= {f"/generated/{n}": numbers(n) for n in (0, 1, 65535, 65536, MIB, 10 * MIB + 3)}
        bodies["/generated/3000000?length=no"] = numbers(3000000)
        for path, body in bodies.items():
            headers = self.assert_right(path, body, is_hit=False)
            if "length=no" not in path:
                self.assertEqual(headers["content-length"], str(len(body)), path)
            self.assertIn("etag", headers)
            self.assert_right(path, body, is_hit=True)
            if body:
                status, headers, part = self.cache.get(path, Range=f"bytes={len(body) // 3}-{len(body) // 2}")
                self.assertEqual(status, 206, path)
                self.assert_same(part, body[len(body) // 3:len(body) // 2 + 1], path)
            self.assertEqual(self.cache.get(path, method="HEAD")[2], b"")
        stats = self.origin.stats()
        self.assertEqual((stats["handed_over"], stats["answered"], stats["not_possible"]), (len(bodies), 0, 0))
        self.assertEqual(self.cache.director("c_handoff"), len(bodies))
        for url, found in wait_until(self.cache.storages, "fetches are logged").items():
            self.assertEqual(found, {"objmapper store"}, url)
        self.assertIn("text/html", self.cache.get("/files/a.html")[1]["content-type"])

    def test_what_is_fetched_again_is_not_written_again(self):
        path, body = "/files/b.bin", self.files["b.bin"]
        self.assert_right(path, body)
        for _ in range(3):
            self.assertEqual(self.cache.get(path, method="PURGE")[0], 200)
            self.assert_right(path, body, is_hit=False)
        stats = self.origin.stats()
        self.assertEqual((stats["handed_over"], stats["answered"]), (1, 0))

    def test_a_cached_body_outlives_its_object(self):
        path, body = f"/generated/{5 * MIB}", numbers(5 * MIB)
        self.assert_right(path, body)
        self.assertTrue(self.stored_keys())
        self.assertEqual(self.cache.store("purge", PREFIX).returncode, 0)
        self.assertFalse(self.stored_keys())
        self.assert_right(path, body, is_hit=True)
        # Others take more room than there is: Varnish is asked to give it back, and never has wrong bytes.
        for i in range(12):
            self.assert_right(f"/generated/{8 * MIB}?{i}", numbers(8 * MIB))
        self.assert_right(path, body)

    def test_a_client_has_the_beginning_while_the_origin_writes(self):
        for query in ("", "&length=no"):
            length = 4 * MIB
            connection = self.cache.connect()
            self.addCleanup(connection.close)
            begun = time.monotonic()
            connection.request("GET", f"/generated/{length}?rate={2 * MIB}{query}")
            response = connection.getresponse()
            beginning = response.read(MIB // 2)
            self.assertFalse(self.stored_keys() and query == "", "it is published before it can be whole")
            rest = response.read()
            self.assertGreater(time.monotonic() - begun, 1)
            self.assert_same(beginning + rest, numbers(length))
            self.assert_right(f"/generated/{length}?rate={2 * MIB}{query}", numbers(length), is_hit=True)
        self.assertEqual(self.origin.stats()["followed"], 2)

    def test_a_body_that_fails_midway_is_not_cached(self):
        path = "/generated/9000000?fail_at=6000000&rate=20000000"
        for _ in range(2):
            status, headers, body = self.cache.get(path)
            # Varnish may not have sent anything yet.
            self.assertTrue(body is None or status == 503, (status, headers))
        self.assertEqual(self.origin.stats()["failed_midway"], 2)
        self.assertFalse(self.stored_keys())
        self.assert_right("/generated/9000000", numbers(9000000), is_hit=False)

    def test_an_origin_that_is_killed_midway(self):
        length = 6 * MIB
        connection = self.cache.connect()
        self.addCleanup(connection.close)
        connection.request("GET", f"/generated/{length}?rate={MIB}")
        response = connection.getresponse()
        beginning = response.read(MIB // 2)
        self.origin.process.kill()
        self.origin.process.wait()
        with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
            beginning += response.read()
        self.assertTrue(numbers(length).startswith(beginning))
        self.assertFalse(self.stored_keys())
        self.start_origin()
        wait_until(lambda: self.cache.get("/generated/1")[0] == 200, "the backend is tried again", 30)
        self.assert_right(f"/generated/{length}?rate={16 * MIB}", numbers(length), is_hit=False)

    def test_without_objmapper(self):
        path, body = "/files/b.bin", self.files["b.bin"]
        self.assert_right(path, body)
        self.cache.daemon.kill()
        self.assert_right(path, body, is_hit=True)  # what Varnish has it has
        self.assert_right(path + "?b", body, is_hit=False)
        self.assertEqual(self.origin.stats()["answered"], 1)
        self.cache.daemon.start()
        os.chmod(self.cache.daemon.socket, 0o666)

        def handed_over():
            handed_over.count += 1
            self.assert_right(f"{path}?{handed_over.count}", body, is_hit=False)
            return self.origin.stats()["handed_over"] > 1
        handed_over.count = 0
        wait_until(handed_over, "it hands over again", 60)

    def test_a_client_may_not_say_it(self):
        status, _, body = self.cache.get("/files/b.bin", X_Objmapper_Handoff="no")
        self.assertEqual(status, 200)
        self.assert_same(body, self.files["b.bin"])
        stats = self.origin.stats()
        self.assertEqual((stats["handed_over"], stats["answered"]), (1, 0))

    def test_the_page_names_the_command(self):
        text = (SOURCE / "docs/handoff.md").read_text()
        self.assertTrue(re.search(r"`example_origin --listen /run/origin.sock .*--prefix handoff:origin:`", text))


if __name__ == "__main__":
    unittest.main()
