"""Hits: resident objects, closed loop, by three transports."""

from kit import machine
from kit.bench import costs, right
from kit.sizes import MIB, parse, some

TITLE = "Hits, resident"
ABOUT = """Every object is in the cache and in memory. A closed loop of 8 connections; bodies are discarded in
the kernel (TCP), or read (Unix socket). CPU is that of all processes of a contestant."""
SHOW = ("cpu_us", "per_s", "first_byte_us", "total_cpu_us")
VARNISH = ("varnish-malloc", "mapped", "native", "dual", "auto")
RIVALS = ("varnish-malloc", "varnish-file", "mapped", "native", "dual", "auto", "nginx-static", "nginx-cache-tmpfs",
          "nginx-cache-disk")
ALL_SIZES = ("1K", "4K", "16K", "64K", "256K", "1M", "10M", "64M", "256M")
PLANS = {
    "try": {"seconds": 180, "rounds": 2, "each": 0.1, "fields": [("tcp", RIVALS + ("traffic-server",), ("1K", "1M")),
                                                               ("unix", VARNISH, ("1M",)), ("veth", VARNISH, ("1M",))]},
    "quick": {"seconds": 90, "rounds": 7, "each": 0.25, "fields": [
        ("tcp", ("varnish-malloc", "mapped", "native", "dual"), ("1K", "64K", "1M", "10M")),
        ("unix", ("varnish-malloc", "mapped", "native"), ("1M", "10M"))]},
    "head": {"seconds": 300, "rounds": 20, "each": 0.25, "fields": [
        ("tcp", RIVALS, ("1K", "16K", "64K", "1M", "10M")),
        ("unix", VARNISH, ("1M", "10M"))]},
    "full": {"seconds": 800, "rounds": 20, "each": 0.25, "fields": [
        ("tcp", RIVALS + ("traffic-server",), ALL_SIZES),
        ("unix", RIVALS, ("1K", "64K", "1M", "10M", "256M")),
        ("veth", RIVALS + ("traffic-server",), ("1K", "64K", "1M", "10M"))]},
}


def run(bench, plan):
    for transport, names, sizes in plan["fields"]:
        one_field(bench, plan, transport, names, sizes)


def one_field(bench, plan, transport, names, sizes):
    all_urls = bench.urls("all", [url for size in sizes for url in some(size)])
    files = bench.files(all_urls)
    room = 256 * MIB + 3 * sum(parse(size) * len(some(size)) for size in sizes) // 2
    if transport == "veth":
        with bench.namespace() as space:
            if space is not None:
                with bench.field(names, memory=room, files=files, namespace=space) as field:
                    measure(bench, plan, field, transport, sizes, space.prefix)
    else:
        with bench.field(names, memory=room, files=files) as field:
            measure(bench, plan, field, transport, sizes, ())


def measure(bench, plan, field, transport, sizes, prefix):
    for size in sizes:
        if bench.over():
            return
        case = "%s %s" % (transport, size)
        lines = some(size)
        urls = bench.urls("urls-" + size, lines)
        afterwards = field.proven_hits(case, urls, len(lines), via=transport, prefix=prefix)

        def once(contestant, number):
            got = right(machine.load(contestant, urls, via=transport, prefix=prefix, seconds=bench.seconds_wanted or plan["each"],
                                     connections=8, seed=number))
            bench.results.fact(bench.work, case, contestant.name, cpu_by_process=got["cpu_by_process"])
            return costs(got)

        field.rounds(case, plan["rounds"], once, afterwards)
        bench.say("   " + case)
