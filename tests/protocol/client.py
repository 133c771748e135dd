"""A client of objmapperd, written from docs/protocol.md alone (Python standard library only).

Numbers and names are those of that page. Connection.call() sends a request and waits for its reply;
send() and receive() are for tests that pipeline or break rules.
"""

import array
import fcntl
import mmap
import os
import socket
import struct
import threading
import time

SEQPACKET = socket.SOCK_SEQPACKET
MAGIC = 0x50414D4F
HEADER = struct.Struct("<IHHQII")
UNKNOWN = 2**64 - 1
PACKET_MAX = 131072

(HELLO, GET, RELEASE, RESERVE, EXTEND, COMMIT, ABORT, DELETE, STAT, LIST, REGION, REGION_LIST,
 REGION_DROP, STATUS, DESCRIBE, SUBSCRIBE, EVENT, REGION_DRAIN, FOLLOW, PROGRESS, JOIN, REMOVE,
 REMOVAL, ACK, AMEND, HOLD, REFRESH) = range(1, 28)
(OK, NOT_FOUND, EXISTS, BUSY, NO_SPACE, QUOTA, MALFORMED, DENIED, UNAVAILABLE, TIMEOUT, CORRUPT,
 SYSTEM, UNSUPPORTED) = range(13)
EPHEMERAL, OR_GET, DIRECT, DISK, FOLLOWING_IS_FINE = 1, 2, 4, 8, 16
YOURS, HIT, FOLLOWING = 0, 1, 2
WRITING, COMMITTED, ABORTED = 0, 1, 2
KIND_MEMORY, KIND_FILE, KIND_PACK, KIND_STAGING, KIND_REGION = range(5)
BY_KEY, BY_PREFIX, BY_TAG = range(3)
PURGE, BAN, TAG, TAG_SOFT = 1, 2, 3, 4
ROOM, PUT, UNCLAIM = 30, 31, 32
PUBLISHED, REMOVED, REVOKED, LOST = 1, 2, 4, 8
RELEASE_PAGE, ROOM_AHEAD, BOARD, CLAIMS = 1, 2, 4, 8  # features
HELD_ONLY = 2  # of a body in PUT
CLAIMED = 32  # in RESERVE, and of a body in PUT
BOARD_LEASES = 2**63


class Failure(Exception):
    """A reply whose status is not ok."""

    def __init__(self, status, reason):
        super().__init__(f"status {status}: {reason}")
        self.status = status
        self.reason = reason


class Closed(Exception):
    """The daemon has ended the connection."""


# --- fields

def u8(n):
    return struct.pack("<B", n)


def u16(n):
    return struct.pack("<H", n)


def u32(n):
    return struct.pack("<I", n)


def u64(n):
    return struct.pack("<Q", n)


def text(value):
    if isinstance(value, str):
        value = value.encode()
    return u32(len(value)) + value


def list_of(encode, values):
    return u32(len(values)) + b"".join(encode(value) for value in values)


class Reader:
    """Takes fields from a body; what does not fit is an error."""

    def __init__(self, body):
        self.body = body
        self.at = 0

    def _take(self, count):
        if self.at + count > len(self.body):
            raise ValueError("body too short")
        self.at += count
        return self.body[self.at - count:self.at]

    def u8(self):
        return self._take(1)[0]

    def u16(self):
        return struct.unpack("<H", self._take(2))[0]

    def u32(self):
        return struct.unpack("<I", self._take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self._take(8))[0]

    def text(self):
        return bytes(self._take(self.u32()))

    def list_of(self, read):
        return [read() for _ in range(self.u32())]

    def end(self):
        if self.at != len(self.body):
            raise ValueError("bytes left over")

    def extent(self):
        return {"segment": self.u64(), "offset": self.u64(), "length": self.u64()}

    def segment(self):
        return {"id": self.u64(), "size_bytes": self.u64(), "kind": self.u8(),
                "writable": self.u8(), "with_descriptor": self.u8()}

    def info(self):
        return {"object_id": self.u64(), "length": self.u64(), "total_bytes": self.u64(),
                "offset": self.u64(), "created_ns": self.u64(), "expires_ns": self.u64(),
                "ephemeral": self.u8(), "tier": self.u8(), "revision": self.u32(),
                "metadata": self.text(), "tags": self.list_of(self.text)}

    def item(self):
        return {"status": self.u32(), "lease_id": self.u64(), "info": self.info(),
                "extents": self.list_of(self.extent)}

    def entry(self):
        return {"key": self.text(), "length": self.u64(), "created_ns": self.u64(),
                "expires_ns": self.u64(), "tier": self.u8(), "url": self.text()}


def read_body(kind, body):
    """The body of a successful reply, as a dictionary."""
    r = Reader(body)
    if kind == HELLO:
        reply = {"version": r.u16(), "features": r.u64(), "daemon_epoch": r.u64(),
                 "may_read": r.u8(), "may_write": r.u8(), "may_admin": r.u8(),
                 "packet_bytes_max": r.u32(), "descriptors_max": r.u32(),
                 "key_bytes_max": r.u32(), "metadata_bytes_max": r.u32(),
                 "keys_per_get_max": r.u32(), "with_lease_file": r.u8(), "version_text": r.text()}
        if reply["features"] & CLAIMS:
            reply["owner"] = r.u32()
    elif kind in (GET, DESCRIBE):
        reply = {"segments": r.list_of(r.segment), "items": r.list_of(r.item)}
    elif kind == ROOM:
        reply = {"room_id": r.u64(), "segments": r.list_of(r.segment),
                 "extents": r.list_of(r.extent), "first_object": r.u64(), "first_lease": r.u64(),
                 "leases": r.u32()}
    elif kind == RESERVE:
        reply = {"outcome": r.u8(), "put_id": r.u64(), "segments": r.list_of(r.segment),
                 "extents": r.list_of(r.extent), "hit": r.item()}
    elif kind == EXTEND:
        reply = {"segments": r.list_of(r.segment), "extents": r.list_of(r.extent)}
    elif kind == PUT:
        reply = {"items": r.list_of(lambda: {"status": r.u32(), "object_id": r.u64(),
                                             "created_ns": r.u64()})}
    elif kind == HOLD:
        reply = {"lease_id": r.u64(), "object_id": r.u64(), "segments": r.list_of(r.segment),
                 "extents": r.list_of(r.extent)}
    elif kind in (COMMIT, REFRESH):
        reply = {"object_id": r.u64(), "created_ns": r.u64()}
    elif kind == DELETE:
        reply = {"removed": r.u64()}
    elif kind == STAT:
        reply = {"info": r.info()}
    elif kind == LIST:
        reply = {"entries": r.list_of(r.entry), "more": r.u8()}
    elif kind == REGION:
        reply = {"region_id": r.u64(), "fresh": r.u8(), "memory": r.segment(),
                 "disk_bytes": r.u64(), "with_directory": r.u8()}
    elif kind == REGION_LIST:
        reply = {"regions": r.list_of(lambda: {
            "owner": r.text(), "memory_bytes": r.u64(), "disk_bytes": r.u64(), "held": r.u8(),
            "pid": r.u32()})}
    elif kind == STATUS:
        reply = {"items": r.list_of(lambda: (r.text().decode(), r.u64(), r.text().decode()))}
    elif kind == FOLLOW:
        reply = {"state": r.u8(), "available": r.u64(), "amended": r.u32(), "segments": r.list_of(r.segment),
                 "extents": r.list_of(r.extent), "hit": r.item()}
    elif kind == JOIN:
        reply = {"log_id": r.u64(), "head": r.u64(), "applied": r.u64(), "from": r.u64(),
                 "gap": r.u8(), "floor_ns": r.u64()}
    elif kind == REMOVE:
        reply = {"sequence": r.u64(), "time_ns": r.u64(), "removed": r.u64(), "caches": r.u32(),
                 "unapplied": r.u32()}
    elif kind == REMOVAL:
        reply = {"sequence": r.u64(), "time_ns": r.u64(), "kind": r.u8(), "what": r.text(),
                 "tag": r.text(), "origin": r.text(), "token": r.u64()}
    elif kind == EVENT:
        reply = {"event": r.u32(), "key": r.text(), "object_id": r.u64(), "lease_id": r.u64()}
    else:
        reply = {}
    r.end()
    return reply


class Message:
    """What was received: header, body, and descriptors that it owns."""

    def __init__(self, header, body, descriptors):
        (self.length, self.type, self.flags, self.request_id, self.status,
         self.descriptor_count) = header
        self.body = body
        self.descriptors = descriptors

    def fields(self):
        if self.status != OK:
            reader = Reader(self.body)
            reason = reader.text().decode(errors="replace")
            reader.end()
            raise Failure(self.status, reason)
        return read_body(self.type, self.body)

    def close(self):
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


class Board:
    """The board and the hazard page of a connection. Words are read and written as whole ones: a memoryview of
    64-bit words does that, where the struct module goes byte by byte."""

    WORDS = 64
    HEADER_BYTES, SLOT_BYTES, WAYS = 4096, 1024, 4
    MAGIC = int.from_bytes(b"OMBOARD1", "little")
    (SEQUENCE, HASH, OBJECT, SEGMENT, OFFSET, LENGTH, CREATED, EXPIRES, REVISION, SIZES, TEXT) = range(11)

    def __init__(self, board, page):
        self.page_file = page  # kept open: this is what proves that somebody reads
        self.maps = [mmap.mmap(board, 0, mmap.MAP_SHARED, mmap.PROT_READ),
                     mmap.mmap(page, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)]
        os.close(board)
        self.board, self.page = (memoryview(one).cast("Q") for one in self.maps)
        assert self.board[0] == self.MAGIC, "no board"
        self.sets, self.seed, self.counters = self.board[2], self.board[3], self.board[4]
        self.barrier = threading.Lock()

    @staticmethod
    def hash(seed, key):
        value = seed
        for word in [int.from_bytes(key[at:at + 8], "little") for at in range(0, len(key), 8)] + [len(key)]:
            value = (value ^ word) * 0x9E3779B97F4A7C15 % 2**64
            value ^= value >> 32
        return value

    def alive(self):
        return self.board[1] == 1

    def known(self, key):
        """How many keys like this one somebody has, or writes."""
        place = (self.hash(self.seed, key) >> 32) % self.counters
        return self.maps[0][self.HEADER_BYTES + self.sets * self.WAYS * self.SLOT_BYTES + place]

    def find(self, key):
        """What is shown under the key, with the slot and its sequence; None when nothing is."""
        wanted = self.hash(self.seed, key)
        for way in range(self.WAYS):
            slot = (self.HEADER_BYTES + (wanted % self.sets * self.WAYS + way) * self.SLOT_BYTES) // 8
            words = self.board[slot:slot + self.SLOT_BYTES // 8].tolist()
            if words[self.SEQUENCE] % 2 == 0 or words[self.HASH] != wanted:
                continue
            sizes = words[self.SIZES]
            key_bytes, metadata_bytes, tags_bytes, tags = (sizes >> shift & 0xFFFF for shift in (0, 16, 32, 48))
            text = b"".join(word.to_bytes(8, "little") for word in words[self.TEXT:])
            if text[:key_bytes] != key or key_bytes + metadata_bytes + tags_bytes > len(text):
                continue
            rest = text[key_bytes + metadata_bytes:key_bytes + metadata_bytes + tags_bytes]
            names = []
            while rest:
                names.append(rest[1:1 + rest[0]])
                rest = rest[1 + rest[0]:]
            if len(names) != tags:
                continue
            length = words[self.LENGTH]
            info = {"object_id": words[self.OBJECT], "length": length, "total_bytes": length, "offset": 0,
                    "created_ns": words[self.CREATED], "expires_ns": words[self.EXPIRES],
                    "ephemeral": words[self.REVISION] >> 32 & 1, "tier": 0,
                    "revision": words[self.REVISION] % 2**32,
                    "metadata": text[key_bytes:key_bytes + metadata_bytes], "tags": names}
            return {"slot": slot, "sequence": words[self.SEQUENCE], "info": info, "extents": [
                {"segment": words[self.SEGMENT], "offset": words[self.OFFSET], "length": length}]}
        return None

    def take(self, found):
        """The lease on what was found, an item as in a reply to GET; None: there is none, ask by message."""
        free = [word for word in range(self.WORDS) if self.page[word] == 0]
        if not free or found["info"]["expires_ns"] and found["info"]["expires_ns"] <= time.time_ns():
            return None
        word = free[0]
        self.page[word] = found["info"]["object_id"]
        # Taking a lock is a full barrier: what was written is seen before what is read next.
        with self.barrier:
            pass
        if self.board[found["slot"]] != found["sequence"] or not self.alive():
            self.page[word] = 0
            return None
        gets = self.page[64]
        self.page[256 + gets % 256] = found["info"]["object_id"]
        self.page[64] = gets + 1
        return {"status": OK, "lease_id": BOARD_LEASES + word, "info": found["info"], "extents": found["extents"]}

    def let_go(self, item):
        self.page[item["lease_id"] - BOARD_LEASES] = 0

    def close(self):
        for view in (self.board, self.page):
            view.release()
        for one in self.maps:
            one.close()
        os.close(self.page_file)


class Claims:
    """The table of claims. Python has no compare-and-swap: whoever uses this takes turns with others, as far as a word
    is concerned."""

    WORDS = 8192
    WANTED = 1

    def __init__(self, table, owner, board):
        self.map = mmap.mmap(table, 8 * self.WORDS, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(table)
        self.words = memoryview(self.map).cast("Q")
        self.owner, self.board = owner, board

    def place(self, key):
        return Board.hash(self.board.seed, key) % self.WORDS

    def word(self, key, owner=None):
        return Board.hash(self.board.seed, key) >> 16 << 16 | (owner or self.owner) << 1

    def claim(self, key):
        """False: ask by message."""
        place, mine = self.place(key), self.word(key)
        if self.board.known(key) or self.words[place]:
            return False
        self.words[place] = mine
        with self.board.barrier:
            pass
        if self.board.alive() and (self.board.known(key) == 0 or self.words[place] == mine | self.WANTED):
            return True
        self.words[place] = 0
        return False

    def unclaim(self, key):
        """True: the daemon is to be told."""
        place, mine = self.place(key), self.word(key)
        there = self.words[place]
        if there in (mine, mine | self.WANTED):
            self.words[place] = 0
        return there != mine

    def close(self):
        self.words.release()
        self.map.close()


class Connection:
    """One connection. Segment descriptors are kept by (id, writable), as the page says."""

    def __init__(self, path, hello=True, seconds=20.0, features=0):
        self.socket = socket.socket(socket.AF_UNIX, SEQPACKET)
        self.socket.settimeout(seconds)
        self.next_id = 0
        self.segments = {}  # (id, writable) -> descriptor
        self.sizes = {}
        self.lease_file = None
        self.release_page = None
        self.release_fd = None
        self.board = None
        self.claims = None
        self.events = []
        self.removals = []
        self.other = {}  # replies that came while waiting for another one
        self.hello = None
        try:
            self.socket.connect(path)
            if hello:
                self.hello = self.say_hello(features=features)
        except BaseException:
            self.close()
            raise

    # --- packets

    def send(self, kind, body=b"", request_id=None, flags=0, status=0, descriptors=(),
             length=None, count=None):
        if request_id is None:
            self.next_id += 1
            request_id = self.next_id
        header = HEADER.pack(HEADER.size + len(body) if length is None else length, kind, flags,
                             request_id, status, len(descriptors) if count is None else count)
        self.send_raw(header + body, descriptors)
        return request_id

    def send_raw(self, packet, descriptors=()):
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] \
            if descriptors else []
        self.socket.sendmsg([packet], control)

    def receive(self):
        """The next packet; Closed when the daemon has closed."""
        try:
            packet, ancillary, flags, _ = self.socket.recvmsg(
                PACKET_MAX, socket.CMSG_SPACE(64 * 4), socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise Closed() from error
        descriptors = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[:len(data) - len(data) % numbers.itemsize])
                descriptors += numbers.tolist()
        if not packet:
            raise Closed()
        header = HEADER.unpack_from(packet)
        message = Message(header, packet[HEADER.size:], descriptors)
        assert message.length == len(packet), "length is not the packet's"
        assert message.flags == 1, "a reply without its flag"
        if flags & socket.MSG_CTRUNC == 0:
            assert message.descriptor_count == len(descriptors), "descriptor count"
        return message

    def wait_for(self, request_id):
        """The reply to a request; events and other replies are kept."""
        while request_id not in self.other:
            message = self.receive()
            if message.type == EVENT and message.request_id == 0:
                self.events.append(message.fields())
            elif message.type == REMOVAL and message.request_id == 0:
                self.removals.append(message.fields())
            else:
                self.other[message.request_id] = message
        return self.other.pop(request_id)

    def reply(self, request_id):
        message = self.wait_for(request_id)
        fields = message.fields()
        if message.type == HELLO:
            if fields["with_lease_file"]:
                self.lease_file = message.descriptors.pop(0)
            if fields["features"] & RELEASE_PAGE:
                self.release_fd = message.descriptors.pop(0)
                self.release_page = mmap.mmap(self.release_fd, 4096)
            if fields["features"] & BOARD:
                self.board = Board(message.descriptors.pop(0), message.descriptors.pop(0))
            if fields["features"] & CLAIMS:
                self.claims = Claims(message.descriptors.pop(0), fields["owner"], self.board)
        elif message.type in (REGION, JOIN):
            fields["descriptors"] = message.descriptors
            message.descriptors = []
        else:
            self._keep(fields.get("segments", ()), message)
        message.close()
        return fields

    def call(self, kind, body=b""):
        return self.reply(self.send(kind, body))

    def _keep(self, segments, message):
        for segment in segments:
            key = (segment["id"], segment["writable"])
            self.sizes[key] = segment["size_bytes"]
            if segment["with_descriptor"]:
                old = self.segments.pop(key, None)
                if old is not None:
                    os.close(old)
                self.segments[key] = message.descriptors.pop(0)

    # --- messages

    def say_hello(self, magic=MAGIC, low=1, high=1, name="test", features=0):
        return self.call(HELLO, u32(magic) + u16(low) + u16(high) + u64(features) + text(name))

    @staticmethod
    def get_body(*keys):
        return list_of(text, keys)

    def get(self, *keys):
        return self.call(GET, self.get_body(*keys))["items"]

    def get_by_board(self, key):
        """An item as of get(), without a message; None: ask by one."""
        key = key.encode() if isinstance(key, str) else key
        found = self.board.find(key) if self.board is not None else None
        if found is None:
            return None
        extent, = found["extents"]
        known = (extent["segment"], 0)
        if known not in self.segments or extent["offset"] + extent["length"] > self.sizes[known]:
            return None
        return self.board.take(found)

    def claim(self, key):
        return self.claims.claim(key.encode() if isinstance(key, str) else key)

    def unclaim(self, key):
        if self.claims.unclaim(key.encode() if isinstance(key, str) else key):
            self.send(UNCLAIM, text(key))

    def release(self, *leases):
        self.send(RELEASE, list_of(u64, leases))

    def release_by_page(self, lease):
        """False: the page is full."""
        written, read = (struct.unpack_from("<I", self.release_page, at)[0] for at in (0, 64))
        if (written - read) % 2**32 >= 256:
            return False
        struct.pack_into("<Q", self.release_page, 2048 + written % 256 * 8, lease)
        struct.pack_into("<I", self.release_page, 0, (written + 1) % 2**32)
        return True

    @staticmethod
    def reserve_body(key, length=UNKNOWN, flags=0, expires_ns=0, wait_ms=0, metadata=b"", tags=(), stale=0,
                     revision=0):
        return (text(key) + u64(length) + u32(flags) + u64(expires_ns) + u32(wait_ms) +
                text(metadata) + list_of(text, tags) + u64(stale) + u32(revision))

    def reserve(self, key, length=UNKNOWN, **more):
        return self.call(RESERVE, self.reserve_body(key, length, **more))

    def extend(self, put_id, more):
        return self.call(EXTEND, u64(put_id) + u64(more))

    def hold(self, put_id, more=0):
        return self.call(HOLD, u64(put_id) + u64(more))

    def commit(self, put_id, length):
        return self.call(COMMIT, u64(put_id) + u64(length))

    def refresh(self, put_id, object_id, expires_ns=0, metadata=b"", tags=()):
        return self.call(REFRESH, u64(put_id) + u64(object_id) + u64(expires_ns) + text(metadata) +
                         list_of(text, tags))

    def abort(self, put_id):
        return self.call(ABORT, u64(put_id))

    def room(self, size, at_least=0, leases=0):
        return self.call(ROOM, u64(size) + u64(at_least) + u32(leases))

    @staticmethod
    def body(extent, offset, length, key, flags=0, expires_ns=0, metadata=b"", tags=(), object_id=0,
             removals_seen=2**64 - 1):
        return (u64(extent["segment"]) + u64(offset) + u64(length) + text(key) + u32(flags) +
                u64(expires_ns) + text(metadata) + list_of(text, tags) + u64(object_id) +
                u64(removals_seen))

    def put_bodies(self, room_id, bodies):
        return self.call(PUT, u64(room_id) + u32(len(bodies)) + b"".join(bodies))["items"]

    def put_in_room(self, room_id, *arguments, **more):
        item, = self.put_bodies(room_id, [self.body(*arguments, **more)])
        if item["status"] != OK:
            raise Failure(item["status"], "of a body")
        return item

    def progress(self, put_id, written):
        self.send(PROGRESS, u64(put_id) + u64(written))

    @staticmethod
    def follow_body(lease_id, have_bytes=0, have_room=0, wait_ms=0, have_amended=0):
        return u64(lease_id) + u64(have_bytes) + u64(have_room) + u32(have_amended) + u32(wait_ms)

    def follow(self, lease_id, have_bytes=0, have_room=0, wait_ms=0, have_amended=0):
        return self.call(FOLLOW, self.follow_body(lease_id, have_bytes, have_room, wait_ms, have_amended))

    def amend(self, put_id, length=UNKNOWN, expires_ns=0, metadata=b"", tags=()):
        self.send(AMEND, u64(put_id) + u64(length) + u64(expires_ns) + text(metadata) + list_of(text, tags))

    def delete(self, what, by=BY_KEY):
        return self.call(DELETE, u8(by) + text(what))["removed"]

    def stat(self, key):
        return self.call(STAT, text(key))["info"]

    def list(self, prefix=b"", after=b"", limit=0, flags=0):
        return self.call(LIST, text(prefix) + text(after) + u32(limit) + u32(flags))

    def region(self, owner, memory_bytes, disk_bytes=0):
        return self.call(REGION, text(owner) + u64(memory_bytes) + u64(disk_bytes))

    def region_list(self):
        return self.call(REGION_LIST)["regions"]

    def region_drop(self, owner):
        return self.call(REGION_DROP, text(owner))

    def region_drain(self, owner, on=1):
        return self.call(REGION_DRAIN, text(owner) + u8(on))

    def status(self):
        return {name: (words or number) for name, number, words in self.call(STATUS)["items"]}

    def describe(self, *segments):
        return self.call(DESCRIBE, list_of(u64, segments))["segments"]

    def subscribe(self, events, prefix=b""):
        return self.call(SUBSCRIBE, u32(events) + text(prefix))

    def join(self, name, log_id=0, sequence=0):
        """The reply's descriptor is kept as head_page."""
        reply = self.call(JOIN, text(name) + u64(log_id) + u64(sequence))
        if getattr(self, "head_page", None) is not None:
            os.close(self.head_page)
        (self.head_page,) = reply.pop("descriptors")
        return reply

    def head(self):
        """magic, daemon_epoch, log_id, head of the head page."""
        return struct.unpack("<QQQQ", os.pread(self.head_page, 32, 0))

    @staticmethod
    def remove_body(kind, what, tag=b"", origin=b"", token=0, wait_ms=0):
        return u8(kind) + text(what) + text(tag) + text(origin) + u64(token) + u32(wait_ms)

    def remove(self, kind, what, **more):
        return self.call(REMOVE, self.remove_body(kind, what, **more))

    def ack(self, sequence):
        self.send(ACK, u64(sequence))

    def next_removal(self):
        while not self.removals:
            message = self.receive()
            if message.type == REMOVAL:
                self.removals.append(message.fields())
            else:
                self.other[message.request_id] = message
        return self.removals.pop(0)

    def next_event(self):
        while not self.events:
            message = self.receive()
            if message.type == EVENT:
                self.events.append(message.fields())
            else:
                self.other[message.request_id] = message
        return self.events.pop(0)

    # --- bytes

    def write(self, extents, body):
        """Puts `body` into a put's extents."""
        at = 0
        for extent in extents:
            part = body[at:at + extent["length"]]
            descriptor = self.segments[(extent["segment"], 1)]
            done = 0
            while done < len(part):
                done += os.pwrite(descriptor, part[done:], extent["offset"] + done)
            at += len(part)
        assert at == len(body), "not enough room"

    def read(self, item):
        """The body of an item that is ok."""
        body = b""
        for extent in item["extents"]:
            key = (extent["segment"], 0)
            assert extent["offset"] + extent["length"] <= self.sizes[key], "extent outside"
            part = b""
            while len(part) < extent["length"]:
                more = os.pread(self.segments[key], extent["length"] - len(part),
                                extent["offset"] + len(part))
                assert more, "segment ends early"
                part += more
            body += part
        return body

    def put(self, key, body, **more):
        reserved = self.reserve(key, len(body), **more)
        assert reserved["outcome"] == YOURS
        self.write(reserved["extents"], body)
        return self.commit(reserved["put_id"], len(body))

    def fetch(self, key):
        """The body of an object, and nothing kept; None when there is none."""
        item = self.get(key)[0]
        if item["status"] == NOT_FOUND:
            return None
        if item["status"] != OK:
            raise Failure(item["status"], "in GET")
        body = self.read(item)
        self.release(item["lease_id"])
        return body

    # --- end

    def close(self, keep_lease_file=False):
        self.socket.close()
        for message in self.other.values():
            message.close()
        self.other = {}
        for descriptor in self.segments.values():
            os.close(descriptor)
        self.segments = {}
        if getattr(self, "head_page", None) is not None:
            os.close(self.head_page)
            self.head_page = None
        if self.lease_file is not None and not keep_lease_file:
            os.close(self.lease_file)
            self.lease_file = None
        if self.release_fd is not None:
            self.release_page.close()
            os.close(self.release_fd)
            self.release_fd = None
        if self.claims is not None:
            self.claims.close()
            self.claims = None
        if self.board is not None and not keep_lease_file:
            self.board.close()
            self.board = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def lock_region(descriptor):
    """The owner's lock: exclusive, on byte 0, of the open file description."""
    f_ofd_setlk = 37
    fcntl.fcntl(descriptor, f_ofd_setlk,
                struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))


def map_extent(descriptor, extent):
    """A read-only mapping that covers an extent, and where the extent begins in it."""
    start = extent["offset"] - extent["offset"] % mmap.ALLOCATIONGRANULARITY
    skip = extent["offset"] - start
    return mmap.mmap(descriptor, extent["length"] + skip, mmap.MAP_SHARED, mmap.PROT_READ,
                     offset=start), skip
