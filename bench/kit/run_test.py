"""bench/run with real servers and tiny numbers: it ends, has figures, and says what it could not do."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

BENCH = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCH))
from kit import netns  # noqa: E402


def run(*options):
    done = subprocess.run([sys.executable, str(BENCH / "run"), *options], capture_output=True, text=True, timeout=280)
    if done.returncode != 0:
        sys.exit("bench/run ended with %d\n%s%s" % (done.returncode, done.stdout, done.stderr))
    return done


def main():
    if not os.path.exists("/usr/sbin/varnishd"):
        sys.exit("varnishd is not installed: script/bootstrap")
    tiny = ("--try", "--rounds", "1", "--seconds", "0.1", "--contestants", "varnish-malloc,mapped,nginx-cache-disk")
    with tempfile.TemporaryDirectory() as folder:
        run(*tiny, "--only", "clients", "--out", folder)
        run(*tiny, "--only", "ranges", "--out", folder)  # extends what is there
        data = json.loads((pathlib.Path(folder) / "results.json").read_text())
        report = (pathlib.Path(folder) / "report.md").read_text()
        may = subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0
        if may and data["machine"]["tcp"] != netns.TCP:
            sys.exit("not in a network namespace of its own: %s" % data["machine"]["tcp"])
        for work in ("clients", "ranges"):
            if data["works"][work]["failures"]:
                sys.exit("%s: %s" % (work, data["works"][work]["failures"]))
        case = data["works"]["ranges"]["cases"]["64K of 10M"]
        for name in ("varnish-malloc", "mapped", "nginx-cache-disk"):
            if not case[name]["cpu_us"][0] > 0:
                sys.exit("%s has no figure: %s" % (name, case))
        for text in ("## Ranges", "## Hits by wrk and h2load", "bodies compared before and after, origin asked for none"):
            if text not in report:
                sys.exit("the report has no %r" % text)
        for plot in ("clients.svg", "ranges.svg"):
            if not (pathlib.Path(folder) / plot).exists():
                sys.exit("no " + plot)


if __name__ == "__main__":
    main()
