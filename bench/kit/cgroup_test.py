import pathlib
import tempfile
import unittest

from kit import cgroup


class Group(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        self.addCleanup(self.folder.cleanup)

    def mounts(self, text):
        path = self.root / "mounts"
        path.write_text(text)
        return path

    def test_v1_is_found_by_its_controller_and_before_v2(self):
        found = cgroup.find(self.mounts("tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /a/cpu cgroup rw,cpu 0 0\n"
                                        "cgroup2 %s cgroup2 rw 0 0\ncgroup /a/memory cgroup rw,memory 0 0\n" % self.root))
        self.assertEqual(found, (1, pathlib.Path("/a/memory")))

    def test_v2_counts_only_with_the_memory_controller(self):
        text = "cgroup2 %s cgroup2 rw 0 0\n" % self.root
        (self.root / "cgroup.controllers").write_text("cpu io\n")
        self.assertIsNone(cgroup.find(self.mounts(text)))
        (self.root / "cgroup.controllers").write_text("cpu io memory\n")
        self.assertEqual(cgroup.find(self.mounts(text)), (2, self.root))

    def test_v2_hands_the_controller_down_and_sets_the_limit(self):
        (self.root / "cgroup.subtree_control").write_text("")
        with cgroup.MemoryGroup("x", 1 << 20, (2, self.root)) as group:
            self.assertEqual((self.root / "cgroup.subtree_control").read_text(), "+memory")
            self.assertEqual((group.path / "memory.max").read_text(), "1048576")
            self.assertIsNone(group.peak())  # before Linux 5.19
            (group.path / "memory.peak").write_text("4096\n")
            (group.path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
            self.assertEqual((group.peak(), group.kills()), (4096, 2))
            for path in group.path.iterdir():
                path.unlink()
        self.assertFalse(group.path.exists())

    def test_v1_names(self):
        with cgroup.MemoryGroup("x", 1 << 20, (1, self.root)) as group:
            self.assertEqual((group.path / "memory.limit_in_bytes").read_text(), "1048576")
            (group.path / "memory.max_usage_in_bytes").write_text("8192\n")
            (group.path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
            self.assertEqual((group.peak(), group.kills()), (8192, 1))
            for path in group.path.iterdir():
                path.unlink()


if __name__ == "__main__":
    unittest.main()
