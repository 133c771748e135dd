// The pool, over a real listening socket: it finds a daemon that has come back, and leaves one
// alone that is gone.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "objmapper/client.h"
#include "posix/unix_socket.h"
#include "wire/codec.h"
#include "wire/messages.h"

namespace om::client {
namespace {

using namespace std::chrono_literals;

struct Listener {
  Listener() {
    std::string name = "/tmp/om-client-test-XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    directory = name;
    path = directory + "/s";
  }
  ~Listener() {
    stop();
    (void)::unlink(path.c_str());
    (void)::rmdir(directory.c_str());
  }
  void start() {
    stopping = false;
    UniqueFd socket = *listen_seqpacket(path, 0600, 8);
    thread = std::thread([this, socket = std::move(socket)] {
      std::vector<std::thread> sessions;
      std::vector<int> open;
      while (!stopping) {
        auto peer = accept_connection(socket.borrow());
        if (!peer || !peer->has_value()) {
          std::this_thread::sleep_for(1ms);
          continue;
        }
        open.push_back((*peer)->raw());
        (void)::fcntl((*peer)->raw(), F_SETFL, 0);
        sessions.emplace_back([end = std::make_shared<UniqueFd>(**std::move(peer))] {
          std::vector<std::byte> buffer(kPacketBytesMax);
          while (true) {
            auto packet = receive_packet(end->borrow(), buffer);
            if (!packet || !packet->has_value() || (*packet)->bytes == 0) break;
            const auto bytes = std::span(buffer).first((*packet)->bytes);
            const auto header = *wire::decode_header(bytes, 0);
            const std::string reply =
                header.type == wire::Type::kHello
                    ? wire::encode_reply(header.type, header.request_id, wire::HelloReply{})
                    : wire::encode_reply(header.type, header.request_id, wire::StatusReply{});
            (void)send_packet(end->borrow(), std::as_bytes(std::span(reply)), {});
          }
          (void)::shutdown(end->raw(), SHUT_RDWR);
        });
      }
      for (const int fd : open) (void)::shutdown(fd, SHUT_RDWR);
      for (auto& session : sessions) session.join();
    });
  }
  void stop() {
    stopping = true;
    if (thread.joinable()) thread.join();
  }
  std::string directory;
  std::string path;
  std::atomic<bool> stopping{false};
  std::thread thread;
};

TEST(Pool, ComesBackAfterTheDaemonDid) {
  Listener daemon;
  Pool::Options options;
  options.connect.socket = daemon.path;
  options.connections = 2;
  Pool pool(options);
  const auto look = [](Client& client) { return client.status(); };
  EXPECT_EQ(pool.run(look).error().code, Errc::kUnavailable);
  daemon.start();
  ASSERT_TRUE(pool.wait_for_client(10s));
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(pool.run(look));
  daemon.stop();
  EXPECT_FALSE(pool.run(look));
  daemon.start();
  ASSERT_TRUE(pool.wait_for_client(10s));
  EXPECT_TRUE(pool.run(look));
}

TEST(Pool, DoesNotHammerADaemonThatIsGone) {
  Pool::Options options;
  options.connect.socket = "/nonexistent/s";
  options.backoff_min = 60s;
  options.backoff_max = 60s;
  Pool pool(options);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(pool.client());
  EXPECT_FALSE(pool.wait_for_client(30ms));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
}

TEST(Pool, HasAPauseWhateverIsAskedFor) {
  using std::chrono::milliseconds;
  struct Pauses {
    milliseconds least;
    milliseconds most;
  };
  // Of two that are the wrong way round the longer one counts.
  for (const auto& [least, most] : {Pauses{60s, 1ms}, Pauses{60s, milliseconds::min()},
                                    Pauses{milliseconds::max(), milliseconds::max()}}) {
    Pool::Options options;
    options.connect.socket = "/nonexistent/s";
    options.backoff_min = least;
    options.backoff_max = most;
    Pool pool(options);
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 1000; ++i) EXPECT_FALSE(pool.client());
    EXPECT_FALSE(pool.wait_for_client(30ms));
    EXPECT_GE(std::chrono::steady_clock::now() - begin, 30ms);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  }
  // Without any, this would try as often as it can: CPU time of this thread says so.
  Pool::Options options;
  options.connect.socket = "/nonexistent/s";
  options.backoff_min = options.backoff_max = 0ms;
  Pool pool(options);
  const auto cpu = [] {
    timespec now{};
    (void)::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
  };
  const auto before = cpu();
  EXPECT_FALSE(pool.wait_for_client(500ms));
  EXPECT_LT(cpu() - before, 250ms);
}

}  // namespace
}  // namespace om::client
