// What lies on disk: what a sync covered is back after a kill or another boot, and only that. A
// disk that fails or is away costs no more than what lies there.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "store/store_testing.h"

namespace om::store {
namespace {

TEST_F(StoreTest, AnotherBootKeepsWhatWasDurable) {
  with_disk();
  config.boot_id = "one";
  open();
  auto wanted = request("disk", 100000);
  wanted.disk = true;
  ASSERT_TRUE(put(wanted, body_of(100000, 1)));
  ASSERT_TRUE(put("memory", "m"));
  ASSERT_TRUE(store->shutdown());
  config.boot_id = "two";
  open();
  EXPECT_EQ(get("disk"), body_of(100000, 1));
  EXPECT_EQ(get("memory"), std::nullopt);
}

// Else the index would vouch for bodies that only the page cache has.
TEST_F(StoreTest, WhatAKillLeftUnsyncedIsSyncedAfterTheStart) {
  with_disk();
  std::atomic<int> synced = 0;
  config.disk_fault = [&](const char* operation, const std::string&) {
    if (std::string_view(operation) == "sync") ++synced;
    return 0;
  };
  open();
  for (const std::size_t length : {1000, 100000}) {
    auto wanted = request("k" + std::to_string(length), length);
    wanted.disk = true;
    ASSERT_TRUE(put(wanted, body_of(length, 1)));
  }
  crash();
  synced = 0;
  const auto group_syncs = status("catalog.group_syncs");
  until([&] {
    clock.now_ns += 100'000'000;
    return status("catalog.group_syncs") > group_syncs;
  });
  EXPECT_GE(synced, 2);  // a pack and a file; the pack may have been compacted meanwhile
}

// ext4 that is shut down while it syncs says that all went well, and has zeros afterwards.
TEST_F(StoreTest, ASyncHoldsOnceTheDiskIsSeenToWorkAfterIt) {
  with_disk();
  std::atomic<bool> shut_down = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    return shut_down && std::string_view(operation) == "still works" ? EIO : 0;
  };
  open();
  const auto put_on_disk = [&](const std::string& key) {
    auto wanted = request(key, 1000);
    wanted.disk = true;
    ASSERT_TRUE(put(wanted, body_of(1000, 1)));
  };
  put_on_disk("synced");
  const auto group_syncs = status("catalog.group_syncs");
  until([&] {
    clock.now_ns += 100'000'000;
    return status("catalog.group_syncs") > group_syncs;
  });
  shut_down = true;
  put_on_disk("not synced");
  until([&] {
    clock.now_ns += 100'000'000;
    return status("disk.failed") == 1;
  });
  shut_down = false;
  crash();
  EXPECT_EQ(get("synced"), body_of(1000, 1));
  EXPECT_EQ(get("not synced"), std::nullopt);
}

TEST_F(StoreTest, WhatNoSyncCoveredDoesNotWaitForADiskThatIsAway) {
  with_disk();
  std::atomic<bool> away = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    return away && std::string_view(operation) == "open" ? EIO : 0;
  };
  open();
  const auto put_on_disk = [&](const std::string& key) {
    auto wanted = request(key, 1000);
    wanted.disk = true;
    ASSERT_TRUE(put(wanted, body_of(1000, 1)));
  };
  const auto sync = [&] {
    const auto group_syncs = status("catalog.group_syncs");
    until([&] {
      clock.now_ns += 100'000'000;
      return status("catalog.group_syncs") > group_syncs;
    });
  };
  put_on_disk("synced");
  sync();
  put_on_disk("not synced");
  away = true;
  crash();
  EXPECT_EQ(status("disk.failed"), 1U);
  ASSERT_TRUE(put("other", "o"));
  sync();
  away = false;
  crash();
  EXPECT_EQ(get("synced"), body_of(1000, 1));
  EXPECT_EQ(get("not synced"), std::nullopt);
}

TEST_F(StoreTest, NoPackHasTheNumberOfAnEarlierOne) {
  with_disk();
  open();
  const auto segment_of_k = [&] {
    auto wanted = request("k", 1000);
    wanted.disk = true;
    EXPECT_TRUE(put(wanted, body_of(1000, 1)));
    const auto leased = store->get(me, "k");
    EXPECT_TRUE(leased && *leased);
    const SegmentId segment = (*leased)->extents.front().segment;
    store->release(me, (*leased)->lease_id);
    return segment;
  };
  const SegmentId before = segment_of_k();
  ASSERT_TRUE(store->remove("k"));
  ASSERT_TRUE(store->shutdown());
  open();  // the pack is empty and goes
  EXPECT_NE(segment_of_k(), before);
}

TEST_F(StoreTest, ADiskThatDoesNotOpenIsToldOnceByItsName) {
  with_disk();
  with_disk();
  open();
  EXPECT_EQ(store->take_troubles(), std::vector<std::string>());
  store.reset();
  const std::string bad = config.disks[1].path;
  std::filesystem::copy_file(config.disks[0].path + "/disk-id", bad + "/disk-id",
                             std::filesystem::copy_options::overwrite_existing);
  open();
  EXPECT_EQ(status("disk.failed"), 1U);
  const auto troubles = store->take_troubles();
  ASSERT_EQ(troubles.size(), 1U);
  EXPECT_NE(troubles[0].find("path=" + bad + " "), std::string::npos) << troubles[0];
  store->tick();
  EXPECT_EQ(store->take_troubles(), std::vector<std::string>());
}

TEST_F(StoreTest, ADiskThatFailsDropsOutAndTheOtherGoesOn) {
  with_disk();
  with_disk();
  std::atomic<bool> broken = false;
  const std::string bad = config.disks[0].path;
  config.disk_fault = [&](const char* operation, const std::string& path) {
    return broken && path == bad && std::string_view(operation) != "open" ? EIO : 0;
  };
  open();
  const auto wanted = [](int i) {
    auto one = request("k" + std::to_string(i), 200000);
    one.disk = true;
    return one;
  };
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(put(wanted(i), body_of(200000, 1)));
  broken = true;
  for (int i = 10; i < 20; ++i) {
    const auto done = put(wanted(i), body_of(200000, 1));
    ASSERT_TRUE(done) << describe(done.error());
  }
  EXPECT_EQ(status("disk.failed"), 1U);
  std::size_t told = 0;
  for (const auto& line : store->take_troubles())
    if (line.find("path=" + bad + " ") != std::string::npos) ++told;
  EXPECT_EQ(told, 1U);
  for (int i = 10; i < 20; ++i) EXPECT_EQ(get("k" + std::to_string(i)), body_of(200000, 1));
}

}  // namespace
}  // namespace om::store
