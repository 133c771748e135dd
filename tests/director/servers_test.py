#!/usr/bin/env python3
"""H2O and nginx as origins of two caches: what the second one answers without asking is what the first one got.

Files of several sizes and kinds, plain, compressed by the server and chunked, in ranges, HEAD, conditional,
POST, and errors. The server's own log says what it was asked.
"""

import gzip
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from caches import WAIT_S, Cache, World, body_of, wait_until  # noqa: E402

TEXT = b"".join(b"line %d of something that can be compressed\n" % i for i in range(20_000))
FILES = {"small.bin": body_of("small", 3000), "large.bin": body_of("large", 20 << 20), "text.txt": TEXT,
         "empty.txt": b"", "page.html": b"<html>" + TEXT[:70_000] + b"</html>"}
VCL = """
sub vcl_recv {
    if (req.method == "POST") { return (pass); }
}
sub vcl_backend_response {
    if (beresp.status == 404) { set beresp.ttl = 100s; }
    if (bereq.url ~ "brief") {
        if (!beresp.was_304) { set beresp.ttl = 1s; }
        set beresp.grace = 0s;
        set beresp.keep = 1h;
    }
}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One process that serves `folder`; `asked` is the lines of its log."""

    def __init__(self, directory):
        self.directory = os.path.join(directory, self.name)
        self.folder = os.path.join(self.directory, "files")
        os.makedirs(self.folder)
        for name, data in FILES.items():
            with open(os.path.join(self.folder, name), "wb") as file:
                file.write(data)
        self.port = free_port()
        self.log = os.path.join(self.directory, "access")
        self.configuration = os.path.join(self.directory, "conf")
        with open(self.configuration, "w", encoding="utf-8") as file:
            file.write(self.configure())
        for root, folders, files in os.walk(self.directory):
            for name in folders + files:
                os.chmod(os.path.join(root, name), 0o777 if name in folders else 0o666)
        os.chmod(self.directory, 0o777)
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        wait_until(self.listens, self.name + " listens", WAIT_S)

    def listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def asked(self):
        try:
            with open(self.log, encoding="utf-8") as file:
                return [line.strip() for line in file]
        except OSError:
            return []

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class H2O(Server):
    name = "h2o"

    def configure(self):
        return f"""{"user: nobody" if os.getuid() == 0 else ""}
listen:
  host: 127.0.0.1
  port: {self.port}
access-log:
  path: {self.log}
  format: "%m %U %s"
hosts:
  default:
    paths:
      /:
        file.dir: {self.folder}
        compress: [gzip]
        header.set: "Cache-Control: max-age=1000"
"""

    def command(self):
        return ["h2o", "-c", self.configuration]


class Nginx(Server):
    name = "nginx"

    def configure(self):
        temporary = " ".join(f"{kind}_temp_path {self.directory}/{kind};"
                             for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return f"""worker_processes 1; daemon off; error_log stderr; pid {self.directory}/pid;
events {{ worker_connections 256; }}
http {{ {temporary}
  types {{ text/plain txt; text/html html; application/octet-stream bin; }}
  log_format short "$request_method $uri $status"; access_log {self.log} short;
  gzip on; gzip_types text/plain text/html; gzip_vary on; gzip_min_length 1000; gzip_proxied any; gzip_http_version 1.0;
  server {{ listen 127.0.0.1:{self.port}; root {self.folder}; add_header Cache-Control "max-age=1000"; }} }}
"""

    def command(self):
        return ["nginx", "-e", "stderr", "-c", self.configuration]


class ServerCase:
    """For each kind of server."""

    server_class = None

    @classmethod
    def setUpClass(cls):
        if shutil.which(cls.server_class.name) is None:
            raise unittest.SkipTest(f"no {cls.server_class.name}")
        cls.world = World()
        cls.server = cls.server_class(cls.world.directory)
        for name in "ab":
            cls.world.caches[name] = Cache(name, cls.world.directory, cls.server.port, cls.world.daemon.socket, vcl=VCL)
        cls.a, cls.b = cls.world.caches["a"], cls.world.caches["b"]

    @classmethod
    def tearDownClass(cls):
        try:
            cls.world.close()
        finally:
            cls.server.close()

    def request(self, cache, method, path, headers=None, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", cache.port, timeout=WAIT_S)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def found_by_b(self):
        """a counts what it has published when it hears of it: then b may still follow the next one."""
        return self.b.counter("c_hit") + self.b.counter("c_follow")

    def both(self, path, headers=None):
        """Fetched by a, found by b: their answers, the server asked once."""
        published = self.a.counter("c_tee_published")
        found = self.found_by_b()
        asked = len(self.server.asked())
        first = self.a.get(path, headers)
        wait_until(lambda: self.a.counter("c_tee_published") > published, f"{path} is published", WAIT_S)
        second = self.b.get(path, headers)
        wait_until(lambda: len(self.server.asked()) > asked, "the log is written", WAIT_S)
        self.assertEqual(self.found_by_b(), found + 1)
        self.assertEqual(len(self.server.asked()), asked + 1)
        self.assertEqual(first[0], second[0])
        for name in ("Content-Type", "ETag", "Last-Modified", "Cache-Control", "Content-Encoding", "Vary", "Date",
                     "Server"):
            self.assertEqual(first[1][name], second[1][name], name)
        # What is compressed on its way comes in chunks to who is first.
        if first[1]["Content-Length"] is not None:
            self.assertEqual(first[1]["Content-Length"], second[1]["Content-Length"])
        self.assertEqual(first[2], second[2])
        return second

    def test_files(self):
        for name in ("small.bin", "large.bin"):
            status, headers, body = self.both(f"/{name}?files")
            self.assertEqual((status, body), (200, FILES[name]))
            self.assertEqual(headers["Content-Length"], str(len(body)))

    def test_empty(self):
        status, headers, body = self.both("/empty.txt")
        self.assertEqual((status, body), (200, b""))
        self.assertIn(headers["Content-Length"], (None, "0"))

    def test_compressed(self):
        for name in ("text.txt", "page.html"):
            status, headers, body = self.both(f"/{name}?gz", {"Accept-Encoding": "gzip"})
            self.assertEqual((status, headers["Content-Encoding"]), (200, "gzip"))
            self.assertEqual(gzip.decompress(body), FILES[name])
            # For who does not want that, from the same object.
            asked = len(self.server.asked())
            status, headers, body = self.b.get(f"/{name}?gz")
            self.assertEqual((status, headers["Content-Encoding"], body), (200, None, FILES[name]))
            self.assertEqual(len(self.server.asked()), asked)

    def test_not_found(self):
        status, _, _ = self.both("/nowhere")
        self.assertEqual(status, 404)

    def test_ranges_and_head(self):
        self.both("/large.bin?ranges")
        whole = FILES["large.bin"]
        for begin, end in ((0, 0), (1, 70_000), (5 << 20, (6 << 20) + 1), (len(whole) - 1, len(whole) - 1)):
            status, headers, body = self.request(self.b, "GET", "/large.bin?ranges", {"Range": f"bytes={begin}-{end}"})
            self.assertEqual((status, headers["Content-Range"]), (206, f"bytes {begin}-{end}/{len(whole)}"))
            self.assertEqual(body, whole[begin:end + 1])
        status, headers, body = self.request(self.b, "HEAD", "/large.bin?ranges")
        self.assertEqual((status, headers["Content-Length"], body), (200, str(len(whole)), b""))
        # The first request may be for a range, too: the whole is fetched, and shared.
        published = self.a.counter("c_tee_published")
        status, _, body = self.request(self.a, "GET", "/small.bin?ranged", {"Range": "bytes=10-19"})
        self.assertEqual((status, body), (206, FILES["small.bin"][10:20]))
        wait_until(lambda: self.a.counter("c_tee_published") > published, "it is published", WAIT_S)
        hits = self.b.counter("c_hit")
        status, _, body = self.request(self.b, "HEAD", "/small.bin?ranged")
        self.assertEqual((status, body, self.b.counter("c_hit")), (200, b"", hits + 1))

    def test_conditional_requests_of_clients(self):
        _, headers, _ = self.both("/small.bin?conditional")
        asked = len(self.server.asked())
        for name, value in (("If-None-Match", headers["ETag"]), ("If-Modified-Since", headers["Last-Modified"])):
            if value is None:
                continue
            status, _, body = self.request(self.b, "GET", "/small.bin?conditional", {name: value})
            self.assertEqual((status, body), (304, b""))
        status, _, body = self.request(self.b, "GET", "/small.bin?conditional", {"If-None-Match": '"other"'})
        self.assertEqual((status, body), (200, FILES["small.bin"]))
        self.assertEqual(len(self.server.asked()), asked)

    def test_revalidation(self):
        for name, headers in (("small.bin", {}), ("large.bin", {}), ("text.txt", {"Accept-Encoding": "gzip"})):
            path = f"/{name}?brief"
            first = self.both(path, headers)
            end = time.time() + 1.1
            wait_until(lambda: time.time() > end, "it is stale", WAIT_S)
            refreshed, hits = self.a.counter("c_refreshed"), self.b.counter("c_hit")
            self.assertEqual(self.a.get(path, headers)[2], first[2])
            wait_until(lambda: self.a.counter("c_refreshed") > refreshed, f"{path} is refreshed", WAIT_S)
            wait_until(lambda: self.server.asked()[-1].endswith("304"), "the server says 304", WAIT_S)
            asked = len(self.server.asked())
            status, got, body = self.b.get(path, headers)
            self.assertEqual((status, body), (200, first[2]))
            # Of what it compresses nginx says a weak one, and a strong one with 304.
            self.assertEqual(got["ETag"].removeprefix("W/"), first[1]["ETag"].removeprefix("W/"))
            self.assertEqual(got["Content-Encoding"], first[1]["Content-Encoding"])
            wait_until(lambda: self.b.counter("c_hit") + self.b.counter("c_follow") > hits, "b had it from a", WAIT_S)
            self.assertEqual(len(self.server.asked()), asked)

    def test_post_is_not_shared(self):
        lookups = [cache.counter("c_lookup") for cache in (self.a, self.b)]
        for cache in (self.a, self.b):
            status, _, _ = self.request(cache, "POST", "/small.bin?post", body=b"x" * 1000)
            self.assertEqual(status, 405)
        self.assertEqual([cache.counter("c_lookup") for cache in (self.a, self.b)], lookups)


class WithH2O(ServerCase, unittest.TestCase):
    server_class = H2O


class WithNginx(ServerCase, unittest.TestCase):
    server_class = Nginx


if __name__ == "__main__":
    unittest.main()
