#!/usr/bin/env python3
"""A daemon that can do one thing: hand out regions. For tests of the VMOD that want to choose what a daemon says (its
protocol version, for one), or that are to fail for reasons of the VMOD alone.

    region_daemon.py --socket P --memory SIZE --memory-dir DIR [--version N] [anything else is ignored]
"""

import array
import os
import signal
import socket
import struct
import sys
import threading
import urllib.parse

HEADER = struct.Struct("<IHHQII")
HELLO, REGION, REPLY = 1, 11, 1
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_of(text):
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


def string(text):
    return struct.pack("<I", len(text)) + text


class Regions:
    def __init__(self, directory, capacity):
        self.directory = os.path.join(directory, "regions")
        self.capacity = capacity
        self.lock = threading.Lock()
        os.makedirs(self.directory, exist_ok=True)

    def open(self, owner, size):
        """(descriptor, fresh, size), or None when there is no room."""
        with self.lock:
            path = os.path.join(self.directory, urllib.parse.quote(owner, safe=""))
            others = sum(os.stat(os.path.join(self.directory, name)).st_size for name in os.listdir(self.directory)
                         if os.path.join(self.directory, name) != path)
            if others + size > self.capacity:
                return None
            fresh = not os.path.exists(path)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            have = os.fstat(descriptor).st_size
            if have < size:
                os.posix_fallocate(descriptor, 0, size)
            return descriptor, fresh, size


def serve(peer, regions, version):
    with peer:
        while True:
            packet = peer.recv(128 * 1024)
            if not packet:
                return
            _, kind, _, request, _, _ = HEADER.unpack_from(packet)
            status, descriptors = 0, []
            if kind == HELLO:
                body = struct.pack("<HQQBBBIIIIIB", version, 0, os.getpid(), 1, 1, 1, 128 * 1024, 64, 8192, 64 * 1024, 64, 0)
                body += string(b"region_daemon")
            elif kind == REGION:
                length, = struct.unpack_from("<I", packet, HEADER.size)
                owner = packet[HEADER.size + 4:HEADER.size + 4 + length]
                memory, _ = struct.unpack_from("<QQ", packet, HEADER.size + 4 + length)
                got = regions.open(owner.decode(), memory)
                if got is None:
                    status, body = NO_SPACE, string(b"memory is all given away")
                else:
                    descriptors = [got[0]]
                    body = struct.pack("<QBQQBBBQB", 1, got[1], 1, got[2], 4, 1, 1, 0, 0)
            else:
                status, body = UNSUPPORTED, string(b"only regions here")
            head = HEADER.pack(HEADER.size + len(body), kind, REPLY, request, status, len(descriptors))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            peer.sendmsg([head + body], rights)
            for descriptor in descriptors:
                os.close(descriptor)


NO_SPACE, UNSUPPORTED = 0, 0  # filled from include/objmapper/result.h by main


def statuses():
    """The numbers of Errc, from the header that defines them."""
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "../../include/objmapper/result.h"), encoding="utf-8") as file:
        text = file.read()
    body = text[text.index("enum class Errc"):]
    body = body[body.index("{") + 1:body.index("}")]
    numbers, number = {}, 0
    for line in body.splitlines():
        line = line.split("//")[0].strip().rstrip(",")
        if not line:
            continue
        for item in line.split(","):
            name, _, value = item.partition("=")
            number = int(value) if value.strip() else number
            numbers[name.strip()] = number
            number += 1
    return numbers


def main():
    global NO_SPACE, UNSUPPORTED
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    numbers = statuses()
    NO_SPACE, UNSUPPORTED = numbers["kNoSpace"], numbers["kUnsupported"]
    regions = Regions(arguments["--memory-dir"], size_of(arguments.get("--memory", "64M")))
    path = arguments["--socket"]
    if os.path.exists(path):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=serve, args=(peer, regions, int(arguments.get("--version", "1"))), daemon=True).start()


if __name__ == "__main__":
    main()
