// What was found stale and is still good: its bytes and its id stay, and what is said of it is
// replaced for all who have it, wait for it or come later.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "store/store_testing.h"

namespace om::store {
namespace {

// A put of a key that is there, by one who has found that useless.
class Refresh : public StoreTest {
 protected:
  void found_stale(const std::string& key) {
    auto wanted = request(key, std::nullopt);
    wanted.or_get = true;
    auto there = store->reserve(me, wanted, nullptr);
    ASSERT_TRUE(there && std::holds_alternative<Leased>(*there));
    lease = std::get<Leased>(*there);
    wanted.stale_object = lease.info.object_id;
    wanted.stale_revision = lease.info.revision;
    auto mine = store->reserve(me, wanted, nullptr);
    ASSERT_TRUE(mine && std::holds_alternative<Reserved>(*mine));
    put_id = std::get<Reserved>(*mine).put_id;
  }
  Amendment says() {
    Amendment amendment;
    amendment.expires_ns = clock.real_ns() + 5'000'000'000;
    amendment.metadata = "new";
    amendment.tags = {"blue"};
    return amendment;
  }
  void put_one(const std::string& body, bool disk = false) {
    auto wanted = request("k", body.size());
    wanted.metadata = "old";
    wanted.tags = {"red"};
    wanted.disk = disk;
    wanted.expires_ns = clock.real_ns() + 1'000'000'000;
    ASSERT_TRUE(put(wanted, body));
  }
  Leased lease;
  PutId put_id = 0;
};

TEST_F(Refresh, SaysAnewWhatIsSaidOfAnObjectThatStays) {
  for (const bool disk : {false, true}) {
    if (disk) with_disk();
    open();
    const std::string body = body_of(disk ? 100'000 : 3000, 1);
    put_one(body, disk);
    ASSERT_NO_FATAL_FAILURE(found_stale("k"));
    const std::uint64_t used = status("memory.used_bytes");
    const auto done = refresh(me, put_id, lease.info.object_id, says());
    ASSERT_TRUE(done) << describe(done.error());
    EXPECT_EQ(done->object_id, lease.info.object_id);
    EXPECT_EQ(done->created_ns, lease.info.created_ns);
    EXPECT_EQ(read(me, lease), body);
    store->release(me, lease.lease_id);
    for (int start = 0; start < 2; ++start) {
      const auto info = store->stat("k");
      ASSERT_TRUE(info && *info);
      EXPECT_EQ((*info)->object_id, lease.info.object_id);
      EXPECT_EQ((*info)->metadata, "new");
      EXPECT_EQ((*info)->revision, 1U);
      EXPECT_EQ((*info)->tier, lease.info.tier);
      EXPECT_EQ(get("k"), body);
      EXPECT_EQ(status("puts"), 0U);
      EXPECT_LE(status("memory.used_bytes"), used);
      crash();
    }
    EXPECT_EQ(store->remove_tag("red")->count, 0U);
    // The old time is over, the new one is not.
    clock.now_ns += 2'000'000'000;
    store->tick();
    EXPECT_EQ(get("k"), body);
    clock.now_ns += 4'000'000'000;
    store->tick();
    EXPECT_EQ(get("k"), std::nullopt);
    EXPECT_EQ(status("held.bytes"), 0U);
  }
}

TEST_F(Refresh, OthersFindTheNewRevision) {
  open();
  const auto other = *store->open_holder({});
  put_one("body");
  ASSERT_NO_FATAL_FAILURE(found_stale("k"));
  auto wanted = request("k", 4);
  wanted.or_get = true;
  wanted.stale_object = lease.info.object_id;
  bool woken = false;
  auto waits = store->reserve(other, wanted, [&] { woken = true; });
  ASSERT_TRUE(waits && std::holds_alternative<Waiting>(*waits));
  auto following = wanted;
  following.follow = true;
  auto follows = store->reserve(other, following, nullptr);
  ASSERT_TRUE(follows && std::holds_alternative<Following>(*follows));
  ASSERT_TRUE(refresh(me, put_id, lease.info.object_id, says()));
  until([&] { return woken; });
  // Who followed has nothing, and asks again.
  auto told = store->follow(other, std::get<Following>(*follows).lease_id, {}, false, nullptr);
  ASSERT_TRUE(told && std::holds_alternative<Followed>(*told));
  EXPECT_EQ(std::get<Followed>(*told).state, FollowedState::kAborted);
  auto there = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(there && std::holds_alternative<Leased>(*there));
  EXPECT_EQ(std::get<Leased>(*there).info.metadata, "new");
  // In that revision it may be stale once more.
  wanted.stale_revision = 1;
  auto again = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(again && std::holds_alternative<Reserved>(*again));
}

TEST_F(Refresh, NotWhatWasRemovedReplacedOrHasExpired) {
  open();
  put_one("body");
  ASSERT_NO_FATAL_FAILURE(found_stale("k"));
  const ObjectId old = lease.info.object_id;
  ASSERT_TRUE(put("k", "other"));
  EXPECT_EQ(refresh(me, put_id, old, says()).error().code, Errc::kNotFound);
  EXPECT_EQ(get("k"), "other");
  EXPECT_EQ((*store->stat("k"))->revision, 0U);
  ASSERT_NO_FATAL_FAILURE(found_stale("k"));
  ASSERT_TRUE(store->remove("k"));
  EXPECT_EQ(refresh(me, put_id, lease.info.object_id, says()).error().code, Errc::kNotFound);
  EXPECT_EQ(get("k"), std::nullopt);
  put_one("body");
  ASSERT_NO_FATAL_FAILURE(found_stale("k"));
  clock.now_ns += 2'000'000'000;
  EXPECT_EQ(refresh(me, put_id, lease.info.object_id, says()).error().code, Errc::kNotFound);
  // By a tag that it did not have yet.
  put_one("body");
  ASSERT_NO_FATAL_FAILURE(found_stale("k"));
  Removal removal;
  removal.kind = RemovalKind::kTag;
  removal.what = "blue";
  ASSERT_TRUE(store->record(removal));
  EXPECT_EQ(refresh(me, put_id, lease.info.object_id, says()).error().code, Errc::kNotFound);
  EXPECT_EQ((*store->stat("k"))->metadata, "old");
  EXPECT_EQ(status("puts"), 0U);
}

TEST_F(Refresh, NotWithWordsThatBreakALimitOrAnnouncedBytes) {
  open();
  put_one("body");
  ASSERT_NO_FATAL_FAILURE(found_stale("k"));
  auto words = says();
  words.tags = {""};
  EXPECT_EQ(refresh(me, put_id, lease.info.object_id, words).error().code, Errc::kMalformed);
  EXPECT_EQ(refresh(me, put_id, lease.info.object_id, says()).error().code, Errc::kNotFound);
  ASSERT_NO_FATAL_FAILURE(found_stale("k"));
  store->progress(me, put_id, 3);
  EXPECT_EQ(refresh(me, put_id, lease.info.object_id, says()).error().code, Errc::kMalformed);
  const auto other = *store->open_holder({});
  ASSERT_NO_FATAL_FAILURE(found_stale("k"));
  EXPECT_EQ(refresh(other, put_id, lease.info.object_id, says()).error().code, Errc::kNotFound);
  ASSERT_TRUE(store->abort(me, put_id));
  EXPECT_EQ((*store->stat("k"))->metadata, "old");
}

// What replaces or refreshes an object on disk waits for a sync, but not for bodies that are being
// copied.
TEST_F(Refresh, NobodyWaitsForTheCopiesOfOthers) {
  with_disk();
  std::atomic<bool> slow = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    while (slow && std::string_view(operation) == "write") (void)::usleep(1000);
    return 0;
  };
  config.sync_interval_ns = 100'000'000;
  open();
  put_one("body", true);
  clock.now_ns += config.sync_interval_ns;
  until([&] { return status("catalog.group_syncs") > 0; });
  slow = true;
  auto wanted = request("large", 100'000);
  wanted.disk = true;
  auto copying = store->reserve(me, wanted, nullptr);
  EXPECT_TRUE(copying);
  bool copied = false;
  store->commit(me, std::get<Reserved>(*copying).put_id, 100'000,
                [&](const Result<Committed>& result) { copied = result.has_value(); });
  found_stale("k");
  const auto refreshed = refresh(me, put_id, lease.info.object_id, says());
  const auto replaced = put("k", "small");
  const bool was_copied = copied;
  slow = false;
  EXPECT_TRUE(refreshed && replaced);
  EXPECT_FALSE(was_copied);
  until([&] { return copied; });
  EXPECT_EQ(get("k"), "small");
}

}  // namespace
}  // namespace om::store
