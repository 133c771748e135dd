#!/usr/bin/env python3
"""Holds docs/varnish.md to its word: each cell of its matrix that says yes is a test that is registered, and each test has a
cell. The row names the conversation, the column the setting: feature_<column>_<row>."""

import json
import os
import re
import subprocess
import sys


def cells(text):
    """Names of the tests that the table with the column `row` promises."""
    columns = None
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        words = [word.strip().strip("`") for word in line.strip().strip("|").split("|")]
        if columns is None:
            columns = words
        elif "conversation" in columns and not re.fullmatch(r"[-:| ]+", line.strip()):
            row = dict(zip(columns, words))
            for column in columns[2:]:
                if row[column] == "yes":
                    yield "feature_%s_%s" % (column, row["conversation"])


def main():
    with open(os.path.join(os.environ["OM_SOURCE_DIR"], "docs", "varnish.md"), encoding="utf-8") as page:
        promised = list(cells(page.read()))
    listed = json.loads(subprocess.run(["ctest", "--test-dir", os.environ["OM_BUILD_DIR"], "--show-only=json-v1"],
                                       capture_output=True, text=True, check=True).stdout)
    tests = {test["name"] for test in listed["tests"] if test["name"].startswith("feature_")}
    if len(promised) != len(set(promised)) or not promised:
        sys.exit("docs/varnish.md: no matrix, or a row twice")
    for name in sorted(set(promised) - tests):
        print("docs/varnish.md promises %s, which is no test" % name)
    for name in sorted(tests - set(promised)):
        print("docs/varnish.md has no cell for %s" % name)
    sys.exit(set(promised) != tests)


if __name__ == "__main__":
    main()
