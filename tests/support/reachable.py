"""varnishd reads VMODs and VCL as another user than root: files below a folder that is closed to
others (a clone in /root, say) are copied to where it gets."""

import atexit
import os
import shutil
import tempfile

_places = []


def reachable(path):
    """`path`, or that of a copy, for this process's life, that everybody can read."""
    folder = os.path.dirname(os.path.abspath(path))
    while os.stat(folder).st_mode & 0o001:
        if folder == "/":
            return path
        folder = os.path.dirname(folder)
    if not _places:
        _places.append(tempfile.mkdtemp(prefix="om-reachable-", dir="/tmp"))
        os.chmod(_places[0], 0o755)
        atexit.register(shutil.rmtree, _places[0], ignore_errors=True)
    copy = os.path.join(_places[0], os.path.basename(path))
    if not os.path.exists(copy):
        shutil.copy(path, copy)
        os.chmod(copy, 0o755)
    return copy
