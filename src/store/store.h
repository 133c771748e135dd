// The store: keys, objects, the two tiers, leases, puts, regions. It knows no sockets and no
// messages; the server (src/server) speaks to peers and calls in here.
//
// Threads: every call is made on one thread, the daemon's loop. Inside there is one worker thread
// for what blocks (copies, disk, faulting memory, catalog syncs), one that syncs the log of
// removals, and one that reads regions when somebody lists what is in them. Their completions make
// wakeup_fd() readable; the loop then calls on_wakeup(), which runs the callbacks.
//
// Callbacks run from on_wakeup() and tick(); that of commit(), open_region(), drop_region() or
// list_region_objects() may also run inside the call itself, as its last act. They may call back
// into the store. The Listener is the exception: it runs in the middle of things and must only take
// notes.
//
// Descriptors: a BorrowedFd that comes out of here is valid until the next call into the store.
// Duplicate it, or put it into a packet, before that.
//
// Life of a PUT: store/put_state.h. Life of an object and its leases: docs/object-lifetime.md.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "base/result.h"
#include "posix/unique_fd.h"
#include "posix/unix_socket.h"  // PeerCredentials
#include "store/removal_log.h"

namespace om::store {

using HolderId = std::uint64_t;
using PutId = std::uint64_t;
using LeaseId = std::uint64_t;
using ObjectId = std::uint64_t;
using SegmentId = std::uint64_t;
using WaitToken = std::uint64_t;

struct DiskConfig {
  std::string path;
  std::uint64_t bytes = 0;  // 0: the file system less five percent
};

// What one peer may have at a time (base/limits.h).
struct HolderLimits {
  std::size_t puts = kPutsPerPeerMax;
  std::size_t leases = kLeasesPerPeerMax;
  // Bytes in puts that are not committed yet; 0: as much as there is.
  std::uint64_t put_bytes = 0;
  // Bytes that leases pin; 0: half of each tier.
  std::uint64_t leased_bytes = 0;
};

struct Config {
  std::uint64_t memory_bytes = std::uint64_t{256} << 20;  // regions and shared memory together
  std::string memory_dir;                                 // tmpfs; made when missing
  std::vector<DiskConfig> disks;                          // may be none: then memory only
  std::string state_dir;                                  // the catalog
  std::uint64_t file_threshold = 64 * 1024;  // disk: from here a file each, below packs
  std::uint64_t segment_bytes = std::uint64_t{64} << 20;  // of the memory tier
  std::uint64_t pack_bytes = std::uint64_t{32} << 20;
  // Objects above this go to disk, where there is one; 0: an eighth of memory_bytes.
  std::uint64_t memory_object_bytes_max = 0;
  // Memory for bodies that untrusted peers are writing; 0: as much as memory_bytes.
  std::uint64_t staging_bytes = 0;
  // At most this many percent of memory_bytes for regions.
  unsigned region_percent_max = 100;
  HolderLimits holder;
  // Of the board (store/board.h). nullopt: what suits memory_bytes; 0: none.
  std::optional<std::uint64_t> board_bytes;
  bool background_faulting = true;
  std::uint64_t sync_interval_ns = std::uint64_t{1'000'000'000};  // group sync of the catalog
  // A leased object that is wanted away (revoked) may be kept this long before its holder is
  // refused other leases.
  std::uint64_t revoke_grace_ns = std::uint64_t{10'000'000'000};
  std::string boot_id;  // empty: the kernel's; tests pretend a reboot with another one
  // For tests: an errno for disk operations ("open", "create", "write", "sync", "still works"), and
  // for what is written down of memory that is held ("held"), to fail with, or 0. Called on both
  // threads.
  std::function<int(const char* operation, const std::string& path)> disk_fault;
};

enum class Tier : std::uint8_t { kMemory = 0, kDisk = 1 };

// The numbers are those of wire::SegmentKind.
enum class SegmentKind : std::uint8_t { kMemory = 0, kFile = 1, kPack = 2, kStaging = 3 };

struct Extent {
  SegmentId segment = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool operator==(const Extent&) const = default;
};

struct ObjectInfo {
  ObjectId object_id = 0;
  std::uint64_t length = 0;
  std::uint64_t total_bytes = 0;  // of the whole, when this is a slice of it; else length
  std::uint64_t offset = 0;       // of the slice in the whole
  std::uint64_t created_ns = 0;   // since 1970
  std::uint64_t expires_ns = 0;   // since 1970; 0: never
  bool ephemeral = false;
  Tier tier = Tier::kMemory;
  std::uint32_t revision = 0;  // how often expiry, metadata and tags were replaced
  std::string metadata;
  std::vector<std::string> tags;
};

// A reader's right to the bytes of `extents`, which stay as they are until release().
struct Leased {
  LeaseId lease_id = 0;
  ObjectInfo info;
  std::vector<Extent> extents;
};

// What a reader needs to find objects by itself (base/board.h): the board, which cannot be written
// through, and the page in which it says what it reads.
struct BoardAccess {
  UniqueFd board;
  UniqueFd page;
};

// What a client needs to claim keys (base/claims.h): the table, to write, and whose its words are.
struct ClaimsAccess {
  UniqueFd table;
  std::uint32_t owner = 0;
};

// A segment as a reader gets it: `descriptor` cannot be written through.
struct SegmentView {
  SegmentId id = 0;
  SegmentKind kind = SegmentKind::kMemory;
  std::uint64_t size_bytes = 0;
  BorrowedFd descriptor{-1};
};

// A segment as a writer gets it. The same id may come again in later puts of this holder (memory
// segments, recycled staging): then the peer has the descriptor already.
struct WritableSegment {
  SegmentId id = 0;
  SegmentKind kind = SegmentKind::kStaging;
  std::uint64_t size_bytes = 0;
  UniqueFd descriptor;
};

struct ReserveRequest {
  std::string key;
  std::optional<std::uint64_t> length;  // nullopt: not known yet
  std::uint64_t expires_ns = 0;
  std::string metadata;
  std::vector<std::string> tags;
  bool ephemeral = false;     // memory only, gone with a reboot
  bool direct = false;        // a trusted peer: gets the final place where there can be one
  bool or_get = false;        // a hit is answered with a lease; one writer at a time
  bool disk = false;          // straight to the disk tier
  bool follow = false;        // or_get: read what somebody else is writing, while it is written
  ObjectId stale_object = 0;  // or_get: to be replaced, as if it were not there; 0: none
  std::uint32_t stale_revision = 0;  // that it was found in: a newer one is there
  bool claimed = false;              // it is what this holder has claimed; not with or_get
};
// Leases for objects to come: lease `lease` + n is on object `object` + n.
struct Lent {
  ObjectId object = 0;
  LeaseId lease = 0;
  std::uint32_t count = 0;
};
// Yours to write: bytes go to `extents` in order, nowhere else.
struct Reserved {
  PutId put_id = 0;
  std::vector<WritableSegment> segments;
  std::vector<Extent> extents;
  Lent lent{};  // of a room: for bodies that are put with these numbers
};
// Somebody is writing this key: the wake callback runs once, when that ended one way or the other;
// then reserve again. The store knows no time limit: cancel_wait() when the caller's is over.
struct Waiting {
  WaitToken token = 0;
};
// Somebody is writing this key, and follow() tells how far it is. The lease keeps the bytes of that
// put where they are, whatever becomes of it, until release().
struct Following {
  LeaseId lease_id = 0;
  ObjectInfo info;  // length: of the put, where that was declared, else ~0
};
using Reservation = std::variant<Reserved, Leased, Waiting, Following>;

enum class FollowedState : std::uint8_t { kWriting, kCommitted, kAborted };
struct Followed {
  // What the follower knows already.
  struct Known {
    std::uint64_t bytes = 0;  // of the body, announced
    std::uint64_t room = 0;   // bytes of the extents that it has
    std::uint32_t amended = 0;
  };
  FollowedState state{};
  std::uint64_t available = 0;      // bytes of the body that its writer has announced
  std::uint32_t amended = 0;        // how often the writer has said anew what it writes
  std::optional<ObjectInfo> info;   // kWriting: what it says now, where that is new
  std::vector<Extent> extents;      // of the body, from byte `room` on
  std::optional<Leased> published;  // kCommitted, and nobody has replaced it yet
  // The body lies in `published` and nowhere else: who cannot have that has nothing.
  bool is_elsewhere = false;
};
using FollowAnswer = std::variant<Followed, Waiting>;

// What a writer has learned since it reserved. Replaces all that it said then.
struct Amendment {
  std::optional<std::uint64_t> length;  // is declared from now on
  std::uint64_t expires_ns = 0;
  std::string metadata;
  std::vector<std::string> tags;
};

struct Extension {
  std::vector<WritableSegment> segments;
  std::vector<Extent> extents;  // only the new ones
};

// What the writer itself has of its put.
struct Held {
  LeaseId lease_id = 0;    // 0: none, see Store::hold
  ObjectId object_id = 0;  // that it is published under
  Extension room;
};

struct Committed {
  ObjectId object_id = 0;
  std::uint64_t created_ns = 0;
};
using CommitDone = std::function<void(Result<Committed>)>;

struct RoomWish {
  std::uint64_t bytes = 0;
  std::uint64_t at_least = 0;  // of which each piece is a multiple
  std::uint32_t leases = 0;    // how many of its bodies shall be held by their writer
};
// A body that lies in a room: `put.length` bytes from `offset` on.
struct RoomBody {
  SegmentId segment = 0;
  std::uint64_t offset = 0;
  ReserveRequest put;
  // One that was lent with the room: whatever becomes of the put, its bytes stay for as long as the
  // lease lasts. 0: the store chooses a number.
  ObjectId object = 0;
  bool held_only = false;  // that, and nothing is published
  bool claimed = false;    // this holder has claimed its key, and that ends
  // The last removal that the writer knows not to be about this body; later ones are compared.
  std::uint64_t removals_seen = ~std::uint64_t{0};
};
using PutDone = std::function<void(std::vector<Result<Committed>>)>;

struct Removed {
  std::uint64_t count = 0;
  // Some were on disk: before anybody is told, sync_removals(), so that power loss does not bring
  // them back.
  bool durable = false;
};

struct Recorded {
  std::uint64_t sequence = 0;
  std::uint64_t time_ns = 0;
  std::uint64_t removed = 0;  // shared objects
};

struct ListItem {
  std::string key;
  std::uint64_t length = 0;
  std::uint64_t created_ns = 0;
  std::uint64_t expires_ns = 0;
  Tier tier = Tier::kMemory;
  std::string url;  // of a region's object
};
struct ListPage {
  std::vector<ListItem> items;  // in the order of their keys' bytes
  bool more = false;
};
using ListDone = std::function<void(Result<ListPage>)>;
// Set once, on any thread: nobody wants the answer any more. nullptr: somebody always does.
using Unwanted = std::shared_ptr<const std::atomic<bool>>;

struct StatusItem {
  std::string name;  // such as memory.used_bytes
  std::uint64_t number = 0;
  std::string text;  // empty: the number is meant
};

struct RegionGrant {
  std::uint64_t region_id = 0;
  bool fresh = false;  // nothing of an earlier life in it
  UniqueFd memory;     // O_RDWR, a description of its own: its owner locks byte 0 of it
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
  std::optional<UniqueFd> directory;  // where disk_bytes is not 0
};
using RegionDone = std::function<void(Result<RegionGrant>)>;
struct RegionInfo {
  std::string owner;
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
  bool held = false;
  std::uint32_t pid = 0;  // that opened it last; 0: not since start
};

enum class EventKind : std::uint8_t { kPublished, kRemoved, kRevoked };
struct Event {
  EventKind kind{};
  std::string_view key;  // valid during the call
  ObjectId object_id = 0;
  LeaseId lease_id = 0;  // kRevoked
  HolderId holder = 0;   // kRevoked: whose lease it is
};
using Listener = std::function<void(const Event&)>;

class Store {
 public:
  // Recovers what was published before: after a restart in the same boot all of it, after another
  // boot what the catalog knows to be durable. Takes a lock on state_dir: kBusy when another
  // process has it. Where it fails, `troubles` gets what take_troubles() would have told: the next
  // start may find nothing of it any more.
  static Result<std::unique_ptr<Store>> open(Config config, const Clock& clock,
                                             std::vector<std::string>* troubles = nullptr);
  // Without shutdown() this is a crash as far as the files are concerned.
  virtual ~Store() = default;
  Store() = default;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // --- holders: one for each session of a peer
  virtual Result<HolderId> open_holder(const PeerCredentials& peer) = 0;
  // The lease file's description that this peer is to be given (O_RDONLY).
  virtual BorrowedFd lease_descriptor(HolderId holder) = 0;
  // A page by which this holder gives leases back without a message (base/release_ring.h), once.
  virtual Result<UniqueFd> release_page(HolderId holder) = 0;
  // Takes what was given back there.
  virtual void collect(HolderId holder) = 0;
  // For a holder that may write into our file system, once. kUnsupported: there is no board.
  virtual Result<BoardAccess> open_board(HolderId holder) = 0;
  // For a holder that has the board, once. kUnsupported: keys cannot be claimed.
  virtual Result<ClaimsAccess> open_claims(HolderId holder) = 0;
  // The session is over: puts are aborted and waits cancelled (without callback) at once; leases
  // stay for as long as the peer's copy of the lease descriptor proves that it lives.
  virtual void close_holder(HolderId holder) = 0;

  // --- reading
  // nullopt: no such object. kQuota: too many leases.
  virtual Result<std::optional<Leased>> get(HolderId holder, std::string_view key) = 0;
  // What is not a lease of this holder is ignored.
  virtual void release(HolderId holder, LeaseId lease) = 0;
  // Of a segment that this holder has a lease in; kNotFound otherwise.
  virtual Result<SegmentView> segment(HolderId holder, SegmentId id) = 0;

  // --- writing
  // `wake` is kept only when the answer is Waiting.
  virtual Result<Reservation> reserve(HolderId holder, ReserveRequest request,
                                      std::function<void()> wake) = 0;
  virtual void cancel_wait(WaitToken token) = 0;
  // Nothing comes of what this holder has claimed: those who wait for it go on.
  virtual void unclaim(HolderId holder, const std::string& key) = 0;
  // What is new for a follower. Nothing, and may_wait: Waiting, and `wake` runs once when there is.
  virtual Result<FollowAnswer> follow(HolderId holder, LeaseId lease, Followed::Known known,
                                      bool may_wait, std::function<void()> wake) = 0;
  // The writer's word that so many bytes are written and stay as they are. What makes no sense is
  // ignored; a commit of fewer bytes fails.
  virtual void progress(HolderId holder, PutId put, std::uint64_t bytes) = 0;
  // What makes no sense (no such put, a second length) is ignored.
  virtual void amend(HolderId holder, PutId put, Amendment amendment) = 0;
  // Room for `more` bytes at least, in a put of unknown length. kMalformed in one of known length.
  virtual Result<Extension> extend(HolderId holder, PutId put, std::uint64_t more) = 0;
  // The same (`more` may be 0), and a lease for the writer, which outlives the put however that
  // ends: its bytes stay where they were written until it is released. For direct puts in the
  // memory tier; kUnsupported for others, and nothing was done. No lease, but room: what was added
  // lies on disk, or the writer may hold no more.
  virtual Result<Held> hold(HolderId holder, PutId put, std::uint64_t more) = 0;
  // Publishes the first `length` bytes. Success or not, the put is over: a put whose length is not
  // the declared one is aborted with kMalformed.
  virtual void commit(HolderId holder, PutId put, std::uint64_t length, CommitDone done) = 0;
  // Instead of commit(): the body of `object`, which is what the put's key names, is still good
  // (RFC 9111, 4.3.4). It stays as it is, under its id, and what is said of it is replaced; its
  // revision rises. kNotFound: the key names nothing or another object by now, or it was removed
  // for every cache since the put began. Success or not, the put is over, and what was written is
  // dropped.
  virtual void refresh(HolderId holder, PutId put, ObjectId object, Amendment says,
                       CommitDone done) = 0;
  virtual Result<void> abort(HolderId holder, PutId put) = 0;
  // Room in memory for bodies to come, of a trusted peer: so many bytes or less, and so many leases
  // or fewer. abort() gives back what is left of it. kUnsupported: no room is so small, or has such
  // a piece; kBusy: rooms have all that they may have; kNoSpace: memory is full, and nobody is
  // asked to let go of anything.
  virtual Result<Reserved> take_room(HolderId holder, const RoomWish& wish) = 0;
  // Whole puts at once: what was written into a room is published. An answer for each body, in
  // order; each is there or is not, whatever becomes of the others.
  virtual void put_in_room(HolderId holder, PutId room, std::vector<RoomBody> bodies,
                           PutDone done) = 0;

  // --- removal: how many there were
  virtual Result<Removed> remove(std::string_view key) = 0;
  virtual Result<Removed> remove_prefix(std::string_view prefix) = 0;
  virtual Result<Removed> remove_tag(std::string_view tag) = 0;

  // --- removals that reach every cache (store/removal_log.h)
  virtual RemovalLog& removals() = 0;
  // Removes what a purge or a tag is about, then records the removal. A put of such a key that is
  // under way can be committed no more. Fails where it cannot be recorded.
  virtual Result<Recorded> record(Removal removal) = 0;
  // Once everything that was recorded is as durable as what it is about.
  virtual void sync_removals(std::function<void(Result<void>)> done) = 0;

  // --- looking
  virtual Result<std::optional<ObjectInfo>> stat(std::string_view key) = 0;
  // Keys greater than `after` that begin with `prefix`; limit 0: 1000.
  virtual Result<ListPage> list(std::string_view prefix, std::string_view after,
                                std::size_t limit) = 0;
  // The objects in regions, by the same rules; keys are varnish:<owner>/<vxid>. All their records
  // are read for it, on a thread of its own. kBusy, and at once: too many such lists are under way.
  // One that is unwanted is not read on, and is kUnavailable.
  virtual void list_region_objects(std::string_view prefix, std::string_view after,
                                   std::size_t limit, Unwanted unwanted, ListDone done) = 0;
  virtual std::vector<StatusItem> status() = 0;
  // What has failed since the last call and somebody has to look at (a disk, the log of removals):
  // each once, as a line of the daemon's log.
  virtual std::vector<std::string> take_troubles() = 0;
  // Asks the holders of leases on `key` to let go (EventKind::kRevoked); how many were asked.
  virtual Result<std::uint64_t> revoke(std::string_view key) = 0;

  // --- regions
  // kBusy: its lock is held. kNoSpace: not to be had, with what there is.
  // Setting memory aside takes time, and so `done` may run later; one at a time for an owner
  // (kBusy).
  virtual void open_region(std::string_view owner, std::uint64_t memory_bytes,
                           std::uint64_t disk_bytes, std::uint32_t pid, RegionDone done) = 0;
  virtual Result<std::vector<RegionInfo>> list_regions() = 0;
  // kNotFound, or kBusy while its lock is held.
  // `done` runs when its memory is there for others.
  virtual void drop_region(std::string_view owner, std::function<void(Result<void>)> done) = 0;
  // Tells its user, also while it is in use, to put new objects elsewhere, or here again.
  virtual Result<void> drain_region(std::string_view owner, bool on) = 0;

  // --- events and the loop
  virtual void set_listener(Listener listener) = 0;
  virtual BorrowedFd wakeup_fd() = 0;
  virtual void on_wakeup() = 0;
  // About ten times a second: expiry, orphan holders, group sync, compaction.
  virtual void tick() = 0;
  // Whether every background job that was asked for is done (for tests).
  virtual bool idle() = 0;
  // Ends the worker, syncs, leaves the mark of a clean end. Nothing may be called after it.
  virtual Result<void> shutdown() = 0;
};

}  // namespace om::store
