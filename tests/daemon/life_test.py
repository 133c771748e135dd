"""Start, end, crash and start again."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from protocol import client as c
from protocol.client import Closed, Connection, Failure
from support.daemon import OBJMAPPERD, Daemon, wait_until


class Life(unittest.TestCase):
    def test_ends_on_sigterm_with_clients_connected(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with Daemon(memory="64M", disk="64M") as daemon:
                clients = [Connection(daemon.socket) for _ in range(20)]
                for n, client in enumerate(clients):
                    client.put(f"k/{n}", b"x" * 10_000)
                    client.get(f"k/{n}")
                    client.reserve(f"open/{n}", 1000)
                clients[0].socket.setblocking(False)
                try:
                    while True:
                        clients[0].send(c.LIST, c.text("") + c.text("") + c.u32(0) + c.u32(0))
                except BlockingIOError:
                    pass
                start = time.monotonic()
                daemon.signal(number)
                self.assertEqual(daemon.process.wait(10), 0, daemon.log())
                self.assertLess(time.monotonic() - start, 2.0)
                self.assertFalse(os.path.exists(daemon.socket))
                with self.assertRaises((Closed, OSError)):
                    clients[1].status()
                for client in clients:
                    client.close()

    def test_a_daemon_removes_no_socket_but_its_own(self):
        with Daemon(memory="64M") as first, Daemon(memory="64M", start=False) as second:
            os.unlink(first.socket)
            second.socket = first.socket
            second.start()
            self.assertEqual(first.stop(), 0)
            with Connection(second.socket) as client:
                client.status()
            self.assertEqual(second.stop(), 0)
            self.assertFalse(os.path.exists(second.socket))

    def test_everything_is_back_after_an_end_and_after_a_crash(self):
        with Daemon(memory="64M", disk="128M") as daemon:
            bodies = {}
            with Connection(daemon.socket) as client:
                for n in range(60):
                    for flags in (0, c.DISK):
                        key = f"k/{flags}/{n}".encode()
                        bodies[key] = os.urandom(n * 1900)
                        client.put(key, bodies[key], flags=flags, metadata=key, tags=["t"])
                client.put("gone", b"x")
                client.delete("gone")
                half = client.reserve("half", 10)
                client.write(half["extents"], b"0123456789")
            for end in (daemon.stop, daemon.kill, daemon.kill):
                end()
                daemon.start()
                with Connection(daemon.socket) as client:
                    for key, body in bodies.items():
                        self.assertEqual(client.fetch(key), body, key)
                        self.assertEqual(client.stat(key)["metadata"], key)
                    self.assertIsNone(client.fetch("gone"))
                    self.assertIsNone(client.fetch("half"))
                    self.assertEqual(len(client.list("k/", limit=1000)["entries"]), 120)

    def test_a_lease_held_across_a_restart_protects_the_bytes(self):
        for end in ("stop", "kill"):
            with Daemon(memory="32M") as daemon:
                reader = Connection(daemon.socket)
                body = os.urandom(1_000_000)
                reader.put("held", body)
                item = reader.get("held")[0]
                getattr(daemon, end)()
                daemon.start()
                with Connection(daemon.socket) as writer:
                    writer.delete("held")
                    # Several times the tier: whatever is free is written over.
                    for n in range(100):
                        writer.put(f"new/{n}", os.urandom(900_000))
                    self.assertEqual(reader.read(item), body)
                    self.assertGreaterEqual(writer.status()["held.bytes"], 1_000_000)
                    reader.close()
                    wait_until(lambda: writer.status()["held.bytes"] == 0,
                               "the bytes come back once the reader is gone")

    def test_the_epoch_changes(self):
        with Daemon(memory="64M") as daemon:
            with Connection(daemon.socket) as client:
                before = client.hello["daemon_epoch"]
            daemon.kill()
            daemon.start()
            with Connection(daemon.socket) as client:
                self.assertNotEqual(client.hello["daemon_epoch"], before)

    def test_sighup_reloads_the_groups_and_the_log_level(self):
        with tempfile.TemporaryDirectory() as directory:
            config = os.path.join(directory, "c.toml")
            with open(config, "w") as file:
                file.write('log-level = "info"\n')
            with Daemon(memory="64M", extra=["--config", config]) as daemon:
                with open(config, "w") as file:
                    file.write('log-level = "debug"\nread-gid = 7001\n')
                daemon.signal(signal.SIGHUP)
                wait_until(lambda: "reloaded log_level=debug" in daemon.log(), "the reload")
                self.assertNotIn("with the next start only", daemon.log())
                with open(config, "w") as file:
                    file.write('revoke-grace = 3\n')
                daemon.signal(signal.SIGHUP)
                wait_until(lambda: "with the next start only" in daemon.log(), "the warning")
                with open(config, "w") as file:
                    file.write('nonsense = 1\n')
                daemon.signal(signal.SIGHUP)
                wait_until(lambda: "reload refused" in daemon.log(), "the refusal")
                self.assertIn("c.toml:1: unknown key", daemon.log())
                os.remove(config)
                daemon.signal(signal.SIGHUP)
                wait_until(lambda: daemon.log().count("reload refused") == 2, "another refusal")
                with Connection(daemon.socket) as client:
                    client.status()

    def test_tells_systemd(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "notify")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.bind(path)
                notify.settimeout(10)
                with Daemon(memory="64M", env={"NOTIFY_SOCKET": path}) as daemon:
                    self.assertIn(b"READY=1", notify.recv(4096))
                    daemon.signal(signal.SIGHUP)
                    self.assertIn(b"RELOADING=1", notify.recv(4096))
                    self.assertIn(b"READY=1", notify.recv(4096))
                    daemon.signal(signal.SIGTERM)
                    self.assertIn(b"STOPPING=1", notify.recv(4096))
                    self.assertEqual(daemon.process.wait(10), 0)

    def test_lines_for_the_journal_have_their_priority_others_the_time(self):
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "log"), "w") as log:
                stream = os.fstat(log.fileno())
            name = f"{stream.st_dev}:{stream.st_ino}"
            with Daemon(memory="64M", directory=directory, env={"JOURNAL_STREAM": name}) as daemon:
                self.assertRegex(daemon.log(), "(?m)^<6>ready ")
        with Daemon(memory="64M", env={"JOURNAL_STREAM": "1:2"}) as daemon:
            self.assertRegex(daemon.log(), r"(?m)^\d{4}-\d\d-\d\dT[0-9:.+-]+ info ready ")

    def test_takes_the_socket_that_systemd_passes(self):
        with tempfile.TemporaryDirectory() as directory, \
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            path = os.path.join(directory, "passed.sock")
            listener.bind(path)
            listener.listen(16)

            def pass_socket():
                os.dup2(listener.fileno(), 3)
                os.environ["LISTEN_PID"] = str(os.getpid())
            # LISTEN_PID must be that of the daemon: a shell execs it with its own.
            command = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
            memory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
            process = subprocess.Popen(
                ["sh", "-c", command, "sh", OBJMAPPERD, "--memory", "64M", "--memory-dir", memory,
                 "--state-dir", os.path.join(directory, "state")], preexec_fn=pass_socket,
                pass_fds=[3] if listener.fileno() == 3 else [3, listener.fileno()],
                stderr=subprocess.PIPE)
            try:
                with Connection(path) as client:
                    client.put("k", b"x")
                    self.assertEqual(client.fetch("k"), b"x")
                process.terminate()
                self.assertEqual(process.wait(10), 0)
                self.assertTrue(os.path.exists(path), "the socket is systemd's")
            finally:
                process.kill()
                process.stderr.close()
                subprocess.run(["rm", "-rf", memory], check=True)

    def test_metrics(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "metrics")
            with Daemon(memory="64M", extra=["--metrics", path]) as daemon:
                with Connection(daemon.socket) as client:
                    client.put("k", b"x")
                    for _ in range(3):
                        text = self._scrape(path)
                self.assertIn("# TYPE objmapper_requests_commit_total counter", text)
                self.assertIn("objmapper_requests_commit_total 1\n", text)
                self.assertIn("# TYPE objmapper_memory_used_bytes gauge", text)
                self.assertIn('objmapper_daemon_version_info{value="', text)
                daemon.signal(signal.SIGTERM)
                self.assertEqual(daemon.process.wait(10), 0)
                self.assertFalse(os.path.exists(path))

    def test_metrics_connections_that_say_nothing(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "metrics")
            with Daemon(memory="64M", extra=["--metrics", path]) as daemon:
                before = daemon.sockets()
                silent = self._connect_many(path)
                self.assertLessEqual(daemon.sockets(), before + 24)
                for connection in silent:
                    connection.close()

                def scraped():
                    try:
                        return self._scrape(path)
                    except BlockingIOError:  # those that were closed are in the queue still
                        return None
                wait_until(scraped, "a scrape")
                wait_until(lambda: daemon.sockets() <= before + 1, "the connections are closed")
                silent = self._connect_many(path)
                start = time.monotonic()
                daemon.signal(signal.SIGTERM)
                self.assertEqual(daemon.process.wait(10), 0)
                self.assertLess(time.monotonic() - start, 2.0)
                for connection in silent:
                    connection.close()

    def _connect_many(self, path):
        connections = []
        for _ in range(200):
            connection = socket.socket(socket.AF_UNIX)
            connection.setblocking(False)
            try:
                connection.connect(path)
                connections.append(connection)
            except BlockingIOError:  # those before it wait to be taken
                connection.close()
                time.sleep(0.002)
        return connections

    def _scrape(self, path):
        with socket.socket(socket.AF_UNIX) as http:
            http.settimeout(10)
            http.connect(path)
            http.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while True:
                more = http.recv(65536)
                if not more:
                    break
                answer += more
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"), answer[:200])
        return answer.decode()


if __name__ == "__main__":
    unittest.main()
