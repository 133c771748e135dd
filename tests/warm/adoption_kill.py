#!/usr/bin/env python3
"""A restart in the middle of adoption: the child is killed while it takes objects back, again and again; then it may finish.

The region's header says which object is being attached (`adopting`, at 528): the child is killed when that is set, so
every kill hits. Each such kill costs the one object at which it died, and no other: nothing that was not reached is lost,
nothing is there twice, and every answer is the right one.

    adoption_kill.py [--kills N] [--objects N]
"""

import argparse
import http.client
import mmap
import os
import shutil
import signal
import sys
import tempfile
import time

import warm

ADOPTING = 528  # src/region/format.h


def region_file(world):
    directory = os.path.join(world.directory, "mem", "regions")
    name, = os.listdir(directory)
    return os.path.join(directory, name)


def kill_while_adopting(world, header):
    """Starts varnishd and kills all of it once an object is being attached; False: adoption was over before."""
    left = header[ADOPTING:ADOPTING + 8]  # by the one before
    process = world.spawn_varnishd()
    end = time.monotonic() + warm.WAIT_S
    hit = False
    look = time.monotonic() + 0.05
    while time.monotonic() < end and not hit:
        if header[ADOPTING:ADOPTING + 8] not in (bytes(8), left):
            children = world.children()
            process.send_signal(signal.SIGSTOP)  # lest the manager starts another child
            for pid in children:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            hit = True
        elif process.poll() is not None:
            raise RuntimeError("varnishd does not start")
        elif time.monotonic() > look:
            look = time.monotonic() + 0.05
            if world.serving():
                break
    number = signal.SIGKILL
    children = world.children()
    process.send_signal(number)
    process.wait(warm.WAIT_S)
    for pid in children:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    for pid in children:
        warm.wait_gone(pid)
    # It may have ended just before it was killed.
    return hit and header[ADOPTING:ADOPTING + 8] != bytes(8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--objects", type=int, default=800)
    options = parser.parse_args()
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    directory = tempfile.mkdtemp(prefix="omkill.", dir=base)
    os.chmod(directory, 0o755)
    origin = warm.Origin()
    # Bodies are read while adopting: that gives it a length in which to be killed.
    world = warm.World(origin, directory, "verify = on_adopt")
    wrong = []

    def get(connection, url):
        connection.request("GET", url, headers={"Host": "test"})
        answer = connection.getresponse()
        return answer.read(), answer.getheader("X-Hits")

    try:
        world.start_daemon()
        world.start_varnishd()
        urls = [f"/t{n}" for n in range(options.objects)]
        connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=warm.WAIT_S)
        for url in urls:
            get(connection, url)
        connection.close()
        stored = world.counter("OBJM.store.g_objects")
        world.end_varnishd(signal.SIGKILL)
        with open(region_file(world), "rb") as file:
            header = mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ)
        kills = sum(kill_while_adopting(world, header) for _ in range(options.kills))
        world.start_varnishd()
        adopted = world.counter("OBJM.store.c_adopted")
        objects = world.counter("OBJM.store.g_objects")
        before = origin.requests
        connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=warm.WAIT_S)
        hits = 0
        for url in urls:
            body, seen = get(connection, url)
            if body != warm.body_for(url, 0):
                wrong.append(f"{url}: {len(body)} bytes that are not its body")
            hits += seen not in (None, "0")
        connection.close()
        print(f"{stored} objects, killed {kills} times while adopting; {adopted} adopted, {hits} hits, "
              f"{origin.requests - before} fetched")
        if kills == 0:
            wrong.append("adoption was never met: nothing was tested")
        # One for each adoption that died, however often.
        if adopted < stored - options.kills:
            wrong.append(f"{stored - adopted} objects lost by {options.kills} kills")
        if objects != adopted or adopted > stored:
            wrong.append(f"{objects} objects in the store, {adopted} adopted of {stored}")
        if hits != adopted:
            wrong.append(f"{adopted} adopted, but {hits} hits")
    finally:
        world.end()
        if wrong or sys.exc_info()[0] is not None:
            with open(os.path.join(directory, "log"), encoding="utf-8", errors="replace") as file:
                print("---- log\n" + file.read()[-8000:])
        shutil.rmtree(directory, ignore_errors=True)
    for sentence in wrong[:20]:
        print("WRONG:", sentence)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
