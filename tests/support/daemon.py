"""Starts objmapperd for a test, waits until it answers, and ends it.

    with Daemon(memory="64M", disk="256M") as daemon:
        ... daemon.socket, daemon.pid ...
        daemon.kill(); daemon.start()      # a crash and a restart with the same directories

Everything lies in a directory of its own below $TMPDIR, except the memory tier, which needs a tmpfs
(/dev/shm unless the test names another one). The daemon's log is kept in memory for `log()`, and
printed when a start fails.
"""

import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

BUILD = os.environ.get("OM_BUILD_DIR", os.path.join(os.path.dirname(__file__), "../../build/dev"))
OBJMAPPERD = os.environ.get("OM_OBJMAPPERD", os.path.join(BUILD, "bin", "objmapperd"))
OBJM = os.environ.get("OM_OBJM", os.path.join(BUILD, "bin", "objm"))
# Above 1 where a sanitizer makes everything slow (cmake/om.cmake): waits become longer, nothing else.
TIME_FACTOR = float(os.environ.get("OM_TIME_FACTOR", "1"))


def wait_until(condition, what, seconds=10.0):
    """Polls until condition() is true and returns its value; fails the test with `what` otherwise."""
    deadline = time.monotonic() + seconds * TIME_FACTOR
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.003)


class StartFailed(Exception):
    """The daemon ended instead of answering. `code` is its exit code, `text` what it said."""

    def __init__(self, code, text):
        super().__init__(f"objmapperd ended with {code}:\n{text}")
        self.code = code
        self.text = text


class Daemon:
    """One objmapperd. `disk` is a size for a disk tier in the test's directory, or a list of
    complete --disk arguments; None: memory only. `extra` are further arguments; `env` is added to
    the environment; `preexec` runs in the child (resource limits and the like)."""

    def __init__(self, memory="64M", disk=None, extra=(), env=None, directory=None,
                 memory_dir=None, state_dir=None, preexec=None, start=True):
        self.directory = directory or tempfile.mkdtemp(prefix="om-test-")
        self._own_directory = directory is None
        self._own_memory_dir = memory_dir is None
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.memory_dir = memory_dir or tempfile.mkdtemp(prefix="om-test-mem-", dir=shm)
        self.state_dir = state_dir or os.path.join(self.directory, "state")
        self.socket = os.path.join(self.directory, "om.sock")
        self.log_path = os.path.join(self.directory, "log")
        self.memory = memory
        if disk is None:
            self.disks = []
        elif isinstance(disk, str):
            self.disks = [os.path.join(self.directory, "disk") + ":" + disk]
        else:
            self.disks = list(disk)
        self.extra = list(extra)
        self.env = dict(env or {})
        self.preexec = preexec
        self.process = None
        if start:
            try:
                self.start()
            except BaseException:
                self._remove()
                raise

    def arguments(self):
        arguments = [OBJMAPPERD, "--socket", self.socket, "--memory", self.memory,
                     "--memory-dir", self.memory_dir, "--state-dir", self.state_dir]
        for disk in self.disks:
            arguments += ["--disk", disk]
        if "--config" not in self.extra:
            arguments += ["--config", os.devnull]  # not that of the machine
        return arguments + self.extra

    def start(self, seconds=20.0):
        """Starts it and returns once it answers."""
        environment = dict(os.environ)
        environment.update(self.env)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.arguments(), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=environment, preexec_fn=self.preexec)
        deadline = time.monotonic() + seconds * TIME_FACTOR
        while not self._answers():
            code = self.process.poll()
            if code is not None:
                raise StartFailed(code, self.log())
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise StartFailed(None, "does not answer\n" + self.log())
            time.sleep(0.003)
        return self

    def _answers(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            # Connections are taken before the store is open; HELLO is answered after it.
            probe.settimeout(1)
            try:
                probe.connect(self.socket)
                probe.send(struct.pack("<IHHQIIIHHQI", 24 + 20, 1, 0, 1, 0, 0, 0x50414D4F, 1, 1, 0,
                                       0))
                return bool(probe.recv(1 << 17))
            except OSError:
                return False

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def log(self):
        try:
            with open(self.log_path, errors="replace") as log:
                return log.read()
        except FileNotFoundError:
            return ""

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, seconds=10.0):
        """SIGTERM; returns the exit code."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("objmapperd did not end on SIGTERM:\n" + self.log())

    def kill(self):
        """SIGKILL, as a crash."""
        self.process.kill()
        self.process.wait()

    def descriptors(self):
        """How many descriptors the daemon has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def sockets(self):
        """How many of them are sockets: files come and go by themselves."""
        count = 0
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            try:
                count += os.readlink(f"/proc/{self.pid}/fd/{name}").startswith("socket:")
            except FileNotFoundError:
                pass  # closed meanwhile
        return count

    def close(self):
        code = None
        try:
            if self.alive():
                code = self.stop()
            elif self.process is not None:
                code = self.process.returncode
        finally:
            self._remove()
        return code

    def _remove(self):
        if self._own_memory_dir:
            shutil.rmtree(self.memory_dir, ignore_errors=True)
        if self._own_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
