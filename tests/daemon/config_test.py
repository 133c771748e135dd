"""Flags and configuration: what is wrong is said with its place and what to do, by exit code 2; what
cannot be had on this machine by 3."""

import os
import pwd
import shutil
import socket
import stat
import subprocess
import tempfile
import unittest

from support.daemon import OBJMAPPERD, Daemon, StartFailed


class Config(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="om-test-")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def run_daemon(self, *arguments, config=None, **more):
        arguments = list(arguments)
        path = os.path.join(self.directory, "c.toml")
        with open(path, "w") as file:
            file.write(config or "")
        arguments += ["--config", path]
        return subprocess.run([OBJMAPPERD] + arguments, capture_output=True, text=True, timeout=60,
                              **more)

    def refused(self, text, *arguments, config=None, code=2):
        ended = self.run_daemon(*arguments, "--check-config", config=config)
        self.assertEqual(ended.returncode, code, ended.stderr)
        self.assertIn(text, ended.stderr)

    def accepted(self, *texts, arguments=(), config=None):
        ended = self.run_daemon(*arguments, "--check-config", config=config)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        for text in texts:
            self.assertIn(text, ended.stdout)

    def test_what_is_right(self):
        self.accepted("configuration is right", "socket /run/objmapper/objmapper.sock",
                      "memory 256M in /run/objmapper/mem", "state in /run/objmapper/state")
        self.accepted("socket /x/s", "memory 1G in /m", "state in /d1/state", "disk /d1 10G",
                      "disk /d2 as large as its file system",
                      config='socket = "/x/s"\nmemory = "1GB"\nmemory-dir = "/m"\n'
                             'disk = ["/d1:10G", "/d2"]\nread-gid = 0\nlog-level = "debug"\n'
                             'metrics = "127.0.0.1:0"\nfile-threshold = "128K"\n')
        self.accepted("disk /one 5M", config='disk = "/one:5M"\n')

    def test_flags_win(self):
        self.accepted("memory 2G", "disk /flag 1G", config='memory = "1G"\ndisk = "/file:1G"\n',
                      arguments=["--memory", "2G", "--disk", "/flag:1G"])
        with self.assertRaises(AssertionError):
            self.accepted("disk /file", config='disk = "/file:1G"\n',
                          arguments=["--disk", "/flag:1G"])

    def test_says_the_line(self):
        self.refused('c.toml:3: unknown key "memroy"; known are disk, socket, memory',
                     config='\nsocket = "/x"\nmemroy = "1G"\n')
        self.refused('c.toml:2: memory "1X" is not a size', config='\nmemory = "1X"\n')
        self.refused("c.toml:1: memory must be a text in quotes or a whole number",
                     config="memory = 1.5\n")
        self.refused("c.toml:2:", config='memory = "1G"\nsocket = \n')
        self.refused("c.toml:1: there is no group" if False else "there is no group",
                     config='read-gid = "no-such-group"\n')

    def test_wrong_flags(self):
        self.refused('--memory "abc" is not a size', "--memory", "abc")
        self.refused("--memory 1K is too little: 4M at least", "--memory", "1K")
        self.refused("is not a size", "--disk", "/d:1Z")
        self.refused("holds nothing", "--disk", "/d:0")
        self.refused("107", "--socket", "/" + "s" * 200)
        self.refused("is none of trace", "--log-level", "loud")
        self.refused("is not of this machine", "--metrics", "0.0.0.0:9100")
        self.refused("expected /path", "--metrics", "9100")
        ended = subprocess.run([OBJMAPPERD, "--nonsense"], capture_output=True, text=True)
        self.assertEqual(ended.returncode, 2)
        self.assertIn("--nonsense", ended.stderr)

    def test_a_file_that_is_not_there(self):
        ended = subprocess.run([OBJMAPPERD, "--config", "/nonexistent.toml"], capture_output=True,
                               text=True)
        self.assertEqual(ended.returncode, 2)
        self.assertIn("/nonexistent.toml", ended.stderr)

    def test_help_and_version(self):
        for flag in ("--help", "--version"):
            ended = subprocess.run([OBJMAPPERD, flag], capture_output=True, text=True)
            self.assertEqual(ended.returncode, 0)
            self.assertIn("objmapperd", ended.stdout)

    def start_fails(self, text, **more):
        with self.assertRaises(StartFailed) as caught:
            Daemon(memory="64M", **more)
        self.assertEqual(caught.exception.code, 3, caught.exception.text)
        self.assertIn(text, caught.exception.text)

    def test_a_socket_that_is_taken(self):
        with Daemon(memory="64M") as daemon:
            ended = subprocess.run(
                [OBJMAPPERD, "--socket", daemon.socket, "--memory-dir", self.directory,
                 "--state-dir", self.directory], capture_output=True, text=True, timeout=60)
            self.assertEqual(ended.returncode, 3)
            self.assertIn("another daemon listens on", ended.stderr)
            self.assertTrue(os.path.exists(daemon.socket))

    def test_a_state_that_is_in_use(self):
        with Daemon(memory="64M") as daemon:
            self.start_fails("busy", state_dir=daemon.state_dir)

    def test_a_stale_socket_is_replaced(self):
        path = os.path.join(self.directory, "om.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
            stale.bind(path)
        with Daemon(memory="64M", directory=self.directory):
            pass

    def test_the_way_to_the_socket_is_for_all(self):
        daemon = Daemon(memory="64M", directory=self.directory, start=False)
        daemon.socket = os.path.join(self.directory, "made", "here", "om.sock")
        with daemon.start():
            def mode(*names):
                return stat.S_IMODE(os.stat(os.path.join(self.directory, *names)).st_mode)
            self.assertEqual((mode("made"), mode("made", "here")), (0o755, 0o755))
            self.assertEqual(mode("made", "here", "om.sock"), 0o660)
            self.assertEqual(mode("state"), 0o700)

    def test_a_file_in_the_sockets_place_is_left_alone(self):
        path = os.path.join(self.directory, "om.sock")
        with open(path, "w") as file:
            file.write("precious")
        self.start_fails("is not a socket", directory=self.directory)
        with open(path) as file:
            self.assertEqual(file.read(), "precious")

    def test_directories_that_cannot_be_used(self):
        path = os.path.join(self.directory, "file")
        with open(path, "w"):
            pass
        self.start_fails("--state-dir", state_dir=path)
        self.start_fails("--memory-dir", memory_dir=path)
        self.start_fails("--disk", disk=[path + ":64M"])

    def test_a_disk_that_does_not_open_is_named(self):
        bad, good = (os.path.join(self.directory, name) for name in ("bad", "good"))
        os.mkdir(bad)
        with open(os.path.join(bad, "disk-id"), "w") as file:
            file.write("no number\n")
        with Daemon(memory="64M", disk=[bad + ":64M", good + ":64M"]) as daemon:
            self.assertEqual(daemon.log().count("disk failed"), 1, daemon.log())
            self.assertIn(f"path={bad} ", daemon.log())
            self.assertRegex(daemon.log(), "ready .* disks=1 ")

    def test_what_the_log_of_removals_has_lost_is_said_once_also_by_a_start_that_fails(self):
        with Daemon(memory="64M") as daemon:
            daemon.kill()
            removals = os.path.join(daemon.state_dir, "removals")
            for name in os.listdir(removals):
                if name.startswith("removals-"):
                    with open(os.path.join(removals, name), "ab") as file:
                        file.write(b"no entry")
            leases = os.path.join(daemon.memory_dir, "leases")
            shutil.rmtree(leases)
            with open(leases, "w"):
                pass
            with self.assertRaises(StartFailed) as caught:
                daemon.start()
            self.assertEqual(caught.exception.code, 3, caught.exception.text)
            self.assertIn("8 bytes at the end of removals-", caught.exception.text)
            os.remove(leases)
            daemon.start()
            self.assertEqual(daemon.log().count("8 bytes at the end of"), 1, daemon.log())

    @unittest.skipUnless(os.geteuid() == 0, "needs root to be another user")
    def test_runs_as_an_ordinary_user_and_says_what_is_not_writable(self):
        nobody = pwd.getpwnam("nobody")
        os.chmod(self.directory, 0o755)

        def become():
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
        own = os.path.join(self.directory, "own")
        os.mkdir(own)
        os.chown(own, nobody.pw_uid, nobody.pw_gid)
        memory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.addCleanup(shutil.rmtree, memory, ignore_errors=True)
        os.chown(memory, nobody.pw_uid, nobody.pw_gid)
        if not os.access(OBJMAPPERD, os.X_OK) or subprocess.run(
                [OBJMAPPERD, "--version"], preexec_fn=become, capture_output=True).returncode != 0:
            self.skipTest("another user cannot reach the build directory")
        with Daemon(memory="64M", directory=own, memory_dir=memory, preexec=become) as daemon:
            self.assertTrue(daemon.alive())
        denied = subprocess.run(
            [OBJMAPPERD, "--socket", os.path.join(self.directory, "s")], preexec_fn=become,
            capture_output=True, text=True, timeout=60)
        self.assertEqual(denied.returncode, 3)
        self.assertIn("is not writable", denied.stderr)


if __name__ == "__main__":
    unittest.main()
