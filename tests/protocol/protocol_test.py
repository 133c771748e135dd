"""Every message, error and limit of docs/protocol.md, one test each."""

import mmap
import os
import pwd
import shutil
import socket
import struct
import time
import unittest

from protocol import client as c
from protocol.client import Closed, Connection, Failure
from support.daemon import Daemon, wait_until


class ProtocolCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(memory="64M", disk="128M")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()

    def setUp(self):
        self.connections = []

    def tearDown(self):
        for connection in self.connections:
            connection.close()
        self.assertTrue(self.daemon.alive(), self.daemon.log())

    def connect(self, **more):
        connection = Connection(self.daemon.socket, **more)
        self.connections.append(connection)
        return connection

    def fails(self, status, call, *arguments, **more):
        with self.assertRaises(Failure) as caught:
            call(*arguments, **more)
        self.assertEqual(caught.exception.status, status, caught.exception)
        self.assertTrue(caught.exception.reason)

    def refused_and_closed(self, connection, request_id, status=c.MALFORMED):
        """The daemon says why, and closes."""
        message = connection.receive()
        self.assertEqual(message.status, status)
        self.assertEqual(message.request_id, request_id)
        with self.assertRaises(Closed):
            connection.receive()


class Hello(ProtocolCase):
    def test_tells_limits_and_rights_and_brings_the_lease_file(self):
        hello = self.connect().hello
        self.assertEqual((hello["version"], hello["packet_bytes_max"], hello["descriptors_max"],
                          hello["key_bytes_max"], hello["metadata_bytes_max"],
                          hello["keys_per_get_max"]), (1, 131072, 64, 8192, 65536, 64))
        self.assertEqual((hello["may_read"], hello["may_write"], hello["may_admin"]), (1, 1, 1))
        self.assertEqual(hello["with_lease_file"], 1)
        self.assertTrue(hello["version_text"])
        self.assertNotEqual(hello["daemon_epoch"], 0)

    def test_epoch_is_the_same_for_all_connections(self):
        self.assertEqual(self.connect().hello["daemon_epoch"],
                         self.connect().hello["daemon_epoch"])

    def test_other_versions_are_unsupported(self):
        for low, high in ((2, 3), (0, 0)):
            connection = self.connect(hello=False)
            number = connection.send(c.HELLO, c.u32(c.MAGIC) + c.u16(low) + c.u16(high) +
                                     c.u64(0) + c.text("x"))
            self.refused_and_closed(connection, number, c.UNSUPPORTED)

    def test_a_range_that_includes_ours_is_served(self):
        connection = self.connect(hello=False)
        self.assertEqual(connection.say_hello(low=0, high=9)["version"], 1)

    def test_wrong_magic_ends_it(self):
        connection = self.connect(hello=False)
        number = connection.send(c.HELLO, c.u32(1) + c.u16(1) + c.u16(1) + c.u64(0) + c.text("x"))
        self.refused_and_closed(connection, number)

    def test_comes_first(self):
        connection = self.connect(hello=False)
        self.refused_and_closed(connection, connection.send(c.STATUS))

    def test_comes_once(self):
        connection = self.connect()
        number = connection.send(c.HELLO, c.u32(c.MAGIC) + c.u16(1) + c.u16(1) + c.u64(0) +
                                 c.text("x"))
        self.refused_and_closed(connection, number)

    def test_name_limit(self):
        self.connect(hello=False).say_hello(name="n" * 255)
        connection = self.connect(hello=False)
        number = connection.send(c.HELLO, c.u32(c.MAGIC) + c.u16(1) + c.u16(1) + c.u64(0) +
                                 c.text("n" * 256))
        self.refused_and_closed(connection, number)


class Packets(ProtocolCase):
    def test_short_packets_end_it(self):
        for size in (1, 23):
            connection = self.connect()
            connection.send_raw(b"\1" * size)
            self.refused_and_closed(connection, 0)

    def test_a_lying_length_ends_it(self):
        for length in (0, 23, 25, 2**32 - 1):
            connection = self.connect()
            connection.send(c.STATUS, length=length)
            self.refused_and_closed(connection, 0)

    def test_too_long_a_packet_ends_it(self):
        connection = self.connect()
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        connection.send(c.STATUS, b"x" * (c.PACKET_MAX + 1 - c.HEADER.size))
        self.refused_and_closed(connection, 0)

    def test_flags_and_status_in_a_request_end_it(self):
        for wrong in ({"flags": 1}, {"flags": 2}, {"status": 1}):
            connection = self.connect()
            self.refused_and_closed(connection, connection.send(c.STATUS, **wrong))

    def test_descriptors_in_a_request_end_it(self):
        connection = self.connect()
        self.refused_and_closed(connection, connection.send(c.STATUS, descriptors=[0]))
        connection = self.connect()
        connection.send(c.STATUS, count=1)  # announced, not there
        self.refused_and_closed(connection, 0)
        connection = self.connect()
        connection.send(c.STATUS, count=0, descriptors=[0])  # there, not announced
        self.refused_and_closed(connection, 0)
        connection = self.connect()
        connection.send(c.STATUS, descriptors=[0] * 65)
        self.refused_and_closed(connection, 0)

    def test_a_body_that_does_not_have_its_form_ends_it(self):
        for kind, body in ((c.STATUS, b"x"), (c.STAT, b""), (c.STAT, c.text("k") + b"x"),
                           (c.GET, c.u32(2**32 - 1)), (c.COMMIT, c.u64(1)),
                           (c.RELEASE, c.u32(1)), (c.LIST, c.text("")), (c.DELETE, b"")):
            connection = self.connect()
            self.refused_and_closed(connection, connection.send(kind, body))

    def test_an_empty_packet_is_the_end(self):
        connection = self.connect()
        connection.send_raw(b"")
        with self.assertRaises(Closed):
            connection.receive()

    def test_unknown_types_are_unsupported_and_it_goes_on(self):
        connection = self.connect()
        for kind in (0, 17, 99, 4711):
            self.fails(c.UNSUPPORTED, connection.call, kind)
        connection.status()

    def test_request_ids_come_back_and_replies_may_be_pipelined(self):
        connection = self.connect()
        numbers = [connection.send(c.STAT, c.text("none"), request_id=n)
                   for n in (2**64 - 1, 0, 7)]
        for number in numbers:
            self.assertEqual(connection.wait_for(number).status, c.NOT_FOUND)


class Objects(ProtocolCase):
    def test_put_and_get(self):
        connection = self.connect()
        done = connection.put("pg", b"body", metadata=b"a\0b", tags=["red", "blue"],
                              expires_ns=2**62)
        item = connection.get("pg")[0]
        self.assertEqual(item["status"], c.OK)
        self.assertEqual(connection.read(item), b"body")
        info = item["info"]
        self.assertEqual(info["object_id"], done["object_id"])
        self.assertEqual(info["created_ns"], done["created_ns"])
        self.assertLess(abs(info["created_ns"] - time.time_ns()), 60 * 10**9)
        self.assertEqual((info["length"], info["total_bytes"], info["offset"]), (4, 4, 0))
        self.assertEqual((info["metadata"], info["tags"]), (b"a\0b", [b"red", b"blue"]))
        self.assertEqual((info["expires_ns"], info["ephemeral"], info["tier"]), (2**62, 0, 0))
        self.assertEqual(connection.stat("pg"), info)

    def test_a_body_of_nothing(self):
        connection = self.connect()
        connection.put("empty", b"")
        self.assertEqual(connection.fetch("empty"), b"")

    def test_bodies_of_many_sizes_in_both_tiers(self):
        connection = self.connect()
        for flags in (0, c.DISK, c.EPHEMERAL, c.DIRECT, c.DIRECT | c.DISK):
            for size in (1, 4095, 4097, 65536, 300_001, 3_000_000):
                with self.subTest(flags=flags, size=size):
                    body = os.urandom(size)
                    connection.put(f"size/{flags}/{size}", body, flags=flags)
                    self.assertEqual(connection.fetch(f"size/{flags}/{size}"), body)
                    info = connection.stat(f"size/{flags}/{size}")
                    self.assertEqual(info["tier"], 1 if flags & c.DISK else 0)
                    self.assertEqual(info["ephemeral"], 1 if flags & c.EPHEMERAL else 0)
        connection.delete("size/", c.BY_PREFIX)

    def test_get_creates_nothing(self):
        connection = self.connect()
        for _ in range(2):
            self.assertEqual(connection.get("nothing")[0]["status"], c.NOT_FOUND)

    def test_get_answers_in_order(self):
        connection = self.connect()
        for n in range(64):
            connection.put(f"order/{n}", str(n).encode())
        keys = [f"order/{n}" for n in reversed(range(64))]
        items = connection.get(*keys)
        self.assertEqual([connection.read(i) for i in items],
                         [str(n).encode() for n in reversed(range(64))])

    def test_get_limits(self):
        connection = self.connect()
        self.fails(c.MALFORMED, connection.get)
        self.fails(c.MALFORMED, connection.get, "")
        self.fails(c.MALFORMED, connection.get, "a\0b")
        connection = self.connect()
        self.refused_and_closed(connection,
                                connection.send(c.GET, connection.get_body(*["k"] * 65)))
        connection = self.connect()
        self.refused_and_closed(connection,
                                connection.send(c.GET, connection.get_body("k" * 8193)))

    def test_keys_up_to_8192_bytes(self):
        connection = self.connect()
        key = b"\xff/../" + b"k" * 8187
        connection.put(key, b"long")
        self.assertEqual(connection.fetch(key), b"long")
        self.assertIsNone(connection.fetch(key[:-1]))

    def test_get_is_split_where_a_packet_is_full(self):
        connection = self.connect()
        for n in range(4):
            connection.put(f"fat/{n}", b"x", metadata=b"m" * 65536)
        keys = [f"fat/{n}" for n in range(4)]
        rounds = 0
        while keys:
            items = connection.get(*keys)
            statuses = [item["status"] for item in items]
            self.assertIn(c.OK, statuses)
            self.assertLessEqual(set(statuses), {c.OK, c.BUSY})
            keys = [key for key, item in zip(keys, items) if item["status"] == c.BUSY]
            rounds += 1
        self.assertGreater(rounds, 1)

    def test_descriptors_come_once_and_again_on_request(self):
        connection = self.connect()
        connection.put("once", b"1" * 300_000, flags=c.DISK)
        item = connection.get("once")[0]
        segment = item["extents"][0]["segment"]
        self.assertIn((segment, 0), connection.segments)
        again = connection.call(c.GET, connection.get_body("once"))
        self.assertEqual(again["segments"], [])
        described = connection.describe(segment)
        self.assertEqual([(s["id"], s["with_descriptor"], s["writable"]) for s in described],
                         [(segment, 1, 0)])
        self.assertEqual(connection.read(item), b"1" * 300_000)

    def test_describe_without_lease_is_not_found(self):
        self.fails(c.NOT_FOUND, self.connect().describe, 2**63)
        self.fails(c.NOT_FOUND, self.connect().describe)

    def test_describe_limit(self):
        connection = self.connect()
        self.refused_and_closed(connection,
                                connection.send(c.DESCRIBE, c.list_of(c.u64, [1] * 65)))

    def test_readers_cannot_write_nor_reopen(self):
        connection = self.connect()
        connection.put("ro", b"2" * 100)
        item = connection.get("ro")[0]
        descriptor = connection.segments[(item["extents"][0]["segment"], 0)]
        with self.assertRaises(OSError):
            os.pwrite(descriptor, b"x", 0)
        self.assertEqual(os.fstat(descriptor).st_mode & 0o777, 0o600)

    def test_a_lease_outlasts_removal_and_replacement(self):
        connection = self.connect()
        connection.put("outlast", b"old" * 1000)
        item = connection.get("outlast")[0]
        connection.put("outlast", b"new" * 1000)
        self.assertEqual(connection.fetch("outlast"), b"new" * 1000)
        connection.delete("outlast")
        for n in range(30):
            connection.put(f"churn/{n}", os.urandom(100_000))
        self.assertEqual(connection.read(item), b"old" * 1000)
        connection.delete("churn/", c.BY_PREFIX)

    def test_release_has_no_reply_and_ignores_strangers(self):
        connection = self.connect()
        connection.put("rel", b"x")
        lease = connection.get("rel")[0]["lease_id"]
        connection.release(lease, lease, 2**64 - 1, 0)
        connection.release()
        connection.status()
        self.assertEqual(connection.other, {})
        self.refused_and_closed(connection,
                                connection.send(c.RELEASE, c.list_of(c.u64, [1] * 8193)))

    def test_leases_go_back_by_the_release_page(self):
        connection = self.connect(hello=False)
        self.assertEqual(connection.say_hello(features=c.RELEASE_PAGE)["features"], c.RELEASE_PAGE)
        connection.put("page", b"x" * 5000)
        held = self.connect().get("page")[0]
        leases = [connection.get("page")[0]["lease_id"] for _ in range(300)]
        before = self.connect().status()["leases"]
        pushed = [lease for lease in leases[:100] if connection.release_by_page(lease)]
        self.assertEqual(len(pushed), 100)
        # Seen before the next request of the connection is handled, and by tick and status.
        self.assertEqual(connection.status()["leases"], before - 100)
        for lease in (0, 2**64 - 1, pushed[0], held["lease_id"]):
            connection.release_by_page(lease)  # none of ours
        for lease in leases[100:]:
            wait_until(lambda lease=lease: connection.release_by_page(lease), "room in the page")
        # Another connection sees it without a word of this one.
        other = self.connect()
        wait_until(lambda: other.status()["leases"] == before - 300, "leases are given back")
        # Nonsense in it harms nobody.
        connection.release_page[0:4] = b"\xff\xff\xff\x7f"
        connection.release_page[64:2048] = os.urandom(2048 - 64)
        self.assertEqual(connection.fetch("page"), b"x" * 5000)
        with self.assertRaises(OSError):
            os.ftruncate(connection.release_fd, 0)

    def test_without_being_asked_for_there_is_no_release_page(self):
        connection = self.connect()
        self.assertEqual(connection.hello["features"], 0)
        self.assertIsNone(connection.release_page)

    def test_stat_of_nothing(self):
        self.fails(c.NOT_FOUND, self.connect().stat, "nothing")
        self.fails(c.MALFORMED, self.connect().stat, "")

    def test_expiry(self):
        connection = self.connect()
        connection.put("soon", b"x", expires_ns=time.time_ns() + 300_000_000)
        self.assertEqual(connection.fetch("soon"), b"x")
        wait_until(lambda: connection.fetch("soon") is None, "the object expires")


class Puts(ProtocolCase):
    def test_is_invisible_before_commit_and_gone_after_abort(self):
        connection = self.connect()
        put = connection.reserve("inv", 3)
        self.assertEqual(put["outcome"], c.YOURS)
        connection.write(put["extents"], b"abc")
        self.assertIsNone(self.connect().fetch("inv"))
        connection.abort(put["put_id"])
        self.assertIsNone(connection.fetch("inv"))
        self.fails(c.NOT_FOUND, connection.abort, put["put_id"])
        self.fails(c.NOT_FOUND, connection.commit, put["put_id"], 3)

    def test_unknown_length_grows(self):
        connection = self.connect()
        body = os.urandom(500_000)
        put = connection.reserve("grow")
        extents = put["extents"]
        while sum(e["length"] for e in extents) < len(body):
            extents = extents + connection.extend(put["put_id"], 200_000)["extents"]
        connection.write(extents, body)
        connection.commit(put["put_id"], len(body))
        self.assertEqual(connection.fetch("grow"), body)

    def test_extend_of_known_length_is_malformed(self):
        connection = self.connect()
        put = connection.reserve("known", 10)
        self.fails(c.MALFORMED, connection.extend, put["put_id"], 10)
        self.fails(c.NOT_FOUND, connection.extend, 2**60, 10)

    def test_commit_of_another_length_aborts(self):
        for length in (9, 11, 2**63):
            connection = self.connect()
            put = connection.reserve("len", 10)
            self.fails(c.MALFORMED, connection.commit, put["put_id"], length)
            self.fails(c.NOT_FOUND, connection.commit, put["put_id"], 10)
            self.assertIsNone(connection.fetch("len"))

    def test_a_strangers_put_is_not_found(self):
        put = self.connect().reserve("mine", 1)
        other = self.connect()
        self.fails(c.NOT_FOUND, other.commit, put["put_id"], 1)
        self.fails(c.NOT_FOUND, other.abort, put["put_id"])
        self.fails(c.NOT_FOUND, other.extend, put["put_id"], 1)

    def test_values(self):
        connection = self.connect()
        self.fails(c.MALFORMED, connection.reserve, "", 1)
        self.fails(c.MALFORMED, connection.reserve, "a\0", 1)
        self.fails(c.MALFORMED, connection.reserve, "k", 1, tags=[""])
        self.fails(c.MALFORMED, connection.reserve, "k", 1, flags=c.EPHEMERAL | c.DISK)
        self.fails(c.UNSUPPORTED, connection.reserve, "k", 1, flags=1 << 31)
        with self.assertRaises(Failure) as caught:
            connection.reserve("k", 1 << 40)
        self.assertIn(caught.exception.status, (c.NO_SPACE, c.QUOTA))

    def test_limits(self):
        for more in ({"metadata": b"m" * 65537}, {"tags": ["t"] * 65}, {"tags": ["t" * 256]}):
            connection = self.connect()
            self.refused_and_closed(connection, connection.send(
                c.RESERVE, connection.reserve_body("k", 1, **more)))
        connection = self.connect()
        connection.put("full", b"x", metadata=b"m" * 65536, tags=["t" * 250 + str(n)
                                                                  for n in range(64)])
        item = connection.get("full")[0]
        self.assertEqual(len(item["info"]["metadata"]), 65536)
        self.assertEqual(len(item["info"]["tags"]), 64)

    def test_puts_of_one_connection_are_limited(self):
        # Room for more than those, whatever else there is.
        with Daemon(memory="128M") as daemon, Connection(daemon.socket) as again:
            connection = Connection(daemon.socket)
            self.addCleanup(connection.close)
            statuses = []
            for start in range(0, 1056, 32):
                numbers = [connection.send(c.RESERVE, connection.reserve_body(f"many/{n}", 1))
                           for n in range(start, start + 32)]
                for number in numbers:
                    try:
                        connection.reply(number)
                        statuses.append(c.OK)
                    except Failure as failure:
                        statuses.append(failure.status)
            self.assertEqual(statuses, [c.OK] * 1024 + [c.QUOTA] * 32)
            connection.close()
            wait_until(lambda: again.status()["puts"] == 0, "the puts are given back")

    def test_or_get(self):
        connection = self.connect()
        put = connection.reserve("og", 2, flags=c.OR_GET)
        self.assertEqual(put["outcome"], c.YOURS)
        other = self.connect()
        self.fails(c.BUSY, other.reserve, "og", 2, flags=c.OR_GET)
        self.fails(c.TIMEOUT, other.reserve, "og", 2, flags=c.OR_GET, wait_ms=20)
        waiting = other.send(c.RESERVE, other.reserve_body("og", 2, flags=c.OR_GET,
                                                           wait_ms=10_000))
        connection.write(put["extents"], b"hi")
        connection.commit(put["put_id"], 2)
        reply = other.reply(waiting)
        self.assertEqual(reply["outcome"], c.HIT)
        self.assertEqual(other.read(reply["hit"]), b"hi")
        reply = other.reserve("og", 2, flags=c.OR_GET)
        self.assertEqual(reply["outcome"], c.HIT)

    def test_or_get_of_what_is_stale(self):
        connection, other = self.connect(), self.connect()
        put = connection.reserve("stale", 3)
        connection.write(put["extents"], b"old")
        connection.commit(put["put_id"], 3)
        old = connection.reserve("stale", 3, flags=c.OR_GET)["hit"]["info"]["object_id"]
        self.assertEqual(other.reserve("stale", 3, flags=c.OR_GET, stale=old + 1000)["outcome"], c.HIT)
        put = connection.reserve("stale", 3, flags=c.OR_GET, stale=old)
        self.assertEqual(put["outcome"], c.YOURS)
        self.fails(c.BUSY, other.reserve, "stale", 3, flags=c.OR_GET, stale=old)
        follows = other.reserve("stale", flags=c.OR_GET | c.FOLLOWING_IS_FINE, stale=old)
        self.assertEqual(follows["outcome"], c.FOLLOWING)
        reply = other.reserve("stale", 3, flags=c.OR_GET)
        self.assertEqual((reply["outcome"], other.read(reply["hit"])), (c.HIT, b"old"))
        waiting = other.send(c.RESERVE, other.reserve_body("stale", 3, flags=c.OR_GET, wait_ms=10_000, stale=old))
        connection.write(put["extents"], b"new")
        connection.commit(put["put_id"], 3)
        reply = other.reply(waiting)
        self.assertEqual((reply["outcome"], other.read(reply["hit"])), (c.HIT, b"new"))

    def test_refresh(self):
        connection, other = self.connect(), self.connect()
        put = connection.reserve("fresh", 4, metadata=b"old", tags=["fr-old"])
        connection.write(put["extents"], b"body")
        connection.commit(put["put_id"], 4)
        hit = connection.reserve("fresh", flags=c.OR_GET)["hit"]
        info = hit["info"]
        self.assertEqual(info["revision"], 0)
        stale = info["object_id"]
        put = connection.reserve("fresh", flags=c.OR_GET, stale=stale)
        self.assertEqual(put["outcome"], c.YOURS)
        waiting = other.send(c.RESERVE, other.reserve_body("fresh", flags=c.OR_GET, wait_ms=10_000, stale=stale))
        follows = other.reserve("fresh", flags=c.OR_GET | c.FOLLOWING_IS_FINE, stale=stale)
        told = other.send(c.FOLLOW, other.follow_body(follows["hit"]["lease_id"], wait_ms=10_000))
        done = connection.refresh(put["put_id"], stale, 2**62, b"new", ["fr-new"])
        self.assertEqual(done, {"object_id": stale, "created_ns": info["created_ns"]})
        reply = other.reply(waiting)
        self.assertEqual((reply["outcome"], reply["hit"]["info"]["metadata"]), (c.HIT, b"new"))
        self.assertEqual(other.read(reply["hit"]), b"body")
        self.assertEqual(other.reply(told)["state"], c.ABORTED)
        now = connection.stat("fresh")
        self.assertEqual(now, dict(info, expires_ns=2**62, metadata=b"new", tags=[b"fr-new"], revision=1))
        self.assertEqual(connection.read(hit), b"body")
        self.assertEqual(other.reserve("fresh", flags=c.OR_GET, stale=stale)["outcome"], c.HIT)
        put = other.reserve("fresh", flags=c.OR_GET, stale=stale, revision=1)
        self.assertEqual(put["outcome"], c.YOURS)
        # Another object by now; a put that is none; words that break a limit.
        self.fails(c.NOT_FOUND, other.refresh, put["put_id"], stale + 1000)
        self.fails(c.NOT_FOUND, other.refresh, put["put_id"], stale)
        put = other.reserve("fresh", 0)
        self.fails(c.MALFORMED, other.refresh, put["put_id"], stale, tags=[""])
        self.assertEqual(other.stat("fresh"), now)
        self.assertEqual(other.delete("fr-old", c.BY_TAG), 0)
        self.assertEqual(other.delete("fr-new", c.BY_TAG), 1)

    def test_or_get_wakes_when_the_writer_aborts_or_dies(self):
        for end in ("abort", "close"):
            writer = self.connect()
            put = writer.reserve("og2", 2, flags=c.OR_GET)
            waiters = [self.connect() for _ in range(3)]
            numbers = [w.send(c.RESERVE, w.reserve_body("og2", 2, flags=c.OR_GET,
                                                        wait_ms=10_000)) for w in waiters]
            if end == "abort":
                writer.abort(put["put_id"])
            else:
                writer.close()
            # One becomes the writer, the others go on waiting and get a hit.
            ready = wait_until(lambda: [i for i, w in enumerate(waiters)
                                        if w.socket in self._readable(waiters)], "one is woken")
            self.assertEqual(len(ready), 1)
            one = waiters[ready[0]]
            reply = one.reply(numbers[ready[0]])
            self.assertEqual(reply["outcome"], c.YOURS)
            one.write(reply["extents"], b"ok")
            one.commit(reply["put_id"], 2)
            for index, waiter in enumerate(waiters):
                if index != ready[0]:
                    reply = waiter.reply(numbers[index])
                    self.assertEqual(reply["outcome"], c.HIT)
            one.delete("og2")

    @staticmethod
    def _readable(connections):
        import select
        return select.select([x.socket for x in connections], [], [], 0)[0]

    def test_a_peer_that_writes_after_commit_changes_nothing(self):
        connection = self.connect()
        put = connection.reserve("after", 8192)
        connection.write(put["extents"], b"a" * 8192)
        connection.commit(put["put_id"], 8192)
        connection.write(put["extents"], b"b" * 8192)
        descriptor = connection.segments[(put["extents"][0]["segment"], 1)]
        try:
            os.ftruncate(descriptor, 0)
        except OSError:
            pass
        self.assertEqual(self.connect().fetch("after"), b"a" * 8192)

    def test_a_lost_writable_descriptor_comes_again(self):
        connection = self.connect()
        put = connection.reserve("lost", 10)
        connection.abort(put["put_id"])
        for key in list(connection.segments):
            os.close(connection.segments.pop(key))
        for segment in put["segments"]:
            try:
                connection.describe(segment["id"])
            except Failure as failure:
                self.assertEqual(failure.status, c.NOT_FOUND)
        connection.put("lost", b"0123456789")
        self.assertEqual(connection.fetch("lost"), b"0123456789")


class ByTheBoard(ProtocolCase):
    """GETs without a message, by the page of the protocol alone."""

    def board(self):
        connection = self.connect(features=c.BOARD)
        self.assertEqual(connection.hello["features"], c.BOARD)
        return connection

    def shown(self, connection, key, body, **more):
        """Puts it and meets it by message, as one has to first; the item of a GET by the board."""
        connection.put(key, body, **more)
        met, = connection.get(key)
        self.assertEqual(met["status"], c.OK)
        connection.release(met["lease_id"])
        item = connection.get_by_board(key)
        self.assertIsNotNone(item, key)
        self.assertEqual(dict(met, lease_id=0), dict(item, lease_id=0))
        return item

    def tearDown(self):
        with Connection(self.daemon.socket) as connection:
            connection.delete(b"board/", c.BY_PREFIX)
        super().tearDown()

    def test_hello_brings_two_files(self):
        connection = self.connect(hello=False)
        number = connection.send(c.HELLO, c.u32(c.MAGIC) + c.u16(1) + c.u16(1) +
                                 c.u64(c.RELEASE_PAGE | c.BOARD) + c.text("x"))
        message = connection.wait_for(number)
        self.assertEqual(message.fields()["features"], c.RELEASE_PAGE | c.BOARD)
        self.assertEqual(len(message.descriptors), 4)
        board, page = message.descriptors[2:]
        magic, alive, sets, _, counters = struct.unpack("<QQQQQ", os.pread(board, 40, 0))
        self.assertEqual((magic, alive), (c.Board.MAGIC, 1))
        for number in (sets, counters):
            self.assertEqual(number & (number - 1), 0)
        self.assertEqual(os.fstat(board).st_size, 4096 + sets * 4096 + counters)
        self.assertEqual(os.fstat(page).st_size, 4096)
        self.assertEqual(os.pread(page, 4096, 0), bytes(4096))
        for call in (lambda: os.pwrite(board, b"x", 8), lambda: os.ftruncate(board, 0),
                     lambda: mmap.mmap(board, 4096)):
            with self.assertRaises(OSError):
                call()
        message.close()
        self.assertEqual(self.connect().hello["features"], 0)

    def test_the_hash(self):
        for seed, key, value in ((0, b"", 0), (0, b"a", 0xffde1b4163a5fcc0),
                                 (1, b"http://a/x", 0x9674c3a6be8b0733),
                                 (0x0123456789abcdef, b"12345678", 0x0c602bf8d171ee50)):
            self.assertEqual(c.Board.hash(seed, key), value)

    def test_a_get_is_no_message(self):
        connection, other = self.board(), self.connect()
        body = os.urandom(20_000)
        item = self.shown(connection, "board/k", body, metadata=b"said of it", tags=["red", "blue"])
        self.assertEqual(connection.read(item), body)
        self.assertEqual(item["info"]["metadata"], b"said of it")
        self.assertEqual(item["info"]["tags"], [b"red", b"blue"])
        before = other.status()
        for _ in range(100):
            connection.board.let_go(connection.get_by_board("board/k"))
        after = other.status()
        self.assertEqual(after["requests.get_total"], before["requests.get_total"])
        self.assertEqual(after["board.gets"], before["board.gets"] + 100)
        self.assertEqual(after["get.hits_total"], before["get.hits_total"] + 100)
        self.assertEqual(after["hits"], before["hits"] + 100)
        # As many at a time as there are words; more are asked for.
        items = [connection.get_by_board("board/k") for _ in range(63)]
        self.assertTrue(all(items))
        self.assertEqual(len({one["lease_id"] for one in items + [item]}), 64)
        self.assertIsNone(connection.get_by_board("board/k"))
        for one in items:
            connection.board.let_go(one)

    def test_what_is_not_shown(self):
        connection = self.board()
        self.shown(connection, "board/first", b"x")  # its segment is known from here on
        for key, body, more in (("empty", b"", {}), ("large", bytes(65536), {}),
                                ("disk", b"x", {"flags": c.DISK}), ("much", b"x", {"metadata": bytes(950)})):
            connection.put("board/" + key, body, **more)
            self.assertEqual(connection.fetch("board/" + key), body)
            self.assertIsNone(connection.get_by_board("board/" + key), key)
        self.assertIsNone(connection.get_by_board("board/none"))
        self.assertIsNotNone(connection.get_by_board("board/first"))

    def test_changes_take_it_off_and_its_bytes_stay(self):
        connection, other = self.board(), self.connect()
        body = os.urandom(30_000)

        def refresh():
            put = other.reserve("board/k", 0)["put_id"]
            other.refresh(put, other.stat("board/k")["object_id"], metadata=b"new")
        for name, change in (("delete", lambda: other.delete("board/k")),
                             ("prefix", lambda: other.delete("board/", c.BY_PREFIX)),
                             ("tag", lambda: other.delete("t", c.BY_TAG)),
                             ("purge", lambda: other.remove(c.PURGE, "board/k")),
                             ("replace", lambda: other.put("board/k", b"another")),
                             ("refresh", refresh)):
            with self.subTest(name):
                # What tests before this one held may take a moment to come back.
                wait_until(lambda: other.status()["held.bytes"] == 0, "nothing is held")
                item = self.shown(connection, "board/k", body, tags=["t"])
                change()
                found = connection.get_by_board("board/k")
                if found is not None:
                    self.assertEqual(name, "replace")
                    self.assertEqual(connection.read(found), b"another")
                    connection.board.let_go(found)
                if name == "refresh":
                    self.assertEqual(connection.get("board/k")[0]["info"]["revision"], 1)
                    self.assertEqual(connection.get_by_board("board/k")["info"]["revision"], 1)
                else:
                    self.assertEqual(other.status()["held.bytes"], len(body))
                for n in range(80):
                    other.put(f"board/churn/{n}", bytes([n]) * (1 << 20))
                self.assertEqual(connection.read(item), body)
                other.delete("board/", c.BY_PREFIX)
                # A lease of the page is given back in the page.
                connection.release(item["lease_id"])
                connection.status()
                # Of the others some are on their way to disk still.
                wait_until(lambda: other.status()["held.bytes"] <= len(body), "only its bytes are held")
                self.assertEqual(other.status()["held.bytes"], len(body))
                self.assertEqual(connection.read(item), body)
                connection.close()
                connection = self.board()
                wait_until(lambda: other.status()["held.bytes"] == 0, "its bytes come back")

    def test_expiry_is_the_readers_to_see(self):
        connection = self.board()
        expires = time.time_ns() + 1_000_000_000
        self.shown(connection, "board/k", b"x", expires_ns=expires)
        wait_until(lambda: time.time_ns() >= expires, "it expires")
        self.assertIsNone(connection.get_by_board("board/k"))
        self.assertIsNone(connection.fetch("board/k"))

    def test_a_lease_is_asked_back(self):
        with Daemon(memory="32M") as daemon:
            reader = Connection(daemon.socket, features=c.BOARD)
            self.connections.append(reader)
            reader.subscribe(c.REVOKED)
            item = self.shown(reader, "small", b"x" * 1000)
            held = []
            writer = Connection(daemon.socket)
            self.connections.append(writer)
            # Whatever is not leased goes, and then all is.
            while True:
                try:
                    writer.put(f"k/{len(held)}", bytes(1 << 20))
                except Failure as failure:
                    self.assertEqual(failure.status, c.NO_SPACE)
                    break
                connection = Connection(daemon.socket)
                self.connections.append(connection)
                got = connection.get(f"k/{len(held)}")[0]
                self.assertEqual(got["status"], c.OK)
                held.append(got)
            event = reader.next_event()
            self.assertEqual((event["lease_id"], event["object_id"]),
                             (item["lease_id"], item["info"]["object_id"]))
            self.assertEqual(reader.read(item), b"x" * 1000)

    def test_a_reader_goes_on_over_a_restart_and_a_page_of_nonsense_harms_nobody(self):
        with Daemon(memory="64M") as daemon:
            reader = Connection(daemon.socket, features=c.BOARD)
            self.connections.append(reader)
            liar = Connection(daemon.socket, features=c.BOARD)
            self.connections.append(liar)
            body = os.urandom(40_000)
            item = self.shown(reader, "gone", body)
            there = self.shown(reader, "there", b"y" * 100)
            self.shown(liar, "met", b"z")
            # After a crash neighbours of what was leased by message stay as long as somebody has the
            # lease file. Without it, it is the page alone.
            for connection in (reader, liar):
                os.close(connection.lease_file)
                connection.lease_file = None
            liar.board.page[:] = memoryview(os.urandom(4096)).cast("Q")
            reader.delete("gone")
            daemon.kill()
            os.ftruncate(liar.board.page_file, 5)
            daemon.start()
            # Nobody takes a lease by what an earlier daemon has shown.
            self.assertFalse(reader.board.alive())
            self.assertIsNone(reader.get_by_board("there"))
            after = Connection(daemon.socket)
            self.connections.append(after)
            self.assertEqual(after.fetch("there"), b"y" * 100)
            self.assertEqual(after.status()["held.bytes"], len(body))
            for n in range(80):
                after.put(f"churn/{n}", bytes([n]) * (1 << 20))
            self.assertEqual(reader.read(item), body)
            reader.board.let_go(item)
            wait_until(lambda: after.status()["held.bytes"] == 0, "its bytes come back")
            self.assertEqual(after.status()["board.pages"], 1)
            self.assertEqual(reader.read(there), b"y" * 100)
            reader.board.let_go(there)
            wait_until(lambda: after.status()["board.pages"] == 0, "no page is left")
            self.assertTrue(daemon.alive())


class RoomAhead(ProtocolCase):
    def room(self, connection, size=200_000):
        room = connection.room(size)
        self.assertEqual((len(room["extents"]), room["leases"]), (1, 0))
        return room["room_id"], room["extents"][0]

    def lent(self, connection, size=200_000, leases=4):
        """A room as above, the numbers and the leases that were lent with it."""
        room = connection.room(size, leases=leases)
        self.assertEqual((len(room["extents"]), room["leases"]), (1, leases))
        numbers = [(room["first_object"] + n, room["first_lease"] + n) for n in range(leases)]
        return (room["room_id"], room["extents"][0]), numbers

    def put(self, connection, room, at, key, body, **more):
        """Returns where the next body may begin."""
        number, extent = room
        place = dict(extent, offset=extent["offset"] + at, length=len(body))
        connection.write([place], body)
        connection.put_in_room(number, extent, place["offset"], len(body), key, **more)
        return at + (len(body) + 63) // 64 * 64

    def test_is_granted_to_who_writes_in_place(self):
        connection = self.connect(hello=False)
        self.assertEqual(connection.say_hello(features=c.ROOM_AHEAD | 1 << 40)["features"],
                         c.ROOM_AHEAD)

    def test_puts_are_one_message_each(self):
        connection = self.connect()
        room = self.room(connection)
        self.assertEqual(connection.status()["puts"], 1)
        at = 0
        bodies = {f"room/{n}": os.urandom(n * 999 + 1) for n in range(18)}
        for key, body in bodies.items():
            at = self.put(connection, room, at, key, body, metadata=key.encode(), tags=["room"])
        other = self.connect()
        for key, body in bodies.items():
            self.assertEqual(other.fetch(key), body)
            self.assertEqual(other.stat(key)["metadata"], key.encode())
        connection.subscribe(c.PUBLISHED, b"room/")
        self.put(connection, room, at, "room/0", b"another")
        self.assertEqual(connection.next_event()["key"], b"room/0")
        self.assertEqual(other.fetch("room/0"), b"another")
        connection.abort(room[0])
        self.assertEqual(connection.status()["puts"], 0)
        self.fails(c.NOT_FOUND, connection.put_in_room, room[0], room[1], room[1]["offset"], 1, "k")
        self.assertEqual(connection.delete("room", c.BY_TAG), 17)
        self.assertEqual(connection.delete("room/", c.BY_PREFIX), 1)

    def test_many_bodies_in_one_message(self):
        connection = self.connect()
        number, extent = self.room(connection)
        bodies = [os.urandom(n * 37 + 1) for n in range(64)]
        names = [f"room/many/{n}" for n in range(64)]
        names[50] = names[3]  # the later one stays
        places, at = [], extent["offset"]
        for body in bodies:
            places.append(at)
            connection.write([dict(extent, offset=at, length=len(body))], body)
            at += (len(body) + 63) // 64 * 64
        lengths = [len(body) for body in bodies]
        lengths[7] = 2**40  # is nowhere: that one is malformed, the others are there all the same
        names[9] = ""
        counted = connection.status()["put.bytes_total"]
        items = connection.put_bodies(number, [
            connection.body(extent, *row) for row in zip(places, lengths, names)])
        self.assertEqual([n for n, item in enumerate(items) if item["status"]], [7, 9])
        self.assertEqual({items[n]["status"] for n in (7, 9)}, {c.MALFORMED})
        # What was not taken is not counted.
        self.assertEqual(connection.status()["put.bytes_total"] - counted,
                         sum(len(body) for n, body in enumerate(bodies) if n not in (7, 9)))
        self.assertEqual(len({item["object_id"] for item in items}), 63)
        for n, (name, body) in enumerate(zip(names, bodies)):
            if n not in (3, 7, 9):
                self.assertEqual(connection.fetch(name), body)
        # What was malformed is the room's as before.
        self.assertEqual(connection.put_bodies(number, [connection.body(
            extent, places[9], lengths[9], "room/many/9")])[0]["status"], c.OK)
        self.assertEqual(connection.fetch("room/many/9"), bodies[9])
        connection.abort(number)
        self.assertEqual(connection.delete("room/many/", c.BY_PREFIX), 62)

    def test_how_many_bodies(self):
        connection = self.connect()
        number, extent = self.room(connection)
        self.fails(c.MALFORMED, connection.put_bodies, number, [])
        connection.abort(number)
        body = connection.body(extent, extent["offset"], 1, "k")
        self.assertEqual([item["status"] for item in connection.put_bodies(number, [body] * 128)],
                         [c.NOT_FOUND] * 128)
        sent = connection.send(c.PUT, c.u64(number) + c.u32(129) + body * 129)
        self.refused_and_closed(connection, sent)

    def test_what_was_removed_before_may_be_put_again(self):
        connection = self.connect()
        room = self.room(connection)
        connection.remove(c.PURGE, "room/purged")
        self.put(connection, room, 0, "room/purged", b"new")
        self.assertEqual(connection.fetch("room/purged"), b"new")
        connection.delete("room/purged")

    def test_those_who_wait_for_the_key_get_what_was_put(self):
        writer, other = self.connect(), self.connect()
        writer.reserve("room/waited", 3)
        waiting = other.send(c.RESERVE, other.reserve_body("room/waited", 3, flags=c.OR_GET,
                                                           wait_ms=60_000))
        connection = self.connect()
        self.put(connection, self.room(connection), 0, "room/waited", b"abc")
        reply = other.reply(waiting)
        self.assertEqual(reply["outcome"], c.HIT)
        self.assertEqual(other.read(reply["hit"]), b"abc")
        connection.delete("room/waited")

    def test_a_room_that_is_used_up_ends_by_itself(self):
        connection = self.connect()
        number, extent = self.room(connection)
        self.put(connection, (number, extent), 0, "used/up", b"u" * extent["length"])
        self.assertEqual(connection.status()["puts"], 0)
        self.fails(c.NOT_FOUND, connection.abort, number)
        connection.delete("used/up")

    def test_values(self):
        connection = self.connect()
        room = number, extent = self.room(connection)
        inside = extent["offset"]
        at = self.put(connection, room, 640, "room/value", b"x" * 100)
        for offset, length in ((inside, 0), (inside + 1, 1), ((inside - 64) % 2**64, 1), (inside + 640, 1),
                               (inside + 576, 65), (inside, 700), (inside, 2**63),
                               (inside + extent["length"], 1), (2**64 - 64, 64)):
            self.fails(c.MALFORMED, connection.put_in_room, number, extent, offset, length, "k")
        self.fails(c.MALFORMED, connection.put_in_room, number, dict(extent, segment=2**40), inside, 1,
                   "k")
        self.fails(c.MALFORMED, connection.put_in_room, number, extent, inside, 1, "")
        self.fails(c.UNSUPPORTED, connection.put_in_room, number, extent, inside, 1, "k",
                   flags=c.DIRECT)
        self.fails(c.NOT_FOUND, connection.put_in_room, number + 1000, extent, inside, 1, "k")
        self.fails(c.NOT_FOUND, self.connect().put_in_room, number, extent, inside, 1, "k")
        self.fails(c.NOT_FOUND, connection.commit, number, 100)
        self.fails(c.NOT_FOUND, connection.extend, number, 100)
        # What lies before and behind a body is still the room's.
        self.put(connection, room, 0, "room/before", b"y" * 640)
        self.put(connection, room, at, "room/behind", b"z")
        for key, body in (("value", b"x" * 100), ("before", b"y" * 640), ("behind", b"z")):
            self.assertEqual(connection.fetch("room/" + key), body)
        connection.delete("room/", c.BY_PREFIX)
        connection.abort(number)
        self.fails(c.UNSUPPORTED, connection.room, 1000)
        self.fails(c.UNSUPPORTED, connection.room, 2**40, at_least=2**30)

    def test_a_body_under_a_number_that_was_lent_stays_where_it_is(self):
        with Daemon(memory="64M") as daemon:
            connection, other = Connection(daemon.socket), Connection(daemon.socket)
            self.connections += [connection, other]
            room, numbers = self.lent(connection)
            self.assertEqual(other.status()["leases"], 4)
            bodies = [bytes([65 + n]) * 5000 for n in range(3)]
            purge = connection.remove(c.PURGE, "lent/1")["sequence"]
            places = []
            for n, flags in enumerate((0, 0, c.HELD_ONLY)):
                place = dict(room[1], offset=room[1]["offset"] + n * 5056, length=5000)
                connection.write([place], bodies[n])
                item, = connection.put_bodies(room[0], [connection.body(
                    room[1], place["offset"], 5000, f"lent/{n}", flags=flags, object_id=numbers[n][0],
                    removals_seen=purge - 1)])
                self.assertEqual(item["status"], c.NOT_FOUND if n == 1 else c.OK)
                if n != 1:
                    self.assertEqual(item["object_id"], numbers[n][0])
                places.append(place)
            self.assertEqual([other.fetch(f"lent/{n}") for n in range(3)], [bodies[0], None, None])
            self.assertEqual(other.stat("lent/0")["object_id"], numbers[0][0])
            self.assertEqual(other.status()["held.bytes"], 10_000)
            connection.abort(room[0])
            self.assertEqual(other.status()["leases"], 3)  # the fourth was for nothing
            connection.delete("lent/0")
            for n in range(80):
                other.put(f"churn/{n}", os.urandom(1 << 20))
            for place, body in zip(places, bodies):
                self.assertEqual(os.pread(connection.segments[(place["segment"], 1)], 5000,
                                          place["offset"]), body)
            connection.release(*(lease for _, lease in numbers))
            wait_until(lambda: other.status()["leases"] == 0, "they come back by RELEASE")
            self.assertEqual(other.status()["held.bytes"], 0)

    def test_a_number_is_good_once_and_in_its_room(self):
        connection = self.connect()
        room, numbers = self.lent(connection, leases=2)
        second, others = self.lent(connection, leases=1)
        number, extent = room
        at = extent["offset"]
        for wrong in (numbers[0][0] - 1, numbers[1][0] + 1, others[0][0], 2**63):
            self.fails(c.MALFORMED, connection.put_in_room, number, extent, at, 1, "k", object_id=wrong)
        self.fails(c.MALFORMED, connection.put_in_room, number, extent, at, 1, "k", flags=c.HELD_ONLY)
        connection.put_in_room(number, extent, at, 1, "once", object_id=numbers[0][0])
        self.fails(c.MALFORMED, connection.put_in_room, number, extent, at + 64, 1, "k",
                   object_id=numbers[0][0])
        # Of what is only held nothing is looked at, but where it lies.
        connection.put_in_room(number, extent, at + 64, 1, "", flags=c.HELD_ONLY,
                               object_id=numbers[1][0])
        counted = connection.status()["published"]
        connection.abort(number)
        connection.abort(second[0])
        self.assertEqual(connection.status()["published"], counted)
        connection.delete("once")

    def test_removals_that_a_writer_has_seen(self):
        connection = self.connect()
        number, extent = self.room(connection)
        seen = connection.remove(c.PURGE, "seen/url")["sequence"]

        def status(place, since):
            item, = connection.put_bodies(number, [connection.body(
                extent, extent["offset"] + 64 * place, 4, "seen/url#1", tags=["seen"],
                removals_seen=seen + since)])
            return item["status"]

        self.assertEqual(status(0, -1), c.NOT_FOUND)
        self.assertEqual(status(0, 0), c.MALFORMED)  # its place is not the room's any more
        self.assertEqual(status(1, 0), c.OK)
        connection.remove(c.TAG, "seen")
        self.assertIsNone(connection.fetch("seen/url#1"))
        self.assertEqual(status(2, 0), c.NOT_FOUND)
        self.assertEqual(status(3, 1), c.OK)
        self.assertEqual(status(4, 1000), c.OK)
        connection.delete("seen/url#1")
        connection.abort(number)

    def test_removals_that_are_not_known_any_more_may_be_about_anything(self):
        with Daemon(memory="64M") as daemon:
            connection = Connection(daemon.socket)
            self.connections.append(connection)
            number, extent = self.room(connection)
            for _ in range(1200):
                last = connection.remove(c.PURGE, b"x" * 8000)["sequence"]
            self.assertGreater(connection.status()["removals.oldest"], 2)
            for place, seen, status in ((0, 1, c.NOT_FOUND), (1, last, c.OK)):
                item, = connection.put_bodies(number, [connection.body(
                    extent, extent["offset"] + 64 * place, 4, "k", removals_seen=seen)])
                self.assertEqual(item["status"], status)

    def test_as_many_leases_as_a_connection_may_have(self):
        with Daemon(memory="64M") as daemon:
            peer = Connection(daemon.socket)
            self.connections.append(peer)
            room = peer.room(200_000, leases=1000)
            self.assertEqual(room["leases"], 64)
            peer.abort(room["room_id"])
            # Half of the memory is what one connection may pin.
            for key, size in (("large", 20 << 20), ("larger", 12 << 20)):
                peer.put(key, b"l" * size)
                self.assertEqual(peer.get(key)[0]["status"], c.OK)
            self.assertEqual(peer.room(200_000, leases=4)["leases"], 0)

    def test_rooms_are_an_eighth_of_the_memory_together(self):
        connection = self.connect()
        got = []
        with self.assertRaises(Failure) as caught:
            while True:
                got.append(connection.room(2**40))
        self.assertEqual(caught.exception.status, c.BUSY)
        self.assertEqual(sum(e["length"] for room in got for e in room["extents"]), 8 << 20)
        connection.close()
        other = self.connect()
        wait_until(lambda: other.status()["puts"] == 0, "rooms end with their connection")
        wait_until(lambda: other.status()["held.bytes"] == 0, "and their memory comes back")

    def test_a_killed_daemon_knows_what_of_a_room_is_whose(self):
        with Daemon(memory="64M") as daemon:
            connection = Connection(daemon.socket)
            self.connections.append(connection)
            room = number, extent = self.room(connection, 1 << 20)
            at = self.put(connection, room, 0, "kept/1", b"1" * 5000)
            at = self.put(connection, room, at, "gone", b"2" * 5000)
            at = self.put(connection, room, at, "kept/3", b"3" * 5000)
            connection.delete("gone")
            daemon.kill()
            daemon.start()
            after = Connection(daemon.socket)
            self.connections.append(after)
            # The writer lives, and so may write in its room; all of that is held.
            self.assertGreaterEqual(after.status()["held.bytes"], extent["length"] - 3 * 5056)
            for n in range(80):
                after.put(f"churn/{n}", os.urandom(1 << 20))
            rest = dict(extent, offset=extent["offset"] + at, length=extent["length"] - at)
            connection.write([rest], b"!" * rest["length"])
            self.assertEqual(after.fetch("kept/1") or b"1" * 5000, b"1" * 5000)
            self.assertEqual(after.fetch("kept/3") or b"3" * 5000, b"3" * 5000)
            last = after.fetch("churn/79")
            self.assertNotIn(b"!" * 64, last)
            connection.close()

    def test_a_killed_daemon_keeps_what_a_writer_holds(self):
        """Put under a number that was lent, only held, or not put yet."""
        with Daemon(memory="64M") as daemon:
            connection = Connection(daemon.socket)
            self.connections.append(connection)
            room, numbers = self.lent(connection, 1 << 20)
            places = []
            for n in range(3):
                place = dict(room[1], offset=room[1]["offset"] + n * 100_032, length=100_000)
                connection.write([place], bytes([65 + n]) * 100_000)
                if n < 2:
                    connection.put_in_room(room[0], room[1], place["offset"], 100_000, f"held/{n}",
                                           flags=n * c.HELD_ONLY, object_id=numbers[n][0])
                places.append(place)
            daemon.kill()
            daemon.start()
            after = Connection(daemon.socket)
            self.connections.append(after)
            self.assertEqual([after.fetch(f"held/{n}") for n in range(3)], [b"A" * 100_000, None, None])
            after.delete("held/0")
            for n in range(80):
                after.put(f"churn/{n}", os.urandom(1 << 20))
            for n, place in enumerate(places):
                self.assertEqual(os.pread(connection.segments[(place["segment"], 1)], 100_000,
                                          place["offset"]), bytes([65 + n]) * 100_000)
            connection.close()
            wait_until(lambda: after.status()["held.bytes"] == 0, "nobody holds it any more")
            wait_until(lambda: after.status()["held.bytes"] == 0, "the room is free")


class Claiming(ProtocolCase):
    """Misses without a message, by the page of the protocol alone."""

    def setUp(self):
        super().setUp()
        self.x = self.claimant()
        self.y = self.connect()

    def tearDown(self):
        for connection in self.connections:
            connection.close()
        with Connection(self.daemon.socket) as connection:
            connection.delete(b"claim/", c.BY_PREFIX)
            wait_until(lambda: [connection.status()[name] for name in ("puts", "leases", "claims.holders")] == [0, 0, 0],
                       "nothing is kept")
        super().tearDown()

    def claimant(self):
        connection = self.connect(features=c.BOARD | c.CLAIMS)
        self.assertEqual(connection.hello["features"], c.BOARD | c.CLAIMS)
        return connection

    def follows(self, connection, key):
        reply = connection.reserve(key, flags=c.OR_GET | c.FOLLOWING_IS_FINE)
        self.assertEqual(reply["outcome"], c.FOLLOWING)
        self.assertEqual(reply["hit"]["info"]["length"], c.UNKNOWN)
        return reply["hit"]["lease_id"]

    def waits(self, connection, key):
        """The number of the request, once the daemon has it."""
        number = connection.send(c.RESERVE, connection.reserve_body(key, 3, flags=c.OR_GET, wait_ms=60_000))
        connection.status()
        return number

    def writes_now(self, connection, key):
        reply = connection.reserve(key, 3, flags=c.OR_GET)
        self.assertEqual(reply["outcome"], c.YOURS)
        connection.abort(reply["put_id"])
        self.assertEqual(self.x.claims.words[self.x.claims.place(key.encode())], 0)
        self.assertEqual(self.x.board.known(key.encode()), 0)

    def put_claimed(self, connection, key, body, **more):
        """The item of the answer."""
        room = connection.room(200_000)
        place = dict(room["extents"][0], length=len(body))
        connection.write([place], body)
        item, = connection.put_bodies(room["room_id"], [connection.body(
            place, place["offset"], len(body), key, flags=c.CLAIMED, **more)])
        connection.abort(room["room_id"])
        return item

    def test_hello_brings_the_table(self):
        connection = self.connect(hello=False)
        number = connection.send(c.HELLO, c.u32(c.MAGIC) + c.u16(1) + c.u16(1) +
                                 c.u64(c.BOARD | c.CLAIMS) + c.text("x"))
        message = connection.wait_for(number)
        fields = message.fields()
        self.assertEqual(fields["features"], c.BOARD | c.CLAIMS)
        self.assertEqual(len(message.descriptors), 4)
        self.assertEqual(fields["owner"], self.x.claims.owner + 1)
        table = message.descriptors[3]
        self.assertEqual(os.fstat(table).st_size, 65536)
        for call in (lambda: os.ftruncate(table, 0), lambda: os.ftruncate(table, 70_000)):
            with self.assertRaises(OSError):
                call()
        message.close()
        self.assertEqual(self.connect(features=c.CLAIMS).hello["features"], 0)  # not without the board
        self.assertNotIn("owner", self.connect(features=c.BOARD).hello)

    def test_the_word(self):
        board = type("Seeded", (), {"seed": 1, "counters": 65536})
        self.assertEqual(c.Board.hash(1, b"http://a/x") % c.Claims.WORDS, 1843)
        self.assertEqual(c.Claims.word(type("Five", (), {"owner": 5, "board": board}), b"http://a/x"),
                         0x9674c3a6be8b000a)

    def test_what_is_known_is_counted(self):
        def known():
            return self.x.board.known(b"claim/k")

        self.assertEqual(known(), 0)
        put = self.y.reserve("claim/k", 3)["put_id"]
        self.assertEqual(known(), 1)
        self.assertFalse(self.x.claim("claim/k"))
        self.y.abort(put)
        self.assertEqual(known(), 0)
        self.y.put("claim/k", b"abc", flags=c.DISK)
        self.assertEqual(known(), 1)
        self.assertFalse(self.x.claim("claim/k"))
        self.y.delete("claim/k")
        self.assertEqual(known(), 0)
        self.assertTrue(self.x.claim("claim/k"))
        self.x.unclaim("claim/k")

    def test_who_asks_gets_what_is_put(self):
        before = self.y.status()
        self.assertTrue(self.x.claim("claim/k"))
        lease = self.follows(self.y, "claim/k")
        other = self.connect()
        waiting = self.waits(other, "claim/k")
        self.fails(c.BUSY, self.y.reserve, "claim/k", 3, flags=c.OR_GET)
        self.assertEqual(self.x.claims.words[self.x.claims.place(b"claim/k")],
                         self.x.claims.word(b"claim/k") | c.Claims.WANTED)
        reply = self.y.follow(lease, wait_ms=1)
        self.assertEqual((reply["state"], reply["available"], reply["extents"]), (c.WRITING, 0, []))
        following = self.y.send(c.FOLLOW, self.y.follow_body(lease, wait_ms=60_000))
        self.assertEqual(self.put_claimed(self.x, "claim/k", b"abc", metadata=b"said of it")["status"], c.OK)
        reply = self.y.reply(following)
        self.assertEqual((reply["state"], reply["available"], reply["extents"]), (c.COMMITTED, 3, []))
        self.assertEqual(reply["hit"]["info"]["metadata"], b"said of it")
        self.assertEqual(self.y.read(reply["hit"]), b"abc")
        reply = other.reply(waiting)
        self.assertEqual(reply["outcome"], c.HIT)
        self.assertEqual(other.read(reply["hit"]), b"abc")
        self.assertEqual(self.x.claims.words[self.x.claims.place(b"claim/k")], 0)
        self.assertFalse(self.x.claim("claim/k"))
        after = self.y.status()
        self.assertEqual([after[name] - before[name] for name in ("claims.wanted", "claims.put")], [1, 1])
        # When it is gone, there is nothing to be read.
        self.y.delete("claim/k")
        self.assertEqual(self.y.follow(lease)["state"], c.ABORTED)

    def test_who_reserves_it_is_followed(self):
        for wanted in (True, False):
            with self.subTest(wanted=wanted):
                self.assertTrue(self.x.claim("claim/k"))
                lease = self.follows(self.y, "claim/k") if wanted else None
                put = self.x.reserve("claim/k", flags=c.CLAIMED | c.DIRECT)
                self.assertEqual(self.x.claims.words[self.x.claims.place(b"claim/k")], 0)
                self.assertEqual(put["outcome"], c.YOURS)
                lease = lease or self.follows(self.y, "claim/k")
                self.x.write(put["extents"], b"the body")
                self.x.amend(put["put_id"], 8, metadata=b"m")
                self.x.progress(put["put_id"], 3)
                self.x.status()
                reply = self.y.follow(lease)
                self.assertEqual((reply["state"], reply["available"], reply["amended"]), (c.WRITING, 3, 1))
                self.assertEqual(reply["hit"]["info"]["metadata"], b"m")
                self.assertEqual(self.y.read(reply)[:3], b"the")
                self.x.commit(put["put_id"], 8)
                reply = self.y.follow(lease, have_bytes=3)
                self.assertEqual(reply["state"], c.COMMITTED)
                self.assertEqual(self.y.read(reply["hit"]), b"the body")
                self.y.release(reply["hit"]["lease_id"], lease)
                self.y.delete("claim/k")

    def test_whoever_has_claimed_it_gives_up_or_dies(self):
        def give_up():
            self.x.unclaim("claim/k")
            self.x.status()

        def die():
            self.x.close()

        for end in (give_up, die):
            self.assertTrue(self.x.claim("claim/k"))
            lease = self.follows(self.y, "claim/k")
            other = self.connect()
            waiting = self.waits(other, "claim/k")
            following = self.y.send(c.FOLLOW, self.y.follow_body(lease, wait_ms=60_000))
            end()
            self.assertEqual(self.y.reply(following)["state"], c.ABORTED)
            reply = other.reply(waiting)
            self.assertEqual(reply["outcome"], c.YOURS)
            other.abort(reply["put_id"])
            if self.x.claims is None:
                self.x = self.claimant()
            self.writes_now(self.y, "claim/k")
        # Nobody waits: the daemon hears of nothing, and a session that ends leaves nothing.
        before = self.y.status()["requests.unclaim_total"]
        self.assertTrue(self.x.claim("claim/k"))
        self.x.unclaim("claim/k")
        self.assertTrue(self.x.claim("claim/k"))
        self.x.close()
        wait_until(lambda: self.y.status()["claims.holders"] == 0, "the session has ended")
        self.x = self.claimant()
        self.writes_now(self.y, "claim/k")
        self.assertEqual(self.y.status()["requests.unclaim_total"], before)

    def test_what_is_refused_ends_it_as_well(self):
        def overtaken():
            seen = self.y.remove(c.PURGE, "other")["sequence"]
            self.y.remove(c.PURGE, "claim/k")
            self.assertEqual(self.put_claimed(self.x, "claim/k", b"old", removals_seen=seen)["status"], c.NOT_FOUND)

        def too_large():
            with self.assertRaises(Failure) as caught:
                self.x.reserve("claim/k", 1 << 40, flags=c.CLAIMED)
            self.assertIn(caught.exception.status, (c.NO_SPACE, c.QUOTA))

        def nowhere():
            self.fails(c.NOT_FOUND, self.x.put_in_room, 4711, {"segment": 1}, 0, 3, "claim/k", flags=c.CLAIMED)

        for refused in (overtaken, too_large, nowhere):
            with self.subTest(refused.__name__):
                self.assertTrue(self.x.claim("claim/k"))
                lease = self.follows(self.y, "claim/k")
                refused()
                self.assertEqual(self.y.follow(lease)["state"], c.ABORTED)
                self.assertIsNone(self.y.fetch("claim/k"))
                self.y.release(lease)
                self.writes_now(self.y, "claim/k")

    def test_who_comes_after_a_removal_writes_anew(self):
        self.assertTrue(self.x.claim("claim/k#1"))
        lease = self.follows(self.y, "claim/k#1")
        seen = self.y.remove(c.PURGE, "other")["sequence"]
        self.y.remove(c.PURGE, "claim/k")
        put = self.y.reserve("claim/k#1", 3, flags=c.OR_GET | c.FOLLOWING_IS_FINE)
        self.assertEqual(put["outcome"], c.YOURS)
        self.assertEqual(self.put_claimed(self.x, "claim/k#1", b"old", removals_seen=seen)["status"], c.NOT_FOUND)
        self.assertEqual(self.y.follow(lease)["state"], c.ABORTED)
        self.y.write(put["extents"], b"new")
        self.y.commit(put["put_id"], 3)
        self.assertEqual(self.y.fetch("claim/k#1"), b"new")

    def test_the_same_connection_may_ask_as_well(self):
        self.assertTrue(self.x.claim("claim/k"))
        lease = self.follows(self.x, "claim/k")
        self.put_claimed(self.x, "claim/k", b"abc")
        self.assertEqual(self.x.read(self.x.follow(lease)["hit"]), b"abc")

    def test_values(self):
        self.fails(c.MALFORMED, self.x.reserve, "claim/k", 3, flags=c.CLAIMED | c.OR_GET)
        for key in ("", "claim/none", "k" * 8192):
            self.x.send(c.UNCLAIM, c.text(key))
        self.y.send(c.UNCLAIM, c.text("claim/k"))  # which has claimed nothing
        put = self.y.reserve("claim/k", 3, flags=c.CLAIMED)
        self.y.write(put["extents"], b"abc")
        self.y.commit(put["put_id"], 3)
        self.assertEqual(self.put_claimed(self.y, "claim/k", b"def")["status"], c.OK)
        self.assertEqual(self.x.fetch("claim/k"), b"def")
        connection = self.connect()
        self.refused_and_closed(connection, connection.send(c.UNCLAIM, c.text("k" * 8193)))

    def test_nonsense_in_the_table_is_nobodys_claim(self):
        liar = self.claimant()
        for _ in range(5):
            # Owners that there are none of.
            nonsense = memoryview(bytearray(os.urandom(65536))).cast("Q")
            for place, word in enumerate(nonsense):
                liar.claims.words[place] = word & ~0xffff | 20_000 + word % 10_000 << 1 | word & 1
            for n in range(20):
                key = f"claim/{n}"
                liar.claims.words[liar.claims.place(key.encode())] = liar.claims.word(key.encode(), 20_000 + n)
                self.writes_now(self.y, key)
        for place in range(c.Claims.WORDS):
            liar.claims.words[place] = 0
        # In another one's name: who asks waits for that one, until he is gone.
        key = b"claim/lie"
        liar.claims.words[liar.claims.place(key)] = self.x.claims.word(key)
        lease = self.follows(self.y, key)
        self.x.close()
        wait_until(lambda: self.y.follow(lease)["state"] == c.ABORTED, "it is over")
        self.x = self.claimant()
        self.writes_now(self.y, key.decode())

    def test_a_daemon_that_has_gone(self):
        with Daemon(memory="64M") as daemon:
            before = Connection(daemon.socket, features=c.BOARD | c.CLAIMS)
            self.connections.append(before)
            self.assertTrue(before.claim("k"))
            daemon.kill()
            daemon.start()
            self.assertFalse(before.claim("l"))
            after = Connection(daemon.socket, features=c.BOARD | c.CLAIMS)
            self.connections.append(after)
            self.assertTrue(after.claim("k"))


class Holding(ProtocolCase):
    """A writer that goes on using the bytes where it has written them."""

    def tearDown(self):
        for connection in self.connections:
            connection.close()
        with Connection(self.daemon.socket) as connection:
            connection.delete(b"", c.BY_PREFIX)
            wait_until(lambda: connection.status()["leases"] == 0 and
                       connection.status()["held.bytes"] == 0, "nothing is held")
        super().tearDown()

    @staticmethod
    def written(connection, extents, length):
        """What lies there now, through the writer's own descriptors."""
        body = b"".join(os.pread(connection.segments[(e["segment"], 1)], e["length"], e["offset"])
                        for e in extents)
        return body[:length]

    def fill(self, connection):
        """Whatever is free is written to."""
        for number in range(12):
            connection.put(f"fill{number}", b"f" * 8_000_000, flags=c.EPHEMERAL)

    def check(self, length, end):
        body = bytes(i * 11 % 251 for i in range(600_000))
        writer, other = self.connect(), self.connect()
        put = writer.reserve("h", len(body) if length else c.UNKNOWN, flags=c.DIRECT)
        extents = list(put["extents"])
        room = sum(e["length"] for e in extents)
        held = writer.hold(put["put_id"], 0 if length else len(body) - room)
        extents += held["extents"]
        self.assertNotEqual(held["lease_id"], 0)
        if length:
            self.assertEqual(held["extents"], [])
        writer.write(extents, body + b"." * (sum(e["length"] for e in extents) - len(body)))
        if end == "commit":
            done = writer.commit(put["put_id"], len(body))
            self.assertEqual(done["object_id"], held["object_id"])
            self.assertEqual(other.fetch("h"), body)
            other.put("h", b"another")
        elif end == "abort":
            writer.abort(put["put_id"])
        else:
            self.fails(c.MALFORMED, writer.commit, put["put_id"], 2**40)
        self.fill(other)
        self.assertEqual(self.written(writer, extents, len(body)), body)
        writer.release(held["lease_id"])
        wait_until(lambda: other.status()["held.bytes"] == 0, "it is given back")

    def test_published_and_replaced(self):
        for length in (True, False):
            self.check(length, "commit")

    def test_aborted(self):
        for length in (True, False):
            self.check(length, "abort")

    def test_a_commit_that_fails(self):
        for length in (True, False):
            self.check(length, "fail")

    def test_it_is_a_lease_on_the_object(self):
        writer, other = self.connect(), self.connect()
        writer.call(c.SUBSCRIBE, c.u32(c.REVOKED) + c.text(b""))
        put = writer.reserve("h", 20_000_000, flags=c.DIRECT | c.EPHEMERAL)
        held = writer.hold(put["put_id"])
        # While it is written nobody is asked: that would give no room.
        fills = 0
        with self.assertRaises(Failure):
            for fills in range(20):
                more = other.reserve(f"full{fills}", 6_000_000, flags=c.DIRECT | c.EPHEMERAL)
                other.hold(more["put_id"])
        writer.commit(put["put_id"], 20_000_000)
        with self.assertRaises(Failure):
            other.reserve("full", 20_000_000, flags=c.EPHEMERAL)
        event = writer.next_event()
        self.assertEqual((event["event"], event["key"], event["lease_id"]),
                         (c.REVOKED, b"h", held["lease_id"]))

    def test_what_does_not_stay_where_it_is_written(self):
        connection = self.connect()
        for length in (5000, c.UNKNOWN):
            for flags in (0, c.DIRECT | c.DISK):
                put = connection.reserve("h", length, flags=flags)
                self.fails(c.UNSUPPORTED, connection.hold, put["put_id"])
                connection.abort(put["put_id"])
        put = connection.reserve("h", 0, flags=c.DIRECT)
        self.fails(c.UNSUPPORTED, connection.hold, put["put_id"])

    def test_values(self):
        connection = self.connect()
        put = connection.reserve("h", 100, flags=c.DIRECT)
        self.fails(c.MALFORMED, connection.hold, put["put_id"], 1)
        self.fails(c.NOT_FOUND, connection.hold, 2**60)
        self.fails(c.NOT_FOUND, self.connect().hold, put["put_id"])
        connection.abort(put["put_id"])
        put = connection.reserve("h", flags=c.DIRECT)
        self.fails(c.MALFORMED, connection.hold, put["put_id"], 2**63)


class Following(ProtocolCase):
    """Reading what somebody else is still writing."""

    def tearDown(self):
        for connection in self.connections:
            connection.close()
        with Connection(self.daemon.socket) as connection:
            connection.delete(b"", c.BY_PREFIX)
            # Staging that was followed, and room that was held for followers, is given back.
            wait_until(lambda: connection.status()["leases"] == 0 and
                       connection.status()["held.bytes"] == 0, "nothing is held")
        super().tearDown()

    def begin(self, key, followers, length=c.UNKNOWN, flags=c.OR_GET):
        writer = self.connect()
        put = writer.reserve(key, length, flags=flags)
        self.assertEqual(put["outcome"], c.YOURS)
        leases = []
        for follower in followers:
            reply = follower.reserve(key, flags=c.OR_GET | c.FOLLOWING_IS_FINE)
            self.assertEqual(reply["outcome"], c.FOLLOWING)
            leases.append(reply["hit"]["lease_id"])
        return writer, put, leases

    def check(self, flags, length):
        body = bytes(i * 7 % 251 for i in range(600_000))
        fast, slow = self.connect(), self.connect()
        writer, put, leases = self.begin("f", [fast, slow], len(body) if length else c.UNKNOWN,
                                         flags=c.OR_GET | flags)
        extents, at, got, room, known = list(put["extents"]), 0, b"", 0, []
        while at < len(body):
            end = min(at + 70_000, len(body))
            if end > sum(e["length"] for e in extents):
                extents += writer.extend(put["put_id"], end - at)["extents"]
            writer.write(extents, body[:end])
            waiting = fast.send(c.FOLLOW, fast.follow_body(leases[0], len(got), room, 10_000))
            writer.progress(put["put_id"], end)
            reply = fast.reply(waiting)
            self.assertEqual((reply["state"], reply["available"]), (c.WRITING, end))
            known += reply["extents"]
            room += sum(e["length"] for e in reply["extents"])
            got = fast.read({"extents": known})[:end]
            self.assertEqual(got, body[:end])
            at = end
        reply = fast.follow(leases[0], len(got), room, 1)
        self.assertEqual(reply["state"], c.WRITING)  # nothing new: the time is up
        waiting = fast.send(c.FOLLOW, fast.follow_body(leases[0], len(got), room, 10_000))
        writer.commit(put["put_id"], len(body))
        writer.put("g", b"x" * 600_000)  # another body in the same staging, if it were used again
        reply = fast.reply(waiting)
        self.assertEqual((reply["state"], reply["available"]), (c.COMMITTED, len(body)))
        self.assertEqual(fast.read(reply["hit"]), body)
        fast.release(reply["hit"]["lease_id"])
        # Who comes late reads the same, also when the object has been replaced meanwhile.
        writer.put("f", b"y" * 600_000)
        reply = slow.follow(leases[1])
        self.assertEqual((reply["state"], reply["available"]), (c.COMMITTED, len(body)))
        self.assertEqual(reply["hit"]["status"], c.NOT_FOUND)
        self.assertEqual(slow.read(reply)[:len(body)], body)
        for extent in reply["extents"]:
            with self.assertRaises(OSError):
                os.pwrite(slow.segments[(extent["segment"], 0)], b"!", extent["offset"])

    def test_staging_of_unknown_length(self):
        self.check(0, length=False)

    def test_staging_of_known_length(self):
        self.check(0, length=True)

    def test_the_final_place_in_memory(self):
        self.check(c.DIRECT, length=True)

    def test_the_final_place_in_memory_of_unknown_length(self):
        self.check(c.DIRECT, length=False)

    def test_the_final_place_on_disk(self):
        self.check(c.DIRECT | c.DISK, length=True)

    def test_the_writer_dies_or_aborts(self):
        for end in ("abort", "close"):
            for flags in (0, c.DIRECT):
                follower, waiter = self.connect(), self.connect()
                writer, put, leases = self.begin("d", [follower], 8192, flags=c.OR_GET | flags)
                writer.write(put["extents"], b"a" * 8192)
                writer.progress(put["put_id"], 4096)
                first = follower.follow(leases[0], wait_ms=10_000)
                self.assertEqual(first["available"], 4096)
                room = sum(e["length"] for e in first["extents"])
                told = follower.send(c.FOLLOW,
                                     follower.follow_body(leases[0], 4096, room, 10_000))
                woken = waiter.send(c.RESERVE, waiter.reserve_body("d", 2, flags=c.OR_GET,
                                                                   wait_ms=10_000))
                if end == "abort":
                    writer.abort(put["put_id"])
                else:
                    writer.close()
                reply = follower.reply(told)
                self.assertEqual(reply["state"], c.ABORTED)
                reply = waiter.reply(woken)
                self.assertEqual(reply["outcome"], c.YOURS)
                waiter.write(reply["extents"], b"ok")
                waiter.commit(reply["put_id"], 2)
                # What it has read stays as it was until it lets go.
                self.assertEqual(follower.read(first)[:4096], b"a" * 4096)
                follower.release(leases[0])
                follower.delete("d")

    def test_a_commit_of_less_than_was_announced_fails(self):
        follower = self.connect()
        writer, put, leases = self.begin("l", [follower])
        writer.write(put["extents"], b"a" * 100)
        writer.progress(put["put_id"], 100)
        self.fails(c.MALFORMED, writer.commit, put["put_id"], 99)
        self.assertEqual(follower.follow(leases[0])["state"], c.ABORTED)

    def test_a_writer_says_later_what_it_writes(self):
        for flags in (0, c.DIRECT):
            early, late = self.connect(), self.connect()
            writer, put, leases = self.begin("am", [early], flags=c.OR_GET | flags)
            first = early.follow(leases[0])
            self.assertEqual((first["amended"], first["hit"]["info"]["metadata"]), (0, b""))
            told = early.send(c.FOLLOW, early.follow_body(leases[0], wait_ms=10_000))
            writer.amend(put["put_id"], 5, metadata=b"meta", tags=["am-tag"])
            reply = early.reply(told)
            self.assertEqual((reply["state"], reply["available"], reply["amended"]), (c.WRITING, 0, 1))
            info = reply["hit"]["info"]
            self.assertEqual((info["length"], info["metadata"], info["tags"]), (5, b"meta", [b"am-tag"]))
            self.assertEqual(reply["hit"]["lease_id"], 0)
            # What was seen is not said again; who comes now is told at once.
            again = early.follow(leases[0], have_amended=1, wait_ms=1)
            self.assertEqual((again["amended"], again["hit"]["info"]["metadata"]), (1, b""))
            info = late.reserve("am", flags=c.OR_GET | c.FOLLOWING_IS_FINE)["hit"]["info"]
            self.assertEqual((info["length"], info["metadata"]), (5, b"meta"))
            # A length stays as it was said; the rest of such a message is not looked at.
            writer.amend(put["put_id"], 6, metadata=b"other")
            writer.write(put["extents"], b"12345")
            writer.commit(put["put_id"], 5)
            info = writer.stat("am")
            self.assertEqual((info["length"], info["metadata"], info["tags"]), (5, b"meta", [b"am-tag"]))
            self.assertEqual(writer.delete("am-tag", c.BY_TAG), 1)

    def test_amended_lengths_are_declared(self):
        writer, put, _ = self.begin("al", [])
        writer.amend(put["put_id"], 100)
        writer.write(put["extents"], b"x" * 50)
        self.fails(c.MALFORMED, writer.commit, put["put_id"], 50)
        # With what RESERVE declared a length does not come a second time; not for others' puts.
        put = writer.reserve("al", 4)
        writer.amend(put["put_id"], 5, metadata=b"no")
        self.connect().amend(put["put_id"], metadata=b"no")
        writer.amend(put["put_id"], metadata=b"yes")
        writer.write(put["extents"], b"1234")
        writer.commit(put["put_id"], 4)
        self.assertEqual(writer.stat("al")["metadata"], b"yes")

    def test_progress_that_makes_no_sense_is_ignored(self):
        follower = self.connect()
        writer, put, leases = self.begin("n", [follower], 100)
        writer.progress(put["put_id"], 2**63)
        writer.progress(put["put_id"] + 1000, 10)
        follower.progress(put["put_id"], 10)
        writer.status()  # what it sent has been looked at
        follower.status()
        reply = follower.follow(leases[0])
        self.assertEqual((reply["state"], reply["available"]), (c.WRITING, 0))

    def test_values(self):
        connection = self.connect()
        self.fails(c.NOT_FOUND, connection.follow, 12345)
        self.fails(c.MALFORMED, connection.reserve, "v", 1, flags=c.FOLLOWING_IS_FINE)
        connection.put("v", b"there")
        reply = connection.reserve("v", 1, flags=c.OR_GET | c.FOLLOWING_IS_FINE)
        self.assertEqual(reply["outcome"], c.HIT)
        self.fails(c.NOT_FOUND, connection.follow, reply["hit"]["lease_id"])


class Removal(ProtocolCase):
    def test_by_key_prefix_and_tag(self):
        connection = self.connect()
        for key, tags in (("r/a", ["x"]), ("r/b", ["x", "y"]), ("r/c", []), ("s/a", ["y"])):
            connection.put(key, b"1", tags=tags)
        self.assertEqual(connection.delete("r/a"), 1)
        self.fails(c.NOT_FOUND, connection.delete, "r/a")
        self.assertEqual(connection.delete("y", c.BY_TAG), 2)
        self.assertEqual(connection.delete("y", c.BY_TAG), 0)
        self.assertEqual(connection.delete("r/", c.BY_PREFIX), 1)
        self.assertEqual(connection.delete("r/", c.BY_PREFIX), 0)
        self.fails(c.MALFORMED, connection.delete, "r", 3)
        self.fails(c.MALFORMED, connection.delete, "a\0b")


class RemovalsEverywhere(ProtocolCase):
    def joined(self, name, **more):
        cache = self.connect()
        reply = cache.join(name, **more)
        return cache, reply

    def current(self, name):
        """A cache that knows of everything that other tests have removed."""
        cache, reply = self.joined(name)
        for _ in range(reply["head"] - reply["from"] + 1):
            cache.ack(cache.next_removal()["sequence"])
        return cache

    def test_a_purge_hides_all_variants_and_reaches_the_others_first(self):
        a, b = self.current("purge-a"), self.current("purge-b")
        for key in (b"http://p/x", b"http://p/x#1", b"http://p/x#2;identity", b"http://p/xy#1"):
            a.put(key, b"body")
        a.put(b"set by key", b"body", tags=[b"digest-1"])
        asked = a.send(c.REMOVE, a.remove_body(c.PURGE, b"http://p/x", tag=b"digest-1",
                                               origin=b"purge-a", token=77, wait_ms=20000))
        removal = b.next_removal()
        self.assertEqual((removal["kind"], removal["what"], removal["tag"], removal["origin"],
                          removal["token"]), (c.PURGE, b"http://p/x", b"digest-1", b"purge-a", 77))
        # Hidden before anybody is told of it, answered after all have confirmed.
        for key in (b"http://p/x", b"http://p/x#1", b"http://p/x#2;identity", b"set by key"):
            self.assertIsNone(b.fetch(key))
        self.assertEqual(b.fetch(b"http://p/xy#1"), b"body")
        self.assertEqual(b.head()[3], removal["sequence"])
        self.assertNotIn(asked, a.other)
        b.ack(removal["sequence"])
        reply = a.reply(asked)
        self.assertEqual(reply["sequence"], removal["sequence"])
        self.assertEqual(reply["removed"], 4)
        self.assertEqual(reply["unapplied"], 0)
        self.assertEqual(a.next_removal()["token"], 77)  # its own, too

    def test_bans_and_tags(self):
        a, b = self.current("kinds-a"), self.current("kinds-b")
        a.put(b"kinds/1", b"1", tags=[b"red"])
        a.put(b"kinds/2", b"2", tags=[b"red", b"blue"])
        a.put(b"kinds/3", b"3", tags=[b"blue"])
        ban = b'req.url ~ "a b" && obj.status == 200'
        for kind, what, removed in ((c.BAN, ban, 0), (c.TAG, b"red", 2), (c.TAG_SOFT, b"blue", 1)):
            reply = a.remove(kind, what, origin=b"kinds-b")
            self.assertEqual(reply["removed"], removed)
            event = b.next_removal()
            self.assertEqual((event["kind"], event["what"], event["time_ns"]),
                             (kind, what, reply["time_ns"]))
        self.assertIsNone(a.fetch(b"kinds/3"))

    def test_who_does_not_confirm_is_counted_and_may_catch_up(self):
        a, b = self.current("slow-a"), self.current("slow-b")
        reply = a.remove(c.TAG, b"slow", origin=b"slow-a", wait_ms=50)
        self.assertGreaterEqual(reply["caches"], 1)
        self.assertGreaterEqual(reply["unapplied"], 1)
        self.assertEqual(b.head()[3], reply["sequence"])
        asked = a.send(c.REMOVE, a.remove_body(c.TAG, b"slow", origin=b"slow-a", wait_ms=20000))
        self.assertEqual(b.next_removal()["sequence"], reply["sequence"])
        last = b.next_removal()["sequence"]
        b.ack(last + 1)  # was not sent: ignored
        b.ack(last)      # both at once
        self.assertEqual(a.reply(asked)["unapplied"], 0)
        # One that goes away is not waited for, but counts.
        asked = a.send(c.REMOVE, a.remove_body(c.TAG, b"slow", origin=b"slow-a", wait_ms=20000))
        b.next_removal()
        b.close()
        self.assertEqual(a.reply(asked)["unapplied"], 1)

    def test_a_cache_that_comes_back_goes_on_where_it_was(self):
        b = self.current("back")
        a = self.connect()
        first = a.remove(c.TAG, b"one")["sequence"]
        self.assertEqual(b.next_removal()["sequence"], first)
        log_id = b.head()[2]
        b.close()
        second = a.remove(c.TAG, b"two")["sequence"]
        b, reply = self.joined("back", log_id=log_id, sequence=first)
        self.assertEqual((reply["log_id"], reply["head"], reply["applied"], reply["from"],
                          reply["gap"]), (log_id, second, first, second, 0))
        self.assertEqual(b.next_removal()["what"], b"two")
        b.ack(second)
        a.remove(c.TAG, b"three", wait_ms=0)
        # Another process under its name: what the daemon remembers counts, and it learns all bans.
        again, reply = self.joined("back")
        self.assertEqual((reply["applied"], reply["gap"]), (second, 0))
        self.assertLessEqual(reply["from"], first)
        self.assertEqual(again.next_removal()["sequence"], reply["from"])

    def test_another_log_is_a_gap(self):
        _, reply = self.joined("other-log", log_id=12345, sequence=1)
        self.assertEqual(reply["gap"], 1)
        _, reply = self.joined("ahead", log_id=reply["log_id"], sequence=reply["head"] + 1)
        self.assertEqual(reply["gap"], 1)

    def test_a_cache_that_begins_anew_is_told_once_of_what_the_log_has_lost(self):
        def lost_whole(removals):
            shutil.rmtree(removals)

        def lost_its_end(removals):
            last = max(name for name in os.listdir(removals) if name.startswith("removals-"))
            with open(os.path.join(removals, last), "r+b") as file:
                where = file.read().index(b"of the end")
                file.seek(where)
                file.write(b"X")

        for lose in (lost_whole, lost_its_end):
            with self.subTest(lose.__name__), Daemon(memory="32M") as daemon:
                with Connection(daemon.socket) as cache:
                    reply = cache.join(b"warm")
                    self.assertEqual((reply["gap"], reply["from"], reply["floor_ns"]), (0, 1, 0))
                    first = cache.remove(c.TAG, b"applied", origin=b"warm")["sequence"]
                    cache.ack(cache.next_removal()["sequence"])
                    cache.status()  # by now it has been read
                with Connection(daemon.socket) as other:
                    other.put("there", b"since before")
                    other.remove(c.TAG, b"of the end")
                daemon.stop()
                lose(os.path.join(daemon.state_dir, "removals"))
                daemon.start()
                with Connection(daemon.socket) as cache:
                    reply = cache.join(b"warm")
                    self.assertEqual((reply["gap"], reply["from"]), (1, reply["head"] + 1))
                    self.assertNotEqual(reply["floor_ns"], 0)
                    cache.ack(reply["from"])  # was not sent: ignored
                    cache.status()
                # It has died before it had dropped what it has.
                with Connection(daemon.socket) as cache:
                    reply = cache.join(b"warm")
                    self.assertEqual(reply["gap"], 1)
                    cache.ack(reply["from"] - 1)
                    cache.status()
                with Connection(daemon.socket) as cache:
                    reply = cache.join(b"warm")
                    self.assertEqual((reply["gap"], reply["applied"]), (0, reply["head"]))
                    # Nor is it known of any other that it has nothing of before.
                    self.assertEqual(cache.join(b"another")["gap"], 1)
                    self.assertGreater(cache.remove(c.TAG, b"next")["sequence"], first)

    def test_the_later_connection_is_the_cache(self):
        first = self.current("twice")
        second = self.current("twice")
        asked = self.connect()
        request = asked.send(c.REMOVE, asked.remove_body(c.TAG, b"twice", wait_ms=100))
        self.assertEqual(second.next_removal()["what"], b"twice")
        asked.reply(request)
        self.assertEqual(first.removals, [])
        # The earlier one would not hear of anything any more, and is told so.
        with self.assertRaises((c.Closed, BrokenPipeError)):
            first.stat("nothing")

    def test_a_cache_that_the_log_goes_on_without_has_to_join_anew(self):
        with Daemon(memory="32M") as daemon, Connection(daemon.socket) as slow, Connection(daemon.socket) as other:
            log_id = slow.join(b"slow")["log_id"]
            first = other.remove(c.TAG, b"first")["sequence"]
            for number in range(1200):  # 8 MiB of them are kept
                other.remove(c.BAN, b'req.url == "/%d%s"' % (number, b"x" * 8000))
            with self.assertRaises((c.Closed, BrokenPipeError)):
                for _ in range(1200):
                    slow.ack(slow.next_removal()["sequence"])
            with Connection(daemon.socket) as again:
                self.assertEqual(again.join(b"slow", log_id=log_id, sequence=first)["gap"], 1)

    def test_names_that_have_gone_make_room(self):
        with Daemon(memory="32M") as daemon:
            for number in range(1100):
                with Connection(daemon.socket) as cache:
                    cache.join(b"pod-%d" % number)

    def test_a_put_that_was_overtaken_is_not_published(self):
        a = self.connect()
        put = a.reserve(b"http://over/x#1", 4)
        tagged = a.reserve(b"http://over/y#1", 4, tags=[b"over"])
        a.write(put["extents"], b"body")
        a.write(tagged["extents"], b"body")
        a.remove(c.PURGE, b"http://over/x")
        a.remove(c.TAG_SOFT, b"over")
        self.fails(c.NOT_FOUND, a.commit, put["put_id"], 4)
        self.fails(c.NOT_FOUND, a.commit, tagged["put_id"], 4)
        self.assertIsNone(a.fetch(b"http://over/x#1"))
        a.put(b"http://over/x#1", b"new")
        self.assertEqual(a.fetch(b"http://over/x#1"), b"new")

    def test_the_head_page_cannot_be_written(self):
        cache = self.current("page")
        magic, epoch, log_id, head = cache.head()
        self.assertEqual(magic, 0x3144414548524d4f)
        self.assertEqual(epoch, cache.hello["daemon_epoch"])
        self.assertNotEqual(log_id, 0)
        self.assertEqual(head, cache.remove(c.TAG, b"page", origin=b"page")["sequence"] - 1)
        with self.assertRaises(OSError):
            os.pwrite(cache.head_page, b"x", 0)

    def test_values(self):
        a = self.connect()
        self.fails(c.MALFORMED, a.join, b"")
        self.fails(c.MALFORMED, a.join, b"a\0b")
        self.fails(c.MALFORMED, a.join, b"a\nb")
        for kind, what, more in ((0, b"x", {}), (5, b"x", {}), (c.PURGE, b"", {}),
                                 (c.PURGE, b"a\0b", {}), (c.TAG, b"t" * 256, {}),
                                 (c.TAG, b"t", {"tag": b"t"}), (c.BAN, b"req.url", {}),
                                 (c.BAN, b"req.url ~ x ||", {}), (c.BAN, b'req.url ~ "x', {}),
                                 (c.PURGE, b"x", {"origin": b"a\0b"})):
            self.fails(c.MALFORMED, a.remove, kind, what, **more)
        a.ack(1)  # has not joined: ignored
        a.remove(c.PURGE, b"k" * 8192, tag=b"t" * 255, origin=b"o" * 255, wait_ms=0)

    def test_limits(self):
        for kind, body in ((c.JOIN, c.text(b"n" * 256) + c.u64(0) + c.u64(0)),
                           (c.REMOVE, Connection.remove_body(c.PURGE, b"k" * 8193)),
                           (c.REMOVE, Connection.remove_body(c.PURGE, b"k", tag=b"t" * 256)),
                           (c.REMOVE, Connection.remove_body(c.PURGE, b"k", origin=b"o" * 256))):
            connection = self.connect()
            self.refused_and_closed(connection, connection.send(kind, body))

    def test_no_more_than_256_come_unacknowledged(self):
        b = self.current("window")
        a = self.connect()
        last = [a.remove(c.TAG, b"w", wait_ms=0)["sequence"] for _ in range(300)][-1]
        got = [b.next_removal()["sequence"] for _ in range(256)]
        self.assertEqual(got, list(range(last - 299, last - 43)))
        self.fails(c.NOT_FOUND, b.stat, "nothing")
        self.assertEqual(b.removals, [])
        b.ack(got[9])
        self.assertEqual([b.next_removal()["sequence"] for _ in range(10)],
                         list(range(got[-1] + 1, got[-1] + 11)))

    def test_it_is_still_in_the_log_after_a_kill_right_after_the_answer(self):
        for disk in (None, "64M"):
            with Daemon(memory="32M", disk=disk) as daemon:
                with Connection(daemon.socket) as cache:
                    cache.join(b"crash")
                    log_id = cache.head()[2]
                    cache.put(b"http://k/x#1", b"old")
                    ban = cache.remove(c.BAN, b"req.url ~ .", wait_ms=0)
                    purge = cache.remove(c.PURGE, b"http://k/x", wait_ms=0)
                daemon.kill()
                daemon.start()
                with Connection(daemon.socket) as cache:
                    self.assertIsNone(cache.fetch(b"http://k/x#1"))
                    reply = cache.join(b"crash", log_id=log_id, sequence=0)
                    self.assertEqual((reply["log_id"], reply["head"], reply["gap"]),
                                     (log_id, purge["sequence"], 0))
                    events = [cache.next_removal() for _ in range(2)]
                    self.assertEqual([(e["sequence"], e["kind"], e["time_ns"]) for e in events],
                                     [(ban["sequence"], c.BAN, ban["time_ns"]),
                                      (purge["sequence"], c.PURGE, purge["time_ns"])])


class Listing(ProtocolCase):
    def test_pages_in_the_order_of_bytes(self):
        connection = self.connect()
        keys = sorted(f"l/{n}".encode() for n in range(50)) + [b"l/\xff", b"l/\xff\xff"]
        for key in keys:
            connection.put(key, b"12", expires_ns=2**62)
        seen, after = [], b""
        while True:
            page = connection.list(b"l/", after, 7)
            self.assertLessEqual(len(page["entries"]), 7)
            seen += [entry["key"] for entry in page["entries"]]
            if not page["more"]:
                break
            after = seen[-1]
        self.assertEqual(seen, keys)
        entry = page["entries"][-1]
        self.assertEqual((entry["length"], entry["expires_ns"], entry["url"]), (2, 2**62, b""))

    def test_what_is_there_all_the_time_is_listed_once_whatever_changes(self):
        connection, other = self.connect(), self.connect()
        stay = [f"s/{n:03}".encode() for n in range(0, 100, 2)]
        for key in stay:
            connection.put(key, b"12")
        gone = [f"s/{n:03}".encode() for n in range(1, 100, 4)]
        for key in gone:
            connection.put(key, b"12")
        seen, after = [], b""
        for turn in range(1000):
            page = connection.list(b"s/", after, 5)
            seen += [entry["key"] for entry in page["entries"]]
            if not page["more"]:
                break
            after = seen[-1]
            # Behind, at and before the place of the listing: some go, some come, one is replaced.
            for key in gone[turn::9]:
                try:
                    other.delete(key)
                except Failure:
                    pass
            other.put(f"s/{(turn * 37) % 100:03}+", b"new")
            other.put(stay[turn * 7 % len(stay)], b"replaced")
            try:
                if after not in stay:
                    other.delete(after)
            except Failure:
                pass
        self.assertEqual(seen, sorted(set(seen)))
        self.assertEqual([key for key in seen if key in stay], stay)
        connection.delete(b"s/", c.BY_PREFIX)

    def test_a_page_ends_where_the_packet_does(self):
        connection = self.connect()
        for n in range(40):
            connection.put(f"L/{n:02}" + "k" * 8000, b"")
        page = connection.list("L/")
        self.assertEqual(page["more"], 1)
        self.assertLess(len(page["entries"]), 40)
        connection.delete("L/", c.BY_PREFIX)

    def test_of_regions_is_empty_without_any(self):
        self.assertEqual(self.connect().list("varnish:none", flags=1)["entries"], [])


class Regions(ProtocolCase):
    def test_life(self):
        connection = self.connect()
        region = connection.region("web/cache", 8 << 20, 4 << 20)
        self.assertEqual(region["fresh"], 1)
        self.assertEqual(region["memory"]["kind"], c.KIND_REGION)
        self.assertEqual((region["memory"]["writable"], region["memory"]["with_descriptor"]),
                         (1, 1))
        memory = region["descriptors"][0]
        self.assertEqual(os.fstat(memory).st_size, region["memory"]["size_bytes"])
        self.assertEqual(len(region["descriptors"]), 1 + region["with_directory"])
        c.lock_region(memory)
        other = self.connect()
        self.fails(c.BUSY, other.region, "web/cache", 8 << 20)
        self.fails(c.BUSY, other.region_drop, "web/cache")
        entry = [r for r in other.region_list() if r["owner"] == b"web/cache"][0]
        self.assertEqual((entry["held"], entry["pid"]), (1, os.getpid()))
        for descriptor in region["descriptors"]:
            os.close(descriptor)
        again = other.region("web/cache", 8 << 20, 4 << 20)
        for descriptor in again["descriptors"]:
            os.close(descriptor)
        other.region_drain("web/cache")
        self.fails(c.NOT_FOUND, other.region_drain, "none")
        other.region_drop("web/cache")
        self.fails(c.NOT_FOUND, other.region_drop, "web/cache")

    def test_values(self):
        connection = self.connect()
        self.fails(c.MALFORMED, connection.region, "", 1 << 20)
        self.fails(c.MALFORMED, connection.region, "a\0b", 1 << 20)
        self.fails(c.NO_SPACE, connection.region, "huge", 1 << 40)
        self.refused_and_closed(connection, connection.send(
            c.REGION, c.text("o" * 256) + c.u64(1) + c.u64(0)))


class Watching(ProtocolCase):
    def test_published_and_removed(self):
        watcher, actor = self.connect(), self.connect()
        watcher.subscribe(c.PUBLISHED | c.REMOVED, "w/")
        actor.put("other", b"x")
        done = actor.put("w/1", b"x")
        actor.delete("w/1")
        event = watcher.next_event()
        self.assertEqual((event["event"], event["key"], event["object_id"]),
                         (c.PUBLISHED, b"w/1", done["object_id"]))
        event = watcher.next_event()
        self.assertEqual((event["event"], event["key"]), (c.REMOVED, b"w/1"))
        watcher.subscribe(0)
        actor.put("w/2", b"x")
        watcher.status()
        self.assertEqual(watcher.events, [])

    def test_only_what_the_mask_names(self):
        watcher, actor = self.connect(), self.connect()
        watcher.subscribe(c.REMOVED, "m/")
        actor.put("m/1", b"x")
        actor.delete("m/1")
        self.assertEqual(watcher.next_event()["event"], c.REMOVED)

    def test_unknown_events_are_unsupported(self):
        self.fails(c.UNSUPPORTED, self.connect().subscribe, 1 << 20)

    def test_who_does_not_read_is_told_that_events_are_lost(self):
        watcher, actor = self.connect(), self.connect()
        watcher.subscribe(c.PUBLISHED, "n/")
        key = "n/" + "k" * 8000
        for _ in range(10_000):
            actor.put(key, b"")
            if actor.status()["events.lost_total"] > 0:
                break
        seen = set()
        while c.LOST not in seen:
            seen.add(watcher.next_event()["event"])
        watcher.status()

    def test_status_has_numbers_and_texts(self):
        status = self.connect().status()
        self.assertIsInstance(status["connections.open"], int)
        self.assertIsInstance(status["daemon.version"], str)
        self.assertEqual(status["daemon.pid"], self.daemon.pid)


def as_user(uid, gids, call):
    """Runs call() in a child of another user; what it raised fails the test, with its words."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            os.setgroups(gids[1:])
            os.setgid(gids[0])
            os.setuid(uid)
            call()
            os.write(write, b"ok")
        except BaseException as error:  # whatever it is, the parent reports it
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        words = pipe.read()
    os.waitpid(child, 0)
    if words != "ok":
        raise AssertionError(words)


@unittest.skipUnless(os.geteuid() == 0, "needs root to be other users")
class Groups(unittest.TestCase):
    """--read-gid 7001, --write-gid 7002, --admin-gid 7003."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(memory="64M", extra=["--read-gid", "7001", "--write-gid", "7002",
                                                 "--admin-gid", "7003"])
        os.chmod(cls.daemon.directory, 0o755)
        os.chmod(cls.daemon.socket, 0o666)
        with Connection(cls.daemon.socket) as root:
            root.put("k", b"x")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()

    def rights(self, gids):
        path = self.daemon.socket

        def check():
            with Connection(path) as connection:
                hello = connection.hello
                expected = (int(bool({7001, 7002, 7003} & set(gids))),
                            int(bool({7002, 7003} & set(gids))), int(7003 in gids))
                got = (hello["may_read"], hello["may_write"], hello["may_admin"])
                assert got == expected, (got, expected)

                def status(call, *arguments):
                    try:
                        call(*arguments)
                        return c.OK
                    except Failure as failure:
                        return failure.status
                def expect(is_, should):
                    if is_ != should:
                        raise AssertionError(f"{is_} instead of {should}")

                want = c.OK if expected[0] else c.DENIED
                expect(status(connection.get, "k"), want)
                expect(status(connection.stat, "k"), want)
                expect(status(connection.list), want)
                expect(status(connection.subscribe, 0), want)
                expect(status(connection.describe, 2**60), c.NOT_FOUND if want == c.OK else want)
                want = c.OK if expected[1] else c.DENIED
                expect(status(connection.put, f"mine/{gids}", b"x"), want)
                expect(status(connection.delete, "none"), c.NOT_FOUND if want == c.OK else want)
                expect(status(connection.join, "cache"), want)
                expect(status(connection.remove, c.TAG, "none"), want)
                expect(status(connection.abort, 99), c.NOT_FOUND if want == c.OK else want)
                want = c.NOT_FOUND if expected[2] else c.DENIED
                expect(status(connection.region_drop, "none"), want)
                expect(status(connection.region_drain, "none"), want)
                connection.status()
                connection.region_list()
                connection.release(1)
            # Whose page lies on the daemon's file system: for those who may write there.
            with Connection(path, features=c.BOARD) as connection:
                want = c.BOARD if 7002 in gids else 0
                assert connection.hello["features"] == want, connection.hello["features"]
        as_user(pwd.getpwnam("nobody").pw_uid, gids, check)

    def test_strangers(self):
        self.rights([7999])

    def test_readers(self):
        self.rights([7001])
        self.rights([7999, 7001])

    def test_writers(self):
        self.rights([7999, 7002])

    def test_administrators(self):
        self.rights([7003])


if __name__ == "__main__":
    unittest.main()
