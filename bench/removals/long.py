#!/usr/bin/env python3
"""The long form of tests/removals/under_load.py: 10,000 purges, then a minute of bans, two varnishds under load.

    OM_BUILD_DIR=build/release bench/removals/long.py [--tries 10000] [--seconds 60]
"""

import argparse
import os
import subprocess
import sys

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(SOURCE, "tests", "removals", "under_load.py")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    environment = {"OM_SOURCE_DIR": SOURCE, "OM_BUILD_DIR": os.path.join(SOURCE, "build", "release"),
                   **os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    worst = 0
    both = ["tries", "--tries", str(options.tries)], ["bans", "--seconds", str(options.seconds)]
    for arguments in (*both, *([*one, "--trusted"] for one in both)):
        print("+", *arguments, flush=True)
        worst = max(worst, subprocess.run([sys.executable, SCRIPT, *arguments], env=environment,
                                          check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
