"""The same hits by load generators that are not ours: wrk and h2load."""

import hashlib
import re
import shutil
import subprocess
import urllib.request

from kit import machine
from kit.bench import Wrong

TITLE = "Hits by wrk and h2load"
ABOUT = """A cross-check of our own load generator: wrk over TCP, h2load with HTTP/1.1 over a Unix socket, one object,
8 connections. They read bodies, which costs them more than it costs ours."""
SHOW = ("cpu_us", "per_s")
WHO = ("varnish-malloc", "mapped", "native", "nginx-static", "nginx-cache-tmpfs", "traffic-server")
PLANS = {
    "try": {"seconds": 30, "rounds": 2, "each": 1, "sizes": ("1K",), "who": WHO},
    "head": {"seconds": 45, "rounds": 5, "each": 1, "sizes": ("1K",), "who": ("varnish-malloc", "mapped", "native", "nginx-static")},
    "full": {"seconds": 200, "rounds": 5, "each": 1, "sizes": ("1K", "64K", "1M"), "who": WHO},
}


def wrk(contestant, path, seconds):
    done = subprocess.run(["wrk", "-t1", "-c8", "-d%ds" % seconds, "http://127.0.0.1:%d%s" % (contestant.port, path)],
                          capture_output=True, text=True)
    requests = re.search(r"(\d+) requests in", done.stdout)
    if not requests or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise Wrong("wrk: " + done.stdout[-300:] + done.stderr[-300:])
    return int(requests.group(1)), float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout).group(1))


def h2load(contestant, path, seconds):
    if not contestant.unix:
        return None
    done = subprocess.run(["h2load", "--h1", "-t1", "-c8", "-D", str(seconds), "--base-uri=unix:%s" % contestant.unix,
                           "http://bench.test" + path], capture_output=True, text=True)
    rate = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", done.stdout)
    counts = re.search(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed", done.stdout)
    if not rate or not counts or int(counts.group(2)) or not int(counts.group(1)):
        raise Wrong("h2load: " + done.stdout[-400:] + done.stderr[-300:])
    return int(counts.group(1)), float(rate.group(1))


def digest(port, path):
    with urllib.request.urlopen("http://127.0.0.1:%d%s" % (port, path), timeout=60) as answer:
        return hashlib.sha256(answer.read()).hexdigest()


def run(bench, plan):
    files = bench.files(bench.urls("all", ["/o/%s/0" % size for size in plan["sizes"]]))
    with bench.field(plan["who"], memory=256 << 20, files=files) as field:
        for size in plan["sizes"]:
            path = "/o/%s/0" % size
            urls = bench.urls("urls", [path])

            def same_bytes(contestant):
                """By a client that knows nothing of how bodies are made."""
                wanted, got = digest(field.origin.port, path), digest(contestant.port, path)
                if got != wanted:
                    raise Wrong("sha256 of %s is %s, of the origin's %s" % (path, got, wanted))
                bench.results.proof(bench.work, size, contestant.name, "sha256 equal to the origin's")

            field.each(size, same_bytes)
            for name, client in (("wrk", wrk), ("h2load", h2load)):
                if shutil.which(name) is None:
                    bench.results.failure(bench.work, name, "-", "not installed: apt-get install wrk nghttp2-client")
                    continue
                case = "%s %s" % (name, size)
                afterwards = field.proven_hits(case, urls, 8)

                def once(contestant, number):
                    before = contestant.cpu()
                    got = client(contestant, path, plan["each"])
                    if got is None:
                        return None
                    return {"cpu_us": 1e6 * (contestant.cpu() - before) / got[0], "per_s": got[1]}

                field.rounds(case, plan["rounds"], once, afterwards)
