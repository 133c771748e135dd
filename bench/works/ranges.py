"""Ranges: random stretches of large resident objects."""

from kit import machine
from kit.bench import costs, right
from kit.sizes import GIB, some

TITLE = "Ranges"
ABOUT = """Random ranges of objects that are in the cache, 8 connections; every 100th is compared with what those bytes
must be."""
SHOW = ("cpu_us", "per_s", "first_byte_us")
WHO = ("varnish-malloc", "varnish-file", "mapped", "native", "dual", "auto", "nginx-static", "nginx-cache-tmpfs",
       "nginx-cache-disk", "traffic-server")
PLANS = {
    "try": {"seconds": 30, "rounds": 2, "each": 0.1, "cases": (("10M", "64K"),), "who": WHO},
    "head": {"seconds": 40, "rounds": 7, "each": 0.3, "cases": (("10M", "64K"), ("10M", "1M")),
             "who": ("varnish-malloc", "mapped", "native", "dual", "nginx-static")},
    "full": {"seconds": 200, "rounds": 20, "each": 0.25, "cases": (("10M", "1K"), ("10M", "64K"), ("10M", "1M"), ("256M", "1M")),
             "who": WHO},
}


def run(bench, plan):
    sizes = sorted({size for size, _ in plan["cases"]})
    files = bench.files(bench.urls("all", [url for size in sizes for url in some(size)]))
    with bench.field(plan["who"], memory=GIB, files=files) as field:
        for size, length in plan["cases"]:
            case = "%s of %s" % (length, size)
            lines = some(size)
            urls = bench.urls("urls-" + size, lines)
            afterwards = field.proven_hits(case, urls, len(lines))

            def once(contestant, number):
                return costs(right(machine.load(contestant, urls, range=length, sample=100, seconds=bench.seconds_wanted or plan["each"],
                                                seed=number)))

            field.rounds(case, plan["rounds"], once, afterwards)
            if bench.over():
                return
