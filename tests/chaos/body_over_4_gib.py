#!/usr/bin/env python3
"""A body of 4 GiB + 1: no 32-bit number anywhere on its way.

Into a store that is larger: every byte of the miss is compared, the hit has the right length and the right ranges about
the 4 GiB, also after the child was killed; chunked, it evicts the one before. Into stores that are smaller: what
-s malloc alone would do, the same outcome, and the next small object is fine.

Needs 6 GiB of tmpfs and memory; the bodies themselves are made and compared piece by piece.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support.daemon import BUILD, Daemon, wait_until  # noqa: E402
from support.reachable import reachable  # noqa: E402

LENGTH = (4 << 30) + 1
BLOCK = 1 << 20
FILLER = os.urandom(BLOCK - 8)


def block(number):
    """Its number, then the same for all; the last one is one byte."""
    return (number.to_bytes(8, "big") + FILLER)[:min(BLOCK, LENGTH - number * BLOCK)]


def part(first, last):
    data = b"".join(block(n) for n in range(first // BLOCK, last // BLOCK + 1))
    return data[first % BLOCK:first % BLOCK + last - first + 1]


class Origin(threading.Thread):
    """/known, /chunked, and anything else: one short body."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.requests = []
        self.start()

    def run(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, connection.makefile("rb") as lines:
            url = lines.readline().split(b" ")[1].decode()
            while lines.readline().strip():
                pass
            self.requests.append(url)
            head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=1000\r\nConnection: close\r\n"
            try:
                if url.startswith("/known"):
                    connection.sendall((head + "Content-Length: %d\r\n\r\n" % LENGTH).encode())
                    for number in range(LENGTH // BLOCK + 1):
                        connection.sendall(block(number))
                elif url.startswith("/chunked"):
                    connection.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
                    for number in range(LENGTH // BLOCK + 1):
                        data = block(number)
                        connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))
                    connection.sendall(b"0\r\n\r\n")
                else:
                    connection.sendall((head + "Content-Length: 5\r\n\r\nshort").encode())
            except OSError:
                pass


class Varnish:
    def __init__(self, origin, directory, store=None, socket_path=None):
        vcl = 'vcl 4.1; backend default { .host = "127.0.0.1"; .port = "%d"; }\n' % origin.port
        if store:
            vcl += """import objmapper from "%s";
sub vcl_init { new store = objmapper.storage(socket = "%s", memory = %s, mode = mapped); store.set_default(); }
sub vcl_deliver { set resp.http.X-Hits = obj.hits; }
""" % (reachable(f"{BUILD}/lib/libvmod_objmapper.so"), socket_path, store)
        self.name = f"{directory}/v"
        with open(f"{directory}/v.vcl", "w", encoding="utf-8") as file:
            file.write(vcl)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            ["varnishd", "-F", "-n", f"{directory}/v", "-a", f"127.0.0.1:{self.port}", "-f", f"{directory}/v.vcl", "-s",
             "malloc,64m", "-p", "send_timeout=120", "-p", "nuke_limit=10000"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.serves, "varnishd to answer", 30)

    def serves(self):
        try:
            return self.get("/short")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def has_region(self):
        """Memory for it has to be cleared first; until then objects go elsewhere."""
        done = subprocess.run(["varnishstat", "-1", "-n", self.name, "-f", "OBJM.store.g_region"], capture_output=True, text=True,
                              check=False)
        return done.stdout.split()[1:2] == ["1"]

    def child(self):
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="utf-8") as file:
            return [int(word) for word in file.read().split()]

    def open(self, url, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET", url, headers=dict(headers or {}, Host="test"))
        return connection, connection.getresponse()

    def get(self, url, headers=None):
        connection, answer = self.open(url, headers)
        data = answer.read()
        connection.close()
        return answer.status, data, answer

    def outcome(self, url):
        """(status, whole): every byte that comes is compared."""
        connection, answer = self.open(url)
        if answer.status != 200:
            connection.close()
            return answer.status, False
        at = 0
        try:
            while data := answer.read(BLOCK):
                assert data == part(at, at + len(data) - 1), "wrong bytes after %d" % at
                at += len(data)
        except (OSError, http.client.HTTPException):
            pass
        connection.close()
        return answer.status, at == LENGTH

    def end(self):
        self.process.terminate()
        self.process.wait(30)


class BodyOver4GiB(unittest.TestCase):
    def setUp(self):
        self.origin = Origin()
        self.directory = tempfile.TemporaryDirectory(prefix="om4g.")
        os.chmod(self.directory.name, 0o755)
        self.addCleanup(self.directory.cleanup)

    def start(self, memory, store):
        daemon = Daemon(memory=memory)
        self.addCleanup(daemon.close)
        os.chmod(daemon.directory, 0o755)
        os.chmod(daemon.socket, 0o666)
        varnish = Varnish(self.origin, self.directory.name, store, daemon.socket)
        self.addCleanup(varnish.end)
        wait_until(varnish.has_region, "the store to have its region", 60)
        return varnish

    def check_hit(self, varnish, url):
        for asked, first, last in (("bytes=0-99", 0, 99), ("bytes=4294967000-4294967296", 4294967000, LENGTH - 1),
                                   ("bytes=-1", LENGTH - 1, LENGTH - 1), ("bytes=2147483640-2147483660", 2147483640, 2147483660)):
            status, data, answer = varnish.get(url, {"Range": asked})
            self.assertEqual((status, answer.getheader("Content-Range")), (206, "bytes %d-%d/%d" % (first, last, LENGTH)))
            self.assertEqual(data, part(first, last))
            self.assertGreater(int(answer.getheader("X-Hits")), 0)

    def test_store_is_larger(self):
        space = os.statvfs("/dev/shm")
        self.assertGreater(space.f_bavail * space.f_frsize, 6 << 30, "needs 6 GiB in /dev/shm")
        varnish = self.start("5200M", "4300MB")
        self.assertEqual(varnish.outcome("/known"), (200, True))
        self.check_hit(varnish, "/known")
        before = varnish.child()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: varnish.child() and varnish.child() != before and varnish.serves(), "another child", 30)
        self.check_hit(varnish, "/known")
        self.assertEqual(varnish.outcome("/chunked"), (200, True))
        self.check_hit(varnish, "/chunked")
        self.assertEqual(self.origin.requests.count("/known"), 1)
        self.assertEqual(self.origin.requests.count("/chunked"), 1)

    def test_store_is_smaller(self):
        ours = self.start("64M", "32MB")
        child = ours.child()
        with tempfile.TemporaryDirectory(prefix="om4g.") as directory:
            os.chmod(directory, 0o755)
            plain = Varnish(self.origin, directory)
            self.addCleanup(plain.end)
            for url in ("/known", "/chunked"):
                self.assertEqual(ours.outcome(url)[1], plain.outcome(url)[1], url)
                self.assertEqual(ours.get("/short-after" + url)[:2], (200, b"short"))
        self.assertEqual(ours.child(), child)


if __name__ == "__main__":
    unittest.main()
