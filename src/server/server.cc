#include "server/server.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "base/limits.h"
#include "posix/file.h"
#include "posix/unix_socket.h"
#include "wire/codec.h"

namespace om::server {

namespace {

constexpr auto kTick = std::chrono::milliseconds(100);
constexpr int kAcceptsPerTurn = 64;
constexpr std::size_t kNotesMax = 100'000;
constexpr std::uint64_t kSecond = 1'000'000'000;

bool out_of_descriptors(const Error& error) {
  return error.sys_errno == EMFILE || error.sys_errno == ENFILE;
}

std::uint32_t to_wire(store::EventKind kind) {
  switch (kind) {
    case store::EventKind::kPublished: return wire::kEventPublished;
    case store::EventKind::kRemoved: return wire::kEventRemoved;
    case store::EventKind::kRevoked: return wire::kEventRevoked;
  }
  return 0;
}

}  // namespace

std::size_t raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
  (void)::getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<std::size_t>(limit.rlim_cur);
}

// A session needs its socket, its lease file, its hazard page where it has one, and now and then
// one more; the store has files of its own. What is under way counts against the limit of the
// daemon's user as if it were open.
AccountLimits limits_for(std::size_t descriptors) {
  AccountLimits limits;
  const std::size_t reserve = std::min<std::size_t>(descriptors / 4, 256);
  limits.connections_max = std::clamp<std::size_t>((descriptors - reserve) / 4, 4, kConnectionsMax);
  limits.connections_per_user_max = std::max<std::size_t>(limits.connections_max / 2, 2);
  limits.descriptors_max = std::clamp<std::size_t>(descriptors / 2, kFdsPerMessageMax, 65536);
  return limits;
}

Result<std::unique_ptr<Server>> Server::start(Loop& loop, store::Store& store, const Clock& clock,
                                              const AccessGroups& access, UniqueFd listener) {
  auto server = std::unique_ptr<Server>(new Server(loop, store, clock, std::move(listener)));
  Server* const s = server.get();
  s->tell_troubles();  // first: what follows may fail
  rlimit limit{};
  (void)::getrlimit(RLIMIT_NOFILE, &limit);
  s->shared_.limits = limits_for(static_cast<std::size_t>(limit.rlim_cur));
  s->shared_.access = access;
  s->spare_ = OM_TRY(open_file("/dev/null", O_RDONLY));
  s->accept_watch_ =
      OM_TRY(loop.watch(s->listener_.borrow(), EPOLLIN, [s](std::uint32_t) { s->accept_some(); }));
  s->store_watch_ = OM_TRY(
      loop.watch(store.wakeup_fd(), EPOLLIN, [s](std::uint32_t) { s->shared_.store.on_wakeup(); }));
  store.set_listener([s](const store::Event& event) { s->note(event); });
  s->tick_timer_ = loop.after(kTick, [s] { s->tick(); });
  return server;
}

Server::Server(Loop& loop, store::Store& store, const Clock& clock, UniqueFd listener)
    : shared_{loop, store, clock, {}, {}}, listener_(std::move(listener)) {
  shared_.epoch = clock.real_ns();
  shared_.removals.set_epoch(shared_.epoch);
  shared_.own_uid = ::geteuid();
}

Server::~Server() {
  accept_watch_.reset();
  shared_.store.set_listener({});
  sessions_.clear();
}

void Server::accept_some() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    auto socket = accept_connection(listener_.borrow());
    if (!socket) {
      if (out_of_descriptors(socket.error())) return shed_for_lack_of_descriptors();
      spdlog::warn("accept failed error=\"{}\"", describe(socket.error()));
      return pause_accepting();
    }
    if (!*socket) return;
    welcome(**std::move(socket));
  }
}

void Server::welcome(UniqueFd socket) {
  const auto peer = peer_credentials(socket.borrow());
  if (!peer) return;
  const AccountLimits& limits = shared_.limits;
  if (shared_.totals.connections.value() >= limits.connections_max)
    return shed(socket, {Errc::kUnavailable, 0,
                         "the daemon has " + std::to_string(limits.connections_max) +
                             " connections, its limit: try again later"});
  const bool trusted = peer->uid == 0 || peer->uid == shared_.own_uid;
  if (!trusted &&
      shared_.accounts.of(peer->uid)->connections.value() >= limits.connections_per_user_max)
    return shed(socket, {Errc::kQuota, 0,
                         "user " + std::to_string(peer->uid) + " has " +
                             std::to_string(limits.connections_per_user_max) +
                             " connections, the limit of one user"});
  auto session = Session::start(shared_, std::move(socket),
                                [this](Session& ended) { sessions_.erase(&ended); });
  if (!session) {
    ++shared_.statistics.connections_shed;
    spdlog::warn("connection dropped error=\"{}\"", describe(session.error()));
    return;
  }
  ++shared_.statistics.connections_accepted;
  const Session* const key = session->get();
  sessions_.emplace(key, *std::move(session));
}

void Server::shed(const UniqueFd& socket, const Error& why) {
  ++shared_.statistics.connections_shed;
  const std::string packet = wire::encode_failure(wire::Type::kHello, 0, why);
  (void)send_packet(socket.borrow(), std::as_bytes(std::span(packet)), {});
  const std::uint64_t now = shared_.clock.monotonic_ns();
  if (now - shed_logged_ns_ < 10 * kSecond) return;
  shed_logged_ns_ = now;
  spdlog::warn("connection turned away reason=\"{}\" so_far={}", why.what,
               shared_.statistics.connections_shed);
}

// Without a descriptor we cannot even accept a connection to close it, and the listener would stay
// readable: give up the spare one, turn the client away, take it again.
void Server::shed_for_lack_of_descriptors() {
  spare_.reset();
  if (auto socket = accept_connection(listener_.borrow()); socket && *socket)
    shed(**socket,
         {Errc::kUnavailable, EMFILE, "the daemon has no descriptors left: try again later"});
  if (auto spare = open_file("/dev/null", O_RDONLY)) spare_ = *std::move(spare);
  if (!spare_) pause_accepting();
}

void Server::pause_accepting() {
  accept_watch_.want(0);
  accept_timer_ = shared_.loop.after(kTick, [this] {
    if (!spare_)
      if (auto spare = open_file("/dev/null", O_RDONLY)) spare_ = *std::move(spare);
    accept_watch_.want(EPOLLIN);
  });
}

// The store is in the middle of something: only take notes.
void Server::note(const store::Event& event) {
  if (shared_.subscribers == 0 || notes_.size() > kNotesMax) return;
  if (notes_.size() == kNotesMax)
    notes_.push_back({wire::kEventLost, "", 0, 0, 0});
  else
    notes_.push_back({to_wire(event.kind), std::string(event.key), event.object_id, event.lease_id,
                      event.holder});
  if (notes_.size() == 1) shared_.loop.post([this] { deliver(); });
}

void Server::deliver() {
  const auto notes = std::exchange(notes_, {});
  for (const Noted& noted : notes) {
    for (const auto& [key, session] : sessions_) {
      if (noted.event == wire::kEventRevoked && session->holder() != noted.holder) continue;
      if (noted.event != wire::kEventLost && !session->wants(noted.event, noted.key)) continue;
      session->on_event(noted.event, noted.key, noted.object_id, noted.lease_id);
    }
  }
}

void Server::tell_troubles() {
  for (const std::string& line : shared_.store.take_troubles()) spdlog::warn("{}", line);
}

void Server::tick() {
  tick_timer_ = shared_.loop.after(kTick, [this] { tick(); });
  shared_.store.tick();
  tell_troubles();
  shared_.removals.pump_all();
  const bool crowded = shared_.totals.descriptors.value() > shared_.limits.descriptors_max / 2;
  if (crowded || ++ticks_ % 50 == 0) {
    for (const auto& [key, session] : sessions_) session->look();
    shared_.accounts.tidy();
  }
  std::vector<std::shared_ptr<Session>> starved;
  for (const auto& [key, session] : sessions_)
    if (session->starved()) starved.push_back(session);
  for (const auto& session : starved) session->retry();
}

}  // namespace om::server
