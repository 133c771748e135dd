#!/usr/bin/env python3
"""The daemon is restarted under a varnishd that serves, and what is leased there is leased again, under trouble: it
hangs meanwhile, it has less memory than that needs, varnishd has no descriptors left.

Every body is compared; no answer may be late; what was leased again is in the store.
"""

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from caches import BUILD, WAIT_S, World, body_of, wait_until  # noqa: E402
from protocol import client as protocol  # noqa: E402
from support.daemon import OBJM, TIME_FACTOR  # noqa: E402

SOURCE = os.environ.get("OM_SOURCE_DIR", os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
VCL = 'sub vcl_backend_fetch { objm.set_key("k:" + bereq.url); }'
BODIES = 40
BODY_BYTES = 2_000_000
# The director's time limit, and how late an answer may be: a busy machine has its own ideas.
TIMEOUT = "500ms"
LATE_S = 5 * TIME_FACTOR


class Steady:
    """One connection, for when there is no descriptor for another."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def close(self):
        self.connection.close()

    def get(self, path):
        self.connection.request("GET", path)
        response = self.connection.getresponse()
        return response.status, response.headers, response.read()


class Relay:
    """Stands between the caches and the daemon. Questions about many keys at once, as only those are that take leases
    again, are kept back while `go` is not set, with all that comes behind them over the same connection."""

    def __init__(self, path, daemon_socket):
        self.path = path
        self.daemon_socket = daemon_socket
        self.go = threading.Event()
        self.go.set()
        self.keeps_back = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                daemon.connect(self.daemon_socket)
            except OSError:
                client.close()
                daemon.close()
                continue
            for source, target in ((client, daemon), (daemon, client)):
                threading.Thread(target=self.pump, args=(source, target, source is client), daemon=True).start()

    def pump(self, source, target, are_requests):
        try:
            while True:
                packet, descriptors, _, _ = socket.recv_fds(source, 1 << 17, 8)
                if not packet:
                    break
                if are_requests and not self.go.is_set() and self.is_for_many(packet):
                    self.keeps_back.set()
                    self.go.wait()
                try:
                    socket.send_fds(target, [packet], descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        source.close()  # the other pump closes its own

    @staticmethod
    def is_for_many(packet):
        kind, = struct.unpack_from("<H", packet, 4)
        return kind == protocol.GET and struct.unpack_from("<I", packet, 24)[0] > 1

    def close(self):
        self.go.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Renewal(unittest.TestCase):
    def begin(self, relay=False, **world):
        """A cache that has taken over all of a store that somebody else has filled."""
        self.world = World(vcl=VCL, timeout=TIMEOUT, store="16MB", **world)
        self.addCleanup(self.world.close)
        if relay:
            self.relay = Relay(os.path.join(self.world.directory, "relay.sock"), self.world.daemon.socket)
            self.addCleanup(self.relay.close)
            self.world.socket = self.relay.path
        self.cache = self.world.cache()
        # Connections are to stay.
        self.cache.admin("param.set", "timeout_idle", "300")
        self.bodies = {}  # by URL
        file = os.path.join(self.world.directory, "body")
        more = ["disk", "1"] if "disk" in world else []
        for number in range(BODIES):
            url = f"/{number}?size={BODY_BYTES}"
            self.bodies[url] = body_of(f"/{number}", BODY_BYTES)
            with open(file, "wb") as out:
                out.write(self.bodies[url])
            subprocess.run([os.path.join(BUILD, "test", "put_shared"), self.world.daemon.socket, "k:" + url, "header",
                            "Cache-Control: max-age=1000", "ttl", "1000", *more, "file", file],
                           stdout=subprocess.DEVNULL, check=True)
            self.assertEqual(self.get(url)[1], 0)
        self.assertEqual(self.cache.counter("c_taken_over"), BODIES)
        self.assertEqual(self.store_counter("g_leases"), BODIES)
        self.assertEqual(self.world.origin.total(), 0)

    def get(self, url, get=None):
        """Status and hits; the body is right, and not late."""
        begin = time.monotonic()
        status, headers, body = (get or self.cache.get)(url)
        self.assertLess(time.monotonic() - begin, LATE_S, url)
        if status == 200:
            path, _, size = url.partition("?size=")
            self.assertTrue(body == (self.bodies.get(url) or body_of(path, int(size))), f"the body of {url}")
        return status, int(headers["X-Hits"])

    def assert_hits(self, get=None):
        for url in self.bodies:
            status, hits = self.get(url, get)
            self.assertEqual(status, 200, url)
            self.assertGreater(hits, 0, url)

    def store_counter(self, name):
        return self.cache.counter(name, of="OBJM.store")

    def stored(self):
        done = subprocess.run([OBJM, "--socket", self.world.daemon.socket, "list", "--json"], stdout=subprocess.PIPE,
                              text=True, check=True)
        return {json.loads(line)["key"] for line in done.stdout.splitlines()}

    def no_orphans(self):
        with protocol.Connection(self.world.daemon.socket) as connection:
            return connection.status()["holders.orphans"] == 0

    def restart_daemon(self, descriptors=None):
        """The cache may open so many more files, from before the next one is there."""
        self.world.daemon.kill()
        wait_until(lambda: self.cache.counter("g_up") == 0, "the director sees that it has gone", WAIT_S)
        if descriptors:
            self.leave_descriptors(descriptors)
        self.world.daemon.start()
        self.world.open_socket()

    def wait_up(self):
        wait_until(lambda: self.cache.counter("g_up") == 1, "the director sees the next one", WAIT_S)

    def leave_descriptors(self, free):
        """Varnishd's child may open so many more files than it has open."""
        subprocess.run([sys.executable, os.path.join(SOURCE, "vmod/tests/run_vtc.py"), "ctl", self.world.directory,
                        "descriptors", str(self.cache.process.pid), str(free)], check=True)

    def assert_all_leased_again(self, get=None):
        wait_until(lambda: self.store_counter("c_lease_renewed") == BODIES, "all are leased again", 60)
        self.assertEqual(self.store_counter("c_lease_dropped"), 0)
        self.assertEqual(self.store_counter("g_leases"), BODIES)
        wait_until(self.no_orphans, "nothing of the earlier life is left", WAIT_S)
        self.assertLessEqual({"k:" + url for url in self.bodies}, self.stored())
        self.assert_hits(get)
        for url in self.bodies:
            self.assertEqual(self.world.origin.count(url.partition("?")[0]), 0, url)

    # ---

    def test_without_descriptors(self):
        self.begin(disk="256M")
        steady = Steady(self.cache.port)
        self.addCleanup(steady.close)
        self.get("/small?size=100", steady.get)
        # None for the connections to the daemon.
        self.restart_daemon(descriptors=4)
        self.assert_hits(steady.get)
        self.assertEqual(self.cache.counter("g_up"), 0)
        self.assertEqual(self.store_counter("c_lease_renewed"), 0)
        # For those, and one for each body comes free as its lease is taken again: 32 at a time have no room.
        self.leave_descriptors(8)
        self.wait_up()
        self.assert_all_leased_again(steady.get)

    def test_the_daemon_hangs_meanwhile(self):
        # Half of it for each of the director's two connections: no room for leases that were asked for twice.
        self.begin(relay=True, memory="144M")
        self.relay.go.clear()
        self.restart_daemon()
        self.wait_up()
        wait_until(self.relay.keeps_back.is_set, "the daemon is to be asked for leases", WAIT_S)
        wait_until(lambda: self.cache.counter("g_current", of="OBJMR.*") == 1, "directors may be used", WAIT_S)
        self.addCleanup(self.world.daemon.signal, signal.SIGCONT)
        self.world.daemon.signal(signal.SIGSTOP)
        self.relay.go.set()
        # More than the breaker needs.
        for number in range(8):
            self.assertEqual(self.get(f"/missing/{number}?size=50000"), (200, 0))
        # A miss of what nobody has may need no answer; to publish it does.
        self.assertGreater(self.cache.counter("c_timeout") + self.cache.counter("c_tee_late"), 0)
        self.assert_hits()
        self.assertEqual(self.store_counter("c_lease_renewed"), 0)
        self.assertEqual(self.store_counter("c_lease_dropped"), 0)
        self.world.daemon.signal(signal.SIGCONT)
        self.assert_all_leased_again()
        wait_until(lambda: self.cache.counter("g_up") == 1, "it is asked again", WAIT_S)

    def test_less_memory_than_the_leases_need(self):
        self.begin(memory="256M")
        # Half of it for each of the director's two connections, and not so much beside the region.
        self.world.daemon.memory = "56M"
        self.restart_daemon()
        self.wait_up()
        wait_until(self.no_orphans, "nothing of the earlier life is left", 60)
        self.assertGreater(self.store_counter("c_lease_dropped"), 0)
        self.assertGreater(self.store_counter("c_lease_renewed"), 0)
        stored = self.stored()
        kept = 0
        for url in self.bodies:
            status, hits = self.get(url)
            self.assertEqual(status, 200, url)
            if hits:
                kept += 1
                self.assertIn("k:" + url, stored)
        self.assertGreater(kept, 0)
        self.assertLess(kept, BODIES)
        for url in self.bodies:
            self.assertEqual(self.get(url)[0], 200, url)


if __name__ == "__main__":
    unittest.main()
