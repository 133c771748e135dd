"""objm while the daemon is killed and started again."""

import json
import os
import subprocess
import unittest

from cli.objm import ABSENT, DONE, UNREACHABLE, objm
from support.daemon import OBJM, Daemon, wait_until


class Killed(unittest.TestCase):
    def test_what_was_published_is_there_again(self):
        with Daemon(memory="64M", disk="128M") as daemon:
            bodies = {f"k{i}": os.urandom(1 << (i * 2)) for i in range(11)}
            for key, body in bodies.items():
                self.assertEqual(objm(daemon.socket, "put", key, stdin=body).code, DONE)
            self.assertEqual(objm(daemon.socket, "delete", "k0").code, DONE)
            daemon.kill()
            self.assertEqual(objm(daemon.socket, "get", "k1").code, UNREACHABLE)
            daemon.start()
            self.assertEqual(objm(daemon.socket, "get", "k0").code, ABSENT)
            for key, body in bodies.items():
                if key != "k0":
                    answer = objm(daemon.socket, "get", key)
                    self.assertEqual((answer.code, answer.out), (DONE, body), (key, answer.err))

    def test_a_put_that_is_under_way_leaves_nothing(self):
        with Daemon(memory="64M") as daemon:
            process = subprocess.Popen([OBJM, "--socket", daemon.socket, "put", "half"],
                                       stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
            process.stdin.write(b"x" * (1 << 20))
            # It has been let in as soon as the daemon knows of a reservation.
            wait_until(lambda: json.loads(objm(daemon.socket, "status", "--json").text)
                       ["requests.reserve_total"] > 0, "a reservation")
            daemon.kill()
            try:
                for _ in range(8):
                    process.stdin.write(b"x" * (1 << 20))
            except BrokenPipeError:
                pass  # it has noticed
            process.stdin.close()
            self.assertEqual(process.wait(30), UNREACHABLE, process.stderr.read())
            process.stderr.close()
            daemon.start()
            self.assertEqual(objm(daemon.socket, "get", "half").code, ABSENT)

    def test_a_reader_is_served_to_the_end(self):
        body = os.urandom(32 << 20)
        with Daemon(memory="128M") as daemon:
            self.assertEqual(objm(daemon.socket, "put", "long", stdin=body).code, DONE)
            process = subprocess.Popen([OBJM, "--socket", daemon.socket, "get", "long"],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            first = process.stdout.read(1 << 20)  # it has its lease; the pipe is full now
            daemon.kill()
            rest = process.stdout.read()
            self.assertEqual(process.wait(30), DONE, process.stderr.read())
            process.stdout.close()
            process.stderr.close()
            self.assertEqual(first + rest, body)


if __name__ == "__main__":
    unittest.main()
