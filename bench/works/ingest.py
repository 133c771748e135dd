"""Ingest to disk, sustained, beside dd."""

import os
import subprocess
import tempfile
import time

from kit import cgroup, machine, page_cache
from kit.bench import Wrong
from kit.sizes import MIB

TITLE = "Ingest to disk"
ABOUT = """Objects of 10 MiB that nobody has asked for before, until several times the memory cgroup has gone to disk;
the time ends when the file system has them (sync -f). dd writes as many bytes of zeros to a file on the same
file system, in blocks of 1 MiB, with fdatasync at its end and the same cgroup."""
BASE = "varnish-file"
SHOW = ("gb_per_s", "cpu_s_per_gb")
WHO = ("varnish-file", "native", "auto", "nginx-cache-disk")
PLANS = {
    "try": {"seconds": 40, "rounds": 1, "objects": 6, "limit": 256 * MIB, "who": WHO},
    "head": {"seconds": 70, "rounds": 5, "objects": 50, "limit": 256 * MIB, "who": ("varnish-file", "native", "nginx-cache-disk")},
    "full": {"seconds": 250, "rounds": 10, "objects": 50, "limit": 256 * MIB, "who": WHO},
}


def sync():
    subprocess.run(["sync", "-f", tempfile.gettempdir()], check=True)


def dd(bench, plan, number):
    with cgroup.MemoryGroup("dd", plan["limit"]) as group:
        sync()
        path = bench.folder / "dd"
        begin = time.monotonic()
        cpu = os.times()
        subprocess.run(["dd", "if=/dev/zero", "of=%s" % path, "bs=1M", "count=%d" % (plan["objects"] * 10), "conv=fdatasync"],
                       check=True, capture_output=True, preexec_fn=group.enter)
        took, now = time.monotonic() - begin, os.times()
        path.unlink()
    amount = plan["objects"] * 10 * MIB / 1e9
    used = now.children_user + now.children_system - cpu.children_user - cpu.children_system
    bench.results.add(bench.work, "10M", "dd", number, {"gb_per_s": amount / took, "cpu_s_per_gb": used / amount})


def run(bench, plan):
    amount = plan["objects"] * 10 * MIB
    for number in range(bench.rounds_wanted or plan["rounds"]):
        if number and bench.over():
            return
        dd(bench, plan, number)
        for name in bench.present(plan["who"]):
            with bench.field((name,), memory=64 * MIB, disk=amount * 5 // 4 + 64 * MIB, limit=plan["limit"]) as field:
                def once(contestant):
                    urls = bench.urls("urls", ["/o/10M/i%d" % i for i in range(plan["objects"])])
                    sync()
                    begin = time.monotonic()
                    got = machine.load(contestant, urls, requests=plan["objects"], in_order=True, connections=8)
                    sync()
                    took = time.monotonic() - begin
                    if got["errors"]:
                        raise Wrong("errors: %s" % got["errors"])
                    if hasattr(contestant, "stored_elsewhere") and contestant.stored_elsewhere():
                        raise Wrong("objects are not in objmapper")
                    if page_cache.stored_bytes(contestant) < amount:
                        raise Wrong("bodies are not on its disk")
                    bench.results.add(bench.work, "10M", name, number, {
                        "gb_per_s": amount / took / 1e9, "cpu_s_per_gb": got["server_cpu"] / amount * 1e9})
                    bench.results.fact(bench.work, "10M", name, peak_mib=(contestant.group.peak() or 0) / MIB)

                field.each("10M", once)
