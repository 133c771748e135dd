"""The same ban again, while a lookup is between the two: it has begun before the newer one was made, and has not come to the
older one yet."""

import contextlib
import os
import re
import tempfile
import threading
import time
import unittest

from protocol import client as om
from removals.caches import BUILD, WAIT_S, Machine
from support.daemon import wait_until

URL = "/page"
BAN = f"req.url ~ ^{URL}$"
HELD = {"X-Device": "d", "X-Held": "here"}
LOOKUP_MAX_S = 10  # EqualBans::kLookupMax


@contextlib.contextmanager
def cache_that_hangs():
    """A machine with one cache, and the file that keeps a lookup with HELD in its next test of a ban while it is there."""
    with tempfile.TemporaryDirectory(prefix="om-equal-") as directory:
        os.chmod(directory, 0o777)  # varnishd's user may be another
        hang = os.path.join(directory, "hang")
        env = {"LD_PRELOAD": os.path.join(os.path.abspath(BUILD), "test", "hang_lookup.so"), "OM_TEST_HANG": hang,
               "OM_TEST_HANG_TEXT": HELD["X-Held"]}
        with Machine(1, cache_env={"a": env}) as machine:
            yield machine, machine.caches[0], hang


def counting(cache):
    """How often the ban is in the list and not done."""
    return len(re.findall(rf"^\S+\s+\d+\s+-\s+req\.url ~ \^{URL}\$", cache.admin("ban.list"), re.M))


class EqualBans(unittest.TestCase):
    def twice(self, ban):
        """`ban` removes what the cache has; again while a lookup is on its way."""
        with cache_that_hangs() as (machine, cache, hang):
            self.assertEqual(cache.get(URL), 0)
            current = machine.origin.change(URL)
            ban(cache)
            # The lookup begins with this one: it has something to test before it comes to the other.
            cache.admin("ban", "req.http.X-Held ~ ^elsewhere$")
            with open(hang, "w", encoding="ascii"):
                pass
            answers = []
            asking = threading.Thread(target=lambda: answers.append(cache.request("GET", URL, HELD)))
            asking.start()
            try:
                wait_until(lambda: os.path.exists(hang + ".reached"), "the lookup is on its way", WAIT_S)
                ban(cache)
            finally:
                os.unlink(hang)
                asking.join(WAIT_S)
            status, body, _ = answers[0]
            self.assertEqual((status, body.decode().splitlines()[0]), (200, f"{URL} {current}"))
            # It was tested, and found to be removed, by that lookup.
            wait_until(lambda: cache.counters("MAIN")["bans_obj_killed"] == 1, "one object was removed by a ban", WAIT_S)
            self.assertEqual(cache.get(URL), current)

    def test_of_the_command_line(self):
        self.twice(lambda cache: cache.admin("ban", BAN))

    def test_of_a_request_that_reaches_all_caches(self):
        self.twice(lambda cache: cache.remove("BAN", URL, {"X-Ban": BAN}))

    def test_they_do_not_stay(self):
        with Machine(1) as machine:
            cache = machine.caches[0]
            self.assertEqual(cache.get("/holds/the/list"), 0)
            # By when the clock is known to be steady.
            cache.admin("ban", "req.url ~ ^/first$")
            time.sleep(LOOKUP_MAX_S + 1)
            for _ in range(5):
                cache.admin("ban", BAN)
            # One may come twice: where the daemon's answer is late, it is asked again.
            self.assertGreaterEqual(counting(cache), 5)
            time.sleep(LOOKUP_MAX_S + 1)
            cache.admin("ban", BAN)
            self.assertLess(counting(cache), 5)

    def test_one_of_an_earlier_life_is_equal_to_one_of_now(self):
        with Machine(1) as machine:
            cache = machine.caches[0]
            self.assertEqual(cache.get("/holds/the/list"), 0)
            self.assertEqual(cache.get(URL), 0)
            current = machine.origin.change(URL)
            for _ in range(3):
                cache.admin("ban", BAN)
            # Lest one of them comes again in its next life, as one that it may not have.
            with om.Connection(machine.daemon.socket, seconds=WAIT_S) as connection:
                def is_known():
                    status = connection.status()
                    return status["removals.head"] >= 3 and status["removals.caches_behind"] == 0
                wait_until(is_known, "the daemon knows that it has them", WAIT_S)
            # The manager, too: its child has other addresses then, and so has what patterns are compiled to.
            cache.restart()
            cache.wait_current()
            self.assertEqual(counting(cache), 1)
            cache.admin("ban", BAN)
            time.sleep(LOOKUP_MAX_S + 1)
            before, applied = counting(cache), cache.counters()["c_applied"]
            cache.admin("ban", BAN)
            # It comes again where the daemon's answer was late.
            again = cache.counters()["c_applied"] - applied
            self.assertLessEqual(counting(cache), before + again)
            self.assertEqual(cache.get("/holds/the/list"), 0)
            self.assertEqual(cache.get(URL), current)


if __name__ == "__main__":
    unittest.main()
