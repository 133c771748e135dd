#!/usr/bin/env python3
"""Many clients at two cold caches: one request for each key reaches the origin, also when a cache dies.

    stampede_test.py [--rounds N] [--clients N] [--keys N] [--size BYTES] [--delays S,S,...]

The short form is a test; bench/stampede says the long one.
"""

import argparse
import os
import random
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from caches import World, body_of, wait_until  # noqa: E402


def stampede(world, caches, paths, query, clients, size, during=None):
    """All clients at once, each at one cache, all paths in an order of its own. What went wrong, by cache."""
    wrong = {name: [] for name in caches}
    right = {path: body_of(path, size) for path in paths}
    lock = threading.Lock()
    begin = threading.Barrier(clients + 1)

    def client(number):
        name = caches[number % len(caches)]
        cache = world.cache(name)
        order = list(paths)
        random.Random(number).shuffle(order)
        begin.wait()
        for path in order:
            said = None
            try:
                status, _, body = cache.get(f"{path}?{query}")
                if status != 200:
                    said = f"{path}: status {status}"
                elif body != right[path]:
                    said = f"{path}: another body, of {len(body)} bytes"
            except Exception as failure:  # pylint: disable=broad-except
                said = f"{path}: {failure!r}"
            if said:
                with lock:
                    wrong[name].append(said)
                return

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    if during:
        during()
    for thread in threads:
        thread.join(240)
    if any(thread.is_alive() for thread in threads):
        wrong[caches[0]].append("clients that never ended")
    return wrong


def one_round(arguments, number, delay, size, trusted):
    world = World(memory="512M", timeout="5s", store="96MB", trusted=trusted)
    try:
        for name in ("a", "b"):
            world.cache(name)
        paths = [f"/s{number}/{key}" for key in range(arguments.keys)]
        wrong = stampede(world, ["a", "b"], paths, f"size={size}&delay={delay}", arguments.clients, size)
        total = world.origin.total()
        counters = {name: world.cache(name).counters() for name in ("a", "b")}
        print(f"round {number}, delay {delay}, {size} bytes, {'' if trusted else 'not '}in place: "
              f"{total} requests for {len(paths)} keys; a {counters['a']}; b {counters['b']}", flush=True)
        problems = [text for texts in wrong.values() for text in texts[:5]]
        if trusted and not any(said.get("c_miss_claimed") for said in counters.values()):
            problems.append("no miss was claimed")
        if total != len(paths):
            more = {path: count for path, count in world.origin.counts.items() if count != 1}
            problems.append(f"{total} requests at the origin, not {len(paths)}: {more}")
        return problems
    finally:
        world.close()


def killed_round(arguments, number, delay, trusted):
    """The cache that fetches most is killed in the middle; nobody at the other one notices."""
    world = World(memory="512M", timeout="5s", store="96MB", trusted=trusted)
    try:
        for name in ("a", "b"):
            world.cache(name)
        paths = [f"/k{number}/{key}" for key in range(arguments.keys)]

        def kill():
            # In mid-body of some that the other one follows, before the headers of others.
            wait_until(lambda: world.origin.in_mid_body >= arguments.keys // 3, "in mid-body", 60)
            world.caches["a"].kill()

        wrong = stampede(world, ["a", "b"], paths, f"size={arguments.size}&delay={delay}&pause=0.3&etag=k", arguments.clients,
                         arguments.size, during=kill)
        print(f"killed round {number}, delay {delay}: {world.origin.total()} requests for {len(paths)} keys, "
              f"{len(wrong['a'])} clients of the dead cache failed; b {world.cache('b').counters()}", flush=True)
        world.caches.pop("a")
        return wrong["b"][:5]
    finally:
        world.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--keys", type=int, default=12)
    parser.add_argument("--size", type=int, default=1 << 20)
    parser.add_argument("--delays", default="0,0.05,0.5")
    arguments = parser.parse_args()
    problems = []
    for number in range(arguments.rounds):
        for delay in arguments.delays.split(","):
            problems += one_round(arguments, number, delay, arguments.size, False)
            # Where misses need no message.
            problems += one_round(arguments, number, delay, arguments.size, True)
            problems += one_round(arguments, number, delay, 5000, True)
        for trusted in (False, True):
            problems += killed_round(arguments, number, "0.05", trusted)
    for problem in problems:
        print("FAILED:", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
