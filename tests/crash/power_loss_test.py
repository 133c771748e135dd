"""The power goes: catalog and disk tier lie on an ext4 that is cut off from one moment to the next
(EXT4_IOC_SHUTDOWN without flushing its log), and the machine comes up with another boot id.

What a group sync had covered is back, whole; what had been removed or replaced, and answered, is
not; nothing else than what was committed is seen.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import unittest

from crash import load, mounts
from protocol import client as om
from support.daemon import Daemon, wait_until

OPTIONS = argparse.Namespace(rounds=4, seed=None)


class Machine:
    """The daemon on file systems that can lose their power: one for both, or one for each."""

    def __init__(self, separate):
        self.boot = mounts.BootId()
        self.systems = [mounts.FileSystem(300)]
        if separate:
            self.systems.append(mounts.FileSystem(100))
        self.directory = tempfile.mkdtemp(prefix="om-test-")
        self.daemon = Daemon(memory="48M", disk=[self.systems[0].path + "/tier:200M"],
                             state_dir=self.systems[-1].path + "/state", directory=self.directory)

    def power_loss(self, rng):
        systems = list(self.systems)
        rng.shuffle(systems)
        for system in systems:
            system.cut()

    def reboot(self):
        """The memory tier is left as it was: the daemon must not believe it."""
        self.daemon.kill()
        for system in self.systems:
            system.unmount()
            system.mount()
        self.boot.another()
        self.daemon.start()

    def group_syncs(self, more, at_least=0):
        with om.Connection(self.daemon.socket) as connection:
            base = max(connection.status()["catalog.group_syncs"], at_least)

            def done():
                connection.put(b"tick", b"something to sync")
                return connection.status()["catalog.group_syncs"] >= base + more
            wait_until(done, "group syncs", 20)

    def close(self):
        self.daemon.close()
        shutil.rmtree(self.daemon.memory_dir, ignore_errors=True)
        for system in self.systems:
            system.close()
        self.boot.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class PowerLoss(unittest.TestCase):
    def setUp(self):
        self.seed = OPTIONS.seed if OPTIONS.seed is not None else random.randrange(1 << 30)
        self.rng = random.Random(self.seed)

    def machine(self, separate):
        machine = Machine(separate)
        self.addCleanup(machine.close)
        return machine

    def put_some(self, connection, prefix, count):
        """Objects that go straight to disk, small ones and large ones."""
        bodies = {}
        for i in range(count):
            key = b"%s/k%d" % (prefix, i)
            bodies[key] = load.make_body(key, i + 1, self.rng.choice((100, 3000, 70_000, 400_000)))
            connection.put(key, bodies[key], flags=om.DISK | self.rng.choice((0, om.DIRECT)))
        return bodies

    def assert_there(self, bodies):
        with om.Connection(self.machine_.daemon.socket) as connection:
            lost = [key for key, body in bodies.items() if connection.fetch(key) != body]
            names = [(key, "absent" if connection.fetch(key) is None else "wrong bytes")
                     for key in lost]
            self.assertEqual(names, [], f"seed {self.seed}")

    def test_under_load(self):
        durable, models = {}, {}
        back = 0
        self.machine_ = machine = self.machine(separate=True)
        for round_number in range(OPTIONS.rounds):
            with om.Connection(machine.daemon.socket) as connection:
                durable.update(self.put_some(connection, b"durable/%d" % round_number, 12))
                for key in self.rng.sample(sorted(durable), 3):
                    connection.delete(key)
                    durable.pop(key)
                    models[key] = {0}
            machine.group_syncs(2)
            told = self.load(machine, models)
            for one in told:
                models.update(one["may"])
            machine.reboot()
            self.assert_there(durable)
            back += self.compare(machine, told, models)
        print(f"seed {self.seed}: {OPTIONS.rounds} power losses, {len(durable)} objects that were "
              f"durable are back, and {back} of those under load", file=sys.stderr)

    def load(self, machine, models):
        """Clients at work, a kill or two, and then the power goes in the midst of it."""
        stop = load.Stop()
        with tempfile.TemporaryDirectory(prefix="om-crash-") as results:
            clients = [load.Client(i, machine.daemon.socket, stop, self.rng.randrange(1 << 20),
                                   keys=40, largest=500_000, ends_at_trouble=True)
                       for i in range(4)]
            for client in clients:
                client.version += self.rng.randrange(1 << 18) * 1000  # none comes twice
                client.may.update({key: models[key] for key in client.may if key in models})
            pids = [load.fork(client.run, os.path.join(results, str(client.number)))
                    for client in clients]
            time.sleep(self.rng.uniform(0.5, 2.0))
            if self.rng.random() < 0.5:
                machine.daemon.kill()
                machine.daemon.start()
                time.sleep(self.rng.uniform(0.0, 1.5))
            machine.power_loss(self.rng)
            stop.ask()
            codes = [os.waitpid(pid, 0)[1] for pid in pids]
            stop.close()
            self.assertEqual(codes, [0] * len(codes), "a client fell")
            told = []
            for client in clients:
                told.append(load.load_result(os.path.join(results, str(client.number))))
            self.assertEqual([words for one in told for words in one["wrong"]], [])
            return told

    def compare(self, machine, told, models):
        wrong, back = [], 0
        expires = {}
        for one in told:
            expires.update(one["expires"])
        with om.Connection(machine.daemon.socket) as connection:
            for key, may in list(models.items()):
                asked = time.time_ns()
                body = connection.fetch(key)
                if body is None:
                    models[key] = {0}
                    continue
                back += 1
                found = load.check(key, body, may, expires, asked, 500_000)
                if isinstance(found, str):
                    wrong.append(found)
                else:
                    models[key] = {found}
        self.assertEqual(wrong, [], f"seed {self.seed}")
        return back

    def test_killed_before_it(self):
        """What was put just before a kill, and only after it was covered by a group sync."""
        self.machine_ = machine = self.machine(separate=False)
        durable = {}
        for round_number in range(2):
            machine.group_syncs(1)  # so that the next one is a second away
            with om.Connection(machine.daemon.socket) as connection:
                durable.update(self.put_some(connection, b"killed/%d" % round_number, 40))
            machine.daemon.kill()
            machine.daemon.start()
            machine.group_syncs(1)
            machine.power_loss(self.rng)
            machine.reboot()
            self.assert_there(durable)


if __name__ == "__main__":
    mounts.in_own_namespace()
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=OPTIONS.rounds)
    parser.add_argument("--seed", type=int)
    OPTIONS, rest = parser.parse_known_args(namespace=OPTIONS)
    unittest.main(argv=sys.argv[:1] + rest)
