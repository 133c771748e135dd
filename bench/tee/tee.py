#!/usr/bin/env python3
"""The tee: what publishing a response costs beside fetching it.

One varnishd with its cache in objmapper. Every request is for a URL that it has not seen (a query that the
origin does not look at), and so is a fetch: from H2O alone (`origin`), by a VCL that names the filter `objmapper`
(`tee`), or through a director that finds nothing, asks H2O and publishes (`director`). Ways take turns, in pairs;
CPU of varnishd's worker and objmapperd per GB that clients received; the median of the pairs' ratios with its
95 % interval. That every body was published, and how many were received in place, is checked by the counters;
bodies are compared beforehand.

    bench/tee/tee.py [--pairs 20] [--requests 3000] [--sizes 1M] [--memory 512M] [--untrusted] [--json FILE]

varnishd writes in place, as a member of --write-gid; --untrusted: it does not, and the daemon copies once more.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "director"))
import director  # noqa: E402
from kit import machine, netns, stats, store  # noqa: E402
from kit.sizes import parse  # noqa: E402

GB = 1e9
AT_MOST = {("tee", "1M"): 1.1}


class Cache(director.Cache):
    """The query says the way: ?origin, ?tee or ?director, and a number that no other request has."""

    def vcl(self):
        return super().vcl() + """
sub vcl_backend_fetch { if (bereq.url ~ "[?]director") { set bereq.backend = objm.backend(); } }
sub vcl_backend_response {
  if (bereq.url ~ "[?]tee") { set beresp.filters = beresp.filters + " objmapper"; }
}
"""


class Run(director.Run):
    def once(self, way, size):
        urls = ["/o/%d/0?%s%d" % (size, way, self.number + i) for i in range(self.requests)]
        self.number += self.requests
        self.file.write_text("\n".join(urls) + "\n")
        cache = self.cache
        before, gone = self.published() + self.let_go(), self.let_go()
        processes = (cache.child(), cache.processes[0].pid)
        spent = [machine.cpu_seconds(pid) for pid in processes]
        got = machine.load(cache, self.file, requests=self.requests, in_order=True, connections=4)
        wanted = 0 if way == "origin" else self.requests
        # Commits are made behind the clients' backs; they count.
        def dealt_with():
            return self.published() + self.let_go() - before
        machine.wait_for(lambda: dealt_with() >= wanted, what="everything to be published or let go")
        spent = [machine.cpu_seconds(pid) - old for pid, old in zip(processes, spent)]
        errors = sum(got["errors"].values())
        # A body that finds no space is let go, and the client has it anyway; that may be one in 200.
        if errors or got["hits"] or dealt_with() != wanted or (self.let_go() - gone) * 200 > wanted:
            sys.exit("%s: %s, %d published, %d let go" % (way, got, dealt_with(), self.let_go() - gone))
        return [seconds / (got["body_bytes"] / GB) for seconds in spent]

    def let_go(self):
        return self.cache.counter("OBJMD.objm.c_tee_full")

    def published(self):
        return self.cache.counter("OBJMD.objm.c_tee_published")


def compare(cache, files, size):
    want = (files / "o" / str(size) / "0").read_bytes()
    for way in ("origin", "tee", "director"):
        for _ in range(2):
            machine.same_body(cache.port, "/o/%d/0?%s-first" % (size, way), want)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--requests", type=int, default=3000, help="of a turn: some 1.5 s, so that it lasts")
    parser.add_argument("--sizes", default="1M")
    parser.add_argument("--memory", default="512M", help="of the store; the daemon has three times as much")
    parser.add_argument("--ways", default="tee,director")
    parser.add_argument("--untrusted", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    sizes = {size: parse(size) for size in arguments.sizes.split(",")}
    report = []
    with machine.scratch() as (folder, files):
        first = folder / "first"
        first.write_text("".join("/o/%d/0\n" % size for size in sizes.values()))
        store.program("objm-origin", "--write", files, "--urls", first)
        memory = int(arguments.memory[:-1]) * 3
        with director.H2O(files) as origin, Cache("varnishd", origin, memory=arguments.memory, trusted=not arguments.untrusted,
                                                  daemon_memory="%d%s" % (memory, arguments.memory[-1])) as cache:
            run = Run(cache, folder, arguments.requests)
            for name, size in sizes.items():
                before = run.published()
                compare(cache, files, size)
                machine.wait_for(lambda: run.published() - before == 2, what="what was compared to be published")
                ways = arguments.ways.split(",")
                # Until every slot of either store has been in use: they are faulted then.
                for _ in range(1 + parse(arguments.memory) * 3 // (arguments.requests * size)):
                    for way in ["origin"] + ways:
                        run.once(way, size)
                seen = {way: [] for way in ["origin"] + ways}
                for pair in range(arguments.pairs):
                    order = ["origin"] + ways
                    for way in order if pair % 2 == 0 else reversed(order):
                        seen[way].append(run.once(way, size))
                for way in ways:
                    ratios = [sum(a) / sum(b) for a, b in zip(seen[way], seen["origin"])]
                    interval = stats.median_interval(ratios)
                    bound = AT_MOST.get((way, name))
                    line = {"size": name, "way": way, "ratio": interval,
                            "verdict": stats.verdict(interval, at_most=bound), "ratios": ratios,
                            "seen": {one: seen[one] for one in (way, "origin")}}
                    report.append(line)
                    print("%-5s %-9s CPU of varnishd and objmapperd per GB, %s / fetch alone: %s  %s" % (
                        name, way, way, stats.show(interval), line["verdict"]))
                    for one in ("origin", way):
                        print("      %-9s varnishd %.3f s, objmapperd %.3f s per GB" % (
                            one, *(sorted(x[i] for x in seen[one])[len(seen[one]) // 2] for i in (0, 1))), flush=True)
            landed = cache.counter("OBJMD.objm.c_tee_landed")
            ahead = cache.counter("OBJMD.objm.c_tee_ahead")
            if cache.counter("OBJM.*.c_fallback*"):
                sys.exit("bodies did not go into objmapper: the figures mean nothing")
            print("%d of %d bodies were received in place, %d published with one message" % (
                landed, run.published(), ahead))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
