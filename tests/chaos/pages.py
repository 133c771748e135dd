"""An origin whose bodies are a function of URL and version, and the judge of every byte that comes of it.

The first letter of a path says what its origin does:

    k  Content-Length        c  chunked                z  compressed by the origin    t  compressed and chunked
    g  compressed by Varnish s  a second of TTL, ETag  v  Vary: Foo, second store     p  passed
    h  hit-for-miss          d  breaks off half way    e  ESI                         E  ESI around ESI, compressed by Varnish

A body says in its first line whose it is ("URL VERSION LENGTH"); what follows is cut out of one long
text at a place that depends on both, so that a byte from elsewhere, or at another place, shows.
"""

import collections
import hashlib
import http.server
import random
import re
import threading
import time
import zlib

TEXT = random.Random(4711).randbytes(4 << 20).hex().encode()
SIZES = (0, 100, 1, 4096, 16385, 65536, 300000, 1 << 20, 4 << 20, 9000)
FRAGMENT_SIZES = (100, 4096, 16385, 300000)
# How long a fetch may be on its way from the origin's answer to being a hit: Varnish's purges and
# bans do not touch what has no headers yet.
ON_ITS_WAY_S = 3


def length_of(url):
    number = int(re.sub(r"\D", "", url))
    if url[1] in "zgt":
        return SIZES[number % 8]
    if url[1] == "d":
        return (65536, 1 << 20)[number % 2]
    if url[1] == "f":
        return FRAGMENT_SIZES[number % len(FRAGMENT_SIZES)]
    return SIZES[number % len(SIZES)]


def includes_of(url):
    number = int(re.sub(r"\D", "", url))
    if url[1] == "E":
        return ["/f%d" % (number % 20), "/e%d" % number, "/f%d" % ((number + 7) % 20)]
    return ["/f%d" % ((number + i) % 20) for i in range(3)]


def body_of(url, version):
    if url[1] in "eE":
        parts = ["%s %d page\n" % (url, version)]
        parts += ['<esi:include src="%s"/>' % one for one in includes_of(url)]
        return ("".join(parts) + "%s %d end\n" % (url, version)).encode()
    length = length_of(url)
    head = b"%s %d %d\n" % (url.encode(), version, length)
    at = int.from_bytes(hashlib.blake2b(head, digest_size=4).digest(), "little") % (3 << 20)
    return (head + TEXT[at:at + length])[:length]


class Wrong(Exception):
    pass


class Model:
    """Current versions, and for each URL the least that an answer may have."""

    def __init__(self):
        self.lock = threading.Lock()
        self.versions = collections.defaultdict(int)
        self.given = {}  # (url, version) -> when the origin last answered with it
        self.least = collections.defaultdict(lambda: [(0, 0.0)])  # (version, when its removal was sent)

    def current(self, url):
        with self.lock:
            return self.versions[url]

    def give(self, url):
        with self.lock:
            version = self.versions[url]
            self.given[(url, version)] = time.monotonic()
            return version

    def bump(self, url):
        with self.lock:
            self.versions[url] += 1
            return self.versions[url], time.monotonic()

    def removed(self, url, version, when):
        with self.lock:
            self.least[url].append((version, when))

    def snapshot(self, url):
        with self.lock:
            return list(self.least[url])

    def check_version(self, url, version, removals):
        with self.lock:
            if version > self.versions[url]:
                raise Wrong("version %d of %s is still to come" % (version, url))
            given = self.given.get((url, version))
        if given is None:
            raise Wrong("version %d of %s was never given" % (version, url))
        for least, when in removals:
            if version < least and given + ON_ITS_WAY_S < when:
                raise Wrong("older: version %d of %s, %d was acknowledged" % (version, url, least))

    def check_whole(self, url, data, removals, at=0):
        """The body of url begins at `at`; returns where it ends."""
        line = data[at:at + 80].split(b"\n", 1)[0].split(b" ")
        if len(line) != 3 or line[0] != url.encode() or not line[1].isdigit():
            raise Wrong("mixed: %s begins with %r" % (url, data[at:at + 60]))
        version = int(line[1])
        if url[1] in "eE":
            self.check_version(url, version, removals)
            at += len(b" ".join(line)) + 1
            for one in includes_of(url):
                at = self.check_whole(one, data, [], at)
            end = b"%s %d end\n" % (url.encode(), version)
            if data[at:at + len(end)] != end:
                raise Wrong("mixed: %s ends with %r" % (url, data[at:at + 60]))
            return at + len(end)
        self.check_version(url, version, removals)
        body = body_of(url, version)
        if data[at:at + len(body)] != body:
            raise Wrong("mixed: not the bytes of %s %d" % (url, version))
        return at + len(body)


class Origin:
    def __init__(self, model):
        self.model = model
        self.answered = self.confirmed = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16

            def do_GET(handler):
                self.answer(handler)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request, client_address):
                pass  # Varnish has lost interest

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler):
        url = handler.path
        kind = url[1]
        version = self.model.give(url)
        tag = '"%d"' % version
        if handler.headers.get("If-None-Match", "").removeprefix("W/") == tag:
            self.confirmed += 1
            handler.send_response(304)
            handler.send_header("ETag", tag)
            handler.end_headers()
            return
        self.answered += 1
        body = body_of(url, version)
        handler.send_response(200)
        if kind in "zt":
            packer = zlib.compressobj(1, zlib.DEFLATED, 31)
            body = packer.compress(body) + packer.flush()
            handler.send_header("Content-Encoding", "gzip")
        if kind == "v":
            handler.send_header("Vary", "Foo")
        if kind not in "eE":
            handler.send_header("ETag", tag)
        handler.send_header("X-Version", str(version))
        chunked = kind in "ctE" or (kind == "d" and version % 2 == 1)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        else:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        end = len(body) // 2 if kind == "d" else len(body)
        step = random.choice((1000, 16384, 100000, 1 << 20))
        for at in range(0, end, step):
            piece = body[at:min(end, at + step)]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        if kind == "d":
            self.model.bump(url)
            handler.close_connection = True
        elif chunked:
            handler.wfile.write(b"0\r\n\r\n")
