"""Mixed: a trace as an edge of a CDN sees it, with equal memory for all."""

import subprocess

from kit import machine
from kit.bench import Wrong, costs
from kit.sizes import GIB, MIB

TITLE = "Mixed load, CDN-like"
ABOUT = """Zipf popularity that drifts, one-hit wonders in bursts, log-normal sizes from 128 bytes to 64 MiB (bench/trace,
seed 1), replayed in order. All processes of a contestant live in one memory cgroup; plain malloc and mapped use
five eighths of it for bodies; those with a disk tier use half, and the other half is page cache (and varnishd).
The first half of the trace warms; the second is measured in pieces, interleaved."""
SHOW = ("cpu_us", "hit_ratio", "byte_hit_ratio", "per_s", "latency_us")
WHO = ("varnish-malloc", "varnish-file", "mapped", "native", "dual", "auto", "nginx-cache-disk", "traffic-server")
PLANS = {
    "try": {"seconds": 60, "rounds": 2, "requests": 600, "limit": 256 * MIB, "disk": GIB, "who": WHO},
    "head": {"seconds": 80, "rounds": 5, "requests": 40000, "limit": 512 * MIB, "disk": 4 * GIB,
             "who": ("varnish-malloc", "mapped", "native", "dual", "auto")},
    "full": {"seconds": 400, "rounds": 20, "requests": 120000, "limit": 768 * MIB, "disk": 8 * GIB, "who": WHO},
}


def run(bench, plan):
    done = subprocess.run([str(machine.BUILD / "bin" / "om_trace"), "--print", "--requests", str(plan["requests"])],
                          capture_output=True, text=True, check=True)
    trace = done.stdout.splitlines()
    half = len(trace) // 2
    rounds = bench.rounds_wanted or plan["rounds"]
    piece = max(1, half // rounds)
    limit = plan["limit"]
    who = bench.present(plan["who"])
    memory = {name: limit * 5 // 8 if name in ("varnish-malloc", "mapped") else limit // 2 for name in who}
    disk = {name: 0 if name in ("varnish-malloc", "mapped") else plan["disk"] for name in who}
    with bench.field(who, memory=memory, disk=disk, limit=limit) as field:
        warm = bench.urls("warm", trace[:half])

        def warm_up(contestant):
            got = machine.load(contestant, warm, requests=half, in_order=True, connections=16)
            if got["errors"]:
                raise Wrong("errors: %s" % got["errors"])

        field.each("warm", warm_up)
        pieces = [bench.urls("piece-%d" % i, trace[half + i * piece:half + (i + 1) * piece]) for i in range(rounds)]

        def once(contestant, number):
            before = field.origin.count()
            got = machine.load(contestant, pieces[number], requests=piece, in_order=True, connections=16, sample=100)
            if got["errors"]:
                raise Wrong("errors: %s" % got["errors"])
            asked = field.origin.count() - before
            metrics = costs(got)
            metrics["hit_ratio"] = 1 - asked / got["requests"]
            if got["hits"]:
                metrics["byte_hit_ratio"] = got["hit_bytes"] / got["body_bytes"]
            return metrics

        def afterwards(contestant):
            bench.results.fact(bench.work, "trace", contestant.name, peak_mib=(contestant.group.peak() or 0) / MIB,
                               oom_kills=contestant.group.kills())
            bench.results.proof(bench.work, "trace", contestant.name, "every 100th body compared")
            if contestant.group.kills():
                raise Wrong("the kernel killed it for want of memory")

        field.rounds("trace", rounds, once, afterwards)
