#!/usr/bin/env python3
"""Hits: what varnishd costs with its cache in objmapper, against the same varnishd with -s malloc.

Interleaved pairs in one run; server CPU (every process of a contestant) per request; the median of
the pairs' ratios with its 95 % interval. The contestant must have answered from its cache, with the
right length, every time; bodies are compared once beforehand (--verify of objm-load).

    bench/hits/hits.py [--pairs 20] [--seconds 2] [--sizes 4K,64K,1M,10M] [--json FILE]
"""

import argparse
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import machine, netns, stats  # noqa: E402
from kit.sizes import parse  # noqa: E402

AT_MOST = 1.05


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--sizes", default="4K,64K,1M,10M")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    report = []
    with machine.scratch() as (folder, files):
        urls = {}
        for size in arguments.sizes.split(","):
            count = max(4, min(64, (64 << 20) // parse(size)))
            lines = []
            for i in range(count):
                name = "%s-%d" % (size, i)
                (files / name).write_bytes(os.urandom(parse(size)))
                lines.append("/%s %d\n" % (name, parse(size)))
            urls[size] = folder / ("urls-" + size)
            urls[size].write_text("".join(lines))
        with machine.Origin(files) as origin, \
                machine.Varnish("malloc", origin) as plain, \
                machine.Objmapper("objmapper", origin) as ours:
            for size, file in urls.items():
                for contestant in (plain, ours):
                    machine.load(contestant, file, requests=256, in_order=True, verify=True)
            failed = ours.counter("OBJM.*.c_fail*")
            for size, file in urls.items():
                ratios, costs = [], {"malloc": [], "objmapper": []}
                for pair in range(arguments.pairs):
                    order = (plain, ours) if pair % 2 == 0 else (ours, plain)
                    cost = {}
                    for contestant in order:
                        got = machine.load(contestant, file, seconds=arguments.seconds,
                                           connections=arguments.connections, seed=pair)
                        if got["errors"] or got["hits"] != got["requests"]:
                            sys.exit("%s: %s: not all hits: %s" % (size, contestant.name, got))
                        cost[contestant.name] = got["server_cpu"] / got["requests"]
                        costs[contestant.name].append(cost[contestant.name])
                    ratios.append(cost["objmapper"] / cost["malloc"])
                interval = stats.median_interval(ratios)
                line = {"size": size, "ratio": interval, "verdict": stats.verdict(interval, at_most=AT_MOST),
                        "us": {k: 1e6 * stats.median_interval(v)[0] for k, v in costs.items()}}
                report.append(line)
                print("%-5s CPU per hit, objmapper / malloc: %s  %s (bound %.2f; %.1f and %.1f us)" % (
                    size, stats.show(interval), line["verdict"], AT_MOST,
                    line["us"]["objmapper"], line["us"]["malloc"]), flush=True)
            if ours.counter("OBJM.*.c_fail*") != failed or ours.counter("OBJM.*.g_objects") == 0:
                sys.exit("objects were not in objmapper: the figures mean nothing")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
