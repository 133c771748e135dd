"""A million objects: descriptors, mappings and memory stay within their budgets."""

from works import memory
from kit.sizes import MIB, parse

TITLE = "A million objects"
ABOUT = """1,000,000 objects of 1 KiB, each fetched once, under varnishd: descriptors and mappings that they added, of
all processes of a contestant, and memory beside the bodies."""
SHOW = ("descriptors", "mappings", "bytes_per_object")
WHO = ("varnish-malloc", "mapped", "native", "dual", "auto")
PLANS = {
    "try": {"seconds": 40, "objects": 2000, "size": "1K", "who": WHO},
    "full": {"seconds": 1500, "objects": 1000000, "size": "1K", "who": WHO},
}
# Of a limit of 65,530 mappings (vm.max_map_count) and as many descriptors as systemd gives a service.
BUDGET = {"descriptors": 4096, "mappings": 8192}


def run(bench, plan):
    count, size = plan["objects"], plan["size"]
    urls = bench.urls("urls", ["/o/%s/n%d" % (size, i) for i in range(count)])
    room = count * (parse(size) + 2560) + 128 * MIB
    for name in bench.present(plan["who"]):
        if bench.over():
            return
        with bench.field((name,), memory=room, disk=64 * MIB) as field:
            def measure(contestant):
                figures = memory.one(bench, field, contestant, urls, "all", size, count)
                bench.results.add(bench.work, "%d x %s" % (count, size), name, 0, figures)
                for metric, most in BUDGET.items():
                    if name != "varnish-malloc" and figures[metric] > most:
                        bench.results.failure(bench.work, "budget", name, "%d %s, at most %d" % (
                            figures[metric], metric, most))

            field.each("%d x %s" % (count, size), measure)
        bench.say("   " + name)
