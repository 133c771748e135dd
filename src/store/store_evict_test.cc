// Making room, in memory and on disk: by eviction, by moving to disk, by compaction, and when the
// memory tier has been made smaller. What is leased stays.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "posix/file.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

TEST_F(StoreTest, AFullMemoryEvictsButNotWhatIsLeased) {
  open();
  ASSERT_TRUE(put("leased", body_of(500000, 1)));
  auto leased = store->get(me, "leased");
  ASSERT_TRUE(leased && *leased);
  for (unsigned i = 0; i < 40; ++i) {
    const auto done = put("k" + std::to_string(i), body_of(300000, i));
    ASSERT_TRUE(done) << describe(done.error());
    EXPECT_LE(status("memory.segment_bytes"), config.memory_bytes);
  }
  EXPECT_GT(status("evicted.memory"), 20U);
  EXPECT_EQ(read(me, **leased), body_of(500000, 1));
  EXPECT_TRUE(*store->stat("leased"));
}

TEST_F(StoreTest, AsManyMakeRoomAsAreNeededInTheirOrder) {
  open();
  std::vector<std::string> gone;
  store->set_listener([&](const Event& event) {
    if (event.kind == EventKind::kRemoved) gone.emplace_back(event.key);
  });
  const auto key = [](unsigned i) { return "k" + std::to_string(i); };
  // 4 MiB, to the byte.
  for (unsigned i = 0; i < 1024; ++i) ASSERT_TRUE(put(key(i), body_of(4096, i)));
  EXPECT_EQ(gone, std::vector<std::string>());
  const auto leased = store->get(me, key(3));
  ASSERT_TRUE(leased && *leased);
  std::vector<std::string> expected;
  const auto first = [&](unsigned from, unsigned to) {
    for (unsigned i = from; i < to; ++i)
      if (i != 3) expected.push_back(key(i));
  };
  ASSERT_TRUE(put("one", body_of(4096, 1)));
  first(0, 1);
  EXPECT_EQ(gone, expected);
  ASSERT_TRUE(put("some", body_of(100'000, 2)));  // 25 of them, but for 2368 bytes
  first(1, 27);
  EXPECT_EQ(gone, expected);
  // More than go with one write; and they are in the index by now.
  clock.now_ns += 2'000'000'000;
  store->tick();
  until([&] { return store->idle(); });
  EXPECT_EQ(status("catalog.overlay_entries"), 0U);
  ASSERT_TRUE(put("many", body_of(1'000'000, 3)));  // those, and 244 more
  first(27, 271);
  EXPECT_EQ(gone, expected);
  EXPECT_EQ(status("evicted.memory"), gone.size());
  EXPECT_EQ(status("memory.objects"), 1024 + 3 - gone.size());
  EXPECT_EQ(status("objects"), 1024 + 3 - gone.size());
  EXPECT_EQ(get("many"), body_of(1'000'000, 3));
  EXPECT_EQ(read(me, **leased), body_of(4096, 3));
  crash();
  EXPECT_EQ(status("objects"), 1024 + 3 - gone.size());
  for (unsigned i = 0; i < 1024; ++i) {
    const bool is_gone = i != 3 && i < 271;
    EXPECT_EQ(get(key(i)), is_gone ? std::nullopt : std::optional(body_of(4096, i))) << i;
  }
}

TEST_F(StoreTest, WhatCannotBeRecordedAsEvictedIsEvictedLater) {
  open();
  for (unsigned i = 0; i < 4; ++i) ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
  for (int i = 0; i < 2; ++i) {
    const auto refused = [&] {
      const testing::NoWrites journal_fails;
      return store->reserve(me, request("more", 1000000), nullptr);
    }();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::kNoSpace);
  }
  EXPECT_EQ(status("memory.objects"), 4U);
  EXPECT_EQ(status("objects"), 4U);
  for (unsigned i = 0; i < 5; ++i) {
    const std::string key = "more" + std::to_string(i);
    ASSERT_TRUE(put(key, body_of(1000000, i)));
    EXPECT_EQ(get(key), body_of(1000000, i));
  }
  EXPECT_EQ(status("memory.objects"), 4U);
}

// The journal takes the first of them, and no more.
TEST_F(StoreTest, WhatCannotBeRecordedTogetherAsEvictedIsThereAlsoAfterARestart) {
  open();
  const auto key = [](unsigned i) { return "k" + std::to_string(i); };
  for (unsigned i = 0; i < 64; ++i) ASSERT_TRUE(put(key(i), body_of(65536, i)));
  std::uint64_t journal_bytes = 0;
  for (const auto& file :
       std::filesystem::directory_iterator(config.state_dir + "/catalog/journal"))
    journal_bytes = std::max<std::uint64_t>(journal_bytes, file.file_size());
  const auto refused = [&] {
    const testing::NoWrites journal_fails(journal_bytes + 100);
    return store->reserve(me, request("more", 1'000'000), nullptr);
  }();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::kNoSpace);
  EXPECT_EQ(status("evicted.memory"), 0U);
  EXPECT_EQ(status("memory.objects"), 64U);
  crash();
  EXPECT_EQ(status("objects"), 64U);
  for (unsigned i = 0; i < 64; ++i) EXPECT_EQ(get(key(i)), body_of(65536, i)) << i;
  ASSERT_TRUE(put("more", body_of(1'000'000, 77)));
  EXPECT_EQ(status("evicted.memory"), 16U);
  EXPECT_EQ(get("more"), body_of(1'000'000, 77));
}

TEST_F(StoreTest, AFileSystemThatIsFullCostsNoMoreThanTheNewObjectsNeed) {
  with_disk();
  std::atomic<bool> full = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    return full && std::string_view(operation) == "create" ? ENOSPC : 0;
  };
  open();
  const auto wanted = [](int i) {
    auto one = request("k" + std::to_string(i), 100000);
    one.disk = true;
    return one;
  };
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(put(wanted(i), body_of(100000, 1)));
  full = true;
  EXPECT_EQ(put(wanted(20), body_of(100000, 1)).error().code, Errc::kNoSpace);
  full = false;
  for (int i = 20; i < 25; ++i) ASSERT_TRUE(put(wanted(i), body_of(100000, 1)));
  // One for each, and one more where a tick comes in between: the catalog has grown meanwhile, on
  // the same file system, and the room that one object leaves is to the byte what another needs.
  EXPECT_GE(status("evicted.disk"), 5U);
  EXPECT_LE(status("evicted.disk"), 6U);
  EXPECT_EQ(status("disk.failed"), 0U);
}

TEST_F(StoreTest, AFullDiskEvictsAndNeverTakesMoreThanItMay) {
  with_disk(4 << 20);
  open();
  for (unsigned i = 0; i < 60; ++i) {
    const std::size_t length = i % 3 == 0 ? 300000 : 20000;
    auto wanted = request("k" + std::to_string(i), length);
    wanted.disk = true;
    const auto done = put(wanted, body_of(length, i));
    ASSERT_TRUE(done) << i << describe(done.error());
    EXPECT_LE(status("disk.used_bytes"), std::uint64_t{4} << 20);
    EXPECT_EQ(get("k" + std::to_string(i)), body_of(length, i));
  }
  EXPECT_GT(status("evicted.disk"), 0U);
}

TEST_F(StoreTest, MemoryIsMadeRoomInByMovingObjectsToDisk) {
  with_disk();
  open();
  for (unsigned i = 0; i < 40; ++i) ASSERT_TRUE(put("k" + std::to_string(i), body_of(200000, i)));
  until([&] { return status("demoted") > 0 && store->idle(); });
  for (unsigned i = 0; i < 40; ++i) EXPECT_EQ(get("k" + std::to_string(i)), body_of(200000, i));
}

TEST_F(StoreTest, APackWithLeasedObjectsDoesNotKeepOthersFromBeingCompacted) {
  with_disk();
  open();
  const auto key = [](unsigned i) { return "k" + std::to_string(i); };
  // 13 to a pack.
  for (unsigned i = 0; i < 27; ++i) {
    auto wanted = request(key(i), 20'000);
    wanted.disk = true;
    ASSERT_TRUE(put(wanted, body_of(20'000, i)));
  }
  EXPECT_EQ(status("disk.0.packs"), 3U);
  const auto leased = store->get(me, key(0));
  ASSERT_TRUE(leased && *leased);
  for (unsigned i = 1; i < 26; ++i) {
    if (i == 13) continue;
    ASSERT_TRUE(store->remove(key(i)));
  }
  // One is left in the first pack, and leased; one in the second.
  until([&] { return status("compacted") == 1 && status("disk.0.packs") == 2; });
  EXPECT_EQ(get(key(13)), body_of(20'000, 13));
  EXPECT_EQ(read(me, **leased), body_of(20'000, 0));
  store->release(me, (*leased)->lease_id);
  until([&] { return status("compacted") == 2 && status("disk.0.packs") == 1; });
  EXPECT_EQ(get(key(0)), body_of(20'000, 0));
}

// A memory tier that is configured smaller than what lies there.
TEST_F(StoreTest, ASmallerMemoryKeepsWhatIsLeasedAndWhatFits) {
  open();
  for (unsigned i = 0; i < 11; ++i) ASSERT_TRUE(put("k" + std::to_string(i), body_of(300000, i)));
  // Locks are taken in blocks of ids: the leased one is to be far from the others.
  for (unsigned i = 0; i < 130; ++i) ASSERT_TRUE(put("between", "x"));
  ASSERT_TRUE(put("k11", body_of(300000, 11)));
  EXPECT_EQ(status("memory.segment_bytes"), std::uint64_t{4} << 20);
  const auto reader = *store->open_holder({});
  const auto copy = *duplicate(store->lease_descriptor(reader));
  const auto leased = store->get(reader, "k11");
  ASSERT_TRUE(leased && *leased);
  config.memory_bytes = 2 << 20;
  crash();
  EXPECT_LE(status("memory.segment_bytes"), config.memory_bytes);
  EXPECT_TRUE(*store->stat("k11"));
  EXPECT_EQ(get("k11"), body_of(300000, 11));
  unsigned left = 0;
  for (unsigned i = 0; i < 12; ++i) {
    const auto body = get("k" + std::to_string(i));
    if (body) {
      EXPECT_EQ(*body, body_of(300000, i));
    }
    left += body.has_value() ? 1 : 0;
  }
  EXPECT_GE(left, 3U);
  EXPECT_LT(left, 12U);
  ASSERT_TRUE(put("more", body_of(300000, 77)));
  EXPECT_LE(status("memory.segment_bytes"), config.memory_bytes);
}

}  // namespace
}  // namespace om::store
