#!/usr/bin/env python3
"""Kills varnishd's child, varnishd, objmapperd or several of them under load, restarts, and judges every answer.

    warm.py [--rounds N] [--load SECONDS] [--seed S] [--clients N] [--urls N] [--bans-per-second N] [--keep]

The origin puts a number into every body: the version of the URL at that moment. The clients get, change, purge and ban,
and write down what was acknowledged when. The judge then says of each answer:

    older    a version below the newest that a purge or ban had made gone, and that was acknowledged before the request
    mixed    a body whose parts name different versions, or another URL
    torn     a body shorter than its header says, or with bytes that nobody wrote

Each of these is a failure, at any time, in mid-crash too. One kind of older answer is none, because every Varnish gives it:
the origin had answered with that version, and varnishd had not yet made an object of the answer, when the removal came, so
that there was nothing to remove. Origin and clients write down when; it is counted by itself. After each restart the newest acknowledged version of every URL
that nobody has touched since must be a hit, for at least 99 % of them.
"""

import argparse
import collections
import grp
import http.client
import http.server
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support.reachable import reachable  # noqa: E402

BUILD = os.environ.get("OM_BUILD_DIR", "build/dev")
SOURCE = os.environ.get("OM_SOURCE_DIR", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
WAIT_S = 20
FETCH_S = 0.5  # at most, from the end of the origin's answer to an object that can be removed, on a loaded machine


def body_for(url, version):
    """Length and every line depend on url and version, so that a mixture shows."""
    line = f"{url} {version:08d}\n".encode()
    number = int(re.sub(r"\D", "", url) or 0)
    lines = (1, 40, 700, 9000)[number % 4]
    return line * lines


def wait_gone(pid):
    """Until it has ended, also when whoever inherited it does not fetch it."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                dead = file.read().rsplit(")", 1)[1].split()[0] in "ZX"
            # The first thread may be dead while others still hold the descriptors.
            if dead and len(os.listdir(f"/proc/{pid}/task")) <= 1:
                return
        except OSError:
            return
        time.sleep(0.005)


class Origin:
    """Current versions. /t<n> has a tag header t<n % 10>; /v<n> varies on Foo."""

    def __init__(self):
        self.versions = collections.defaultdict(int)
        self.answered = {}  # (url, version) -> time of the end of the last answer, infinite while one is under way
        self.lock = threading.Lock()
        self.requests = 0
        origin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one go, or else each waits for an acknowledgement
            disable_nagle_algorithm = True

            def do_GET(self):
                with origin.lock:
                    version = origin.versions[self.path]
                    origin.requests += 1
                    origin.answered[(self.path, version)] = math.inf
                body = body_for(self.path, version)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "max-age=100000")
                self.send_header("X-Tag", f"t{int(re.sub(r'[^0-9]', '', self.path) or 0) % 10}")
                if self.path.startswith("/v"):
                    self.send_header("Vary", "Foo")
                self.end_headers()
                try:
                    self.wfile.write(body)
                finally:
                    with origin.lock:
                        origin.answered[(self.path, version)] = time.monotonic()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address):
                pass  # varnishd was killed in mid-fetch

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class World:
    """objmapperd and varnishd, each of which may be killed and started again."""

    def __init__(self, origin, directory, arguments=""):
        """`arguments`: further ones of objmapper.storage()."""
        self.directory = directory
        self.daemon = None
        self.varnishd = None
        self.log = open(os.path.join(directory, "log"), "ab")
        probe = socket.socket()
        probe.bind(("127.0.0.1", 0))
        self.port = probe.getsockname()[1]
        probe.close()
        with open(os.path.join(directory, "test.vcl"), "w", encoding="utf-8") as file:
            file.write(f'''vcl 4.1;
import objmapper from "{reachable(BUILD + "/lib/libvmod_objmapper.so")}";
include "{reachable(SOURCE + "/vmod/objmapper.vcl")}";
backend default {{ .host = "127.0.0.1"; .port = "{origin.port}"; }}
sub vcl_init {{
    new store = objmapper.storage(socket = "{directory}/om.sock", memory = 128MB{arguments and ", " + arguments});
    store.set_default();
}}
sub vcl_recv {{
    if (req.url == "/ready") {{ return (synth(200)); }}
    call objmapper_recv;
}}
sub vcl_deliver {{ set resp.http.X-Hits = obj.hits; }}
''')

    def start_daemon(self):
        command = [f"{BUILD}/bin/objmapperd", "--socket", f"{self.directory}/om.sock", "--memory", "256M",
                   "--memory-dir", f"{self.directory}/mem", "--state-dir", f"{self.directory}/state"]
        if os.environ.get("OM_REGION_DAEMON"):
            command = [sys.executable, f"{SOURCE}/vmod/tests/region_daemon.py"] + command[1:]
        self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        end = time.monotonic() + WAIT_S
        while True:
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                probe.connect(f"{self.directory}/om.sock")
                break
            except OSError:
                if time.monotonic() > end or self.daemon.poll() is not None:
                    raise RuntimeError("objmapperd does not start")
                time.sleep(0.01)
            finally:
                probe.close()
        try:
            os.chown(f"{self.directory}/om.sock", -1, grp.getgrnam("varnish").gr_gid)
        except (KeyError, PermissionError):
            pass
        os.chmod(f"{self.directory}/om.sock", 0o660)

    def start_varnishd(self):
        self.spawn_varnishd()
        self.wait_serving()

    def spawn_varnishd(self):
        self.varnishd = subprocess.Popen(
            ["varnishd", "-F", "-n", f"{self.directory}/v", "-a", f"127.0.0.1:{self.port}", "-f",
             f"{self.directory}/test.vcl", "-p", "cc_command=exec tcc -shared -fpic -w -o %o %s", "-p", "shortlived=0",
             "-p", "thread_pool_min=20", "-p", "vsl_mask=-VCL_call,-VCL_return"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        return self.varnishd

    def serving(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=0.02)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_serving(self):
        """Until a child answers: the listening socket alone outlives it."""
        end = time.monotonic() + WAIT_S
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
            try:
                connection.request("GET", "/ready")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            if time.monotonic() > end or self.varnishd.poll() is not None:
                raise RuntimeError("varnishd does not serve")
            time.sleep(0.01)

    def children(self):
        try:
            with open(f"/proc/{self.varnishd.pid}/task/{self.varnishd.pid}/children", encoding="utf-8") as file:
                return [int(word) for word in file.read().split()]
        except OSError:
            return []

    def kill_child(self):
        """The manager starts another by itself."""
        old = self.children()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            now = self.children()
            if now and not set(now) & set(old):
                break
            time.sleep(0.01)
        self.wait_serving()

    def end_varnishd(self, number):
        children = self.children()
        self.varnishd.send_signal(number)
        if number == signal.SIGKILL:
            for pid in children:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
        self.varnishd.wait(WAIT_S)
        for pid in children:
            wait_gone(pid)

    def end_daemon(self, number):
        self.daemon.send_signal(number)
        self.daemon.wait(WAIT_S)

    def counter(self, name):
        done = subprocess.run(["varnishstat", "-1", "-n", f"{self.directory}/v", "-f", name], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=False)
        found = re.search(r"^\S+\s+(\d+)", done.stdout, re.M)
        return int(found.group(1)) if found else None

    def end(self):
        for process in (self.varnishd, self.daemon):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(WAIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
        self.log.close()


class Model:
    """For each URL the least version that an answer may have, and the newest that a client has seen whole."""

    def __init__(self, origin, urls):
        self.origin = origin
        self.urls = urls
        self.least = collections.defaultdict(int)
        self.removing = {}  # url -> when the last removal began that was acknowledged
        self.overtaken = set()  # (url, version) of answers that a removal came too early for
        self.seen = {}     # (url, variant) -> version, whole and acknowledged
        self.touched = {}  # url -> time of the last removal that was attempted
        self.lock = threading.Lock()
        self.judged = 0
        self.wrong = []
        self.eligible = self.hits = 0
        self.misses = collections.Counter()  # of the eligible, by reason

    def judge(self, url, variant, least_before, status, length, body):
        complaint, version = None, None
        if status != 200:
            return
        first = body.partition(b"\n")[0].decode("latin-1")
        found = re.fullmatch(re.escape(url) + r" (\d{8})", first)
        if length is not None and len(body) != length:
            complaint = f"torn: {len(body)} of {length} bytes"
        elif found is None:
            complaint = f"mixed: first line {first!r}"
        else:
            version = int(found.group(1))
            if body != body_for(url, version):
                complaint = "mixed: not the bytes of one version"
            elif version < least_before:
                complaint = f"older: version {version}, {least_before} was acknowledged"
        with self.lock:
            self.judged += 1
            if complaint and version is not None and self.came_too_early(url, version):
                self.overtaken.add((url, version))
            elif complaint:
                self.wrong.append(f"{url} {variant}: {complaint}")
            else:
                self.seen[(url, variant)] = version


    def came_too_early(self, url, version):
        """Whether the last acknowledged removal found the origin's answer on its way to becoming an object."""
        with self.origin.lock:
            answered = self.origin.answered.get((url, version), 0)
        return answered > self.removing[url] - FETCH_S


class Client(threading.Thread):
    def __init__(self, model, world, seed, stop, ban_pause):
        super().__init__(daemon=True)
        self.model, self.world, self.stop, self.ban_pause = model, world, stop, ban_pause
        self.random = random.Random(seed)
        self.connection = None

    def ask(self, method, url, headers):
        """(status, declared length, body, X-Hits), or None when the connection broke. http.client does the same at a
        third of the speed."""
        try:
            if self.connection is None:
                self.connection = socket.create_connection(("127.0.0.1", self.world.port), 10)
            lines = [f"{method} {url} HTTP/1.1", "Host: test", *(f"{name}: {value}" for name, value in headers.items())]
            self.connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            got = b""
            while b"\r\n\r\n" not in got:
                got += self.receive()
            head, _, body = got.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            length = int(fields["content-length"])
            parts, missing = [body], length - len(body)
            while missing > 0:
                parts.append(self.receive())
                missing -= len(parts[-1])
            if fields.get("connection", "").lower() == "close":
                self.hang_up()
            return int(lines[0].split()[1]), length, b"".join(parts), fields.get("x-hits")
        except OSError:
            # What broke off was never acknowledged, and nobody took it for whole.
            self.hang_up()
            return None

    def receive(self):
        got = self.connection.recv(1 << 18)
        if not got:
            raise ConnectionError("closed in mid-answer")
        return got

    def hang_up(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def get(self, url, variant):
        with self.model.lock:
            least = self.model.least[url]
        answer = self.ask("GET", url, {"Foo": variant} if url.startswith("/v") else {})
        if answer is not None:
            self.model.judge(url, variant, least, *answer[:3])
        return answer

    def change(self, url, method, headers, banned=None):
        """A new version, then the old one removed; acknowledged when the answer is 200."""
        with self.model.lock:
            changed = banned or [url]
            begin = time.monotonic()
            for one in changed:
                self.model.touched[one] = time.monotonic()
            with self.model.origin.lock:
                new = {}
                for one in changed:
                    self.model.origin.versions[one] += 1
                    new[one] = self.model.origin.versions[one]
        answer = self.ask(method, url, headers)
        with self.model.lock:
            for one in changed:
                self.model.touched[one] = time.monotonic()
                if answer is not None and answer[0] == 200:
                    self.model.least[one] = max(self.model.least[one], new[one])
                    self.model.removing[one] = max(self.model.removing.get(one, 0), begin)

    def a_ban(self, url):
        """What patterns are compiled to is of use to one process only."""
        return {"X-Ban": self.random.choice((f"req.url == {url}", f"req.url ~ ^{url}$"))}

    def run(self):
        while not self.stop.is_set():
            url = self.random.choice(self.model.urls)
            dice = self.random.random()
            if self.ban_pause is not None:
                self.change(url, "BAN", self.a_ban(url))
                self.stop.wait(self.ban_pause)
            elif dice < 0.97:
                if self.get(url, self.random.choice("ab") if url.startswith("/v") else "a") is None:
                    time.sleep(0.01)
            elif dice < 0.985:
                self.change(url, "PURGE", {})
            elif dice < 0.993:
                self.change(url, "BAN", self.a_ban(url))
            else:
                tag = int(re.sub(r"\D", "", url)) % 10
                matching = [u for u in self.model.urls if int(re.sub(r"\D", "", u)) % 10 == tag]
                self.change(url, "BAN", {"X-Ban": f"obj.http.X-Tag == t{tag}"}, matching)


def crash(world, how):
    if how == "child":
        world.kill_child()
    elif how == "varnishd":
        world.end_varnishd(signal.SIGKILL)
        world.start_varnishd()
    elif how == "varnishd-stop":
        world.end_varnishd(signal.SIGTERM)
        world.start_varnishd()
    elif how == "daemon":
        world.end_daemon(signal.SIGKILL)
        time.sleep(0.1)
        world.start_daemon()
    elif how == "daemon-then-child":
        world.end_daemon(signal.SIGKILL)
        world.start_daemon()
        world.kill_child()
    else:
        world.end_daemon(signal.SIGKILL)
        world.end_varnishd(signal.SIGKILL)
        world.start_daemon()
        world.start_varnishd()


CRASHES = ["child", "varnishd", "varnishd-stop", "daemon", "daemon-then-child", "both"]


def one_round(number, how, world, model, options, rng):
    """Load, crash in the middle of it, load again; then everything that was acknowledged must be a hit."""
    stop = threading.Event()
    clients = [Client(model, world, rng.random(), stop, None) for _ in range(options.clients)]
    if options.bans_per_second:
        clients.append(Client(model, world, rng.random(), stop, 1 / options.bans_per_second))
    for client in clients:
        client.start()
    time.sleep(options.load * (0.4 + 1.2 * rng.random()))
    crashed = time.monotonic()
    with model.lock:
        before = dict(model.seen)
        least = dict(model.least)
    stop_before = rng.random() < 0.5
    if stop_before:  # half of the time nothing is under way when they are asked again
        stop.set()
        for client in clients:
            client.join()
        with model.lock:
            before = dict(model.seen)
            least = dict(model.least)
        crashed = time.monotonic()
    crash(world, how)
    if not stop_before:
        time.sleep(0.2)
        stop.set()
        for client in clients:
            client.join()
    probe = Client(model, world, 0, stop, None)
    eligible = hits = 0
    missed = []
    for (url, variant), version in sorted(before.items()):
        if version < least.get(url, 0) or model.touched.get(url, 0) > crashed:
            continue
        if version < model.origin.versions[url]:
            continue  # a removal that was attempted, and may or may not have happened
        eligible += 1
        answer = probe.get(url, variant) or probe.get(url, variant)
        if answer is not None and answer[0] == 200 and answer[3] not in (None, "0"):
            hits += 1
        else:
            missed.append(f"{url} {variant}")
            if answer is None:
                reason = "no answer"
            elif answer[0] != 200:
                reason = f"status {answer[0]}"
            else:
                reason = "fetched again"
            model.misses[f"{reason} after {how}"] += 1
    model.eligible += eligible
    model.hits += hits
    share = hits / eligible if eligible else 1
    adopted, dropped = world.counter("OBJM.store.c_adopted"), world.counter("OBJM.store.c_adopt_dropped")
    print(f"round {number:3} {how:18} judged {model.judged:7} eligible {eligible:5} hits {hits:5} adopted {adopted} "
          f"dropped {dropped}", flush=True)
    if share < 0.99:
        model.wrong.append(f"round {number} ({how}): {hits} of {eligible} are hits; missed: {', '.join(missed[:8])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--load", type=float, default=0.8, help="seconds of load before each crash, on average")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--urls", type=int, default=400)
    parser.add_argument("--bans-per-second", type=float, default=0)
    parser.add_argument("--keep", action="store_true", help="leave the directory behind")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print(f"seed {options.seed}", flush=True)
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    directory = tempfile.mkdtemp(prefix="omwarm.", dir=base)
    os.chmod(directory, 0o755)
    origin = Origin()
    world = World(origin, directory)
    urls = [f"/t{n}" for n in range(options.urls * 3 // 4)] + [f"/v{n}" for n in range(options.urls // 4)]
    model = Model(origin, urls)
    try:
        world.start_daemon()
        world.start_varnishd()
        filler = Client(model, world, 0, threading.Event(), None)
        for url in urls:
            for variant in "ab" if url.startswith("/v") else "a":
                filler.get(url, variant)
        for number in range(options.rounds):
            how = CRASHES[number % len(CRASHES)] if number < len(CRASHES) else rng.choice(CRASHES)
            one_round(number, how, world, model, options, rng)
            if model.wrong:
                break
    finally:
        world.end()
        if model.wrong or sys.exc_info()[0] is not None:
            with open(os.path.join(directory, "log"), encoding="utf-8", errors="replace") as file:
                print("---- log\n" + file.read()[-8000:])
        if options.keep:
            print(f"left in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    for sentence in model.wrong[:20]:
        print("WRONG:", sentence)
    share = 100 * model.hits / max(1, model.eligible)
    reasons = ", ".join(f"{count} {reason}" for reason, count in model.misses.most_common()) or "none"
    print(f"{options.rounds} rounds, {model.judged} answers judged, {len(model.wrong)} wrong, seed {options.seed}; "
          f"{len(model.overtaken)} removals of what was on its way from the origin")
    print(f"{model.hits} of {model.eligible} that were acknowledged are hits ({share:.2f} %); misses: {reasons}")
    return 1 if model.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
