#include "director_link.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace om::vmod {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

TEST(DirectorBreaker, OpensAfterFailuresInARowOnly) {
  Breaker breaker;
  for (int round = 0; round < 3; ++round) {
    for (unsigned i = 1; i < Breaker::kFailuresMax; ++i) EXPECT_FALSE(breaker.failed());
    EXPECT_FALSE(breaker.succeeded());
    EXPECT_FALSE(breaker.open());
  }
  for (unsigned i = 1; i < Breaker::kFailuresMax; ++i) EXPECT_FALSE(breaker.failed());
  EXPECT_TRUE(breaker.failed());
  EXPECT_TRUE(breaker.open());
  EXPECT_FALSE(breaker.failed());  // it is open already
  EXPECT_TRUE(breaker.succeeded());
  EXPECT_FALSE(breaker.open());
  EXPECT_FALSE(breaker.succeeded());
}

// A directory with a socket at which somebody may listen, and need not answer.
class Place {
 public:
  Place() {
    char name[] = "/tmp/omdl.XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~Place() {
    stop();
    std::filesystem::remove_all(path_);
  }
  [[nodiscard]] std::string socket() const { return path_ + "/s"; }
  void listen_and_say_nothing() {
    fd_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socket().c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(::listen(fd_, 8), 0);
  }
  void stop() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  std::string path_;
  int fd_ = -1;
};

TEST(DirectorLink, NobodyWaitsForADaemonThatIsNotThere) {
  Place place;
  std::atomic<int> connected{0};
  DirectorLink::Watcher watcher;
  watcher.connected = [&] { ++connected; };
  DirectorLink link({place.socket(), milliseconds(50), "test", 2}, std::move(watcher));
  const auto begin = steady_clock::now();
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(link.client(), nullptr);
  EXPECT_EQ(link.publisher(), nullptr);
  EXPECT_LT(steady_clock::now() - begin, milliseconds(1000));
  EXPECT_FALSE(link.up());
  EXPECT_FALSE(link.wait_up(milliseconds(30)));
  EXPECT_EQ(connected, 0);
}

TEST(LostClients, AreLookedAtWithinOneTimeLimit) {
  const auto owner = std::make_shared<int>(0);
  const std::shared_ptr<Client> client(owner, nullptr);  // nobody looks at it
  LostClients lost;
  for (int i = 0; i < 3; ++i) lost.add(client);
  int asked = 0;
  const LostClients::Renew hangs = [&](const auto& /*lost*/, std::uint64_t /*ended_ns*/,
                                       std::uint64_t after, const auto& /*fresh*/,
                                       LostClients::Deadline until) {
    ++asked;
    EXPECT_EQ(after, 0U);
    EXPECT_LE(until, steady_clock::now() + LostClients::kLimit);
    std::this_thread::sleep_until(until);
    return std::uint64_t{0};
  };
  EXPECT_FALSE(lost.renew(client, hangs));
  EXPECT_EQ(asked, 1);
  // Each goes on where it was, until it is through.
  std::vector<std::uint64_t> seen;
  const LostClients::Renew two_goes = [&](const auto& /*lost*/, std::uint64_t /*ended_ns*/,
                                          std::uint64_t after, const auto& /*fresh*/,
                                          LostClients::Deadline /*until*/) {
    seen.push_back(after);
    return after == 0 ? std::uint64_t{7} : std::uint64_t{0};
  };
  EXPECT_TRUE(lost.renew(client, two_goes));
  EXPECT_FALSE(lost.renew(client, two_goes));
  EXPECT_EQ(seen, (std::vector<std::uint64_t>{0, 0, 0, 7, 7, 7}));
}

TEST(DirectorLink, NobodyWaitsForADaemonThatDoesNotAnswerHello) {
  Place place;
  place.listen_and_say_nothing();
  DirectorLink link({place.socket(), milliseconds(50), "test", 2}, {});
  const auto begin = steady_clock::now();
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(link.client(), nullptr);
  EXPECT_LT(steady_clock::now() - begin, milliseconds(1000));
  EXPECT_FALSE(link.up());
}

}  // namespace
}  // namespace om::vmod
