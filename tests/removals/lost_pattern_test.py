"""A ban of an earlier life whose regular expression does not compile any more: nobody knows what it matches."""

import os
import tempfile
import unittest

from removals.caches import BUILD, WAIT_S, Machine
from support.daemon import wait_until


class LostPattern(unittest.TestCase):
    def test_what_was_there_before_it_is_dropped_and_what_came_later_stays(self):
        with tempfile.TemporaryDirectory(prefix="om-lost-") as directory:
            os.chmod(directory, 0o755)  # varnishd's user may be another
            forget = os.path.join(directory, "forget")
            env = {"LD_PRELOAD": os.path.join(os.path.abspath(BUILD), "test", "forget_pattern.so"), "OM_TEST_FORGET": forget,
                   "OM_TEST_FORGET_TEXT": "forgotten"}
            with Machine(1, cache_env={"a": env}) as machine:
                self.lost(machine, machine.caches[0], forget)

    def lost(self, machine, cache, forget):
        self.assertEqual(cache.get("/before"), 0)
        machine.origin.change("/before")
        cache.admin("ban", "req.url ~ ^/forgotten$")
        self.assertEqual(cache.get("/after"), 0)
        wait_until(lambda: cache.counters()["g_unsent"] == 0, "the daemon has the ban", WAIT_S)

        def gone():
            with open(forget, "w", encoding="ascii"):
                pass
        cache.restart(gone)
        # Objects are attached before it serves; with an older ban that is lost, it is not one of them.
        kept = cache.counters("OBJM")
        self.assertEqual((kept["c_adopted"], kept["c_adopt_dropped"]), (1, 1))
        self.assertNotIn("forgotten", cache.admin("ban.list"))
        self.assertEqual(cache.request("GET", "/after", {"X-Device": "d"})[2]["X-Hits"], "1")
        self.assertEqual(cache.get("/before"), 1)
        self.assertEqual(machine.origin.asked["/after"], 1)


if __name__ == "__main__":
    unittest.main()
