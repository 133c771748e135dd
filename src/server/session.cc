#include "server/session.h"

#include <sys/socket.h>

#include "base/limits.h"
#include "posix/file.h"
#include "posix/unix_socket.h"

namespace om::server {

namespace {
// Batches of packets of one peer that are handled before the others get their turn.
constexpr int kBatchesPerTurn = 4;
// Descriptors that must be free before a request is read that may bring that many.
constexpr std::size_t kPauseDescriptors = kFdsInFlightMax - kFdsPerMessageMax;
}  // namespace

Result<std::shared_ptr<Session>> Session::start(Shared& shared, UniqueFd socket,
                                                std::function<void(Session&)> ended) {
  const PeerCredentials peer = OM_TRY(peer_credentials(socket.borrow()));
  const auto groups = OM_TRY(peer_groups(socket.borrow()));
  const Rights rights = rights_of(shared.access, peer, groups, shared.own_uid);
  // A whole packet and the replies of a deep pipeline; best effort.
  const int buffer_bytes = 4 * static_cast<int>(kPacketBytesMax);
  (void)::setsockopt(socket.raw(), SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
  auto session = std::shared_ptr<Session>(
      new Session(shared, std::move(socket), peer, rights, std::move(ended)));
  session->interest_ = EPOLLIN;
  session->watch_ =
      OM_TRY(shared.loop.watch(session->socket_.borrow(), EPOLLIN,
                               [s = session.get()](std::uint32_t events) { s->on_ready(events); }));
  return session;
}

Session::Session(Shared& shared, UniqueFd socket, PeerCredentials peer, Rights rights,
                 std::function<void(Session&)> ended)
    : shared_(shared),
      socket_(std::move(socket)),
      peer_(peer),
      rights_(rights),
      account_(shared.accounts.of(peer.uid)),
      outbox_(socket_.borrow(), account_),
      ended_(std::move(ended)) {
  account_->connections.add(1);
}

Session::~Session() {
  close();
  account_->connections.subtract(1);
}

void Session::close() {
  if (closed_) return;
  closed_ = true;
  has_gone_->store(true, std::memory_order_relaxed);
  (void)outbox_.flush();  // what was to be said before the end
  watch_.reset();
  waits_.clear();
  follow_waits_.clear();
  if (events_ != 0) --shared_.subscribers;
  shared_.removals.leave(*this);
  if (holder_) shared_.store.close_holder(*holder_);
  // Requests that we leave unread would reach the peer as ECONNRESET, ahead of our last words.
  (void)::shutdown(socket_.raw(), SHUT_RD);
  discard_packets(socket_.borrow());
  if (in_turn_) return;
  // In the middle of a commit that is done, or of a timer: the server drops us in a turn of our
  // own.
  shared_.loop.post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->finish_turn();
  });
}

void Session::on_ready(std::uint32_t events) {
  in_turn_ = true;
  if ((events & EPOLLOUT) != 0 && !outbox_.flush()) close();
  if (!closed_ && !backlog_.empty()) reading_ = may_read();
  if (!closed_ && ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 || !backlog_.empty())) {
    // With the peer gone there is nobody to read what holds us up.
    if (!reading_ && (events & (EPOLLHUP | EPOLLERR)) != 0)
      close();
    else if (reading_)
      read_packets();
  }
  finish_turn();
}

void Session::retry() {
  if (closed_ || !outbox_.starved()) return;
  in_turn_ = true;
  if (!outbox_.flush()) close();
  finish_turn();
}

// The end of every entry from the loop; `this` may be gone after it.
void Session::finish_turn() {
  in_turn_ = false;
  if (closed_) {
    const auto keep = shared_from_this();
    if (auto ended = std::exchange(ended_, nullptr)) ended(*this);
    return;
  }
  if (events_lost_ && outbox_.empty()) {
    events_lost_ = false;
    on_event(wire::kEventLost, "", 0, 0);
  }
  if (closed_) return;
  update_interest();
  // The socket may have nothing more to say, and would not wake us.
  if (reading_ && !backlog_.empty())
    shared_.loop.post([weak = weak_from_this()] {
      if (const auto self = weak.lock(); self && !self->closed_) self->on_ready(EPOLLIN);
    });
}

void Session::read_packets() {
  for (int i = 0; i < kBatchesPerTurn && !closed_ && reading_; ++i) {
    if (!backlog_.empty()) {
      read_backlog();
      continue;
    }
    PacketBatch& batch = shared_.received;
    const auto count = batch.receive(socket_.borrow());
    if (!count) return close();
    // Leases that were given back before these requests were sent are free when they are handled.
    if (holder_ && *count > 0) shared_.store.collect(*holder_);
    for (std::size_t k = 0; k < *count && !closed_; ++k) {
      if (may_read()) {
        on_received(batch.bytes(k), batch.descriptors(k), batch.problem(k));
      } else {
        const auto bytes = batch.bytes(k);
        backlog_.push_back({{bytes.begin(), bytes.end()}, batch.descriptors(k), batch.problem(k)});
      }
    }
    if (closed_) return;
    if (!outbox_.flush()) return close();
    reading_ = may_read();
    if (*count < batch.most()) return;
  }
}

void Session::read_backlog() {
  while (!backlog_.empty() && !closed_ && may_read()) {
    const Received received = std::move(backlog_.front());
    backlog_.pop_front();
    on_received(received.bytes, received.descriptors, received.problem);
  }
  if (closed_) return;
  if (!outbox_.flush()) return close();
  reading_ = may_read();
}

void Session::on_received(std::span<const std::byte> packet, std::size_t descriptors,
                          const std::optional<Error>& problem) {
  // No request brings descriptors, so it does not matter whether there was room for them.
  if (problem) return malformed(wire::Type{}, 0, problem->what);
  if (packet.empty()) return close();
  on_packet(packet, descriptors);
}

void Session::on_packet(std::span<const std::byte> packet, std::size_t descriptors) {
  if (packet.size() > kPacketBytesMax)
    return malformed(wire::Type{}, 0, "a packet is longer than the protocol allows");
  auto header = wire::decode_header(packet, descriptors);
  if (!header) return malformed(wire::Type{}, 0, header.error().what);
  if (descriptors != 0)
    return malformed(header->type, header->request_id, "no request brings descriptors");
  if (header->flags != 0 || header->status != Errc::kOk)
    return malformed(header->type, header->request_id, "a request has neither flags nor a status");
  if (!holder_ && header->type != wire::Type::kHello)
    return malformed(header->type, header->request_id, "HELLO comes first");
  const auto index = static_cast<std::size_t>(header->type);
  if (index < shared_.statistics.requests.size()) ++shared_.statistics.requests[index];
  if (!may(header->type))
    return refuse(header->type, header->request_id,
                  {Errc::kDenied, 0,
                   "user " + std::to_string(peer_.uid) +
                       " is not in the group that may do this (--read-gid, --write-gid, "
                       "--admin-gid of objmapperd)"});
  dispatch(*header, packet);
}

bool Session::may(wire::Type type) const {
  switch (type) {
    case wire::Type::kGet:
    case wire::Type::kStat:
    case wire::Type::kList:
    case wire::Type::kDescribe:
    case wire::Type::kFollow:
    case wire::Type::kSubscribe: return rights_.read;
    case wire::Type::kReserve:
    case wire::Type::kExtend:
    case wire::Type::kCommit:
    case wire::Type::kRefresh:
    case wire::Type::kAbort:
    case wire::Type::kProgress:
    case wire::Type::kAmend:
    case wire::Type::kRoom:
    case wire::Type::kPut:
    case wire::Type::kUnclaim:
    case wire::Type::kHold:
    case wire::Type::kDelete:
    case wire::Type::kJoin:
    case wire::Type::kRemove:
    case wire::Type::kAck:
    case wire::Type::kRegion: return rights_.write;
    case wire::Type::kRegionDrop:
    case wire::Type::kRegionDrain: return rights_.admin;
    default: return true;
  }
}

void Session::dispatch(const wire::Header& h, std::span<const std::byte> packet) {
  switch (h.type) {
    case wire::Type::kHello: return handle(h, packet, &Session::hello);
    case wire::Type::kGet: return handle(h, packet, &Session::get);
    case wire::Type::kRelease: return handle(h, packet, &Session::release);
    case wire::Type::kReserve: return handle(h, packet, &Session::reserve);
    case wire::Type::kExtend: return handle(h, packet, &Session::extend);
    case wire::Type::kCommit: return handle(h, packet, &Session::commit);
    case wire::Type::kAbort: return handle(h, packet, &Session::abort);
    case wire::Type::kDelete: return handle(h, packet, &Session::remove);
    case wire::Type::kStat: return handle(h, packet, &Session::stat);
    case wire::Type::kList: return handle(h, packet, &Session::list);
    case wire::Type::kRegion: return handle(h, packet, &Session::region);
    case wire::Type::kRegionList: return handle(h, packet, &Session::region_list);
    case wire::Type::kRegionDrop: return handle(h, packet, &Session::region_drop);
    case wire::Type::kRegionDrain: return handle(h, packet, &Session::region_drain);
    case wire::Type::kStatus: return handle(h, packet, &Session::status);
    case wire::Type::kDescribe: return handle(h, packet, &Session::describe);
    case wire::Type::kSubscribe: return handle(h, packet, &Session::subscribe);
    case wire::Type::kFollow: return handle(h, packet, &Session::follow);
    case wire::Type::kProgress: return handle(h, packet, &Session::progress);
    case wire::Type::kJoin: return handle(h, packet, &Session::join);
    case wire::Type::kRemove: return handle(h, packet, &Session::remove_everywhere);
    case wire::Type::kAck: return handle(h, packet, &Session::acknowledge);
    case wire::Type::kAmend: return handle(h, packet, &Session::amend);
    case wire::Type::kRoom: return handle(h, packet, &Session::room);
    case wire::Type::kPut: return handle(h, packet, &Session::put);
    case wire::Type::kUnclaim: return handle(h, packet, &Session::unclaim);
    case wire::Type::kHold: return handle(h, packet, &Session::hold);
    case wire::Type::kRefresh: return handle(h, packet, &Session::refresh);
    case wire::Type::kRemoval:
    case wire::Type::kEvent: break;
  }
  refuse(h.type, h.request_id,
         {Errc::kUnsupported, 0, "this daemon knows no request of that type"});
}

template <class T>
void Session::handle(const wire::Header& header, std::span<const std::byte> packet,
                     void (Session::*call)(std::uint64_t, T)) {
  auto message = wire::decode_body<std::remove_cvref_t<T>>(packet);
  if (!message) return malformed(header.type, header.request_id, message.error().what);
  (this->*call)(header.request_id, *std::move(message));
}

void Session::send(OutPacket packet) {
  if (closed_) return;
  // In a turn answers go out together, at its end. Outside (a commit that is done, a timer) nobody
  // else arms EPOLLOUT.
  if (in_turn_) return outbox_.queue(std::move(packet));
  if (!outbox_.send(std::move(packet))) return close();
  update_interest();
}

void Session::refuse(wire::Type type, std::uint64_t id, const Error& error) {
  const auto index = static_cast<std::size_t>(error.code);
  if (index < shared_.statistics.refusals.size()) ++shared_.statistics.refusals[index];
  send({wire::encode_failure(type, id, error), {}});
}

void Session::malformed(wire::Type type, std::uint64_t id, const std::string& why) {
  ++shared_.statistics.malformed_packets;
  refuse(type, id, {Errc::kMalformed, 0, why});
  close();
}

bool Session::may_read() {
  if (outbox_.descriptors() > kPauseDescriptors) outbox_.look();
  return outbox_.packets() < kRepliesQueuedMax && outbox_.bytes() < kReplyBytesQueuedMax &&
         outbox_.descriptors() <= kPauseDescriptors &&
         (outbox_.empty() ||
          account_->reply_bytes.value() < shared_.limits.reply_bytes_per_user_max);
}

void Session::update_interest() {
  if (closed_) return;
  const bool read = may_read();
  if (interest_reads_ && !read) ++shared_.statistics.reads_paused;
  interest_reads_ = read;
  reading_ = read;
  std::uint32_t interest = read ? EPOLLIN : 0U;
  if (!outbox_.empty() && !outbox_.starved())
    interest |= EPOLLOUT;
  else if (!read)
    // Edges only: the socket takes more all the time, we wait for the peer to read what is in it.
    interest |= EPOLLOUT | EPOLLET;
  if (interest == interest_) return;
  interest_ = interest;
  watch_.want(interest);
}

bool Session::wants(std::uint32_t event, std::string_view key) const {
  return !closed_ && (events_ & event) != 0 &&
         (event == wire::kEventRevoked || key.starts_with(events_prefix_));
}

void Session::on_event(std::uint32_t event, const std::string& key, std::uint64_t object_id,
                       std::uint64_t lease_id) {
  if (closed_) return;
  if (!reading_ || outbox_.packets() >= kRepliesQueuedMax / 2 ||
      outbox_.bytes() >= kReplyBytesQueuedMax / 2) {
    ++shared_.statistics.events_lost;
    events_lost_ = true;
    return;
  }
  ++shared_.statistics.events_sent;
  send({wire::encode(wire::Type::kEvent, 0, wire::Event{event, key, object_id, lease_id},
                     wire::kReplyFlag),
        {}});
}

}  // namespace om::server
