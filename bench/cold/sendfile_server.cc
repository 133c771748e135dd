// objm-sendfile: the least that a server of files can do: open, send the header, sendfile, close. A
// thread for each connection. What a cache whose bodies lie in files is measured against.
//
//   objm-sendfile --root DIR --port N [--unix PATH]
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "posix/unique_fd.h"

namespace om {
namespace {

constexpr std::size_t kPieceBytes = 1024 * 1024;

bool send_all(int to, const std::string& text, int flags) {
  return ::send(to, text.data(), text.size(), MSG_NOSIGNAL | flags) ==
         static_cast<ssize_t>(text.size());
}

bool answer(int to, const std::string& path) {
  const UniqueFd file = UniqueFd::adopt(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
  if (!file || ::fstat(file.raw(), &status) != 0 || !S_ISREG(status.st_mode))
    return send_all(to, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 0);
  auto left = static_cast<std::size_t>(status.st_size);
  if (!send_all(
          to,
          "HTTP/1.1 200 OK\r\nX-Cache: hit\r\nContent-Length: " + std::to_string(left) + "\r\n\r\n",
          left > 0 ? MSG_MORE : 0))
    return false;
  while (left > 0) {
    const ssize_t n = ::sendfile(to, file.raw(), nullptr, std::min(left, kPieceBytes));
    if (n <= 0) return false;
    left -= static_cast<std::size_t>(n);
  }
  return true;
}

void serve(UniqueFd socket, const std::string& root) {
  std::string pending;
  char buffer[16384];
  while (true) {
    const std::size_t end = pending.find("\r\n\r\n");
    if (end == std::string::npos) {
      const ssize_t n = ::recv(socket.raw(), buffer, sizeof buffer, 0);
      if (n <= 0 || pending.size() > 65536) return;
      pending.append(buffer, static_cast<std::size_t>(n));
      continue;
    }
    const std::size_t path = pending.find(' ');
    const std::size_t path_end = pending.find(' ', path + 1);
    if (path_end > end) return;
    const std::string wanted = pending.substr(path + 1, path_end - path - 1);
    pending.erase(0, end + 4);
    if (wanted.find("..") != std::string::npos || !answer(socket.raw(), root + wanted)) return;
  }
}

UniqueFd listen_at(const sockaddr* address, socklen_t size) {
  UniqueFd listener = UniqueFd::adopt(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  (void)::setsockopt(listener.raw(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(listener.raw(), address, size) != 0 || ::listen(listener.raw(), 1024) != 0) {
    std::perror("objm-sendfile");
    std::exit(1);
  }
  return listener;
}

[[noreturn]] void accept_all(const UniqueFd& listener, const std::string& root) {
  while (true) {
    UniqueFd socket = UniqueFd::adopt(::accept4(listener.raw(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket) continue;
    const int on = 1;  // refused by a Unix socket, which does not wait anyway
    (void)::setsockopt(socket.raw(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    std::thread(serve, std::move(socket), root).detach();
  }
}

int run(int argc, char** argv) {
  std::string root;
  std::string unix_path;
  std::uint16_t port = 0;
  CLI::App app{"serves the files of a folder by sendfile"};
  app.add_option("--root", root, "the folder")->required();
  app.add_option("--port", port, "where to listen, on 127.0.0.1")->required();
  app.add_option("--unix", unix_path, "and here");
  CLI11_PARSE(app, argc, argv);
  (void)std::signal(SIGPIPE, SIG_IGN);
  sockaddr_in tcp{};
  tcp.sin_family = AF_INET;
  tcp.sin_port = htons(port);
  tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const UniqueFd listener = listen_at(reinterpret_cast<const sockaddr*>(&tcp), sizeof tcp);
  if (!unix_path.empty()) {
    sockaddr_un local{};
    local.sun_family = AF_UNIX;
    if (unix_path.size() >= sizeof local.sun_path) {
      std::fprintf(stderr, "objm-sendfile: %s is too long\n", unix_path.c_str());
      return 1;
    }
    std::memcpy(local.sun_path, unix_path.c_str(), unix_path.size());
    std::thread([at = listen_at(reinterpret_cast<const sockaddr*>(&local), sizeof local), root] {
      accept_all(at, root);
    }).detach();
  }
  accept_all(listener, root);
}

}  // namespace
}  // namespace om

int main(int argc, char** argv) { return om::run(argc, argv); }
