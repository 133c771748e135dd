#include "load/threaded_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace om::load {
namespace {

constexpr std::size_t kRequestBytesMax = 64 * 1024;

UniqueFd listen_at(const sockaddr* address, socklen_t size) {
  UniqueFd listener = UniqueFd::adopt(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  (void)::setsockopt(listener.raw(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(listener.raw(), address, size) != 0 || ::listen(listener.raw(), 1024) != 0) {
    std::perror("listen");
    std::exit(1);
  }
  return listener;
}

void converse(const UniqueFd& socket, const Answer& answer) {
  std::string pending;
  char buffer[16384];
  while (true) {
    const std::size_t end = pending.find("\r\n\r\n");
    if (end == std::string::npos) {
      const ssize_t n = ::recv(socket.raw(), buffer, sizeof buffer, 0);
      if (n <= 0 || pending.size() > kRequestBytesMax) return;
      pending.append(buffer, static_cast<std::size_t>(n));
      continue;
    }
    const std::size_t path = pending.find(' ');
    const std::size_t path_end = pending.find(' ', path + 1);
    if (path_end > end) return;
    const Request request{pending.substr(path + 1, path_end - path - 1),
                          pending.starts_with("HEAD ")};
    pending.erase(0, end + 4);
    if (!answer(socket.raw(), request)) return;
  }
}

}  // namespace

UniqueFd listen_on_loopback(std::uint16_t port) {
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return listen_at(reinterpret_cast<const sockaddr*>(&at), sizeof at);
}

UniqueFd listen_on_path(const std::string& path) {
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  if (path.size() >= sizeof at.sun_path) {
    (void)std::fprintf(stderr, "%s is too long for a Unix socket\n", path.c_str());
    std::exit(1);
  }
  std::memcpy(at.sun_path, path.c_str(), path.size());
  return listen_at(reinterpret_cast<const sockaddr*>(&at), sizeof at);
}

void serve(const UniqueFd& listener, const Answer& answer) {
  while (true) {
    UniqueFd socket = UniqueFd::adopt(::accept4(listener.raw(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket) continue;
    const int on = 1;  // refused by a Unix socket, which does not wait anyway
    (void)::setsockopt(socket.raw(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    std::thread([socket = std::move(socket), answer] { converse(socket, answer); }).detach();
  }
}

bool send_all(int to, std::string_view bytes, int flags) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(to, bytes.data(), bytes.size(), MSG_NOSIGNAL | flags);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace om::load
