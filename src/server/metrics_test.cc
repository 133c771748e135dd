// Where metrics are to be served at a path: what lies there already. What they say, and to whom:
// tests/daemon.
#include "server/metrics.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "loop/loop.h"
#include "posix/unix_socket.h"

namespace om::server {
namespace {

class MetricsTest : public ::testing::Test {
 protected:
  MetricsTest() {
    std::string name = (std::filesystem::temp_directory_path() / "om-metrics-XXXXXX").string();
    directory = ::mkdtemp(name.data());
    path = directory + "/metrics.sock";
  }
  ~MetricsTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  Result<std::unique_ptr<Metrics>> start() {
    return Metrics::start(*loop, path, [] { return std::string("objmapper_up 1\n"); });
  }

  std::string directory;
  std::string path;
  std::unique_ptr<Loop> loop = *Loop::make();
};

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
