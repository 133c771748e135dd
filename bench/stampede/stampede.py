#!/usr/bin/env python3
"""The long form of tests/director/stampede_test.py: 200 clients at two cold varnishds for 50 keys of 1 MiB.

    OM_BUILD_DIR=build/release bench/stampede/stampede.py [--rounds 20] [any argument of the test]

Each round once for each delay of the origin (0, 50 and 500 ms): exactly 50 requests may reach it. Then once with the
varnishd killed that is fetching: no client of the other one may fail.
"""

import os
import sys

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(SOURCE, "tests"), os.path.join(SOURCE, "tests", "director")]
import stampede_test  # noqa: E402

if __name__ == "__main__":
    sys.argv[1:1] = ["--rounds", "20", "--clients", "200", "--keys", "50"]
    sys.exit(stampede_test.main())
