#!/usr/bin/env python3
"""PUT through the library into the memory tier, written in place, beside filling recycled memory.

    bench/put/put.py [--pairs 20] [--sizes 64K,1M] [--total 256M] [--feeds socket,memory]
                     [--batches ahead,64,16,1] [--json FILE]

The bytes come from a socket, as a cache gets them, straight into place on both sides; or, for
orientation, are copied from memory.
Bodies are published with commits that nobody waits for, which the library sends together (`ahead`); or 64 or 16
with one call, or one by one, and the answer is waited for (smaller ones alone: 16 MiB at a time is nobody's batch).
Whoever waits for another process pays for two wake-ups, whatever it does; so these are also put beside a floor that
asks a process which does nothing as often. One command: it starts
a daemon of its own, with our group as --write-gid. Counted is the CPU of the client and of the daemon together,
per GB; what readers get is compared outside the measurement.
"""

import argparse
import itertools
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import stats, store  # noqa: E402
from kit.sizes import parse  # noqa: E402

AT_MOST = 1.3
BATCH_BYTES_MAX = 4 << 20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--sizes", default="64K,1M")
    parser.add_argument("--total", default="256M", help="bytes of a sample")
    parser.add_argument("--feeds", default="socket,memory")
    parser.add_argument("--batches", default="ahead,64,16,1")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    report = []
    cases = itertools.product(arguments.feeds.split(","), arguments.sizes.split(","),
                              arguments.batches.split(","))
    for feed, size, batch in cases:
        if batch not in ("1", "ahead") and int(batch) * parse(size) > BATCH_BYTES_MAX:
            continue
        way = ["--ahead"] if batch == "ahead" else ["--batch", batch]
        with store.Store(memory="512M") as daemon:
            samples = json.loads(store.program(
                "om-bench-put", "--socket", daemon.socket, "--pid", daemon.pid,
                "--directory", daemon.memory_dir, "--bytes", parse(size),
                "--total", parse(arguments.total), "--feed", feed, *way, "--pairs", arguments.pairs))
        ours, floor = samples["put_cpu_s_per_gb"], samples["floor_cpu_s_per_gb"]
        interval = stats.median_interval([a / b for a, b in zip(ours, floor)])
        line = {"size": size, "feed": feed, "batch": batch, "ratio": interval, "samples": samples,
                "verdict": stats.verdict(interval, at_most=AT_MOST)}
        report.append(line)
        print("PUT %-4s %-5s from %-6s CPU, library and daemon / floor: %s  %s (bound %.1f; %.3f and %.3f s/GB)" % (
            size, batch if batch == "ahead" else "x" + batch, feed, stats.show(interval), line["verdict"], AT_MOST,
            stats.median_interval(ours)[0], stats.median_interval(floor)[0]), flush=True)
        if "asking_floor_cpu_s_per_gb" in samples:
            asking = samples["asking_floor_cpu_s_per_gb"]
            line["asking"] = [stats.median_interval([a / b for a, b in zip(x, y)])
                              for x, y in ((ours, asking), (asking, floor))]
            print("%21s / a floor that asks a process that does nothing as often: %s; that one / floor: %s" % (
                "", *map(stats.show, line["asking"])), flush=True)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
