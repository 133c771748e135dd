// The messages of docs/protocol.md as types. One message is one SOCK_SEQPACKET packet: a Header of
// 24 bytes, then the fields of the message in the order of its fields() function, little endian,
// strings and lists with a u32 count in front. A message that is too short, too long or breaks a
// limit of base/limits.h is malformed, never guessed at.
//
// No I/O here. A descriptor is "the next one received": messages say how many they bring and in
// which order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/result.h"

namespace om::wire {

inline constexpr std::uint32_t kMagic = 0x50414d4f;  // "OMAP"
inline constexpr std::uint16_t kVersion = 1;
inline constexpr std::uint64_t kUnknownLength = ~std::uint64_t{0};
// An answer has room for all of them.
inline constexpr std::size_t kBodiesPerPutMax = 128;

enum class Type : std::uint16_t {
  kHello = 1,
  kGet = 2,
  kRelease = 3,  // one way: no reply
  kReserve = 4,
  kExtend = 5,
  kCommit = 6,
  kAbort = 7,
  kDelete = 8,
  kStat = 9,
  kList = 10,
  kRegion = 11,
  kRegionList = 12,
  kRegionDrop = 13,
  kStatus = 14,
  kDescribe = 15,
  kSubscribe = 16,
  kEvent = 17,  // from the daemon, unasked: request id 0
  kRegionDrain = 18,
  kFollow = 19,
  kProgress = 20,  // one way: no reply
  kJoin = 21,
  kRemove = 22,
  kRemoval = 23,  // from the daemon, unasked: request id 0
  kAck = 24,      // one way: no reply
  kAmend = 25,    // one way: no reply
  kHold = 26,
  kRefresh = 27,
  kRoom = 30,
  kPut = 31,
  kUnclaim = 32,  // one way: no reply
};

// Header flags.
inline constexpr std::uint16_t kReplyFlag = 1;

// Features that a client asks for in HELLO, and the daemon grants.
inline constexpr std::uint64_t kFeatureReleasePage = 1;  // base/release_ring.h
inline constexpr std::uint64_t kFeatureRoom = 2;         // ROOM and PUT
inline constexpr std::uint64_t kFeatureBoard = 4;        // base/board.h
inline constexpr std::uint64_t kFeatureClaims = 8;       // base/claims.h; with the board alone

struct Header {
  static constexpr std::size_t kBytes = 24;
  std::uint32_t length = 0;  // of the whole packet, header included
  Type type{};
  std::uint16_t flags = 0;
  std::uint64_t request_id = 0;
  Errc status = Errc::kOk;  // in replies; a failed reply's body is one string: the reason
  std::uint32_t descriptors = 0;
};

// --- parts
// ------------------------------------------------------------------------------------------------------------

// Bytes of a segment. Whether they fit the segment is checked where the segment is known.
struct Extent {
  std::uint64_t segment = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  template <class A>
  void fields(A& a) {
    a(segment), a(offset), a(length);
  }
};

enum class SegmentKind : std::uint8_t {
  kMemory = 0,   // shared by many objects, slots are recycled: map it
  kFile = 1,     // a disk file of one object, immutable once published: pread or sendfile it
  kPack = 2,     // a disk file of many small objects, append only
  kStaging = 3,  // a memfd of one PUT; the daemon copies it at commit
  kRegion = 4,   // the memory of a region
};

// A segment that the message speaks of. `with_descriptor`: its descriptor is the next one of the
// packet's.
struct Segment {
  std::uint64_t id = 0;
  std::uint64_t size_bytes = 0;
  std::uint8_t kind = 0;
  std::uint8_t writable = 0;
  std::uint8_t with_descriptor = 0;
  template <class A>
  void fields(A& a) {
    a(id), a(size_bytes), a(kind), a(writable), a(with_descriptor);
  }
};

// What is known of an object. total_bytes and offset are for slices of a larger object: without
// them total is length.
struct ObjectInfo {
  std::uint64_t object_id = 0;
  std::uint64_t length = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t offset = 0;
  std::uint64_t created_ns = 0;  // since 1970
  std::uint64_t expires_ns = 0;  // since 1970; 0: never
  std::uint8_t ephemeral = 0;    // memory only, gone with a reboot
  std::uint8_t tier = 0;         // 0 memory, 1 disk
  std::uint32_t revision = 0;    // how often expires_ns, metadata and tags were replaced
  std::string metadata;
  std::vector<std::string> tags;
  template <class A>
  void fields(A& a) {
    a(object_id), a(length), a(total_bytes), a(offset), a(created_ns), a(expires_ns), a(ephemeral),
        a(tier), a(revision);
    a(metadata, kMetadataBytesMax), a(tags, kTagsMax, kTagBytesMax);
  }
};

// --- HELLO
// ------------------------------------------------------------------------------------------------------------

struct Hello {
  static constexpr Type kType = Type::kHello;
  std::uint32_t magic = kMagic;
  std::uint16_t version_min = kVersion;
  std::uint16_t version_max = kVersion;
  std::uint64_t features = 0;
  std::string name;  // of the program, for people
  template <class A>
  void fields(A& a) {
    a(magic), a(version_min), a(version_max), a(features), a(name, std::size_t{255});
  }
};
struct HelloReply {
  std::uint16_t version = kVersion;
  std::uint64_t features = 0;
  std::uint64_t daemon_epoch = 0;  // another number after every start of the daemon
  std::uint8_t may_read = 0;       // what the daemon's groups allow this peer
  std::uint8_t may_write = 0;
  std::uint8_t may_admin = 0;
  std::uint32_t packet_bytes_max = kPacketBytesMax;
  std::uint32_t descriptors_max = kFdsPerMessageMax;
  std::uint32_t key_bytes_max = kKeyBytesMax;
  std::uint32_t metadata_bytes_max = kMetadataBytesMax;
  std::uint32_t keys_per_get_max = kKeysPerGetMax;
  // Then the reply's one descriptor is this session's lease file: the daemon read-locks byte N of
  // it (F_OFD_SETLK) for a lease on object N. Keep it open while a lease of this connection is in
  // use: that is what proves to the daemon, and to the one after it, that the holder lives.
  // With kFeatureReleasePage in `features` the next one is the release page; with kFeatureBoard the
  // next two are the board and this session's hazard page, which is to be kept open as well; with
  // kFeatureClaims the next one is the table of claims.
  std::uint8_t with_lease_file = 0;
  std::string version_text;
  std::uint32_t owner = 0;  // with kFeatureClaims alone: this session's number in that table
  template <class A>
  void fields(A& a) {
    a(version), a(features), a(daemon_epoch), a(may_read), a(may_write), a(may_admin),
        a(packet_bytes_max);
    a(descriptors_max), a(key_bytes_max), a(metadata_bytes_max), a(keys_per_get_max),
        a(with_lease_file), a(version_text, std::size_t{255});
    if ((features & kFeatureClaims) != 0) a(owner);
  }
};

// --- GET: leases on published objects. Never creates.
// ------------------------------------------------------------------

struct Get {
  static constexpr Type kType = Type::kGet;
  std::vector<std::string> keys;  // 1 to kKeysPerGetMax
  template <class A>
  void fields(A& a) {
    a(keys, kKeysPerGetMax, kKeyBytesMax);
  }
};
struct GetItem {
  std::uint32_t status =
      0;  // an Errc: ok, not found, no space for the answer in this packet (busy: ask again), quota
  std::uint64_t lease_id = 0;
  ObjectInfo info;
  std::vector<Extent> extents;  // in the order of the body
  template <class A>
  void fields(A& a) {
    a(status), a(lease_id), a(info), a(extents, std::size_t{4096});
  }
};
struct GetReply {
  std::vector<Segment> segments;  // those that this connection meets for the first time
  std::vector<GetItem> items;     // one for each key, in order
  template <class A>
  void fields(A& a) {
    a(segments, std::size_t{4096}), a(items, kKeysPerGetMax);
  }
};

// Gives leases back. One way.
struct Release {
  static constexpr Type kType = Type::kRelease;
  std::vector<std::uint64_t> leases;
  template <class A>
  void fields(A& a) {
    a(leases, std::size_t{8192});
  }
};

// --- PUT: reserve, (extend), commit or abort
// ---------------------------------------------------------------------------

inline constexpr std::uint32_t kReserveEphemeral = 1;
inline constexpr std::uint32_t kReserveOrGet =
    2;  // answer a hit when it is there; wait when somebody is writing it
inline constexpr std::uint32_t kReserveDirect =
    4;  // ask for the final place; only trusted peers get it
inline constexpr std::uint32_t kReserveDisk = 8;  // straight to the disk tier
// With kReserveOrGet: follow the put that is under way instead of waiting for its end.
inline constexpr std::uint32_t kReserveFollow = 16;
// What this session has claimed in the table: with this, the claim ends. Also of a body in PUT.
inline constexpr std::uint32_t kReserveClaimed = 32;

struct Reserve {
  static constexpr Type kType = Type::kReserve;
  std::string key;
  std::uint64_t length = 0;  // or kUnknownLength
  std::uint32_t flags = 0;
  std::uint64_t expires_ns = 0;
  std::uint32_t wait_ms = 0;  // kReserveOrGet: how long to wait for another writer
  std::string metadata;
  std::vector<std::string> tags;
  std::uint64_t stale_object_id = 0;  // kReserveOrGet: to be replaced, as if it were not there
  std::uint32_t stale_revision = 0;   // that it was found in
  template <class A>
  void fields(A& a) {
    a(key, kKeyBytesMax), a(length), a(flags), a(expires_ns), a(wait_ms);
    a(metadata, kMetadataBytesMax), a(tags, kTagsMax, kTagBytesMax), a(stale_object_id);
    a(stale_revision);
  }
};
// kFollowing: `hit` has a lease for FOLLOW and what is known of the object; no extents yet.
enum class ReserveOutcome : std::uint8_t { kYours = 0, kHit = 1, kFollowing = 2 };
struct ReserveReply {
  std::uint8_t outcome = 0;
  std::uint64_t put_id = 0;       // kYours
  std::vector<Segment> segments;  // with writable descriptors for kYours
  std::vector<Extent> extents;    // where the body's bytes go, in order; write nowhere else
  GetItem hit;                    // kHit
  template <class A>
  void fields(A& a) {
    a(outcome), a(put_id), a(segments, std::size_t{4096}), a(extents, std::size_t{4096}), a(hit);
  }
};
// More room for a PUT of unknown length. The reply names all that is new.
struct Extend {
  static constexpr Type kType = Type::kExtend;
  std::uint64_t put_id = 0;
  std::uint64_t more_bytes = 0;
  template <class A>
  void fields(A& a) {
    a(put_id), a(more_bytes);
  }
};
struct ExtendReply {
  std::vector<Segment> segments;
  std::vector<Extent> extents;
  template <class A>
  void fields(A& a) {
    a(segments, std::size_t{4096}), a(extents, std::size_t{4096});
  }
};
// More room, where more_bytes is not 0, and a lease for the writer itself on what it writes into:
// it outlives the put.
struct Hold {
  static constexpr Type kType = Type::kHold;
  std::uint64_t put_id = 0;
  std::uint64_t more_bytes = 0;
  template <class A>
  void fields(A& a) {
    a(put_id), a(more_bytes);
  }
};
struct HoldReply {
  std::uint64_t lease_id = 0;   // 0: none, because the bytes will not stay where they are written
  std::uint64_t object_id = 0;  // that the object will have, when it is published
  std::vector<Segment> segments;
  std::vector<Extent> extents;
  template <class A>
  void fields(A& a) {
    a(lease_id), a(object_id), a(segments, std::size_t{4096}), a(extents, std::size_t{4096});
  }
};
struct Commit {
  static constexpr Type kType = Type::kCommit;
  std::uint64_t put_id = 0;
  std::uint64_t length = 0;  // written; must be the declared length where there was one
  template <class A>
  void fields(A& a) {
    a(put_id), a(length);
  }
};
struct CommitReply {
  std::uint64_t object_id = 0;
  std::uint64_t created_ns = 0;
  template <class A>
  void fields(A& a) {
    a(object_id), a(created_ns);
  }
};
// Instead of COMMIT: the object that the key of the put names stays, and this is said of it from
// now on. The reply is a CommitReply.
struct Refresh {
  static constexpr Type kType = Type::kRefresh;
  std::uint64_t put_id = 0;
  std::uint64_t object_id = 0;
  std::uint64_t expires_ns = 0;
  std::string metadata;
  std::vector<std::string> tags;
  template <class A>
  void fields(A& a) {
    a(put_id), a(object_id), a(expires_ns), a(metadata, kMetadataBytesMax);
    a(tags, kTagsMax, kTagBytesMax);
  }
};
struct Abort {
  static constexpr Type kType = Type::kAbort;
  std::uint64_t put_id = 0;
  template <class A>
  void fields(A& a) {
    a(put_id);
  }
};
// Room in memory for bodies to come. ABORT gives back what is left of it.
struct Room {
  static constexpr Type kType = Type::kRoom;
  std::uint64_t bytes = 0;
  std::uint64_t at_least =
      0;  // of which each piece of it is a multiple: the body that is to go there first
  std::uint32_t leases = 0;  // how many bodies of it their writer wants to hold
  template <class A>
  void fields(A& a) {
    a(bytes), a(at_least), a(leases);
  }
};
struct RoomReply {
  std::uint64_t room_id = 0;
  std::vector<Segment> segments;  // to write
  std::vector<Extent> extents;
  // Lent for bodies to come: lease first_lease + n is on object first_object + n.
  std::uint64_t first_object = 0;
  std::uint64_t first_lease = 0;
  std::uint32_t leases = 0;
  template <class A>
  void fields(A& a) {
    a(room_id), a(segments, std::size_t{4096}), a(extents, std::size_t{4096}), a(first_object);
    a(first_lease), a(leases);
  }
};
inline constexpr std::uint32_t kPutHeldOnly = 2;  // not published: its writer keeps the bytes
inline constexpr std::uint64_t kAllRemovalsSeen = ~std::uint64_t{0};
// Publishes bodies that were written into a room: RESERVE and COMMIT in one, for many.
struct PutBody {
  std::uint64_t segment = 0;
  std::uint64_t offset = 0;  // a multiple of 64
  std::uint64_t length = 0;
  std::string key;
  std::uint32_t flags = 0;  // kReserveEphemeral, kPutHeldOnly, kReserveClaimed
  std::uint64_t expires_ns = 0;
  std::string metadata;
  std::vector<std::string> tags;
  std::uint64_t object_id = 0;  // one of those that were lent with the room; 0: the daemon's choice
  // The last removal that the writer has compared this with; later ones the daemon compares.
  std::uint64_t removals_seen = kAllRemovalsSeen;
  template <class A>
  void fields(A& a) {
    a(segment), a(offset), a(length), a(key, kKeyBytesMax), a(flags), a(expires_ns);
    a(metadata, kMetadataBytesMax), a(tags, kTagsMax, kTagBytesMax), a(object_id);
    a(removals_seen);
  }
};
struct Put {
  static constexpr Type kType = Type::kPut;
  std::uint64_t room_id = 0;
  std::vector<PutBody> bodies;  // 1 to kBodiesPerPutMax
  template <class A>
  void fields(A& a) {
    a(room_id), a(bodies, kBodiesPerPutMax);
  }
};
struct PutItem {
  std::uint32_t status = 0;  // an Errc
  std::uint64_t object_id = 0;
  std::uint64_t created_ns = 0;
  template <class A>
  void fields(A& a) {
    a(status), a(object_id), a(created_ns);
  }
};
struct PutReply {
  std::vector<PutItem> items;  // one for each body, in order
  template <class A>
  void fields(A& a) {
    a(items, kBodiesPerPutMax);
  }
};
// Nothing comes of what this session has claimed, and somebody may wait for it. One way.
struct Unclaim {
  static constexpr Type kType = Type::kUnclaim;
  std::string key;
  template <class A>
  void fields(A& a) {
    a(key, kKeyBytesMax);
  }
};
// How many bytes of the body are written and will not change: what followers may read. One way.
struct Progress {
  static constexpr Type kType = Type::kProgress;
  std::uint64_t put_id = 0;
  std::uint64_t bytes = 0;
  template <class A>
  void fields(A& a) {
    a(put_id), a(bytes);
  }
};
// What the writer of a put has learned since RESERVE; replaces what it said there, all of it. A
// length is from now on declared. One way.
struct Amend {
  static constexpr Type kType = Type::kAmend;
  std::uint64_t put_id = 0;
  std::uint64_t length = 0;  // or kUnknownLength
  std::uint64_t expires_ns = 0;
  std::string metadata;
  std::vector<std::string> tags;
  template <class A>
  void fields(A& a) {
    a(put_id), a(length), a(expires_ns), a(metadata, kMetadataBytesMax);
    a(tags, kTagsMax, kTagBytesMax);
  }
};
enum class FollowState : std::uint8_t { kWriting = 0, kCommitted = 1, kAborted = 2 };
// Answers when there is more than have_bytes, when the put was amended more than have_amended
// times, when it has ended, or after wait_ms.
struct Follow {
  static constexpr Type kType = Type::kFollow;
  std::uint64_t lease_id = 0;    // of kFollowing
  std::uint64_t have_bytes = 0;  // that the peer knows to be there
  std::uint64_t have_room = 0;   // bytes of the extents that the peer knows
  std::uint32_t have_amended = 0;
  std::uint32_t wait_ms = 0;
  template <class A>
  void fields(A& a) {
    a(lease_id), a(have_bytes), a(have_room), a(have_amended), a(wait_ms);
  }
};
struct FollowReply {
  std::uint8_t state = 0;
  std::uint64_t available = 0;    // bytes of the body that may be read
  std::uint32_t amended = 0;      // how often
  std::vector<Segment> segments;  // to read
  std::vector<Extent> extents;    // of the body, from byte have_room on
  // kCommitted: a lease on the object, or why there is none. kWriting, and amended is more than
  // have_amended: its info is what the writer says now; there is no lease.
  GetItem hit;
  template <class A>
  void fields(A& a) {
    a(state), a(available), a(amended), a(segments, std::size_t{4096}),
        a(extents, std::size_t{4096}), a(hit);
  }
};
struct Empty {
  template <class A>
  void fields(A& /*a*/) {}
};

// --- removal
// -----------------------------------------------------------------------------------------------------------

enum class DeleteBy : std::uint8_t { kKey = 0, kPrefix = 1, kTag = 2 };
struct Delete {
  static constexpr Type kType = Type::kDelete;
  std::uint8_t by = 0;
  std::string what;
  template <class A>
  void fields(A& a) {
    a(by), a(what, kKeyBytesMax);
  }
};
struct DeleteReply {
  std::uint64_t removed = 0;  // 0 with DeleteBy::kKey comes as status "not found"
  template <class A>
  void fields(A& a) {
    a(removed);
  }
};

// --- looking
// -----------------------------------------------------------------------------------------------------------

struct Stat {
  static constexpr Type kType = Type::kStat;
  std::string key;
  template <class A>
  void fields(A& a) {
    a(key, kKeyBytesMax);
  }
};
struct StatReply {
  ObjectInfo info;
  template <class A>
  void fields(A& a) {
    a(info);
  }
};
inline constexpr std::uint32_t kListRegions =
    1;  // objects of regions (owner's keys) instead of shared ones
struct List {
  static constexpr Type kType = Type::kList;
  std::string prefix;
  std::string after;        // the last key of the page before; empty: from the start
  std::uint32_t limit = 0;  // 0: as many as fit
  std::uint32_t flags = 0;
  template <class A>
  void fields(A& a) {
    a(prefix, kKeyBytesMax), a(after, kKeyBytesMax), a(limit), a(flags);
  }
};
struct ListEntry {
  std::string key;
  std::uint64_t length = 0;
  std::uint64_t created_ns = 0;
  std::uint64_t expires_ns = 0;
  std::uint8_t tier = 0;
  std::string url;  // of a region's object
  template <class A>
  void fields(A& a) {
    a(key, kKeyBytesMax), a(length), a(created_ns), a(expires_ns), a(tier), a(url, kKeyBytesMax);
  }
};
struct ListReply {
  std::vector<ListEntry> entries;  // in the order of their keys' bytes
  std::uint8_t more = 0;
  template <class A>
  void fields(A& a) {
    a(entries, std::size_t{8192}), a(more);
  }
};
struct StatusRequest {
  static constexpr Type kType = Type::kStatus;
  template <class A>
  void fields(A& /*a*/) {}
};
// Numbers and texts by name, such as memory.used_bytes. The names are the Prometheus names' stems.
struct StatusItem {
  std::string name;
  std::uint64_t number = 0;
  std::string text;  // empty: the number is meant
  template <class A>
  void fields(A& a) {
    a(name, std::size_t{255}), a(number), a(text, std::size_t{4096});
  }
};
struct StatusReply {
  std::vector<StatusItem> items;
  template <class A>
  void fields(A& a) {
    a(items, std::size_t{1024});
  }
};

// --- regions
// -----------------------------------------------------------------------------------------------------------

// Opens the owner's region, making it when there is none. The reply brings one writable descriptor
// with an open file description of its own: hold an exclusive OFD lock on its byte 0
// (posix/range_lock.h) for as long as the region is in use.
struct RegionOpen {
  static constexpr Type kType = Type::kRegion;
  std::string owner;  // "<instance>/<store>"
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
  template <class A>
  void fields(A& a) {
    a(owner, kOwnerBytesMax), a(memory_bytes), a(disk_bytes);
  }
};
struct RegionReply {
  std::uint64_t region_id = 0;
  std::uint8_t fresh = 0;  // nothing of an earlier life in it
  Segment memory;          // with_descriptor
  std::uint64_t disk_bytes = 0;
  std::uint8_t with_directory = 0;  // then the next descriptor is the region's disk directory
  template <class A>
  void fields(A& a) {
    a(region_id), a(fresh), a(memory), a(disk_bytes), a(with_directory);
  }
};
struct RegionListRequest {
  static constexpr Type kType = Type::kRegionList;
  template <class A>
  void fields(A& /*a*/) {}
};
struct RegionEntry {
  std::string owner;
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
  std::uint8_t held = 0;  // its lock is held
  std::uint32_t pid = 0;  // of the peer that opened it last, 0: not since the daemon's start
  template <class A>
  void fields(A& a) {
    a(owner, kOwnerBytesMax), a(memory_bytes), a(disk_bytes), a(held), a(pid);
  }
};
struct RegionListReply {
  std::vector<RegionEntry> regions;
  template <class A>
  void fields(A& a) {
    a(regions, std::size_t{1024});
  }
};
// Gives a region's space back. Busy while its lock is held.
struct RegionDrop {
  static constexpr Type kType = Type::kRegionDrop;
  std::string owner;
  template <class A>
  void fields(A& a) {
    a(owner, kOwnerBytesMax);
  }
};

// A region whose owner shall put new objects elsewhere (on = 1), or here again (0). Also while it
// is in use: the daemon sets one word of its header.
struct RegionDrain {
  static constexpr Type kType = Type::kRegionDrain;
  std::string owner;
  std::uint8_t on = 1;
  template <class A>
  void fields(A& a) {
    a(owner, kOwnerBytesMax), a(on);
  }
};

// --- descriptors again, and events
// -----------------------------------------------------------------------------------

// Asks for the descriptors of segments once more: the receiver closed or lost them. The reply is a
// GetReply without items.
struct Describe {
  static constexpr Type kType = Type::kDescribe;
  std::vector<std::uint64_t> segments;
  template <class A>
  void fields(A& a) {
    a(segments, kFdsPerMessageMax);
  }
};
inline constexpr std::uint32_t kEventPublished = 1;
inline constexpr std::uint32_t kEventRemoved = 2;
inline constexpr std::uint32_t kEventRevoked = 4;  // of leases of this connection; whatever prefix
// Always on: this peer did not read and events were lost. Look again, with LIST.
inline constexpr std::uint32_t kEventLost = 8;
struct Subscribe {
  static constexpr Type kType = Type::kSubscribe;
  std::uint32_t events = 0;  // a mask; 0 ends the subscription
  std::string prefix;
  template <class A>
  void fields(A& a) {
    a(events), a(prefix, kKeyBytesMax);
  }
};
struct Event {
  static constexpr Type kType = Type::kEvent;
  std::uint32_t event = 0;
  std::string key;
  std::uint64_t object_id = 0;
  std::uint64_t lease_id = 0;  // kEventRevoked: let go of it
  template <class A>
  void fields(A& a) {
    a(event), a(key, kKeyBytesMax), a(object_id), a(lease_id);
  }
};

// --- removals that reach every cache of the machine
// -----------------------------------------------------------------------------------

enum class RemovalKind : std::uint8_t { kPurge = 1, kBan = 2, kTag = 3, kTagSoft = 4 };

// From now on this connection is the cache of that name: it is told of every removal after the one
// that it says it has applied. log_id 0: it has begun anew and knows nothing; what the daemon knows
// of the name counts then.
struct Join {
  static constexpr Type kType = Type::kJoin;
  std::string name;
  std::uint64_t log_id = 0;
  std::uint64_t sequence = 0;
  template <class A>
  void fields(A& a) {
    a(name, kOwnerBytesMax), a(log_id), a(sequence);
  }
};
// The reply's one descriptor is the head page (docs/protocol.md).
struct JoinReply {
  std::uint64_t log_id = 0;
  std::uint64_t head = 0;      // of the last removal that is recorded; 0: there is none
  std::uint64_t applied = 0;   // up to here this cache has applied them
  std::uint64_t from = 0;      // the first one that it is going to be told of
  std::uint8_t gap = 0;        // some between are not known any more: drop what was taken before
  std::uint64_t floor_ns = 0;  // bans up to this time may not be known any more
  template <class A>
  void fields(A& a) {
    a(log_id), a(head), a(applied), a(from), a(gap), a(floor_ns);
  }
};
struct Remove {
  static constexpr Type kType = Type::kRemove;
  std::uint8_t kind = 0;
  std::string what;         // purge: what keys begin with before '#'; ban: its text; else the tag
  std::string tag;          // purge: objects with this tag as well; empty: none
  std::string origin;       // the cache that asks; it is not waited for
  std::uint64_t token = 0;  // comes back in REMOVAL
  std::uint32_t wait_ms = 0;
  template <class A>
  void fields(A& a) {
    a(kind), a(what, kKeyBytesMax), a(tag, kTagBytesMax), a(origin, kOwnerBytesMax), a(token),
        a(wait_ms);
  }
};
struct RemoveReply {
  std::uint64_t sequence = 0;
  std::uint64_t time_ns = 0;
  std::uint64_t removed = 0;    // shared objects
  std::uint32_t caches = 0;     // that were joined, its origin excepted
  std::uint32_t unapplied = 0;  // of these, without an acknowledgement
  template <class A>
  void fields(A& a) {
    a(sequence), a(time_ns), a(removed), a(caches), a(unapplied);
  }
};
struct Removal {
  static constexpr Type kType = Type::kRemoval;
  std::uint64_t sequence = 0;
  std::uint64_t time_ns = 0;
  std::uint8_t kind = 0;
  std::string what;
  std::string tag;
  std::string origin;
  std::uint64_t token = 0;
  template <class A>
  void fields(A& a) {
    a(sequence), a(time_ns), a(kind), a(what, kKeyBytesMax), a(tag, kTagBytesMax),
        a(origin, kOwnerBytesMax), a(token);
  }
};
// Everything up to this one is applied.
struct Ack {
  static constexpr Type kType = Type::kAck;
  std::uint64_t sequence = 0;
  template <class A>
  void fields(A& a) {
    a(sequence);
  }
};
// The head page: what a cache looks at before it uses a shared object.
struct HeadPage {
  static constexpr std::uint64_t kMagic = 0x314441454852'4d4f;  // "OMRHEAD1"
  static constexpr std::size_t kBytes = 4096;
  std::uint64_t magic;
  std::uint64_t epoch;  // of the daemon
  std::uint64_t log_id;
  std::uint64_t head;  // written atomically; 2^64 - 1 when the daemon has ended in order
};

}  // namespace om::wire
