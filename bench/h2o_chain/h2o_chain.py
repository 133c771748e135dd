#!/usr/bin/env python3
"""H2O in front: what varnishd costs when H2O reaches it over a Unix socket, against TCP loopback.

One varnishd with its cache in objmapper listens on both; an H2O in front of each, with kept connections
(docs/h2o.md), is asked over plain HTTP in turn. Interleaved pairs; CPU of varnishd's worker per GB that
clients received; the median of the pairs' ratios with its 95 % interval. All requests must have been hits,
of the right length; bodies are compared once beforehand.

    bench/h2o_chain/h2o_chain.py [--pairs 20] [--seconds 2] [--sizes 64K,1M,10M] [--mode auto] [--disk 0]
                                 [--delivery auto] [--proxy-protocol] [--json FILE]
"""

import argparse
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import machine, netns, stats, store  # noqa: E402
from kit.sizes import parse  # noqa: E402

AT_MOST = 0.7
GB = 1e9


class Cache(machine.Objmapper):
    """Listens on a port, as its base does, and on a Unix socket."""

    def __init__(self, origin, arguments):
        super().__init__("varnishd", origin, memory=arguments.memory)
        self.arguments = arguments

    def vcl(self):
        sizes = "memory = %sB" % self.memory
        if self.arguments.disk != "0":
            sizes += ", disk = %sB" % self.arguments.disk
        return super(machine.Objmapper, self).vcl() + """
import objmapper from "%s/lib/libvmod_objmapper.so";
sub vcl_init {
  new store = objmapper.storage(socket = "%s/s", %s, mode = %s, delivery = %s);
  store.set_default();
}
""" % (machine.BUILD, self.folder, sizes, self.arguments.mode, self.arguments.delivery)

    def spawn(self, *command, **options):
        if command[0] == "varnishd":
            protocol = ",PROXY" if self.arguments.proxy_protocol else ""
            command += ("-a", "h2o=%s/h2o.sock%s,mode=666" % (self.folder, protocol))
        elif self.arguments.disk != "0":
            # The region's disk share, and what the daemon keeps for its own.
            command += ("--disk", "%s/disk:%d" % (self.folder, parse(self.arguments.disk) * 102 // 100 + (64 << 20)))
        return super().spawn(*command, **options)


class Front(machine.Contestant):
    """H2O before `upstream`, as in docs/h2o.md but for TLS, which is no cost of varnishd."""

    def __init__(self, name, upstream, proxy_protocol):
        super().__init__(name)
        self.upstream = upstream
        self.proxy_protocol = proxy_protocol

    def start(self):
        self.folder.chmod(0o755)
        way = "proxy.proxy-protocol: ON\n        proxy.timeout.keepalive: 0" if self.proxy_protocol else \
            "proxy.timeout.keepalive: 60000"
        (self.folder / "h2o.conf").write_text("""%s
listen:
  host: 127.0.0.1
  port: %d
hosts:
  default:
    paths:
      /:
        proxy.reverse.url: "%s"
        proxy.preserve-host: ON
        %s
""" % ("user: nobody" if os.getuid() == 0 else "", self.port, self.upstream, way))
        self.spawn("h2o", "-c", self.folder / "h2o.conf")


def varnishd_seconds_per_gb(cache, front, urls, **options):
    """What the worker costs while clients load one front; ends when an answer was not as it should be."""
    worker = cache.child()
    before = machine.cpu_seconds(worker)
    got = machine.load(front, urls, **options)
    spent = machine.cpu_seconds(worker) - before
    if got["errors"] or got["hits"] != got["requests"]:
        sys.exit("%s: not all hits: %s" % (front.name, got))
    return spent / (got["body_bytes"] / GB)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--sizes", default="64K,1M,10M")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--memory", default="512M")
    parser.add_argument("--disk", default="0")
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--delivery", default="auto")
    parser.add_argument("--proxy-protocol", action="store_true", help="over the Unix socket; no kept connections there")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    report = []
    with machine.scratch() as (folder, files):
        urls = {}
        for size in arguments.sizes.split(","):
            count = max(4, min(64, (64 << 20) // parse(size)))
            urls[size] = folder / ("urls-" + size)
            urls[size].write_text("".join("/o/%d/%d\n" % (parse(size), i) for i in range(count)))
            store.program("objm-origin", "--write", files, "--urls", urls[size])
        with machine.Origin(files) as origin, Cache(origin, arguments) as cache, \
                Front("unix", "http://[unix:%s/h2o.sock]/" % cache.folder, arguments.proxy_protocol) as unix, \
                Front("tcp", "http://127.0.0.1:%d/" % cache.port, False) as tcp:
            for file in urls.values():
                for front in (tcp, unix):
                    machine.load(front, file, requests=256, in_order=True, verify=True)
            failed = cache.counter("OBJM.*.c_fail*")
            for size, file in urls.items():
                ratios, costs = [], {"unix": [], "tcp": []}
                for pair in range(arguments.pairs):
                    for front in (tcp, unix) if pair % 2 == 0 else (unix, tcp):
                        costs[front.name].append(varnishd_seconds_per_gb(
                            cache, front, file, seconds=arguments.seconds, connections=arguments.connections, seed=pair))
                    ratios.append(costs["unix"][-1] / costs["tcp"][-1] if costs["tcp"][-1] else float("inf"))
                interval = stats.median_interval(ratios)
                line = {"size": size, "ratio": interval, "verdict": stats.verdict(interval, at_most=AT_MOST),
                        "ratios": ratios, "s_per_gb": costs}
                report.append(line)
                print("%-5s CPU of varnishd per GB, Unix socket / TCP: %s  %s (bound %.2f; %.3f and %.3f s)" % (
                    size, stats.show(interval), line["verdict"], AT_MOST,
                    stats.median_interval(costs["unix"])[0], stats.median_interval(costs["tcp"])[0]), flush=True)
            if cache.counter("OBJM.*.c_fail*") != failed or cache.counter("OBJM.*.g_objects") == 0:
                sys.exit("objects were not in objmapper: the figures mean nothing")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
