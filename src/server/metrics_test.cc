// Where metrics are to be served at a path: what lies there already. What they say, and to whom:
// tests/daemon.
#include "server/metrics.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "loop/loop.h"
#include "posix/unique_fd.h"
#include "posix/unix_socket.h"

namespace {
std::atomic<int> accepts_to_fail{0};
}  // namespace

// In the place of the C library's, for this program.
extern "C" int accept4(int fd, sockaddr* addr, socklen_t* addr_len, int flags) {
  if (accepts_to_fail > 0) {
    --accepts_to_fail;
    errno = ENOMEM;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_accept4, fd, addr, addr_len, flags));
}

namespace om::server {
namespace {

class MetricsTest : public ::testing::Test {
 public:
  MetricsTest(const MetricsTest&) = delete;
  MetricsTest& operator=(const MetricsTest&) = delete;
  ~MetricsTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }

 protected:
  MetricsTest() {
    std::string name = (std::filesystem::temp_directory_path() / "om-metrics-XXXXXX").string();
    directory = ::mkdtemp(name.data());
    path = directory + "/metrics.sock";
  }
  Result<std::unique_ptr<Metrics>> start() {
    return Metrics::start(*loop, path, [] { return std::string("objmapper_up 1\n"); });
  }

  std::string directory;
  std::string path;
  std::unique_ptr<Loop> loop = *Loop::make();
};

// What a collector is told.
std::string scrape(const std::string& path) {
  const auto socket = UniqueFd::adopt(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const timeval limit{30, 0};
  EXPECT_EQ(::setsockopt(socket.raw(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  EXPECT_LT(path.size(), sizeof address.sun_path);
  std::memcpy(static_cast<char*>(address.sun_path), path.data(), path.size());
  EXPECT_EQ(::connect(socket.raw(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
            0);
  const std::string request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(::send(socket.raw(), request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  std::string answer;
  std::array<char, 4096> part{};
  for (ssize_t n = 0; (n = ::recv(socket.raw(), part.data(), part.size(), 0)) > 0;)
    answer.append(part.data(), static_cast<std::size_t>(n));
  return answer;
}

TEST_F(MetricsTest, AreServedOnWhateverHasKeptAConnectionFromBeingTaken) {
  accepts_to_fail = 2;
  const auto metrics = start();
  ASSERT_TRUE(metrics) << describe(metrics.error());
  std::string answer;
  std::thread collector([&] {
    answer = scrape(path);
    loop->stop();
  });
  EXPECT_TRUE(loop->run());
  collector.join();
  EXPECT_EQ(accepts_to_fail, 0);
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer;
  EXPECT_NE(answer.find("objmapper_up 1\n"), std::string::npos) << answer;
}

TEST_F(MetricsTest, AreServedOnAPortThatTheKernelChose) {
  path = ":0";
  const auto metrics = start();
  ASSERT_TRUE(metrics) << describe(metrics.error());
  EXPECT_TRUE((*metrics)->where().starts_with("127.0.0.1:")) << (*metrics)->where();
  EXPECT_FALSE((*metrics)->where().ends_with(":0"));
}

TEST_F(MetricsTest, AFileInTheSocketsPlaceStays) {
  std::ofstream(path) << "precious";
  EXPECT_EQ(start().error().code, Errc::kExists);
  std::string text;
  std::ifstream(path) >> text;
  EXPECT_EQ(text, "precious");
}

TEST_F(MetricsTest, ASocketThatSomebodyListensOnStays) {
  auto first = start();
  ASSERT_TRUE(first) << describe(first.error());
  EXPECT_EQ(start().error().code, Errc::kBusy);
  EXPECT_TRUE(std::filesystem::exists(path));
  first->reset();
  EXPECT_FALSE(std::filesystem::exists(path));
  const auto daemon = listen_seqpacket(path, 0600, 8);
  ASSERT_TRUE(daemon);
  EXPECT_EQ(start().error().code, Errc::kBusy);
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST_F(MetricsTest, AStaleSocketIsReplaced) {
  (void)*listen_seqpacket(path, 0600, 8);
  ASSERT_TRUE(std::filesystem::exists(path));
  EXPECT_TRUE(start());
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace om::server
