"""Latency of hits at equal offered rates."""

from kit import machine
from kit.bench import Wrong, latencies
from kit.sizes import GIB, some

TITLE = "Latency of hits at equal offered rates"
ABOUT = """All contestants are offered the same requests per second: shares of what plain Varnish answers in a
closed loop. A latency counts from when its request was due, whether or not it could be sent then. The client
shares two cores with the server: differences count, absolutes do not."""
SHOW = ("p50_us", "p99_us", "p999_us", "first_byte_us")
WHO = ("varnish-malloc", "varnish-file", "mapped", "native", "dual", "auto", "nginx-static", "nginx-cache-tmpfs",
       "nginx-cache-disk", "traffic-server")
PLANS = {
    "try": {"seconds": 40, "rounds": 2, "each": 0.2, "sizes": ("1K",), "shares": (0.2, 0.4), "who": WHO[:4]},
    "quick": {"seconds": 40, "rounds": 5, "each": 0.5, "sizes": ("1K", "1M"), "shares": (0.4,),
              "who": ("varnish-malloc", "mapped", "native")},
    "head": {"seconds": 140, "rounds": 6, "each": 0.4, "sizes": ("1K", "64K", "1M"), "shares": (0.2, 0.4, 0.6),
             "who": ("varnish-malloc", "mapped", "native", "dual", "nginx-cache-tmpfs")},
    "full": {"seconds": 600, "rounds": 20, "each": 0.4, "sizes": ("1K", "64K", "1M", "10M"),
             "shares": (0.2, 0.4, 0.6), "who": WHO},
}


def run(bench, plan):
    files = bench.files(bench.urls("all", [url for size in plan["sizes"] for url in some(size)]))
    with bench.field(plan["who"], memory=GIB, files=files) as field:
        if "varnish-malloc" not in field.running:
            raise Wrong("without plain Varnish there is no rate to offer")
        for size in plan["sizes"]:
            lines = some(size)
            urls = bench.urls("urls-" + size, lines)
            afterwards = field.proven_hits(size, urls, len(lines))
            full = machine.load(field.running["varnish-malloc"], urls, seconds=1, connections=16)
            top = full["requests"] / full["seconds"]
            for share in plan["shares"]:
                if bench.over():
                    return
                case = "%s at %d %%" % (size, 100 * share)
                rate = max(20.0, share * top)

                def once(contestant, number):
                    got = machine.load(contestant, urls, seconds=plan["each"], rate="%.1f" % rate, connections=64,
                                       seed=number)
                    if set(got["errors"]) - {"never sent"}:
                        raise Wrong("errors: %s" % got["errors"])
                    bench.results.fact(bench.work, case, contestant.name, offered_per_s=rate,
                                       client_late_p99_us=got["late_us"]["p99"], never_sent=got["errors"].get("never sent", 0))
                    return latencies(got)

                field.rounds(case, plan["rounds"], once, afterwards)
                for metric in ("p50_us", "p99_us"):
                    for name in field.running:
                        middle = bench.results.interval(bench.work, case, name, metric)
                        if middle:
                            curve = bench.results.work(bench.work)["curves"].setdefault("%s %s" % (size, metric), {})
                            curve.setdefault(name, []).append([rate, middle[0]])
                bench.say("   " + case)
