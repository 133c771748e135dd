"""The C interface to objects that are being written, and its words for failures, by the shared library
and ctypes."""

import ctypes
import errno
import os
import unittest

from support.daemon import BUILD, Daemon

UNKNOWN = 2**64 - 1


class Options(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint64), ("ttl_ms", ctypes.c_uint64),
                ("metadata", ctypes.c_void_p), ("metadata_length", ctypes.c_size_t),
                ("tags", ctypes.c_void_p), ("ephemeral", ctypes.c_int)]


class CFollow(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(memory="64M")
        lib = cls.lib = ctypes.CDLL(os.path.join(BUILD, "lib", "libobjmapper.so.0"))
        lib.om_error.restype = ctypes.c_char_p
        for name in ("om_lease_read", "om_follower_read"):
            getattr(lib, name).restype = ctypes.c_int64
        for name in ("om_lease_length", "om_follower_available"):
            getattr(lib, name).restype = ctypes.c_uint64

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()

    def setUp(self):
        self.writer_side = self.open()
        self.reader_side = self.open()

    def tearDown(self):
        self.lib.om_client_close(self.writer_side)
        self.lib.om_client_close(self.reader_side)

    def open(self):
        client = ctypes.c_void_p()
        self.assertEqual(self.lib.om_client_open(self.daemon.socket.encode(), 5000, b"test",
                                                 ctypes.byref(client)), 0, self.lib.om_error())
        return client

    def ask(self, client, key):
        """(lease, writer, follower), one of which is something."""
        handles = [ctypes.c_void_p() for _ in range(3)]
        code = self.lib.om_reserve_or_follow(client, key, None, *map(ctypes.byref, handles))
        self.assertEqual(code, 0, self.lib.om_error())
        self.assertEqual(sum(bool(handle) for handle in handles), 1)
        return handles

    def read(self, follower, offset, wait_ms=5000):
        buffer = ctypes.create_string_buffer(100)
        count = self.lib.om_follower_read(follower, ctypes.c_uint64(offset), buffer,
                                          ctypes.c_size_t(100), wait_ms)
        return buffer.raw[:count] if count >= 0 else count

    def test_bytes_come_while_they_are_written(self):
        lib = self.lib
        writer = self.ask(self.writer_side, b"follow")[1]
        follower = self.ask(self.reader_side, b"follow")[2]
        self.assertEqual(self.read(follower, 0, wait_ms=1), -errno.ETIMEDOUT)
        self.assertEqual(lib.om_writer_write(writer, b"first ", ctypes.c_size_t(6)), 0)
        self.assertEqual(lib.om_writer_announce(writer), 0)
        self.assertEqual(self.read(follower, 0), b"first ")
        length, committed = ctypes.c_uint64(), ctypes.c_int()
        self.assertEqual(lib.om_follower_available(follower, ctypes.byref(length),
                                                   ctypes.byref(committed)), 6)
        self.assertEqual((length.value, committed.value), (UNKNOWN, 0))
        self.assertEqual(lib.om_writer_write(writer, b"second", ctypes.c_size_t(6)), 0)
        self.assertEqual(lib.om_writer_commit(writer, None), 0)
        self.assertEqual(self.read(follower, 6), b"second")
        self.assertEqual(self.read(follower, 12), b"")
        lease = ctypes.c_void_p()
        self.assertEqual(lib.om_follower_lease(follower, 5000, ctypes.byref(lease)), 0)
        self.assertEqual(lib.om_lease_length(lease), 12)
        lib.om_lease_close(lease)
        lease = self.ask(self.reader_side, b"follow")[0]
        self.assertTrue(lease)
        lib.om_lease_close(lease)

    def test_a_writer_that_gives_up_leaves_no_object(self):
        writer = self.ask(self.writer_side, b"given up")[1]
        follower = self.ask(self.reader_side, b"given up")[2]
        self.lib.om_writer_abort(writer)
        self.assertEqual(self.read(follower, 0), -errno.ENOENT)
        self.lib.om_follower_close(follower)

    def test_of_two_one_writes_and_the_other_waits_or_is_told(self):
        lib = self.lib
        writer, other, lease = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        refs = ctypes.byref(lease), ctypes.byref(writer)
        self.assertEqual(lib.om_reserve_or_get(self.writer_side, b"one", None, 0, *refs), 0)
        self.assertTrue(writer)
        others = ctypes.byref(lease), ctypes.byref(other)
        for wait_ms, code in ((0, errno.EBUSY), (1, errno.ETIMEDOUT)):
            self.assertEqual(
                lib.om_reserve_or_get(self.reader_side, b"one", None, wait_ms, *others), -code)
        self.assertEqual(lib.om_writer_commit(writer, None), 0)
        self.assertEqual(lib.om_reserve_or_get(self.reader_side, b"one", None, 0, *others), 0)
        self.assertTrue(lease)
        lib.om_lease_close(lease)

    def test_a_long_time_to_live_is_not_the_past(self):
        lib = self.lib
        for ttl_ms in (3_600_000, 10**13, 2**63 - 1, 2**63, 2**64 - 1):
            options = Options(ttl_ms=ttl_ms)
            self.assertEqual(lib.om_put(self.writer_side, b"long", ctypes.byref(options), b"x",
                                        ctypes.c_size_t(1)), 0, lib.om_error())
            lease = ctypes.c_void_p()
            self.assertEqual(lib.om_get(self.reader_side, b"long", ctypes.byref(lease)), 0, ttl_ms)
            lib.om_lease_close(lease)

    def test_every_failure_has_its_own_words(self):
        lib = self.lib

        def put(metadata_length):
            options = Options(metadata=ctypes.addressof(ctypes.create_string_buffer(1)),
                              metadata_length=metadata_length)
            return lib.om_put(self.writer_side, b"k", ctypes.byref(options), b"x",
                              ctypes.c_size_t(1))
        self.assertEqual(lib.om_delete(self.writer_side, b"not there"), -errno.ENOENT)
        self.assertIn(b"not there", lib.om_error())
        self.assertEqual(put(2**50), -errno.ENOMEM)
        self.assertEqual(lib.om_error(), b"out of memory")
        self.assertEqual(lib.om_get(self.reader_side, b"k", None), -errno.EINVAL)
        self.assertIn(b"om_get: NULL", lib.om_error())
        self.assertEqual(put(2**63), -errno.EIO)
        self.assertEqual(lib.om_error(), b"internal error")
        self.assertEqual(lib.om_reserve(self.writer_side, b"k", None, None), -errno.EINVAL)
        self.assertIn(b"om_reserve: NULL", lib.om_error())


if __name__ == "__main__":
    unittest.main()
