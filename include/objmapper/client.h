// The C++ interface to objmapperd.
//
//   auto client = om::Client::connect({});                 // /run/objmapper/objmapper.sock, 1 s
//   client->put({.key = "http://a/x"}, bytes);              // visible to others when it returns
//   auto lease = client->get("http://a/x");                 // optional: a miss is no failure
//   if (lease && *lease) auto body = (*lease)->read_all();  // the bytes stay while the lease lives
//
// A Client is one connection. It may be used by several threads at once; their requests travel
// together and replies are told apart by their number. It never reconnects: after the daemon has
// gone, every call answers kUnavailable, while leases that are held stay readable. Pool (below)
// reconnects, with back-off.
//
// Every call has a time limit: ConnectOptions::timeout, from the call to its reply; a year at most,
// milliseconds::max() too. A call that ran out answers kTimeout and the connection stays usable;
// what its late reply brings is given back.
//
// Do not share a Client across fork(2): the child closes it and connects for itself.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "objmapper/fd.h"
#include "objmapper/result.h"

namespace om {

namespace client {
class Connection;
struct LeaseState;
struct ClaimState;
struct WriterState;
struct FollowerState;
struct PoolState;
}  // namespace client

inline constexpr char kDefaultSocket[] = "/run/objmapper/objmapper.sock";

struct ConnectOptions {
  std::string socket = kDefaultSocket;
  std::chrono::milliseconds timeout{1000};
  std::string name{};  // of the program, for `objm status` and the daemon's log
  // Descriptors of segments that the connection keeps open; one that was closed is asked for again.
  std::size_t descriptors_max = 256;
  // Calls mostly have a shorter time limit than `timeout`, this one: they need not ask the kernel
  // for it each time. 0: not so.
  std::chrono::milliseconds usual_wait{0};
  // Small objects that are asked for often are found in memory that the daemon shares, without
  // asking it, where it lets us (docs/protocol.md, "The board").
  bool board = true;
};

// What is known of an object.
struct ObjectInfo {
  std::uint64_t object_id = 0;
  std::uint64_t length = 0;
  std::uint64_t total_bytes = 0;  // of the whole, where this is a slice of it
  std::uint64_t offset = 0;       // of this slice
  std::uint64_t created_ns = 0;   // since 1970
  std::uint64_t expires_ns = 0;   // since 1970; 0: never
  bool ephemeral = false;         // memory only, gone with a reboot
  bool on_disk = false;
  std::uint32_t revision = 0;  // how often what follows, and expires_ns, was replaced
  std::string metadata{};
  std::vector<std::string> tags{};
};

// Bytes in a file. The descriptor belongs to the Lease or Writer that named it.
struct Slice {
  int fd = -1;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

// The right to an object's bytes. While it lives, they stay where they are and as they are,
// whatever happens to the object, the connection or the daemon. Const calls may run at once.
class [[nodiscard]] Lease {
 public:
  Lease() noexcept;
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&& other) noexcept;
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();  // gives it back

  [[nodiscard]] const ObjectInfo& info() const;
  [[nodiscard]] std::uint64_t size() const;
  [[nodiscard]] std::uint64_t id() const;  // Event::lease_id
  // Whether the daemon was asked for it. False: it was found in shared memory, which says nothing
  // of how the daemon does.
  [[nodiscard]] bool asked() const;
  // The body in its order. Read with pread(2), sendfile(2), splice(2) or mmap(2); descriptors are
  // read-only and shared: do not close them, do not use their file position.
  [[nodiscard]] const std::vector<Slice>& slices() const;
  // Bytes of the body from `offset` on; fewer than asked for only at its end.
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into) const;
  Result<std::string> read_all() const;
  // The whole body to a file, pipe or socket, at its position.
  Result<void> copy_to(int fd) const;
  // The body as memory, valid while the lease lives. Objects in the memory tier are mapped, those
  // on disk are read into memory of the lease (a disk error in a mapping would be a SIGBUS).
  Result<std::vector<std::span<const std::byte>>> map() const;
  // What the bytes lie in: while these are held, what map() has returned stays, and so do the
  // descriptors of slices() that are not of the memory tier, also when the lease is gone. The bytes
  // are right as long as somebody has a lease on the object.
  [[nodiscard]] std::vector<std::shared_ptr<const void>> pins() const;
  // False after a move or release().
  [[nodiscard]] explicit operator bool() const noexcept;
  void release();

 private:
  friend class client::Connection;
  friend class Writer;
  friend void release(std::vector<std::optional<Lease>> leases);
  explicit Lease(std::unique_ptr<client::LeaseState> state) noexcept;
  std::unique_ptr<client::LeaseState> state_;
};

// Gives many back at once, as of get_many(), in as few packets as it takes: letting each go by
// itself costs a packet each.
void release(std::vector<std::optional<Lease>> leases);

struct PutResult {
  std::uint64_t object_id = 0;
  std::uint64_t created_ns = 0;
};

// Every member has an initializer, so that PutOptions{.key = "k"} draws no warning.
struct PutOptions {
  std::string key{};
  std::optional<std::uint64_t> length{};  // nullopt: not known yet
  std::string metadata{};
  std::vector<std::string> tags{};
  std::uint64_t expires_ns = 0;  // since 1970; 0: never. See expires_in()
  bool ephemeral = false;        // memory only, gone with a reboot
  bool disk = false;             // straight to the disk tier
  bool direct = true;            // write to the final place where the daemon lets us
  // reserve_or_get(), reserve_or_follow(): an object that is there and of no use any more, as if it
  // were not there. Of many that say so one writes; it stays until then.
  std::uint64_t stale_object_id = 0;
  std::uint32_t stale_revision = 0;  // its ObjectInfo::revision; another one is of use
  // For reserve() with a length: into memory that the connection has reserved before, where that
  // can be. Cheaper, but the daemon learns of this object at commit() and not before: nobody can
  // wait for it or follow it, it is refused then if at all, and its put begins then where removals
  // for every cache are concerned. put() does so by itself.
  bool ahead = false;
  // With `ahead`: hold() is going to be called on it.
  bool held = false;
  // With `ahead`: the number of the last removal (RemovalDone::sequence, Joined::head) that this
  // was compared with before; the daemon then compares it with later ones at commit(), and refuses
  // with kNotFound. nullopt: as if it had been fetched at commit().
  std::optional<std::uint64_t> removals_seen{};
};
// What is learned of an object after it was reserved; see Writer::amend().
struct Amendment {
  std::optional<std::uint64_t> length{};  // nullopt: not known yet
  std::string metadata{};
  std::vector<std::string> tags{};
  std::uint64_t expires_ns = 0;
};
// For PutOptions::expires_ns: so long from now.
std::uint64_t expires_in(std::chrono::nanoseconds ttl);

// The right to write a key that nobody has, of which the daemon has not heard. Whoever else wants
// the key waits for what comes of it, or follows it: so it is for one who is about to fetch the
// object. Dropped, it ends, and somebody else may have it; so it does with the connection.
class [[nodiscard]] Claim {
 public:
  Claim(Claim&& other) noexcept;
  Claim& operator=(Claim&& other) noexcept;
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  ~Claim();
  // Whether somebody may wait for it already. Not after a move.
  [[nodiscard]] bool wanted() const;

 private:
  friend class Client;
  friend class Writer;
  friend class client::Connection;
  explicit Claim(std::unique_ptr<client::ClaimState> state) noexcept;
  std::unique_ptr<client::ClaimState> state_;
};

// An object on its way in. Nobody sees it before commit(). One thread at a time. Dropped without
// commit() it is aborted, and so it is when this process or the daemon dies.
class [[nodiscard]] Writer {
 public:
  Writer() noexcept;
  Writer(Writer&& other) noexcept;
  Writer& operator=(Writer&& other) noexcept;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer();

  // The next bytes of the body. Beyond a declared length: kMalformed. Of unknown length: room is
  // asked for as needed.
  Result<void> write(std::span<const std::byte> bytes);
  // Where the rest of the body goes that there is room for, to be written by the caller with
  // pwrite(2) or mmap(2); advance() then says how much of it was. Nothing else may be written to.
  [[nodiscard]] std::vector<Slice> slices() const;
  Result<void> advance(std::uint64_t bytes);
  // Room for so many more bytes behind what was written; only with unknown length.
  Result<void> make_room(std::uint64_t bytes);
  // All the room there is, from the first byte of the body on, as memory; mapped once for each
  // segment. Empty where it is none.
  [[nodiscard]] std::vector<std::span<std::byte>> map() const;
  // What that memory lies in: while these are held it stays mapped, also when the writer is gone.
  // The lease of hold() keeps what there was then; room that came later needs these.
  [[nodiscard]] std::vector<std::shared_ptr<const void>> pins() const;
  // Room for so many more bytes, and a lease on them and on what was written: for a writer that
  // goes on using the bytes where they are. It stays, whether the object is published, aborted or
  // orphaned; once it is published, it is a lease on the object. kUnsupported: not to be had for
  // this put; kQuota: the daemon lends no more. Either way the put goes on as before. Its
  // info().object_id is the one that the object will have. Once, and without a message, where the
  // writer is one of reserve_ahead() with PutOptions::held.
  Result<Lease> hold(std::uint64_t bytes);
  [[nodiscard]] std::uint64_t written() const;
  // Of reserve_ahead(), with the key of the claim; any other writer only ends it. It is over when
  // this is committed, and with the answer everybody has the object; else it ends with the writer.
  void take(Claim claim);
  // Lets followers read what was written so far (see Follower). From now on those bytes must stay
  // as they are, and commit() must come with as many at least. Cheap: it waits for nothing.
  Result<void> announce();
  // Says anew what the object is: replaces what PutOptions said, all of it. A length is declared
  // from now on, once. Followers are told. Cheap: it waits for no answer, and for a daemon that
  // reads nothing at the moment no longer than limit() says.
  Result<void> amend(const Amendment& amendment);
  [[nodiscard]] explicit operator bool() const noexcept;

  // How long the daemon may take for each answer from now on, instead of ConnectOptions::timeout;
  // also for reading what has none.
  void limit(std::chrono::milliseconds limit);
  // Publishes: when it returns, readers find it. An object of the same key is replaced.
  Result<PutResult> commit() &&;
  // The same without waiting for it, and without a time limit; after an amend() to `last`, if there
  // is one, in the same system call. `done` is called once: by whichever thread reads the answer,
  // while it waits for one of its own or looks for events, or by this one before the call returns,
  // or when the connection ends. It must be brief, and use nothing of this connection. It is sent
  // when this returns, unless Client::defer() says otherwise; then limit() counts from here, too.
  // Until `done` is called, what is asked of this Client under the same key goes to the daemon
  // behind it: nobody is given what was there before his own put because he need not ask.
  void commit(std::optional<Amendment> last, std::function<void(Result<PutResult>)> done) &&;
  // Instead of commit(): what the key names is still good, is the object of that id, and stays;
  // what is said of it is replaced (expiry, metadata, tags; a length is not looked at). kNotFound:
  // it is gone, or another one by now. `done` as above.
  void refresh(std::uint64_t object_id, const Amendment& says,
               std::function<void(Result<PutResult>)> done) &&;
  Result<void> abort() &&;

 private:
  friend class client::Connection;
  friend std::vector<Result<PutResult>> commit(std::vector<Writer> writers);
  explicit Writer(std::unique_ptr<client::WriterState> state) noexcept;
  std::unique_ptr<client::WriterState> state_;
};

// Commits many at once, in as few packets as it takes: an answer for each, in order. Each is
// published or not, whatever becomes of the others.
std::vector<Result<PutResult>> commit(std::vector<Writer> writers);

// An object that somebody else is writing, read while it is written. What the writer has announced
// is as good as the writer: only a committed object is known to be whole, and one that is aborted
// was never there. One thread at a time.
class [[nodiscard]] Follower {
 public:
  Follower() noexcept;
  Follower(Follower&& other) noexcept;
  Follower& operator=(Follower&& other) noexcept;
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;
  ~Follower();

  // What the writer has said, as far as read() or amended() has learned; length is ~0 where it is
  // not known yet.
  [[nodiscard]] const ObjectInfo& info() const;
  // Waits until the writer has amended what it said when it reserved, or has committed: info() says
  // the same then. False: it has not within `wait`. kNotFound: it gave up or died.
  Result<bool> amended(std::chrono::milliseconds wait);
  // Bytes from `offset` on: at least one, as soon as there is one, at most so many as fit. 0: the
  // object is committed and ends there. kTimeout: nothing more within `wait`. kNotFound: the writer
  // gave up or died, and what was read is no object; reserve again.
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into,
                           std::chrono::milliseconds wait);
  // How long the daemon may take for each answer from now on, beyond what it is asked to wait,
  // instead of ConnectOptions::timeout.
  void limit(std::chrono::milliseconds limit);
  // How much is announced, as far as read() has learned.
  [[nodiscard]] std::uint64_t available() const;
  [[nodiscard]] bool committed() const;
  // Waits until it is committed. kNotFound: aborted, or committed and replaced since.
  Result<Lease> lease(std::chrono::milliseconds wait) &&;
  [[nodiscard]] explicit operator bool() const noexcept;

 private:
  friend class client::Connection;
  explicit Follower(std::unique_ptr<client::FollowerState> state) noexcept;
  std::unique_ptr<client::FollowerState> state_;
};

struct ListOptions {
  std::string prefix{};
  std::string after{};      // the last key of the page before
  std::uint32_t limit = 0;  // 0: as many as fit one page
  bool regions = false;     // objects in regions instead of shared ones
};
struct ListEntry {
  std::string key{};
  std::uint64_t length = 0;
  std::uint64_t created_ns = 0;
  std::uint64_t expires_ns = 0;
  bool on_disk = false;
  std::string url{};  // of a region's object
};
struct ListPage {
  std::vector<ListEntry> entries;  // in the order of their keys' bytes
  bool more = false;
};
// A number, or a text where that is not empty, by name, such as memory_used_bytes.
struct StatusItem {
  std::string name{};
  std::uint64_t number = 0;
  std::string text{};
};

struct RegionRequest {
  std::string owner{};  // "<instance>/<store>"
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
};
struct RegionGrant {
  std::uint64_t region_id = 0;
  bool fresh = true;  // nothing of an earlier life in it
  Fd memory;          // read and write; an open file description of its own
  std::uint64_t memory_bytes = 0;
  Fd directory;  // the region's disk directory; empty without disk
  std::uint64_t disk_bytes = 0;
};
struct RegionEntry {
  std::string owner{};
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
  bool held = false;      // in use at this moment
  std::uint32_t pid = 0;  // of the process that opened it last, 0: not since the daemon's start
};

struct Event {
  enum class Kind : std::uint32_t {
    kPublished = 1,
    kRemoved = 2,
    kRevoked = 4,  // let go of the lease lease_id
    kMissed = 8,   // events were lost because nobody took them in time: look at everything again
  };
  Kind kind = Kind::kMissed;
  std::string key{};
  std::uint64_t object_id = 0;
  std::uint64_t lease_id = 0;
};
// For subscribe(): kinds to be told of.
inline constexpr std::uint32_t kPublishedEvents = 1;
inline constexpr std::uint32_t kRemovedEvents = 2;
inline constexpr std::uint32_t kRevokedEvents = 4;

// --- removals that reach every cache of the machine (docs/protocol.md, JOIN)
enum class RemovalKind : std::uint8_t { kPurge = 1, kBan = 2, kTag = 3, kTagSoft = 4 };
struct RemovalRequest {
  RemovalKind kind = RemovalKind::kPurge;
  std::string what{};       // purge: what keys begin with before '#'; ban: its text; else the tag
  std::string tag{};        // purge: what has this tag as well
  std::string origin{};     // the cache that asks, which sees to itself
  std::uint64_t token = 0;  // the origin's own, comes back in Removal
  std::chrono::milliseconds wait{1000};  // for the caches to acknowledge
};
struct RemovalDone {
  std::uint64_t sequence = 0;
  std::uint64_t time_ns = 0;
  std::uint64_t removed = 0;    // shared objects
  std::uint32_t caches = 0;     // that were joined
  std::uint32_t unapplied = 0;  // of them, without an acknowledgement in time
};
struct Removal {
  std::uint64_t sequence = 0;
  std::uint64_t time_ns = 0;  // since 1970
  RemovalKind kind = RemovalKind::kPurge;
  std::string what{};
  std::string tag{};
  std::string origin{};
  std::uint64_t token = 0;
};
// The number of the last removal that the daemon has recorded, to be looked at without asking it.
class [[nodiscard]] RemovalHead {
 public:
  RemovalHead() noexcept = default;
  RemovalHead(RemovalHead&& other) noexcept;
  RemovalHead& operator=(RemovalHead&& other) noexcept;
  RemovalHead(const RemovalHead&) = delete;
  RemovalHead& operator=(const RemovalHead&) = delete;
  ~RemovalHead();
  static Result<RemovalHead> of(const Fd& page);
  // ~0 once the daemon has ended in order. One load; any thread.
  [[nodiscard]] std::uint64_t head() const noexcept;
  [[nodiscard]] std::uint64_t daemon_epoch() const noexcept;

 private:
  void* page_ = nullptr;
};
struct Joined {
  std::uint64_t log_id = 0;
  std::uint64_t head = 0;     // the last removal
  std::uint64_t applied = 0;  // up to here this cache has applied them
  std::uint64_t from = 0;     // the first that it will be told of
  // Some are not known any more: drop what was taken before, then acknowledge() from - 1. Until
  // then it is told again.
  bool gap = false;
  std::uint64_t floor_ns = 0;  // bans up to this time may not be known any more
  RemovalHead page;
};

struct DaemonInfo {
  std::uint64_t epoch = 0;  // another number after every start of the daemon
  bool may_read = false;
  bool may_write = false;
  bool may_admin = false;
  std::string version{};
};

class [[nodiscard]] Client {
 public:
  // Connects and says HELLO, now. kUnavailable: nobody listens there; kDenied: the socket or the
  // daemon does not let us in; kUnsupported: no protocol version in common.
  static Result<Client> connect(const ConnectOptions& options);
  // Over a connected SOCK_SEQPACKET socket, such as one that was inherited.
  static Result<Client> adopt(Fd socket, const ConnectOptions& options);
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client();

  [[nodiscard]] const DaemonInfo& daemon() const;
  // For poll(2): readable means that next_event() or closed() has something to say.
  [[nodiscard]] int native_handle() const;
  // Whether the daemon has hung up, or the connection broke. Does not block.
  [[nodiscard]] bool closed() const;
  // Ends the connection; calls under way answer kUnavailable. Leases stay readable. Commits that
  // were kept (defer()) are sent before, as they are when the Client goes.
  void close();
  // Takes the answers that have come for those who do not wait for them (Writer::commit() with a
  // function): who sends many, and hardly ever waits for anything, is to look at times. Events are
  // kept. Waits for nothing.
  void look();
  // Commits that nobody waits for, of writers that have room ahead, may go to the daemon together:
  // that saves both sides most of what each would cost. For so long from now they are kept until
  // there are 128, or 8 MiB of them, until this connection asks for something else, or until
  // flush() (bodies of more than 1 MiB are not kept). So they are published later, as if commit()
  // had been called then. Until then other Clients know nothing of them, and may claim their keys;
  // of this one, a get() of such a key goes behind them, and a claim() is not to be had. Who asks
  // for this calls flush() as often as they may be late. 0: not any more. Waits for nothing.
  void defer(std::chrono::milliseconds how_long);
  // Sends what was kept, as far as the socket takes it. How many such commits there were since the
  // last flush(), kept or not: whether it is worth to defer. Waits for nothing.
  std::size_t flush();

  // --- reading. nullopt: no such object.
  Result<std::optional<Lease>> get(const std::string& key);
  // Within so long instead of ConnectOptions::timeout.
  Result<std::optional<Lease>> get(const std::string& key, std::chrono::milliseconds within);
  // An answer for each key, in order, in as few packets as it takes.
  Result<std::vector<std::optional<Lease>>> get_many(const std::vector<std::string>& keys);
  // Within so long in all, instead of ConnectOptions::timeout for each packet.
  Result<std::vector<std::optional<Lease>>> get_many(const std::vector<std::string>& keys,
                                                     std::chrono::milliseconds within);
  Result<std::optional<ObjectInfo>> stat(const std::string& key);
  // Within so long instead of ConnectOptions::timeout.
  Result<std::optional<ObjectInfo>> stat(const std::string& key, std::chrono::milliseconds within);
  Result<ListPage> list(const ListOptions& options);

  // --- writing
  Result<Writer> reserve(const PutOptions& options);
  Result<Writer> reserve(const PutOptions& options, std::chrono::milliseconds within);
  // Without a message, where the daemon lets us (docs/protocol.md, "Claims"): as far as anybody
  // knows, there is no such object, and nobody is writing it. nullopt: ask, by reserve_or_get() or
  // reserve_or_follow().
  std::optional<Claim> claim(const std::string& key);
  // What was claimed: whoever waits for it follows this writer from now on, or gets what it
  // commits. The claim is over in any case.
  Result<Writer> reserve(const PutOptions& options, Claim claim, std::chrono::milliseconds within);
  // The same with `ahead`, for one who puts at a rate and does not want to wait for each: there is
  // a message for each room, not for each body. nullopt: there is no room now, and none was asked
  // for: the body is too large, another thread is asking, or it was refused a moment ago. Where one
  // was asked for beforehand it is waited for, within that time. kNoSpace,
  // kQuota: it was asked for and refused, because memory is full, or because no more is lent; who
  // has given something back since may ask `again`. All else, and nullopt: reserve().
  Result<std::optional<Writer>> reserve_ahead(const PutOptions& options,
                                              std::chrono::milliseconds within, bool again = false);
  // The object, or the right to write it: of many that ask at once for a key that is not there, one
  // writes and the others wait, at most so long: then kTimeout, or kBusy when they would not wait.
  Result<std::variant<Lease, Writer>> reserve_or_get(const PutOptions& options,
                                                     std::chrono::milliseconds wait);
  // The object, or the right to write it, or, where somebody else is writing it, the bytes while
  // they arrive.
  Result<std::variant<Lease, Writer, Follower>> reserve_or_follow(const PutOptions& options);
  // Within so long instead of ConnectOptions::timeout.
  Result<std::variant<Lease, Writer, Follower>> reserve_or_follow(const PutOptions& options,
                                                                  std::chrono::milliseconds within);
  // options.length is not looked at.
  Result<PutResult> put(const PutOptions& options, std::span<const std::byte> body);
  Result<PutResult> put(const PutOptions& options, const std::string& body);
  // False: there was none.
  Result<bool> remove(const std::string& key);
  // Within so long instead of ConnectOptions::timeout.
  Result<bool> remove(const std::string& key, std::chrono::milliseconds within);
  Result<std::uint64_t> remove_prefix(const std::string& prefix);
  Result<std::uint64_t> remove_tag(const std::string& tag);

  // Records it, hides what it is about, and tells every cache. An error: it is not recorded (after
  // kTimeout and kUnavailable that is not known). Takes `wait` at most, and the time of a call.
  Result<RemovalDone> remove_everywhere(const RemovalRequest& request);

  // --- for caches: this connection is the cache of that name from now on. log_id 0: it has begun
  // anew. Then removals come, in their order, at most 256 that are not acknowledged.
  Result<Joined> join(const std::string& name, std::uint64_t log_id, std::uint64_t sequence);
  // nullopt: none within the time.
  Result<std::optional<Removal>> next_removal(std::chrono::milliseconds wait);
  // Everything up to that one is applied. Waits for nothing. False: could not be sent now.
  bool acknowledge(std::uint64_t sequence);

  // --- the daemon
  Result<std::vector<StatusItem>> status();
  Result<RegionGrant> open_region(const RegionRequest& request);
  Result<std::vector<RegionEntry>> list_regions();
  // False: there was none. kBusy while somebody uses it.
  Result<bool> drop_region(const std::string& owner);
  // Its user puts new objects elsewhere (`on`), or here again. False: there was none.
  Result<bool> drain_region(const std::string& owner, bool on);

  // --- events. A mask of k...Events; 0 ends it.
  Result<void> subscribe(std::uint32_t kinds, const std::string& prefix = {});
  // nullopt: none within the time. Events that come while other calls wait are kept (65536 at
  // most).
  Result<std::optional<Event>> next_event(std::chrono::milliseconds wait);

 private:
  explicit Client(std::shared_ptr<client::Connection> connection);
  std::shared_ptr<client::Connection> connection_;
};

// Connections that come back. Hands out a live Client, round robin over at most `connections`; one
// that broke is replaced. After a failure the next attempt waits 10 ms, doubling up to 1 s, with
// jitter; until then client() answers with the last failure at once. Thread-safe.
class [[nodiscard]] Pool {
 public:
  struct Options {
    ConnectOptions connect;
    std::size_t connections = 1;
    // Between attempts; a millisecond at least. Doubles from the one to the other.
    std::chrono::milliseconds backoff_min{10};
    std::chrono::milliseconds backoff_max{1000};
  };
  explicit Pool(Options options);
  Pool(Pool&&) noexcept;
  Pool& operator=(Pool&&) noexcept;
  ~Pool();
  // Never waits longer than connecting may take.
  Result<std::shared_ptr<Client>> client();
  // Keeps trying, with back-off, for so long.
  Result<std::shared_ptr<Client>> wait_for_client(std::chrono::milliseconds wait);
  // What `call(Client&)` says; once more over another connection when the first turned out to be
  // dead. For calls that may be repeated: all but commit() and abort() of a Writer.
  template <class Call>
  auto run(Call call) -> decltype(call(std::declval<Client&>())) {
    for (int attempt = 0;; ++attempt) {
      auto connected = client();
      if (!connected) return connected.error();
      auto answer = call(**connected);
      if (answer || attempt == 1 || answer.error().code != Errc::kUnavailable ||
          !(*connected)->closed())
        return answer;
    }
  }

 private:
  std::unique_ptr<client::PoolState> state_;
};

}  // namespace om
