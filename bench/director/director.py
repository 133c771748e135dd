#!/usr/bin/env python3
"""The director: a hit in objmapper against a fetch from an H2O on the same machine, and what a miss adds.

One varnishd with its cache in objmapper. Every request is for a URL that it has not seen (a query that the
origin does not look at), and so is a fetch: from H2O (`origin`), through a director that finds the body
shared (`hit`), or through one that finds nothing and asks H2O (`miss`). Ways take turns, in pairs; CPU of
varnishd's worker per GB that clients received, and the median time to the first byte as clients saw it; the
median of the pairs' ratios with its 95 % interval. Nothing is measured before the store's memory is full. That
each way was what it is called is checked by the director's counters; bodies are compared beforehand.

    bench/director/director.py [--pairs 80] [--requests 3000] [--connections 1] [--memory 512M] [--untrusted] [--json FILE]

varnishd writes in place what it publishes, as a member of --write-gid, which the packaged configuration makes it;
--untrusted: it does not, and the daemon copies.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import machine, netns, stats, store  # noqa: E402

GB = 1e9
SMALL, LARGE = 4 << 10, 1 << 20
# name: (way, against, size, what, bound)
CLAIMS = {
    "cpu_hit_1M": ("hit", "origin", LARGE, "cpu", 0.6),
    "first_byte_hit_4K": ("hit", "origin", SMALL, "first_byte", 0.8),
    "first_byte_miss_4K": ("miss", "origin", SMALL, "first_byte", 1.1),
}
SAYS = {"cpu": "CPU of varnishd per GB", "first_byte": "time to first byte"}


class H2O(machine.Contestant):
    """Files over HTTP/1.1, kept connections."""

    def __init__(self, files):
        super().__init__("h2o")
        self.files = files

    def start(self):
        self.folder.chmod(0o755)
        (self.folder / "h2o.conf").write_text("""%s
listen:
  host: 127.0.0.1
  port: %d
http1-request-timeout: 60
hosts:
  default:
    paths:
      /:
        file.dir: %s
        header.set: "Cache-Control: max-age=86400"
""" % ("user: nobody" if os.getuid() == 0 else "", self.port, self.files))
        self.spawn("h2o", "-c", self.folder / "h2o.conf")


class Cache(machine.Objmapper):
    """The query says the way: ?origin, ?hit or ?miss, and a number that no other request has."""

    def vcl(self):
        return super(machine.Objmapper, self).vcl() + """
import objmapper from "%s/lib/libvmod_objmapper.so";
sub vcl_init {
  new store = objmapper.storage(socket = "%s/s", memory = %sB);
  store.set_default();
  new objm = objmapper.director("%s/s", 1s);
  objm.set_backend(default);
}
sub vcl_backend_fetch {
  if (bereq.url ~ "[?]hit") {
    set bereq.backend = objm.backend();
    objm.set_key("bench:" + regsub(bereq.url, "[?].*", ""));
  } else if (bereq.url ~ "[?]miss") {
    set bereq.backend = objm.backend();
  }
}
""" % (machine.BUILD, self.folder, self.memory, self.folder)


class Run:
    """Fetches of one way and size, never the same twice."""

    def __init__(self, cache, folder, requests, connections=4):
        self.cache = cache
        self.file = folder / "urls"
        self.requests = requests
        self.connections = connections
        self.number = 0

    def once(self, way, size):
        """What the fetches cost, by CLAIMS' words; ends when they were not what they should be."""
        urls = ["/o/%d/0?%s%d" % (size, way, self.number + i) for i in range(self.requests)]
        self.number += self.requests
        self.file.write_text("\n".join(urls) + "\n")
        counters = ("OBJMD.objm.c_hit", "OBJMD.objm.c_miss")
        before = [self.cache.counter(name) for name in counters]
        worker = self.cache.child()
        spent = machine.cpu_seconds(worker)
        got = machine.load(self.cache, self.file, requests=self.requests, in_order=True, connections=self.connections)
        spent = machine.cpu_seconds(worker) - spent
        hits, misses = (self.cache.counter(name) - old for name, old in zip(counters, before))
        wanted = {"origin": (0, 0), "hit": (self.requests, 0), "miss": (0, self.requests)}[way]
        errors = sum(got["errors"].values())
        if errors or (hits, misses) != wanted:
            sys.exit("%s: %s errors, %d hits and %d misses of the director; wanted %s" % (
                way, got["errors"] or "no", hits, misses, wanted))
        return {"cpu": spent / (got["body_bytes"] / GB), "first_byte": got["first_byte_us"]["p50"]}

    def fill(self, ways, size):
        """Until the store evicts, as that of a cache does that has been there for a while."""
        while self.cache.counter("OBJM.store.c_nuked") == 0:
            for way in ways:
                self.once(way, size)


def publish(cache, files, size):
    subprocess.run([machine.BUILD / "test" / "put_shared", cache.folder / "s", "bench:/o/%d/0" % size,
                    "header", "Cache-Control: max-age=86400", "ttl", "86400",
                    "file", files / "o" / str(size) / "0"], check=True, stdout=subprocess.DEVNULL)


def compare(cache, files, size):
    want = (files / "o" / str(size) / "0").read_bytes()
    for way in ("origin", "hit", "miss"):
        machine.same_body(cache.port, "/o/%d/0?%s-first" % (size, way), want)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=80, help="%(default)s: a miss is decided by few per cent")
    parser.add_argument("--requests", type=int, default=3000, help="of a turn, so that it lasts")
    parser.add_argument("--connections", type=int, default=1, help="that ask at once; with more than there are processors "
                                                                  "a latency is the work of all of them; %(default)s")
    parser.add_argument("--claims", default=",".join(CLAIMS), help="%(default)s")
    parser.add_argument("--memory", default="512M", help="of the store; the daemon has as much again")
    parser.add_argument("--untrusted", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    claims = {name: CLAIMS[name] for name in arguments.claims.split(",")}
    report = []
    with machine.scratch() as (folder, files):
        first = folder / "first"
        first.write_text("".join("/o/%d/0\n" % size for size in (SMALL, LARGE)))
        store.program("objm-origin", "--write", files, "--urls", first)
        memory = int(arguments.memory[:-1]) * 2
        with H2O(files) as origin, Cache("varnishd", origin, memory=arguments.memory, trusted=not arguments.untrusted,
                                         daemon_memory="%d%s" % (memory, arguments.memory[-1])) as cache:
            for size in (SMALL, LARGE):
                publish(cache, files, size)
                compare(cache, files, size)
            run = Run(cache, folder, arguments.requests, arguments.connections)
            for name, (way, against, size, what, bound) in claims.items():
                ratios, seen = [], {way: [], against: []}
                run.fill((way, against), size)
                for pair in range(arguments.pairs):
                    for one in (way, against) if pair % 2 == 0 else (against, way):
                        seen[one].append(run.once(one, size)[what])
                    ratios.append(seen[way][-1] / seen[against][-1] if seen[against][-1] else float("inf"))
                interval = stats.median_interval(ratios)
                line = {"claim": name, "ratio": interval, "verdict": stats.verdict(interval, at_most=bound),
                        "ratios": ratios, "seen": seen}
                report.append(line)
                print("%-18s %s, %s / %s: %s  %s (bound %.2f)" % (
                    name, SAYS[what], way, against, stats.show(interval), line["verdict"], bound), flush=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
