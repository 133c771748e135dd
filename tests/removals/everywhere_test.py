"""What is removed in one varnishd is removed in the other: purge, ban, tag; whoever dies, hangs or comes back."""

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import threading
import time
import unittest

from protocol import client as om
from removals.caches import WAIT_S, Machine
from support.daemon import wait_until

# Removals that a cache applies one by one when it is back (vmod/removal_receiver.cc).
CAUGHT_UP_MAX = 2000


class Everywhere(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = Machine(2)
        cls.a, cls.b = cls.machine.caches

    @classmethod
    def tearDownClass(cls):
        cls.machine.end()

    def setUp(self):
        for cache in self.machine.caches:
            cache.wait_current()

    def fill(self, *urls):
        for url in urls:
            for cache in self.machine.caches:
                self.assertEqual(cache.get(url), self.machine.origin.versions[url])

    def change(self, *urls):
        for url in urls:
            self.machine.origin.change(url)
            for cache in self.machine.caches:  # still what it was: they are copies
                self.assertEqual(cache.get(url), self.machine.origin.versions[url] - 1)

    def are_new(self, *urls):
        for url in urls:
            for cache in self.machine.caches:
                self.assertEqual(cache.get(url), self.machine.origin.versions[url], cache.name)

    def test_purge(self):
        self.fill("/purge", "/purge2")
        self.assertEqual(self.b.get("/purge", device="another"), 0)
        self.change("/purge", "/purge2")
        self.a.remove("PURGE", "/purge")
        self.are_new("/purge")
        # There whatever went into vcl_hash; and nothing else.
        self.assertEqual(self.b.get("/purge", device="another"), 1)
        self.assertEqual(self.b.get("/purge2"), 0)

    def test_a_purge_is_about_all_urls_and_hosts_of_its_digest(self):
        asked, other = "/h/digest?a=1", "/h/digest?b=2"
        self.fill(asked)
        self.fill("/h/stays")
        for cache in self.machine.caches:
            self.assertEqual(cache.read(other), (asked, 0))
            self.assertEqual(cache.read(asked, host="www.test"), (asked, 0))
        self.assertEqual(self.b.read(other, device="another"), (other, 0))
        for url in (asked, other, "/h/stays"):
            self.machine.origin.change(url)
        self.assertGreater(self.b.counters("OBJM").get("g_objects", 0), 0)  # copies of its own
        self.a.remove("PURGE", asked)
        self.b.wait_current()
        for cache in self.machine.caches:
            self.assertEqual(cache.read(other), (other, 1), cache.name)
            self.assertEqual(cache.read(asked), (other, 1), cache.name)
            self.assertEqual(cache.read(asked, host="www.test"), (other, 1), cache.name)
            self.assertEqual(cache.get("/h/stays"), 0)
        # Another digest of another URL.
        self.assertEqual(self.b.read(other, device="another"), (other, 0))

    def test_a_purge_of_a_url_that_is_longer_than_a_key_is_about_its_digest(self):
        # There is no key with it: the digest has another URL, or VCL says what the key is.
        tail = "?" + "b" * 9 * 1024
        short, long, named = "/h/long", "/h/long" + tail, "/long" + tail
        self.fill(short)
        for cache in self.machine.caches:
            self.assertEqual(cache.read(named, key="named:long"), (named, 0))
        with om.Connection(self.machine.daemon.socket, seconds=WAIT_S) as connection:
            for prefix in (b"cdn://test/test/h/long#", b"named:long"):
                wait_until(lambda prefix=prefix: connection.list(prefix)["entries"], f"{prefix} is shared", WAIT_S)
        for url in (short, long, named):
            self.machine.origin.change(url)
        self.a.remove("PURGE", long)
        self.a.remove("PURGE", named)
        self.b.wait_current()
        for cache in self.machine.caches:
            self.assertEqual(cache.read(short), (short, 1), cache.name)
            self.assertEqual(cache.read(named, key="named:long"), (named, 1), cache.name)

    def test_what_was_purged_by_its_digest_is_so_in_the_next_life(self):
        self.fill("/h/life?a=1", "/life")
        for url in ("/h/life?a=1", "/h/life?b=2", "/life"):
            self.machine.origin.change(url)
        self.a.remove("PURGE", "/h/life?a=1")
        self.b.wait_current()
        self.b.restart()
        for cache in self.machine.caches:
            self.assertEqual(cache.read("/h/life?b=2"), ("/h/life?b=2", 1), cache.name)
        # What was not purged is there still.
        _, _, headers = self.b.request("GET", "/life", {"X-Device": "d"})
        self.assertNotEqual(headers["X-Hits"], "0")

    def test_a_fetch_of_another_url_of_a_purged_digest_leaves_nothing(self):
        for cache in self.machine.caches:
            with self.subTest(cache.name):
                self.overtake_by_digest(cache, f"/h/overtaken/{cache.name}")

    def overtake_by_digest(self, cache, path):
        """The cache fetches one URL, and a purges another one that it has not got."""
        origin = self.machine.origin
        url = path + "?b=2"
        answers = {}

        def ask(name, of):
            answers[name] = of.read(url)
        waiting = [threading.Thread(target=ask, args=("first", cache))]
        origin.hold()
        try:
            waiting[0].start()
            wait_until(lambda: origin.asked[url] == 1, "asked", WAIT_S)
            origin.change(url)
            self.a.remove("PURGE", path + "?a=1")
            self.b.wait_current()
            for late in self.machine.caches:
                waiting.append(threading.Thread(target=ask, args=(late.name, late)))
                waiting[-1].start()
        finally:
            origin.let_go()
            for one in waiting:
                one.join(WAIT_S)
        for late in self.machine.caches:
            self.assertEqual(answers[late.name], (url, 1), late.name)
            self.assertEqual(late.read(url), (url, 1), late.name)
            self.assertEqual(late.read(path + "?a=1"), (url, 1), late.name)

    def test_a_purge_without_a_digest_is_about_host_and_url(self):
        # As that of `objm purge --key`, and of whoever else has no digest to name; or a tag that is none.
        url = "/h/by-key?a=1"
        with om.Connection(self.machine.daemon.socket, seconds=WAIT_S) as connection:
            for tag in (b"", b"varnish-digest:00", b"nobody has it"):
                version = self.machine.origin.versions[url]
                for cache in self.machine.caches:
                    self.assertEqual(cache.read(url), (url, version), (cache.name, tag))
                self.machine.origin.change(url)
                connection.remove(om.PURGE, b"cdn://test/test" + url.encode(), tag=tag, wait_ms=20_000)
                for cache in self.machine.caches:
                    self.assertEqual(cache.read(url), (url, version + 1), (cache.name, tag))

    def test_ban(self):
        self.fill("/ban/1", "/ban/2", "/stays")
        self.change("/ban/1", "/ban/2", "/stays")
        self.b.remove("BAN", "/ban/")
        self.are_new("/ban/1", "/ban/2")
        self.assertEqual(self.a.get("/stays"), 0)

    def test_a_ban_that_does_not_parse_goes_nowhere(self):
        head = self.a.counters()["c_recorded"]
        for ban in ("req.url", "req.nothing == 1", "req.url ~ *", "req.url ~ a || b"):
            status, body, _ = self.a.request("BAN", "/", {"X-Ban": ban})
            self.assertEqual(status, 503, body)
        self.assertEqual(self.a.counters()["c_recorded"], head)

    def test_a_ban_of_the_command_line(self):
        self.fill("/cli")
        self.change("/cli")
        self.a.admin("ban", "req.url", "~", "^/cli")
        self.assertEqual(self.a.get("/cli"), 1)
        wait_until(lambda: self.b.get("/cli") == 1, "the ban has reached b", WAIT_S)

    def test_tags(self):
        self.fill("/t1/a", "/t1/b", "/t2")
        self.change("/t1/a", "/t1/b", "/t2")
        self.a.remove("TAG", "/", {"X-Tag": "t1"})
        self.are_new("/t1/a", "/t1/b")
        self.assertEqual(self.b.get("/t2"), 0)

    def test_a_soft_tag_leaves_grace(self):
        self.fill("/t3")
        self.change("/t3")
        self.a.remove("SOFTTAG", "/", {"X-Tag": "t3"})
        for cache in self.machine.caches:
            # The stale one once more, while it is fetched anew.
            self.assertIn(cache.get("/t3"), (0, 1))
            wait_until(lambda c=cache: c.get("/t3") == 1, "it is fetched anew", WAIT_S)

    def test_a_fetch_that_a_removal_overtakes_leaves_nothing(self):
        # Of their own (devices are keys of their own); and one that is fetched once and followed. The answer is
        # under way, or its variant is still to be learned from it.
        for url, devices, asked in (("/overtaken", ("d", "e"), 2), ("/followed", ("d", "d"), 1),
                                    ("/vary/overtaken", ("d", "e"), 2), ("/vary/followed", ("d", "d"), 1)):
            for method, what, headers in (("PURGE", url, {}), ("TAG", "/", {"X-Tag": "all"}), ("BAN", url, {})):
                path = f"{url}/{method}"
                with self.subTest(path):
                    self.overtake(path, devices, asked, method, path if method == "PURGE" else what, headers)

    def overtake(self, url, devices, asked, method, what, headers):
        origin = self.machine.origin
        lookups = sum(cache.counters("OBJMD").get("c_lookup", 0) for cache in self.machine.caches)
        origin.hold()
        answers = {}

        def ask(name, cache, device):
            answers[name] = cache.get(url, device)
        waiting = [threading.Thread(target=ask, args=(cache.name, cache, device))
                   for cache, device in zip(self.machine.caches, devices)]
        try:
            for one in waiting:
                one.start()
            # They have asked the origin, or wait for who has.
            wait_until(lambda: origin.asked[url] == asked and sum(
                cache.counters("OBJMD").get("c_lookup", 0) for cache in self.machine.caches) == lookups + 2,
                       "asked", WAIT_S)
            origin.change(url)
            self.a.remove(method, what, headers)
            for cache in self.machine.caches:
                cache.wait_current()
            # Who asks now has the new one, though the old one is still on its way.
            late = threading.Thread(target=ask, args=("late", self.b, devices[0] + "2"))
            waiting.append(late)
            late.start()
            wait_until(lambda: origin.asked[url] > asked, "asked anew", WAIT_S)
        finally:
            origin.let_go()
            for one in waiting:
                one.join(WAIT_S)
        self.assertEqual(answers["late"], 1)
        for cache in self.machine.caches:
            for device in (*devices, devices[0] + "2"):
                self.assertEqual(cache.get(url, device), 1, (cache.name, device))

    def test_a_fetch_that_lands_while_a_purge_is_recorded_leaves_nothing(self):
        for round_ in range(5):
            self.lands(f"/lands/{round_}", 0.01 + 0.03 * round_)

    def lands(self, url, after):
        """The old version arrives in Varnish so long after a purge was asked for, which waits for a cache that hangs."""
        origin = self.machine.origin
        child = self.b.hang()
        origin.hold()
        ask = threading.Thread(target=self.a.get, args=(url,))
        purge = threading.Thread(target=self.a.remove, args=("PURGE", url))
        try:
            ask.start()
            wait_until(lambda: origin.asked[url] == 1, "asked", WAIT_S)
            origin.change(url)
            purge.start()
            time.sleep(after)
            origin.let_go()
            purge.join(WAIT_S)
            self.assertEqual(self.a.get(url), 1)
        finally:
            origin.let_go()
            os.kill(child, signal.SIGCONT)
            ask.join(WAIT_S)
        self.b.wait_current()
        self.assertEqual(self.b.get(url), 1)

    def test_what_is_removed_while_a_cache_ends_is_applied_by_its_next_life(self):
        urls = [f"/ends/{number}" for number in range(40)]
        self.fill(*urls)
        self.change(*urls)
        stop = threading.Thread(target=self.b.admin, args=("stop",))
        for number, url in enumerate(urls):
            if number == 10:
                stop.start()
            self.a.remove("PURGE" if number % 2 == 0 else "BAN", url if number % 2 == 0 else url + "$")
        stop.join(WAIT_S)
        self.b.admin("start")
        wait_until(self.b.serves, "b serves", WAIT_S)
        self.b.wait_current()
        self.are_new(*urls)

    def test_who_asks_after_a_removal_does_not_follow_what_began_before_it(self):
        origin = self.machine.origin
        for method, headers in (("PURGE", {}), ("TAG", {"X-Tag": "all"}), ("BAN", {})):
            for prefix in ("/late", "/vary/late"):
                url = f"{prefix}/{method}"
                with self.subTest(url):
                    origin.hold()
                    answers = {}

                    def ask(cache, url=url, answers=answers):
                        answers[cache.name] = cache.get(url)
                    old = threading.Thread(target=ask, args=(self.a,))
                    new = threading.Thread(target=ask, args=(self.b,))
                    try:
                        old.start()
                        wait_until(lambda url=url: origin.asked[url] == 1, "asked", WAIT_S)
                        origin.change(url)
                        self.a.remove(method, "/" if method == "TAG" else url, headers)
                        self.b.wait_current()
                        lookups = self.b.counters("OBJMD").get("c_lookup", 0)
                        new.start()
                        wait_until(lambda lookups=lookups: self.b.counters("OBJMD").get("c_lookup", 0) > lookups,
                                   "looked up", WAIT_S)
                        origin.let_go(bodies=False)
                        wait_until(lambda url=url: origin.asked[url] == 2, "asked anew", WAIT_S)
                    finally:
                        origin.let_go()
                        old.join(WAIT_S)
                        new.join(WAIT_S)
                    self.assertEqual(answers["b"], 1)
                    for cache in self.machine.caches:
                        self.assertEqual(cache.get(url), 1, cache.name)

    def test_echoes_are_not_applied(self):
        before = [c.counters() for c in self.machine.caches]
        for _ in range(5):
            self.a.remove("BAN", "/echo")
        for cache in self.machine.caches:
            cache.wait_current()
        now = [c.counters() for c in self.machine.caches]
        # One that was not answered in time counts as somebody else's, if it was recorded after all.
        late = now[0]["c_failed"] - before[0]["c_failed"]
        self.assertLessEqual(now[0]["c_applied"] - before[0]["c_applied"], late)
        self.assertIn(now[1]["c_applied"] - before[1]["c_applied"], range(5, 6 + late))

    def test_a_cache_that_hangs_is_not_waited_for_and_catches_up(self):
        self.fill("/hang")
        self.change("/hang")
        child = self.b.hang()
        try:
            begin = time.monotonic()
            self.a.remove("PURGE", "/hang")
            self.assertLess(time.monotonic() - begin, WAIT_S)
            self.assertEqual(self.a.get("/hang"), 1)
            self.assertGreaterEqual(self.a.counters()["c_unapplied"], 1)
        finally:
            os.kill(child, signal.SIGCONT)
        self.b.wait_current()
        self.are_new("/hang")

    def test_a_cache_that_was_down_applies_what_it_missed_before_it_serves(self):
        self.fill("/down/1", "/down/2", "/down/3", "/h/down?a=1")
        for url in ("/down/1", "/down/2", "/h/down?b=2"):
            self.machine.origin.change(url)

        def meanwhile():
            self.a.remove("PURGE", "/down/1")
            self.a.remove("BAN", "/down/2")
            self.a.remove("PURGE", "/h/down?a=1")
        self.b.restart(meanwhile)
        self.are_new("/down/1", "/down/2", "/down/3")
        self.assertEqual(self.b.read("/h/down?b=2"), ("/h/down?b=2", 1))
        _, _, headers = self.b.request("GET", "/down/3", {"X-Device": "d"})
        self.assertNotEqual(headers["X-Hits"], "0")  # what was not removed is still there


class Followers(unittest.TestCase):
    def test_who_takes_over_from_a_writer_that_died_does_not_publish_what_was_removed_before(self):
        with Machine(2, timeout="2s") as machine:
            for method, url, headers in (("PURGE", "/same/taken-over", {}),
                                         ("TAG", "/t1/same/taken-over", {"X-Tag": "t1"})):
                with self.subTest(method):
                    self.take_over(machine, method, url, headers)

    def take_over(self, machine, method, url, headers):
        """b fetches, a follows; then it is removed, and b dies. a asks for the body by itself, and has headers of before."""
        a, b = machine.caches
        origin = machine.origin
        before = a.counters("OBJMD")
        answers = []
        waiting = []

        def begin(what):
            waiting.append(threading.Thread(target=what))
            waiting[-1].start()

        def lose():
            with contextlib.suppress(OSError, http.client.HTTPException):
                b.get(url)

        def meanwhile():
            wait_until(lambda: origin.asked[url] == 2, "a asks the origin", WAIT_S)
            origin.let_go()
            for one in waiting:
                one.join(WAIT_S)
        origin.hold()
        try:
            begin(lose)
            wait_until(lambda: origin.asked[url] == 1, "b asks the origin", WAIT_S)
            origin.let_go(bodies=False)
            begin(lambda: answers.append(a.get(url)))
            wait_until(lambda: a.counters("OBJMD")["c_follow"] > before["c_follow"], "a follows", WAIT_S)
            origin.change(url)
            a.remove(method, url, headers)
            b.restart(meanwhile)
        finally:
            origin.let_go()
            for one in waiting:
                one.join(WAIT_S)
        self.assertEqual(answers, [1])
        now = a.counters("OBJMD")
        for counter in ("c_follow_changed", "c_tee_behind"):
            self.assertEqual(now[counter], before[counter] + 1, counter)
        for cache in (b, a):
            cache.wait_current()
            _, _, said = cache.request("GET", url, {"X-Device": "d"})
            self.assertEqual(said["X-Version"], "1", cache.name)


class Daemons(unittest.TestCase):
    def test_down_or_hung_is_a_503_that_says_so_and_bounded(self):
        with Machine(2) as machine:
            a, b = machine.caches
            for cache in machine.caches:
                cache.get("/t1")
            machine.origin.change("/t1")
            requests = (("PURGE", "/t1", {}), ("BAN", "/t1", {}), ("TAG", "/", {"X-Tag": "t1"}))
            daemon = machine.daemon
            for how in ("down", "hung"):
                with self.subTest(how):
                    if how == "down":
                        daemon.kill()
                    else:
                        os.kill(daemon.pid, signal.SIGSTOP)
                    for method, url, headers in requests:
                        begin = time.monotonic()
                        status, body, _ = a.request(method, url, {"X-Device": "d", **headers})
                        self.assertEqual(status, 503, (method, body))
                        self.assertIn(b"objmapperd cannot record it for all caches", body)
                        self.assertLess(time.monotonic() - begin, 5)
                        log = b"".join(line for line in a_log(a) if b"cannot record it" in line)
                        self.assertIn(b"objmapperd cannot record it for all caches", log)
                    # A ban of the command line is made, and travels later.
                    a.admin("ban", "req.url", "==", f"/never-{how}")
                    if how == "down":
                        daemon.start()
                        machine.let_in()
                    else:
                        os.kill(daemon.pid, signal.SIGCONT)
                    for cache in machine.caches:
                        cache.wait_current()
                    wait_until(lambda: f"/never-{how}" in b.admin("ban.list"), "the ban is there too", WAIT_S)
            a.remove("PURGE", "/t1")
            self.assertEqual(b.get("/t1"), 1)

    def test_a_ban_that_varnishd_did_not_live_to_send_is_sent_by_its_next_life(self):
        with Machine(2) as machine:
            a, b = machine.caches
            for url in ("/unsent", "/sent", "/other"):
                for cache in machine.caches:
                    cache.get(url)
            a.admin("ban", "req.url", "==", "/sent")
            wait_until(lambda: b.counters()["c_applied"] >= 1, "b has got it", WAIT_S)
            wait_until(lambda: a.counters()["g_unsent"] == 0, "and that is known", WAIT_S)
            recorded = b.counters()["c_applied"]
            machine.daemon.kill()
            a.admin("ban", "req.url", "==", "/unsent")
            machine.origin.change("/unsent")

            def meanwhile():
                machine.daemon.start()
                machine.let_in()
                b.wait_current()
                self.assertEqual(b.get("/unsent"), 0)
            a.restart(meanwhile)
            wait_until(lambda: b.get("/unsent") == 1, "the ban has come", WAIT_S)
            self.assertEqual(a.get("/unsent"), 1)
            # That one alone: what was sent before is not sent again.
            self.assertEqual(b.counters()["c_applied"], recorded + 1)
            _, _, headers = b.request("GET", "/other", {"X-Device": "d"})
            self.assertNotEqual(headers["X-Hits"], "0")
            a.wait_current()
            wait_until(lambda: a.counters()["g_unsent"] == 0, "all is sent", WAIT_S)
            a.restart()
            a.wait_current()
            self.assertEqual(a.counters()["c_recorded"], 0)

    def test_a_fetch_under_way_is_not_kept_by_a_cache_that_does_not_know_what_it_missed(self):
        with Machine(2) as machine:
            for lost in (False, True):
                for method, url, headers in (("PURGE", f"/under/way/{lost}", {}),
                                             ("TAG", f"/t1/under/way/{lost}", {"X-Tag": "t1"}),
                                             ("BAN", f"/under/ban/{lost}", {})):
                    with self.subTest(method, lost=lost):
                        self.starts_over(machine, method, url, headers, lost)

    def starts_over(self, machine, method, url, headers, lost):
        """a's fetch begins before a removal and ends after it. a is not told of that: the log is another one (lost), or it
        missed too many."""
        a, b = machine.caches
        before = a.counters()["c_dropped_all"]
        machine.origin.hold()
        ask = threading.Thread(target=a.get, args=(url,))
        ask.start()
        try:
            wait_until(lambda: machine.origin.asked[url] == 1, "asked", WAIT_S)
            child = a.hang()
            try:
                machine.daemon.kill()
                if lost:
                    shutil.rmtree(machine.daemon.state_dir)
                machine.daemon.start()
                machine.let_in()
                b.wait_current()
                machine.origin.change(url)
                b.remove(method, url, headers)
                if not lost:
                    with om.Connection(machine.daemon.socket, seconds=WAIT_S) as connection:
                        for _ in range(CAUGHT_UP_MAX):
                            connection.remove(om.TAG, b"nobody has it")
            finally:
                os.kill(child, signal.SIGCONT)
            wait_until(lambda: a.counters().get("c_dropped_all", 0) > before, "a starts over", WAIT_S)
            a.wait_current()
        finally:
            machine.origin.let_go()
            ask.join(WAIT_S)
        b.wait_current()
        for cache in machine.caches:
            self.assertEqual(cache.get(url), 1, (cache.name, method))

    def test_a_removal_is_known_after_the_daemon_was_killed_right_after_the_answer(self):
        with Machine(2, disk="64M") as machine:
            a, b = machine.caches
            for round_ in range(3):
                url = f"/kill{round_}"
                for cache in machine.caches:
                    cache.get(url)
                machine.origin.change(url)
                child = b.hang()  # so that the log is all that b can have it from
                try:
                    a.remove("PURGE", url)
                    machine.daemon.kill()
                finally:
                    os.kill(child, signal.SIGCONT)
                machine.daemon.start()
                machine.let_in()
                for cache in machine.caches:
                    cache.wait_current()
                self.assertEqual(b.get(url), 1)

    def test_a_cache_that_was_down_while_the_log_was_lost_drops_what_it_has_and_does_so_once(self):
        with Machine(2) as machine:
            a, b = machine.caches
            for cache in machine.caches:
                self.assertEqual(cache.get("/lost"), 0)
            removals = os.path.join(machine.daemon.state_dir, "removals")

            def meanwhile():
                machine.origin.change("/lost")
                a.remove("PURGE", "/lost")
                machine.daemon.kill()
                shutil.rmtree(removals)
                machine.daemon.start()
                machine.let_in()
            b.restart(meanwhile)
            self.assertGreaterEqual(b.counters("OBJM")["c_adopted"], 1)
            b.wait_current()
            self.assertEqual(b.get("/lost"), 1)
            self.assertEqual(b.counters()["c_dropped_all"], 1)

            def told():
                try:
                    with open(os.path.join(removals, "applied"), "rb") as file:
                        known = file.read().splitlines()[1:-1]
                except FileNotFoundError:
                    return False
                return len(known) == 2 and all(line.startswith(b"1 ") for line in known)
            wait_until(told, "both have told the daemon that they have dropped everything", WAIT_S)
            b.restart()
            b.wait_current()
            self.assertEqual(b.counters()["c_dropped_all"], 0)
            self.assertEqual(b.get("/lost"), 1)
            _, _, headers = b.request("GET", "/lost", {"X-Device": "d"})
            self.assertNotEqual(headers["X-Hits"], "0")

    def test_a_cache_that_missed_too_many_while_it_was_down_drops_what_it_has_and_catches_up(self):
        # More than the daemon sends before a cache has acknowledged some, which this one does when it serves.
        with Machine(2) as machine:
            a, b = machine.caches
            for cache in machine.caches:
                self.assertEqual(cache.get("/many"), 0)

            def meanwhile():
                machine.origin.change("/many")
                a.remove("PURGE", "/many")
                with om.Connection(machine.daemon.socket, seconds=WAIT_S) as connection:
                    for _ in range(CAUGHT_UP_MAX):
                        connection.remove(om.TAG, b"nobody has it")
            b.restart(meanwhile)
            b.wait_current()
            self.assertEqual(b.counters()["c_dropped_all"], 1)
            self.assertEqual(b.get("/many"), 1)

    @unittest.skipUnless(os.getuid() == 0, "varnishd has the daemon's own rights")
    def test_a_cache_that_may_not_remove_says_so_once(self):
        with Machine(1) as machine:
            cache, = machine.caches

            def begin_again(*extra):
                machine.daemon.kill()
                machine.daemon.extra = list(extra)
                machine.daemon.start()
                machine.let_in()

            begin_again("--write-gid", "root")
            cache.admin("ban", "req.url", "==", "/refused")
            for words in (b"takes no bans of this cache: denied", b"does not let this cache join: denied"):
                wait_until(lambda words=words: said(cache, words) > 0, f"it says {words}", WAIT_S)
            failed = cache.counters()["c_failed"]
            wait_until(lambda: cache.counters()["c_failed"] >= failed + 4, "it goes on asking", WAIT_S)
            for words in (b"takes no bans of this cache", b"does not let this cache join"):
                self.assertEqual(said(cache, words), 1, words)
            begin_again()
            wait_until(lambda: said(cache, b"the daemon takes bans again") == 1, "the ban is sent", WAIT_S)
            wait_until(lambda: cache.counters()["g_unsent"] == 0, "all is sent", WAIT_S)
            cache.wait_current()


def said(cache, words):
    """How often the VMOD has said that."""
    done = subprocess.run(["varnishlog", "-d", "-g", "raw", "-n", cache.directory, "-i", "Error"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=WAIT_S)
    return done.stdout.count(words)


def a_log(cache):
    done = subprocess.run(["varnishlog", "-d", "-g", "request", "-n", cache.directory, "-i", "VCL_Error"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=WAIT_S)
    return done.stdout.splitlines()


if __name__ == "__main__":
    unittest.main()
