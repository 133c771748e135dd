"""Network namespaces: one of the benchmark's own, where TCP is what Debian ships, and one more with a veth pair to it,
so that packets take the whole path of the network stack, with no card."""

import ctypes
import os
import pathlib
import subprocess

CLONE_NEWNET = 0x40000000  # unshare(2); os.unshare() is of Python 3.12

# What the kernel and Debian come with (tcp(7)). A machine may be set otherwise, and over loopback that decides more than
# any server does: with BBR instead of CUBIC a body of 10 MiB by sendfile cost 7.6 times as much CPU, and by write 1.8 times.
TCP = {
    "tcp_congestion_control": "cubic",
    "tcp_rmem": "4096 131072 6291456",
    "tcp_wmem": "4096 16384 4194304",
}


def own():
    """From here on this process and those that it starts are in a network namespace of their own, with TCP as above.
    False: that takes a right which we do not have, and everything stays as the machine has it. Before any thread
    is started: unshare(2) is about the thread that calls it."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return False
    run("ip", "link", "set", "lo", "up")
    for name, value in TCP.items():
        setting(name).write_text(value)
    return True


def setting(name):
    return pathlib.Path("/proc/sys/net/ipv4") / name


def tcp():
    """The settings of TCP that hold where we are."""
    return {name: " ".join(setting(name).read_text().split()) for name in TCP}


def run(*command):
    subprocess.run(command, check=True, capture_output=True, text=True)


class Namespace:
    """The namespace at the other end of a veth pair: the client lives there, the servers stay where they are and listen on
    `address`. A context manager; needs CAP_NET_ADMIN and ip(8)."""

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
            for name, value in tcp().items():
                run(*self.prefix, "sysctl", "-qw", "net.ipv4.%s=%s" % (name, value))
        except (OSError, subprocess.CalledProcessError) as failed:
            self.__exit__()
            raise RuntimeError("no network namespace: %s" % (getattr(failed, "stderr", "") or failed)) from failed
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "link", "del", self.link], capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True)
