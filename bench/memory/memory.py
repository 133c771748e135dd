#!/usr/bin/env python3
"""Memory: what an object costs beside its body, in objmapper and in -s malloc.

    (RssAnon + page tables of varnishd and the daemon + blocks of the daemon's files in use - bodies) / objects

Blocks in use: the region is allocated as a whole, for all objects that are to come; what its
allocator has not given out (OBJM.*.g_space) is taken off, as untouched memory is of malloc's figure.
Beside it the same without what the processes had before the first object. Stores are empty at first;
each object is fetched once; nothing may be evicted or lie elsewhere. The median of the pairs' ratios
with its 95 % interval; figures of memory hardly vary.

    bench/memory/memory.py [--pairs 3] [--cases 4K:200000:1G,256K:20000:6G] [--json FILE]
"""

import argparse
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import machine, netns, stats  # noqa: E402
from kit.sizes import parse  # noqa: E402
from misses.misses import BOTTOMLESS  # noqa: E402

AT_MOST = 0.6


def held(contestant):
    """Bytes of memory that the contestant holds for what it has stored."""
    total = sum(machine.anonymous_bytes(pid) for pid in contestant.pids())
    if isinstance(contestant, machine.Objmapper):
        for folder in (contestant.memory_dir, contestant.folder / "state"):
            for path in folder.rglob("*"):
                if path.is_file():
                    total += path.stat().st_blocks * 512
        total -= contestant.counter("OBJM.*.g_space")
    return total


def openings(contestant):
    """(descriptors, mappings) of varnishd's child: they must not grow with the objects."""
    child = contestant.child()
    with open("/proc/%d/maps" % child) as maps:
        return len(os.listdir("/proc/%d/fd" % child)), sum(1 for _ in maps)


def measure(contestant, urls, size, count):
    """(bytes per object beside the body, the same without the processes' own)."""
    machine.load(contestant, urls, requests=1, in_order=True, connections=1)
    before, opened = held(contestant), openings(contestant)
    got = machine.load(contestant, urls, requests=count, in_order=True, connections=8)
    objects = contestant.counter("MAIN.n_object")
    if got["errors"] or contestant.counter("MAIN.n_lru_nuked") or not count <= objects <= count + 1:
        sys.exit("%s: %d objects: %s" % (contestant.name, objects, got))
    if isinstance(contestant, machine.Objmapper) and contestant.counter("OBJM.*.g_objects") != objects:
        sys.exit("objects were not in objmapper: the figures mean nothing")
    after, now = held(contestant), openings(contestant)
    print("      %-9s descriptors %d, then %d; mappings %d, then %d" % (contestant.name, opened[0], now[0], opened[1], now[1]))
    if isinstance(contestant, machine.Objmapper) and (now[0] > opened[0] + 100 or now[1] > opened[1] + 1000):
        sys.exit("descriptors or mappings grow with the objects")
    return (after - count * size) / count, (after - before - (count - 1) * size) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cases", default="4K:200000:1G,256K:20000:6G", help="SIZE:OBJECTS:STORE,...")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    report = []
    with machine.scratch() as (folder, files):
        for case in arguments.cases.split(","):
            size, count, store = case.split(":")
            count = int(count)
            (files / size).write_bytes(os.urandom(parse(size)))
            urls = folder / "urls"
            urls.write_text("".join("/%s-%d %d\n" % (size, i, parse(size)) for i in range(count)))
            whole = {"malloc": [], "objmapper": []}
            added = {"malloc": [], "objmapper": []}
            with machine.Origin(files, BOTTOMLESS) as origin:
                for _ in range(arguments.pairs):
                    for contestant in (machine.Varnish("malloc", origin, "malloc," + store.lower()),
                                       machine.Objmapper("objmapper", origin, store)):
                        with contestant:
                            bytes_whole, bytes_added = measure(contestant, urls, parse(size), count)
                        whole[contestant.name].append(bytes_whole)
                        added[contestant.name].append(bytes_added)
            line = {"size": size, "objects": count}
            for name, samples in (("whole", whole), ("added", added)):
                interval = stats.median_interval([o / m for o, m in zip(samples["objmapper"], samples["malloc"])])
                line[name] = {"ratio": interval,
                              "bytes": {k: stats.median_interval(v)[0] for k, v in samples.items()}}
            line["verdict"] = stats.verdict(line["whole"]["ratio"], at_most=AT_MOST)
            report.append(line)
            print("%-5s %d objects, bytes beside each body, objmapper / malloc: %s  %s (bound %.2f; %.0f and %.0f); "
                  "added by objects: %s (%.0f and %.0f)" % (
                      size, count, stats.show(line["whole"]["ratio"]), line["verdict"], AT_MOST,
                      line["whole"]["bytes"]["objmapper"], line["whole"]["bytes"]["malloc"],
                      stats.show(line["added"]["ratio"]), line["added"]["bytes"]["objmapper"],
                      line["added"]["bytes"]["malloc"]), flush=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
