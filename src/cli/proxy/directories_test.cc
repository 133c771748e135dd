#include "cli/proxy/directories.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "posix/file.h"
#include "posix/range_lock.h"

namespace om::cli::proxy {
namespace {

constexpr uid_t kAnother = 65534;

class Directories : public testing::Test {
 public:
  Directories() {
    std::string name = (std::filesystem::temp_directory_path() / "om-directories-XXXXXX").string();
    root_ = ::mkdtemp(name.data());
    plan_.directory = path("run/name");
    plan_.memory_directory = path("mem");
    plan_.state_directory = path("mem/state");
    plan_.memory_bytes = 4096;
  }
  ~Directories() override { std::filesystem::remove_all(root_); }

  void use_disk() {
    plan_.disk_directory = path("disk");
    plan_.state_directory = path("disk/state");
    plan_.disk_bytes = 4096;
  }
  // As objmapperd leaves them.
  void fill_disk() {
    use_disk();
    for (const char* name :
         {"disk/objects/disk-id", "disk/objects/objects/ab/00000000000000ab",
          "disk/objects/packs/0000000000000001", "disk/state/next-object", "disk/state/removals/1",
          "disk/state/catalog/lock", "disk/state/catalog/journal/1", "mem/segments/1"}) {
      write(name);
    }
  }

  [[nodiscard]] std::string path(const std::string& name) const { return root_ + "/" + name; }
  void write(const std::string& name) const {
    std::filesystem::create_directories(std::filesystem::path(path(name)).parent_path());
    std::ofstream(path(name)) << "x";
  }
  [[nodiscard]] bool there(const std::string& name) const {
    return std::filesystem::exists(path(name));
  }
  void link(const std::string& name, const std::string& to) const {
    std::filesystem::create_directory_symlink(path(to), path(name));
  }
  [[nodiscard]] std::uint64_t free_bytes() const {
    const auto directory = *open_directory(root_);
    return file_system_space(directory.borrow())->free_bytes;
  }

  Result<void> make() {
    OM_TRY(make_runtime_directory(plan_));
    return make_store_directories(plan_);
  }
  // Refused for this reason, in words that have `word` in them.
  void refuses(Errc code, const std::string& word) {
    const auto made = make();
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, code) << made.error().what;
    EXPECT_NE(made.error().what.find(word), std::string::npos) << made.error().what;
  }

  std::string root_;
  Plan plan_;
};

TEST_F(Directories, AreMade) {
  ASSERT_TRUE(make());
  EXPECT_TRUE(there("run/name/store"));
  EXPECT_TRUE(there("mem/state"));
  use_disk();
  ASSERT_TRUE(make());
  ASSERT_TRUE(make());
  EXPECT_TRUE(there("disk/objects"));
  EXPECT_TRUE(there("disk/state"));
}

TEST_F(Directories, AreNoLinksAndNothingBehindOneIsTouched) {
  write("elsewhere/mine");
  plan_.options.discard = true;
  link("mem", "elsewhere");
  refuses(Errc::kDenied, "a link");
  std::filesystem::remove(path("mem"));
  std::filesystem::create_directory(path("mem"));
  link("mem/state", "elsewhere");
  plan_.options.discard = false;
  refuses(Errc::kDenied, "a link");
  plan_.options.discard = true;
  EXPECT_TRUE(make());
  fill_disk();
  std::filesystem::rename(path("disk/objects"), path("moved"));
  link("disk/objects", "moved");
  refuses(Errc::kDenied, "a link");
  EXPECT_TRUE(there("moved/disk-id"));
  EXPECT_TRUE(there("elsewhere/mine"));
}

TEST_F(Directories, OfAnotherUserAreRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make a directory another's";
  plan_.options.discard = true;
  write("mem/segments/1");
  ASSERT_EQ(::chown(path("mem").c_str(), kAnother, kAnother), 0);
  refuses(Errc::kDenied, "belongs to another user: choose another --name");
  EXPECT_TRUE(there("mem/segments/1"));
  plan_.uid = kAnother;  // but for objmapperd's own
  plan_.gid = kAnother;
  EXPECT_TRUE(make());
  fill_disk();
  ASSERT_EQ(::chown(path("disk").c_str(), kAnother, kAnother), 0);
  refuses(Errc::kDenied, "belongs to another user: choose another directory for --disk");
  EXPECT_TRUE(there("disk/objects/disk-id"));
}

TEST_F(Directories, DiscardRemovesWhatIsOursAlone) {
  fill_disk();
  for (const char* name : {"disk/mine", "disk/objects/mine", "disk/state/mine"}) write(name);
  ASSERT_TRUE(make());
  EXPECT_TRUE(there("disk/objects/packs/0000000000000001"));
  plan_.options.discard = true;
  ASSERT_TRUE(make());
  for (const char* name : {"disk/objects/disk-id", "disk/objects/objects", "disk/objects/packs",
                           "disk/state/next-object", "disk/state/removals",
                           "disk/state/catalog/journal", "mem/segments"}) {
    EXPECT_FALSE(there(name)) << name;
  }
  for (const char* name :
       {"disk/mine", "disk/objects/mine", "disk/state/mine", "disk/state/catalog/lock"}) {
    EXPECT_TRUE(there(name)) << name;
  }
}

TEST_F(Directories, WithFilesOfOthersAreNotTaken) {
  use_disk();
  for (const bool discard : {false, true}) {
    plan_.options.discard = discard;
    for (const char* name : {"disk/objects/mine", "disk/state/mine",
                             // Of an objmapperd whose catalog is elsewhere.
                             "disk/objects/disk-id"}) {
      write(name);
      refuses(Errc::kDenied, "choose another directory for --disk");
      EXPECT_TRUE(there(name)) << name;
      std::filesystem::remove(path(name));
    }
  }
  EXPECT_TRUE(make());
}

TEST_F(Directories, InUseAreNotDiscarded) {
  plan_.options.discard = true;
  for (const char* state : {"mem/state", "disk/state"}) {
    if (state[0] == 'd') fill_disk();
    const std::string lock = std::string(state) + "/catalog/lock";
    write(lock);
    const auto file = *open_file(path(lock), O_RDWR);
    ASSERT_TRUE(*lock_range_exclusive(file.borrow(), 0, 1));
    refuses(Errc::kBusy, state);
    EXPECT_TRUE(there(lock));
  }
  EXPECT_TRUE(there("disk/objects/disk-id"));
}

TEST_F(Directories, RoomOnDiskIsWhatIsFreeAndWhatOursTakes) {
  constexpr std::uint64_t kMebibyte = 1ULL << 20U;
  fill_disk();
  for (const bool is_ours : {false, true}) {
    const std::string name = is_ours ? "disk/objects/packs/0000000000000002" : "disk/data/large";
    write(name);
    {
      const auto file = *open_file(path(name), O_RDWR);
      if (!allocate(file.borrow(), 0, 64 * kMebibyte)) GTEST_SKIP() << "no room to try it";
    }
    // Others use the file system as well: until a moment in which they do little.
    Result<void> made;
    std::uint64_t moved = 0;
    do {
      const std::uint64_t before = free_bytes();
      plan_.disk_bytes = before + 32 * kMebibyte;
      made = make();
      const std::uint64_t after = free_bytes();
      moved = std::max(before, after) - std::min(before, after);
    } while (moved > 8 * kMebibyte);
    EXPECT_EQ(made.has_value(), is_ours);
    std::filesystem::remove(path(name));
  }
}

}  // namespace
}  // namespace om::cli::proxy
