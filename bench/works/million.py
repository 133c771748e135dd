"""A million objects: descriptors, mappings and memory stay within their budgets."""

from works import memory
from kit.sizes import MIB, parse

TITLE = "A million objects"
ABOUT = """1,000,000 objects of 1 KiB, each fetched once, under varnishd: descriptors and mappings that they added, of
all processes of a contestant, and memory beside the bodies. Then bodies of 16 KiB, each of which `native` puts into a file."""
SHOW = ("descriptors", "mappings", "bytes_per_object")
WHO = ("varnish-malloc", "mapped", "native", "dual", "auto")
PLANS = {
    "try": {"seconds": 40, "cases": (("1K", 2000, WHO), ("16K", 2000, ("native",)))},
    "full": {"seconds": 1400, "cases": (("1K", 1000000, WHO), ("16K", 1000000, ("native",)))},
}
# Of a limit of 65,530 mappings (vm.max_map_count) and as many descriptors as systemd gives a service.
BUDGET = {"descriptors": 4096, "mappings": 8192}
IN_FILES = 16384  # from this size on, with native


def run(bench, plan):
    for size, count, who in plan["cases"]:
        case = "%d x %s" % (count, size)
        urls = bench.urls("urls", ["/o/%s/n%d" % (size, i) for i in range(count)])
        in_files = parse(size) >= IN_FILES
        room = count * ((0 if in_files else parse(size)) + 2560) + 128 * MIB
        for name in bench.present(who):
            if bench.over():
                return
            with bench.field((name,), memory=room, disk=count * parse(size) * 5 // 4 if in_files else 64 * MIB) as field:
                def measure(contestant):
                    figures = memory.one(bench, field, contestant, urls, "all", size, count, bodies_in_memory=not in_files)
                    bench.results.add(bench.work, case, name, 0, figures)
                    for metric, most in BUDGET.items():
                        if name != "varnish-malloc" and figures[metric] > most:
                            bench.results.failure(bench.work, "budget", name, "%d %s, at most %d" % (
                                figures[metric], metric, most))

                field.each(case, measure)
            bench.say("   " + name)
