#include "director_link.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <string>

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
  EXPECT_LT(steady_clock::now() - begin, milliseconds(1000));
  EXPECT_FALSE(link.up());
  EXPECT_FALSE(link.wait_up(milliseconds(30)));
  EXPECT_EQ(connected, 0);
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
