"""objm-origin: has every body /o/SIZE/NAME there is, and counts what it is asked."""

import urllib.request

from kit import machine


class Origin(machine.Contestant):
    def __init__(self, delay_ms=0):
        super().__init__("origin")
        self.delay_ms = delay_ms

    def start(self):
        self.spawn(machine.BUILD / "bin" / "objm-origin", "--port", self.port, "--delay-ms", self.delay_ms)

    def count(self):
        with urllib.request.urlopen("http://127.0.0.1:%d/count" % self.port, timeout=30) as answer:
            return int(answer.read())
