#include "client/connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <utility>

#include "client/errors.h"
#include "client/state.h"
#include "posix/file.h"
#include "posix/unix_socket.h"

namespace om::client {

namespace {

constexpr std::size_t kReleasesPerPacket = 8192;

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

// Whoever waits keeps the connection; those that nobody waits for do not. Rooms that end with our
// members send something yet, and must not find them any more if that fails.
Connection::~Connection() {
  const Error why = hung_up();
  for (Waiter* waiter : std::exchange(waiters_, {})) {
    if (!waiter->detached_) continue;
    try {
      waiter->concluded(copy_of(why));
    } catch (const std::exception&) {
      // Its own trouble: the others are to be told as well.
      continue;
    }
  }
  if (!posts_.empty()) fail(std::exchange(posts_, {}), why);
}

void Connection::end_for_lack_of_memory() noexcept { break_off(no_memory()); }

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

std::size_t Connection::release_by_page(std::span<const std::uint64_t> leases) {
  if (!release_page_) return 0;
  std::size_t pushed = 0;
  const std::lock_guard lock(release_mutex_);
  auto* const ring = reinterpret_cast<ReleaseRing*>(release_page_.data());
  while (pushed < leases.size() && ring->push(leases[pushed])) ++pushed;
  return pushed;
}

void Connection::release(std::vector<std::uint64_t> leases) {
  for (std::size_t at = release_by_page(leases); at < leases.size(); at += kReleasesPerPacket) {
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

void Connection::release_one(std::uint64_t lease) noexcept {
  if (release_by_page({&lease, 1}) == 1) return;
  try {
    release({lease});
  } catch (const std::exception&) {
    // Its bytes stay as they are until then, which harms nobody.
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

}  // namespace om::client
