#!/usr/bin/env python3
"""Holds the layers apart: which folder may include which, and which may link which.

The table is the one of docs/ARCHITECTURE.md. Read it downwards: a folder uses only folders that
are named before it. Tests and benchmarks beside the code may also use the public interface.

    tools/check_layers.py [ROOT]
"""
import pathlib
import re
import sys

# folder: (where it lies, what it may use). "objmapper" is the installed interface.
LAYERS = {
    "base": ("src/base", ""),
    "posix": ("src/posix", "base"),
    "wire": ("src/wire", "base"),
    "loop": ("src/loop", "base posix"),
    "region": ("src/region", "base posix"),
    "store": ("src/store", "base posix region"),
    "client": ("src/client", "objmapper base posix wire"),
    "server": ("src/server", "base posix wire loop store region"),
    "cli": ("src/cli", "objmapper base posix"),
    "objmapper": ("include/objmapper", ""),
    "vmod": ("vmod", "objmapper base posix region abi"),
    "examples": ("examples", "objmapper base posix"),
    "bench": ("bench", "objmapper base posix"),
    # Depth on one connection is measured on the wire: the library's calls wait.
    "get": ("bench/get", "objmapper base posix wire"),
    # The load generator and its origin.
    "load": ("bench/load", "base posix"),
    # The bare server of files has that origin's server frame.
    "cold": ("bench/cold", "base posix load"),
    # Replays a trace against the eviction policies, without a daemon.
    "trace": ("bench/trace", "base posix store"),
}
# Every folder may speak of a Result.
FOR_ALL = {"objmapper/result.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"(([A-Za-z_0-9]+)/[^"]+)"', re.M)
LIBRARY = re.compile(r"\bom_library\(\s*om_(\w+)([^)]*)\)", re.S)
SOURCE_SUFFIXES = {".h", ".cc", ".c"}


def may_use(folder, path):
    allowed = {folder, *LAYERS[folder][1].split()}
    if re.search(r"_(test|bench)\.cc$", path.name):
        allowed.add("objmapper")
    return allowed


def check_file(root, folder, path):
    """Yields one line for each include that the table does not allow."""
    allowed = may_use(folder, path)
    for included, used in INCLUDE.findall(path.read_text(errors="replace")):
        if included in FOR_ALL or used in allowed:
            continue
        # Varnish's own headers are included with quotes, and only vmod/ sees them.
        if used not in LAYERS and folder == "vmod":
            continue
        yield f"{path.relative_to(root)}: {folder}/ may not include {used}/ ({included})"


def check_links(root, folder):
    """Yields one line for each library that CMake links against the table."""
    lists = root / LAYERS[folder][0] / "CMakeLists.txt"
    if not lists.exists():
        return
    for name, arguments in LIBRARY.findall(lists.read_text()):
        if name not in LAYERS:
            continue
        for used in re.findall(r"\bom_(\w+)", arguments.partition("USES")[2]):
            # om_client implements the interface: who uses that links it.
            layer = "objmapper" if used == "client" and name != "client" else used
            if layer in LAYERS and layer != name and layer not in LAYERS[name][1].split():
                yield f"{lists.relative_to(root)}: om_{name} may not link om_{used}"


def layer_of(root, path):
    """The layer whose place is the longest that the file lies in."""
    inside = [(len(place), folder) for folder, (place, _) in LAYERS.items() if path.is_relative_to(root / place)]
    return max(inside)[1]


def check(root):
    problems = []
    for folder, (place, _) in LAYERS.items():
        for path in sorted((root / place).rglob("*")):
            if path.suffix in SOURCE_SUFFIXES and layer_of(root, path) == folder:
                problems += check_file(root, folder, path)
        problems += check_links(root, folder)
    return problems


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    problems = check(root)
    print("\n".join(problems) if problems else "layers: every include is downwards")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
