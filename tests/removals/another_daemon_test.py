"""A cache that has not noticed yet that its daemon has gone, as far as removals go, and is told of objects by the next one."""

import os
import tempfile
import unittest

from protocol import client as om
from removals.caches import BUILD, WAIT_S, Machine
from support.daemon import wait_until
from support.reachable import reachable


class AnotherDaemon(unittest.TestCase):
    def test_nothing_of_it_is_used_and_nothing_is_published_before_its_removals_come(self):
        with tempfile.TemporaryDirectory(prefix="om-hang-") as directory:
            os.chmod(directory, 0o777)  # varnishd's child is another user
            hang = os.path.join(directory, "hang")
            env = {"LD_PRELOAD": reachable(os.path.join(os.path.abspath(BUILD), "test", "hang_receiver.so")),
                   "OM_TEST_HANG": hang}
            with Machine(2, cache_env={"a": env}, timeout="2s") as machine:
                try:
                    self.is_behind(machine, hang)
                finally:
                    if os.path.exists(hang):
                        os.unlink(hang)

    def is_behind(self, machine, hang):
        a, b = machine.caches
        with open(hang, "w", encoding="ascii"):
            pass
        wait_until(lambda: os.path.exists(hang + ".reached"), "a's receiver hangs", WAIT_S)
        connects = {cache: cache.counters("OBJMD")["c_connects"] for cache in machine.caches}
        machine.daemon.kill()
        machine.daemon.start()
        machine.let_in()
        for cache, before in connects.items():  # two of each director
            wait_until(lambda c=cache, n=before: c.counters("OBJMD")["c_connects"] >= n + 2,
                       f"the director of {cache.name} is with the new daemon", WAIT_S)
        # As far as a knows, it is with a daemon that has recorded nothing which it has not applied.
        self.assertEqual(a.counters()["g_current"], 1)
        with om.Connection(machine.daemon.socket, seconds=WAIT_S) as connection:
            wait_until(lambda: connection.status()["removals.caches"] == 1, "b has joined", WAIT_S)
            b.wait_current()

            def shared():
                return {entry["key"].partition(b"#")[0] for entry in connection.list(b"cdn://test")["entries"]}
            self.assertEqual(b.get("/used"), 0)
            wait_until(lambda: b"cdn://test/test/used" in shared(), "it is shared", WAIT_S)
            machine.origin.change("/used")
            b.remove("BAN", "/used")
            before = a.counters("OBJMD")
            self.assertEqual(a.get("/used"), 1)
            self.assertEqual(a.counters("OBJMD")["c_miss_behind"], before["c_miss_behind"] + 1)
            self.assertEqual(a.get("/published"), 0)
            self.assertEqual(a.counters("OBJMD")["c_tee_behind"], before["c_tee_behind"] + 1)
            self.assertNotIn(b"cdn://test/test/published", shared())
            # And then it goes on with that one.
            os.unlink(hang)
            wait_until(lambda: connection.status()["removals.caches"] == 2, "a has joined", WAIT_S)
            a.wait_current()
            self.assertEqual(a.get("/used"), 1)
            self.assertEqual(a.get("/then"), 0)
            wait_until(lambda: b"cdn://test/test/then" in shared(), "it is shared", WAIT_S)
            self.assertEqual(a.counters()["c_applied"], 1)


if __name__ == "__main__":
    unittest.main()
