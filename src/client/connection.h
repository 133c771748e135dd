// One connection to the daemon, shared by the threads that use a Client and by the leases and
// writers that came from it.
//
// A call registers a Waiter, sends its packet and waits. There is no thread of the library's own:
// of the callers that wait, one at a time has the reader's role; it receives packets, decodes each
// (in the order of arrival, because a segment's descriptor comes with the first packet that speaks
// of it) and hands it to its waiter. Who has its own answer passes the role on.
//
// A packet that is not what the protocol says breaks the connection: every call, now and later,
// ends with the reason. Replies that nobody waits for any more (the call had timed out) give back
// what they bring.
//
// What waits for the next call (packets that the socket had no room for, commits that are to go
// together) is sent by one thread at a time, and before anything that is asked later, but for the
// next room. What needs no message knows of no order: a key of which a commit is not answered yet
// needs one.
//
// Lock order: ahead_mutex_, mutex_, the cache's own. Nothing is sent or received under mutex_.
// Nothing else is taken under unanswered_mutex_.
//
// By subject: connection.cc (its making, calls, what waits for the next one), connection_reader.cc,
// connection_events.cc (what comes unasked), connection_segments.cc (where bytes lie),
// connection_board.cc (what needs no message), room.cc, post.cc.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/release_ring.h"
#include "client/board.h"
#include "client/claims.h"
#include "client/deadline.h"
#include "client/segment.h"
#include "objmapper/client.h"
#include "posix/mapping.h"
#include "posix/unique_fd.h"
#include "wire/codec.h"
#include "wire/messages.h"

namespace om::client {

// Somebody who waits for the reply of one request.
class Waiter {
 public:
  Waiter() = default;
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  virtual ~Waiter() = default;

  // In the reader's thread; takes what it wants of the descriptors. An error breaks the connection.
  virtual Result<void> take(Connection& connection, std::span<const std::byte> packet,
                            std::vector<UniqueFd>& descriptors) = 0;

 protected:
  // Nobody waits: concluded() is called instead, without the lock, and ends it.
  explicit Waiter(bool detached) : detached_(detached) {}
  // NOLINTNEXTLINE(performance-unnecessary-value-param): others keep it
  virtual void concluded(std::optional<Error> /*failure*/) {}
  // First of all at the end of whoever may end without having been awaited: from here on the
  // connection does not know of it.
  void abandon() noexcept;

 private:
  friend class Connection;
  const bool detached_ = false;
  Connection* connection_ = nullptr;  // from submit to the end of await(); not of a detached one
  std::uint64_t id_ = 0;
  wire::Type type_{};
  bool waits_ = false;   // in await(), for the reader or for its role
  bool taking_ = false;  // the reader is in take(): wait for done_, whatever the time
  bool done_ = false;
  std::optional<Error> failure_;
  std::condition_variable wake_;
};

// A request whose answer is for a function.
template <class Reply>
class Later final : public Waiter {
 public:
  using Done = std::function<void(Result<Reply>)>;
  explicit Later(Done done) : Waiter(true), done_(std::move(done)) {}
  Result<void> take(Connection& /*connection*/, std::span<const std::byte> packet,
                    std::vector<UniqueFd>& /*received*/) override {
    reply_ = OM_TRY(wire::decode_body<Reply>(packet));
    return {};
  }

 private:
  void concluded(std::optional<Error> failure) override {
    const std::unique_ptr<Later> self(this);
    done_(failure ? Result<Reply>(*std::move(failure)) : Result<Reply>(std::move(reply_)));
  }
  const Done done_;
  Reply reply_;
};

// Room that the daemon has given us for bodies to come. Its rest goes back when the last body in it
// is done with.
struct Room {
  static constexpr std::uint64_t kGranule = 64;
  static constexpr std::uint64_t rounded(std::uint64_t length) {
    return (length + kGranule - 1) / kGranule * kGranule;
  }
  Room(Connection& owner, const wire::RoomReply& reply)
      : connection(owner),
        id(reply.room_id),
        first_object(reply.first_object),
        first_lease(reply.first_lease),
        leases(reply.leases) {}
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  ~Room();
  Connection& connection;
  const std::uint64_t id;
  // Lent with it, for bodies to come.
  const std::uint64_t first_object;
  const std::uint64_t first_lease;
  const std::uint32_t leases;
  std::uint32_t lent = 0;              // how many of them have a body; the connection's, under lock
  std::atomic<std::uint64_t> left{0};  // bytes that were not put; without any it is over by itself
};
// A part of it, for one body. Not to outlive the connection.
struct Ahead {
  std::shared_ptr<Room> room;
  SegmentRef segment;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t object_id = 0;  // lent for it; 0: none
  std::uint64_t lease_id = 0;
};
// A body in it whose commit nobody waits for, and which may go with others (post.cc).
struct Post {
  Ahead ahead;
  wire::PutBody body;
  std::function<void(Result<PutResult>)> done;
  Deadline deadline{};                   // for sending it
  std::optional<std::uint64_t> claim{};  // hash of its key, where this connection has claimed it
  std::size_t bytes = 0;                 // of the body's words in a packet
};
struct AheadWish {
  std::uint64_t length = 0;
  bool held = false;     // with a lease
  bool at_once = false;  // from the first body on; the next room is asked for before it is needed
  bool again = false;    // something was given back since it was refused
  Deadline deadline{};   // for a room that has to be asked for
};

template <class Reply>
class Call final : public Waiter {
 public:
  ~Call() override { abandon(); }
  Reply reply;
  std::vector<SegmentRef> segments;   // those whose descriptors came with the reply
  std::vector<UniqueFd> descriptors;  // that are no segment's

  Result<void> take(Connection& connection, std::span<const std::byte> packet,
                    std::vector<UniqueFd>& received) override;
};

class Connection : public std::enable_shared_from_this<Connection> {
  friend class Waiter;

 public:
  // Says HELLO over a connected socket.
  static Result<std::shared_ptr<Connection>> start(UniqueFd socket, const ConnectOptions& options);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  [[nodiscard]] const DaemonInfo& daemon() const { return daemon_; }
  [[nodiscard]] int socket() const { return socket_.raw(); }
  [[nodiscard]] std::chrono::milliseconds timeout() const { return timeout_; }
  [[nodiscard]] std::size_t keys_per_get_max() const { return keys_per_get_max_; }
  [[nodiscard]] bool closed() const;
  void close();
  // How many requests wait for their answers.
  [[nodiscard]] std::size_t under_way();

  // Sends the request and waits for its reply.
  template <class Request, class Reply>
  Result<void> call(const Request& request, Call<Reply>& call, Deadline deadline) {
    return exchange(call, Request::kType, wire::encode_request(next_id(), request), deadline);
  }
  template <class Request, class Reply>
  Result<void> call(const Request& request, Call<Reply>& waiting) {
    return call(request, waiting, deadline_in(timeout_));
  }
  // The same in two steps, so that several may be under way: every call that was begun well is to
  // be awaited. One that ends before (an exception came in between) is forgotten, and so is its
  // answer.
  template <class Request, class Reply>
  Result<void> begin(const Request& request, Call<Reply>& waiting, Deadline deadline) {
    return submit(waiting, Request::kType, wire::encode_request(next_id(), request), deadline);
  }
  Result<void> await(Waiter& waiter, Deadline deadline);
  // The same, and whoever reads the answer calls `done`; not when it could not be sent. `before`
  // is the packet of a request without an answer, which goes along.
  template <class Request, class Reply>
  Result<void> call_later(const Request& request, typename Later<Reply>::Done done,
                          Deadline deadline, const std::string& before = {}) {
    const std::string packet = wire::encode_request(next_id(), request);
    auto later = std::make_unique<Later<Reply>>(std::move(done));
    OM_TRY(submit(*later, Request::kType, packet, deadline, before));
    (void)later.release();  // ends itself; it may be over already
    return {};
  }
  template <class Request>
  std::string encode(const Request& request) {
    return wire::encode_request(next_id(), request);
  }
  // Sends the request; its reply, if one comes, is of no interest. Waits for nobody: what cannot be
  // sent now goes before the next call, and before all that is posted in this way later.
  template <class Request>
  void post(const Request& request) {
    post_or_keep(wire::encode_request(next_id(), request));
  }
  // The same, until then or not at all (false).
  template <class Request>
  bool post(const Request& request, Deadline until) {
    return post_packet(wire::encode_request(next_id(), request), until);
  }

  // Gives leases back: through the page that the daemon looks at, else in packets; those that
  // cannot be sent now go with the next call. Waits for nobody.
  void release(std::vector<std::uint64_t> leases);
  // The same at the end of what has it: where there is no memory for a packet, it is the daemon's
  // again when the connection ends.
  void release_one(std::uint64_t lease) noexcept;
  // At the end of what the daemon has to hear of, and cannot, for want of memory: the connection
  // ends, and with it all that the daemon keeps for it. What is leased stays.
  void end_for_lack_of_memory() noexcept;
  // What the daemon's board shows under the key, unless that is `stale` in that revision. nullopt:
  // ask the daemon.
  std::optional<Lease> get_by_board(const std::string& key, std::uint64_t stale = 0,
                                    std::uint32_t stale_revision = 0);
  // A lease that came from there.
  void let_go(std::size_t word) { board_->let_go(word); }
  // The right to write the key, where nobody has it or writes it. nullopt: ask the daemon.
  std::optional<Claim> claim(const std::string& key);
  // For `done` of a commit that nobody waits for, to be used in its place: until it is called,
  // get_by_board() and claim() are nullopt for its key.
  std::function<void(Result<PutResult>)> until_answered(
      std::uint64_t key_hash, std::function<void(Result<PutResult>)> done);
  [[nodiscard]] std::uint64_t hash_of(const std::string& key) const;
  [[nodiscard]] bool is_wanted(const ClaimState& claim) const;
  void unclaim(std::uint64_t hash, const std::string& key);
  // Builds a Lease from an answer, asking once more for descriptors that are not there.
  Result<Lease> make_lease(wire::GetItem item, const std::vector<SegmentRef>& with_reply,
                           std::optional<Deadline> deadline = {});
  // Whether we have all descriptors that the reservation is to be written through. If not (they
  // were closed to make room, or did not come in for want of it), it was aborted and the daemon
  // knows that the descriptor has to come again: reserve anew.
  Result<bool> reservation_is_complete(std::uint64_t put_id,
                                       const std::vector<wire::Extent>& extents,
                                       const std::vector<SegmentRef>& with_reply);
  Result<Writer> make_writer(const PutOptions& options, const wire::ReserveReply& reply,
                             const std::vector<SegmentRef>& with_reply);
  // Room for a body, reserved before. nullopt: there is none, and none was asked for; an error: it
  // was, and was refused. Either way, reserve.
  Result<std::optional<Ahead>> take_ahead(const AheadWish& wish);
  Writer make_writer(const PutOptions& options, Ahead ahead);
  // It is not to be published, and is held: its bytes are its lease's from now on, not the room's.
  void leave(const Ahead& ahead);

  // post.cc. Until then, commits that nobody waits for are kept, so that several go together.
  void defer(Deadline until);
  // Keeps this one, which is of room ahead, or sends it with those that are kept. False: none is
  // kept now, and all is as it was.
  bool keep(WriterState& state, std::function<void(Result<PutResult>)>& done);
  // Sends what waits for the next call. How many commits were to be kept since the last time,
  // whether they were or not.
  std::size_t flush();
  // Nobody flushes any more, though writers and leases may keep the connection.
  void end_posts();
  Follower make_follower(wire::GetItem item);
  Result<std::optional<Event>> next_event(Deadline deadline);
  Result<std::optional<Removal>> next_removal(Deadline deadline);
  // Reads what has come, without waiting, where nobody does.
  void look();
  void subscribed(bool to_something) { subscribed_ = to_something; }
  // Nobody will ask for events any more, though leases may keep the connection.
  void end_subscription() noexcept;

  // The reader's side of a reply that names segments: owns their descriptors, remembers them.
  Result<std::vector<SegmentRef>> adopt_segments(const std::vector<wire::Segment>& segments,
                                                 std::vector<UniqueFd>& descriptors);
  // The segment, from the reply, the cache or the daemon. Extents are checked to fit by check().
  Result<SegmentRef> segment(std::uint64_t id, bool writable, const std::vector<SegmentRef>& first,
                             std::optional<Deadline> deadline = {});
  // Adds the segment to those of a reply where the cache has it.
  void know(std::uint64_t id, std::vector<SegmentRef>& with_reply);
  static Result<void> check(const wire::Extent& extent, const Segment& segment);
  [[nodiscard]] SegmentCache& cache() { return cache_; }

 private:
  Connection(UniqueFd socket, const ConnectOptions& options);
  std::uint64_t next_id() { return next_id_.fetch_add(1, std::memory_order_relaxed); }
  Result<void> hello(const ConnectOptions& options);
  Result<void> exchange(Waiter& waiter, wire::Type type, const std::string& packet,
                        Deadline deadline) {
    OM_TRY(submit(waiter, type, packet, deadline));
    return await(waiter, deadline);
  }
  Result<void> submit(Waiter& waiter, wire::Type type, const std::string& packet, Deadline deadline,
                      const std::string& before = {});
  // The same ahead of what waits for the next call.
  Result<void> submit_now(Waiter& waiter, wire::Type type, const std::string& packet,
                          Deadline deadline, const std::string& before = {});
  // False: the socket did not take all of it in time.
  Result<bool> send(const std::string& before, const std::string& packet, Deadline deadline);
  // How many of these, the first ones, went by the page.
  std::size_t release_by_page(std::span<const std::uint64_t> leases);
  bool post_packet(const std::string& packet, Deadline until);
  void post_or_keep(std::string packet);
  void send_kept(Deadline until);
  void flush_unsent(Deadline until);
  // post.cc
  std::list<Post> take_posts();                                         // under the lock
  bool send_posts(std::unique_lock<std::mutex>& lock, Deadline until);  // for send_kept()
  Result<void> put_together(std::list<Post>& posts, Deadline until);
  void fail(std::list<Post> posts, const Error& why);
  // With the reader's role and without the lock: receives one packet, if one comes in time, and
  // delivers it. False: none came. Throws nothing: the role has to be passed on.
  bool read_one(Deadline deadline) noexcept;
  bool receive_one(Deadline deadline);
  void deliver(std::span<const std::byte> packet, std::vector<UniqueFd> descriptors,
               bool descriptors_lost);
  void deliver_event(std::span<const std::byte> packet);
  void deliver_removal(std::span<const std::byte> packet);
  // What `take` finds, under the lock, in what has come; receives meanwhile.
  template <class T, class Take>
  Result<std::optional<T>> next(Deadline deadline, Take take);
  // A reply that nobody waits for any more.
  void give_back(const wire::Header& header, std::span<const std::byte> packet,
                 std::vector<UniqueFd> descriptors);
  void break_off(const Error& reason);  // takes the lock
  void pass_role_on();                  // under the lock
  bool forget(Waiter& waiter);          // under the lock; false: was not registered any more
  void abandon(Waiter& waiter) noexcept;
  [[nodiscard]] bool is_unanswered(std::uint64_t key_hash);
  void answered(std::uint64_t key_hash);

  // room.cc; under ahead_mutex_
  [[nodiscard]] bool keeps_more_than(std::uint64_t bytes);  // post.cc
  [[nodiscard]] wire::Room room_wish(std::uint64_t whole) const;
  [[nodiscard]] bool uses_up_soon(Deadline now) const;
  static bool is_good_for(const Ahead& piece, const AheadWish& wish);
  std::optional<Ahead> cut_ahead(const AheadWish& wish);
  void ask_for_next(const AheadWish& wish);
  // Lets go of the lock meanwhile. `asked`: where it was asked for before.
  Result<std::vector<Ahead>> obtain_room(std::unique_lock<std::mutex>& lock,
                                         std::unique_ptr<Call<wire::RoomReply>> asked,
                                         std::uint64_t whole, Deadline deadline);
  // Without it.
  Result<std::vector<Ahead>> pieces_of(const Call<wire::RoomReply>& came);

  UniqueFd socket_;
  UniqueFd lease_file_;  // its locks prove that our leases live; closed with the last of them
  const std::chrono::milliseconds timeout_;
  std::chrono::milliseconds receive_limit_;  // the socket's own
  DaemonInfo daemon_;
  std::size_t keys_per_get_max_ = 1;
  std::atomic<std::uint64_t> next_id_{1};
  SegmentCache cache_;
  std::vector<std::byte> buffer_;  // the reader's

  std::mutex mutex_;
  bool reading_ = false;  // somebody has the reader's role
  std::vector<Waiter*> waiters_;
  std::optional<Error> broken_;
  std::atomic<bool> is_broken_{false};
  std::atomic<bool> subscribed_{false};
  std::deque<Event> events_;
  bool events_missed_ = false;
  std::deque<Removal> removals_;
  std::size_t event_waiters_ = 0;
  std::condition_variable event_wake_;
  // Since HELLO; null: there is none.
  std::unique_ptr<Board> board_;
  std::unique_ptr<Claims> claims_;
  // Commits that nobody waits for, by the hash of their key, where there is a board.
  std::mutex unanswered_mutex_;
  std::unordered_map<std::uint64_t, std::uint32_t> unanswered_;  // guarded by unanswered_mutex_
  std::atomic<bool> has_unanswered_{false};
  Mapping release_page_;
  std::mutex release_mutex_;  // who writes to it
  // What goes with the next call.
  std::vector<std::uint64_t> unreleased_;  // leases
  std::deque<std::string> unposted_;       // packets, in the order in which they are to go
  std::list<Post> posts_;                  // behind those
  std::size_t post_bytes_ = 0;             // of all of these
  std::uint64_t post_body_bytes_ = 0;
  bool posting_ = false;            // a thread is sending the first of them
  std::condition_variable posted_;  // none is any more
  std::atomic<bool> has_unsent_{false};
  Deadline defer_until_{};
  std::size_t post_count_ = 0;  // since flush()

  bool room_granted_ = false;  // since HELLO
  std::mutex ahead_mutex_;     // before mutex_; guards the rest, and Room::lent
  unsigned puts_ = 0;
  bool holds_ = false;                 // rooms come with leases
  bool asking_ = false;                // a thread waits for a room
  bool reading_next_ = false;          // for next_room_, that is
  std::condition_variable room_came_;  // or did not
  Deadline refused_at_{};
  std::uint64_t last_room_ = 0;                       // its bytes
  Deadline room_came_at_{};                           // the last one
  std::unique_ptr<Call<wire::RoomReply>> next_room_;  // asked for, not awaited yet
  bool next_lends_ = false;                           // with leases
  // Last: gives its rooms back through all of the above.
  std::vector<Ahead> free_ahead_;
};

template <class Reply>
Result<void> Call<Reply>::take(Connection& connection, std::span<const std::byte> packet,
                               std::vector<UniqueFd>& received) {
  reply = OM_TRY(wire::decode_body<Reply>(packet));
  if constexpr (requires(Reply & r) { r.segments; })
    segments = OM_TRY(connection.adopt_segments(reply.segments, received));
  descriptors = std::move(received);
  return {};
}

}  // namespace om::client
