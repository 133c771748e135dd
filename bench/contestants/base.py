"""What every contestant is given, and what is asked of it."""

import dataclasses
import os
import pathlib
import signal
import typing

from kit import machine


@dataclasses.dataclass
class Setup:
    """`memory` and `disk` are bytes for bodies; a contestant takes what it has a use for."""

    origin: object
    memory: int = 1 << 30
    disk: int = 0
    files: typing.Optional[pathlib.Path] = None  # bodies as files, for who serves those
    group: object = None  # kit.cgroup.MemoryGroup
    address: typing.Optional[str] = None  # where to listen beside 127.0.0.1


class Server(machine.Contestant):
    """A context manager as machine.Contestant is."""

    has_unix = True
    fetches = True  # from an origin; or serves files
    needs = ()  # programs that must be there

    def __init__(self, name, setup):
        super().__init__(name)
        self.setup = setup
        self.origin = setup.origin
        self.folder.chmod(0o755)

    @classmethod
    def why_not(cls):
        """Why it cannot take part on this machine, or None."""
        for program, package in cls.needs:
            if not any(os.access(os.path.join(d, program), os.X_OK)
                       for d in os.environ["PATH"].split(":") + ["/usr/sbin"]):
                return "%s is not installed: apt-get install %s" % (program, package)
        return None

    def cache_folders(self):
        """Where bodies lie as files that can be made cold."""
        return []

    def kill(self):
        """All of its cache processes at once, as kill -9 does it; what it stored stays."""
        for process in self.processes:
            pids = machine.family(process.pid)
            process.send_signal(signal.SIGSTOP)  # lest it starts another child
            for pid in pids[1:]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.kill()
            process.wait()
        self.processes.clear()
        machine.wait_for(lambda: not machine.answers(self.port), what="the socket's end")

    def restart(self):
        self.start()


def resident_bytes(pids):
    """Of processes: anonymous and shared memory and page tables, what they cost beside page cache."""
    return sum(machine.anonymous_bytes(pid) for pid in pids)
