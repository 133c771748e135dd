"""A reader is stopped (SIGSTOP) in the midst of reading; the daemon is killed and started again; the
store is filled several times over; the reader goes on. The bytes that it was promised are there.

At the level of the store, and with varnishd and the VMOD, where the reader is Varnish's child and
the client takes its answer slowly.
"""

import grp
import http.server
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

from crash import load
from protocol import client as om
from support.daemon import BUILD, Daemon, wait_until
from support.reachable import reachable

SOURCE = os.environ.get("OM_SOURCE_DIR", os.path.join(os.path.dirname(__file__), "../.."))
VMOD = os.path.join(BUILD, "lib", "libvmod_objmapper.so")
MIB = 1 << 20


def fill(daemon, prefix, megabytes, **more):
    """Puts that much; older objects make room."""
    refused = 0
    with om.Connection(daemon.socket) as connection:
        for i in range(megabytes * 2):
            key = b"%s/k%d" % (prefix, i)
            try:
                connection.put(key, load.make_body(key, i + 1, MIB // 2), **more)
            except om.Failure as failure:
                if failure.status not in load.MISSES:
                    raise
                refused += 1
    return refused


def stopped_reader(socket_path, bodies):
    """Leases all, reads a part of each, stops; then reads all again, to the end."""
    connection = om.Connection(socket_path)
    connection.socket.settimeout(None)
    items = connection.get(*bodies)
    assert all(item["status"] == om.OK for item in items), [item["status"] for item in items]
    mappings = []
    for item in items:
        for extent in item["extents"]:
            descriptor = connection.segments[(extent["segment"], 0)]
            if item["info"]["tier"] == 0:
                mapping, skip = om.map_extent(descriptor, extent)
                mappings.append((mapping, skip, extent["length"]))
    os.kill(os.getpid(), signal.SIGSTOP)
    for item, body in zip(items, bodies.values()):
        assert connection.read(item) == body, "wrong bytes by pread"
    seen = b"".join(mapping[skip:skip + length] for mapping, skip, length in mappings)
    whole = b"".join(body for item, body in zip(items, bodies.values())
                     if item["info"]["tier"] == 0)
    assert seen == whole, "wrong bytes in the mapping"
    connection.close()


def stopped_by_the_board(socket_path, bodies):
    """As stopped_reader(), with leases that the daemon was never asked for."""
    connection = om.Connection(socket_path, features=om.BOARD)
    connection.socket.settimeout(None)
    connection.release(*(item["lease_id"] for item in connection.get(*bodies)))
    connection.status()  # they have gone back
    # After a crash of the daemon their neighbours stay for as long as somebody has this file: what
    # stays is to be the page's doing.
    os.close(connection.lease_file)
    connection.lease_file = None
    items = [connection.get_by_board(key) for key in bodies]
    assert all(items), "not shown"
    mappings = [om.map_extent(connection.segments[(item["extents"][0]["segment"], 0)], item["extents"][0])
                for item in items]
    os.kill(os.getpid(), signal.SIGSTOP)
    for item, (mapping, skip), body in zip(items, mappings, bodies.values()):
        assert connection.read(item) == body, "wrong bytes by pread"
        assert mapping[skip:skip + len(body)] == body, "wrong bytes in the mapping"
    connection.close()


class StoppedReader(unittest.TestCase):
    def stop_reader(self, daemon, bodies, reader=stopped_reader):
        pid = load.fork(reader, daemon.socket, bodies)
        _, status = os.waitpid(pid, os.WUNTRACED)
        self.assertTrue(os.WIFSTOPPED(status), "the reader fell before it was stopped")
        return pid

    def test_the_store(self):
        with Daemon(memory="24M", disk="48M") as daemon:
            bodies = {}
            with om.Connection(daemon.socket) as connection:
                for i in range(24):
                    key = b"leased/k%d" % i
                    bodies[key] = load.make_body(key, i + 1, (700, 90_000, 300_000)[i % 3])
                    connection.put(key, bodies[key],
                                   flags=(0, om.DISK, om.EPHEMERAL, om.DIRECT)[i % 4])
            readers = [self.stop_reader(daemon, bodies) for _ in range(2)]
            try:
                with om.Connection(daemon.socket) as connection:
                    for i, key in enumerate(bodies):
                        if i % 3 == 0:
                            connection.delete(key)
                        elif i % 3 == 1:
                            connection.put(key, b"another one")
                refused = fill(daemon, b"before", 60)
                for _ in range(2):
                    daemon.kill()
                    daemon.start()
                    refused += fill(daemon, b"memory", 60)
                    refused += fill(daemon, b"disk", 60, flags=om.DISK)
                    refused += fill(daemon, b"ephemeral", 30, flags=om.EPHEMERAL)
                with om.Connection(daemon.socket) as connection:
                    status = connection.status()
                    self.assertEqual(status["holders.orphans"], 2)
                    self.assertGreater(status["held.bytes"], 0)
            finally:
                for pid in readers:
                    os.kill(pid, signal.SIGCONT)
                codes = [os.waitpid(pid, 0)[1] for pid in readers]
            self.assertEqual(codes, [0, 0], "a reader has met wrong bytes")
            with om.Connection(daemon.socket) as connection:
                wait_until(lambda: connection.status()["held.bytes"] == 0
                           and connection.status()["holders.orphans"] == 0,
                           "what was held is given back")
                print(f"{status['held.objects']} objects, {status['held.bytes']} bytes were held "
                      f"for stopped readers; {refused} puts refused; "
                      f"{status['evicted.memory']} + {status['evicted.disk']} evicted",
                      file=sys.stderr)


    def test_by_the_board(self):
        with Daemon(memory="64M", disk="64M") as daemon:
            bodies = {}
            with om.Connection(daemon.socket) as connection:
                for i in range(12):
                    key = b"shown/k%d" % i
                    bodies[key] = load.make_body(key, i + 1, (700, 9_000, 60_000)[i % 3])
                    connection.put(key, bodies[key], flags=(0, om.EPHEMERAL, om.DIRECT)[i // 3 % 3])
            readers = [self.stop_reader(daemon, bodies, stopped_by_the_board) for _ in range(2)]
            try:
                with om.Connection(daemon.socket) as connection:
                    for i, key in enumerate(bodies):
                        if i % 3 == 0:
                            connection.delete(key)
                        elif i % 3 == 1:
                            connection.put(key, b"another one")
                    self.assertGreater(connection.status()["held.bytes"], 0)
                fill(daemon, b"before", 80)
                for _ in range(2):
                    daemon.kill()
                    daemon.start()
                    fill(daemon, b"memory", 80)
                    fill(daemon, b"disk", 40, flags=om.DISK)
                    fill(daemon, b"ephemeral", 40, flags=om.EPHEMERAL)
                with om.Connection(daemon.socket) as connection:
                    status = connection.status()
                    self.assertEqual(status["board.pages"], 2)
                    self.assertGreater(status["held.bytes"], 0)
            finally:
                for pid in readers:
                    os.kill(pid, signal.SIGCONT)
                codes = [os.waitpid(pid, 0)[1] for pid in readers]
            self.assertEqual(codes, [0, 0], "a reader has met wrong bytes")
            with om.Connection(daemon.socket) as connection:
                wait_until(lambda: connection.status()["held.bytes"] == 0
                           and connection.status()["board.pages"] == 0,
                           "what was held is given back")
                print(f"{status['held.objects']} objects, {status['held.bytes']} bytes were held for "
                      f"readers by the board that were stopped", file=sys.stderr)


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = body_of(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=10000")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def body_of(path):
    return load.make_body(path.encode(), 1, 12 * MIB if path.startswith("/long") else MIB)


@unittest.skipUnless(os.path.exists(VMOD), "no VMOD in this build")
class StoppedVarnish(unittest.TestCase):
    def setUp(self):
        self.origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        self.origin.daemon_threads = True
        threading.Thread(target=self.origin.serve_forever, daemon=True).start()
        self.addCleanup(self.origin.server_close)
        self.addCleanup(self.origin.shutdown)
        directory = tempfile.TemporaryDirectory(prefix="om-test-")
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        os.chmod(self.directory, 0o755)
        self.daemon = Daemon(memory="80M", directory=self.directory)
        self.addCleanup(self.daemon.close)
        self.let_varnish_in()
        self.varnishd = None
        self.addCleanup(self.end_varnishd)

    def let_varnish_in(self):
        try:
            os.chown(self.daemon.socket, -1, grp.getgrnam("varnish").gr_gid)
        except (KeyError, PermissionError):
            pass
        os.chmod(self.daemon.socket, 0o660)

    def start_varnishd(self):
        address = os.path.join(self.directory, "http.sock")
        vcl = os.path.join(self.directory, "test.vcl")
        with open(vcl, "w") as file:
            file.write(f'''vcl 4.1;
import objmapper from "{reachable(VMOD)}";
include "{reachable(SOURCE + "/vmod/objmapper.vcl")}";
backend default {{ .host = "127.0.0.1"; .port = "{self.origin.server_address[1]}"; }}
sub vcl_init {{
    new store = objmapper.storage(socket = "{self.daemon.socket}", memory = 40MB);
    store.set_default();
}}
sub vcl_recv {{
    if (req.url == "/ready") {{ return (synth(200)); }}
    call objmapper_recv;
}}
sub vcl_deliver {{ set resp.http.X-Hits = obj.hits; }}
''')
        self.varnishd = subprocess.Popen(
            ["varnishd", "-F", "-n", os.path.join(self.directory, "v"),
             "-a", f"{address},mode=666", "-f", vcl, "-s", "malloc,20M",
             "-p", "cc_command=exec tcc -shared -fpic -w -o %o %s", "-p", "shortlived=0",
             "-p", "ping_interval=0", "-p", "cli_timeout=120"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.address = address
        wait_until(self.serves, "varnishd serves", 25)

    def serves(self):
        self.assertIsNone(self.varnishd.poll(), "varnishd ended")
        try:
            return self.ask("/ready").startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def end_varnishd(self):
        if self.varnishd is None:
            return
        for pid in self.children():
            os.kill(pid, signal.SIGCONT)
        self.varnishd.terminate()
        try:
            self.varnishd.wait(15)
        except subprocess.TimeoutExpired:
            self.varnishd.kill()
            self.varnishd.wait()
        self.varnishd.stdout.close()

    def children(self):
        with open(f"/proc/{self.varnishd.pid}/task/{self.varnishd.pid}/children") as file:
            return [int(word) for word in file.read().split()]

    def request(self, path):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        try:
            connection.connect(self.address)
        except OSError:
            connection.close()
            raise
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        return connection

    def ask(self, path):
        with self.request(path) as connection:
            answer = b""
            while more := connection.recv(1 << 20):
                answer += more
            return answer

    def assert_answer(self, answer, path):
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200"), head[:100])
        self.assertEqual(len(body), len(body_of(path)))
        self.assertTrue(body == body_of(path), f"{path}: wrong bytes were delivered")

    def test_delivery(self):
        self.start_varnishd()
        self.assert_answer(self.ask("/long/1"), "/long/1")
        slow = self.request("/long/1")
        self.addCleanup(slow.close)
        part = slow.recv(100_000)  # in mid-delivery: the socket's buffers are far smaller
        self.assertIn(b"\r\n\r\n", part)
        children = self.children()
        for pid in children:
            os.kill(pid, signal.SIGSTOP)
        self.daemon.kill()
        self.daemon.start()
        self.let_varnish_in()
        refused = fill(self.daemon, b"shared", 160)
        # Another life's region must not be handed out while the stopped one uses it.
        with om.Connection(self.daemon.socket) as connection:
            for region in connection.region_list():
                self.assertEqual(region["held"], 1)
                with self.assertRaises(om.Failure) as refusal:
                    connection.region_drop(region["owner"])
                self.assertEqual(refusal.exception.status, om.BUSY)
        for pid in children:
            os.kill(pid, signal.SIGCONT)
        # Now Varnish's own cache is filled beyond its size while the answer is under way.
        for i in range(60):
            self.assert_answer(self.ask(f"/other/{i}"), f"/other/{i}")
        while more := slow.recv(1 << 20):
            part += more
        self.assert_answer(part, "/long/1")
        self.assertEqual(self.children(), children, "the child was the same all the time")
        print(f"12 MiB delivered right by a stopped varnishd; {refused} puts refused meanwhile",
              file=sys.stderr)


if __name__ == "__main__":
    unittest.main()
