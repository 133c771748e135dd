#!/usr/bin/env python3
"""Cold: everything is in the cache and on disk, nothing of it in memory. A store with bodies in files, delivery = auto, beside
a bare sendfile server on the same file system (sendfile_server.cc).

Before each round the pages of the bodies are dropped; then every body is asked for once. Interleaved rounds; ratios are the
median of the rounds' with its 95 % interval.

    throughput, ours / bare           at least .85
    median first byte, ours / bare    at most 1.5

    bench/cold/cold.py [--rounds 20] [--sizes 1M:200,10M:20,64M:4,256M:2] [--connections 4] [--lanes auto,mapped] [--json FILE]
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from contestants import base, objmapper  # noqa: E402
from kit import machine, netns, origin, page_cache, stats  # noqa: E402
from kit.sizes import GIB, parse  # noqa: E402

THROUGHPUT_AT_LEAST = 0.85
FIRST_BYTE_AT_MOST = 1.5


class Bare(machine.Contestant):
    def __init__(self, files):
        super().__init__("bare")
        self.files = files

    def start(self):
        self.spawn(machine.BUILD / "bin" / "objm-sendfile", "--root", self.files, "--port", self.port)

    def cache_folders(self):
        return [self.files]


class Lane(objmapper.Native):
    def vcl(self):
        return super().vcl().replace("mode = native", "mode = native, delivery = %s" % self.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sizes", default="1M:200,10M:20,64M:4,256M:2", help="SIZE:COUNT, with commas between them")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--lanes", default="auto", help="of auto, file, mapped")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    netns.own()
    groups = {size: int(count) for size, count in (word.split(":") for word in arguments.sizes.split(","))}
    lanes = arguments.lanes.split(",")
    lines = []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="om-bench-")))
        urls = {}
        for size, count in groups.items():
            urls[size] = folder / ("urls-" + size)
            urls[size].write_text("".join("/o/%s/c%d\n" % (size, i) for i in range(count)))
        everything = folder / "urls"
        everything.write_text("".join(path.read_text() for path in urls.values()))
        subprocess.run([machine.BUILD / "bin" / "objm-origin", "--write", folder / "files", "--urls", everything], check=True)
        source = stack.enter_context(origin.Origin())
        bodies = sum(parse(size) * count for size, count in groups.items())
        field = [stack.enter_context(Bare(folder / "files"))]
        for name in lanes:
            lane = Lane(name, base.Setup(source, GIB // 8, bodies * 5 // 4 + GIB // 8))
            lane.unix = lane.folder / "http"
            field.append(stack.enter_context(lane))
            machine.wait_for(lambda: machine.load(lane, urls[min(groups, key=parse)], requests=1)["requests"] == 1,
                             what="an answer of " + name)
        for size, count in groups.items():
            for contestant in field:
                for _ in range(2):
                    got = machine.load(contestant, urls[size], requests=count, in_order=True, verify=True)
                if got["errors"] or got["compared"] != count or got["hits"] != count:
                    sys.exit("%s: %s: not all hits, or not the right bytes: %s" % (size, contestant.name, got))
            samples = {contestant.name: [] for contestant in field}
            for number in range(arguments.rounds):
                turn = number % len(field)
                for contestant in field[turn:] + field[:turn]:
                    for cache in contestant.cache_folders():
                        page_cache.make_cold(cache)
                        if (left := page_cache.resident_share(cache) or 0) > 0.02:
                            sys.exit("%s: %.0f %% of the bodies could not be made cold" % (contestant.name, 100 * left))
                    got = machine.load(contestant, urls[size], requests=count, in_order=True,
                                       connections=arguments.connections)
                    if got["errors"] or got["hits"] != count:
                        sys.exit("%s: %s: not all hits: %s" % (size, contestant.name, got))
                    samples[contestant.name].append({
                        "gb_per_s": got["body_bytes"] / got["seconds"] / 1e9,
                        "first_byte_ms": got["first_byte_us"]["p50"] / 1e3,
                        "server": got["server_cpu"] / got["body_bytes"] * 1e9})
            line = {"size": size, "samples": samples}
            print("%s, %d at once" % (size, arguments.connections))
            for name, series in samples.items():
                middle = {what: stats.median_interval([s[what] for s in series])[0] for what in series[0]}
                print("    %-6s %.2f GB/s, first byte after %.2f ms, server %.3f CPU s/GB" % (
                    name, middle["gb_per_s"], middle["first_byte_ms"], middle["server"]))
            for name in lanes:
                pairs = list(zip(samples[name], samples["bare"]))
                fast = stats.median_interval([a["gb_per_s"] / b["gb_per_s"] for a, b in pairs])
                soon = stats.median_interval([a["first_byte_ms"] / b["first_byte_ms"] for a, b in pairs])
                line[name] = {"throughput": fast, "first_byte": soon}
                print("    %s / bare: throughput %s %s, first byte %s %s" % (
                    name, stats.show(fast), stats.verdict(fast, at_least=THROUGHPUT_AT_LEAST),
                    stats.show(soon), stats.verdict(soon, at_most=FIRST_BYTE_AT_MOST)), flush=True)
            lines.append(line)
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
