#!/usr/bin/env python3
"""The tree speaks of objmapper alone: no paths of one machine, no package hosts, no word about who
wrote it how. Whoever clones it elsewhere has no use for them.

    tools/check_neutral.py [ROOT]
"""
import pathlib
import re
import subprocess
import sys

# What must not stand in a tracked file, and why. This file and its test are the only exceptions.
PATTERNS = [
    (r"(?<![\w.~-])/work/(main|shared|notes|vsrc|\.\w+)", "a path of one machine"),
    (r"/tmp/bash_jobs|/home/\w+/", "a path of one machine"),
    (r"\b(pypi\.org|registry\.npmjs\.org|crates\.io|proxy\.golang\.org|deb\.debian\.org)\b", "a package host"),
    (r"\b(artifactory|nexus)\b", "a package host"),
    (r"(?i)\b(claude|anthropic|openai|chatgpt|copilot|llm|language model|sub-?agents?)\b", "who wrote it"),
    (r"(?i)\b(my|our|the|your) (colleagues?|brief)\b|\bissues show\b", "how the work was organised"),
    (r"\b(DESIGN|STYLE|COMMON|VARNISH-FACTS|PERF-FACTS)\.md\b", "a document that is not in the tree"),
]
EXCEPT = {"tools/check_neutral.py", "tests/tools/test_check_neutral.py"}


def check_text(text):
    """Yields (line number, what was found, why it is wrong)."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, why in PATTERNS:
            found = re.search(pattern, line)
            if found:
                yield number, found.group(0), why


def check(root):
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=True)
    problems = []
    for name in listed.stdout.split("\0"):
        path = root / name
        if not name or name in EXCEPT or not path.is_file():
            continue
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, found, why in check_text(data.decode(errors="replace")):
            problems.append(f"{name}:{number}: {found}: {why}")
    return problems


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    problems = check(root)
    print("\n".join(problems) if problems else "neutral: the tree speaks of objmapper alone")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
