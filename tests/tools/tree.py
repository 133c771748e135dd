"""A small tree in a folder of its own, for the tests of the checks."""
import importlib.util
import os
import pathlib
import subprocess
import tempfile
import unittest


def load(name):
    """The check as a module: tools/ is no package."""
    path = pathlib.Path(os.environ.get("OM_SOURCE_DIR", pathlib.Path(__file__).parents[2])) / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TreeTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def track(self):
        subprocess.run(["git", "-C", self.root, "init", "-q"], check=True)
        subprocess.run(["git", "-C", self.root, "add", "-A"], check=True)
