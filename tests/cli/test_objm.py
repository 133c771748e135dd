"""objm against a real daemon: every subcommand, every exit code."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
import unittest

from cli.objm import ABSENT, DENIED, DONE, NO_SPACE, OTHER, UNREACHABLE, USAGE, objm
from protocol import client as c
from protocol.client import Connection
from support.daemon import OBJM, Daemon, wait_until


class WithDaemon(unittest.TestCase):
    memory = "192M"
    disk = "256M"

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(memory=cls.memory, disk=cls.disk)
        cls.directory = tempfile.mkdtemp(prefix="om-cli-")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()
        shutil.rmtree(cls.directory, ignore_errors=True)

    def objm(self, *arguments, **more):
        return objm(self.daemon.socket, *arguments, **more)

    def ok(self, *arguments, **more):
        answer = self.objm(*arguments, **more)
        self.assertEqual((answer.code, answer.err), (DONE, ""), arguments)
        return answer

    def path(self, name, content=None):
        path = os.path.join(self.directory, name)
        if content is not None:
            with open(path, "wb") as file:
                file.write(content)
        return path


class Objects(WithDaemon):
    def test_files_of_all_sizes_come_back_as_they_were(self):
        source = random.Random(1)
        for size in (0, 1, 4095, 4096, 65535, 65536, 1 << 20, (2 << 20) + 1, 8 << 20, 64 << 20):
            with self.subTest(size=size):
                body = source.randbytes(size)
                self.ok("put", f"size/{size}", self.path("in", body))
                self.ok("get", f"size/{size}", self.path("out"))
                with open(self.path("out"), "rb") as file:
                    self.assertEqual(hashlib.sha256(file.read()).digest(),
                                     hashlib.sha256(body).digest())
                self.assertEqual(self.ok("get", f"size/{size}").out, body)
                self.ok("delete", f"size/{size}")

    def test_streams_of_unknown_length(self):
        for size in (0, 1, 100_000, 5_000_000):
            body = random.Random(size).randbytes(size)
            self.ok("put", "stream", stdin=body)
            self.assertEqual(self.ok("get", "stream", "-").out, body)
            self.ok("put", "stream", "-", stdin=body)
            self.assertEqual(self.ok("get", "stream").out, body)

    def test_put_replaces(self):
        self.ok("put", "replaced", stdin=b"one")
        self.ok("put", "replaced", stdin=b"second")
        self.assertEqual(self.ok("get", "replaced").out, b"second")

    def test_stat_says_what_put_was_told(self):
        self.ok("put", "stat/k", "--tag", "a", "--tag", "b", "--metadata", "Content-Type: x",
                "--ttl", "1h", "--ephemeral", stdin=b"12345")
        stat = json.loads(self.ok("stat", "stat/k", "--json").text)
        self.assertEqual((stat["length"], sorted(stat["tags"]), stat["metadata"], stat["ephemeral"],
                          stat["tier"]), (5, ["a", "b"], "Content-Type: x", True, "memory"))
        self.assertAlmostEqual(stat["expires_ns"] / 1e9, time.time() + 3600, delta=60)
        text = self.ok("stat", "stat/k").text
        for word in ("stat/k", "5", "ephemeral", "Content-Type: x"):
            self.assertIn(word, text)

    def test_metadata_from_a_file_and_too_much_of_it(self):
        self.ok("put", "meta", "--metadata-file", self.path("meta", b"m" * 65536), stdin=b"x")
        self.assertEqual(len(json.loads(self.ok("stat", "meta", "--json").text)["metadata"]), 65536)
        answer = self.objm("put", "meta", "--metadata-file", self.path("meta", b"m" * 65537))
        self.assertEqual(answer.code, OTHER)
        self.assertIn("metadata", answer.err)

    def test_metadata_from_a_pipe(self):
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        writer = threading.Thread(target=pathlib.Path(fifo).write_bytes, args=(b"from a pipe",),
                                  daemon=True)
        writer.start()
        self.ok("put", "piped", "--metadata-file", fifo, stdin=b"x")
        writer.join(60)
        self.assertEqual(json.loads(self.ok("stat", "piped", "--json").text)["metadata"],
                         "from a pipe")
        self.assertEqual(self.objm("put", "piped", "--metadata-file", self.directory).code, OTHER)
        self.assertEqual(self.objm("put", "piped", "--metadata-file", "/dev/zero").code, OTHER)

    def test_on_disk(self):
        body = os.urandom(300_000)
        self.ok("put", "on-disk", "--on-disk", stdin=body)
        self.assertEqual(json.loads(self.ok("stat", "on-disk", "--json").text)["tier"], "disk")
        self.assertEqual(self.ok("get", "on-disk").out, body)

    def test_expires(self):
        self.ok("put", "soon", "--ttl", "300ms", stdin=b"x")
        wait_until(lambda: self.objm("get", "soon").code == ABSENT, "an expired object is gone")

    def start(self, *arguments, **more):
        """objm while it runs, its standard output a pipe."""
        process = subprocess.Popen([OBJM, "--socket", self.daemon.socket, *arguments],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, **more)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def test_get_waits_for_what_is_not_there_yet(self):
        self.assertEqual(self.objm("get", "--wait", "20ms", "late").code, ABSENT)
        waiting = self.start("get", "--wait", "60s", "late")
        with Connection(self.daemon.socket) as client:
            wait_until(lambda: client.status()["events.subscribers"] == 1, "it waits")
        self.ok("put", "late/other", stdin=b"another one")
        self.ok("put", "late", stdin=b"here it is")
        self.assertEqual(waiting.stdout.read(), b"here it is")
        self.assertEqual(waiting.wait(30), DONE)
        self.assertEqual(self.ok("get", "--wait", "1ms", "late").out, b"here it is")
        self.assertEqual(self.objm("get", "--wait", "soon", "late").code, USAGE)

    def test_get_follows_what_is_being_written(self):
        self.assertEqual(self.objm("get", "--follow", "grows").code, ABSENT)
        with Connection(self.daemon.socket) as client:
            for end in ("commit", "abort"):
                # It waits for a writer, then follows it.
                following = self.start("get", "--follow", "--wait", "60s", "grows")
                wait_until(lambda: client.status()["events.subscribers"] == 1, "it waits")
                put = client.reserve("grows", 6)
                client.write([dict(put["extents"][0], length=3)], b"one")
                client.progress(put["put_id"], 3)
                came = os.read(following.stdout.fileno(), 100)
                self.assertEqual(came, b"one", came or following.stderr.read())
                self.assertIsNone(following.poll())
                if end == "commit":
                    client.write([dict(put["extents"][0], length=6)], b"onetwo")
                    client.commit(put["put_id"], 6)
                    self.assertEqual(following.stdout.read(), b"two")
                    self.assertEqual(following.wait(30), DONE)
                    self.assertEqual(self.ok("get", "--follow", "grows").out, b"onetwo")
                    self.ok("delete", "grows")
                else:
                    client.abort(put["put_id"])
                    self.assertEqual(following.stdout.read(), b"")
                    self.assertEqual(following.wait(30), ABSENT)

    def test_absent(self):
        for command in (["get", "none"], ["stat", "none"], ["delete", "none"]):
            answer = self.objm(*command)
            self.assertEqual(answer.code, ABSENT, command)
            self.assertIn("none", answer.err)
            self.assertEqual(answer.out, b"")
        out = self.path("never-made")
        self.assertEqual(self.objm("get", "none", out).code, ABSENT)
        self.assertFalse(os.path.exists(out))

    def test_keys_with_strange_bytes(self):
        for key in ("a b", "ä/ü", "-x", "../../etc/passwd", "a\nb", "x" * 8192, "%00", "\x1b[2J"):
            self.ok("put", "--", key, stdin=key.encode())
            self.assertEqual(self.ok("get", "--", key).out, key.encode())
        self.assertNotIn("\x1b", self.ok("list").text)
        self.assertEqual(self.objm("put", "x" * 8193).code, OTHER)

    def test_delete_several(self):
        for name in "abc":
            self.ok("put", f"several/{name}", stdin=b"x")
        self.ok("delete", "several/a", "several/b")
        answer = self.objm("delete", "several/none", "several/c")
        self.assertEqual(answer.code, ABSENT)
        self.assertEqual(self.ok("list", "several/").text, "")

    def test_files_that_cannot_be_read_or_written(self):
        self.ok("put", "there", stdin=b"x" * 10)
        self.assertEqual(self.objm("put", "k", "/nonexistent/file").code, OTHER)
        self.assertEqual(self.objm("put", "k", self.directory).code, USAGE)
        self.assertEqual(self.objm("get", "there", "/nonexistent/dir/file").code, OTHER)
        self.assertEqual(self.objm("get", "there", "/dev/full").code, NO_SPACE)
        self.ok("get", "there", "/dev/null")
        # A failed transfer leaves no half of a file beside the target.
        self.assertEqual(self.unfinished(), [])

    def unfinished(self):
        return [self.path(n) for n in os.listdir(self.directory) if ".objm-" in n]

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def mode(self, name):
        return stat.S_IMODE(os.stat(self.path(name)).st_mode)

    def test_get_to_a_file_that_is_there(self):
        self.ok("put", "newer", stdin=b"newer")
        mask = os.umask(0o022)
        self.addCleanup(os.umask, mask)
        self.ok("get", "newer", self.path("fresh"))
        self.assertEqual(self.mode("fresh"), 0o644)
        # Its mode stays, and a link stays one.
        os.chmod(self.path("kept", b"old"), 0o600)
        os.symlink("kept", self.path("link"))
        self.ok("get", "newer", self.path("link"))
        self.assertTrue(os.path.islink(self.path("link")))
        self.assertEqual((self.read("kept"), self.mode("kept")), (b"newer", 0o600))
        # To a file that is not there yet, over another link.
        os.symlink(self.path("dangling"), self.path("link2"))
        os.symlink("made", self.path("dangling"))
        self.ok("get", "newer", self.path("link2"))
        self.assertEqual(os.readlink(self.path("dangling")), "made")
        self.assertEqual(self.read("made"), b"newer")
        self.assertEqual(self.unfinished(), [])

    @unittest.skipUnless(os.geteuid() == 0, "needs another user's link")
    def test_get_does_not_follow_another_users_link_where_all_may_write(self):
        self.ok("put", "newer", stdin=b"newer")
        shared = self.path("shared")
        os.mkdir(shared)
        os.chmod(shared, 0o1777)
        link = os.path.join(shared, "link")
        os.symlink(self.path("victim", b"old"), link)
        os.chown(link, 65534, 65534, follow_symlinks=False)
        self.assertEqual(self.objm("get", "newer", link).code, OTHER)
        self.assertEqual(self.read("victim"), b"old")

    def test_get_to_a_descriptor_is_written_where_that_stands(self):
        self.ok("put", "newer", stdin=b"newer ")
        links = {name: os.readlink(name) for name in ("/dev/stdout", "/dev/fd")}
        for number in (1, None):
            with self.subTest(number), open(self.path("out", b""), "wb") as out:
                out.write(b"before ")
                out.flush()
                place = "/dev/stdout" if number else f"/dev/fd/{out.fileno()}"
                for _ in range(2):
                    subprocess.run([OBJM, "--socket", self.daemon.socket, "get", "newer", place],
                                   stdout=out if number else subprocess.DEVNULL,
                                   pass_fds=[out.fileno()], timeout=60, check=True)
                self.assertEqual(self.read("out"), b"before newer newer ")
                self.assertEqual(os.fstat(out.fileno()).st_ino, os.stat(self.path("out")).st_ino)
        self.assertEqual({name: os.readlink(name) for name in links}, links)

    def test_get_to_a_file_that_is_interrupted_leaves_nothing(self):
        def defaults():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)

        def without_hangups():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

        def half():
            return [n for n in self.unfinished() if os.path.getsize(n) == 3]
        with Connection(self.daemon.socket) as client:
            put = client.reserve("cut", 6)
            client.write([dict(put["extents"][0], length=3)], b"one")
            client.progress(put["put_id"], 3)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                following = self.start("get", "--follow", "cut", self.path("cut"),
                                       preexec_fn=defaults)
                wait_until(half, "half of it is there")
                following.send_signal(number)
                self.assertEqual(following.wait(30), -number)
                self.assertEqual(self.unfinished(), [])
            self.assertFalse(os.path.exists(self.path("cut")))
            # What nohup(1) does.
            following = self.start("get", "--follow", "cut", self.path("cut"),
                                   preexec_fn=without_hangups)
            wait_until(half, "half of it is there")
            following.send_signal(signal.SIGHUP)
            client.write([dict(put["extents"][0], length=6)], b"onetwo")
            client.commit(put["put_id"], 6)
            self.assertEqual(following.wait(30), DONE)
            self.assertEqual(self.read("cut"), b"onetwo")
            self.assertEqual(self.unfinished(), [])

    def test_get_follows_until_the_daemon_does_not_answer(self):
        with Connection(self.daemon.socket) as client:
            put = client.reserve("stuck", 6)
            client.write([dict(put["extents"][0], length=3)], b"one")
            client.progress(put["put_id"], 3)
            following = self.start("--timeout-ms", "300", "get", "--follow", "stuck")
            self.assertEqual(os.read(following.stdout.fileno(), 100), b"one")
            self.daemon.signal(signal.SIGSTOP)
            try:
                self.assertEqual(following.wait(60), UNREACHABLE)
            finally:
                self.daemon.signal(signal.SIGCONT)
            client.abort(put["put_id"])


class Lists(WithDaemon):
    def setUp(self):
        self.ok("purge", "--all")

    def test_list_by_prefix_in_order_over_pages(self):
        keys = sorted(f"list/{i:03}" for i in range(300))
        for key in random.Random(2).sample(keys, len(keys)):
            self.ok("put", key, stdin=b"x")
        self.ok("put", "other", stdin=b"x")
        self.assertEqual(self.ok("list", "list/").text.split(), keys)
        self.assertEqual(self.ok("list").text.split(), keys + ["other"])
        self.assertEqual(self.ok("list", "list/", "--limit", "7").text.split(), keys[:7])
        entry = json.loads(self.ok("list", "other", "--json").text)
        self.assertEqual((entry["key"], entry["length"]), ("other", 1))
        self.assertIn("memory", self.ok("list", "-l", "other").text)
        self.assertEqual(self.ok("list", "none").text, "")
        self.assertEqual(self.ok("list", "--regions").text, "")

    def test_purge_by_key_and_ban_reach_every_cache(self):
        for key in ("http://k/x", "http://k/x#1", "http://k/x#2", "http://k/xy#1"):
            self.ok("put", key, "-", stdin=b"body")
        with Connection(self.daemon.socket) as cache:
            joined = cache.join("cache")
            head = joined["head"]
            for _ in range(joined["head"] - joined["from"] + 1):
                cache.ack(cache.next_removal()["sequence"])
            purge = self.objm("purge", "--key", "http://k/x")
            self.assertEqual((purge.code, purge.text), (0, "3\n"))
            self.assertIn("1 of 1 caches have not confirmed", purge.err)
            for words in (("ban", "req.url", "~", "^/a b", "&&", "obj.status", "==", "200"),
                          ("ban", "req.url ~ ^/c"), ("purge", "--tag", "red", "--soft")):
                self.assertEqual(self.objm(*words).code, DONE, words)
            events = [cache.next_removal() for _ in range(4)]
            self.assertEqual([(e["sequence"] - head, e["kind"], e["what"]) for e in events],
                             [(1, c.PURGE, b"http://k/x"),
                              (2, c.BAN, b'req.url ~ "^/a b" && obj.status == 200'),
                              (3, c.BAN, b"req.url ~ ^/c"), (4, c.TAG_SOFT, b"red")])
        for words in (("ban", "req.url", "~"), ("ban", "req.url ~"), ("purge", "x", "--soft"),
                      ("ban", "a", "==", "b", "||", "c", "==", "d"), ("purge", "--key", "a", "--all")):
            self.assertEqual(self.objm(*words).code, USAGE, words)

    def test_purge_by_prefix_tag_and_all(self):
        for i in range(6):
            self.ok("put", f"p/{i}", "--tag", "even" if i % 2 == 0 else "odd", stdin=b"x")
        self.ok("put", "q", stdin=b"x")
        self.assertEqual(self.ok("purge", "--tag", "even").text, "3\n")
        self.assertEqual(self.ok("list", "p/").text.split(), ["p/1", "p/3", "p/5"])
        self.assertEqual(self.ok("purge", "p/").text, "3\n")
        self.assertEqual(self.ok("purge", "p/").text, "0\n")
        self.assertEqual(self.ok("list").text, "q\n")
        self.assertEqual(self.ok("purge", "--all").text, "1\n")


class Looking(WithDaemon):
    def test_status(self):
        status = json.loads(self.ok("status", "--json").text)
        self.assertEqual(status["daemon.pid"], self.daemon.pid)
        self.assertIn("daemon.pid", self.ok("status").text)

    def test_top_once(self):
        self.ok("put", "top", stdin=b"x")
        self.ok("get", "top")
        top = json.loads(self.ok("top", "--once", "--json", "--interval", "0.1",
                                 "--no-varnish").text)
        self.assertGreaterEqual(top["clients"], 1)
        self.assertGreater(top["seconds"], 0.05)
        self.assertEqual(top["hit_ratio_total"], 1)
        self.assertEqual([tier["name"] for tier in top["tiers"]], ["disk", "memory"])
        self.assertIn("hit ratio", self.ok("top", "--once", "--interval", "0.1").text)

    def test_top_on_a_terminal_of_80_columns(self):
        import fcntl
        import pty
        import select
        import struct
        import termios
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = dict(os.environ, TERM="xterm")
        process = subprocess.Popen([OBJM, "--socket", self.daemon.socket, "top", "--no-varnish",
                                    "--interval", "0.1"], stdin=follower, stdout=follower,
                                   stderr=subprocess.PIPE, env=environment)
        os.close(follower)
        shown = b""
        deadline = time.monotonic() + 20
        while b"hit ratio" not in shown and time.monotonic() < deadline:
            if select.select([leader], [], [], 0.1)[0]:
                shown += os.read(leader, 65536)
        os.write(leader, b"q")

        def ended():
            # What it still draws has to be read, or it waits for us.
            if select.select([leader], [], [], 0)[0]:
                try:
                    os.read(leader, 65536)
                except OSError:
                    pass
            return process.poll() is not None
        wait_until(ended, "top ends on q")
        self.assertEqual(process.returncode, DONE, process.stderr.read())
        process.stderr.close()
        os.close(leader)
        self.assertIn(b"hit ratio", shown)

    def test_regions(self):
        self.assertEqual(self.ok("region", "list").text, "")
        for verb in ("drop", "drain", "resume"):
            self.assertEqual(self.objm("region", verb, "none/none").code, ABSENT)

    def test_check(self):
        answer = self.objm("check", "--memory-dir", self.daemon.memory_dir)
        self.assertIn("answers on", answer.text)
        self.assertIn("is a tmpfs", answer.text)
        self.assertIn(answer.code, (DONE, OTHER))  # limits are the machine's
        bad = tempfile.NamedTemporaryFile("w", suffix=".vcl")
        bad.write("vcl 4.1;\nsub vcl_recv { return (purge); }\n")
        bad.flush()
        answer = self.objm("check", "--offline", bad.name)
        self.assertEqual(answer.code, OTHER)
        self.assertIn(f"{bad.name}:2: return (purge)", answer.text)
        # A directory is one, and the file behind it is looked into.
        answer = self.objm("check", "--offline", "--vcl-path", self.directory, "--vcl-path", "/tmp",
                           bad.name)
        self.assertEqual(answer.code, OTHER)
        self.assertIn(f"{bad.name}:2: return (purge)", answer.text)
        good = tempfile.NamedTemporaryFile("w", suffix=".vcl")
        good.write('vcl 4.1;\nimport objmapper;\ninclude "objmapper.vcl";\n')
        good.flush()
        self.assertEqual(self.objm("check", "--offline", good.name).code, DONE)
        self.assertEqual(self.objm("check", "--memory-dir", "/proc").code, OTHER)
        bad.close()
        good.close()


class Usage(unittest.TestCase):
    def test_wrong_usage(self):
        for arguments in ([], ["nonsense"], ["get"], ["put"], ["put", "k", "--ttl"],
                          ["put", "k", "--ttl", "tomorrow"], ["purge"], ["purge", "a", "--tag", "b"],
                          ["region"], ["top", "--json"], ["top"], ["get", "a", "b", "c"],
                          ["status", "--nonsense"], ["delete"], ["--timeout-ms", "0", "status"]):
            answer = objm("/nonexistent/socket", *arguments)
            self.assertEqual(answer.code, USAGE, (arguments, answer.err))
            self.assertTrue(answer.err.startswith("objm: "), answer.err)

    def test_help_and_version(self):
        for arguments in (["--help"], ["--version"], ["put", "--help"], ["region", "--help"]):
            answer = objm(None, *arguments)
            self.assertEqual((answer.code, answer.err), (DONE, ""), arguments)
            self.assertTrue(answer.out)

    def test_nobody_there(self):
        for arguments in (["get", "k"], ["put", "k"], ["stat", "k"], ["list"], ["delete", "k"],
                          ["purge", "p"], ["status"], ["region", "list"], ["region", "drop", "o"],
                          ["region", "drain", "o"], ["top", "--once"], ["check"]):
            answer = objm("/nonexistent/socket", *arguments)
            self.assertEqual(answer.code, UNREACHABLE, arguments)
            self.assertIn("is objmapperd running?", answer.err + answer.text)
        self.assertEqual(objm(None, "status", env={"OBJMAPPER_SOCKET": "/nonexistent/x"}).code,
                         UNREACHABLE)

    def test_somebody_who_does_not_answer(self):
        directory = tempfile.mkdtemp(prefix="om-cli-")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(directory + "/s")
            listener.listen(4)
            answer = objm(directory + "/s", "--timeout-ms", "200", "get", "k")
        shutil.rmtree(directory)
        self.assertEqual(answer.code, UNREACHABLE)
        self.assertIn("does not answer; --timeout-ms gives it longer", answer.err)


class Refusals(unittest.TestCase):
    def test_no_space(self):
        with Daemon(memory="8M") as daemon:
            answer = objm(daemon.socket, "put", "large", stdin=os.urandom(64 << 20))
            self.assertEqual(answer.code, NO_SPACE, answer.err)
            self.assertEqual(objm(daemon.socket, "get", "large").code, ABSENT)

    @unittest.skipUnless(os.geteuid() == 0, "needs another user to be refused")
    def test_denied(self):
        # Nobody may read, write or administer here; the socket itself lets everybody in.
        with Daemon(memory="8M", extra=["--read-gid", "54321", "--write-gid", "54321",
                                        "--admin-gid", "54321"]) as daemon:
            os.chmod(daemon.directory, 0o755)
            os.chmod(daemon.socket, 0o666)

            def nobody():
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            binary = os.path.join(daemon.directory, "objm")
            shutil.copy(OBJM, binary)
            for arguments in (["put", "k"], ["get", "k"], ["purge", "p"], ["region", "drop", "o"]):
                process = subprocess.run([binary, "--socket", daemon.socket, *arguments],
                                         input=b"", capture_output=True, preexec_fn=nobody,
                                         cwd="/", timeout=60, check=False)
                self.assertEqual(process.returncode, DENIED, (arguments, process.stderr))
            os.chmod(daemon.socket, 0o600)
            process = subprocess.run([binary, "--socket", daemon.socket, "get", "k"], input=b"",
                                     capture_output=True, preexec_fn=nobody, cwd="/", timeout=60,
                                     check=False)
            self.assertEqual(process.returncode, DENIED, process.stderr)


if __name__ == "__main__":
    unittest.main()
