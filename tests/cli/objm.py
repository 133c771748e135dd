"""Runs objm for a test."""

import os
import subprocess

from support.daemon import OBJM

DONE, ABSENT, USAGE, UNREACHABLE, DENIED, NO_SPACE, OTHER = range(7)


class Answer:
    """How it ended: code, out (bytes), err (text)."""

    def __init__(self, process):
        self.code = process.returncode
        self.out = process.stdout
        self.err = process.stderr.decode(errors="replace")

    @property
    def text(self):
        return self.out.decode(errors="replace")


def objm(socket, *arguments, stdin=b"", timeout=60, env=None, preexec=None):
    environment = {k: v for k, v in os.environ.items() if k != "OBJMAPPER_SOCKET"}
    environment.update(env or {})
    place = ["--socket", socket] if socket else []
    return Answer(subprocess.run([OBJM, *place, *arguments], input=stdin, capture_output=True,
                                 timeout=timeout, env=environment, preexec_fn=preexec, check=False))
