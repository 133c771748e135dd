// Regions: granted, held by a lock, made larger and smaller, kept, and dropped with their files.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "posix/file.h"
#include "posix/range_lock.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

TEST_F(StoreTest, RegionsAreGrantedHeldGrownAndDropped) {
  with_disk();
  open();
  auto grant = open_region("www/s", 1 << 20, 1 << 20, 42);
  ASSERT_TRUE(grant) << describe(grant.error());
  EXPECT_TRUE(grant->fresh);
  EXPECT_TRUE(grant->directory);
  ASSERT_TRUE(*lock_range_exclusive(grant->memory.borrow(), 0, 1));
  EXPECT_EQ(open_region("www/s", 1 << 20, 0, 43).error().code, Errc::kBusy);
  EXPECT_EQ(drop_region("www/s").error().code, Errc::kBusy);
  ASSERT_TRUE(write_exactly(grant->memory.borrow(), 100, std::as_bytes(std::span("data", 4))));
  crash();
  EXPECT_EQ(open_region("www/s", 1 << 20, 1 << 20, 43).error().code, Errc::kBusy);
  auto regions = store->list_regions();
  ASSERT_TRUE(regions && regions->size() == 1);
  EXPECT_TRUE(regions->front().held);
  EXPECT_EQ(regions->front().owner, "www/s");
  grant->memory.reset();
  auto grown = open_region("www/s", 2 << 20, 1 << 20, 44);
  ASSERT_TRUE(grown) << describe(grown.error());
  EXPECT_FALSE(grown->fresh);
  EXPECT_EQ(*file_size(grown->memory.borrow()), std::uint64_t{2} << 20);
  char bytes[4] = {};
  ASSERT_EQ(::pread(grown->memory.raw(), bytes, 4, 100), 4);
  EXPECT_EQ(std::string_view(bytes, 4), "data");
  EXPECT_EQ(open_region("other", 3 << 20, 0, 1).error().code, Errc::kNoSpace);
  auto smaller = open_region("www/s", 1 << 20, 0, 44);
  ASSERT_TRUE(smaller);
  EXPECT_FALSE(smaller->fresh);
  EXPECT_EQ(*file_size(smaller->memory.borrow()), std::uint64_t{1} << 20);
  ASSERT_EQ(::pread(smaller->memory.raw(), bytes, 4, 100), 4);
  EXPECT_EQ(std::string_view(bytes, 4), "data");
  EXPECT_EQ(status("memory.region_bytes"), std::uint64_t{1} << 20);
  // While one is being made, another is refused, and the loop serves others.
  bool answered = false;
  store->open_region("www/busy", 1 << 20, 0, 1, [&](const auto& made) {
    answered = true;
    EXPECT_TRUE(made);
  });
  EXPECT_FALSE(answered);
  EXPECT_EQ(open_region("www/busy", 1 << 20, 0, 2).error().code, Errc::kBusy);
  EXPECT_FALSE(*store->stat("nothing"));
  until([&] { return answered; });
  ASSERT_TRUE(drop_region("www/busy"));
  smaller->memory.reset();
  ASSERT_TRUE(drop_region("www/s"));
  EXPECT_EQ(drop_region("www/s").error().code, Errc::kNotFound);
  EXPECT_EQ(status("memory.region_bytes"), 0U);
  EXPECT_EQ(status("disk.used_bytes"), 0U);
}

TEST_F(StoreTest, ARegionsFilesAreKeptWithoutItsMemoryAndGoWhenItIsDropped) {
  with_disk();
  with_disk();
  open();
  constexpr std::uint64_t kDisk = 8 << 20;
  const auto makes_a_body = [&](const char* owner) {
    auto grant = open_region(owner, 1 << 20, kDisk, 42);
    ASSERT_TRUE(grant) << describe(grant.error());
    ASSERT_EQ(::mkdirat(grant->directory->raw(), "0a", 0700), 0);
    ASSERT_TRUE(open_at(grant->directory->borrow(), "0a/body", O_RDWR | O_CREAT));
    ASSERT_TRUE(open_at(grant->directory->borrow(), "snapshot", O_RDWR | O_CREAT));
  };
  makes_a_body("www/s");
  makes_a_body("www/t");
  // Each on a disk of its own: the one with more room is taken.
  EXPECT_EQ(status("disk.0.used_bytes"), kDisk);
  EXPECT_EQ(status("disk.1.used_bytes"), kDisk);
  store.reset();
  std::filesystem::remove_all(config.memory_dir);
  open();
  EXPECT_EQ(status("disk.used_bytes"), 2 * kDisk);
  EXPECT_EQ(store->list_regions()->size(), 2U);
  auto grant = open_region("www/s", 1 << 20, kDisk, 42);
  ASSERT_TRUE(grant) << describe(grant.error());
  EXPECT_TRUE(grant->fresh);
  EXPECT_TRUE(open_at(grant->directory->borrow(), "0a/body", O_RDONLY));
  EXPECT_EQ(status("disk.used_bytes"), 2 * kDisk);
  grant->memory.reset();
  ASSERT_TRUE(drop_region("www/s"));
  EXPECT_FALSE(open_at(grant->directory->borrow(), "0a/body", O_RDONLY));
  EXPECT_EQ(status("disk.used_bytes"), kDisk);
  ASSERT_TRUE(drop_region("www/t"));
  EXPECT_EQ(status("disk.used_bytes"), 0U);
  EXPECT_TRUE(store->list_regions()->empty());
}

TEST_F(StoreTest, ARegionGetsTheSpaceOfSharedObjects) {
  open();
  for (unsigned i = 0; i < 12; ++i) ASSERT_TRUE(put("k" + std::to_string(i), body_of(300000, i)));
  ASSERT_TRUE(open_region("o", 3 << 20, 0, 1));
  EXPECT_LE(status("memory.segment_bytes") + status("memory.region_bytes"), config.memory_bytes);
}

}  // namespace
}  // namespace om::store
