"""One objmapperd, several varnishds that share it, and an origin that knows which version of a URL is current.

    with Machine(2) as machine:
        a, b = machine.caches
        machine.origin.change("/x"); a.request("PURGE", "/x"); b.get("/x")

Each varnishd has a store and a director of its own. Answers carry their version: "URL VERSION\\n" in the body, many times.
"""

import collections
import http.client
import http.server
import os
import re
import signal
import socket
import subprocess
import threading

from support.daemon import Daemon, wait_until
from support.reachable import reachable

BUILD = os.environ.get("OM_BUILD_DIR", "build/dev")
SOURCE = os.environ.get("OM_SOURCE_DIR",
                        os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
WAIT_S = 30


class Origin:
    """/t<n>... has the tag t<n> in Xkey, all others `all`; /vary/... varies. /h/... is one object for all hosts and query
    strings: the caches hash nothing but the path and the device. .../same/... has one ETag for all versions, so that each
    of them is still good (304); X-Version tells them apart. /brief/... is fresh for a second, and stale for a day."""

    def __init__(self):
        self.versions = collections.defaultdict(int)
        self.asked = collections.defaultdict(int)
        self.revalidated = collections.defaultdict(int)  # those of them that were answered with 304
        self.lock = threading.Lock()
        self.free = threading.Event()  # answers wait for it, after their version was read
        self.free.set()
        self.free_bodies = threading.Event()  # so do bodies, after their headers
        self.free_bodies.set()
        origin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self):
                with origin.lock:
                    version = origin.versions[self.path]
                    origin.asked[self.path] += 1
                origin.free.wait(WAIT_S)
                same = "/same/" in self.path
                if same and self.headers["If-None-Match"] is not None:
                    with origin.lock:
                        origin.revalidated[self.path] += 1
                    self.send_response(304)
                    self.send_header("ETag", '"same"')
                    self.end_headers()
                    return
                body = f"{self.path} {version}\n".encode() * 20
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "max-age=1, stale-while-revalidate=86400"
                                 if self.path.startswith("/brief/") else "max-age=100000")
                if same:
                    self.send_header("ETag", '"same"')
                    self.send_header("X-Version", str(version))
                tag = re.match(r"/(t\d+)", self.path)
                if tag:
                    self.send_header("Xkey", f"other {tag.group(1)} more")
                else:
                    self.send_header("Xkey", "all")
                if self.path.startswith("/vary/"):
                    self.send_header("Vary", "X-Language")
                self.end_headers()
                if not origin.free_bodies.is_set():
                    self.wfile.flush()
                    origin.free_bodies.wait(WAIT_S)
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def change(self, url):
        """Another version; the number of it."""
        with self.lock:
            self.versions[url] += 1
            return self.versions[url]

    def hold(self):
        """No answer until let_go()."""
        self.free.clear()
        self.free_bodies.clear()

    def let_go(self, bodies=True):
        self.free.set()
        if bodies:
            self.free_bodies.set()

    def end(self):
        self.let_go()
        self.server.shutdown()
        self.server.server_close()


class Cache:
    """A varnishd. `env` is added to its environment; `timeout` is that of its director."""

    def __init__(self, machine, name, env, timeout):
        self.machine = machine
        self.name = name
        self.env = env
        self.directory = os.path.join(machine.directory, name)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.vcl = os.path.join(machine.directory, name + ".vcl")
        sock = machine.daemon.socket
        with open(self.vcl, "w", encoding="utf-8") as file:
            file.write(f'''vcl 4.1;
import vtc;
import objmapper from "{reachable(BUILD + "/lib/libvmod_objmapper.so")}";
include "{reachable(SOURCE + "/vmod/objmapper.vcl")}";
backend origin {{ .host = "127.0.0.1"; .port = "{machine.origin.port}"; }}
sub vcl_init {{
    new store = objmapper.storage(socket = "{sock}", memory = 16MB);
    store.set_default();
    new objm = objmapper.director(socket = "{sock}", timeout = {timeout});
    objm.set_backend(origin);
    objmapper.set_uri_prefix("cdn://test");
}}
sub vcl_recv {{
    if (req.url == "/ready") {{ return (synth(200)); }}
    if (req.method == "TAG") {{ objmapper.purge_tag(req.http.X-Tag); return (synth(200)); }}
    if (req.method == "SOFTTAG") {{ objmapper.purge_tag(req.http.X-Tag, soft = true); return (synth(200)); }}
    call objmapper_recv;
}}
sub vcl_hash {{
    hash_data(req.http.X-Device);
    if (req.url ~ "^/h/") {{
        hash_data(regsub(req.url, "[?].*", ""));
        return (lookup);
    }}
}}
sub vcl_backend_fetch {{
    set bereq.backend = objm.backend();
    if (bereq.http.X-Key) {{ objm.set_key(bereq.http.X-Key); }}
}}
sub vcl_backend_response {{ if (bereq.http.X-Pause) {{ vtc.sleep(4s); }} }}
sub vcl_deliver {{ set resp.http.X-Hits = obj.hits; }}
''')
        self.process = None
        self.start()

    def start(self):
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            ["varnishd", "-F", "-n", self.directory, "-a", f"127.0.0.1:{self.port}", "-f", self.vcl,
             "-p", "cc_command=exec tcc -shared -fpic -w -o %o %s", "-p", "shortlived=0",
             "-p", "thread_pool_min=20"],
            stdin=subprocess.DEVNULL, stdout=self.machine.log, stderr=self.machine.log,
            env={**os.environ, **self.env})
        wait_until(self.serves, f"{self.name} serves", WAIT_S)

    def serves(self):
        if self.process.poll() is not None:
            raise AssertionError(f"varnishd {self.name} has ended:\n{self.machine.words()}")
        try:
            return self.request("GET", "/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def child(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children",
                  encoding="utf-8") as file:
            return int(file.read().split()[0])

    def hang(self):
        """The child, until it gets SIGCONT; its pid. One thread takes the signal and stops the others: later."""
        child = self.child()
        os.kill(child, signal.SIGSTOP)

        def stopped():
            states = []
            for task in os.listdir(f"/proc/{child}/task"):
                with open(f"/proc/{child}/task/{task}/stat", encoding="utf-8") as file:
                    states.append(file.read().rpartition(")")[2].split()[0])
            return set(states) == {"T"}
        wait_until(stopped, f"{self.name} has stopped", WAIT_S)
        return child

    def restart(self, meanwhile=lambda: None):
        """Killed, both processes of it, and started again."""
        child = self.child()
        self.process.kill()
        self.process.wait(WAIT_S)
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
        wait_until(lambda: not os.path.exists(f"/proc/{child}/fd") or not os.listdir(f"/proc/{child}/task"),
                   "the child is gone", WAIT_S)
        meanwhile()
        self.start()

    def request(self, method, url, headers=None, connection=None):
        """status, body, headers."""
        own = connection is None
        if own:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request(method, url, headers={"Host": "test", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        finally:
            if own:
                connection.close()

    def read(self, url, device="d", connection=None, host="test", key=None):
        """The URL that the origin was asked for, and the version. `key`: what VCL shares it by."""
        headers = {"X-Device": device, "Host": host, **({"X-Key": key} if key else {})}
        status, body, _ = self.request("GET", url, headers, connection)
        lines = set(body.decode().splitlines())
        if status != 200 or len(lines) != 1:
            raise AssertionError(f"{self.name} {url}: {status}, {sorted(lines)[:3]}")
        path, version = lines.pop().split()
        return path, int(version)

    def get(self, url, device="d", connection=None):
        """The version that it answers with."""
        path, version = self.read(url, device, connection)
        if path != url:
            raise AssertionError(f"{self.name} {url}: the body of {path}")
        return version

    def purge(self, url, device="d"):
        status, body, _ = self.request("PURGE", url, {"X-Device": device})
        return status, body.decode(errors="replace")

    def remove(self, method, url, headers=None):
        """Until it is recorded: where the machine is busy, 250 ms may be over before, which is a 503."""
        headers = {"X-Device": "d", **(headers or {})}

        def recorded():
            status, body, _ = self.request(method, url, headers)
            if status not in (200, 503):
                raise AssertionError(f"{method} {url}: {status} {body[:200]}")
            return status == 200
        wait_until(recorded, f"{method} {url} is recorded", WAIT_S)

    def admin(self, *words):
        done = subprocess.run(["varnishadm", "-n", self.directory, *words], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False, timeout=WAIT_S)
        if done.returncode != 0:
            raise AssertionError(f"varnishadm {words}: {done.stdout}")
        return done.stdout

    def counters(self, of="OBJMR"):
        """By their last word."""
        done = subprocess.run(["varnishstat", "-1", "-n", self.directory, "-f", of + ".*"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              check=False, timeout=WAIT_S)
        return {name.rsplit(".", 1)[1]: int(value)
                for name, value in re.findall(r"^(\S+)\s+(\d+)", done.stdout, re.M)}

    def wait_current(self):
        wait_until(lambda: self.counters().get("g_current") == 1, f"{self.name} is current", WAIT_S)

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Machine:
    """`trusted`: the caches write in place, and so claim what they miss. `env`: of the daemon; `cache_env`: of the caches,
    by their names; `timeout`: of their directors."""

    def __init__(self, caches, disk=None, trusted=False, env=None, cache_env=None, timeout="50ms"):
        self.origin = Origin()
        # Started by root, varnishd is another user.
        extra = ["--write-gid", "varnish"] if trusted and os.getuid() == 0 else []
        self.daemon = Daemon(memory="128M", disk=disk, extra=extra, env=env)
        self.directory = self.daemon.directory
        os.chmod(self.directory, 0o755)
        self.let_in()
        # pylint: disable=consider-using-with
        self.log = open(os.path.join(self.directory, "varnishd.log"), "ab")
        self.caches = []
        try:
            for number in range(caches):
                name = "abcdefgh"[number]
                self.caches.append(Cache(self, name, (cache_env or {}).get(name, {}), timeout))
            for cache in self.caches:
                cache.wait_current()
        except BaseException:
            self.end()
            raise

    def let_in(self):
        """varnishd's user may be another."""
        os.chmod(self.daemon.socket, 0o666)

    def words(self):
        with open(os.path.join(self.directory, "varnishd.log"), encoding="utf-8", errors="replace") as file:
            return file.read()[-6000:]

    def end(self):
        for cache in self.caches:
            cache.end()
        self.log.close()
        self.origin.end()
        self.daemon.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()
