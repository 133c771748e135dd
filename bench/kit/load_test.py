"""objm-load against a server of ten lines: what it counts, and from when."""

import json
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time
import unittest

from kit import machine


class Server:
    """Answers every request with `body`; `stall` seconds before the `stall_at`-th answer."""

    def __init__(self, body, stall_at=0, stall=0.0, status="200 OK"):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.reply = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(body)) + body
        self.stall_at, self.stall, self.answered = stall_at, stall, 0
        self.requests = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        pending = b""
        with peer:
            while True:
                got = peer.recv(65536)
                if not got:
                    return
                pending += got
                while b"\r\n\r\n" in pending:
                    request, pending = pending.split(b"\r\n\r\n", 1)
                    self.requests.append(request)
                    self.answered += 1
                    if self.answered == self.stall_at:
                        time.sleep(self.stall)
                    peer.sendall(self.reply)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


def run(port, urls, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".urls") as file:
        file.write(urls)
        file.flush()
        done = subprocess.run(
            [str(machine.BUILD / "bin" / "objm-load"), "--port", str(port), "--urls", file.name, *options],
            capture_output=True, text=True, timeout=120)
    return json.loads(done.stdout)


class Load(unittest.TestCase):
    def test_a_stall_shows_in_every_request_that_fell_due_meanwhile(self):
        with Server(b"x" * 1024, stall_at=100, stall=0.5) as server:
            got = run(server.port, "/a 1024\n", "--rate", "200", "--seconds", "1.5", "--connections", "1")
        # 100 of 300 fell due during the stall; a client that waits with its questions would count one.
        self.assertEqual(got["requests"], 300)
        self.assertEqual(got["errors"], {})
        self.assertGreater(got["latency_us"]["p90"], 200_000)
        self.assertGreater(got["latency_us"]["max"], 400_000)

    def test_what_was_never_sent_is_an_error(self):
        with Server(b"x", stall_at=1, stall=1.5) as server:
            got = run(server.port, "/a 1\n", "--rate", "100", "--seconds", "0.5", "--connections", "1")
        self.assertGreater(got["errors"]["never sent"], 0)

    def test_wrong_length_wrong_bytes_and_failures_are_errors(self):
        with Server(b"x" * 1024) as server:
            got = run(server.port, "/a 1000\n", "--requests", "3")
            self.assertEqual(got["errors"], {"wrong length": 3})
            got = run(server.port, "/o/1K/a\n", "--requests", "3", "--verify")
            self.assertEqual(got["errors"], {"wrong bytes": 3})
            got = run(server.port, "/o/1K/a\n", "--requests", "4", "--sample", "2")
            self.assertEqual((got["errors"], got["compared"]), ({"wrong bytes": 2}, 2))
            got = run(server.port, "/o/1M/a\n", "--requests", "2", "--range", "1K")
            self.assertEqual(got["errors"], {"range ignored": 2, "wrong length": 2})
        self.assertIn(b"Range: bytes=", server.requests[-1])
        with Server(b"", status="503 Unavailable") as server:
            got = run(server.port, "/a\n", "--requests", "2")
            self.assertEqual(got["errors"], {"status 503": 2})

    def test_origin_has_the_bodies_that_load_expects(self):
        port = machine.free_port()
        origin = subprocess.Popen([str(machine.BUILD / "bin" / "objm-origin"), "--port", str(port)])
        try:
            machine.wait_for(lambda: machine.answers(port), what="objm-origin")
            got = run(port, "/o/1K/a\n/o/300/b\nkey 70000\n/o/9M/c\n", "--requests", "40", "--verify", "--slices", "0.1")
            self.assertEqual((got["errors"], got["compared"], got["requests"]), ({}, 40, 40))
            self.assertEqual(sum(s["requests"] for s in got["slices"]), 40)
            # Without comparing, bodies are discarded unseen; lengths are right all the same.
            got = run(port, "/o/9M/c\n", "--requests", "8")
            self.assertEqual((got["errors"], got["body_bytes"]), ({}, 8 * (9 << 20)))
            with tempfile.TemporaryDirectory() as folder:
                urls = pathlib.Path(folder) / "urls"
                urls.write_text("/o/5000000/x\n")
                subprocess.run([str(machine.BUILD / "bin" / "objm-origin"), "--write", folder, "--urls", str(urls)],
                               check=True)
                self.assertEqual(os.path.getsize(folder + "/o/5000000/x"), 5_000_000)
        finally:
            origin.kill()
            origin.wait()


if __name__ == "__main__":
    unittest.main()
