"""A ban that the daemon has dated and is writing to its log: nobody has been told of it, and the board still answers."""

import os
import tempfile
import threading
import unittest

from protocol import client as om
from removals.caches import BUILD, WAIT_S, Machine
from support.daemon import wait_until


class WhileWritten(unittest.TestCase):
    def test_what_is_read_from_the_board_meanwhile_is_not_kept(self):
        with tempfile.TemporaryDirectory(prefix="om-hang-") as directory:
            hang = os.path.join(directory, "hang")
            env = {"LD_PRELOAD": os.path.join(os.path.abspath(BUILD), "test", "hang_log.so"), "OM_TEST_HANG": hang}
            with Machine(2, trusted=True, env=env) as machine:
                self.overtaken(machine, hang)

    def overtaken(self, machine, hang):
        a, b = machine.caches
        url = "/written"
        with om.Connection(machine.daemon.socket, seconds=WAIT_S) as connection:
            # What a finds without a message lies in memory that the connection at hand knows.
            known = [f"/known/{number}" for number in range(8)]
            for count, shared in enumerate([*known, url], 1):
                self.assertEqual(b.get(shared), 0)
                wait_until(lambda n=count: len(connection.list(b"cdn://test")["entries"]) == n, "shared", WAIT_S)
                if shared != url:
                    self.assertEqual(a.get(shared), 0)
            self.assertEqual(a.counters("OBJMD").get("c_hit", 0), len(known))
            machine.origin.change(url)
            with open(hang, "w", encoding="ascii"):
                pass
            ban = connection.send(om.REMOVE, connection.remove_body(om.BAN, b'req.url ~ "^/written"', wait_ms=20000))
            wait_until(lambda: os.path.exists(hang + ".reached"), "it is being written", WAIT_S)
            answers = {}

            def ask():
                answers["status"], answers["body"], _ = a.request("GET", url, {"X-Device": "d", "X-Pause": "yes"})
            asking = threading.Thread(target=ask)
            asking.start()
            try:
                wait_until(lambda: a.counters("OBJMD").get("c_hit", 0) > len(known), "found on the board", WAIT_S)
                os.unlink(hang)
                self.assertEqual(connection.reply(ban)["unapplied"], 0)
                self.assertTrue(asking.is_alive(), "the fetch was over before the ban")
            finally:
                asking.join(WAIT_S)
            # Whoever asked before may have it.
            self.assertEqual(answers["status"], 200)
            self.assertEqual(a.get(url), 1)
            self.assertEqual(b.get(url), 1)
            self.assertEqual(machine.origin.asked[url], 2)


if __name__ == "__main__":
    unittest.main()
