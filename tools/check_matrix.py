#!/usr/bin/env python3
"""Holds tests/MATRIX.md to its word: every promise names tests, and every named test exists and runs.

A promise is a row of a table there; its last column names ctest tests in backticks:

    | what is promised | `lease_test` `vtc_m00003` |

A row without a name, a name that ctest does not know, a test that is disabled, and a test case
parked in the tree (DISABLED_ cases, *.vtc.disabled files) are errors.

    tools/check_matrix.py BUILD [MATRIX]
"""
import json
import pathlib
import re
import subprocess
import sys

NAME = re.compile(r"`([^`]+)`")


def rows(text):
    """(line number, cells) of every row of every table: no header, no ruler."""
    previous_is_table = False
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("|"):
            previous_is_table = False
            continue
        is_ruler = re.fullmatch(r"[|\s:-]+", line.strip()) is not None
        is_header = not previous_is_table
        previous_is_table = True
        if not is_ruler and not is_header:
            yield number, [cell.strip() for cell in line.strip().strip("|").split("|")]


def check(text, tests):
    """tests: name -> whether it is disabled. Returns the problems."""
    problems = []
    for number, cells in rows(text):
        names = NAME.findall(cells[-1])
        if not names:
            problems.append(f"line {number}: names no test: {cells[0]}")
        for name in names:
            if name not in tests:
                problems.append(f"line {number}: ctest knows no {name}")
            elif tests[name]:
                problems.append(f"line {number}: {name} is disabled")
    return problems


def tests_of(build):
    shown = subprocess.run(
        ["ctest", "--test-dir", str(build), "--show-only=json-v1"], capture_output=True, text=True, check=True
    )
    tests = {}
    for test in json.loads(shown.stdout)["tests"]:
        properties = {p["name"]: p["value"] for p in test.get("properties", [])}
        tests[test["name"]] = bool(properties.get("DISABLED", False))
    return tests


def parked(root):
    """Test cases that are in the tree and do not run."""
    problems = []
    for place in ("src", "vmod", "tests", "bench", "examples"):
        for path in sorted((root / place).rglob("*")):
            if path.name.endswith(".vtc.disabled"):
                problems.append(f"{path.relative_to(root)}: a parked test")
            if path.name.endswith("_test.cc") and re.search(
                r"TEST\w*\([^)]*\bDISABLED_", path.read_text(errors="replace")
            ):
                problems.append(f"{path.relative_to(root)}: a DISABLED_ test case")
    return problems


def main():
    if len(sys.argv) < 2:
        print(__doc__.strip().splitlines()[-1].strip(), file=sys.stderr)
        return 2
    root = pathlib.Path(__file__).parent.parent
    matrix = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else root / "tests/MATRIX.md")
    problems = parked(root) + check(matrix.read_text(), tests_of(sys.argv[1]))
    for problem in problems:
        print(f"{matrix.name}: {problem}")
    if not problems:
        print(f"matrix: {len(list(rows(matrix.read_text())))} promises, each with its tests")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
