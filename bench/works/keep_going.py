"""Fill and keep going: a full store, a change of sizes, no refusal."""

import random

from kit import machine
from kit.bench import Wrong, costs
from kit.sizes import MIB

TITLE = "Fill, and keep going"
ABOUT = """A store is filled with small objects, then asked for ever more, small and large, several times its size.
No request may fail. The last quarter's speed is shown beside the first's, and what the memory cgroup (without a
limit) has counted at most, as a share of the memory that was configured."""
SHOW = ("memory_per_configured", "per_s", "cpu_us", "errors")
WHO = ("varnish-malloc", "mapped", "native", "dual", "auto", "nginx-cache-tmpfs")
PLANS = {
    "try": {"seconds": 40, "rounds": 1, "store": 32 * MIB, "times": 2, "who": WHO},
    "head": {"seconds": 30, "rounds": 1, "store": 256 * MIB, "times": 3, "who": ("varnish-malloc", "mapped", "dual")},
    "full": {"seconds": 350, "rounds": 5, "store": 256 * MIB, "times": 5, "who": WHO},
}
SMALL = ("1K", "4K", "16K")
LARGE = ("4K", "64K", "1M", "8M")


def run(bench, plan):
    draw = random.Random(5)
    weights = {"1K": 1 << 10, "4K": 4 << 10, "16K": 16 << 10, "64K": 64 << 10, "1M": MIB, "8M": 8 * MIB}
    quarters = []
    number = 0
    for quarter in range(4):
        lines, left = [], plan["store"] * plan["times"] // 4
        while left > 0:
            size = draw.choice(SMALL if quarter == 0 else LARGE)
            lines.append("/o/%s/k%d" % (size, number))
            number += 1
            left -= weights[size]
        quarters.append((bench.urls("quarter-%d" % quarter, lines), len(lines)))
    for number in range(bench.rounds_wanted or plan["rounds"]):
        if number and bench.over():
            bench.say("   time is up after %d rounds" % number)
            break
        keep_going(bench, plan, quarters, number)


def keep_going(bench, plan, quarters, number):
    """One round: everybody begins with an empty store."""
    with bench.field(plan["who"], memory=plan["store"], disk=plan["store"], count_memory=True) as field:
        def go(contestant):
            for quarter, (urls, count) in enumerate(quarters):
                got = machine.load(contestant, urls, requests=count, in_order=True, connections=16, sample=100)
                metrics = costs(got)
                metrics["errors"] = float(sum(got["errors"].values()))
                metrics["memory_per_configured"] = (contestant.group.peak() or 0) / plan["store"]
                bench.results.add(bench.work, "quarter %d" % (quarter + 1), contestant.name, number, metrics)
                if got["errors"]:
                    raise Wrong("errors: %s" % got["errors"])
            bench.say("   " + contestant.name)

        field.each("keep going", go)
