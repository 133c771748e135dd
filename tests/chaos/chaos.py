#!/usr/bin/env python3
"""Mixed load on a real varnishd while objmapperd is killed, stopped and restarted, and VCLs come and go.

    chaos.py [--seconds N] [--seed S] [--clients N] [--keep]

Whole answers, ranges, answers that were left in the middle, gzip and identity, ESI, HTTP/2, conditional requests,
purges and bans: every byte is judged (pages.py). Afterwards:

    no panic, and the child is the one that was started
    no request failed that the origin answered
    descriptors of the child, mappings of the regions: back at their level
    everything banned: g_objects and n_object are 0, the space of the regions is back
"""

import argparse
import http.client
import json
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
import zlib

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from chaos.pages import Model, Origin, Wrong, body_of, length_of  # noqa: E402
from support.daemon import BUILD, Daemon, wait_until  # noqa: E402
from support.reachable import reachable  # noqa: E402

SOURCE = os.environ.get("OM_SOURCE_DIR", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
URLS = {"k": 120, "c": 80, "z": 24, "t": 24, "g": 24, "s": 12, "v": 30, "p": 10, "h": 10, "d": 4, "e": 10, "E": 10, "f": 20}

VCL = """vcl 4.1;
import objmapper from "%(vmod)s";
include "%(include)s";
backend default { .host = "127.0.0.1"; .port = "%(port)d"; .first_byte_timeout = 30s; }
sub vcl_init {
  new store = objmapper.storage(socket = "%(socket)s", memory = 64MB);
  new second = objmapper.storage(socket = "%(socket)s", memory = 16MB);
  store.set_default();
}
sub vcl_recv {
  if (req.url == "/ready") { return (synth(200)); }
  call objmapper_recv;
  if (req.url ~ "^/p") { return (pass); }
}
sub vcl_backend_response {
  set beresp.http.X-Url = bereq.url;
  set beresp.ttl = 1h;
  set beresp.grace = 0s;
  if (bereq.url ~ "^/[eE]") { set beresp.do_esi = true; }
  if (bereq.url ~ "^/[gE]") { set beresp.do_gzip = true; }
  if (bereq.url ~ "^/s") { set beresp.ttl = 1s; set beresp.grace = 2s; set beresp.keep = 1m; }
  if (bereq.url ~ "^/h") { set beresp.ttl = 2s; set beresp.uncacheable = true; }
  if (bereq.url ~ "^/v") { set beresp.storage = second.storage(); }
}
sub vcl_deliver { set resp.http.X-Hits = obj.hits; }
"""


class World:
    def __init__(self, origin, directory):
        self.directory = directory
        self.log = open(os.path.join(directory, "log"), "ab")
        self.daemon = Daemon(memory="128M", start=False)
        os.chmod(self.daemon.directory, 0o755)
        self.start_daemon()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.vcl = os.path.join(directory, "chaos.vcl")
        with open(self.vcl, "w", encoding="utf-8") as file:
            file.write(VCL % {"vmod": reachable(f"{BUILD}/lib/libvmod_objmapper.so"), "include": reachable(f"{SOURCE}/vmod/objmapper.vcl"), "port": origin.port, "socket": self.daemon.socket})
        parameters = ["shortlived=0", "nuke_limit=2000", "ban_lurker_age=0.1", "ban_lurker_sleep=0.01",
                      "thread_pool_min=40", "feature=+http2,+esi_disable_xml_check", "thread_pool_timeout=10", "timeout_idle=60", "backend_idle_timeout=1", "vsl_mask=-VCL_call,-VCL_return"]
        if shutil.which("tcc"):
            parameters.append("cc_command=exec tcc -shared -fpic -w -o %o %s")
        command = ["varnishd", "-F", "-n", f"{directory}/v", "-a", f"127.0.0.1:{self.port}", "-f", self.vcl, "-s",
                   "malloc,64m"]
        for one in parameters:
            command += ["-p", one]
        self.varnishd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until(self.serves, "varnishd to answer", 30)
        self.child, = self.children()

    def start_daemon(self):
        self.daemon.start()
        os.chmod(self.daemon.socket, 0o666)

    def serves(self):
        if self.varnishd.poll() is not None:
            raise AssertionError("varnishd ended")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def children(self):
        with open(f"/proc/{self.varnishd.pid}/task/{self.varnishd.pid}/children", encoding="utf-8") as file:
            return [int(word) for word in file.read().split()]

    def admin(self, *words):
        done = subprocess.run(["varnishadm", "-n", f"{self.directory}/v", *words], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def counters(self):
        done = subprocess.run(["varnishstat", "-1", "-j", "-n", f"{self.directory}/v"], capture_output=True, text=True, check=True)
        return {name: one["value"] for name, one in json.loads(done.stdout)["counters"].items()}

    def regions_mapped(self):
        with open(f"/proc/{self.child}/maps", encoding="utf-8") as file:
            return sum("/regions/" in line for line in file)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.child}/fd"))

    def end(self):
        if hasattr(self, "varnishd") and self.varnishd.poll() is None:
            self.varnishd.terminate()
            try:
                self.varnishd.wait(20)
            except subprocess.TimeoutExpired:
                self.varnishd.kill()
        if self.daemon.alive():
            self.daemon.signal(signal.SIGCONT)
        self.daemon.close()
        self.log.close()


class Client(threading.Thread):
    """Asks one thing after another; what is wrong goes to `complaints`."""

    def __init__(self, world, model, seed, stop, complaints, tally):
        super().__init__(daemon=True)
        self.world, self.model, self.stop, self.complaints, self.tally = world, model, stop, complaints, tally
        self.random = random.Random(seed)
        self.connection = None

    def run(self):
        while not self.stop.is_set():
            kind, = self.random.choices(list(URLS), weights=[v + 20 for v in URLS.values()])
            url = "/%s%d" % (kind, self.random.randrange(URLS[kind]))
            deed, = self.random.choices([self.get, self.gzip, self.range, self.leave, self.conditional, self.head, self.http2,
                                         self.purge, self.ban], weights=[40, 15, 15, 6, 6, 3, 1, 4, 4])
            try:
                self.tally[deed.__name__] = self.tally.get(deed.__name__, 0) + 1
                deed(url)
            except Wrong as wrong:
                self.complaints.append("%s %s: %s" % (deed.__name__, url, wrong))
            except (OSError, http.client.HTTPException) as error:
                self.complaints.append("%s %s: %r" % (deed.__name__, url, error))
                self.close()
        self.close()

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def ask(self, method, url, headers=None):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.world.port, timeout=60)
        headers = dict(headers or {}, Host="test")
        if url.startswith("/v"):
            headers["Foo"] = self.random.choice("ab")
        reused = self.connection.sock is not None
        try:
            self.connection.request(method, url, headers=headers)
            return self.connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # A server may close a connection between two requests (RFC 9112 section 9.3.1): Varnish does after timeout_idle,
            # and after a body that its origin broke off. On a fresh connection nothing excuses it.
            if not reused:
                raise
            self.tally["reconnect"] = self.tally.get("reconnect", 0) + 1
            self.close()
            return self.ask(method, url, headers)

    def body(self, url, answer):
        """The bytes, or None when the origin broke off as it was to; else that is wrong."""
        if url[1] == "d":
            version = int(answer.getheader("X-Version") or 0)
            try:
                data = answer.read()
                if answer.status == 200:
                    raise Wrong("%d bytes look whole though the origin broke off" % len(data))
            except (http.client.IncompleteRead, OSError) as broken:
                data = getattr(broken, "partial", b"")
                if not body_of(url, version).startswith(data):
                    raise Wrong("mixed: not the first bytes of version %d" % version) from None
                self.close()
            return None
        if answer.status not in (200, 206, 304):
            answer.read()
            raise Wrong("status %d" % answer.status)
        try:
            return answer.read()
        except (http.client.IncompleteRead, OSError) as broken:
            data = getattr(broken, "partial", b"")
            self.close()
            raise Wrong("broke off after %d bytes, of %s" % (len(data), answer.getheader("Content-Length"))) from None

    def judge(self, url, answer, data, removals):
        if url[1] not in "eE":
            version = int(answer.getheader("X-Version"))
            self.model.check_version(url, version, removals)
            if data != body_of(url, version):
                raise Wrong("mixed: not the bytes of version %d" % version)
        elif self.model.check_whole(url, data, removals) != len(data):
            raise Wrong("mixed: more than it should be")

    def get(self, url, headers=None):
        removals = self.model.snapshot(url)
        answer = self.ask("GET", url, headers)
        data = self.body(url, answer)
        if data is None:
            return
        if answer.getheader("Content-Encoding") == "gzip":
            unpacker = zlib.decompressobj(31)
            data = unpacker.decompress(data) + unpacker.flush()
            if not unpacker.eof:
                raise Wrong("torn: the gzip stream has no end")
        self.judge(url, answer, data, removals)

    def gzip(self, url):
        self.get(url, {"Accept-Encoding": "gzip"})

    def range(self, url):
        if url[1] in "eEd":
            return self.get(url)
        length = max(1, len(body_of(url, 0)))
        first = self.random.randrange(length)
        last = min(length - 1, first + self.random.choice((0, 10, 5000, 1 << 20, 8 << 20)))
        asked = self.random.choice(("bytes=%d-%d" % (first, last), "bytes=%d-" % first, "bytes=-%d" % (last - first + 1)))
        removals = self.model.snapshot(url)
        answer = self.ask("GET", url, {"Range": asked})
        if answer.status == 416:
            answer.read()
            return None
        data = self.body(url, answer)
        if answer.status == 200:
            return self.judge(url, answer, data, removals)
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.getheader("Content-Range") or "")
        if not found:
            raise Wrong("206 with Content-Range %r" % answer.getheader("Content-Range"))
        version = int(answer.getheader("X-Version"))
        self.model.check_version(url, version, removals)
        if data != body_of(url, version)[int(found[1]):int(found[2]) + 1] or len(data) != int(found[2]) - int(found[1]) + 1:
            raise Wrong("mixed: %s is not that of version %d" % (found[0], version))
        return None

    def leave(self, url):
        """Reads a part, slowly now and then, and goes."""
        if url[1] in "eEd":
            return
        answer = self.ask("GET", url)
        if answer.status != 200:
            raise Wrong("status %d" % answer.status)
        data = b""
        for _ in range(self.random.randrange(8)):
            data += answer.read(self.random.choice((100, 20000, 200000)))
            if self.random.random() < 0.2:
                self.stop.wait(0.05)
        version = int(answer.getheader("X-Version"))
        self.close()
        if not body_of(url, version).startswith(data):
            raise Wrong("mixed: not the first bytes of version %d" % version)

    def conditional(self, url):
        if url[1] in "eEd":
            return self.get(url)
        removals = self.model.snapshot(url)
        tag = '"%d"' % self.model.current(url)
        answer = self.ask("GET", url, {"If-None-Match": tag})
        data = self.body(url, answer)
        if answer.status == 304:
            if (answer.getheader("ETag") or "").removeprefix("W/") != tag:
                raise Wrong("304 with ETag %s, asked with %s" % (answer.getheader("ETag"), tag))
            return None
        return self.judge(url, answer, data, removals)

    def head(self, url):
        answer = self.ask("HEAD", url)
        answer.read()
        if answer.status != 200 and url[1] != "d":
            raise Wrong("status %d" % answer.status)

    def http2(self, url):
        if not shutil.which("nghttp") or url[1] in "dv":
            return
        removals = self.model.snapshot(url)
        done = subprocess.run(["nghttp", "--no-dep", f"http://127.0.0.1:{self.world.port}{url}", "-H", ":authority: test",
                               "-H", "accept-encoding: identity"],
                              capture_output=True, check=False, timeout=60)
        if done.returncode != 0:
            raise Wrong("nghttp ended with %d: %s" % (done.returncode, done.stderr[-200:]))
        if url[1] not in "eE" and len(done.stdout) != length_of(url):
            raise Wrong("%d bytes: %s" % (len(done.stdout), done.stderr[-500:]))
        if len(done.stdout) >= 100:
            if self.model.check_whole(url, done.stdout, removals) != len(done.stdout):
                raise Wrong("mixed: more than it should be")

    def change(self, url, method, headers):
        if url[1] == "d":
            return
        version, when = self.model.bump(url)
        answer = self.ask(method, url, headers)
        answer.read()
        if answer.status != 200:
            raise Wrong("status %d" % answer.status)
        self.model.removed(url, version, when)

    def purge(self, url):
        self.change(url, "PURGE", {})

    def ban(self, url):
        ban = self.random.choice((f"obj.http.X-Url == {url}", f"req.url == {url}", f"obj.http.X-Url ~ ^{url}$", f"req.url ~ ^{url}$"))
        self.change(url, "BAN", {"X-Ban": ban})


def disturb(world, rng, stop, tally):
    """Until the time is up. The daemon runs, and is not stopped, when it returns."""
    loaded = "boot"
    number = 0
    while not stop.wait(rng.random() * 0.7):
        what = rng.choice(("kill", "pause", "restart", "reload", "reload", "away"))
        tally[what] = tally.get(what, 0) + 1
        if what == "pause":
            world.daemon.signal(signal.SIGSTOP)
            stop.wait(rng.random() * 2)
            world.daemon.signal(signal.SIGCONT)
        elif what == "restart":
            world.daemon.stop()
            world.start_daemon()
        elif what in ("kill", "away"):
            world.daemon.kill()
            if what == "away":
                # A VCL that is loaded without a daemon, too.
                stop.wait(rng.random() * 2)
                number += 1
                world.admin("vcl.load", f"away{number}", world.vcl)
                world.admin("vcl.discard", f"away{number}")
            world.start_daemon()
        else:
            number += 1
            new = f"vcl{number}"
            for words in (("vcl.load", new, world.vcl), ("vcl.use", new), ("vcl.discard", loaded)):
                code, text = world.admin(*words)
                if code != 0:
                    raise AssertionError("%s: %s" % (" ".join(words), text))
            loaded = new


def settled(read, wanted, what, seconds=40):
    """Polls until wanted(read()) is true; a complaint otherwise."""
    end = time.monotonic() + seconds
    while True:
        value = read()
        if wanted(value):
            return None
        if time.monotonic() > end:
            return "%s: %s" % (what, value)
        time.sleep(0.1)


def total(counters, pattern):
    return sum(value for name, value in counters.items() if re.fullmatch(pattern, name))


def afterwards(world, first, complaints):
    if world.children() != [world.child]:
        complaints.append("the child is not the one that was started: %s, %s" % (world.children(), world.child))
        complaints.append(world.admin("panic.show")[1][:3000])
        return
    if world.admin("panic.show")[0] == 0:
        complaints.append(world.admin("panic.show")[1][:3000])
    checks = [
        settled(world.counters, lambda c: c["OBJM.store.g_daemon_up"] == 1 and c["OBJM.second.g_daemon_up"] == 1,
                "not connected to the daemon"),
        settled(world.descriptors, lambda n: n <= first["descriptors"] + 2, "descriptors, at first %d" % first["descriptors"]),
    ]
    if world.regions_mapped() != first["regions"]:
        checks.append("mappings of regions: %d, at first %d" % (world.regions_mapped(), first["regions"]))
    # Elsewhere are only those that the store did not take, and what is no object of its own. What a client left
    # behind may still be on its way, and counters are not read all at once.
    def objects():
        counters = world.counters()
        return (counters["MAIN.n_object"], total(counters, r"OBJM\..*\.g_objects"),
                total(counters, r"OBJM\..*\.c_fallback.*") + total(counters, r"SMA\.Transient\.g_alloc"))

    checks.append(settled(objects, lambda n: n[1] <= n[0] <= n[1] + n[2], "objects in Varnish, in the stores, elsewhere"))
    code, text = world.admin("ban", "obj.status != 0")
    if code != 0:
        checks.append("ban: " + text)
    checks.append(settled(world.counters, lambda c: total(c, r"OBJM\..*\.g_objects") == 0 and c["MAIN.n_object"] == 0,
                          "objects are left after everything was banned"))
    for store in ("store", "second"):
        read = lambda: {k: v for k, v in world.counters().items() if k.startswith("OBJM.%s." % store)}
        # What is left are pages of the index.
        checks.append(settled(read, lambda c: c["OBJM.%s.g_bytes" % store] <= first["bytes"][store] + (1 << 20),
                              "space did not come back, at first %d" % first["bytes"][store], 10))
        now = read()
        if now["OBJM.%s.c_bytes" % store] - now["OBJM.%s.c_freed" % store] != now["OBJM.%s.g_bytes" % store]:
            checks.append("bytes allocated and freed do not add up: %s" % now)
    complaints += [one for one in checks if one]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--keep", action="store_true", help="leave the directory behind")
    options = parser.parse_args()
    print("seed", options.seed, flush=True)
    rng = random.Random(options.seed)
    directory = tempfile.mkdtemp(prefix="omchaos.")
    os.chmod(directory, 0o755)
    model = Model()
    origin = Origin(model)
    world, complaints, tally = None, [], {}
    try:
        world = World(origin, directory)
        counters = world.counters()
        first = {"descriptors": world.descriptors(), "regions": world.regions_mapped(),
                 "bytes": {store: counters["OBJM.%s.g_bytes" % store] for store in ("store", "second")}}
        stop = threading.Event()
        clients = [Client(world, model, rng.random(), stop, complaints, tally) for _ in range(options.clients)]
        for client in clients:
            client.start()
        timer = threading.Timer(options.seconds, stop.set)
        timer.start()
        try:
            disturb(world, rng, stop, tally)
        finally:
            timer.cancel()
            stop.set()
            for client in clients:
                client.join(90)
        before = {k: v for k, v in world.counters().items() if k.startswith("OBJM.") and v}
        afterwards(world, first, complaints)
        print(" ".join("%s %d" % one for one in sorted(tally.items())))
        print("origin: %d answers, %d confirmations;" % (origin.answered, origin.confirmed),
              " ".join("%s %d" % one for one in before.items() if re.search("nuked|shared|fallback|fail|connects", one[0])))
    except Exception as error:  # pylint: disable=broad-except
        complaints.append("%r" % error)
        if world is None:
            raise
    finally:
        if world is not None:
            if complaints:
                print("---- objmapperd\n" + world.daemon.log()[-3000:])
            world.end()
        if complaints:
            with open(os.path.join(directory, "log"), encoding="utf-8", errors="replace") as file:
                print("---- varnishd\n" + file.read()[-6000:])
        if options.keep:
            print("left in", directory)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    for one in complaints[:30]:
        print("WRONG:", one)
    print("%d deeds, %d wrong, seed %d" % (sum(tally.values()), len(complaints), options.seed))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
