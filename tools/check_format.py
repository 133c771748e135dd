#!/usr/bin/env python3
"""Says which files clang-format-14 would change; with --fix, changes them.

    tools/check_format.py [--fix] [ROOT]
"""
import os
import pathlib
import subprocess
import sys

CLANG_FORMAT = os.environ.get("CLANG_FORMAT", "clang-format-14")


def sources(root):
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "*.h", "*.cc", "*.c"], capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name and (root / name).exists()]


def check(root, fix=False):
    """Returns the names of the files that are (or were) not formatted."""
    wrong = []
    files = sources(root)
    # One process for many files: starting it costs more than formatting.
    for begin in range(0, len(files), 40):
        chunk = files[begin : begin + 40]
        done = subprocess.run(
            [CLANG_FORMAT, "--dry-run", "--ferror-limit=1", *chunk], cwd=root, capture_output=True, text=True
        )
        named = {line.split(":", 1)[0] for line in done.stderr.splitlines() if "clang-format" in line}
        wrong += [name for name in chunk if name in named]
    if fix and wrong:
        subprocess.run([CLANG_FORMAT, "-i", *wrong], cwd=root, check=True)
    return wrong


def main():
    arguments = [a for a in sys.argv[1:] if a != "--fix"]
    fix = "--fix" in sys.argv
    root = pathlib.Path(arguments[0] if arguments else pathlib.Path(__file__).parent.parent)
    wrong = check(root, fix)
    for name in wrong:
        print(f"{name}: {'formatted' if fix else 'not formatted (make format)'}")
    if not wrong:
        print("format: nothing to change")
    return 1 if wrong and not fix else 0


if __name__ == "__main__":
    sys.exit(main())
