"""The daemon is killed with -9 at random instants under load and started again; at the end every key
is compared with what the clients were told.

    kill_test.py [--rounds N] [--seed S] [--clients N]      (bench/crash runs 200 rounds)

Acknowledged and there, whole: at least 99 %, the others listed. Never: a body that is not the
key's newest, something that was not committed, something that had been removed.
"""

import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
import time
import unittest

from crash import load
from protocol import client as om
from support.daemon import Daemon

OPTIONS = argparse.Namespace(rounds=0, seconds=12.0, seed=None, clients=5)


def start_and_kill(daemon, seconds):
    """Killed in the midst of its start."""
    with open(daemon.log_path, "ab") as log:
        process = subprocess.Popen(daemon.arguments(), stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log)
    time.sleep(seconds)
    process.kill()
    process.wait()


def listed(connection):
    keys, after = set(), b""
    while True:
        page = connection.list(b"", after, 500)
        keys |= {entry["key"] for entry in page["entries"]}
        if not page["more"]:
            return keys
        after = page["entries"][-1]["key"]


class Killed(unittest.TestCase):
    def run_load(self, memory, disk, uncounted=0.0, **load_options):
        seed = OPTIONS.seed if OPTIONS.seed is not None else random.randrange(1 << 30)
        rng = random.Random(seed)
        deadline = time.monotonic() + OPTIONS.seconds
        rounds = 0
        seen = collections.Counter()  # what the daemons counted before they were killed
        with tempfile.TemporaryDirectory(prefix="om-crash-") as results, \
                Daemon(memory=memory, disk=disk) as daemon:
            stop = load.Stop()
            clients = [load.Client(i, daemon.socket, stop, seed, **load_options)
                       for i in range(OPTIONS.clients)]
            pids = [load.fork(client.run, os.path.join(results, str(client.number)))
                    for client in clients]
            while rounds < OPTIONS.rounds if OPTIONS.rounds else time.monotonic() < deadline:
                time.sleep(rng.choice((rng.uniform(0, 0.1), rng.uniform(0.1, 2.5))))
                with om.Connection(daemon.socket) as connection:
                    status = connection.status()
                for name in ("evicted.memory", "evicted.disk", "demoted", "compacted"):
                    seen[name] += status[name]
                self.assertTrue(daemon.alive(), daemon.log()[-2000:])
                daemon.kill()
                for _ in range(rng.choice((0, 0, 0, 1, 2))):
                    start_and_kill(daemon, rng.uniform(0, 0.12))
                daemon.start()
                rounds += 1
            stop.ask()
            codes = [os.waitpid(pid, 0)[1] for pid in pids]
            stop.close()
            self.assertEqual(codes, [0] * len(codes), "a client fell")
            daemon.kill()
            daemon.start()
            told = []
            for client in clients:
                told.append(load.load_result(os.path.join(results, str(client.number))))
            with om.Connection(daemon.socket) as connection:
                self.compare(connection, told, seed, rounds, seen, uncounted)

    def compare(self, connection, told, seed, rounds, seen, uncounted):
        evicted = seen["evicted.memory"] + seen["evicted.disk"]
        names = listed(connection)
        wrong = [words for one in told for words in one["wrong"]]
        lost = [entry for one in told for entry in one["lost"]]
        must = there = 0
        for one in told:
            for key, may in one["may"].items():
                asked = time.time_ns()
                body = connection.fetch(key)
                expired = any(one["expires"].get(v, 1 << 63) <= time.time_ns() for v in may)
                must += 0 not in may and not expired
                if body is None:
                    if 0 not in may and not expired:
                        lost.append((key, max(may)))
                    continue
                there += 0 not in may and not expired
                problem = load.check(key, body, may, one["expires"], asked)
                if isinstance(problem, str):
                    wrong.append(problem)
                if key not in names:
                    wrong.append(f"{key}: there, and not listed")
            for key in names & {key for key, may in one["may"].items() if may == {0}}:
                wrong.append(f"{key}: removed, and listed")
        entries = [entry for one in told for entry in one["shared"]]
        for number in range(load.SHARED):
            key = b"shared/k%d" % number
            problem = load.judge_shared(key, connection.fetch(key), entries)
            if problem:
                wrong.append(problem)
        total = {name: sum(one[name] for one in told)
                 for name in ("operations", "acknowledged", "refused", "breaks")}
        print(f"seed {seed}: {rounds} kills, {total['operations']} operations, "
              f"{total['acknowledged']} puts acknowledged, {total['refused']} refused; at the end "
              f"{must} objects must be there, {there} are; {len(lost)} lost in all, "
              f"{evicted} evicted, {seen['demoted']} demoted, {seen['compacted']} compacted, "
              f"{len(wrong)} wrong", file=sys.stderr)
        for key, version in lost[:20]:
            print(f"  lost: {key} version {version}, "
                  f"{load.size_of(key, version)} bytes", file=sys.stderr)
        self.assertEqual(wrong, [], f"seed {seed}")
        self.assertLessEqual(len(lost), evicted + uncounted * rounds,
                             f"seed {seed}: lost, and nobody evicted them")
        self.assertLessEqual(len(lost) * 100, total["acknowledged"])
        self.assertGreaterEqual(there * 100, must * 99)
        self.assertGreater(total["acknowledged"], 20 * rounds)

    def test_memory_and_disk(self):
        self.run_load(memory="160M", disk="600M")

    def test_demotion(self):
        """Memory is small: objects are moved to disk while the daemon is killed. Where that is too
        slow, some are evicted, and of those between the last look and the kill we do not know."""
        self.run_load(memory="8M", disk="600M", uncounted=0.2, disk_flag=False, ephemeral=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=OPTIONS.seconds)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--clients", type=int, default=OPTIONS.clients)
    OPTIONS, rest = parser.parse_known_args(namespace=OPTIONS)
    unittest.main(argv=sys.argv[:1] + rest)
