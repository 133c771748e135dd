"""An objmapperd of one's own, for benchmarks of the store alone."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from kit import machine


class Store:
    """A daemon with directories of its own; a context manager. The memory tier lies on a tmpfs and
    the state on whatever $TMPDIR is, as in production it is on a disk. Who starts it may write in
    place (--write-gid)."""

    def __init__(self, memory="512M", extra=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="om-bench-"))
        self.memory_dir = pathlib.Path(tempfile.mkdtemp(prefix="om-bench-", dir=os.environ.get("OM_BENCH_SHM", "/dev/shm")))
        self.socket = self.folder / "s"
        self.command = [
            machine.BUILD / "bin" / "objmapperd", "--socket", self.socket, "--memory", memory,
            "--memory-dir", self.memory_dir, "--state-dir", self.folder / "state",
            "--write-gid", str(os.getgid()), *extra,
        ]
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def spawn(self):
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(
                [str(c) for c in self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self):
        self.spawn()
        machine.wait_for(lambda: self.process.poll() is not None or self.answers(), what="objmapperd")
        if self.process.poll() is not None:
            raise RuntimeError("objmapperd ended: " + (self.folder / "log").read_text()[-1000:])

    def answers(self):
        return self.socket.exists() and self.status() is not None

    def status(self):
        """objm status as a dictionary; None while nobody answers."""
        done = subprocess.run(
            [str(machine.BUILD / "bin" / "objm"), "--socket", str(self.socket), "status", "--json"],
            capture_output=True, text=True)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.memory_dir, ignore_errors=True)


def program(name, *arguments):
    """Runs a program of the build; its output. What it complains about ends the benchmark."""
    done = subprocess.run([str(machine.BUILD / "bin" / name), *map(str, arguments)],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip() or "%s ended with %d" % (name, done.returncode))
    return done.stdout
