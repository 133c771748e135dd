#!/usr/bin/env python3
"""A restart with a full cache: how long until the first client is answered, and what is back.

    bench/warm/warm.py [--quick] [--starts 5] [--only SIZE [--objects N]] [--json FILE]
    bench/warm/warm.py crash [--rounds 200] [...]      tests/warm/warm.py with its summary: kills under load, judged

For each case the store is filled through varnishd and varnishd killed; then, interleaved, an empty plain
varnishd and ours are started: seconds from exec to the first answer. The difference, and what adoption
itself took, per object. All objects must be back, and a sample of them hits. Bound: 10 us an object.
"""

import argparse
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from kit import machine, netns, stats  # noqa: E402

US_AT_MOST = 10
CASES = [("4K", 4 << 10, 100_000, "1G"), ("1M", 1 << 20, 2_000, "3G"), ("1K", 1 << 10, 1_000_000, "4G")]
QUICK = [("4K", 4 << 10, 20_000, "256M"), ("1M", 1 << 20, 200, "320M"), ("1K", 1 << 10, 20_000, "128M")]


def kill(contestant):
    """varnishd, manager and child, the daemon stays."""
    process = contestant.processes.pop()
    process.send_signal(signal.SIGSTOP)  # lest it starts another child
    for pid in machine.family(process.pid)[1:]:
        os.kill(pid, signal.SIGKILL)
        machine.wait_for(lambda: threads(pid) <= 1, what="the child's end")
    process.kill()
    process.wait()
    machine.wait_for(lambda: not machine.answers(contestant.port), what="the socket's end")


def threads(pid):
    try:
        return len(os.listdir("/proc/%d/task" % pid))
    except OSError:
        return 0


def answered(port, path):
    """Whether it was a hit, or None without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers={"Host": "bench.test"})
        answer = connection.getresponse()
        answer.read()
        return len((answer.getheader("X-Varnish") or "").split()) == 2 if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def start(contestant, path):
    begin = time.monotonic()
    machine.Varnish.start(contestant)
    while answered(contestant.port, path) is None:
        if time.monotonic() > begin + 120:
            raise SystemExit(contestant.name + " does not answer")
        time.sleep(0.002)
    return time.monotonic() - begin


def adoption_ms(contestant):
    out = subprocess.run(["varnishlog", "-d", "-g", "raw", "-i", "Error", "-n", contestant.folder / "v"],
                         capture_output=True, text=True).stdout
    found = re.findall(r"adopted \d+ objects and \d+ bans in (\d+) ms", out)
    return int(found[-1]) if found else None


def one_case(name, size, count, memory, starts, folder, files):
    (files / name).write_bytes(os.urandom(size))
    urls = folder / ("urls-" + name)
    # Many names for one file: nginx looks at the path alone, varnishd at all of it.
    urls.write_text("".join("/%s?%d %d\n" % (name, i, size) for i in range(count)))
    with machine.Origin(files) as origin, machine.Varnish("empty", origin, "malloc,64m") as plain, \
            machine.Objmapper("objmapper", origin, memory=memory, daemon_memory=memory_of_daemon(memory)) as ours:
        for _ in range(2):  # what the first missed
            machine.load(ours, urls, requests=count, in_order=True)
        stored = ours.counter("OBJM.*.g_objects")
        path = "/%s?%d" % (name, count - 1)
        times = {"empty": [], "objmapper": []}
        adoption = []
        for _ in range(starts):
            for contestant in (plain, ours):
                kill(contestant)
                times[contestant.name].append(start(contestant, path))
            back = ours.counter("OBJM.*.c_adopted")
            adoption.append(adoption_ms(ours))
            if back < stored or stored < count:
                sys.exit("%s: %d fetched, %d stored, %d are back" % (name, count, stored, back))
            for i in range(0, count, max(1, count // 100)):
                if not answered(ours.port, "/%s?%d" % (name, i)):
                    sys.exit("%s: object %d is no hit" % (name, i))
    empty, full = (stats.median_interval(times[key])[0] for key in ("empty", "objmapper"))
    per_object = 1e6 * (full - empty) / count
    # A start takes some tenths of a second, give or take: few objects cannot be told by the difference.
    own = [ms for ms in adoption if ms is not None]
    by_log = 1e3 * stats.median_interval(own)[0] / count if own else None
    figure = per_object if count >= 100_000 or by_log is None else by_log
    verdict = "too few to tell" if count < 20_000 else "met" if figure <= US_AT_MOST else "missed"
    print("%-3s x %7d: first answer after %.3f s, empty plain varnishd %.3f s; %d back; %.2f us per object%s  %s" % (
        name, count, full, empty, back, per_object,
        "" if by_log is None else ", %.2f of them adoption" % by_log,
        verdict), flush=True)
    return {"size": name, "objects": count, "first_answer_s": full, "empty_s": empty, "back": back,
            "us_per_object": per_object, "adoption_us_per_object": by_log}


def memory_of_daemon(memory):
    """Regions get a share of it."""
    return "%dM" % (int(memory[:-1]) * (1 if memory[-1] == "M" else 1024) * 3 // 2)


def main():
    if sys.argv[1:2] == ["crash"]:
        os.environ.setdefault("OM_BUILD_DIR", str(machine.BUILD))
        script = machine.ROOT / "tests" / "warm" / "warm.py"
        sys.exit(subprocess.run([sys.executable, str(script), *sys.argv[2:]]).returncode)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 20,000 objects each")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--only", help="one size: 4K, 1M or 1K")
    parser.add_argument("--objects", type=int, help="another number of them")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    report = []
    with machine.scratch() as (folder, files):
        for name, size, count, memory in QUICK if arguments.quick else CASES:
            if arguments.only in (None, name):
                count = arguments.objects or count
                report.append(one_case(name, size, count, memory, arguments.starts, folder, files))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
