"""Misses: what a fetch through the cache costs, streamed while it is fetched."""

import itertools

from kit import machine
from kit.bench import Wrong, costs, right
from kit.sizes import MIB, parse

TITLE = "Misses, streamed"
ABOUT = """Every request is for an object that nobody asked for before; it is delivered while it is fetched.
Growing: into an empty store. Full: each object takes the room of others, as a cache lives. One at a time: one
connection, so that the time is that of a miss alone. The origin must have been asked exactly once for each."""
SHOW = ("cpu_us", "cpu_s_per_gb", "latency_us", "first_byte_us", "per_s")
WHO = ("varnish-malloc", "varnish-file", "mapped", "native", "dual", "auto", "nginx-cache-tmpfs", "nginx-cache-disk",
       "traffic-server")
PLANS = {
    "try": {"seconds": 60, "rounds": 2, "fresh": 1, "store": 32 * MIB, "amount": 4 * MIB, "small": 50, "sizes": ("4K", "1M"),
            "who": WHO},
    "quick": {"seconds": 60, "rounds": 7, "fresh": 0, "store": 192 * MIB, "amount": 96 * MIB, "small": 1500,
              "sizes": ("4K", "1M"), "who": ("varnish-malloc", "mapped", "native")},
    "head": {"seconds": 240, "rounds": 20, "fresh": 3, "store": 256 * MIB, "amount": 160 * MIB, "small": 2500,
             "sizes": ("4K", "1M", "10M"), "who": ("varnish-malloc", "mapped", "native", "dual")},
    "full": {"seconds": 550, "rounds": 20, "fresh": 5, "store": 256 * MIB, "amount": 160 * MIB, "small": 2500,
             "sizes": ("4K", "64K", "1M", "10M"), "who": WHO},
}
names = itertools.count()


def fresh_urls(bench, size, count):
    return bench.urls("urls", ["/o/%s/m%d" % (size, next(names)) for _ in range(count)])


def fetch(bench, field, contestant, size, count, connections):
    urls = fresh_urls(bench, size, count)
    before = field.origin.count()
    got = right(machine.load(contestant, urls, requests=count, in_order=True, connections=connections, sample=50), hits=0)
    asked = field.origin.count() - before
    if asked != count:
        raise Wrong("%d requests, %d of the origin" % (count, asked))
    return costs(got)


def how_many(plan, size):
    return plan["small"] if parse(size) < 65536 else max(4, plan["amount"] // parse(size))


def run(bench, plan):
    for size in plan["sizes"]:
        if bench.over():
            return
        full(bench, plan, size, how_many(plan, size))
    for size in plan["sizes"]:
        for number in range(bench.rounds_wanted or plan["fresh"]):
            if bench.over():
                return
            growing(bench, plan, size, number, how_many(plan, size))


def full(bench, plan, size, count):
    with bench.field(plan["who"], memory=plan["store"], disk=plan["store"]) as field:
        def fill(contestant):
            todo = plan["store"] * 13 // 10 // (parse(size) + 1024) + 1
            urls = fresh_urls(bench, size, todo)
            right(machine.load(contestant, urls, requests=todo, in_order=True, connections=8))

        def afterwards(contestant):
            if hasattr(contestant, "counter") and not contestant.counter("MAIN.n_lru_nuked"):
                raise Wrong("nothing was evicted: the store was not full")
            if hasattr(contestant, "stored_elsewhere") and contestant.stored_elsewhere():
                raise Wrong("%d objects are not in objmapper" % contestant.stored_elsewhere())
            bench.results.proof(bench.work, "full " + size, contestant.name,
                                "each object asked of the origin once, every 50th compared")

        field.each("fill " + size, fill)
        field.rounds("full " + size, plan["rounds"], lambda c, number: fetch(bench, field, c, size, count, 8), afterwards)
        field.rounds("one at a time " + size, min(10, plan["rounds"]),
                     lambda c, number: fetch(bench, field, c, size, min(count, max(8, count // 8)), 1))
    bench.say("   full " + size)


def growing(bench, plan, size, number, count):
    with bench.field(plan["who"], memory=plan["store"], disk=plan["store"]) as field:
        # No more than what the store holds without evicting.
        fits = max(4, min(count, plan["store"] * 3 // 4 // (parse(size) + 4096)))

        def once(contestant):
            bench.results.add(bench.work, "growing " + size, contestant.name, number,
                              fetch(bench, field, contestant, size, fits, 8))

        field.each("growing " + size, once)
    bench.say("   growing " + size)
