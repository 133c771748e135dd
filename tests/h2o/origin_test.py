"""The example origin by itself: what it answers with and without hand-off, and what lies in objmapper then."""
import array
import hashlib
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

from proxy.proxied import BUILD
from support.daemon import OBJM, Daemon, wait_until

MIB = 1 << 20
PREFIX = "handoff:a:"


def numbers(length):
    return array.array("Q", range(0, length + 8, 8)).tobytes()[:length]


def make_files(folder):
    bodies = {name: random.Random(name).randbytes(size)
              for name, size in {"empty.txt": 0, "a.html": 1234, "b.bin": 9 * MIB + 7}.items()}
    for name, body in bodies.items():
        pathlib.Path(folder, name).write_bytes(body)
    return bodies


class Origin:
    """A running example_origin. Over TCP, or over a Unix socket: where `unix` says, or in its own directory."""

    def __init__(self, socket_path, *, unix=False, prefix="handoff:", files=None):
        self.directory = tempfile.mkdtemp(prefix="om-origin-", dir="/tmp")
        os.chmod(self.directory, 0o755)
        self.path = os.path.join(self.directory, "origin.sock") if unix is True else unix or None
        command = [os.path.join(BUILD, "bin/example_origin"), "--listen", self.path or "127.0.0.1:0", "--objmapper",
                   socket_path, "--prefix", prefix]
        if files:
            command += ["--files", files]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        said = self.process.stdout.readline()
        assert said.startswith("listens on "), said
        self.where = said.split()[-1]
        self.port = None if unix else int(self.where.rsplit(":", 1)[1])

    def connect(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port or 80, timeout=60)
        if self.path:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(self.path)
        return connection

    def get(self, path, handoff=None, method="GET", **headers):
        """(status, headers with small letters, body)"""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if handoff is not None:
            headers["X-Objmapper-Handoff"] = handoff
        connection = self.connect()
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def stats(self):
        return json.loads(self.get("/stats")[2])

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        return code


class Case(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon(memory="48M")
        self.addCleanup(self.daemon.close)
        self.files = tempfile.mkdtemp(prefix="om-files-")
        self.addCleanup(shutil.rmtree, self.files)
        self.bodies = make_files(self.files)

    def start(self, **options):
        origin = Origin(options.pop("socket", self.daemon.socket), files=self.files, **options)
        self.addCleanup(origin.close)
        return origin

    def stored(self, key):
        """The object's bytes, or None."""
        done = subprocess.run([OBJM, "--socket", self.daemon.socket, "get", key, "-"], capture_output=True, timeout=60)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        return done.stdout if done.returncode == 0 else None

    def assert_same(self, got, wanted, what=""):
        self.assertEqual((len(got), hashlib.sha256(got).hexdigest()),
                         (len(wanted), hashlib.sha256(wanted).hexdigest()), what)

    def assert_answered(self, answer, body):
        status, headers, got = answer
        self.assertEqual(status, 200)
        self.assertNotIn("x-objmapper-object", headers)
        self.assert_same(got, body)


class Http(Case):
    """An origin like any other."""

    def test_over_tcp_and_a_unix_socket(self):
        for unix in (False, True):
            origin = self.start(unix=unix)
            for name, body in self.bodies.items():
                answer = origin.get("/files/" + name)
                self.assert_answered(answer, body)
                self.assertEqual(answer[1]["content-length"], str(len(body)))
            self.assertEqual(origin.get("/files/a.html")[1]["content-type"], "text/html")
            for length in (0, 1, 7, 8, 9, 100000, 3 * MIB + 5):
                self.assert_answered(origin.get(f"/generated/{length}"), numbers(length))
                self.assert_answered(origin.get(f"/generated/{length}?length=no"), numbers(length))
            self.assertEqual(origin.close(), 0)
            if unix:
                self.assertFalse(os.path.exists(origin.where))

    def test_what_it_does_not_have(self):
        origin = self.start()
        for path in ("/files/none", "/files/../etc/passwd", "/files/a/../../etc/passwd", "/files/%2e%2e/etc/passwd",
                     "/generated/99999999999999999999", "/"):
            self.assertEqual(origin.get(path)[0], 404, path)

    def test_parts_head_and_validators(self):
        origin = self.start()
        body = self.bodies["b.bin"]
        status, headers, got = origin.get("/files/b.bin", handoff=PREFIX, Range="bytes=1000-2999999")
        self.assertEqual((status, headers["content-range"]), (206, f"bytes 1000-2999999/{len(body)}"))
        self.assert_same(got, body[1000:3000000])
        status, headers, got = origin.get("/files/b.bin", handoff=PREFIX, method="HEAD")
        self.assertEqual((status, headers["content-length"], got), (200, str(len(body)), b""))
        etag = headers["etag"]
        self.assertEqual(origin.get("/files/b.bin", handoff=PREFIX, If_None_Match=etag)[0], 304)
        self.assertEqual(origin.stats()["handed_over"], 0)

    def test_a_body_that_fails_ends_the_connection(self):
        origin = self.start()
        for path in ("/generated/1000000?fail_at=500000", "/generated/1000000?fail_at=500000&length=no"):
            with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
                origin.get(path)


class HandOff(Case):
    def assert_handed_over(self, answer, body, length_is_known=True):
        status, headers, got = answer
        self.assertEqual((status, got, headers["content-length"]), (200, b"", "0"))
        key = headers["x-objmapper-object"]
        self.assertTrue(key.startswith(PREFIX), key)
        if length_is_known or "x-objmapper-length" in headers:
            self.assertEqual(headers.get("x-objmapper-length"), str(len(body)))
        self.assertIn("etag", headers)
        self.assertIn("content-type", headers)
        # On a busy machine a large one may still be being written.
        wait_until(lambda: self.stored(key) is not None, "the object is there", 60)
        self.assert_same(self.stored(key), body)
        return key

    def test_files_and_generated_bodies(self):
        for unix in (False, True):
            origin = self.start(unix=unix)
            for name, body in self.bodies.items():
                self.assert_handed_over(origin.get("/files/" + name, handoff=PREFIX), body)
            for length in (0, 1, 4 * MIB - 1, 4 * MIB, 12 * MIB + 3):
                self.assert_handed_over(origin.get(f"/generated/{length}", handoff=PREFIX), numbers(length))
            # Where the length is not known beforehand, it is when the object is whole in time.
            self.assert_handed_over(origin.get("/generated/500000?length=no", handoff=PREFIX), numbers(500000), False)
            stats = origin.stats()
            # The second origin finds what the first one has written.
            self.assertEqual((stats["handed_over"], stats["reused"]), (0, 9) if unix else (9, 0))
            self.assertEqual((stats["answered"], stats["not_possible"]), (0, 0))
            self.assertEqual(origin.close(), 0)

    def test_a_file_that_changes_is_another_object(self):
        origin = self.start()
        first = self.assert_handed_over(origin.get("/files/a.html", handoff=PREFIX), self.bodies["a.html"])
        again = self.assert_handed_over(origin.get("/files/a.html", handoff=PREFIX), self.bodies["a.html"])
        self.assertEqual(first, again)
        pathlib.Path(self.files, "new").write_bytes(b"changed")
        os.rename(os.path.join(self.files, "new"), os.path.join(self.files, "a.html"))
        other = self.assert_handed_over(origin.get("/files/a.html", handoff=PREFIX), b"changed")
        self.assertNotEqual(first, other)

    def test_published_before_it_is_whole(self):
        origin = self.start()
        length = 3 * MIB
        status, headers, body = origin.get(f"/generated/{length}?rate={MIB}", handoff=PREFIX)
        self.assertEqual((status, body, headers["x-objmapper-length"]), (200, b"", str(length)))
        key = headers["x-objmapper-object"]
        self.assertIsNone(self.stored(key), "it is there before it can be whole")
        # Whoever asks meanwhile is told the same key, and no second thread writes.
        self.assertEqual(origin.get(f"/generated/{length}?rate={MIB}", handoff=PREFIX)[1]["x-objmapper-object"], key)
        self.assert_same(wait_until(lambda: self.stored(key), "it is whole", 60), numbers(length))
        stats = origin.stats()
        self.assertEqual((stats["handed_over"], stats["followed"], stats["reused"]), (1, 1, 1))

    def test_a_body_that_fails_leaves_no_object(self):
        origin = self.start()
        status, headers, _ = origin.get("/generated/9000000?fail_at=6000000&rate=20000000", handoff=PREFIX)
        self.assertEqual(status, 200)
        wait_until(lambda: origin.stats()["failed_midway"] == 1, "it has failed", 60)
        self.assertIsNone(self.stored(headers["x-objmapper-object"]))
        # What fails before the answer is answered as it would be without hand-off.
        with self.assertRaises((http.client.IncompleteRead, ConnectionError)):
            origin.get("/generated/1000000?fail_at=500000", handoff=PREFIX)
        self.assertEqual(origin.stats()["not_possible"], 1)

    def test_who_forbids_it_gets_the_body(self):
        origin = self.start()
        body = self.bodies["b.bin"]
        for handoff in (None, "no", "", "hand", "elsewhere:a:"):
            self.assert_answered(origin.get("/files/b.bin", handoff=handoff), body)
        without_prefix = self.start(prefix="")
        self.assert_answered(without_prefix.get("/files/b.bin", handoff=PREFIX), body)

    def test_without_objmapper_it_answers_and_takes_it_up_again(self):
        origin = self.start()
        body = self.bodies["b.bin"]
        self.daemon.kill()
        self.assert_answered(origin.get("/files/b.bin", handoff=PREFIX), body)
        self.daemon.start()

        def handed():
            answer = origin.get("/files/b.bin", handoff=PREFIX)
            return answer if "x-objmapper-object" in answer[1] else None
        self.assert_handed_over(wait_until(handed, "it hands over again", 30), body)
        nowhere = self.start(socket=os.path.join(self.files, "no.sock"))
        self.assert_answered(nowhere.get("/files/b.bin", handoff=PREFIX), body)

    def test_what_does_not_fit_is_answered(self):
        origin = self.start()
        self.assert_answered(origin.get(f"/generated/{60 * MIB}", handoff=PREFIX), numbers(60 * MIB))


class InC(Case):
    """examples/handoff.c, called as a CGI program is."""

    def call(self, query, handoff=None, **environment):
        environment = {"QUERY_STRING": query, "OBJMAPPER_SOCKET": self.daemon.socket, **environment}
        if handoff is not None:
            environment["HTTP_X_OBJMAPPER_HANDOFF"] = handoff
        done = subprocess.run([os.path.join(BUILD, "bin/handoff_c")], env=environment, capture_output=True, timeout=60,
                              check=True)
        head, body = done.stdout.split(b"\r\n\r\n", 1)
        return {k.lower(): v for k, v in (line.split(": ", 1) for line in head.decode().split("\r\n"))}, body

    @staticmethod
    def report(lines):
        return b"".join(b"%015d\n" % i for i in range(lines))

    def test_hands_over_and_answers(self):
        for lines in (1, 1000, 200001):
            for handoff in (None, "no", "handoff:a:"):
                headers, body = self.call(str(lines), handoff)
                self.assertNotIn("x-objmapper-object", headers)
                self.assertEqual(headers["content-length"], str(16 * lines))
                self.assert_same(body, self.report(lines))
            for _ in range(2):  # the second finds what the first has written
                headers, body = self.call(str(lines), "cgi:a:")
                self.assertEqual((headers["content-length"], body), ("0", b""))
                self.assertEqual(headers["x-objmapper-length"], str(16 * lines))
                self.assert_same(self.stored(headers["x-objmapper-object"]), self.report(lines))
        headers, body = self.call("0", "cgi:a:")
        self.assertEqual((headers["content-length"], body), ("0", b""))
        self.assertNotIn("x-objmapper-object", headers)

    def test_without_objmapper_it_answers(self):
        headers, body = self.call("1000", "cgi:a:", OBJMAPPER_SOCKET=os.path.join(self.files, "no.sock"))
        self.assertNotIn("x-objmapper-object", headers)
        self.assert_same(body, self.report(1000))


if __name__ == "__main__":
    unittest.main()
