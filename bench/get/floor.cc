#include "get/floor.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace om::bench {

namespace {

constexpr std::size_t kBufferBytes = std::size_t{128} << 10;

void check(bool good, const char* what) {
  if (good) return;
  std::perror(what);
  std::_Exit(1);
}

void answer_blocking(int socket, std::size_t reply_bytes) {
  std::vector<char> buffer(kBufferBytes);
  for (;;) {
    const ssize_t n = ::recv(socket, buffer.data(), buffer.size(), 0);
    if (n <= 0) return;
    if (::send(socket, buffer.data(), reply_bytes, MSG_NOSIGNAL) < 0) return;
  }
}

void answer_epoll(const std::vector<UniqueFd>& sockets, std::size_t reply_bytes) {
  const int epoll = ::epoll_create1(0);
  check(epoll >= 0, "epoll_create1");
  for (const UniqueFd& socket : sockets) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = socket.raw();
    check(::epoll_ctl(epoll, EPOLL_CTL_ADD, socket.raw(), &event) == 0, "epoll_ctl");
  }
  std::vector<char> buffer(kBufferBytes);
  for (;;) {
    std::array<epoll_event, 64> events{};
    const int count = ::epoll_wait(epoll, events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      const int socket = events[static_cast<std::size_t>(i)].data.fd;
      const ssize_t n = ::recv(socket, buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (n <= 0) return;
      if (::send(socket, buffer.data(), reply_bytes, MSG_NOSIGNAL) < 0) return;
    }
  }
}

}  // namespace

Floor::Floor(Shape shape, std::size_t connections, std::size_t reply_bytes) {
  std::vector<UniqueFd> theirs;
  for (std::size_t i = 0; i < connections; ++i) {
    std::array<int, 2> pair{};
    check(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) == 0, "socketpair");
    ends_.push_back(UniqueFd::adopt(pair[0]));
    theirs.push_back(UniqueFd::adopt(pair[1]));
  }
  child_ = ::fork();
  check(child_ >= 0, "fork");
  if (child_ != 0) return;
  ends_.clear();
  if (shape == Shape::kEpoll) {
    answer_epoll(theirs, reply_bytes);
  } else {
    std::vector<std::thread> threads;
    for (const UniqueFd& socket : theirs)
      threads.emplace_back(
          [raw = socket.raw(), reply_bytes] { answer_blocking(raw, reply_bytes); });
    for (std::thread& thread : threads) thread.join();
  }
  std::_Exit(0);
}

Floor::~Floor() {
  ends_.clear();
  if (child_ <= 0) return;
  (void)::kill(child_, SIGKILL);
  (void)::waitpid(child_, nullptr, 0);
}

}  // namespace om::bench
