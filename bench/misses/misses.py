#!/usr/bin/env python3
"""Misses: what a fetch through varnishd costs with its cache in objmapper, against -s malloc of the same size.

Every request is for a URL that nobody asked for before, streamed while it is fetched. Three phases:

    start     from exec to the first answer: CPU of all processes of a contestant
    growing   into an empty store, until it is full
    full      each object takes the room of others: as a cache lives. The pairs of the figures

Interleaved pairs in one run; CPU of varnishd and the daemon per GB, or per request below 64 KiB; the
median of the pairs' ratios with its 95 % interval. The contestant must have fetched every body, with
the right length, evicted, and put nothing elsewhere. Start and growing need fresh contestants: as
many as --fresh.

    bench/misses/misses.py [--pairs 20] [--sizes 4K,1M,10M] [--store 256M] [--fresh 5] [--json FILE]
"""

import argparse
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import machine, netns, stats  # noqa: E402
from kit.sizes import parse  # noqa: E402

A_SAMPLE = 5000  # misses of a full store at most, lest the small ones take an hour


# One file for each size, under any number of names: /SIZE-anything.
BOTTOMLESS = "rewrite ^/([0-9]+[KMG]?)-.*$ /$1 break;"


class Names:
    """URL files without a name that was used before."""

    def __init__(self, folder):
        self.folder = folder
        self.used = 0

    def file(self, size, count):
        path = self.folder / "urls"
        path.write_text("".join("/%s-%d %d\n" % (size, self.used + i, parse(size)) for i in range(count)))
        self.used += count
        return path


def cost(contestant, names, size, total_bytes, connections):
    """Server CPU of fetching that many bytes, in seconds per GB or per request."""
    requests = max(8, total_bytes // parse(size))
    got = machine.load(contestant, names.file(size, requests), requests=requests, in_order=True,
                       connections=connections)
    if got["errors"] or got["hits"] or got["requests"] < requests:
        sys.exit("%s: %s: not all misses: %s" % (size, contestant.name, got))
    small = parse(size) < 1 << 16
    return got["server_cpu"] / (got["requests"] if small else got["requests"] * parse(size) / 1e9)


def wait_for_answer(contestant, names, size):
    """The port listens before there is a child."""
    machine.load(contestant, names.file(size, 1), requests=1, connections=1)


def show_line(size, phase, samples, bound=None):
    ratios = [ours / plain for ours, plain in zip(samples["objmapper"], samples["malloc"]) if plain]
    interval = stats.median_interval(ratios)
    verdict = stats.verdict(interval, at_most=bound) if bound else ""
    small = size != "-" and parse(size) < 1 << 16
    unit, scale = ("us per request", 1e6) if small else ("s", 1) if size == "-" else ("s per GB", 1)
    middle = {name: scale * stats.median_interval(values)[0] for name, values in samples.items()}
    print("%-4s %-8s CPU, objmapper / malloc: %s  %s%s(%.3g and %.3g %s)" % (
        size, phase, stats.show(interval), verdict + " " if verdict else "",
        "(bound %.2f) " % bound if bound else "", middle["objmapper"], middle["malloc"], unit), flush=True)
    return {"size": size, "phase": phase, "ratio": interval, "verdict": verdict, "bound": bound, "unit": unit,
            "medians": middle}


def contestants(origin, store):
    size = store.lower()
    return (machine.Varnish("malloc", origin, "malloc," + size, ("nuke_limit=5000",)),
            machine.Objmapper("objmapper", origin, store, parameters=("nuke_limit=5000",)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--fresh", type=int, default=5)
    parser.add_argument("--sizes", default="4K,1M,10M")
    parser.add_argument("--store", default="256M")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    sizes = arguments.sizes.split(",")
    store_bytes = parse(arguments.store)
    report = []
    with machine.scratch() as (folder, files):
        for size in sizes:
            (files / size).write_bytes(os.urandom(parse(size)))
        names = Names(folder)
        with machine.Origin(files, BOTTOMLESS) as origin:
            starts = {"malloc": [], "objmapper": []}
            for size in sizes:
                growing = {"malloc": [], "objmapper": []}
                for _ in range(arguments.fresh):
                    for contestant in contestants(origin, arguments.store):
                        with contestant:
                            wait_for_answer(contestant, names, size)
                            starts[contestant.name].append(contestant.cpu())
                            growing[contestant.name].append(
                                cost(contestant, names, size, store_bytes * 3 // 4, arguments.connections))
                if arguments.fresh:
                    report.append(show_line(size, "growing", growing))
            if arguments.fresh:
                report.append(show_line("-", "start", starts))
            for size in sizes:
                bound = 1.1 if parse(size) < 1 << 16 else 0.7
                full = {"malloc": [], "objmapper": []}
                plain, ours = contestants(origin, arguments.store)
                with plain, ours:
                    for contestant in (plain, ours):
                        cost(contestant, names, size, store_bytes * 3 // 2, arguments.connections)
                    evicted = [contestant.counter("MAIN.n_lru_nuked") for contestant in (plain, ours)]
                    failed = ours.counter("OBJM.*.c_f[ab][il]*"), ours.counter("OBJM.*.c_fallback*")
                    for pair in range(arguments.pairs):
                        for contestant in ((plain, ours) if pair % 2 == 0 else (ours, plain)):
                            full[contestant.name].append(
                                cost(contestant, names, size, min(store_bytes, A_SAMPLE * parse(size)),
                                     arguments.connections))
                    if any(now <= then for now, then in
                           zip((c.counter("MAIN.n_lru_nuked") for c in (plain, ours)), evicted)):
                        sys.exit("%s: nothing was evicted: the figures mean nothing" % size)
                    if (ours.counter("OBJM.*.c_f[ab][il]*"), ours.counter("OBJM.*.c_fallback*")) != failed \
                            or ours.counter("OBJM.*.g_objects") == 0:
                        sys.exit("%s: objects were not in objmapper: the figures mean nothing" % size)
                report.append(show_line(size, "full", full, bound))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
