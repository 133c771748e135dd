"""objm proxy: from the command to a hit, through crashes and removals, to the last process gone."""
import fcntl
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from proxied import BUILD, Origin, Proxy, free_port, processes_with  # noqa: E402
from support.daemon import OBJM, wait_until  # noqa: E402


def refused(*arguments):
    """(exit code, what it said) of a proxy that does not start."""
    done = subprocess.run([OBJM, "proxy", *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def kill_cache(proxy):
    """kill -9 of the manager and the worker; returns when both are gone."""
    before = proxy.varnishds()
    assert len(before) >= 2, before
    for pid in before:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the worker ends by itself when its manager is gone
    wait_until(lambda: not set(before) & set(proxy.varnishds()), "the old ones are gone")


class Refusals(unittest.TestCase):
    """Each is one sentence that says what to do."""

    def check(self, code, words, *arguments):
        got, said = refused(*arguments)
        self.assertEqual(got, code, said)
        self.assertTrue(said.startswith("objm: "), said)
        self.assertEqual(said.count("\n"), 1, said)
        for word in words:
            self.assertIn(word, said)

    def test_https(self):
        self.check(2, ["https", "stunnel"], "--origin", "https://example.org")

    def test_a_name_that_does_not_resolve(self):
        self.check(6, ["does not resolve"], "--origin", "http://no-such-host.invalid")

    def test_a_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            name = f"t{os.getpid()}"
            self.addCleanup(shutil.rmtree, f"/run/objm-proxy/{name}", True)
            got, said = refused("--origin", f"http://127.0.0.1:{port}", "--listen", f"127.0.0.1:{port}", "--name", name)
            self.assertNotEqual(got, 0)
            self.assertIn("is taken", said)
            self.assertIn("--listen", said)

    def test_a_size_that_is_none(self):
        self.check(2, ["--memory"], "--origin", "http://127.0.0.1", "--memory", "lots")

    def test_too_little_memory(self):
        self.check(2, ["at least"], "--origin", "http://127.0.0.1", "--memory", "1M")

    def test_a_disk_without_size(self):
        self.check(2, ["--disk"], "--origin", "http://127.0.0.1", "--disk", "/tmp/x")

    def test_a_vcl_that_is_not_there(self):
        self.check(2, ["--vcl"], "--origin", "http://127.0.0.1", "--vcl", "/nowhere/mine.vcl")

    def test_a_name_that_could_leave_its_directory(self):
        self.check(2, ["--name"], "--origin", "http://127.0.0.1", "--name", "../x")

    def test_more_memory_than_there_is(self):
        origin = Origin()
        self.addCleanup(origin.stop)
        name = f"t{os.getpid()}m"
        self.addCleanup(shutil.rmtree, f"/run/objm-proxy/{name}", True)
        self.addCleanup(shutil.rmtree, f"/dev/shm/objm-proxy-{name}", True)
        self.check(5, ["has room for", "--memory"], "--origin", origin.url, "--memory", "900T", "--name", name,
                   "--listen", f"127.0.0.1:{free_port()}")


    def test_a_link_in_the_place_of_its_memory(self):
        origin = Origin()
        self.addCleanup(origin.stop)
        name = f"t{os.getpid()}l"
        memory = f"/dev/shm/objm-proxy-{name if os.geteuid() == 0 else f'{os.geteuid()}-{name}'}"
        elsewhere = tempfile.mkdtemp(prefix="om-proxy-")
        self.addCleanup(shutil.rmtree, elsewhere)
        mine = pathlib.Path(elsewhere, "mine")
        mine.write_text("mine")
        os.symlink(elsewhere, memory)
        self.addCleanup(os.unlink, memory)
        self.addCleanup(shutil.rmtree, f"/run/objm-proxy/{name}", True)
        self.check(4, [memory, "a link", "--name"], "--origin", origin.url, "--name", name, "--discard",
                   "--listen", f"127.0.0.1:{free_port()}")
        self.assertEqual(mine.read_text(), "mine")

    def test_a_disk_directory_with_files_of_others(self):
        origin = Origin()
        self.addCleanup(origin.stop)
        name = f"t{os.getpid()}o"
        disk = tempfile.mkdtemp(prefix="om-proxy-")
        self.addCleanup(shutil.rmtree, disk)
        mine = pathlib.Path(disk, "objects", "mine")
        mine.parent.mkdir()
        mine.write_text("mine")
        self.addCleanup(shutil.rmtree, f"/run/objm-proxy/{name}", True)
        self.addCleanup(shutil.rmtree, f"/dev/shm/objm-proxy-{name}", True)
        self.addCleanup(shutil.rmtree, f"/dev/shm/objm-proxy-{os.geteuid()}-{name}", True)
        self.check(4, [disk, "another directory for --disk"], "--origin", origin.url, "--name", name, "--discard",
                   "--memory", "64M", "--disk", disk + ":64M", "--listen", f"127.0.0.1:{free_port()}")
        self.assertEqual(mine.read_text(), "mine")


class DryRun(unittest.TestCase):
    def test_prints_the_vcl_and_both_command_lines_and_starts_nothing(self):
        name = f"t{os.getpid()}d"
        done = subprocess.run([OBJM, "proxy", "--origin", "http://127.0.0.1:9", "--dry-run", "--name", name],
                              capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("vcl 4.1;", done.stdout)
        self.assertIn("\n# command lines\n", done.stdout)
        lines = done.stdout.splitlines()[-2:]
        self.assertIn("objmapperd", lines[0])
        self.assertIn("varnishd", lines[1])
        self.assertEqual(processes_with(name), [])
        self.assertFalse(os.path.exists(f"/run/objm-proxy/{name}"))


class Running(unittest.TestCase):
    def setUp(self):
        self.origin = Origin()
        self.addCleanup(self.origin.stop)

    def start(self, *extra, **settings):
        proxy = Proxy(settings.pop("origin", self.origin.url), *extra, **settings)
        self.addCleanup(proxy.clean)
        return proxy.wait_ready()

    def assert_hit(self, proxy, path):
        status, x_cache, body = proxy.get(path)
        self.assertEqual((status, body), (200, Origin.body(path)))
        self.assertRegex(x_cache, "^hit")

    def test_a_day_of_it(self):
        proxy = self.start()
        # miss, hit
        self.assertEqual(proxy.get("/a")[:2], (200, "miss"))
        self.assert_hit(proxy, "/a")
        self.assertEqual(self.origin.count, 1)

        # The cache process is killed: what it had is still there.
        kill_cache(proxy)
        self.assert_hit(proxy, "/a")
        self.assertEqual(self.origin.count, 1)

        # The store is killed: what the cache has stays a hit, and it is started again.
        daemon = proxy.daemons()
        self.assertEqual(len(daemon), 1)
        os.kill(daemon[0], signal.SIGKILL)
        self.assert_hit(proxy, "/a")
        wait_until(lambda: proxy.daemons() and proxy.daemons() != daemon, "objmapperd was started again")
        self.assertEqual(proxy.get("/b")[0], 200)

        # Purged is gone, here and after another kill.
        self.assertEqual(proxy.get("/a", "PURGE")[0], 200)
        kill_cache(proxy)
        self.assertEqual(proxy.get("/a")[:2], (200, "miss"))

        # Banned by prefix, and only that.
        proxy.get("/img/1"), proxy.get("/txt/1")
        self.assertEqual(proxy.get("/img/", "BAN")[0], 200)
        self.assertEqual(proxy.get("/img/1")[1], "miss")
        self.assert_hit(proxy, "/txt/1")

        # However the host is written.
        stored = {"Host": "www.example.org"}
        for path, method in (("/txt/1", "PURGE"), ("/txt/", "BAN")):
            proxy.get("/txt/1", headers=stored)
            self.assertRegex(proxy.get("/txt/1", headers=stored)[1], "^hit")
            self.assertEqual(proxy.get(path, method, {"Host": "WWW.Example.org"})[0], 200)
            self.assertEqual(proxy.get("/txt/1", headers=stored)[1], "miss", method)
        self.assert_hit(proxy, "/txt/1")

        # Removals are for this machine's own.
        self.assertEqual(proxy.get("/txt/1", "PURGE", {"X-Forwarded-For": "192.0.2.1"})[0], 403)

        # The end, and a start that finds everything.
        self.assertEqual(proxy.stop(), 0)
        self.assertEqual(processes_with(proxy.name), [])
        count = self.origin.count
        again = self.start(name=proxy.name, port=proxy.port)
        self.assert_hit(again, "/txt/1")
        self.assertEqual(self.origin.count, count)
        self.assertEqual(again.stop(), 0)
        fresh = self.start("--discard", name=proxy.name, port=proxy.port)
        self.assertEqual(fresh.get("/txt/1")[1], "miss")

    def test_killed_itself_it_leaves_no_process(self):
        proxy = self.start()
        proxy.process.kill()
        proxy.process.wait()
        wait_until(lambda: not processes_with(proxy.name), "all are gone", 30)

    def test_killed_itself_and_started_again_at_once(self):
        proxy = self.start()
        self.assertEqual(proxy.get("/a")[:2], (200, "miss"))
        for _ in range(3):
            before = set(processes_with(proxy.name))
            proxy.process.kill()
            proxy = self.start(name=proxy.name, port=proxy.port)
            self.assert_hit(proxy, "/a")
            # The guard may have a moment left.
            wait_until(lambda: not before & set(processes_with(proxy.name)), "those of before are gone")
        self.assertEqual(self.origin.count, 1)

    def test_killed_itself_the_next_one_waits_for_what_it_had_started(self):
        proxy = self.start()
        self.assertEqual(proxy.get("/a")[:2], (200, "miss"))
        daemon, = proxy.daemons()
        # The kernel lets a stopped process go on when it loses its parent (setpgid(2), orphaned process groups), unless
        # somebody in its group has one.
        somebody = subprocess.Popen(["sleep", "100"], preexec_fn=lambda: os.setpgid(0, daemon))
        self.addCleanup(somebody.wait)
        self.addCleanup(somebody.kill)
        os.kill(daemon, signal.SIGSTOP)
        proxy.process.kill()
        again = Proxy(self.origin.url, name=proxy.name, port=proxy.port)
        self.addCleanup(again.clean)
        wait_until(lambda: f"objmapperd (process {daemon})" in again.said(), "it says what it waits for", 30)
        self.assertIsNone(again.process.poll())
        os.kill(daemon, signal.SIGCONT)
        again.wait_ready()
        self.assert_hit(again, "/a")
        self.assertEqual(self.origin.count, 1)

    def test_started_to_ignore_hangups_it_stays(self):
        proxy = self.start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        daemon = proxy.daemons()
        proxy.process.send_signal(signal.SIGHUP)
        os.kill(daemon[0], signal.SIGKILL)
        wait_until(lambda: proxy.daemons() and proxy.daemons() != daemon, "objmapperd was started again", 30)
        self.assertIsNone(proxy.process.poll())

    def test_nobody_reads_its_messages(self):
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(writer, False)
        with self.assertRaises(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        proxy = self.start("--verbose", stderr=writer)
        os.close(writer)
        self.assertEqual(proxy.get("/a")[:2], (200, "miss"))
        self.assertEqual(proxy.stop(), 0)

    def test_two_at_once_with_a_vcl_of_ones_own(self):
        with tempfile.NamedTemporaryFile("w", suffix=".vcl") as mine:
            mine.write('sub vcl_deliver { set resp.http.X-Mine = "yes"; }\n'
                       'sub vcl_recv { if (req.url == "/never") { return (pass); } }\n')
            mine.flush()
            os.chmod(mine.name, 0o644)
            one = self.start("--vcl", mine.name, "--no-x-cache", "--host", "www.example.org")
            two = self.start("--probe", "none")
            self.assertEqual(one.get("/a")[:2], (200, None))
            self.assertEqual(self.origin.last.get("Host"), "www.example.org")
            self.assertEqual(one.get("/never")[0], 200)
            self.assertEqual(one.get("/never")[0], 200)
            self.assertEqual(self.origin.count, 3)
            self.assertEqual(two.get("/a")[:2], (200, "miss"))
            self.assert_hit(two, "/a")

    def test_a_vcl_from_a_pipe(self):
        directory = tempfile.mkdtemp(prefix="om-proxy-")
        self.addCleanup(shutil.rmtree, directory)
        fifo = pathlib.Path(directory, "vcl")
        os.mkfifo(fifo)
        mine = b'sub vcl_recv { if (req.url == "/never") { return (synth(403)); } }\n'
        writer = threading.Thread(target=fifo.write_bytes, args=(mine,), daemon=True)
        writer.start()
        proxy = self.start("--vcl", str(fifo))
        writer.join(60)
        self.assertEqual(proxy.get("/never")[0], 403)
        self.assertEqual(proxy.get("/a")[0], 200)

    def test_removals_where_the_origin_reads_another_host(self):
        proxy = self.start("--host", "WWW.Example.org")
        for path in ("/a", "/img/1", "/txt/1"):
            self.assertEqual(proxy.get(path)[:2], (200, "miss"))
        # As the summary prints them: by the name under which this machine reaches the proxy.
        self.assertEqual(proxy.get("/a", "PURGE")[0], 200)
        self.assertEqual(proxy.get("/img/", "BAN")[0], 200)
        self.assertEqual(proxy.get("/a")[1], "miss")
        self.assertEqual(proxy.get("/img/1")[1], "miss")
        self.assert_hit(proxy, "/txt/1")

    def test_discard_takes_what_is_its_own_and_nothing_that_is_in_use(self):
        directory = tempfile.mkdtemp(prefix="om-proxy-")
        self.addCleanup(shutil.rmtree, directory, True)
        os.chmod(directory, 0o755)
        disk = ("--disk", directory + ":64M")
        proxy = self.start(*disk)
        proxy.get("/a")
        mine = [pathlib.Path(directory, "mine"), pathlib.Path(directory, "objects", "mine")]
        for path in mine:
            path.write_text("mine")
        marks = [pathlib.Path(directory, name) for name in ("objects/disk-id", "state/catalog/index.mdb")]
        self.assertTrue(all(path.exists() for path in marks))

        # Another one, by its name and port, in the same directory.
        other = Proxy(self.origin.url, *disk, "--discard")
        self.addCleanup(other.clean)
        self.assertNotEqual(other.process.wait(60), 0)
        self.assertIn("an objmapperd is running with " + directory, other.said())
        self.assertTrue(all(path.exists() for path in marks))
        self.assert_hit(proxy, "/a")

        self.assertEqual(proxy.stop(), 0)
        before = marks[0].stat()
        again = self.start(*disk, "--discard", name=proxy.name, port=proxy.port)
        self.assertEqual(again.get("/a")[1], "miss")
        self.assertNotEqual((marks[0].stat().st_ino, marks[0].stat().st_mtime_ns),
                            (before.st_ino, before.st_mtime_ns))
        self.assertEqual([path.read_text() for path in mine], ["mine", "mine"])

    def test_the_same_name_twice_is_refused(self):
        one = self.start()
        two = Proxy(self.origin.url, name=one.name)
        self.addCleanup(two.output.close)
        self.assertNotEqual(two.process.wait(30), 0)
        self.assertIn("is running already", two.said())
        self.assertEqual(one.get("/a")[0], 200)

    def test_a_vcl_with_a_mistake_is_shown(self):
        with tempfile.NamedTemporaryFile("w", suffix=".vcl") as mine:
            mine.write("sub vcl_recv { this is none; }\n")
            mine.flush()
            os.chmod(mine.name, 0o644)
            proxy = Proxy(self.origin.url, "--vcl", mine.name)
            self.addCleanup(proxy.clean)
            self.assertNotEqual(proxy.process.wait(60), 0)
            self.assertIn("correct " + mine.name, proxy.said())
            self.assertEqual(processes_with(proxy.name), [])

    def test_an_origin_that_is_away_is_said_and_what_is_cached_is_served(self):
        proxy = self.start()
        proxy.get("/a")
        wait_until(lambda: proxy.keeps("/a"), "it is whole in the region")
        proxy.stop()
        self.origin.stop()
        again = self.start(name=proxy.name, port=proxy.port)
        self.assertIn("does not answer", again.said())
        self.assert_hit(again, "/a")
        self.assertEqual(again.get("/b")[0], 503)
        self.origin = Origin()
        self.addCleanup(self.origin.stop)

    def test_an_origin_on_a_unix_socket(self):
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        os.chmod(directory, 0o755)
        origin = Origin(directory + "/origin.sock")
        self.addCleanup(origin.stop)
        proxy = self.start(origin=origin.url)
        self.assertEqual(proxy.get("/a")[:2], (200, "miss"))
        self.assert_hit(proxy, "/a")

    def test_as_an_ordinary_user(self):
        if os.geteuid() != 0:
            return  # every other test was one
        # A copy of the programs where that user can reach them.
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        os.chmod(directory, 0o755)
        for place in ("bin/objm", "bin/objmapperd", "lib/libvmod_objmapper.so"):
            (pathlib.Path(directory) / place).parent.mkdir(exist_ok=True)
            shutil.copy(pathlib.Path(BUILD) / place, pathlib.Path(directory) / place)
        share = pathlib.Path(directory) / "share/objmapper"
        share.mkdir(parents=True)
        shutil.copy(pathlib.Path(os.environ["OM_SOURCE_DIR"]) / "vmod/objmapper.vcl", share)
        user = pwd.getpwnam("nobody").pw_uid
        proxy = self.start(user=user, objm=directory + "/bin/objm",
                           environment={"PATH": os.environ["PATH"], "HOME": directory})
        self.assertEqual(proxy.get("/a")[:2], (200, "miss"))
        self.assert_hit(proxy, "/a")
        kill_cache(proxy)
        self.assert_hit(proxy, "/a")
        self.assertEqual({os.stat(f"/proc/{pid}").st_uid for pid in processes_with(proxy.name)}, {user})


if __name__ == "__main__":
    unittest.main()
