"""H2O before and behind a Varnish with objmapper, with the files of docs/h2o.md as they stand there."""
import hashlib
import http.server
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from page import HOST, Chain, blocks  # noqa: E402
from support.daemon import wait_until  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"1.bin": 1, "100.bin": 100, "64K.bin": 64 * KIB, "1M.bin": MIB, "large.bin": 24 * MIB + 12345}
FRONTS = ("front.conf", "front-keepalive.conf")
PROTOCOLS = ("--http2", "--http1.1")
TRUNCATED = {18, 56, 92}  # curl: less than announced; connection reset; stream reset


def make_files(folder):
    bodies = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
    for name, body in bodies.items():
        pathlib.Path(folder, name).write_bytes(body)
    os.chmod(folder, 0o755)
    return bodies


class Answer:
    def __init__(self, head, body, code):
        self.code = code  # of curl
        self.body = body
        self.head = head
        self.status = int(match[1]) if (match := re.search(r"^HTTP/[\d.]+ (\d+)", head)) else None
        self.headers = {name.lower(): value for name, value in re.findall(r"^([\w-]+):\s*(.*?)\r?$", head, re.M)}

    def is_hit(self):
        return len(self.headers.get("x-varnish", "").split()) == 2


def curl_command(chain, url, *options):
    resolve = [word for port in chain.ports.values() for word in ("--resolve", f"{HOST}:{port}:127.0.0.1")]
    return ["curl", "-sS", "-m", "120", "--cacert", chain.certificate, *resolve, *options, url]


def url_of(chain, front, path):
    return f"https://{HOST}:{chain.port(front)}{path}"


def get(chain, url, *options):
    head, body = chain.path("head"), chain.path("body")
    for file in (head, body):
        pathlib.Path(file).write_bytes(b"")
    done = subprocess.run(curl_command(chain, url, "-D", head, "-o", body, *options), capture_output=True,
                          timeout=180)
    return Answer(pathlib.Path(head).read_text(), pathlib.Path(body).read_bytes(), done.returncode)


def digest(body):
    return hashlib.sha256(body).hexdigest()[:16], len(body)


class Application:
    """What H2O as origin hands /held/ to: it stops in the middle of a body until the test says go, so that there
    is a middle to be killed in."""

    def __init__(self, body):
        self.go = threading.Event()
        application = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "max-age=3600")
                self.end_headers()
                try:
                    self.wfile.write(body[:4 * MIB])
                    application.go.wait(120)
                    self.wfile.write(body[4 * MIB:])
                except ConnectionError:
                    self.close_connection = True  # that is what H2O is killed for

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def change(self, text):
        """Of the page's file of an origin."""
        return text + f"      /held:\n        proxy.reverse.url: http://127.0.0.1:{self.server.server_address[1]}/\n"

    def close(self):
        self.go.set()
        self.server.shutdown()
        self.server.server_close()


class Case(unittest.TestCase):
    def assert_body(self, answer, body, what):
        self.assertEqual(answer.code, 0, what)
        self.assertEqual(digest(answer.body), digest(body), what)

    def assert_all_is_ours(self, chain, failed=()):
        """Everything that was fetched lies in objmapper; nothing fell back. URLs that failed once have
        Varnish's own page for that beside it."""
        storages = wait_until(chain.storages, "fetches are logged")
        for url, found in storages.items():
            self.assertEqual(found - ({"malloc Transient"} if url in failed else set()), {"objmapper store"}, url)
        counters = chain.counters()
        for name, value in counters.items():
            if name.startswith("OBJM.") and (".c_fallback" in name or name.endswith(".c_fail")):
                self.assertEqual(value, 0, name)


class Page(unittest.TestCase):
    def test_every_file_is_run_by_a_test(self):
        files, shell = blocks("h2o.md")
        self.assertEqual({os.path.basename(name) for name in files},
                         {"origin.conf", "origin.vcl", "origin-unix.conf", "run.conf", "listen.conf", "h2o.vcl",
                          "front.conf", "front-keepalive.conf", "h2o.conf"})
        self.assertEqual(len(shell), 2)


class OriginOverTcp(Case):
    def test_miss_hit_and_range(self):
        chain = Chain()
        self.addCleanup(chain.close)
        bodies = make_files(chain.path("www"))
        chain.start_h2o("origin.conf")
        chain.start_varnish("origin.vcl")
        base = f"http://127.0.0.1:{chain.varnish_port}"
        for name, body in bodies.items():
            for is_hit in (False, True):
                answer = get(chain, f"{base}/{name}")
                self.assert_body(answer, body, name)
                self.assertEqual(answer.is_hit(), is_hit, name)
            part = get(chain, f"{base}/{name}", "-r", "0-0")
            self.assertEqual((part.status, part.body), (206, body[:1]), name)
        self.assert_all_is_ours(chain)


class OneProcess(Case):
    def test_one_h2o_is_both_ends(self):
        chain = Chain()
        self.addCleanup(chain.close)
        bodies = make_files(chain.path("www"))
        chain.start_h2o("h2o.conf")
        chain.start_varnish()
        for is_hit in (False, True):
            for protocol in PROTOCOLS:
                answer = get(chain, url_of(chain, "h2o.conf", "/large.bin"), protocol)
                self.assert_body(answer, bodies["large.bin"], protocol)
                self.assertEqual(answer.is_hit(), is_hit or protocol != PROTOCOLS[0])
        self.assert_all_is_ours(chain)


class WholeChain(Case):
    """Both fronts before one Varnish before an origin on a Unix socket."""

    @classmethod
    def setUpClass(cls):
        cls.chain = Chain()
        cls.addClassCleanup(cls.chain.close)
        cls.bodies = make_files(cls.chain.path("www"))
        cls.chain.start_h2o("origin-unix.conf")
        cls.chain.start_varnish()
        for front in FRONTS:
            cls.chain.start_h2o(front)

    def test_every_file_by_every_way_is_the_same(self):
        for name, body in self.bodies.items():
            for front in FRONTS:
                for protocol in PROTOCOLS:
                    answer = get(self.chain, url_of(self.chain, front, "/" + name), protocol)
                    self.assertEqual(answer.head.split()[0], "HTTP/2" if protocol == "--http2" else "HTTP/1.1")
                    self.assert_body(answer, body, (name, front, protocol))
            # The port is in the Host, so that the fronts do not share objects here.
            for front in FRONTS:
                self.assertTrue(get(self.chain, url_of(self.chain, front, "/" + name)).is_hit(), name)
        self.assert_all_is_ours(self.chain)

    def test_ranges_of_a_large_file(self):
        body = self.bodies["large.bin"]
        end = len(body) - 1
        draw = random.Random(7)
        ranges = [(0, 0), (end, end), (0, end), (1, end - 1), (2 * MIB - 1, 2 * MIB), (4 * MIB, 8 * MIB - 1)]
        for _ in range(6):
            first = draw.randrange(end)
            ranges.append((first, draw.randrange(first, end + 1)))
        for front in FRONTS:
            for number, (first, last) in enumerate(ranges):
                # The first of them is the miss.
                answer = get(self.chain, url_of(self.chain, front, "/large.bin?ranges"), PROTOCOLS[number % 2],
                             "-r", f"{first}-{last}")
                self.assertEqual(answer.status, 206)
                self.assertEqual(answer.headers["content-range"], f"bytes {first}-{last}/{len(body)}")
                self.assert_body(answer, body[first:last + 1], (front, first, last))
            suffix = get(self.chain, url_of(self.chain, front, "/large.bin?ranges"), "-r", "-1000")
            self.assertEqual((suffix.status, suffix.body), (206, body[-1000:]))
            beyond = get(self.chain, url_of(self.chain, front, "/large.bin?ranges"), "-r", f"{end + 1}-")
            self.assertEqual(beyond.status, 416)

    def records(self, tag, since):
        """Values of a VSL tag of client requests for a URL that contains `since`."""
        def found():
            shown = subprocess.run(["varnishlog", "-n", self.chain.path("varnish"), "-d", "-c", "-g", "request", "-q",
                                    f'ReqURL ~ "{since}"', "-i", tag], capture_output=True, text=True, timeout=60)
            return re.findall(rf"^-\s+{tag}\s+(.*?)\s*$", shown.stdout, re.M)
        return wait_until(found, f"{tag} of {since} is logged", 30)

    def test_varnish_knows_the_client(self):
        for front, address in zip(FRONTS, ("127.0.0.7", "0.0.0.0")):
            mark = "who-" + front.split(".")[0]
            answer = get(self.chain, url_of(self.chain, front, "/1.bin?" + mark), "--interface", "127.0.0.7", "-H",
                         "X-Forwarded-For: 6.6.6.6", "-H", "X-Forwarded-Proto: gopher")
            self.assertEqual(answer.status, 200)
            self.assertEqual(self.records("ReqStart", mark)[0].split()[0], address)
            headers = self.records("ReqHeader", mark)
            # The last one of each name is what VCL has made of it.
            seen = {name.lower(): value for name, value in (line.split(": ", 1) for line in headers)}
            self.assertEqual(seen["x-forwarded-for"], "6.6.6.6, 127.0.0.7", headers)
            self.assertEqual(seen["x-forwarded-proto"], "https", headers)
            self.assertEqual(seen["host"], f"{HOST}:{self.chain.port(front)}", headers)

    def test_purge_is_for_this_machine(self):
        for front, source, status in ((FRONTS[0], "127.0.0.1", 200), (FRONTS[1], "127.0.0.1", 405)):
            url = url_of(self.chain, front, "/64K.bin?purge")
            get(self.chain, url)
            self.assertTrue(get(self.chain, url).is_hit())
            self.assertEqual(get(self.chain, url, "-X", "PURGE", "--interface", source).status, status, front)
            self.assertEqual(get(self.chain, url).is_hit(), status != 200, front)

    def test_connections_to_varnish(self):
        def connections():
            return self.chain.counters()["MAIN.sess_conn"]
        for front, expected in zip(FRONTS, (20, 1)):
            url = url_of(self.chain, front, "/100.bin?connections-[1-20]")
            before = connections()
            done = subprocess.run(curl_command(self.chain, url, "-o", "/dev/null"), timeout=120)
            self.assertEqual(done.returncode, 0)
            # H2O has threads, and each keeps connections of its own.
            made = connections() - before
            self.assertTrue(made == expected or (expected == 1 and made <= 4), (front, made))

    def test_the_look_that_the_page_shows(self):
        done = subprocess.run(self.chain.look, shell=True, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(done.stdout.startswith("HTTP/2 "), done.stdout)


class Killed(Case):
    """kill -9 of one end in the middle of a body."""

    def setUp(self):
        self.chain = Chain()
        self.addCleanup(self.chain.close)
        self.body = make_files(self.chain.path("www"))["large.bin"]
        self.application = Application(self.body)
        self.addCleanup(self.application.close)
        self.origin = self.chain.start_h2o("origin-unix.conf", self.application.change)
        self.chain.start_varnish()
        self.fronts = {front: self.chain.start_h2o(front) for front in FRONTS}

    def begin(self, front, protocol, number):
        """A client that reads, once it has the first MiB; (process, file)."""
        file = pathlib.Path(self.chain.path(f"got-{number}"))
        process = subprocess.Popen(curl_command(self.chain, url_of(self.chain, front, "/held/large.bin"), protocol,
                                                "-o", str(file)), stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process, file

    def wait_for_the_middle(self, clients):
        wait_until(lambda: all(file.exists() and file.stat().st_size > MIB for _, file in clients),
                   "all clients have a part", 60)

    def assert_failed(self, clients):
        for process, file in clients:
            self.assertIn(process.wait(60), TRUNCATED)
            got = file.read_bytes()
            self.assertLess(len(got), len(self.body))
            self.assertTrue(self.body.startswith(got), "what came is not the beginning of it")

    def test_the_origin(self):
        clients = [self.begin(front, protocol, f"{front}{protocol}") for front in FRONTS for protocol in PROTOCOLS]
        self.wait_for_the_middle(clients)
        self.origin.kill()
        self.origin.wait()
        self.assert_failed(clients)
        # Nothing of it is cached: without an origin there is nothing to be had.
        for front in FRONTS:
            self.assertEqual(get(self.chain, url_of(self.chain, front, "/held/large.bin")).status, 503)
        wait_until(lambda: self.chain.counters()["OBJM.store.g_objects"] == 0, "nothing of it is stored")
        # It starts again over the socket that the dead one has left, and all is well.
        self.application.go.set()
        self.origin = self.chain.start_h2o("origin-unix.conf", self.application.change)
        # Varnish waits a moment before it tries again what has refused it.
        wait_until(lambda: get(self.chain, url_of(self.chain, FRONTS[0], "/1.bin")).status == 200, "200 again", 30)
        for front in FRONTS:
            for protocol in PROTOCOLS:
                answer = get(self.chain, url_of(self.chain, front, "/held/large.bin"), protocol)
                self.assert_body(answer, self.body, (front, protocol))
        self.assert_all_is_ours(self.chain, failed=("/held/large.bin", "/1.bin"))

    def test_the_front(self):
        for front in FRONTS:
            clients = [self.begin(front, protocol, f"{front}{protocol}") for protocol in PROTOCOLS]
            self.wait_for_the_middle(clients)
            self.fronts[front].kill()
            self.fronts[front].wait()
            self.assert_failed(clients)
        self.application.go.set()
        # Varnish goes on with what it fetches, and has it whole.
        for front in FRONTS:
            self.chain.start_h2o(front)
            for protocol in PROTOCOLS:
                answer = get(self.chain, url_of(self.chain, front, "/held/large.bin"), protocol)
                self.assert_body(answer, self.body, (front, protocol))
                self.assertTrue(answer.is_hit())
        counters = self.chain.counters()
        self.assertEqual(counters["MAIN.fetch_failed"], 0)
        self.assert_all_is_ours(self.chain)


if __name__ == "__main__":
    unittest.main()
