#!/usr/bin/env python3
"""Two varnishds under load, removing at each other.

    under_load.py tries [--tries N]                     purge in one, then ask the other: never the old body
    under_load.py bans [--seconds S] [--rate R]         both ban at once: no deadlock, no echo, nothing missed
    --trusted                                           they write in place, and claim what they miss

While either goes on, clients ask both for the same URLs, and every answer to a request that began after a removal had been
answered is judged.
"""

import argparse
import http.client
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from removals.caches import WAIT_S, Machine  # noqa: E402
from support.daemon import wait_until  # noqa: E402

URLS = 20


class Judge:
    """The least version that an answer may have, by URL."""

    def __init__(self):
        self.lock = threading.Lock()
        self.least = {}
        self.judged = 0
        self.wrong = []

    def removed(self, url, version):
        with self.lock:
            self.least[url] = max(version, self.least.get(url, 0))

    def begin(self, url):
        with self.lock:
            return self.least.get(url, 0)

    def end(self, who, url, least, version):
        with self.lock:
            self.judged += 1
            if version < least:
                self.wrong.append(f"{who} {url}: version {version}, {least} was removed for all")


class Client(threading.Thread):
    def __init__(self, cache, judge, seed, stop, pause):
        super().__init__(daemon=True)
        self.cache, self.judge, self.stop_, self.pause = cache, judge, stop, pause
        self.random = random.Random(seed)
        self.failure = None

    def run(self):
        connection = None
        try:
            while not self.stop_.is_set():
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self.cache.port, timeout=WAIT_S)
                url = f"/p{self.random.randrange(URLS)}"
                least = self.judge.begin(url)
                self.judge.end(self.cache.name, url, least, self.cache.get(url, connection=connection))
                self.stop_.wait(self.pause)
        except (OSError, AssertionError, http.client.HTTPException) as failure:
            self.failure = f"{self.cache.name}: {failure!r}"


def tries(machine, judge, options):
    rng = random.Random(1)
    for number in range(options.tries):
        url = f"/p{number % URLS}"
        first, second = rng.sample(machine.caches, 2)
        for cache in (first, second):
            cache.get(url)
        version = machine.origin.change(url)
        first.remove("PURGE", url)
        judge.removed(url, version)
        judge.end(second.name, url, version, second.get(url))
        judge.end(first.name, url, version, first.get(url))
    unapplied = sum(cache.counters()["c_unapplied"] for cache in machine.caches)
    print(f"{options.tries} purges; {judge.judged} answers judged, {unapplied} not confirmed in time")


def bans(machine, judge, options):
    made = [0] * len(machine.caches)
    refused = []
    finished = []
    slowest = [0.0]

    def ban(place):
        cache = machine.caches[place]
        rng = random.Random(100 + place)
        connection = http.client.HTTPConnection("127.0.0.1", cache.port, timeout=WAIT_S)
        begin = time.monotonic()
        while time.monotonic() - begin < options.seconds:
            due = begin + made[place] / options.rate
            time.sleep(max(0, due - time.monotonic()))
            number = rng.randrange(URLS)
            url = f"/p{number}"
            version = machine.origin.change(url)
            at = time.monotonic()
            status, body, _ = cache.request("BAN", f"^{url}$", connection=connection)
            slowest[0] = max(slowest[0], time.monotonic() - at)
            made[place] += 1
            if status != 200:
                refused.append(f"{cache.name}: {status} {body[:100]!r}")
            else:
                judge.removed(url, version)
        finished.append(place)

    before = [cache.counters() for cache in machine.caches]
    threads = [threading.Thread(target=ban, args=(place,), daemon=True) for place in range(len(machine.caches))]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(options.seconds + 4 * WAIT_S)
        if thread.is_alive():
            judge.wrong.append("a ban is never answered: a deadlock")
            return
    took = time.monotonic() - begin
    if len(finished) != len(threads):
        judge.wrong.append("who bans has failed: see above")
    for cache in machine.caches:
        cache.wait_current()
    after = [cache.counters() for cache in machine.caches]
    print(f"{made} bans in {took:.1f} s, slowest {slowest[0] * 1000:.0f} ms, {len(refused)} refused; "
          f"{judge.judged} answers judged")
    for place, cache in enumerate(machine.caches):
        grown = {name: after[place][name] - before[place][name] for name in after[place]}
        others = sum(made) - made[place]
        print(f"  {cache.name}: {grown}")
        if not refused and (grown["c_applied"] != others or grown["c_echoes"] != made[place]):
            judge.wrong.append(f"{cache.name}: {grown['c_applied']} applied of {others} of the others, "
                               f"{grown['c_echoes']} echoes of {made[place]} of its own")
    # Under an overloaded machine a daemon may be slower than 250 ms; a 503 has then said so.
    if len(refused) > sum(made) // 10:
        judge.wrong.append(f"{len(refused)} of {sum(made)} refused, such as {refused[0]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("tries", "bans"))
    parser.add_argument("--tries", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--clients", type=int, default=1, help="of each cache")
    parser.add_argument("--trusted", action="store_true")
    options = parser.parse_args()
    judge = Judge()
    stop = threading.Event()
    with Machine(2, trusted=options.trusted) as machine:
        clients = [Client(cache, judge, seed, stop, 0.002)
                   for seed, cache in enumerate(machine.caches * options.clients)]
        for client in clients:
            client.start()
        try:
            (tries if options.what == "tries" else bans)(machine, judge, options)
        finally:
            stop.set()
        for client in clients:
            client.join(WAIT_S)
            if client.failure or client.is_alive():
                judge.wrong.append(f"a client failed: {client.failure}")
        for cache in machine.caches:
            wait_until(lambda c=cache: c.get("/p0") >= judge.begin("/p0"), "the end", WAIT_S)
        claimed = sum(cache.counters("OBJMD").get("c_miss_claimed", 0) for cache in machine.caches)
        print(f"{claimed} misses claimed")
        if (claimed > 0) != options.trusted:
            judge.wrong.append("trusted caches claim what they miss, and no others")
        if judge.wrong:
            print(machine.words())
    for sentence in judge.wrong[:20]:
        print("WRONG:", sentence)
    return 1 if judge.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
