// What the configuration promises beyond tests/daemon/config_test.py, which asks the program.
#include "server/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace om::server {
namespace {

class ConfigFile : public ::testing::Test {
 public:
  ConfigFile() {
    const char* base = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe)
    directory_ = std::string(base != nullptr ? base : "/tmp") + "/om-config-XXXXXX";
    if (::mkdtemp(directory_.data()) == nullptr) std::abort();
    path_ = directory_ + "/objmapper.toml";
  }
  ~ConfigFile() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

 protected:
  std::string directory_;
  std::string path_;
};

TEST_F(ConfigFile, ThatIsNotThereIsPassedOver) {
  EXPECT_FALSE(may_be_there(path_));
  EXPECT_FALSE(may_be_there(directory_ + "/no/such/directory/objmapper.toml"));
}

TEST_F(ConfigFile, ThatIsThereIsRead) {
  std::ofstream(path_) << "read-gid = 7001\n";
  ASSERT_TRUE(may_be_there(path_));
  Config config;
  const auto read = read_config_file(path_, config);
  ASSERT_TRUE(read) << describe(read.error());
  EXPECT_EQ(config.access.read, gid_t{7001});
}

// Of ways not to be readable, one that stops root as well.
TEST_F(ConfigFile, ThatCannotBeReadIsAMistake) {
  for (const std::string& target : {path_, directory_ + "/nothing"}) {
    std::filesystem::create_symlink(target, path_);
    EXPECT_TRUE(may_be_there(path_)) << target;
    Config config;
    const auto read = read_config_file(path_, config);
    ASSERT_FALSE(read) << target;
    EXPECT_NE(read.error().what.find(path_), std::string::npos) << read.error().what;
    EXPECT_NE(read.error().what.find("--config"), std::string::npos) << read.error().what;
    std::filesystem::remove(path_);
  }
  // Nor can it be looked at, behind what is no directory.
  std::ofstream(directory_ + "/file") << "x";
  EXPECT_TRUE(may_be_there(directory_ + "/file/objmapper.toml"));
}

}  // namespace
}  // namespace om::server
