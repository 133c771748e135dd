"""A load for crash tests: bodies that prove whose they are, clients that know what they were told.

A body is made from its key and version alone, so a reader can tell a torn or foreign one, and no
body needs to be kept. A Client has keys of its own and keeps, for each, the set of versions that a
read may give (0: nothing). An operation that was sent and not answered leaves both what was and
what would be; the first read after the restart decides, and from then on that is what must stay.
Keys that all clients write are logged with times and judged at the end, by `judge_shared`.
"""

import os
import pickle
import random
import select
import time
import traceback
import zlib

from protocol import client as om

BASE = random.Random(20240229).randbytes((5 << 20) + 7)
SIZES = ((0, 0), (1, 200), (200, 4096), (4096, 65536), (65536, 300_000), (300_000, 3 << 20))
WEIGHTS = (1, 6, 10, 8, 3, 1)
SHARED = 12  # keys that everybody writes
MISSES = (om.NO_SPACE, om.BUSY, om.QUOTA, om.TIMEOUT, om.UNAVAILABLE)
BROKEN = (om.Closed, OSError)


def size_of(key, version, largest=3 << 20):
    rng = random.Random(zlib.crc32(key, version))
    low, high = rng.choices(SIZES, WEIGHTS)[0]
    return min(rng.randint(low, high), largest)


def make_body(key, version, size):
    head = b"%s %d %d\n" % (key, version, size)
    if size <= len(head):
        return head[:size]
    offset = zlib.crc32(head) % (2 << 20)
    return head + BASE[offset:offset + size - len(head)]


def version_of(key, body):
    """The version that this body is, by its own words; None when it is no whole body of the key.
    Bodies too short to say are all taken for version -1."""
    end = body.find(b"\n", 0, 400)
    if end < 0:
        return -1 if len(body) < len(key) + 24 else None
    words = body[:end].split(b" ")
    if len(words) != 3 or words[0] != key:
        return None
    version, size = int(words[1]), int(words[2])
    return version if make_body(key, version, size) == body else None


def load_result(path):
    """What a Client wrote down at its end."""
    with open(path, "rb") as file:
        return pickle.load(file)


def fork(function, *arguments):
    """Runs a function in a process of its own; returns its pid."""
    pid = os.fork()
    if pid != 0:
        return pid
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:  # pylint: disable=broad-except
        traceback.print_exc()
    finally:
        os._exit(code)


class Stop:
    """Tells processes to end: they see the end of a pipe."""

    def __init__(self):
        self.reader, self.writer = os.pipe()

    def child(self):
        os.close(self.writer)

    def asked(self):
        return bool(select.select([self.reader], [], [], 0)[0])

    def ask(self):
        os.close(self.writer)

    def close(self):
        os.close(self.reader)


class Connection(om.Connection):
    """One that keeps no disk file open beyond its lease: who does, keeps its bytes on the disk."""

    def _keep(self, segments, message):
        for segment in segments:
            if segment["kind"] in (om.KIND_FILE, om.KIND_PACK):
                self.passing.add((segment["id"], segment["writable"]))
        super()._keep(segments, message)

    def __init__(self, path, **more):
        self.passing = set()
        super().__init__(path, **more)

    def let_go(self):
        for key in self.passing:
            descriptor = self.segments.pop(key, None)
            if descriptor is not None:
                os.close(descriptor)
        self.passing.clear()

    def read(self, item):
        missing = [extent["segment"] for extent in item["extents"]
                   if (extent["segment"], 0) not in self.segments]
        if missing:
            self.describe(*missing)
        return super().read(item)

    def fetch(self, key):
        item = self.get_by_board(key)
        if item is not None:
            body = self.read(item)
            self.board.let_go(item)
            return body
        item = self.get(key)[0]
        if item["status"] == om.NOT_FOUND:
            return None
        if item["status"] != om.OK:
            raise om.Failure(item["status"], "in GET")
        body = self.read(item)
        self.let_go()
        self.release(item["lease_id"])
        return body

    def commit(self, put_id, length):
        self.let_go()
        return super().commit(put_id, length)


class Client:
    """One process's part of the load, and its model."""

    def __init__(self, number, socket, stop, seed, keys=60, groups=6, disk_flag=True,
                 ephemeral=True, largest=3 << 20, ends_at_trouble=False):
        self.number = number
        self.socket = socket
        self.stop = stop
        self.rng = random.Random(seed * 1000 + number)
        self.flags = ((0, 0) + ((om.DISK,) if disk_flag else ()) +
                      ((om.EPHEMERAL,) if ephemeral else ()))
        self.largest = largest
        # Where disks fail under us: an unexpected answer is the end of this client's work, and
        # leaves both what was and what would be; a miss says nothing.
        self.ends_at_trouble = ends_at_trouble
        self.version = number * 1_000_000
        self.may = {b"c%d/g%d/k%d" % (number, i % groups, i): {0} for i in range(keys)}
        self.keys = list(self.may)
        self.groups = groups
        self.expires = {}  # version -> when
        self.shared = []  # [key, version or 0, sent, answered or None]
        self.connection = None
        self.room = None  # of the connection: its id, an extent, and how far it is used
        self.wrong = []  # what must never be
        self.lost = []  # (key, version): acknowledged, and not there
        self.acknowledged = 0
        self.operations = 0
        self.refused = 0
        self.breaks = 0

    # --- the process

    def run(self, result):
        self.stop.child()
        while not self.stop.asked():
            try:
                if self.connection is None:
                    self.connection = Connection(self.socket, seconds=30, features=om.BOARD)
                    self.room = None
                    self.read_uncertain()
                self.step()
                self.operations += 1
            except om.Failure as failure:
                if failure.status not in MISSES:
                    if self.ends_at_trouble:
                        break
                    self.wrong.append(f"an answer that should not be: {failure}")
                self.refused += 1
            except TimeoutError:
                self.wrong.append("no answer within 30 s")
                self.break_off()
            except BROKEN:
                self.break_off()
        self.break_off()
        with open(result, "wb") as file:
            pickle.dump({name: getattr(self, name) for name in (
                "may", "expires", "shared", "wrong", "lost", "acknowledged", "operations",
                "refused", "breaks")}, file)

    def break_off(self):
        self.breaks += 1
        now = time.monotonic()
        for entry in self.shared:
            if entry[3] is None:
                entry[3] = now  # whatever came of it has come by now
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        time.sleep(0.005)  # a pause between attempts to connect

    def read_uncertain(self):
        for key, versions in self.may.items():
            if len(versions) > 1:
                self.read(key)

    def step(self):
        what = self.rng.random()
        key = self.rng.choice(self.keys)
        if what < 0.40:
            self.put(key)
        elif what < 0.50:
            self.put_ahead(self.rng.sample(self.keys, self.rng.randint(1, 8)))
        elif what < 0.60:
            self.abandon(key)
        elif what < 0.80:
            self.read(key)
        elif what < 0.87:
            self.delete(key)
        elif what < 0.89:
            self.delete_group(self.rng.randrange(self.groups))
        else:
            self.share(b"shared/k%d" % self.rng.randrange(SHARED))

    # --- operations

    def begin(self, key, version):
        """Reserves and writes; the put and its length."""
        size = size_of(key, version, self.largest)
        body = make_body(key, version, size)
        flags = self.rng.choice((0, om.DIRECT))
        flags |= self.rng.choice(self.flags)
        expires = 0
        if self.rng.random() < 0.05:
            expires = time.time_ns() + self.rng.randint(50, 3000) * 1_000_000
            self.expires[version] = expires
        group = key.rsplit(b"/", 1)[0]
        more = {"flags": flags, "expires_ns": expires, "tags": (b"t/" + group,),
                "metadata": b"%d" % version}
        if self.rng.random() < 0.2:  # of a length that is not known
            reserved = self.connection.reserve(key, **more)
            extents = reserved["extents"]
            room = sum(extent["length"] for extent in extents)
            while room < size:
                extents += self.connection.extend(reserved["put_id"], size - room)["extents"]
                room = sum(extent["length"] for extent in extents)
        else:
            reserved = self.connection.reserve(key, size, **more)
            extents = reserved["extents"]
        self.connection.write(extents, body)
        return reserved["put_id"], size

    def put(self, key):
        self.version += 1
        version = self.version
        put, size = self.begin(key, version)
        self.may[key] = self.may[key] | {version}
        try:
            self.connection.commit(put, size)
        except om.Failure as failure:
            if failure.status in MISSES:
                self.may[key] = self.may[key] - {version}
            raise
        self.may[key] = {version}
        self.acknowledged += 1

    def put_ahead(self, keys):
        """Several into room that was reserved ahead, published with one message."""
        bodies = []
        for key in keys:
            self.version += 1
            size = size_of(key, self.version, self.largest)
            if 0 < size <= 40_000:
                bodies.append((key, self.version, make_body(key, self.version, size)))
        if not bodies or not self.have_room(sum(len(body) + 64 for _, _, body in bodies)):
            return
        number, extent, used = self.room
        messages = []
        for key, version, body in bodies:
            at = extent["offset"] + used
            self.connection.write([dict(extent, offset=at, length=len(body))], body)
            used += (len(body) + 63) // 64 * 64
            messages.append(om.Connection.body(
                extent, at, len(body), key, metadata=b"%d" % version,
                tags=(b"t/" + key.rsplit(b"/", 1)[0],)))
            self.may[key] = self.may[key] | {version}
        self.room = (number, extent, used)
        items = self.connection.put_bodies(number, messages)
        trouble = None
        for (key, version, _), item in zip(bodies, items):
            if item["status"] == om.OK:
                self.may[key] = {version}
                self.acknowledged += 1
            elif item["status"] in MISSES:
                self.may[key] = self.may[key] - {version}
            else:
                trouble = item["status"]
        if trouble is not None:
            raise om.Failure(trouble, "of a body in a room")

    def have_room(self, size):
        if self.room is not None:
            number, extent, used = self.room
            if extent["length"] - used >= size:
                return True
            self.room = None
            if used < extent["length"]:
                self.connection.abort(number)
        try:
            room = self.connection.room(1 << 20)
        except om.Failure as failure:
            if failure.status not in MISSES:
                raise
            return False
        self.room = (room["room_id"], room["extents"][0], 0)
        return room["extents"][0]["length"] >= size

    def abandon(self, key):
        """Written, and never committed."""
        self.version += 1
        put, _ = self.begin(key, self.version)
        if self.rng.random() < 0.5:
            self.connection.let_go()
            self.connection.abort(put)
        elif self.rng.random() < 0.5:
            self.connection.close()
            self.connection = self.room = None

    def delete(self, key):
        before = self.may[key]
        self.may[key] = before | {0}
        try:
            self.connection.delete(key)
        except om.Failure as failure:
            if failure.status != om.NOT_FOUND:
                raise
            self.missing(key, before)
            if self.ends_at_trouble:
                return
        self.may[key] = {0}

    def delete_group(self, group):
        name = b"c%d/g%d" % (self.number, group)
        keys = [key for key in self.keys if key.startswith(name + b"/")]
        for key in keys:
            self.may[key] = self.may[key] | {0}
        if self.rng.random() < 0.5:
            self.connection.delete(name + b"/", om.BY_PREFIX)
        else:
            self.connection.delete(b"t/" + name, om.BY_TAG)
        for key in keys:
            self.may[key] = {0}

    def missing(self, key, may):
        """There is nothing; is that right?"""
        if 0 in may or any(self.expires.get(v, 1 << 63) <= time.time_ns() for v in may):
            return
        self.lost.append((key, max(may)))

    def read(self, key):
        asked = time.time_ns()
        body = self.connection.fetch(key)
        if body is None:
            self.missing(key, self.may[key])
            if not self.ends_at_trouble:
                self.may[key] = {0}
            return
        problem = check(key, body, self.may[key], self.expires, asked, self.largest)
        if isinstance(problem, str):
            self.wrong.append(problem)
        else:
            self.may[key] = {problem}

    def share(self, key):
        what = self.rng.random()
        if what < 0.4:
            body = self.connection.fetch(key)
            if body is not None and version_of(key, body) is None:
                self.wrong.append(f"{key}: {len(body)} bytes that are no body of it")
            return
        if what < 0.9:
            self.version += 1
            size = max(len(key) + 24, size_of(key, self.version, min(self.largest, 200_000)))
            reserved = self.connection.reserve(key, size)
            self.connection.write(reserved["extents"], make_body(key, self.version, size))
            entry = [key, self.version, time.monotonic(), None]
            self.shared.append(entry)
            try:
                self.connection.commit(reserved["put_id"], size)
            except om.Failure:
                self.shared.remove(entry)
                raise
        else:
            entry = [key, 0, time.monotonic(), None]
            self.shared.append(entry)
            try:
                self.connection.delete(key)
            except om.Failure as failure:
                if failure.status != om.NOT_FOUND:
                    raise
        entry[3] = time.monotonic()
        entry.append("answered")


def check(key, body, may, expires, asked, largest=3 << 20):
    """Which of the versions that may be there this is; or, in words, why it is none."""
    for version in may:
        if version and make_body(key, version, size_of(key, version, largest)) == body:
            if expires.get(version, 1 << 63) <= asked:
                return f"{key}: version {version} has expired and is seen"
            return version
    return (f"{key}: {len(body)} bytes, begins {body[:60]!r}, by its words version "
            f"{version_of(key, body)}; may be {sorted(may)}")


def judge_shared(key, body, entries):
    """None, or what is wrong: the state of a key that all wrote, given everybody's log of it. An
    operation can be the last one if none that was answered began after it had ended."""
    entries = [entry for entry in entries if entry[0] == key]
    answered = [entry for entry in entries if len(entry) > 4]
    last = {entry[1] for entry in entries
            if not any(other[2] > entry[3] for other in answered)}
    if not answered:
        last.add(0)
    version = 0 if body is None else version_of(key, body)
    return None if version in last else f"{key}: is version {version}, can be {sorted(last)}"
