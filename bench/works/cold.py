"""Cold: everything is in the cache, nothing of it in memory."""

from kit import machine, page_cache
from kit.bench import Wrong, costs
from kit.sizes import GIB, MIB, parse

TITLE = "Cold page cache"
ABOUT = """Bodies lie on disk; before each round their pages are dropped from memory (and reclaimed where they are
mapped), and every body is then asked for once, by 4 connections. nginx-static is the stand-in for a bare sendfile
server."""
BASE = "varnish-file"
SHOW = ("gb_per_s", "first_byte_us", "cpu_s_per_gb")
WHO = ("varnish-file", "native", "dual", "auto", "nginx-static", "nginx-cache-disk", "traffic-server")
PLANS = {
    "try": {"seconds": 60, "rounds": 2, "sizes": (("1M", 8), ("10M", 4)), "who": WHO},
    "head": {"seconds": 90, "rounds": 5, "sizes": (("1M", 200), ("10M", 20), ("256M", 2)),
             "who": ("varnish-file", "native", "auto", "nginx-static", "nginx-cache-disk")},
    "full": {"seconds": 400, "rounds": 20, "sizes": (("1M", 200), ("10M", 20), ("64M", 4), ("256M", 4)), "who": WHO},
}


def run(bench, plan):
    lines = {size: ["/o/%s/c%d" % (size, i) for i in range(count)] for size, count in plan["sizes"]}
    everything = bench.urls("all", [url for group in lines.values() for url in group])
    bodies = sum(parse(size) * count for size, count in plan["sizes"])
    files = bench.files(everything) if "nginx-static" in plan["who"] else None
    if files:
        page_cache.make_cold(files)
    # Little memory: what has a memory cache of its own should not answer from it.
    with bench.field(plan["who"], memory=64 * MIB, disk=bodies * 5 // 4 + GIB, files=files, count_memory=True,
                     head=("nginx-static",)) as field:
        stored = 0
        for size, group in lines.items():
            urls = bench.urls("urls-" + size, group)
            if bench.over():
                return
            afterwards = field.proven_hits(size, urls, len(group))

            stored += parse(size) * len(group)

            def on_disk(contestant):
                if page_cache.stored_bytes(contestant) < stored:
                    raise Wrong("bodies are not on its disk, and cannot be cold")

            field.each(size, on_disk)

            def once(contestant, number):
                left = page_cache.make_cold_for(contestant)
                bench.results.fact(bench.work, size, contestant.name, resident_share_when_cold=left)
                before = field.origin.count()
                got = machine.load(contestant, urls, requests=len(group), in_order=True, connections=4)
                if got["errors"] or field.origin.count() != before:
                    raise Wrong("errors: %s, or not from the cache" % got["errors"])
                return costs(got)

            field.rounds(size, plan["rounds"], once, afterwards)
            bench.say("   " + size)
