"""DELETE of objects on disk, while the disk does not answer: whoever asked for it waits, nobody else."""

import os
import select
import tempfile
import unittest

from protocol import client as om
from support.daemon import BUILD, Daemon, wait_until


class Delete(unittest.TestCase):
    def test_others_go_on_while_a_sync_hangs(self):
        with tempfile.TemporaryDirectory(prefix="om-hang-") as directory:
            hang = os.path.join(directory, "hang")
            preload = {"LD_PRELOAD": os.path.join(BUILD, "test", "hang_sync.so"),
                       "OM_TEST_HANG": hang}
            with Daemon(memory="64M", disk="64M", env=preload) as daemon, \
                    om.Connection(daemon.socket) as asker, om.Connection(daemon.socket) as other:
                for key in ("there", "gone/1", "gone/2"):
                    asker.put(key, key.encode() * 1000, flags=om.DISK)
                wait_until(lambda: other.status()["catalog.overlay_entries"] == 0, "a group sync")
                with open(hang, "w", encoding="ascii"):
                    pass
                first = asker.send(om.DELETE, om.u8(om.BY_KEY) + om.text("gone/1"))
                second = asker.send(om.DELETE, om.u8(om.BY_PREFIX) + om.text("gone/"))
                for _ in range(300):
                    self.assertEqual(other.fetch("there"), b"there" * 1000)
                wait_until(lambda: os.path.exists(hang + ".reached"), "a sync hangs")
                for n in range(300):
                    self.assertEqual(other.fetch("there"), b"there" * 1000)
                    other.put(f"new/{n}", b"n")
                # It is gone for all, and nobody is told before no power loss can bring it back.
                self.assertIsNone(other.fetch("gone/1"))
                self.assertIsNone(asker.fetch("gone/2"))
                self.assertEqual(select.select([asker.socket], [], [], 0)[0], [])
                self.assertNotIn(first, asker.other)
                os.unlink(hang)
                self.assertEqual(asker.reply(first)["removed"], 1)
                self.assertEqual(asker.reply(second)["removed"], 1)


if __name__ == "__main__":
    unittest.main()
