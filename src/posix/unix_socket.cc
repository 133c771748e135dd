#include "posix/unix_socket.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>

#include "base/limits.h"

namespace om {

namespace {

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return Error{Errc::kMalformed, 0,
                 "socket path \"" + path + "\" is " + std::to_string(path.size()) +
                     " bytes long: a Unix socket path has 1 to " +
                     std::to_string(sizeof address.sun_path - 1)};
  std::memcpy(static_cast<char*>(address.sun_path), path.data(), path.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

Result<void> set_timeouts(BorrowedFd socket, std::chrono::milliseconds timeout) {
  if (timeout.count() <= 0) return {};
  const timeval limit{timeout.count() / 1000, (timeout.count() % 1000) * 1000};
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO})
    if (::setsockopt(socket.raw(), SOL_SOCKET, option, &limit, sizeof limit) != 0)
      return system_error("set a time limit on a socket");
  return {};
}

// Held, on the directory, by whoever makes a socket in it: one that is bound and does not listen
// yet refuses connections as a stale one does, and would be taken for one. That is a moment: where
// somebody has it for longer, or it is not to be had, it is done without.
UniqueFd lock_for_making(const std::string& path) {
  constexpr auto kMost = std::chrono::seconds(2);
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  auto lock = UniqueFd::adopt(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto end = std::chrono::steady_clock::now() + kMost;
  while (lock && ::flock(lock.raw(), LOCK_EX | LOCK_NB) != 0 &&
         (errno == EWOULDBLOCK || errno == EINTR) && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return lock;
}

// Room for one more than allowed, because CMSG_SPACE rounds up and would admit it silently.
constexpr std::size_t kControlBytes = CMSG_SPACE(sizeof(int) * (kFdsPerMessageMax + 1));

void adopt_descriptors(msghdr& message, std::vector<UniqueFd>& descriptors) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int raw = -1;
      std::memcpy(&raw, CMSG_DATA(c) + i * sizeof raw, sizeof raw);
      descriptors.push_back(UniqueFd::adopt(raw));
    }
  }
}

std::optional<Error> problem_of(const msghdr& message, std::size_t descriptors) {
  if ((message.msg_flags & MSG_TRUNC) != 0)
    return Error{Errc::kMalformed, 0, "a packet is longer than the protocol allows"};
  if (descriptors > kFdsPerMessageMax)
    return Error{Errc::kMalformed, 0, "a packet brings more descriptors than the protocol allows"};
  if ((message.msg_flags & MSG_CTRUNC) != 0)
    return Error{Errc::kSystem, EMFILE, "no room for the descriptors of a packet"};
  return std::nullopt;
}

// False: the socket is full.
Result<bool> not_sent() {
  if (errno == EAGAIN) return false;
  if (errno == EPIPE || errno == ECONNRESET)
    return Error{Errc::kUnavailable, errno, "the other side has closed the connection"};
  return system_error("send a packet");
}

// Most packets: send(2) has the kernel copy no message header.
Result<bool> send_bytes(BorrowedFd socket, std::span<const std::byte> bytes, int flags) {
  while (::send(socket.raw(), bytes.data(), bytes.size(), MSG_NOSIGNAL | flags) < 0)
    if (errno != EINTR) return not_sent();
  return true;
}

}  // namespace

Result<void> remove_stale_socket(const std::string& path) {
  const sockaddr_un address = OM_TRY(address_of(path));
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0)
    return errno == ENOENT ? Result<void>() : Result<void>(system_error("look at " + path));
  if (!S_ISSOCK(status.st_mode))
    return Error{Errc::kExists, 0,
                 path + " exists and is not a socket: remove it or choose another path"};
  const auto probe =
      UniqueFd::adopt(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return system_error("make a socket");
  // EPROTOTYPE: with a socket of another kind.
  if (::connect(probe.raw(), generic(address), sizeof address) == 0 || errno == EAGAIN ||
      errno == EPROTOTYPE)
    return Error{Errc::kBusy, 0, "another daemon listens on " + path};
  if (::unlink(path.c_str()) != 0 && errno != ENOENT)
    return system_error("remove the stale socket " + path);
  return {};
}

namespace {

Result<UniqueFd> listen_at(const std::string& path, int type, mode_t mode, int backlog) {
  const sockaddr_un address = OM_TRY(address_of(path));
  auto socket = UniqueFd::adopt(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return system_error("make a socket");
  const UniqueFd lock = lock_for_making(path);
  if (::bind(socket.raw(), generic(address), sizeof address) != 0) {
    if (errno != EADDRINUSE) return system_error("make the socket " + path);
    OM_TRY(remove_stale_socket(path));
    if (::bind(socket.raw(), generic(address), sizeof address) != 0)
      return system_error("make the socket " + path);
  }
  if (::chmod(path.c_str(), mode) != 0) return system_error("set the mode of " + path);
  if (::listen(socket.raw(), backlog) != 0) return system_error("listen on " + path);
  return socket;
}

}  // namespace

Result<UniqueFd> listen_seqpacket(const std::string& path, mode_t mode, int backlog) {
  return listen_at(path, SOCK_SEQPACKET, mode, backlog);
}

Result<UniqueFd> listen_stream(const std::string& path, mode_t mode, int backlog) {
  return listen_at(path, SOCK_STREAM, mode, backlog);
}

std::optional<FileId> file_id(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return std::nullopt;
  return FileId{status.st_dev, status.st_ino};
}

void remove_own_socket(const std::string& path, const std::optional<FileId>& ours) {
  const UniqueFd lock = lock_for_making(path);
  if (ours && file_id(path) == ours) (void)::unlink(path.c_str());
}

Result<UniqueFd> connect_seqpacket(const std::string& path, std::chrono::milliseconds timeout) {
  const sockaddr_un address = OM_TRY(address_of(path));
  auto socket = UniqueFd::adopt(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket) return system_error("make a socket");
  OM_TRY(set_timeouts(socket.borrow(), timeout));
  const auto begun = std::chrono::steady_clock::now();
  while (::connect(socket.raw(), generic(address), sizeof address) != 0) {
    int reason = errno;
    if (reason == EINTR) {
      // The next wait has the whole time again: with signals that keep coming there is no end.
      const auto waited =
          std::chrono::floor<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begun);
      if (timeout.count() <= 0 || waited < timeout) continue;
      reason = EAGAIN;
    }
    if (reason == EACCES || reason == EPERM)
      return Error{Errc::kDenied, reason, "connect to " + path};
    return Error{Errc::kUnavailable, reason, "connect to " + path};
  }
  return socket;
}

Result<std::optional<UniqueFd>> accept_connection(BorrowedFd listener) {
  while (true) {
    auto socket =
        UniqueFd::adopt(::accept4(listener.raw(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) return std::optional<UniqueFd>(std::move(socket));
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN) return std::optional<UniqueFd>();
    return system_error("accept a connection");
  }
}

Result<std::pair<UniqueFd, UniqueFd>> seqpacket_pair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
    return system_error("make a socket pair");
  return std::pair(UniqueFd::adopt(ends[0]), UniqueFd::adopt(ends[1]));
}

Result<PeerCredentials> peer_credentials(BorrowedFd socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket.raw(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
    return system_error("ask who the peer is");
  return PeerCredentials{credentials.pid, credentials.uid, credentials.gid};
}

Result<std::vector<gid_t>> peer_groups(BorrowedFd socket) {
  const PeerCredentials peer = OM_TRY(peer_credentials(socket));
  std::vector<gid_t> more(256);
  socklen_t size = static_cast<socklen_t>(more.size() * sizeof(gid_t));
  while (::getsockopt(socket.raw(), SOL_SOCKET, SO_PEERGROUPS, more.data(), &size) != 0) {
    if (errno != ERANGE) return system_error("ask for the peer's groups");
    more.resize(size / sizeof(gid_t));
  }
  more.resize(size / sizeof(gid_t));
  more.insert(more.begin(), peer.gid);
  return more;
}

Result<bool> send_packet(BorrowedFd socket, std::span<const std::byte> bytes,
                         std::span<const BorrowedFd> descriptors, int flags) {
  if (descriptors.empty()) return send_bytes(socket, bytes, flags);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kFdsPerMessageMax)> control{};
  iovec part{const_cast<std::byte*>(bytes.data()),
             bytes.size()};  // NOLINT(cppcoreguidelines-pro-type-const-cast)
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (descriptors.size() > kFdsPerMessageMax)
    return Error{Errc::kMalformed, 0, "more descriptors than fit one packet"};
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors.size());
  cmsghdr* rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    const int raw = descriptors[i].raw();
    std::memcpy(CMSG_DATA(rights) + i * sizeof raw, &raw, sizeof raw);
  }
  while (::sendmsg(socket.raw(), &message, MSG_NOSIGNAL | flags) < 0)
    if (errno != EINTR) return not_sent();
  return true;
}

Result<std::optional<Packet>> receive_packet(BorrowedFd socket, std::span<std::byte> buffer,
                                             int flags) {
  alignas(cmsghdr) std::array<char, kControlBytes> control;  // the kernel says how much it filled
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t received = ::recvmsg(socket.raw(), &message, MSG_CMSG_CLOEXEC | flags);
  if (received < 0) {
    // Whoever has a time limit looks at it after a signal: another wait would have the whole time.
    if (errno == EAGAIN || errno == EINTR) return std::optional<Packet>();
    if (errno == ECONNRESET) return std::optional<Packet>(Packet{});
    return system_error("receive a packet");
  }
  Packet packet;
  packet.bytes = static_cast<std::size_t>(received);
  adopt_descriptors(message, packet.descriptors);
  if (auto problem = problem_of(message, packet.descriptors.size())) return *std::move(problem);
  return std::optional<Packet>(std::move(packet));
}

Result<std::size_t> send_packets(BorrowedFd socket,
                                 std::span<const std::span<const std::byte>> packets, int flags) {
  constexpr std::size_t kAtOnce = 16;
  std::array<iovec, kAtOnce> parts{};
  std::array<mmsghdr, kAtOnce> messages{};
  const std::size_t count = std::min(packets.size(), kAtOnce);
  for (std::size_t i = 0; i < count; ++i) {
    // NOLINTNEXTLINE(cppcoreguidelines-pro-type-const-cast)
    parts[i] = {const_cast<std::byte*>(packets[i].data()), packets[i].size()};
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  int sent = 0;
  while ((sent = ::sendmmsg(socket.raw(), messages.data(), static_cast<unsigned>(count),
                            MSG_NOSIGNAL | flags)) < 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return std::size_t{0};
    if (errno == EPIPE || errno == ECONNRESET)
      return Error{Errc::kUnavailable, errno, "the other side has closed the connection"};
    return system_error("send packets");
  }
  return static_cast<std::size_t>(sent);
}

PacketBatch::PacketBatch(std::size_t most, std::size_t packet_bytes)
    : most_(most),
      packet_bytes_(packet_bytes),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(most * packet_bytes)),
      control_(most * kControlBytes),
      got_(most) {}

std::span<const std::byte> PacketBatch::bytes(std::size_t i) const {
  return {buffer_.get() + i * packet_bytes_, got_[i].bytes};
}

Result<std::size_t> PacketBatch::receive(BorrowedFd socket) {
  constexpr std::size_t kAtOnce = 32;
  const std::size_t count = std::min(most_, kAtOnce);
  std::array<iovec, kAtOnce> parts;
  std::array<mmsghdr, kAtOnce> messages;
  for (std::size_t i = 0; i < count; ++i) {
    parts[i] = {buffer_.get() + i * packet_bytes_, packet_bytes_};
    messages[i] = {};
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
    messages[i].msg_hdr.msg_control = control_.data() + i * kControlBytes;
    messages[i].msg_hdr.msg_controllen = kControlBytes;
    got_[i].descriptors.clear();
    got_[i].problem.reset();
  }
  int received = 0;
  while ((received = ::recvmmsg(socket.raw(), messages.data(), static_cast<unsigned>(count),
                                MSG_DONTWAIT | MSG_CMSG_CLOEXEC, nullptr)) < 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return std::size_t{0};
    if (errno == ECONNRESET) {
      got_[0].bytes = 0;
      return std::size_t{1};
    }
    return system_error("receive packets");
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(received); ++i) {
    got_[i].bytes = messages[i].msg_len;
    adopt_descriptors(messages[i].msg_hdr, got_[i].descriptors);
    got_[i].problem = problem_of(messages[i].msg_hdr, got_[i].descriptors.size());
  }
  return static_cast<std::size_t>(received);
}

void discard_packets(BorrowedFd socket) {
  std::byte first{};
  while (::recv(socket.raw(), &first, sizeof first, MSG_DONTWAIT) > 0) continue;
}

Result<std::size_t> bytes_in_flight(BorrowedFd socket) {
  int bytes = 0;
  if (::ioctl(socket.raw(), SIOCOUTQ, &bytes) != 0) return system_error("ask for unread bytes");
  return static_cast<std::size_t>(bytes);
}

}  // namespace om
