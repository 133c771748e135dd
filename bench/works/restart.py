"""Restart: hit ratio and origin load over time, across a kill of all cache processes."""

import threading
import time

from kit import machine
from kit.sizes import MIB

TITLE = "Restart under load"
ABOUT = """A Zipf load at a fixed rate on a warm cache; all processes of the cache are killed (kill -9; objmapperd
stays, as it does when varnishd crashes) and started again at once. The origin needs 20 ms for an answer. Origin
requests in the ten seconds afterwards are given as a share of what a cache that had lost everything would ask:
one for each different object that was asked for."""
SHOW = ("origin_after_restart", "away_s", "hit_ratio")
WHO = ("varnish-malloc", "varnish-file", "mapped", "native", "auto", "nginx-cache-disk")
PLANS = {
    "try": {"seconds": 60, "rounds": 1, "objects": 300, "rate": 200, "before": 1, "after": 8, "who": WHO},
    "head": {"seconds": 100, "rounds": 1, "objects": 20000, "rate": 1500, "before": 3, "after": 10,
             "who": ("varnish-malloc", "mapped", "native", "nginx-cache-disk")},
    "full": {"seconds": 720, "rounds": 5, "objects": 20000, "rate": 1500, "before": 2, "after": 10,
             "who": WHO},
}
SLICE = 0.25


def run(bench, plan):
    lines = ["/o/%s/r%d" % (("4K", "16K", "64K")[i % 3], i) for i in range(plan["objects"])]
    urls = bench.urls("urls", lines)
    size = plan["objects"] * 40 * 1024 + 128 * MIB
    for number in range(bench.rounds_wanted or plan["rounds"]):
        for name in bench.present(plan["who"]):
            if bench.over() and number:
                return
            with bench.field((name,), memory=size, disk=size, delay_ms=20) as field:
                field.each("restart", lambda c: one(bench, field, c, plan, urls, number))
            bench.say("   " + name)


def one(bench, field, contestant, plan, urls, number):
    machine.load(contestant, urls, requests=plan["objects"], in_order=True, connections=64)
    origin = Watch(field.origin)
    result = {}
    whole = plan["before"] + plan["after"]
    with origin:
        begin = time.monotonic()
        client = threading.Thread(target=lambda: result.update(machine.load(
            contestant, urls, seconds=whole, rate=plan["rate"], zipf=0.9, connections=64, slices=SLICE, seed=number)))
        client.start()
        time.sleep(max(0.0, begin + plan["before"] - time.monotonic()))
        killed = time.monotonic()
        contestant.kill()
        contestant.restart()
        client.join()
    moment = killed - begin
    slices = result["slices"]
    # Of those that were due, so that a time without answers shows.
    hit = {round(s["at"] / SLICE): s["hits"] for s in slices}
    ratio = [[k * SLICE - moment, min(1.0, hit.get(k, 0) / (plan["rate"] * SLICE))] for k in range(1, round(whole / SLICE))]
    asked = origin.rates(killed)
    if not number:
        bench.results.curve(bench.work, "hit ratio", contestant.name, ratio)
        bench.results.curve(bench.work, "origin requests per second", contestant.name, asked)
    # Different objects among the requests of ten seconds, if each were drawn by itself.
    rate, objects = plan["rate"], plan["objects"]
    weights = [1 / (i + 1) ** 0.9 for i in range(objects)]
    total = sum(weights)
    window = min(10, plan["after"])
    different = sum(1 - (1 - w / total) ** (rate * window) for w in weights)
    after = origin.between(killed, killed + window)
    hits = sum(s["hits"] for s in slices if s["at"] > moment)
    requests = sum(s["requests"] for s in slices if s["at"] > moment)
    # A slice without an answer is not in the list at all.
    seen = {round(s["at"] / SLICE) for s in slices if s["requests"]}
    silent = sum(1 for k in range(round(moment / SLICE), round(whole / SLICE)) if k not in seen) * SLICE
    bench.results.add(bench.work, "kill -9", contestant.name, number, {
        "origin_after_restart": after / different, "away_s": silent, "hit_ratio": hits / max(1, requests),
        "errors": sum(result["errors"].values())})


class Watch:
    """The origin's counter over time, from a thread of its own."""

    def __init__(self, origin):
        self.origin = origin
        self.seen = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.stop.is_set():
            self.seen.append((time.monotonic(), self.origin.count()))
            self.stop.wait(SLICE)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.seen.append((time.monotonic(), self.origin.count()))

    def rates(self, zero):
        """[seconds after `zero`, requests per second] between each two looks."""
        return [[b[0] - zero, (b[1] - a[1]) / (b[0] - a[0])] for a, b in zip(self.seen, self.seen[1:]) if b[0] > a[0]]

    def between(self, begin, end):
        counts = [count for when, count in self.seen if begin <= when <= end]
        return counts[-1] - counts[0] if counts else 0
