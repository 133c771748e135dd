#include "client/connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <new>

#include "base/clock.h"
#include "client/state.h"
#include "posix/file.h"
#include "posix/unix_socket.h"

namespace om::client {

namespace {

constexpr std::size_t kEventsQueuedMax = 65536;
constexpr std::size_t kReleasesPerPacket = 8192;

Error hung_up() { return {Errc::kUnavailable, 0, "the daemon has closed the connection"}; }

Error no_room() {
  return {Errc::kSystem, EMFILE, "no room for the descriptors of a reply (raise RLIMIT_NOFILE)"};
}

Error out_of_time() { return {Errc::kTimeout, 0, "the daemon did not answer in time"}; }

// Short: it takes no memory itself.
Error no_memory() { return {Errc::kSystem, ENOMEM, "no memory"}; }

// Without its words where there is no memory for them.
Error copy_of(const Error& error) noexcept {
  try {
    return error;
  } catch (const std::bad_alloc&) {
    return {error.code, error.sys_errno, {}};
  }
}

}  // namespace

Connection::Connection(UniqueFd socket, const ConnectOptions& options)
    : socket_(std::move(socket)),
      timeout_(std::clamp(options.timeout, std::chrono::milliseconds(1), kWaitMax)),
      receive_limit_(timeout_),
      cache_(std::max<std::size_t>(options.descriptors_max, 1)),
      buffer_(kPacketBytesMax) {}

Result<std::shared_ptr<Connection>> Connection::start(UniqueFd socket,
                                                      const ConnectOptions& options) {
  // Blocking, with the kernel's time limits: an answer that is on its way needs no poll(2).
  const int flags = ::fcntl(socket.raw(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.raw(), F_SETFL, flags & ~O_NONBLOCK) != 0)
    return system_error("prepare the socket");
  std::shared_ptr<Connection> connection(new Connection(std::move(socket), options));
  const auto set_limit = [&](int option, std::chrono::milliseconds limit) -> Result<void> {
    const timeval time{limit.count() / 1000, (limit.count() % 1000) * 1000};
    if (::setsockopt(connection->socket_.raw(), SOL_SOCKET, option, &time, sizeof time) != 0)
      return system_error("set a time limit on the socket");
    return {};
  };
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO})
    OM_TRY(set_limit(option, connection->timeout_));
  OM_TRY(connection->hello(options));
  // Who waits longer than the socket does receives again.
  if (const auto usual = options.usual_wait; usual.count() > 0 && usual < connection->timeout_) {
    OM_TRY(set_limit(SO_RCVTIMEO, usual));
    connection->receive_limit_ = usual;
  }
  return connection;
}

Result<void> Connection::hello(const ConnectOptions& options) {
  wire::Hello hello;
  hello.name = options.name.substr(0, 255);
  hello.features = wire::kFeatureReleasePage | wire::kFeatureRoom;
  if (options.board) hello.features |= wire::kFeatureBoard | wire::kFeatureClaims;
  Call<wire::HelloReply> waiting;
  OM_TRY(call(hello, waiting));
  if (waiting.reply.version != wire::kVersion)
    return Error{Errc::kUnsupported, 0,
                 "the daemon answers with protocol version " +
                     std::to_string(waiting.reply.version) + ", which this library does not speak"};
  daemon_.epoch = waiting.reply.daemon_epoch;
  daemon_.may_read = waiting.reply.may_read != 0;
  daemon_.may_write = waiting.reply.may_write != 0;
  daemon_.may_admin = waiting.reply.may_admin != 0;
  daemon_.version = std::move(waiting.reply.version_text);
  keys_per_get_max_ = std::clamp<std::size_t>(waiting.reply.keys_per_get_max, 1, kKeysPerGetMax);
  std::size_t next = 0;
  const auto next_descriptor = [&]() -> UniqueFd {
    if (next == waiting.descriptors.size()) return {};
    return std::move(waiting.descriptors[next++]);
  };
  lease_file_ = next_descriptor();
  room_granted_ = (waiting.reply.features & wire::kFeatureRoom) != 0;
  if ((waiting.reply.features & wire::kFeatureReleasePage) != 0) {
    const UniqueFd page = next_descriptor();
    const auto bytes = file_size(page.borrow());
    if (bytes && *bytes >= kReleaseRingBytes)
      if (auto mapped = Mapping::of(page.borrow(), 0, kReleaseRingBytes, Access::kReadWrite))
        release_page_ = *std::move(mapped);
  }
  if ((waiting.reply.features & wire::kFeatureBoard) != 0) {
    const UniqueFd shown = next_descriptor();
    board_ = Board::of(shown, next_descriptor());
  }
  if ((waiting.reply.features & wire::kFeatureClaims) != 0)
    claims_ = Claims::of(next_descriptor(), waiting.reply.owner);
  return {};
}

bool Connection::closed() const {
  if (is_broken_.load(std::memory_order_acquire)) return true;
  pollfd look{socket_.raw(), POLLRDHUP, 0};
  return ::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

void Connection::close() {
  end_posts();
  break_off({Errc::kUnavailable, 0, "the connection was closed"});
}

// --- calls

// A socket that is full, of a daemon that hangs, is waited for as long as the call may take, not as
// long as the socket's own limit says.
Result<bool> Connection::send(const std::string& before, const std::string& packet,
                              Deadline deadline) {
  const std::array<std::span<const std::byte>, 2> both{std::as_bytes(std::span(before)),
                                                       std::as_bytes(std::span(packet))};
  auto left = std::span(both).subspan(before.empty() ? 1 : 0);
  while (true) {
    if (left.size() == 1) {
      if (OM_TRY(send_packet(socket_.borrow(), left.front(), {}, MSG_DONTWAIT))) return true;
    } else {
      left = left.subspan(OM_TRY(send_packets(socket_.borrow(), left, MSG_DONTWAIT)));
      if (left.empty()) return true;
    }
    pollfd look{socket_.raw(), POLLOUT, 0};
    if (::poll(&look, 1, poll_ms(left_until(deadline))) == 0 && left_until(deadline).count() == 0)
      return false;
  }
}

Result<void> Connection::submit(Waiter& waiter, wire::Type type, const std::string& packet,
                                Deadline deadline, const std::string& before) {
  if (has_unsent_.load(std::memory_order_relaxed)) flush_unsent(deadline);
  return submit_now(waiter, type, packet, deadline, before);
}

Result<void> Connection::submit_now(Waiter& waiter, wire::Type type, const std::string& packet,
                                    Deadline deadline, const std::string& before) {
  if (packet.size() > kPacketBytesMax || before.size() > kPacketBytesMax)
    return Error{Errc::kMalformed, 0, "the request is longer than one packet"};
  std::memcpy(&waiter.id_, packet.data() + offsetof(wire::Header, request_id), sizeof waiter.id_);
  waiter.type_ = type;
  {
    const std::lock_guard lock(mutex_);
    if (broken_) return *broken_;
    waiters_.push_back(&waiter);
    if (!waiter.detached_) waiter.connection_ = this;
  }
  // Without memory for the words of an error it is not known how much has gone. Who asked is told
  // as much, and what comes all the same is given back.
  bool is_known = true;
  const auto sent = [&]() -> Result<bool> {
    try {
      return send(before, packet, deadline);
    } catch (const std::exception&) {
      is_known = false;
      return false;
    }
  }();
  if (!sent) {
    break_off(sent.error());  // which is the answer
    return {};
  }
  if (*sent) return {};
  const std::lock_guard lock(mutex_);
  if (!forget(waiter)) return {};
  pass_role_on();
  if (!is_known) return no_memory();
  return Error{Errc::kTimeout, 0, "the daemon takes no requests at the moment"};
}

Result<void> Connection::await(Waiter& waiter, Deadline deadline) {
  std::unique_lock lock(mutex_);
  while (!waiter.done_) {
    if (!waiter.taking_ && std::chrono::steady_clock::now() >= deadline && forget(waiter)) {
      pass_role_on();
      return out_of_time();
    }
    if (!reading_) {
      reading_ = true;
      lock.unlock();
      read_one(deadline);
      lock.lock();
      reading_ = false;
    } else if (waiter.taking_) {
      waiter.wake_.wait(lock);
    } else {
      waiter.waits_ = true;
      waiter.wake_.wait_until(lock, deadline);
      waiter.waits_ = false;
    }
  }
  waiter.connection_ = nullptr;
  pass_role_on();
  if (waiter.failure_) return *std::move(waiter.failure_);
  return {};
}

bool Connection::forget(Waiter& waiter) {
  const auto found = std::find(waiters_.begin(), waiters_.end(), &waiter);
  if (found == waiters_.end()) return false;
  *found = waiters_.back();
  waiters_.pop_back();
  waiter.connection_ = nullptr;
  return true;
}

void Waiter::abandon() noexcept {
  if (connection_ != nullptr) connection_->abandon(*this);
}

void Connection::abandon(Waiter& waiter) noexcept {
  std::unique_lock lock(mutex_);
  if (forget(waiter)) return pass_role_on();
  // Its answer is just being read.
  while (waiter.taking_ && !waiter.done_) waiter.wake_.wait(lock);
}

std::size_t Connection::under_way() {
  const std::lock_guard lock(mutex_);
  return waiters_.size();
}

// Not to somebody who does not wait yet, and may be long in sending: who comes takes it by himself.
void Connection::pass_role_on() {
  if (reading_) return;
  const auto waits = std::find_if(waiters_.begin(), waiters_.end(),
                                  [](const Waiter* waiter) { return waiter->waits_; });
  if (waits != waiters_.end())
    (*waits)->wake_.notify_one();
  else if (event_waiters_ > 0)
    event_wake_.notify_one();
}

bool Connection::post_packet(const std::string& packet, Deadline until) {
  {
    const std::lock_guard lock(mutex_);
    if (broken_) return true;  // whatever it was, it ended with the connection
  }
  auto sent = send({}, packet, until);
  if (sent) return *sent;
  break_off(std::move(sent).error());
  return true;
}

// In order: a room that ends must not overtake what tells the daemon that bytes of it are held.
void Connection::post_or_keep(std::string packet) {
  std::unique_lock lock(mutex_);
  const bool is_behind = posting_ || !unposted_.empty();
  if (!is_behind) {
    lock.unlock();
    if (post_packet(packet, kAtOnce)) return;
    lock.lock();
  }
  unposted_.push_back(std::move(packet));
  has_unsent_.store(true, std::memory_order_relaxed);
  lock.unlock();
  // The first of them may go by now.
  if (is_behind) send_kept(kAtOnce);
}

// One thread at a time. Another waits for it until then: what it has posted is to go first.
void Connection::send_kept(Deadline until) {
  std::unique_lock lock(mutex_);
  while (posting_)
    if (posted_.wait_until(lock, until) == std::cv_status::timeout) return;
  posting_ = true;
  for (bool sent = true; sent && !(unposted_.empty() && posts_.empty());) {
    if (unposted_.empty()) {
      sent = send_posts(lock, until);
      continue;
    }
    const std::string& packet = unposted_.front();  // stays there: others only add
    lock.unlock();
    try {
      sent = post_packet(packet, until);
    } catch (const std::exception&) {
      sent = false;  // no memory: another time
    }
    lock.lock();
    if (sent) unposted_.pop_front();
  }
  posting_ = false;
  has_unsent_.store(!unposted_.empty() || !posts_.empty() || !unreleased_.empty(),
                    std::memory_order_relaxed);
  posted_.notify_all();
}

void Connection::release(std::vector<std::uint64_t> leases) {
  std::size_t pushed = 0;
  if (release_page_) {
    const std::lock_guard lock(release_mutex_);
    auto* const ring = reinterpret_cast<ReleaseRing*>(release_page_.data());
    while (pushed < leases.size() && ring->push(leases[pushed])) ++pushed;
  }
  for (std::size_t at = pushed; at < leases.size(); at += kReleasesPerPacket) {
    wire::Release message;
    const std::size_t count = std::min(kReleasesPerPacket, leases.size() - at);
    message.leases.assign(leases.begin() + static_cast<std::ptrdiff_t>(at),
                          leases.begin() + static_cast<std::ptrdiff_t>(at + count));
    if (post(message, kAtOnce)) continue;
    const std::lock_guard lock(mutex_);
    unreleased_.insert(unreleased_.end(), message.leases.begin(), message.leases.end());
    has_unsent_.store(true, std::memory_order_relaxed);
  }
}

// Before a call, which cannot be sent either while the socket is full.
void Connection::flush_unsent(Deadline until) {
  std::vector<std::uint64_t> leases;
  {
    const std::lock_guard lock(mutex_);
    leases.swap(unreleased_);
  }
  release(std::move(leases));
  send_kept(until);
}

// --- the reader's role

bool Connection::read_one(Deadline deadline) noexcept {
  try {
    return receive_one(deadline);
  } catch (const std::exception&) {
    // What came is lost, and with it what the daemon believes that we have.
    break_off(no_memory());
    return true;
  }
}

bool Connection::receive_one(Deadline deadline) {
  // The socket's own limit serves when about that much time is left, and none is needed where there
  // is no time left; else we ask poll(2).
  const auto left = left_until(deadline);
  const bool waits = left.count() > 0;
  if (waits && left < receive_limit_ - receive_limit_ / 8) {
    pollfd look{socket_.raw(), POLLIN, 0};
    if (::poll(&look, 1, poll_ms(left)) <= 0) return false;
  }
  std::memset(buffer_.data(), 0, wire::Header::kBytes);
  auto packet = receive_packet(socket_.borrow(), buffer_, waits ? 0 : MSG_DONTWAIT);
  if (packet) {
    if (!packet->has_value()) return false;
    if ((*packet)->bytes == 0)
      break_off(hung_up());
    else
      deliver(std::span(buffer_).first((*packet)->bytes), std::move((*packet)->descriptors), false);
    return true;
  }
  if (packet.error().code == Errc::kSystem && packet.error().sys_errno == EMFILE) {
    // The packet is here, its descriptors are not: this process has no room for them. They are
    // asked for again, once there is some.
    cache_.shrink();
    std::uint32_t length = 0;
    std::memcpy(&length, buffer_.data(), sizeof length);
    if (length >= wire::Header::kBytes && length <= buffer_.size()) {
      deliver(std::span(buffer_).first(length), {}, true);
      return true;
    }
  }
  break_off(std::move(packet).error());
  return true;
}

void Connection::deliver(std::span<const std::byte> packet, std::vector<UniqueFd> descriptors,
                         bool descriptors_lost) {
  std::size_t count = descriptors.size();
  if (descriptors_lost) {
    std::uint32_t said = 0;
    std::memcpy(&said, packet.data() + offsetof(wire::Header, descriptors), sizeof said);
    count = said;
  }
  const auto header = wire::decode_header(packet, count);
  if (!header)
    return break_off({Errc::kMalformed, 0, "the daemon sent nonsense: " + header.error().what});
  if (header->type == wire::Type::kEvent) return deliver_event(packet);
  if (header->type == wire::Type::kRemoval) return deliver_removal(packet);
  if ((header->flags & wire::kReplyFlag) == 0)
    return break_off({Errc::kMalformed, 0, "the daemon sent a request"});

  Waiter* waiter = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(waiters_.begin(), waiters_.end(),
                                    [&](const Waiter* w) { return w->id_ == header->request_id; });
    if (found != waiters_.end()) {
      waiter = *found;
      if (waiter->type_ != header->type) {
        waiter = nullptr;
      } else {
        waiter->taking_ = true;
        *found = waiters_.back();
        waiters_.pop_back();
      }
    }
  }
  if (waiter == nullptr) return give_back(*header, packet, std::move(descriptors));

  std::optional<Error> failure;
  std::optional<Error> broken;
  // Nobody else knows of the waiter by now: whatever happens, it has to be told.
  try {
    if (header->status != Errc::kOk) {
      failure = wire::decode_failure(*header, packet);
    } else if (auto taken = waiter->take(*this, packet, descriptors); !taken) {
      broken = Error{Errc::kMalformed, 0, "the daemon sent nonsense: " + taken.error().what};
    }
    // Descriptors of segments are asked for again; what came with these replies alone is lost.
    if (!failure && !broken && descriptors_lost && header->type != wire::Type::kGet &&
        header->type != wire::Type::kDescribe && header->type != wire::Type::kReserve &&
        header->type != wire::Type::kRoom && header->type != wire::Type::kFollow &&
        header->type != wire::Type::kHold)
      failure = no_room();
  } catch (const std::bad_alloc&) {
    broken = no_memory();
  }
  if (broken) {
    failure = copy_of(*broken);
    break_off(*std::move(broken));
  }
  if (waiter->detached_) return waiter->concluded(std::move(failure));
  const std::lock_guard lock(mutex_);
  waiter->failure_ = std::move(failure);
  waiter->done_ = true;
  waiter->wake_.notify_one();
}

void Connection::deliver_event(std::span<const std::byte> packet) {
  auto event = wire::decode_body<wire::Event>(packet);
  if (!event)
    return break_off({Errc::kMalformed, 0, "the daemon sent nonsense: " + event.error().what});
  // By now the word may be the lease on another object, which nobody wants back.
  if (event->event == wire::kEventRevoked && event->lease_id >= board::kLeases &&
      (board_ == nullptr || !board_->holds(event->lease_id - board::kLeases, event->object_id)))
    return;
  const std::lock_guard lock(mutex_);
  if (events_.size() >= kEventsQueuedMax) {
    events_.pop_front();
    events_missed_ = true;
  }
  events_.push_back({static_cast<Event::Kind>(event->event), std::move(event->key),
                     event->object_id, event->lease_id});
  if (event_waiters_ > 0) event_wake_.notify_one();
}

void Connection::deliver_removal(std::span<const std::byte> packet) {
  auto removal = wire::decode_body<wire::Removal>(packet);
  if (!removal)
    return break_off({Errc::kMalformed, 0, "the daemon sent nonsense: " + removal.error().what});
  std::unique_lock lock(mutex_);
  // The daemon sends a few hundred beyond what was acknowledged, no more.
  if (removals_.size() >= kEventsQueuedMax) {
    lock.unlock();
    return break_off({Errc::kMalformed, 0, "the daemon sent more removals than it may"});
  }
  removals_.push_back({removal->sequence, removal->time_ns, static_cast<RemovalKind>(removal->kind),
                       std::move(removal->what), std::move(removal->tag),
                       std::move(removal->origin), removal->token});
  if (event_waiters_ > 0) event_wake_.notify_all();
}

void Connection::give_back(const wire::Header& header, std::span<const std::byte> packet,
                           std::vector<UniqueFd> descriptors) {
  if (header.status != Errc::kOk) return;
  if (header.type == wire::Type::kGet) {
    Call<wire::GetReply> late;
    if (!late.take(*this, packet, descriptors)) return;
    std::vector<std::uint64_t> leases;
    for (const auto& item : late.reply.items)
      if (item.status == 0) leases.push_back(item.lease_id);
    if (!leases.empty()) release(std::move(leases));
  } else if (header.type == wire::Type::kRoom) {
    Call<wire::RoomReply> late;
    if (late.take(*this, packet, descriptors)) post(wire::Abort{late.reply.room_id});
  } else if (header.type == wire::Type::kReserve) {
    Call<wire::ReserveReply> late;
    if (!late.take(*this, packet, descriptors)) return;
    if (late.reply.outcome != static_cast<std::uint8_t>(wire::ReserveOutcome::kYours))
      release({late.reply.hit.lease_id});
    else
      post(wire::Abort{late.reply.put_id});
  } else if (header.type == wire::Type::kDescribe) {
    Call<wire::GetReply> late;  // for the cache: a descriptor is not sent a second time unasked
    (void)late.take(*this, packet, descriptors);
  } else if (header.type == wire::Type::kFollow) {
    Call<wire::FollowReply> late;
    if (late.take(*this, packet, descriptors) && late.reply.hit.status == 0)
      release({late.reply.hit.lease_id});
  } else if (header.type == wire::Type::kHold) {
    Call<wire::HoldReply> late;
    if (late.take(*this, packet, descriptors) && late.reply.lease_id != 0)
      release({late.reply.lease_id});
  } else if (header.type == wire::Type::kExtend) {
    Call<wire::ExtendReply> late;
    (void)late.take(*this, packet, descriptors);
  }
}

void Connection::break_off(const Error& reason) {
  std::vector<Waiter*> detached;
  std::list<Post> unsent;
  {
    const std::lock_guard lock(mutex_);
    if (!broken_) broken_ = copy_of(reason);
    is_broken_.store(true, std::memory_order_release);
    ::shutdown(socket_.raw(), SHUT_RDWR);
    detached.swap(waiters_);
    unsent.swap(posts_);
    post_bytes_ = 0;
    std::erase_if(detached, [this](Waiter* waiter) {
      if (waiter->detached_) return false;
      waiter->failure_ = copy_of(*broken_);
      waiter->done_ = true;
      waiter->wake_.notify_one();
      return true;
    });
    event_wake_.notify_all();
  }
  for (Waiter* waiter : detached) {
    try {
      waiter->concluded(copy_of(reason));
    } catch (const std::exception&) {
      // Its own trouble: the others are to be told as well.
      continue;
    }
  }
  fail(std::move(unsent), reason);
}

// Whoever waits keeps the connection; those that nobody waits for do not. Rooms that end with our
// members send something yet, and must not find them any more if that fails.
Connection::~Connection() {
  for (Waiter* waiter : std::exchange(waiters_, {}))
    if (waiter->detached_) waiter->concluded(hung_up());
  if (!posts_.empty()) fail(std::exchange(posts_, {}), hung_up());
}

// --- segments

Result<std::vector<SegmentRef>> Connection::adopt_segments(
    const std::vector<wire::Segment>& segments, std::vector<UniqueFd>& descriptors) {
  std::vector<SegmentRef> adopted;
  std::size_t next = 0;
  for (const wire::Segment& description : segments) {
    if (description.with_descriptor == 0) {
      if (SegmentRef known = cache_.find(description.id, description.writable != 0))
        known->set_size(description.size_bytes);
      continue;
    }
    if (next >= descriptors.size()) break;
    auto segment = std::make_shared<Segment>(description, std::move(descriptors[next++]));
    cache_.insert(segment);
    adopted.push_back(std::move(segment));
  }
  descriptors.erase(descriptors.begin(), descriptors.begin() + static_cast<std::ptrdiff_t>(next));
  return adopted;
}

Result<SegmentRef> Connection::segment(std::uint64_t id, bool writable,
                                       const std::vector<SegmentRef>& first,
                                       std::optional<Deadline> deadline) {
  for (const SegmentRef& candidate : first)
    if (candidate->id == id && candidate->writable == writable) return candidate;
  if (SegmentRef known = cache_.find(id, writable)) return known;
  if (writable)
    return Error{Errc::kMalformed, 0, "the daemon names a segment that it has not passed"};
  // Of many that are missing, each would be asked for.
  if (deadline && std::chrono::steady_clock::now() >= *deadline) return out_of_time();
  Call<wire::GetReply> waiting;
  OM_TRY(call(wire::Describe{{id}}, waiting, deadline.value_or(deadline_in(timeout_))));
  for (const SegmentRef& candidate : waiting.segments)
    if (candidate->id == id && !candidate->writable) return candidate;
  return no_room();
}

void Connection::know(std::uint64_t id, std::vector<SegmentRef>& with_reply) {
  constexpr std::size_t kMost = 8;  // more are not found sooner than in the cache
  if (with_reply.size() >= kMost) return;
  for (const SegmentRef& segment : with_reply)
    if (segment->id == id && !segment->writable) return;
  if (SegmentRef known = cache_.find(id, false)) with_reply.push_back(std::move(known));
}

Result<bool> Connection::reservation_is_complete(std::uint64_t put_id,
                                                 const std::vector<wire::Extent>& extents,
                                                 const std::vector<SegmentRef>& with_reply) {
  for (const wire::Extent& extent : extents) {
    const bool came = std::any_of(with_reply.begin(), with_reply.end(), [&](const SegmentRef& s) {
      return s->id == extent.segment && s->writable;
    });
    if (came || cache_.find(extent.segment, true) != nullptr) continue;
    post(wire::Abort{put_id});
    Call<wire::GetReply> waiting;
    // Whatever the answer: it makes the daemon forget that we have the descriptor.
    auto described = call(wire::Describe{{extent.segment}}, waiting);
    if (!described && described.error().code != Errc::kNotFound)
      return std::move(described).error();
    return false;
  }
  return true;
}

Result<void> Connection::check(const wire::Extent& extent, const Segment& segment) {
  if (extent.offset > segment.size() || extent.length > segment.size() - extent.offset)
    return Error{Errc::kMalformed, 0, "the daemon names bytes outside a segment"};
  return {};
}

Result<Lease> Connection::make_lease(wire::GetItem item, const std::vector<SegmentRef>& with_reply,
                                     std::optional<Deadline> deadline) {
  auto state = std::make_unique<LeaseState>();
  state->connection = shared_from_this();
  state->lease_id = item.lease_id;
  state->info = to_info(std::move(item.info));
  Lease lease(std::move(state));  // from here on given back by itself
  LeaseState& s = *lease.state_;
  std::uint64_t length = 0;
  s.slices.reserve(item.extents.size());
  s.segments.reserve(item.extents.size());
  for (const wire::Extent& extent : item.extents) {
    SegmentRef segment = OM_TRY(this->segment(extent.segment, false, with_reply, deadline));
    OM_TRY(check(extent, *segment));
    s.slices.push_back({segment->file().raw(), extent.offset, extent.length});
    s.segments.push_back(std::move(segment));
    length += extent.length;
  }
  if (length != s.info.length)
    return Error{Errc::kMalformed, 0, "the extents of an object are not as long as it is"};
  return lease;
}

std::optional<Lease> Connection::get_by_board(const std::string& key, std::uint64_t stale,
                                              std::uint32_t stale_revision) {
  if (board_ == nullptr || is_broken_.load(std::memory_order_acquire)) return std::nullopt;
  board::Seen seen;
  const board::Slot* const slot = board_->find(key, seen);
  if (slot == nullptr) return std::nullopt;
  // Until it is held all of this may be torn; if it is, it is not held.
  const board::Shown& object = seen.object;
  if (object.object_id == stale && object.revision == stale_revision) return std::nullopt;
  if (object.expires_ns != 0 && object.expires_ns <= SystemClock().real_ns()) return std::nullopt;
  SegmentRef segment = cache_.find(object.segment, false);
  if (segment == nullptr || !check({object.segment, object.offset, object.length}, *segment) ||
      segment->map(object.offset, object.length).empty())
    return std::nullopt;
  auto tags = seen.text.tags();
  if (!tags) return std::nullopt;
  auto state = std::make_unique<LeaseState>();
  state->info = {object.object_id,  object.length,
                 object.length,     0,
                 object.created_ns, object.expires_ns,
                 object.ephemeral,  false,
                 object.revision,   std::string(seen.text.metadata()),
                 *std::move(tags)};
  state->slices.push_back({segment->file().raw(), object.offset, object.length});
  state->segments.push_back(std::move(segment));
  state->connection = shared_from_this();
  const auto word = board_->hold(*slot, seen);
  if (!word) return std::nullopt;
  state->word = word;
  state->lease_id = board::kLeases + *word;
  return Lease(std::move(state));
}

// --- claims

std::optional<Claim> Connection::claim(const std::string& key) {
  if (board_ == nullptr || claims_ == nullptr || is_broken_.load(std::memory_order_acquire))
    return std::nullopt;
  const std::uint64_t hash = board_->hash_of(key);
  const claims::Counter* const known = board_->known(hash);
  // As a rule somebody has it.
  if (known == nullptr || known->load(std::memory_order_relaxed) != 0) return std::nullopt;
  // First what may fail for want of memory: from the claim on there is somebody to end it.
  auto state = std::make_unique<ClaimState>();
  state->connection = shared_from_this();
  state->key = key;
  state->hash = hash;
  if (!claims_->claim(hash, *known)) return std::nullopt;
  state->is_over = false;
  // Of a daemon that has gone nobody learns of it, and another one does not know what is there.
  if (!board_->is_alive()) return std::nullopt;
  return Claim(std::move(state));
}

bool Connection::is_wanted(const ClaimState& claim) const { return claims_->is_wanted(claim.hash); }

void Connection::unclaim(std::uint64_t hash, const std::string& key) {
  if (claims_->unclaim(hash)) post(wire::Unclaim{key});
}

// --- events

void Connection::end_subscription() {
  if (subscribed_.exchange(false)) post(wire::Subscribe{});
}

template <class T, class Take>
Result<std::optional<T>> Connection::next(Deadline deadline, Take take) {
  std::unique_lock lock(mutex_);
  while (true) {
    if (std::optional<T> found = take()) return found;
    if (broken_) return *broken_;
    // At least one look at the socket, also with no time left.
    const bool last = std::chrono::steady_clock::now() >= deadline;
    bool more = false;
    if (!reading_) {
      reading_ = true;
      lock.unlock();
      more = read_one(deadline);  // answers that nobody waits for are read here, all of them
      lock.lock();
      reading_ = false;
      pass_role_on();
    } else {
      ++event_waiters_;
      event_wake_.wait_until(lock, deadline);
      --event_waiters_;
    }
    if (last && !more) return take();
  }
}

Result<std::optional<Event>> Connection::next_event(Deadline deadline) {
  return next<Event>(deadline, [this]() -> std::optional<Event> {
    if (std::exchange(events_missed_, false)) return Event{};
    if (events_.empty()) return std::nullopt;
    std::optional<Event> event(std::move(events_.front()));
    events_.pop_front();
    return event;
  });
}

void Connection::look() {
  constexpr int kMost = 256;  // packets: those who put go on
  std::unique_lock lock(mutex_);
  if (reading_ || broken_) return;
  reading_ = true;
  lock.unlock();
  for (int i = 0; i < kMost && !is_broken_.load(std::memory_order_acquire); ++i)
    if (!read_one(std::chrono::steady_clock::now())) break;
  lock.lock();
  reading_ = false;
  pass_role_on();
}

Result<std::optional<Removal>> Connection::next_removal(Deadline deadline) {
  return next<Removal>(deadline, [this]() -> std::optional<Removal> {
    if (removals_.empty()) return std::nullopt;
    std::optional<Removal> removal(std::move(removals_.front()));
    removals_.pop_front();
    return removal;
  });
}

}  // namespace om::client
