"""Several varnishds of one machine, one objmapperd, one origin that counts, for tests of the director."""

import grp
import hashlib
import http.client
import http.server
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support.daemon import Daemon, wait_until  # noqa: E402
from support.reachable import reachable  # noqa: E402

BUILD = os.environ.get("OM_BUILD_DIR", "build/dev")
WAIT_S = 30


def body_of(path, size):
    """The same bytes for the same path, of which no part looks like another."""
    return random.Random(path).randbytes(size)


class Origin:
    """GET /<name>?size=N&...: what the query says.

        size=N       bytes of the body             delay=S    before the headers
        chunked=1    without Content-Length        pause=S    in mid-body
        die=1        hangs up in mid-body          version=V  the body changes with it
        cc=TEXT      Cache-Control                 etag=V     ETag
        cc2=TEXT     Cache-Control of all answers but the first
        vary=NAME    Vary; the body begins with what the request said
        xkey=A+B     tags                          hold=1     waits in mid-body for release
        cc304=TEXT   Cache-Control of the 304 that a request with that ETag gets; wrong304=1 with another ETag
        first=N      die and hold only the first N requests of the path
        samehalf=1   a change is one of the second half    grow=N   and makes the body N bytes longer
        setcookie=N  Set-Cookie of all answers from the Nth on
        object=KEY   hands that object over, where it may; chunkedhandoff=1 without Content-Length

    Counts requests by path."""

    def __init__(self):
        self.counts = {}
        self.requests = []
        self.generations = {}  # by path: how often what it gives has changed
        self.revalidated = {}  # how many of those by path were answered with 304
        self.in_mid_body = 0  # how many have sent the first half, ever
        self.lock = threading.Lock()
        self.release = threading.Event()  # what `hold=1` waits for, in mid-body
        origin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self):
                path, _, query = self.path.partition("?")
                words = dict(word.partition("=")[::2] for word in query.split("&") if word)
                with origin.lock:
                    origin.counts[path] = origin.counts.get(path, 0) + 1
                    nth = origin.counts[path]
                    origin.requests.append((self.path, dict(self.headers)))
                time.sleep(float(words.get("delay", 0)))
                with origin.lock:
                    generation = str(origin.generations.get(path, ""))
                tag = '"' + words["etag"] + generation + '"' if "etag" in words else None
                if tag and self.headers.get("If-None-Match") == tag:
                    return self.not_modified(path, words, tag)
                size = int(words.get("size", 100))
                body = body_of(path + words.get("version", "") + generation, size)
                if "samehalf" in words:
                    body = body_of(path + words.get("version", ""), size)[:size // 2] + body[size // 2:]
                if generation and "grow" in words:
                    body += body_of(path + "grown", int(words["grow"]))
                self.send_response(int(words.get("status", 200)))
                may = self.headers.get("X-Objmapper-Handoff", "no")
                if "object" in words and (may != "no" or "always" in words):
                    self.send_header("X-Objmapper-Object", words["object"])
                    body = b""
                cc = words.get("cc", "max-age=1000")
                self.send_header("Cache-Control", cc if nth == 1 else words.get("cc2", cc))
                if tag:
                    self.send_header("ETag", tag)
                if "setcookie" in words and nth >= int(words["setcookie"]):
                    self.send_header("Set-Cookie", f"who={nth}")
                if "vary" in words:
                    self.send_header("Vary", words["vary"])
                    body = self.headers.get(words["vary"], "-").encode() + body
                if "xkey" in words:
                    self.send_header("Xkey", words["xkey"].replace("+", " "))
                if "chunked" in words or ("chunkedhandoff" in words and may != "no"):
                    words["chunked"] = "1"
                    self.send_header("Transfer-Encoding", "chunked")
                else:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                half = len(body) // 2
                first = words.get("first") and nth > int(words["first"])
                self.part(body[:half], words)
                self.wfile.flush()
                with origin.lock:
                    origin.in_mid_body += 1
                if "hold" in words and not first:
                    origin.release.wait(WAIT_S)
                time.sleep(float(words.get("pause", 0)))
                if "die" in words and not first:
                    self.close_connection = True
                    return
                self.part(body[half:], words)
                if "chunked" in words:
                    self.wfile.write(b"0\r\n\r\n")

            def not_modified(self, path, words, tag):
                with origin.lock:
                    origin.revalidated[path] = origin.revalidated.get(path, 0) + 1
                self.send_response(304)
                self.send_header("Cache-Control", words.get("cc304", words.get("cc", "max-age=1000")))
                self.send_header("ETag", '"another"' if "wrong304" in words else tag)
                self.send_header("X-Turn", "2")
                if "vary" in words:
                    self.send_header("Vary", words["vary"])
                self.end_headers()

            def part(self, data, words):
                if "chunked" not in words:
                    self.wfile.write(data)
                elif data:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 1024

            def handle_error(self, request, client_address):
                pass  # a cache was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def count(self, path):
        with self.lock:
            return self.counts.get(path, 0)

    def change(self, path):
        """Another body from now on, body_of(path + "1") at first, and another ETag."""
        with self.lock:
            self.generations[path] = self.generations.get(path, 0) + 1

    def revalidations(self, path):
        with self.lock:
            return self.revalidated.get(path, 0)

    def total(self):
        with self.lock:
            return sum(self.counts.values())

    def clear(self):
        with self.lock:
            self.counts.clear()
            self.requests.clear()

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()


class Cache:
    """One varnishd with a director."""

    def __init__(self, name, directory, origin_port, daemon_socket, vcl="", init="", timeout="2s", store="48MB",
                 backend="backend = objm.backend()"):
        self.name = name
        self.directory = os.path.join(directory, name)
        os.makedirs(self.directory, exist_ok=True)
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        self.port = probe.getsockname()[1]
        probe.close()
        storage = ""
        if store:
            storage = f'new store = objmapper.storage(socket = "{daemon_socket}", memory = {store}); store.set_default();'
        self.log = open(os.path.join(self.directory, "log"), "ab")
        self.vcl = os.path.join(self.directory, "test.vcl")
        with open(self.vcl, "w", encoding="utf-8") as file:
            file.write(f'''vcl 4.1;
import objmapper from "{reachable(BUILD + "/lib/libvmod_objmapper.so")}";
backend origin {{ .host = "127.0.0.1"; .port = "{origin_port}"; .max_connections = 1000; }}
sub vcl_init {{
    {storage}
    new objm = objmapper.director(socket = "{daemon_socket}", timeout = {timeout});
    objm.set_backend(origin);
    objmapper.set_uri_prefix("cdn://test");
    {init}
}}
sub vcl_recv {{
    if (req.url == "/ready") {{ return (synth(200)); }}
    set req.http.Host = "www.test";
}}
{vcl}
sub vcl_backend_fetch {{ set bereq.{backend}; }}
sub vcl_deliver {{ set resp.http.X-Hits = obj.hits; }}
''')
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            ["varnishd", "-F", "-n", f"{self.directory}/v", "-a", f"127.0.0.1:{self.port}", "-f", self.vcl,
             "-p", "cc_command=exec tcc -shared -fpic -w -o %o %s", "-p", "shortlived=0", "-p", "thread_pool_min=250",
             "-p", "thread_pool_max=1000", "-p", "listen_depth=4096"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until(self.ready, f"varnishd {self.name} serves", WAIT_S)

    def ready(self):
        if self.process.poll() is not None:
            with open(os.path.join(self.directory, "log"), encoding="utf-8", errors="replace") as file:
                raise AssertionError("varnishd ended: " + file.read()[-3000:])
        try:
            return self.get("/ready", timeout=2)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def get(self, path, headers=None, timeout=60.0):
        """Status, headers, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def open(self, path, timeout=60.0, headers=None):
        """A response whose body is still to be read, and its connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse(), connection

    def counter(self, name, of="OBJMD.objm"):
        done = subprocess.run(["varnishstat", "-n", f"{self.directory}/v", "-1", "-f", f"{of}.{name}"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=WAIT_S)
        words = done.stdout.split()
        return int(words[1]) if len(words) > 1 else 0

    def store_bytes(self):
        """What lies in the region of this cache."""
        done = subprocess.run(["varnishstat", "-n", f"{self.directory}/v", "-1", "-f", "OBJM.store.g_bytes"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=WAIT_S)
        return int(done.stdout.split()[1])

    def counters(self):
        done = subprocess.run(["varnishstat", "-n", f"{self.directory}/v", "-1", "-f", "OBJMD.*"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=WAIT_S)
        lines = [line.split() for line in done.stdout.decode().splitlines()]
        return {line[0].rsplit(".", 1)[1]: int(line[1]) for line in lines if len(line) > 1 and line[1] != "0"}

    def children(self):
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="utf-8") as file:
                return [int(word) for word in file.read().split()]
        except OSError:
            return []

    def admin(self, *words):
        return subprocess.run(["varnishadm", "-n", f"{self.directory}/v", *words], stdout=subprocess.PIPE, check=True,
                              timeout=WAIT_S, text=True).stdout

    def panicked(self):
        done = subprocess.run(["varnishadm", "-n", f"{self.directory}/v", "panic.show"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False, timeout=WAIT_S)
        return done.returncode == 0 and done.stdout.decode(errors="replace")

    def kill(self):
        """All of it, at once."""
        children = self.children()
        self.process.kill()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.log.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()


class World:
    """A daemon, an origin, and caches that are made as they are asked for. `trusted`: they write in place. `disk`: the
    size of the daemon's."""

    def __init__(self, memory="512M", trusted=False, disk=None, **cache):
        self.directory = tempfile.mkdtemp(prefix="om-director-")
        os.chmod(self.directory, 0o755)
        self.cache_arguments = cache
        self.origin = Origin()
        # Trusted caches write in place; started by root, varnishd is another user.
        extra = ["--write-gid", "varnish"] if trusted and os.getuid() == 0 else []
        self.daemon = Daemon(memory=memory, disk=disk, directory=self.directory, extra=extra)
        self.open_socket()
        self.socket = self.daemon.socket  # where caches look for it
        self.caches = {}

    def open_socket(self):
        try:
            os.chown(self.daemon.socket, -1, grp.getgrnam("varnish").gr_gid)
        except (KeyError, PermissionError):
            pass
        os.chmod(self.daemon.socket, 0o660)

    def cache(self, name="a", **more):
        if name not in self.caches:
            self.caches[name] = Cache(name, self.directory, self.origin.port, self.socket,
                                      **{**self.cache_arguments, **more})
        return self.caches[name]

    def kill_cache(self, name):
        self.caches.pop(name).kill()

    def close(self):
        panics = []
        for cache in self.caches.values():
            panics.append(cache.process.poll() is None and cache.panicked())
            cache.stop()
        self.origin.close()
        self.daemon.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        for panic in panics:
            if panic:
                raise AssertionError(panic[:6000])


def digest(data):
    return hashlib.sha256(data).hexdigest()
