"""Stampede: 200 clients ask for the same missing object at once."""

import itertools

from kit import machine
from kit.bench import Wrong

TITLE = "Stampede"
ABOUT = """200 connections ask for one object of 1 MiB that nobody has asked for before; the origin waits before it
answers. One origin request for each object is the aim; the time is that of the clients, all but the slowest
hundredth. One cache for all of them: several caches that share a store are a benchmark of the director."""
SHOW = ("fetches_per_key", "p50_us", "p99_us", "cpu_us")
WHO = ("varnish-malloc", "varnish-file", "mapped", "native", "auto", "nginx-cache-tmpfs", "nginx-cache-disk", "traffic-server")
PLANS = {
    "try": {"seconds": 40, "rounds": 2, "keys": 1, "delays": (50,), "who": WHO},
    "head": {"seconds": 25, "rounds": 5, "keys": 3, "delays": (50,), "who": ("varnish-malloc", "mapped", "native", "nginx-cache-disk")},
    "full": {"seconds": 320, "rounds": 20, "keys": 3, "delays": (0, 50, 500), "who": WHO},
}
names = itertools.count()


def run(bench, plan):
    for delay in plan["delays"]:
        case = "origin waits %d ms" % delay
        with bench.field(plan["who"], memory=512 << 20, delay_ms=delay) as field:
            def once(contestant, number):
                before, p50, p99, cpu = field.origin.count(), [], [], 0.0
                for _ in range(plan["keys"]):
                    urls = bench.urls("urls", ["/o/1M/s%d" % next(names)])
                    got = machine.load(contestant, urls, requests=200, connections=200, sample=20)
                    if got["errors"]:
                        raise Wrong("errors: %s" % got["errors"])
                    p50.append(got["latency_us"]["p50"])
                    p99.append(got["latency_us"]["p99"])
                    cpu += got["server_cpu"]
                keys = plan["keys"]
                return {"fetches_per_key": (field.origin.count() - before) / keys, "p50_us": sum(p50) / keys,
                        "p99_us": sum(p99) / keys, "cpu_us": 1e6 * cpu / keys / 200}

            field.rounds(case, plan["rounds"], once)
