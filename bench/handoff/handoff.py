#!/usr/bin/env python3
"""Hand-off: what a body costs on its way from an origin through Varnish to a client, once it is handed
over by objmapper (docs/handoff.md) and once sent over HTTP.

Two set-ups of the same programs run side by side: example_origin, varnishd with its cache in objmapper,
objmapperd. In one VCL allows the hand-off. Every request is a miss. Interleaved rounds; CPU of origin,
varnishd and objmapperd together per GB that clients received; the median of the rounds' ratios with its
95 % interval. Bodies are compared once beforehand; each set-up must have gone its own way every time.

    bench/handoff/handoff.py [--pairs 20] [--round 100M] [--sizes 1M,10M] [--source generated|files] [--unix]
                             [--json FILE]

Origin and varnishd may write in place, as members of --write-gid.
--unix: origin and client on Unix sockets instead of TCP loopback.
"""

import argparse
import http.client
import json
import os
import pathlib
import shutil
import socket
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import machine, netns, stats  # noqa: E402
from kit.sizes import parse  # noqa: E402

AT_MOST = 0.5
BOUND_FOR = "10M"
GB = 1e9
PREFIX = "handoff:bench:"


class SetUp(machine.Objmapper):
    """Origin, varnishd and objmapperd."""

    def __init__(self, name, files, hands_off, arguments):
        super().__init__(name, None, memory=arguments.memory, daemon_memory=arguments.daemon_memory, trusted=True)
        self.files = files
        self.hands_off = hands_off
        self.arguments = arguments
        self.origin_port = machine.free_port()
        self.number = 0
        if arguments.unix:
            self.unix = self.folder / "client.sock"

    def vcl(self):
        where = '.path = "%s/origin.sock"' % self.folder if self.arguments.unix else \
            '.host = "127.0.0.1"; .port = "%d"' % self.origin_port
        allow = 'objm.allow_handoff(origin, "%s");' % PREFIX if self.hands_off else ""
        return """vcl 4.1;
import objmapper from "%(build)s/lib/libvmod_objmapper.so";
backend origin { %(where)s; }
sub vcl_init {
  new store = objmapper.storage(socket = "%(folder)s/s", memory = %(memory)sB);
  store.set_default();
  new objm = objmapper.director(socket = "%(folder)s/s");
  objm.set_backend(origin);
  %(allow)s
}
sub vcl_recv {
  if (req.method == "PURGE") { return (purge); }
  set req.backend_hint = %(hint)s;
}
""" % {"build": machine.BUILD, "where": where, "folder": self.folder, "memory": self.memory, "allow": allow,
            "hint": "objm.backend()" if self.hands_off else "origin"}

    def spawn(self, *command, **options):
        if command[0] == "varnishd":
            listen = self.folder / "origin.sock" if self.arguments.unix else "127.0.0.1:%d" % self.origin_port
            super().spawn(machine.BUILD / "bin" / "example_origin", "--listen", listen, "--objmapper",
                          self.folder / "s", "--prefix", PREFIX, "--files", self.files)
        return super().spawn(*command, **options)

    def counter_of_origin(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.origin_port)
        if self.arguments.unix:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(self.folder / "origin.sock"))
        connection.request("GET", "/stats", headers={"Connection": "close"})
        return json.loads(connection.getresponse().read())[name]

    def purge(self):
        """All that the last round has brought; it would be in the way of the next."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        for line in (self.folder / "urls").read_text().splitlines():
            connection.request("PURGE", line.split()[0], headers={"Host": "bench.test"})  # that of objm-load
            connection.getresponse().read()

    def urls(self, size, count):
        """A file of URLs that nobody has asked for yet."""
        file = self.folder / "urls"
        lines = []
        for _ in range(count):
            self.number += 1
            name = "files/%s" % size if self.arguments.source == "files" else "generated/%d" % parse(size)
            lines.append("/%s?%d %d\n" % (name, self.number, parse(size)))
        file.write_text("".join(lines))
        return file

    def seconds_per_gb(self, size, requests, **options):
        way = "handed_over" if self.hands_off else "answered"
        before = self.counter_of_origin(way)
        got = machine.load(self, self.urls(size, requests), via="unix" if self.arguments.unix else "tcp",
                           requests=requests, in_order=True, connections=self.arguments.connections, **options)
        if got["errors"] or got["hits"] or got["requests"] != requests:
            sys.exit("%s: %s" % (self.name, got))
        if self.counter_of_origin(way) - before != requests:
            sys.exit("%s: the origin did not go this way every time" % self.name)
        self.purge()
        return got["server_cpu"] / (got["body_bytes"] / GB)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--round", default="100M", help="bytes of bodies; %(default)s")
    parser.add_argument("--sizes", default="1M,10M")
    parser.add_argument("--source", choices=("generated", "files"), default="generated")
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--memory", default="256M")
    parser.add_argument("--daemon-memory", default="640M")
    parser.add_argument("--unix", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    report = []
    folder = pathlib.Path(tempfile.mkdtemp(prefix="om-bench-"))
    try:
        folder.chmod(0o755)
        for size in arguments.sizes.split(","):
            (folder / size).write_bytes(os.urandom(parse(size)))
        with SetUp("handed over", folder, True, arguments) as ours, SetUp("HTTP", folder, False, arguments) as plain:
            for size in arguments.sizes.split(","):
                ratios, costs = [], {ours.name: [], plain.name: []}
                requests = max(1, parse(arguments.round) // parse(size))
                # Until every slot of either store has been in use: they are faulted then.
                for _ in range(1 + parse(arguments.daemon_memory) // parse(arguments.round)):
                    for setup in (ours, plain):
                        setup.seconds_per_gb(size, requests)
                for pair in range(arguments.pairs):
                    for setup in (ours, plain) if pair % 2 == 0 else (plain, ours):
                        costs[setup.name].append(setup.seconds_per_gb(size, requests))
                    ratios.append(costs[ours.name][-1] / costs[plain.name][-1] if costs[plain.name][-1] else float("inf"))
                interval = stats.median_interval(ratios)
                bound = AT_MOST if size == BOUND_FOR else None
                line = {"size": size, "ratio": interval, "verdict": stats.verdict(interval, at_most=bound),
                        "ratios": ratios, "s_per_gb": costs}
                report.append(line)
                print("%-5s CPU of origin, varnishd and objmapperd per GB, handed over / HTTP: %s  %s (%.3f and %.3f s)" % (
                    size, stats.show(interval), line["verdict"], stats.median_interval(costs[ours.name])[0],
                    stats.median_interval(costs[plain.name])[0]), flush=True)
            if ours.counter("OBJMD.*.c_handoff") == 0 or ours.counter("OBJM.*.c_fallback*") or \
                    plain.counter("OBJM.*.c_fallback*"):
                sys.exit("bodies did not go into objmapper: the figures mean nothing")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
