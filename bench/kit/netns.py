"""A network namespace with a veth pair to it: packets take the whole path of the network stack, with
no card. The client lives in the namespace; the servers stay where they are and listen on `address`."""

import os
import subprocess


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


class Namespace:
    """A context manager; needs CAP_NET_ADMIN and ip(8)."""

    def __init__(self, number=0):
        self.name = "om-bench-%d" % os.getpid()
        # Two ends of a /30 out of the range for benchmarks (RFC 2544).
        net = (os.getpid() * 4 + number * 4) % 65536 & ~3
        self.address = "198.18.%d.%d" % (net >> 8, (net & 255) + 1)
        self.inside = "198.18.%d.%d" % (net >> 8, (net & 255) + 2)
        self.link = "omb%d" % (os.getpid() % 1000000)
        self.prefix = ["ip", "netns", "exec", self.name]

    def __enter__(self):
        try:
            run("ip", "netns", "add", self.name)
            run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "om0", "netns", self.name)
            run("ip", "address", "add", self.address + "/30", "dev", self.link)
            run("ip", "link", "set", self.link, "up")
            run("ip", "-n", self.name, "address", "add", self.inside + "/30", "dev", "om0")
            run("ip", "-n", self.name, "link", "set", "om0", "up")
            run("ip", "-n", self.name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as failed:
            self.__exit__()
            raise RuntimeError("no network namespace: %s" % (getattr(failed, "stderr", "") or failed)) from failed
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "link", "del", self.link], capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
