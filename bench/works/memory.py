"""Memory: what an object costs beside its body."""

import os

from kit import machine
from kit.bench import Wrong
from kit.sizes import MIB, parse

TITLE = "Memory per object"
ABOUT = """(anonymous memory and page tables of all processes + blocks of files in memory that are in use -
bodies) / objects, less what the processes had before the first. Stores are large enough: nothing is evicted. A
region is allocated as a whole, for the objects to come: what its allocator has not given out is taken off, as
untouched memory is of malloc's figure. memory_per_body is all memory, bodies included, by bytes of bodies. Page cache of bodies that lie on disk is not counted: the kernel takes it back at
will."""
SHOW = ("bytes_per_object", "memory_per_body", "descriptors", "mappings")
WHO = ("varnish-malloc", "mapped", "native", "dual", "auto", "nginx-cache-tmpfs")
PLANS = {
    "try": {"seconds": 40, "rounds": 1, "cases": (("4K", 500), ("256K", 40)), "who": WHO},
    "quick": {"seconds": 40, "rounds": 1, "cases": (("4K", 30000),), "who": ("varnish-malloc", "mapped")},
    "head": {"seconds": 120, "rounds": 1, "cases": (("4K", 200000), ("256K", 8000)), "who": WHO[:3]},
    "full": {"seconds": 1700, "rounds": 5, "cases": (("4K", 200000), ("256K", 20000)), "who": WHO},
}


def held(contestant):
    """Bytes of memory that a contestant holds for what it has stored."""
    total = sum(machine.anonymous_bytes(pid) for pid in contestant.pids())
    if hasattr(contestant, "tier"):
        for folder in (contestant.tier, contestant.folder / "state"):
            total += sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
        total -= contestant.counter("OBJM.*.g_space")
    elif contestant.name == "nginx-cache-tmpfs":
        total += sum(path.stat().st_blocks * 512 for path in contestant.cache.rglob("*") if path.is_file())
    return total


def openings(contestant):
    """(descriptors, mappings) of all processes: they must not grow with the objects."""
    descriptors = mappings = 0
    for pid in contestant.pids():
        try:
            descriptors += len(os.listdir("/proc/%d/fd" % pid))
            with open("/proc/%d/maps" % pid) as maps:
                mappings += sum(1 for _ in maps)
        except OSError:
            pass  # a process that has ended meanwhile
    return descriptors, mappings


def one(bench, field, contestant, urls, case, size, count, bodies_in_memory=True):
    before, opened = held(contestant), openings(contestant)
    asked = field.origin.count()
    got = machine.load(contestant, urls, requests=count, in_order=True, connections=8)
    if got["errors"] or field.origin.count() - asked != count:
        raise Wrong("%d asked of the origin, %s" % (field.origin.count() - asked, got["errors"]))
    if hasattr(contestant, "counter"):
        if contestant.counter("MAIN.n_lru_nuked"):
            raise Wrong("objects were evicted")
        if hasattr(contestant, "stored_elsewhere") and contestant.stored_elsewhere():
            raise Wrong("objects are not in objmapper")
    after, now = held(contestant), openings(contestant)
    bodies = count * parse(size)
    resident = bodies if bodies_in_memory else 0
    return {"bytes_per_object": (after - before - resident) / count, "memory_per_body": after / bodies,
            "descriptors": now[0] - opened[0], "mappings": now[1] - opened[1]}


def run(bench, plan):
    for size, count in plan["cases"]:
        urls = bench.urls("urls", ["/o/%s/n%d" % (size, i) for i in range(count)])
        for number in range(bench.rounds_wanted or plan["rounds"]):
            for name in bench.present(plan["who"]):  # one after the other: together they would not fit
                if bench.over():
                    return
                case = "%d x %s" % (count, size)
                by_descriptor = name in ("native", "dual", "auto") and parse(size) >= 65536
                room = count * (parse(size) + 3072) * 5 // 4 + 64 * MIB
                memory = room if not by_descriptor else 64 * MIB + count * 4096
                with bench.field((name,), memory=memory, disk=room if by_descriptor else 64 * MIB) as field:
                    def measure(contestant):
                        bench.results.add(bench.work, case, name, number,
                                          one(bench, field, contestant, urls, case, size, count, not by_descriptor))

                    field.each(case, measure)
        bench.say("   %s" % size)
