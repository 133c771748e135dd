#!/usr/bin/env python3
"""Compiles each header alone: whoever includes it needs nothing before it.

The flags are those with which a source file of the same folder is compiled
(compile_commands.json). One that its own source file (x.cc of x.h, compiled by itself) includes
before anything else has been compiled alone by the build already. A header whose text and whose own headers have not changed since it
compiled is not compiled again; what is known is kept in BUILD/check_headers.json.

    tools/check_headers.py BUILD [ROOT]
"""
import concurrent.futures
import hashlib
import json
import pathlib
import re
import shlex
import subprocess
import sys

ANY_INCLUDE = re.compile(r'^\s*#\s*include\s+(\S+)', re.M)
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
# Flags that say how to read a file; the rest (outputs, warnings as errors, optimisation) is not ours.
KEEP = ("-I", "-D", "-std", "-isystem")


def flags_of(arguments):
    kept = []
    take_next = False
    for argument in arguments:
        if take_next or argument.startswith(KEEP):
            kept.append(argument)
        take_next = argument in ("-isystem", "-I")
    return kept


def flags_by_folder(build):
    """The flags of one source file for each folder and language."""
    flags = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        arguments = entry.get("arguments") or shlex.split(entry["command"])
        # A test's flags know more directories than its folder has a right to.
        if path.name.endswith(("_test.cc", "_fuzz.cc", "_bench.cc")):
            continue
        flags.setdefault((path.parent, "c" if path.suffix == ".c" else "c++"), flags_of(arguments))
    return flags


def flags_for(header, language, flags, root):
    folder = header.parent
    while folder != root.parent:
        if (folder, language) in flags:
            return flags[folder, language]
        folder = folder.parent
    std = "-std=c11" if language == "c" else "-std=c++20"
    return [std, "-D_GNU_SOURCE", f"-I{root}/src", f"-I{root}/include"]


def digest(header, root, seen=None):
    """A hash of the header and of every header of ours that it reaches."""
    seen = set() if seen is None else seen
    seen.add(header)
    state = hashlib.sha256(header.read_bytes())
    for name in INCLUDE.findall(header.read_text(errors="replace")):
        for folder in (header.parent, root / "src", root / "include", root):
            path = (folder / name).resolve()
            if path.is_file() and path not in seen:
                state.update(digest(path, root, seen).encode())
                break
    return state.hexdigest()


def compile_alone(job):
    header, language, flags, _ = job
    compiler = "gcc" if language == "c" else "g++"
    command = [compiler, *flags, "-fsyntax-only", "-w", "-x", language, "-include", str(header), "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode == 0, done.stderr


def comes_first(header, root, compiled):
    """Whether the build itself compiles the header with nothing before it. Not so in a unity build, whose
    compiler sees no source file of ours."""
    source = header.with_suffix(".cc")
    if source not in compiled or not source.exists():
        return False
    text = source.read_text(errors="replace")
    first = ANY_INCLUDE.search(text)
    if not first or "#" in text[:first.start()]:
        return False
    name = first.group(1).strip('"')
    return any(folder / name == header for folder in (header.parent, root / "src", root / "include", root))


def headers_of(root):
    for place in ("include", "src", "vmod", "bench", "examples"):
        yield from sorted((root / place).rglob("*.h"))


def check(build, root):
    """Returns the headers that do not compile, with what the compiler said, and how many there are."""
    cache_path = build / "check_headers.json"
    known = json.loads(cache_path.read_text()) if cache_path.exists() else {}
    flags = flags_by_folder(build)
    compiled = {pathlib.Path(entry["file"]) for entry in json.loads((build / "compile_commands.json").read_text())}
    jobs = []
    proven = 0
    for header in headers_of(root):
        # A header of the C interface has to be one for both.
        is_c = 'extern "C"' in header.read_text() and header.is_relative_to(root / "include")
        for language in ["c++", "c"] if is_c else ["c++"]:
            chosen = flags_for(header, language, flags, root)
            if language == "c++" and comes_first(header, root, compiled):
                proven += 1
                continue
            mark = hashlib.sha256((digest(header.resolve(), root) + " ".join(chosen)).encode()).hexdigest()
            jobs.append((header, language, chosen, mark))
    passed = {}
    failed = []
    todo = []
    for job in jobs:
        name = f"{job[0].relative_to(root)} ({job[1]})"
        if known.get(name) == job[3]:
            passed[name] = job[3]
        else:
            todo.append((name, job))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (name, job), (ok, said) in zip(todo, pool.map(compile_alone, [job for _, job in todo])):
            if ok:
                passed[name] = job[3]
                # At once: who is interrupted goes on from here.
                cache_path.write_text(json.dumps(passed, indent=1))
            else:
                failed.append((name, said))
    cache_path.write_text(json.dumps(passed, indent=1))
    return failed, len(jobs) + proven


def main():
    if len(sys.argv) < 2:
        print(__doc__.strip().splitlines()[-1].strip(), file=sys.stderr)
        return 2
    build = pathlib.Path(sys.argv[1]).resolve()
    root = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else pathlib.Path(__file__).parent.parent).resolve()
    failed, count = check(build, root)
    for name, said in failed:
        print(f"{name}: does not compile alone\n{said[:2000]}")
    print(f"headers: {count - len(failed)} of {count} compile alone")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
