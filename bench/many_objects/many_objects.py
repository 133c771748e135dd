#!/usr/bin/env python3
"""100,000 objects of 1 KiB: the daemon's memory for each, and how soon it answers after kill -9.

    bench/many_objects/many_objects.py [--count 100000] [--starts 20] [--json FILE]

One command. Memory is RssAnon and page tables after the fill, less the same before it; the mapped
pages of the index are page cache and are reported beside it. A start is measured from spawning the
process to a client that has compared the body of a random old key. Half of the kills come in the
middle of writing the whole set anew, when the journal holds the most that the index has not got;
afterwards every object is compared.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import machine, stats, store  # noqa: E402

BYTES_AT_MOST = 300
SECONDS_AT_MOST = 0.5


def first_answer(daemon, count, key):
    """Seconds from spawn to the compared body."""
    client = subprocess.Popen(
        [str(machine.BUILD / "bin" / "om-bench-many"), "--socket", str(daemon.socket), "first",
         str(count), str(key)], stdout=subprocess.PIPE, text=True)
    begin = time.monotonic()
    daemon.spawn()
    out, _ = client.communicate()
    if client.returncode != 0:
        raise SystemExit("no right answer after the start")
    return float(out) - begin


def file_bytes(pid):
    with open("/proc/%d/status" % pid) as f:
        return sum(int(line.split()[1]) * 1024 for line in f if line.startswith("RssFile:"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    count = arguments.count
    keys = random.Random(arguments.seed)
    with store.Store(memory="%dM" % max(256, 3 * count * 1088 // (1 << 20))) as daemon:
        fill = ("om-bench-many", "--socket", daemon.socket, "fill", count)
        empty, empty_file = machine.anonymous_bytes(daemon.pid), file_bytes(daemon.pid)
        store.program(*fill)
        # A second is the group sync's interval: then the index has everything.
        time.sleep(3)
        each = (machine.anonymous_bytes(daemon.pid) - empty) / count
        mapped = (file_bytes(daemon.pid) - empty_file) / count
        memory = "met" if each <= BYTES_AT_MOST else "missed"
        print("memory per object: %.0f bytes  %s (bound %d); pages of the index: %.0f bytes" % (
            each, memory, BYTES_AT_MOST, mapped), flush=True)
        settled, under_load, cpu = [], [], []
        for start in range(arguments.starts):
            busy = start % 2 == 1
            if busy:
                writer = subprocess.Popen([str(machine.BUILD / "bin" / fill[0]), *map(str, fill[1:])],
                                          stderr=subprocess.DEVNULL)
                time.sleep(keys.uniform(0.5, 2.5))
            daemon.kill()
            if busy:
                writer.kill()
                writer.wait()
            (under_load if busy else settled).append(
                first_answer(daemon, count, keys.randrange(count)))
            cpu.append(machine.cpu_seconds(daemon.pid))
            # The next kill finds a daemon that has caught up.
            time.sleep(2)
            store.program("om-bench-many", "--socket", daemon.socket, "compare", count)
    report = {"bytes_per_object": each, "memory": memory, "index_bytes_per_object": mapped}
    for name, samples in (("idle", settled), ("in the middle of writing", under_load)):
        if not samples:
            continue
        interval = stats.median_interval(samples)
        report[name] = {"seconds": samples, "interval": interval,
                        "verdict": stats.verdict((0, min(samples), max(samples)), at_most=SECONDS_AT_MOST)}
        print("first answer after kill -9, %-24s: %s s, worst %.3f  %s (bound %.1f, for every start)" % (
            name, stats.show(interval), max(samples), report[name]["verdict"], SECONDS_AT_MOST), flush=True)
    print("CPU of the daemon until then: %s s (an idle machine needs little more)" %
          stats.show(stats.median_interval(cpu)))
    report["cpu_seconds"] = cpu
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
