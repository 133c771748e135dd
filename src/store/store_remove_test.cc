// Objects that go: because somebody removes them, or because their time has come.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <variant>
#include <vector>

#include "store/store_testing.h"

namespace om::store {
namespace {

TEST_F(StoreTest, RemovalByKeyPrefixAndTag) {
  open();
  for (int i = 0; i < 30; ++i) {
    auto wanted = request((i % 2 == 0 ? "even/" : "odd/") + std::to_string(i), 1);
    if (i % 3 == 0) wanted.tags = {"three"};
    ASSERT_TRUE(put(wanted, "x"));
  }
  EXPECT_EQ(store->remove("even/0")->count, 1U);
  EXPECT_EQ(store->remove("even/0")->count, 0U);
  EXPECT_EQ(store->remove_tag("three")->count, 9U);
  EXPECT_EQ(store->remove_prefix("odd/")->count, 10U);
  const auto page = store->list("", "", 0);
  ASSERT_TRUE(page);
  EXPECT_EQ(page->items.size(), 10U);
  EXPECT_FALSE(page->more);
}

// More than go with one write.
TEST_F(StoreTest, ManyThatAreRemovedTogetherLeaveTheirBytesToWhoReadsThem) {
  config.memory_bytes = 16 << 20;
  open();
  const auto reader = *store->open_holder({});
  const auto alive = *duplicate(store->lease_descriptor(reader));
  const auto key = [](unsigned i) {
    return "p/" + std::string(i % 5 * 1000, 'x') + std::to_string(i);
  };
  std::size_t told = 0;
  store->set_listener(
      [&](const Event& event) { told += event.kind == EventKind::kRemoved ? 1U : 0U; });
  for (unsigned i = 0; i < 300; ++i) {
    auto wanted = request(key(i), 1000);
    if (i % 2 == 0) wanted.tags = {"tag"};
    ASSERT_TRUE(put(wanted, body_of(1000, i)));
  }
  std::vector<Leased> leased;
  for (const unsigned i : {8U, 77U, 150U, 299U}) {
    const auto one = store->get(reader, key(i));
    ASSERT_TRUE(one && *one);
    leased.push_back(**one);
  }
  EXPECT_EQ(store->remove_tag("tag")->count, 150U);
  EXPECT_EQ(told, 150U);
  EXPECT_EQ(status("held.bytes"), 2000U);
  EXPECT_EQ(status("objects"), 150U);
  EXPECT_EQ(store->remove_prefix("p/")->count, 150U);
  EXPECT_EQ(told, 300U);
  EXPECT_EQ(status("removed"), 300U);
  EXPECT_EQ(status("held.bytes"), 4000U);
  EXPECT_EQ(status("memory.objects"), 0U);
  EXPECT_EQ(read(reader, leased[1]), body_of(1000, 77));
  crash();
  EXPECT_EQ(status("objects"), 0U);
  EXPECT_EQ(status("held.bytes"), 4000U);
}

TEST_F(StoreTest, ExpiredObjectsAreGone) {
  open();
  for (const char* key : {"a", "b"}) {
    auto wanted = request(key, 1);
    wanted.expires_ns = clock.now_ns + 1000;
    ASSERT_TRUE(put(wanted, "x"));
  }
  EXPECT_EQ(get("a"), "x");
  clock.now_ns += 1000;
  EXPECT_EQ(get("a"), std::nullopt);
  store->tick();
  EXPECT_EQ(status("objects"), 0U);
  EXPECT_EQ(status("expired"), 2U);
}

TEST_F(StoreTest, TimesOfExpiryThatMeanNothingAnyMoreTakeNoMemory) {
  open();
  constexpr std::uint64_t kSecond = 1'000'000'000;
  auto wanted = request("refreshed", 1);
  wanted.expires_ns = clock.real_ns() + 1000 * kSecond;
  const auto done = put(wanted, "x");
  ASSERT_TRUE(done);
  for (unsigned i = 0; i < 10'000; ++i) {
    auto mine = store->reserve(me, request("refreshed", 0), nullptr);
    ASSERT_TRUE(mine);
    Amendment says;
    // Later and earlier by turns, and at times never.
    if (i % 5 != 0) says.expires_ns = clock.real_ns() + (i % 2 == 0 ? 3000U : 2000U) * kSecond;
    ASSERT_TRUE(refresh(me, std::get<Reserved>(*mine).put_id, done->object_id, says));
  }
  store->tick();
  EXPECT_LE(status("expiries"), 10U);
  wanted = request("replaced", 1);
  wanted.expires_ns = clock.real_ns() + 500 * kSecond;
  for (unsigned i = 0; i < 10'000; ++i) ASSERT_TRUE(put(wanted, "y"));
  store->tick();
  EXPECT_LE(status("expiries"), 10U);
  EXPECT_EQ(status("objects"), 2U);
  // All the same each goes when its time has come, and not before.
  clock.now_ns += 501 * kSecond;
  store->tick();
  EXPECT_EQ(status("objects"), 1U);
  clock.now_ns += 1000 * kSecond;
  store->tick();
  EXPECT_EQ(get("refreshed"), "x");
  clock.now_ns += 500 * kSecond;
  store->tick();
  EXPECT_EQ(status("objects"), 0U);
  EXPECT_EQ(status("expired"), 2U);
  EXPECT_EQ(status("expiries"), 0U);
}

TEST_F(StoreTest, OfATimeThatComesNearerAndGoesAwayAgainTheLastOneCounts) {
  open();
  constexpr std::uint64_t kSecond = 1'000'000'000;
  const std::uint64_t start = clock.real_ns();
  const auto at = [&](std::uint64_t seconds) {
    clock.now_ns += start + seconds * kSecond - clock.real_ns();
    store->tick();
  };
  const auto expires = [&](const std::string& key, std::vector<std::uint64_t> seconds) {
    auto wanted = request(key, 1);
    wanted.expires_ns = start + seconds.front() * kSecond;
    const auto done = put(wanted, "x");
    ASSERT_TRUE(done);
    for (std::size_t i = 1; i < seconds.size(); ++i) {
      auto mine = store->reserve(me, request(key, 0), nullptr);
      ASSERT_TRUE(mine);
      Amendment says;
      if (seconds[i] != 0) says.expires_ns = start + seconds[i] * kSecond;
      ASSERT_TRUE(refresh(me, std::get<Reserved>(*mine).put_id, done->object_id, says));
    }
  };
  expires("nearer", {1000, 400});
  expires("nearer, later", {1000, 400, 3000});
  expires("nearer, later, nearer", {1000, 400, 3000, 2000});
  expires("never, nearer", {1000, 0, 900});
  expires("never", {1000, 400, 0});
  at(399);
  EXPECT_EQ(status("objects"), 5U);
  at(401);
  EXPECT_EQ(status("objects"), 4U);
  at(901);
  EXPECT_EQ(get("never, nearer"), std::nullopt);
  EXPECT_EQ(status("objects"), 3U);
  at(1001);
  EXPECT_EQ(status("objects"), 3U);
  EXPECT_EQ(status("expiries"), 2U);  // one each, of those that expire
  at(2001);
  EXPECT_EQ(status("objects"), 2U);
  EXPECT_EQ(get("nearer, later"), "x");
  at(3001);
  EXPECT_EQ(get("nearer, later"), std::nullopt);
  EXPECT_EQ(get("never"), "x");
  EXPECT_EQ(status("expired"), 4U);
  EXPECT_EQ(status("expiries"), 0U);
}

TEST_F(StoreTest, ARemovalIsLaterThanWhatWasPutBeforeTheClockWasSetBack) {
  config.memory_bytes = 16 << 20;
  open();
  constexpr std::uint64_t kSecond = 1'000'000'000;
  const auto ban_time = [&] {
    Removal ban;
    ban.kind = RemovalKind::kBan;
    ban.what = "req.url ~ a";
    const auto recorded = store->record(ban);
    EXPECT_TRUE(recorded);
    return recorded ? recorded->time_ns : std::uint64_t{0};
  };
  const auto at_the_right_time = [&] {
    clock.set_back_ns = 0;
    clock.now_ns += 10 * kSecond;
  };
  ASSERT_TRUE(put("published", "body"));
  std::uint64_t born = (*store->stat("published"))->created_ns;
  clock.set_back_ns = 3600 * kSecond;
  EXPECT_GT(ban_time(), born);

  // Whoever asked for it did so before, and others may follow it already.
  at_the_right_time();
  born = clock.real_ns();
  ASSERT_TRUE(store->reserve(me, request("under way", 4), nullptr));
  clock.set_back_ns = 3600 * kSecond;
  EXPECT_GT(ban_time(), born);

  at_the_right_time();
  const auto room = *store->take_room(me, {300'000});
  const auto done = put_in_room(me, room.put_id, {into(room, 0, "in a room", "body")});
  ASSERT_TRUE(done.size() == 1 && done[0]);
  clock.set_back_ns = 3600 * kSecond;
  EXPECT_GT(ban_time(), done[0]->created_ns);

  at_the_right_time();
  ASSERT_TRUE(put("of an earlier life", "body"));
  born = (*store->stat("of an earlier life"))->created_ns;
  clock.set_back_ns = 3600 * kSecond;
  crash();
  EXPECT_EQ(get("of an earlier life"), "body");
  EXPECT_GT(ban_time(), born);
}

TEST_F(StoreTest, WhatTheLogOfRemovalsHasLostIsTold) {
  open();
  EXPECT_EQ(store->take_troubles(), std::vector<std::string>());
  store.reset();
  for (const auto& file : std::filesystem::directory_iterator(config.state_dir + "/removals"))
    if (file.path().filename().string().starts_with("removals-"))
      std::ofstream(file.path(), std::ios::app | std::ios::binary) << "no entry";
  open();
  const auto troubles = store->take_troubles();
  ASSERT_EQ(troubles.size(), 1U);
  EXPECT_TRUE(troubles[0].starts_with("removals recovered report=\"8 bytes at the end of "))
      << troubles[0];
  std::string report;
  for (const auto& item : store->status())
    if (item.name == "removals.recovery") report = item.text;
  EXPECT_NE(troubles[0].find("\"" + report + "\""), std::string::npos) << report;
  // Once.
  store.reset();
  open();
  EXPECT_EQ(store->take_troubles(), std::vector<std::string>());
}

TEST_F(StoreTest, ALogOfRemovalsThatIsGoneLeavesACacheWithAGap) {
  open();
  EXPECT_EQ(store->removals().oldest(), 1U);
  ASSERT_TRUE(put("k", "x"));
  store.reset();
  std::filesystem::remove_all(config.state_dir + "/removals");
  open();
  EXPECT_EQ(store->removals().oldest(), 2U);
  EXPECT_GE(store->removals().floor_ns(), (*store->stat("k"))->created_ns);
  EXPECT_EQ(store->take_troubles(),
            std::vector<std::string>{
                "removals recovered report=\"the log of earlier removals is gone\""});
  // The same where nothing is left but what a cache has.
  ASSERT_TRUE(open_region("web/store", 1 << 20, 0, 1));
  store.reset();
  std::filesystem::remove_all(config.state_dir);
  open();
  EXPECT_EQ(store->removals().oldest(), 2U);
  store.reset();
  std::filesystem::remove_all(config.state_dir);
  std::filesystem::remove_all(config.memory_dir);
  open();
  EXPECT_EQ(store->removals().oldest(), 1U);
  EXPECT_EQ(store->take_troubles(), std::vector<std::string>());
}

TEST_F(StoreTest, WhatTheLogOfRemovalsHasLostIsToldAlsoByAStartThatFails) {
  open();
  store.reset();
  for (const auto& file : std::filesystem::directory_iterator(config.state_dir + "/removals"))
    if (file.path().filename().string().starts_with("removals-"))
      std::ofstream(file.path(), std::ios::app | std::ios::binary) << "no entry";
  const std::string in_the_way = config.memory_dir + "/leases";
  std::filesystem::remove_all(in_the_way);
  std::ofstream(in_the_way) << "a file";
  std::vector<std::string> troubles;
  ASSERT_FALSE(Store::open(config, clock, &troubles));
  ASSERT_EQ(troubles.size(), 1U);
  EXPECT_TRUE(troubles[0].starts_with("removals recovered report=\"8 bytes at the end of "))
      << troubles[0];
  std::filesystem::remove(in_the_way);
  open();
  EXPECT_EQ(store->take_troubles(), std::vector<std::string>());
}

}  // namespace
}  // namespace om::store
