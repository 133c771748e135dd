"""A ban that the daemon has dated and is writing to its log: nobody has been told of it, and the board still answers."""

import contextlib
import os
import tempfile
import threading
import time
import unittest

from protocol import client as om
from removals.caches import BUILD, WAIT_S, Machine
from support.daemon import wait_until


@contextlib.contextmanager
def machine_that_hangs(**more):
    """A machine, and the file that keeps its daemon from coming back from a write to its log while it is there."""
    with tempfile.TemporaryDirectory(prefix="om-hang-") as directory:
        hang = os.path.join(directory, "hang")
        env = {"LD_PRELOAD": os.path.join(os.path.abspath(BUILD), "test", "hang_log.so"), "OM_TEST_HANG": hang}
        with Machine(2, trusted=True, env=env, **more) as machine:
            yield machine, hang


class WhileWritten(unittest.TestCase):
    def share(self, machine, connection, url):
        """b publishes it. What a finds without a message lies in memory that the connection at hand knows."""
        a, b = machine.caches
        known = [f"/known/{number}" for number in range(8)]
        for count, shared in enumerate([*known, url], 1):
            self.assertEqual(b.get(shared), 0)
            wait_until(lambda n=count: len(connection.list(b"cdn://test")["entries"]) == n, "shared", WAIT_S)
            if shared != url:
                self.assertEqual(a.get(shared), 0)
        self.assertEqual(a.counters("OBJMD").get("c_hit", 0), len(known))
        return len(known)

    @staticmethod
    def ban(connection, hang, what):
        """Asks for it; it is answered when that file is gone."""
        with open(hang, "w", encoding="ascii"):
            pass
        ban = connection.send(om.REMOVE, connection.remove_body(om.BAN, what, wait_ms=20000))
        wait_until(lambda: os.path.exists(hang + ".reached"), "it is being written", WAIT_S)
        return ban

    def test_what_is_read_from_the_board_meanwhile_is_not_kept(self):
        with machine_that_hangs() as (machine, hang):
            self.overtaken(machine, hang)

    def overtaken(self, machine, hang):
        a, b = machine.caches
        url = "/written"
        with om.Connection(machine.daemon.socket, seconds=WAIT_S) as connection:
            known = self.share(machine, connection, url)
            machine.origin.change(url)
            ban = self.ban(connection, hang, b'req.url ~ "^/written"')
            answers = {}

            def ask():
                answers["status"], answers["body"], _ = a.request("GET", url, {"X-Device": "d", "X-Pause": "yes"})
            asking = threading.Thread(target=ask)
            asking.start()
            try:
                wait_until(lambda: a.counters("OBJMD").get("c_hit", 0) > known, "found on the board", WAIT_S)
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

    def test_what_has_expired_and_is_read_from_the_board_meanwhile_is_not_revalidated(self):
        # After the board a asks for the right to publish, by a message: it has to wait for the answer.
        with machine_that_hangs(timeout="20s") as (machine, hang):
            self.not_revalidated(machine, hang)

    def not_revalidated(self, machine, hang):
        a, b = machine.caches
        url = "/brief/same/written"
        with om.Connection(machine.daemon.socket, seconds=WAIT_S) as connection:
            self.share(machine, connection, url)
            expired = time.time() + 1  # since it was there before
            machine.origin.change(url)
            wait_until(lambda: time.time() > expired, "it has expired", WAIT_S)
            reserved = connection.status()["requests.reserve_total"]
            before = a.counters("OBJMD")
            ban = self.ban(connection, hang, b'req.url ~ "^/brief/same/written"')
            answers = []
            asking = threading.Thread(target=lambda: answers.append(a.get(url)))
            asking.start()
            try:
                wait_until(lambda: a.counters("OBJMD").get("c_lookup", 0) > before.get("c_lookup", 0), "looked up", WAIT_S)
                os.unlink(hang)
                self.assertEqual(connection.reply(ban)["unapplied"], 0)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(hang)
                asking.join(WAIT_S)
            # It was found on the board: what was asked of the daemon was the right to replace it, and nothing else.
            self.assertEqual(connection.status()["requests.reserve_total"], reserved + 1)
            self.assertEqual(a.counters("OBJMD").get("c_miss_expired", 0), before.get("c_miss_expired", 0) + 1)
            # The origin would have said that it is still good.
            self.assertEqual(machine.origin.revalidated[url], 0)
            self.assertEqual(answers, [1])
            self.assertEqual(a.get(url), 1)
            self.assertEqual(b.get(url), 1)


if __name__ == "__main__":
    unittest.main()
