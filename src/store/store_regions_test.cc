// Regions: granted, held by a lock, made larger and smaller, kept, and dropped with their files;
// and what is in them, listed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "posix/file.h"
#include "posix/range_lock.h"
#include "region/region.h"
#include "region/testing.h"
#include "store/region_listing.h"
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

class RegionListTest : public StoreTest {
 protected:
  static constexpr std::uint64_t kRegion = 4 << 20;
  RegionListTest() { config.memory_bytes = 16 << 20; }

  // Objects 1 to `count` in a region of that owner; their keys.
  std::vector<std::string> fill(const std::string& owner, std::uint64_t count) {
    auto grant = open_region(owner, kRegion, 0, 1);
    EXPECT_TRUE(grant) << describe(grant.error());
    auto opened = region::Region::open(std::move(grant->memory), kRegion, owner, grant->fresh);
    EXPECT_TRUE(opened) << describe(opened.error());
    std::vector<std::string> keys;
    for (std::uint64_t id = 1; id <= count; ++id) {
      auto* const record = region::testing::make_object(**opened, {.id = id, .body = 100});
      EXPECT_TRUE(record != nullptr && (*opened)->publish(*record));
      keys.push_back("varnish:" + owner + "/" + std::to_string(id));
    }
    regions.push_back(*std::move(opened));
    return keys;
  }
  Result<ListPage> list(const std::string& prefix, const std::string& after, std::size_t limit) {
    std::optional<Result<ListPage>> answer;
    store->list_region_objects(prefix, after, limit, nullptr,
                               [&](Result<ListPage> page) { answer = std::move(page); });
    EXPECT_FALSE(answer);  // whoever waits for it does not hold others up
    until([&] { return answer.has_value(); });
    return answer ? *std::move(answer) : Result<ListPage>(Error{Errc::kTimeout, 0, "no answer"});
  }
  std::vector<std::string> list_all(const std::string& prefix, std::size_t limit) {
    std::vector<std::string> keys;
    for (bool more = true; more;) {
      const auto page = list(prefix, keys.empty() ? "" : keys.back(), limit);
      EXPECT_TRUE(page) << describe(page.error());
      if (!page) break;
      EXPECT_LE(page->items.size(), limit);
      for (const ListItem& item : page->items) keys.push_back(item.key);
      more = page->more && !page->items.empty();
    }
    return keys;
  }

  std::vector<std::unique_ptr<region::Region>> regions;
};

TEST_F(RegionListTest, ShowsWhatIsInThemPageByPage) {
  open();
  std::vector<std::string> all;
  std::vector<std::string> of_b;
  for (const char* owner : {"www/b", "www/a", "www"}) {
    auto keys = fill(owner, 30);
    std::ranges::sort(keys);
    if (std::string_view(owner) == "www/b") of_b = keys;
    all.insert(all.end(), keys.begin(), keys.end());
  }
  std::ranges::sort(all);
  for (const std::size_t limit : {1U, 7U, 89U, 90U, 1000U}) {
    EXPECT_EQ(list_all("", limit), all) << limit;
    EXPECT_EQ(list_all("varnish:www/b/", limit), of_b) << limit;
  }
  EXPECT_EQ(list_all("varnish:www/b/1", 4).size(), 11U);
  EXPECT_TRUE(list_all("varnish:x", 4).empty());
  EXPECT_TRUE(list("", all.back(), 4)->items.empty());
  const auto page = list("", all[3], 2);
  ASSERT_TRUE(page);
  ASSERT_EQ(page->items.size(), 2U);
  EXPECT_TRUE(page->more);
  EXPECT_EQ(page->items[0].key, all[4]);
  EXPECT_EQ(page->items[0].length, 100U);
  EXPECT_TRUE(page->items[0].url.starts_with("example.org/object/")) << page->items[0].url;
}

TEST_F(RegionListTest, IsBoundedAndHoldsUpNoEnd) {
  open();
  (void)fill("www", 30);
  std::size_t answered = 0;
  std::size_t busy = 0;
  const auto ask = [&] {
    store->list_region_objects("", "", 0, nullptr, [&](const Result<ListPage>& page) {
      ++answered;
      if (!page) {
        ++busy;
        EXPECT_EQ(page.error().code, Errc::kBusy);
      }
    });
  };
  for (int i = 0; i < 65; ++i) ask();
  EXPECT_EQ(answered, 1U);
  EXPECT_EQ(busy, 1U);
  EXPECT_FALSE(store->idle());
  until([&] { return answered == 65 && store->idle(); });
  EXPECT_EQ(busy, 1U);
  for (int i = 0; i < 10; ++i) ask();
  store.reset();
  EXPECT_EQ(answered, 65U);
}

TEST_F(RegionListTest, IsNotReadOnWhereNobodyWantsItAnyMore) {
  open();
  (void)fill("www", 30);
  const auto folder = open_directory(config.memory_dir + "/regions");
  ASSERT_TRUE(folder) << describe(folder.error());
  for (const std::size_t objects : {0U, 1U, 7U}) {
    RegionListing listing("", "", 1000);
    for (const char* owner : {"www", "another"}) listing.add_region(owner, "www");
    std::size_t asked = 0;
    listing.read(folder->borrow(), [&] { return asked++ > objects; });
    EXPECT_EQ(listing.take_page().items.size(), objects);
    EXPECT_EQ(asked, objects + 3);  // for each region, for those objects, and the next one
  }
  // Of a store: also before its turn has come.
  std::optional<Result<ListPage>> answer;
  store->list_region_objects("", "", 1000, std::make_shared<std::atomic<bool>>(true),
                             [&](Result<ListPage> page) { answer = std::move(page); });
  until([&] { return answer.has_value(); });
  ASSERT_TRUE(answer && !*answer);
  EXPECT_EQ(answer->error().code, Errc::kUnavailable);
  EXPECT_EQ(list("", "", 4)->items.size(), 4U);
}

}  // namespace
}  // namespace om::store
