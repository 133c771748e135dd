// One connection: packets in, calls into the store, packets out.
//
//   new        until HELLO; nothing else is answered       (a holder in the store is opened by
//   HELLO) greeted    requests are answered, in whatever order they are done closed     by the
//   peer, by a malformed packet or by the daemon's end: the holder is closed,
//              which aborts puts and cancels waits; leases stay for as long as the peer lives
//
// Lives on the loop's thread, in a shared_ptr that the server owns; what finishes later (a commit,
// a wait) holds a weak_ptr. Backpressure: while the peer does not read its replies, we do not read
// its requests (update_interest).
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "loop/loop.h"
#include "posix/unique_fd.h"
#include "server/outbox.h"
#include "server/shared.h"
#include "wire/codec.h"
#include "wire/messages.h"

namespace om::server {

class Session : public std::enable_shared_from_this<Session> {
 public:
  // `ended` is called once, at the end of a turn of work, when the session may be dropped.
  static Result<std::shared_ptr<Session>> start(Shared& shared, UniqueFd socket,
                                                std::function<void(Session&)> ended);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session();

  // An event of the store, for a subscriber.
  void on_event(std::uint32_t event, const std::string& key, std::uint64_t object_id,
                std::uint64_t lease_id);
  [[nodiscard]] bool wants(std::uint32_t event, std::string_view key) const;
  [[nodiscard]] std::uint64_t holder() const { return holder_.value_or(0); }
  // Tries again what the kernel refused for a lack of memory or of descriptors under way.
  void retry();
  [[nodiscard]] bool starved() const { return outbox_.starved(); }
  void look() { outbox_.look(); }
  [[nodiscard]] pid_t pid() const { return peer_.pid; }
  // Ends the connection. Not while it is handling something.
  void hang_up() { close(); }
  // A removal, for a cache that has joined. False: there is no room for it now; it will be asked
  // for again.
  bool on_removal(const store::Removal& removal);
  void removed_everywhere(std::uint64_t id, const Result<wire::RemoveReply>& answer);

 private:
  struct Wait {
    std::uint64_t request_id = 0;
    wire::Reserve request;
    store::WaitToken token = 0;
    Timer timer;
  };
  struct FollowWait {
    store::WaitToken token = 0;
    Timer timer;
  };
  // A reply's segments, and the descriptors that go with it.
  struct SegmentsOut {
    std::vector<wire::Segment> segments;
    std::vector<UniqueFd> descriptors;
  };

  Session(Shared& shared, UniqueFd socket, PeerCredentials peer, Rights rights,
          std::function<void(Session&)> ended);
  void on_ready(std::uint32_t events);
  void read_packets();
  void read_backlog();
  [[nodiscard]] bool may_read();
  void on_received(std::span<const std::byte> packet, std::size_t descriptors,
                   const std::optional<Error>& problem);
  void on_packet(std::span<const std::byte> packet, std::size_t descriptors);
  void dispatch(const wire::Header& header, std::span<const std::byte> packet);
  template <class T>
  void handle(const wire::Header& header, std::span<const std::byte> packet,
              void (Session::*call)(std::uint64_t, T));
  [[nodiscard]] bool may(wire::Type type) const;
  void close();
  void finish_turn();
  void update_interest();

  // Requests; session_objects.cc and session_other.cc.
  void hello(std::uint64_t id, const wire::Hello& request);
  void get(std::uint64_t id, const wire::Get& request);
  void release(std::uint64_t id, const wire::Release& request);
  void reserve(std::uint64_t id, wire::Reserve request);
  void extend(std::uint64_t id, wire::Extend request);
  void hold(std::uint64_t id, wire::Hold request);
  void refresh(std::uint64_t id, wire::Refresh request);
  void commit(std::uint64_t id, wire::Commit request);
  void abort(std::uint64_t id, const wire::Abort& request);
  void remove(std::uint64_t id, const wire::Delete& request);
  void stat(std::uint64_t id, const wire::Stat& request);
  void list(std::uint64_t id, const wire::List& request);
  void listed(std::uint64_t id, Result<store::ListPage> page);
  void region(std::uint64_t id, const wire::RegionOpen& request);
  void region_opened(std::uint64_t id, store::RegionGrant opened);
  void region_list(std::uint64_t id, wire::RegionListRequest request);
  void region_drop(std::uint64_t id, const wire::RegionDrop& request);
  void region_drain(std::uint64_t id, const wire::RegionDrain& request);
  void status(std::uint64_t id, wire::StatusRequest request);
  void describe(std::uint64_t id, const wire::Describe& request);
  void subscribe(std::uint64_t id, wire::Subscribe request);

  void reserve_now(std::uint64_t id, wire::Reserve request, std::uint64_t wait_key);
  // Answers with a put or a room, `message`, and with where it lies.
  template <class T>
  void reserved(wire::Type type, std::uint64_t id, store::Reserved reserved, T message);
  void hit(std::uint64_t id, store::Leased leased);
  void following(std::uint64_t id, store::Following following);
  void follow(std::uint64_t id, wire::Follow request);
  void followed(std::uint64_t id, store::Followed answer);
  void progress(std::uint64_t id, wire::Progress request);
  void amend(std::uint64_t id, wire::Amend request);
  void unclaim(std::uint64_t id, const wire::Unclaim& request);
  void room(std::uint64_t id, wire::Room request);
  void put(std::uint64_t id, wire::Put request);
  // Turns a lease into an item of a reply that has `bytes_left` of room. Where it does not fit, or
  // a descriptor cannot be had, the lease is given back and the item says so.
  wire::GetItem take(store::Leased leased, SegmentsOut& out, std::size_t& bytes_left);
  std::optional<Error> add_segment(store::SegmentId id, SegmentsOut& out);
  void add_writable(std::vector<store::WritableSegment> segments, SegmentsOut& out);
  // It does not go out: these descriptors have to be sent another time.
  void forget(const SegmentsOut& out);
  // Answers with more room for a put, as EXTEND and HOLD do.
  template <class T>
  void reply_with_room(std::uint64_t id, store::PutId put, store::Extension room, T message);
  // How many more descriptors may go to this peer now.
  [[nodiscard]] std::size_t descriptor_budget();

  // session_removals.cc
  void join(std::uint64_t id, const wire::Join& request);
  void remove_everywhere(std::uint64_t id, wire::Remove request);
  void acknowledge(std::uint64_t id, wire::Ack request);

  template <class T>
  void reply(wire::Type type, std::uint64_t id, const T& message,
             std::vector<UniqueFd> descriptors = {});
  void refuse(wire::Type type, std::uint64_t id, const Error& error);
  // The peer does not speak our protocol: says so, and ends the connection.
  void malformed(wire::Type type, std::uint64_t id, const std::string& why);
  void send(OutPacket packet);

  Shared& shared_;
  UniqueFd socket_;
  PeerCredentials peer_;
  Rights rights_;
  std::shared_ptr<Account> account_;
  Outbox outbox_;
  std::function<void(Session&)> ended_;
  Watch watch_;
  std::uint32_t interest_ = 0;
  bool interest_reads_ = true;
  bool reading_ = true;
  // Requests that had been received when we stopped reading.
  struct Received {
    std::vector<std::byte> bytes;
    std::size_t descriptors = 0;
    std::optional<Error> problem;
  };
  std::deque<Received> backlog_;
  bool closed_ = false;
  bool in_turn_ = false;
  std::optional<store::HolderId> holder_;  // from HELLO on
  std::string name_;
  std::unordered_set<store::SegmentId> known_;           // segments whose descriptor the peer had
  std::unordered_set<store::SegmentId> known_writable_;  // the same, to write
  std::map<std::uint64_t, Wait> waits_;
  std::map<std::uint64_t, FollowWait> follow_waits_;
  std::uint64_t wait_number_ = 0;
  std::size_t descriptors_expected_ = 0;  // with answers of the store that are to come
  std::size_t lists_under_way_ = 0;       // of regions
  // For those: nobody waits for them. As closed_, for another thread.
  const std::shared_ptr<std::atomic<bool>> has_gone_ = std::make_shared<std::atomic<bool>>(false);
  std::uint32_t events_ = 0;  // subscribed to
  std::string events_prefix_;
  bool events_lost_ = false;
};

template <class T>
void Session::reply(wire::Type type, std::uint64_t id, const T& message,
                    std::vector<UniqueFd> descriptors) {
  const auto count = static_cast<std::uint32_t>(descriptors.size());
  send({wire::encode_reply(type, id, message, count), std::move(descriptors)});
}

}  // namespace om::server
