#!/usr/bin/env python3
"""Lanes: what a hit in a file costs by the file lane (sendfile), by the mapped lane (pread and write) and as `auto`
chooses, beside -s malloc, which has it in memory. Everything is resident.

Interleaved rounds in one run, over a Unix socket, TCP on loopback, and, as root, TCP over a veth pair to another network
namespace, which is the nearest thing to a client elsewhere. CPU per GB of varnishd (and the daemon), and with the
client's; each ratio is the median of the rounds' ratios with its 95 % interval.

    unix   varnishd's CPU, file / malloc: at most .65 from 1 MiB
    all    auto / the better of the two lanes, by the CPU of both ends where the client is on this machine, by
           varnishd's where it is not: at most 1.05

    bench/lanes/lanes.py [--rounds 20] [--seconds 1] [--sizes 256K,1M,10M] [--via unix,tcp,veth] [--read] [--json FILE]

By TCP the client discards bodies in the kernel, as a network card would take them away. With --read it reads and compares
them, as a proxy on the same machine has to: the sender saves less than this reader pays, or more, by kernel and page size.
"""

import argparse
import contextlib
import json
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import contestants  # noqa: E402
from contestants import base, objmapper, varnish  # noqa: E402
from kit import machine, netns, origin, stats  # noqa: E402
from kit.sizes import GIB, parse, some  # noqa: E402

UNIX_AT_MOST = 0.65
AUTO_AT_MOST = 1.05
LANES = ("file", "mapped", "auto")
# Who pays for the client's side of a transport.
COUNTS = {"unix": "both", "tcp": "both", "veth": "server"}


class Lane(objmapper.Native):
    """Bodies in files, delivery as the name says."""

    def vcl(self):
        return super().vcl().replace("mode = native", "mode = native, delivery = %s" % self.name)


def make(name, setup):
    contestant = varnish.Malloc(name, setup) if name == "malloc" else Lane(name, setup)
    contestant.unix = contestant.folder / "http"
    contestant.address = setup.address
    return contestant


def lane_bytes(contestant):
    return {lane: contestant.counter("OBJM.*.c_lane_%s_bytes" % lane) for lane in ("file", "mapped")}


def prove(contestant, urls, count, **options):
    """Every body by its bytes, from the cache, and by the lane that is meant."""
    machine.load(contestant, urls, requests=count, in_order=True, **options)
    if isinstance(contestant, Lane):
        before = lane_bytes(contestant)
    got = machine.load(contestant, urls, requests=count, in_order=True, verify=True, **options)
    if got["errors"] or got["compared"] != count or got["hits"] != count:
        sys.exit("%s: not all hits, or not the right bytes: %s" % (contestant.name, got))
    if not isinstance(contestant, Lane):
        return
    if contestant.stored_elsewhere():
        sys.exit("%s: objects are not in objmapper" % contestant.name)
    used = {lane: after - before[lane] for lane, after in lane_bytes(contestant).items()}
    if contestant.name != "auto" and used[contestant.name] < got["body_bytes"]:
        sys.exit("%s: bodies went by another lane: %s" % (contestant.name, used))
    return max(used, key=used.get)


def per_gb(got):
    gigabytes = got["body_bytes"] / 1e9
    return {"server": got["server_cpu"] / gigabytes, "both": (got["server_cpu"] + got["cpu_seconds"]) / gigabytes,
            "gb_per_s": gigabytes / got["seconds"]}


def ratios(samples, one, other, what):
    return stats.median_interval([a[what] / b[what] for a, b in zip(samples[one], samples[other]) if b[what] > 0])


def report(via, size, samples, chosen):
    better = min(("file", "mapped"), key=lambda lane: stats.median_interval(
        [s[COUNTS[via]] for s in samples[lane]])[0])
    line = {"via": via, "size": size, "auto_chose": chosen, "better": better, "samples": samples}
    print("%-4s %-5s" % (via, size), flush=True)
    for name in samples:
        middle = {what: stats.median_interval([s[what] for s in samples[name]])[0] for what in samples[name][0]}
        print("    %-6s varnishd %.3f s/GB, with the client %.3f s/GB, %.2f GB/s" % (
            name, middle["server"], middle["both"], middle["gb_per_s"]))
    for lane in LANES:
        for what in ("server", "both"):
            line["%s/malloc %s" % (lane, what)] = ratios(samples, lane, "malloc", what)
    bound = UNIX_AT_MOST if via == "unix" and parse(size) >= 1 << 20 else None
    interval = line["file/malloc server"]
    print("    varnishd, file / malloc: %s %s; mapped / malloc: %s" % (
        stats.show(interval), stats.verdict(interval, at_most=bound), stats.show(line["mapped/malloc server"])))
    interval = line["auto/better"] = ratios(samples, "auto", better, COUNTS[via])
    print("    auto (chose %s) / %s, which is the better by the CPU of %s: %s %s" % (
        chosen, better, COUNTS[via], stats.show(interval), stats.verdict(interval, at_most=AUTO_AT_MOST)), flush=True)
    return line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--sizes", default="256K,1M,10M")
    parser.add_argument("--via", default="unix,tcp,veth")
    parser.add_argument("--read", action="store_true", help="the client reads bodies")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    sizes = arguments.sizes.split(",")
    lines = []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="om-bench-")))
        urls = {}
        for size in sizes:
            urls[size] = folder / ("urls-" + size)
            urls[size].write_text("".join(url + "\n" for url in some(size)))
        space = None
        if "veth" in arguments.via.split(","):
            try:
                space = stack.enter_context(netns.Namespace())
            except RuntimeError as failed:
                print("no veth: %s" % failed)
        source = stack.enter_context(origin.Origin())
        memory = sum(parse(size) * len(some(size)) for size in sizes) * 5 // 4 + GIB // 8
        field = {}
        for name in ("malloc", *LANES):
            setup = base.Setup(source, memory if name == "malloc" else GIB // 8, memory,
                               address=space.address if space else None)
            field[name] = stack.enter_context(make(name, setup))
            machine.wait_for(lambda: machine.load(field[name], urls[sizes[0]], requests=1)["requests"] == 1,
                             what="an answer of " + name)
        for via in arguments.via.split(","):
            if via == "veth" and space is None:
                continue
            options = {"via": via, "connections": arguments.connections}
            if via == "veth":
                options["prefix"] = space.prefix
            for size in sizes:
                count = len(some(size))
                chosen = [prove(contestant, urls[size], count, **options) for contestant in field.values()][-1]
                samples = {name: [] for name in field}
                names = list(field)
                for number in range(arguments.rounds):
                    turn = number % len(names)
                    for name in names[turn:] + names[:turn]:
                        got = machine.load(field[name], urls[size], seconds=arguments.seconds, seed=number,
                                           **({"verify": True} if arguments.read else {}), **options)
                        if got["errors"] or got["hits"] != got["requests"]:
                            sys.exit("%s: %s: not all hits: %s" % (size, name, got))
                        samples[name].append(per_gb(got))
                lines.append(report(via, size, samples, chosen))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
