"""Larger than memory: 3,500 objects of 1 MiB in a memory cgroup of 1 GiB."""

from kit import machine, page_cache
from kit.bench import Wrong, costs
from kit.sizes import GIB, MIB

TITLE = "Larger than memory"
ABOUT = """3,500 objects of 1 MiB, all processes of a contestant with their tmpfs and page cache in one memory
cgroup of 1 GiB, 16 connections. Every varnishd has a log of 8 MiB instead of 80 (vsl_space): it is memory of the group,
too. Where bodies lie in files, the store's memory is what their headers need; the rest is page cache. Everything is stored before, then made cold. Whoever keeps bodies on disk must
answer without the origin; plain malloc and mapped cannot hold them all, and ask it (which costs the origin's
CPU and no disk: compare them with care). Where on the disk a contestant's bodies come to lie makes up to a fifth
of what it reads in a second, so all of it is done `fills` times with other files, and the rounds are shared among them. p99 is at an equal offered rate: half of what nginx with aio threads
answers in a closed loop."""
BASE = "varnish-file"
SHOW = ("per_s", "cpu_s_per_gb", "p99_us", "disk_share", "hit_ratio", "latency_us")
WHO = ("varnish-malloc", "varnish-file", "mapped", "native", "dual", "auto", "nginx-static", "nginx-cache-disk",
       "traffic-server")
PLANS = {
    "try": {"seconds": 60, "fills": 2, "rounds": 2, "each": 0.3, "objects": 60, "limit": 256 * MIB, "who": WHO},
    "head": {"seconds": 270, "fills": 1, "rounds": 5, "each": 1.5, "objects": 3500, "limit": GIB,
             "who": ("varnish-file", "native", "auto", "nginx-static", "nginx-cache-disk")},
    "full": {"seconds": 2200, "fills": 5, "rounds": 20, "each": 1.5, "objects": 3500, "limit": GIB, "who": WHO},
}
LOADS = (("Zipf .9", {"zipf": 0.9}), ("uniform", {}))


def shares(limit, bodies):
    """What each gets of the group for bodies in memory: the rest is for page cache or its own needs."""
    headers = bodies // MIB * 2048 + 8 * MIB
    memory = {"varnish-malloc": limit // 2, "mapped": limit * 5 // 8, "native": headers, "dual": headers,
              "auto": headers, "traffic-server": limit // 2}
    disk = {}
    for name in WHO:
        memory.setdefault(name, limit // 8)
        disk[name] = bodies * 5 // 4 + 64 * MIB
    disk["varnish-malloc"] = disk["mapped"] = 0
    return memory, disk


def holds_all(name):
    return name not in ("varnish-malloc", "mapped")


def run(bench, plan):
    lines = ["/o/1M/l%d" % i for i in range(plan["objects"])]
    urls = bench.urls("urls", lines)
    who = bench.present(plan["who"])
    files = bench.files(urls) if "nginx-static" in who else None
    rates = {}
    fills = min(plan["fills"], bench.rounds_wanted or plan["rounds"])
    for number in range(fills):
        if number and bench.over():
            bench.say("   time is up after %d fills" % number)
            break
        one_fill(bench, plan, urls, lines, files, rates, (number, fills))


def one_fill(bench, plan, urls, lines, files, rates, part):
    """Its part of the rounds of all cases, with stores that are new. `rates`: what is offered, by case; it stays."""
    memory, disk = shares(plan["limit"], plan["objects"] * MIB)
    if files:
        page_cache.make_cold(files)  # lest the group of nginx-static gets pages that we have paid for
    with bench.field(plan["who"], memory=memory, disk=disk, files=files, limit=plan["limit"],
                     head=("nginx-cache-disk", BASE)) as field:
        field.each("fill", lambda c: fill(bench, field, c, urls, lines))
        field.each("cold", lambda c: cold(bench, c))
        for case, options in LOADS:
            # What a cache keeps, it has learned from what was asked for.
            field.each(case, lambda c, options=options: machine.load(
                c, urls, seconds=plan["each"] * 4, connections=16, seed=4711, **options))

            def once(contestant, number, options=options):
                before, read = field.origin.count(), machine.disk_bytes_read(contestant.folder)
                got = machine.load(contestant, urls, seconds=bench.seconds_wanted or plan["each"], connections=16,
                                   seed=number, **options)
                result = judged(field, contestant, got, before)
                if read is not None:
                    result["disk_share"] = (machine.disk_bytes_read(contestant.folder) - read) / max(1, got["body_bytes"])
                return result

            field.rounds(case, plan["rounds"], once, part=part)
            if case not in rates:
                known = [bench.results.interval(bench.work, case, n, "per_s") for n in ("nginx-cache-disk", "nginx-static")]
                rates[case] = next((r[0] / 2 for r in known if r), next(iter(rates.values()), None))
            if rates[case] is None:
                continue

            def paced(contestant, number, case=case, options=options):
                got = machine.load(contestant, urls, seconds=bench.seconds_wanted or plan["each"], connections=64,
                                   rate="%.1f" % rates[case], seed=100 + number, **options)
                bench.results.fact(bench.work, case, contestant.name, offered_per_s=rates[case],
                                   never_sent=got["errors"].get("never sent", 0))
                return {"p50_us": got["latency_us"]["p50"], "p99_us": got["latency_us"]["p99"],
                        "first_byte_us": got["first_byte_us"]["p50"]}

            field.rounds(case + ", offered rate", plan["rounds"], paced, part=part)
        field.each("peak", lambda c: peaks(bench, c))


def fill(bench, field, contestant, urls, lines):
    machine.load(contestant, urls, requests=len(lines), in_order=True, connections=16)
    # Who stores in the background drops what comes faster than its disk writes (Traffic Server: four of
    # five at a gigabyte a second): it is asked again, at a pace that a disk keeps up with.
    pace = {}
    for _ in range(4 if holds_all(contestant.name) else 0):
        before = field.origin.count()
        machine.load(contestant, urls, requests=len(lines), in_order=True, connections=16, **pace)
        if field.origin.count() == before:
            break
        pace = {"rate": "200"}
    before = field.origin.count()
    got = machine.load(contestant, urls, requests=min(200, len(lines)), verify=True, seed=77, connections=16)
    if got["errors"] or (holds_all(contestant.name) and field.origin.count() != before):
        raise Wrong("after filling: %d asked of the origin, %s" % (field.origin.count() - before, got["errors"]))
    bench.results.proof(bench.work, "all", contestant.name, "%d random bodies compared%s" % (
        got["compared"], ", origin asked for none" if holds_all(contestant.name) else ""))
    bench.say("   filled " + contestant.name)


def peaks(bench, contestant):
    bench.results.fact(bench.work, "all", contestant.name, peak_mib=(contestant.group.peak() or 0) / MIB,
                       oom_kills=contestant.group.kills())
    if contestant.group.kills():
        raise Wrong("the kernel killed it for want of memory")


def cold(bench, contestant):
    left = page_cache.make_cold_for(contestant)
    bench.results.fact(bench.work, "all", contestant.name, resident_share_when_cold=left)


def judged(field, contestant, got, before):
    if got["errors"]:
        raise Wrong("errors: %s" % got["errors"])
    asked = field.origin.count() - before
    if holds_all(contestant.name) and asked:
        raise Wrong("%d requests were not answered from its cache" % asked)
    result = costs(got)
    result["hit_ratio"] = 1 - asked / got["requests"] if contestant.fetches else 1.0
    return result
