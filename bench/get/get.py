#!/usr/bin/env python3
"""GET of resident objects of 1 KiB: the library beside a floor of bare system calls.

    bench/get/get.py [--pairs 20] [--seconds 0.25] [--only one,four,deep,batch] [--json FILE]

One command: it starts a daemon of its own from build/release (or $OM_BUILD_DIR), runs interleaved
pairs, checks every answer, and prints for each claim of the issue the median of the pairs' ratios
with its 95 % interval. An interval that straddles the bound is "undecided".
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import stats, store  # noqa: E402


def ratios(above, below):
    return [a / b for a, b in zip(above, below)]


def claims(samples):
    """(name, ratios, bounds, what the figures behind it are) of what was measured."""
    if "one_us" in samples:
        yield ("one connection, GET / round trip", ratios(samples["one_us"], samples["one_floor_us"]),
               {"at_most": 1.5}, ("one_us", "one_floor_us"))
    if "four_per_s" in samples:
        floor = list(map(max, samples["four_floor_blocking_per_s"], samples["four_floor_epoll_per_s"]))
        yield ("four connections, GETs / round trips", ratios(samples["four_per_s"], floor),
               {"at_least": 0.7}, ("four_per_s", "four_floor_blocking_per_s", "four_floor_epoll_per_s"))
    if "deep_16_per_s" in samples:
        yield ("depth 16 / depth 1", ratios(samples["deep_16_per_s"], samples["deep_1_per_s"]),
               {"at_least": 3}, ("deep_16_per_s", "deep_1_per_s"))
    if "batch_us_per_key" in samples:
        yield ("64 keys a call, speed per key / depth 1",
               ratios(samples["single_us_per_key"], samples["batch_us_per_key"]),
               {"at_least": 10}, ("batch_us_per_key", "single_us_per_key"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.25)
    parser.add_argument("--only", default="one,four,deep,batch")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    with store.Store() as daemon:
        samples = json.loads(store.program(
            "om-bench-get", "--socket", daemon.socket, "--pairs", arguments.pairs,
            "--seconds", arguments.seconds, "--only", arguments.only))
    report = []
    for name, values, bounds, series in claims(samples):
        interval = stats.median_interval(values)
        behind = {s: stats.median_interval(samples[s])[0] for s in series}
        report.append({"claim": name, "ratio": interval, "bounds": bounds,
                       "verdict": stats.verdict(interval, **bounds), "medians": behind})
        print("%-42s %s  %s (%s)\n    %s" % (
            name, stats.show(interval), report[-1]["verdict"],
            ", ".join("%s %g" % b for b in bounds.items()),
            ", ".join("%s %.1f" % b for b in behind.items())), flush=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps({"claims": report, "samples": samples}, indent=1))


if __name__ == "__main__":
    main()
