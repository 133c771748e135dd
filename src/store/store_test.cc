#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>

#include "base/release_ring.h"
#include "posix/mapping.h"
#include "posix/range_lock.h"
#include "store/segment_id.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

class StoreTest : public testing::StoreFixture {
 protected:
  // A body into a room at `at`, as put_in_room() wants it.
  static RoomBody into(const Reserved& room, std::uint64_t at, const std::string& key,
                       const std::string& body) {
    const Extent& place = room.extents.front();
    write(room.segments, {{place.segment, place.offset + at, body.size()}}, body);
    return {place.segment, place.offset + at, request(key, body.size())};
  }
};

TEST_F(StoreTest, WhatWasPutIsGot) {
  open();
  EXPECT_EQ(get("a"), std::nullopt);
  const auto body = body_of(100000, 1);
  auto wanted = request("a", body.size());
  wanted.metadata = "meta";
  wanted.tags = {"t1", "t2"};
  ASSERT_TRUE(put(wanted, body));
  EXPECT_EQ(get("a"), body);
  const auto info = store->stat("a");
  ASSERT_TRUE(info && *info);
  EXPECT_EQ((*info)->metadata, "meta");
  EXPECT_EQ((*info)->tags.size(), 2U);
}

TEST_F(StoreTest, DirectAndEmptyAndPackedAndLargeOnes) {
  with_disk();
  open();
  for (const bool direct : {false, true})
    for (const bool disk : {false, true})
      for (const std::size_t length : {0, 1, 5000, 70000, 900000}) {
        SCOPED_TRACE(std::to_string(direct) + std::to_string(disk) + " " + std::to_string(length));
        const auto body = body_of(length, 7);
        auto wanted = request("k" + std::to_string(length), length);
        wanted.direct = direct;
        wanted.disk = disk;
        const auto done = put(wanted, body);
        ASSERT_TRUE(done) << describe(done.error());
        EXPECT_EQ(get("k" + std::to_string(length)), body);
      }
  const auto before = status("memory.used_bytes");
  EXPECT_EQ(store->remove_prefix("k")->count, 5U);
  EXPECT_LE(status("memory.used_bytes"), before);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

TEST_F(StoreTest, AReplacedObjectStaysForWhoHasALeaseOnIt) {
  open();
  ASSERT_TRUE(put("a", "old body"));
  auto old = store->get(me, "a");
  ASSERT_TRUE(old && *old);
  ASSERT_TRUE(put("a", "new body"));
  EXPECT_EQ(get("a"), "new body");
  EXPECT_EQ(read(me, **old), "old body");
  EXPECT_GT(status("held.bytes"), 0U);
  store->release(me, (*old)->lease_id);
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(StoreTest, BodiesOfAnotherLengthThanDeclaredLeaveNothing) {
  open();
  for (const std::uint64_t written : {9U, 11U}) {
    auto reservation = store->reserve(me, request("a", 10), nullptr);
    ASSERT_TRUE(reservation);
    const auto done = commit(me, std::get<Reserved>(*reservation).put_id, written);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Errc::kMalformed);
  }
  EXPECT_EQ(get("a"), std::nullopt);
  EXPECT_EQ(status("puts"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

TEST_F(StoreTest, ADeadWriterLeavesNothing) {
  with_disk();
  open();
  const auto other = *store->open_holder({});
  for (const bool direct : {false, true}) {
    auto wanted = request("a" + std::to_string(direct), 100000);
    wanted.direct = direct;
    ASSERT_TRUE(store->reserve(other, wanted, nullptr));
    wanted.disk = true;
    ASSERT_TRUE(store->reserve(other, wanted, nullptr));
  }
  store->close_holder(other);
  EXPECT_EQ(status("puts"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
  EXPECT_EQ(status("disk.used_bytes"), 0U);
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(StoreTest, ACutOffDirectWriterKeepsItsPlaceFromBeingUsedAgain) {
  open();
  const auto other = *store->open_holder({});
  auto copy = *duplicate(store->lease_descriptor(other));
  auto wanted = request("a", 100000);
  wanted.direct = true;
  ASSERT_TRUE(store->reserve(other, wanted, nullptr));
  store->close_holder(other);
  EXPECT_EQ(status("held.bytes"), 100000U);
  crash();
  EXPECT_EQ(status("held.bytes"), 100000U);
  copy.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

TEST_F(StoreTest, UnknownLengthGrows) {
  with_disk();
  open();
  for (const bool direct : {false, true})
    for (const std::size_t length : {std::size_t{0}, std::size_t{1000}, std::size_t{2000000}}) {
      SCOPED_TRACE(std::to_string(direct) + " " + std::to_string(length));
      const auto body = body_of(length, 3);
      auto wanted = request("u", std::nullopt);
      wanted.direct = direct;
      auto reservation = store->reserve(me, wanted, nullptr);
      ASSERT_TRUE(reservation);
      auto& yours = std::get<Reserved>(*reservation);
      auto segments = std::move(yours.segments);
      auto extents = yours.extents;
      std::uint64_t room = 0;
      for (const auto& extent : extents) room += extent.length;
      while (room < length) {
        auto more = store->extend(me, yours.put_id, 300000);
        ASSERT_TRUE(more) << describe(more.error());
        for (auto& segment : more->segments) segments.push_back(std::move(segment));
        for (const auto& extent : more->extents) {
          room += extent.length;
          extents.push_back(extent);
        }
      }
      write(segments, extents, body);
      const auto done = commit(me, yours.put_id, length);
      ASSERT_TRUE(done) << describe(done.error());
      EXPECT_EQ(get("u"), body);
    }
}

// Room that its writer was never told of would be a hole in the middle of the body.
TEST_F(StoreTest, AnExtensionThatFailsLeavesThePutAsItWas) {
  std::atomic<bool> full = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    return full && std::string_view(operation) == "held" ? ENOSPC : 0;
  };
  config.holder.put_bytes = 600'000;
  for (const bool disk : {false, true}) {
    SCOPED_TRACE(disk);
    if (disk) with_disk();
    open();
    auto wanted = request("k", std::nullopt);
    wanted.direct = true;
    auto reservation = store->reserve(me, wanted, nullptr);
    ASSERT_TRUE(reservation);
    auto& yours = std::get<Reserved>(*reservation);
    const std::uint64_t used = status("memory.used_bytes");
    const std::uint64_t used_on_disk = status("disk.used_bytes");
    full = true;
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(store->extend(me, yours.put_id, 1).error().code, Errc::kNoSpace);
      EXPECT_EQ(store->hold(me, yours.put_id, 1).error().code, Errc::kNoSpace);
    }
    EXPECT_EQ(status("memory.used_bytes"), used);
    EXPECT_EQ(status("disk.used_bytes"), used_on_disk);
    full = false;
    // Nor is what it did not get charged: this much is all that this peer may have.
    auto more = store->extend(me, yours.put_id, 1);
    ASSERT_TRUE(more) << describe(more.error());
    const auto body = body_of(500'000, 4);
    auto segments = std::move(yours.segments);
    auto extents = yours.extents;
    for (auto& segment : more->segments) segments.push_back(std::move(segment));
    for (const auto& extent : more->extents) extents.push_back(extent);
    write(segments, extents, body);
    ASSERT_TRUE(commit(me, yours.put_id, body.size()));
    EXPECT_EQ(get("k"), body);
    ASSERT_TRUE(store->remove("k"));
    EXPECT_EQ(status("held.bytes"), 0U);
    EXPECT_EQ(status("memory.used_bytes"), 0U);
  }
}

TEST_F(StoreTest, AFileThatFailsToBecomeAPutsPlaceGoes) {
  with_disk();
  config.memory_object_bytes_max = 300'000;
  std::atomic<bool> full = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    return full && std::string_view(operation) == "held" ? ENOSPC : 0;
  };
  open();
  auto wanted = request("k", std::nullopt);
  wanted.direct = true;
  auto reservation = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(reservation);
  auto& yours = std::get<Reserved>(*reservation);
  auto segments = std::move(yours.segments);
  auto extents = yours.extents;
  const std::uint64_t used = status("disk.used_bytes");
  const auto body = body_of(900'000, 5);
  std::uint64_t room = extents.front().length;
  while (room < body.size()) {
    full = true;
    EXPECT_EQ(store->extend(me, yours.put_id, 1).error().code, Errc::kNoSpace);
    full = false;
    auto more = store->extend(me, yours.put_id, 1);
    ASSERT_TRUE(more) << describe(more.error());
    for (auto& segment : more->segments) segments.push_back(std::move(segment));
    for (const auto& extent : more->extents) {
      EXPECT_EQ(kind_of(extent.segment), SegmentKind::kFile);
      EXPECT_EQ(extent.offset, room);
      room += extent.length;
      extents.push_back(extent);
    }
  }
  write(segments, extents, body);
  ASSERT_TRUE(commit(me, yours.put_id, body.size()));
  EXPECT_EQ(get("k"), body);
  ASSERT_TRUE(store->remove("k"));
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
  EXPECT_EQ(status("disk.used_bytes"), used);
}

// Memory that cannot be held is none: a small body is staged instead, and nothing of the attempt
// is left to pin the object.
TEST_F(StoreTest, APutThatCannotHaveItsPlaceInMemoryIsStaged) {
  with_disk();
  std::atomic<bool> full = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    return full && std::string_view(operation) == "held" ? ENOSPC : 0;
  };
  open();
  auto wanted = request("k", 1000);
  wanted.direct = true;
  full = true;
  ASSERT_TRUE(put(wanted, body_of(1000, 6)));
  full = false;
  EXPECT_EQ(get("k"), body_of(1000, 6));
  ASSERT_TRUE(store->remove("k"));
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

TEST_F(StoreTest, WhatAWriterHoldsOutlivesItsPutAndTheDaemon) {
  open();
  const auto other = *store->open_holder({});
  auto copy = *duplicate(store->lease_descriptor(other));
  auto wanted = request("a", std::nullopt);
  wanted.direct = true;
  auto reservation = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(reservation);
  const auto put = std::get<Reserved>(*reservation).put_id;
  const auto held = store->hold(other, put, 100000);
  ASSERT_TRUE(held) << describe(held.error());
  EXPECT_NE(held->lease_id, 0U);
  EXPECT_FALSE(held->room.extents.empty());
  ASSERT_TRUE(store->abort(other, put));
  const auto bytes = status("held.bytes");
  EXPECT_GE(bytes, 356000U);
  crash();
  EXPECT_EQ(status("held.bytes"), bytes);
  copy.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(StoreTest, OneWriterPerKeyAndTheOthersAreWoken) {
  open();
  auto wanted = request("a", 3);
  wanted.or_get = true;
  auto first = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(first && std::holds_alternative<Reserved>(*first));
  int woken = 0;
  auto second = store->reserve(me, wanted, [&] { ++woken; });
  ASSERT_TRUE(second && std::holds_alternative<Waiting>(*second));
  auto third = store->reserve(me, wanted, [&] { woken += 100; });
  ASSERT_TRUE(third && std::holds_alternative<Waiting>(*third));
  store->cancel_wait(std::get<Waiting>(*third).token);
  auto& yours = std::get<Reserved>(*first);
  write(yours.segments, yours.extents, "abc");
  ASSERT_TRUE(commit(me, yours.put_id, 3));
  until([&] { return woken > 0; });
  EXPECT_EQ(woken, 1);
  auto hit = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(hit && std::holds_alternative<Leased>(*hit));
  EXPECT_EQ(read(me, std::get<Leased>(*hit)), "abc");
}

TEST_F(StoreTest, TheWritersDeathWakesThoseWhoWait) {
  open();
  const auto writer = *store->open_holder({});
  auto wanted = request("a", 3);
  wanted.or_get = true;
  ASSERT_TRUE(store->reserve(writer, wanted, nullptr));
  bool woken = false;
  ASSERT_TRUE(store->reserve(me, wanted, [&] { woken = true; }));
  store->close_holder(writer);
  until([&] { return woken; });
  auto again = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(again && std::holds_alternative<Reserved>(*again));
}

TEST_F(StoreTest, OfAllThatFindAnObjectStaleOneReplacesIt) {
  open();
  const auto other = *store->open_holder({});
  ASSERT_TRUE(put("k", "old"));
  auto wanted = request("k", 3);
  wanted.or_get = true;
  wanted.follow = true;
  auto there = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(there && std::holds_alternative<Leased>(*there));
  const ObjectId old = std::get<Leased>(*there).info.object_id;
  wanted.stale_object = old;
  auto mine = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(mine && std::holds_alternative<Reserved>(*mine));
  auto theirs = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(theirs && std::holds_alternative<Following>(*theirs));
  EXPECT_EQ(get("k"), "old");
  auto& writing = std::get<Reserved>(*mine);
  write(writing.segments, writing.extents, "new");
  ASSERT_TRUE(commit(me, writing.put_id, 3));
  // Who was a little late has what it wanted.
  auto late = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(late && std::holds_alternative<Leased>(*late));
  EXPECT_NE(std::get<Leased>(*late).info.object_id, old);
  EXPECT_EQ(get("k"), "new");
}

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

TEST_F(StoreTest, WhenTheFirstOfSeveralWritersGivesUpTheNextOneIsFollowed) {
  open();
  const auto other = *store->open_holder({});
  auto first = store->reserve(me, request("k", 3), nullptr);
  auto second = store->reserve(me, request("k", 3), nullptr);
  ASSERT_TRUE(first && second);
  ASSERT_TRUE(store->abort(me, std::get<Reserved>(*first).put_id));
  auto wanted = request("k", 3);
  wanted.or_get = true;
  wanted.follow = true;
  auto follows = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(follows && std::holds_alternative<Following>(*follows));
  auto& writing = std::get<Reserved>(*second);
  write(writing.segments, writing.extents, "new");
  ASSERT_TRUE(commit(me, writing.put_id, 3));
  auto told = store->follow(other, std::get<Following>(*follows).lease_id, {}, false, nullptr);
  ASSERT_TRUE(told && std::holds_alternative<Followed>(*told));
  EXPECT_EQ(std::get<Followed>(*told).state, FollowedState::kCommitted);
  EXPECT_EQ(get("k"), "new");
}

TEST_F(StoreTest, WhatWasRemovedWhileItIsWrittenIsNotFollowedByWhoComesLater) {
  open();
  const auto other = *store->open_holder({});
  auto wanted = request("cdn://h/a#1", 3);
  wanted.or_get = true;
  wanted.follow = true;
  auto old = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(old && std::holds_alternative<Reserved>(*old));
  auto before = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(before && std::holds_alternative<Following>(*before));
  Removal removal;
  removal.kind = RemovalKind::kPurge;
  removal.what = "cdn://h/a";
  ASSERT_TRUE(store->record(removal));
  // Who comes now writes anew, and is the one to follow.
  auto anew = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(anew && std::holds_alternative<Reserved>(*anew));
  auto after = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(after && std::holds_alternative<Following>(*after));
  auto& fresh = std::get<Reserved>(*anew);
  write(fresh.segments, fresh.extents, "new");
  ASSERT_TRUE(commit(other, fresh.put_id, 3));
  auto& overtaken = std::get<Reserved>(*old);
  write(overtaken.segments, overtaken.extents, "old");
  EXPECT_FALSE(commit(me, overtaken.put_id, 3));
  EXPECT_EQ(get("cdn://h/a#1"), "new");
}

TEST_F(StoreTest, WhatWasRemovedByATagThatComesLaterIsNotFollowed) {
  open();
  const auto other = *store->open_holder({});
  auto wanted = request("a", 3);
  wanted.or_get = true;
  wanted.follow = true;
  auto old = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(old && std::holds_alternative<Reserved>(*old));
  Removal removal;
  removal.kind = RemovalKind::kTag;
  removal.what = "red";
  ASSERT_TRUE(store->record(removal));
  // Nobody knows yet that it is red.
  auto follows = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(follows && std::holds_alternative<Following>(*follows));
  Amendment amendment;
  amendment.metadata = "m";
  amendment.tags = {"red"};
  store->amend(me, std::get<Reserved>(*old).put_id, amendment);
  auto told = store->follow(other, std::get<Following>(*follows).lease_id, {}, false, nullptr);
  ASSERT_TRUE(told && std::holds_alternative<Followed>(*told));
  EXPECT_EQ(std::get<Followed>(*told).state, FollowedState::kAborted);
  EXPECT_EQ(std::get<Followed>(*told).available, 0U);
  auto again = store->reserve(other, wanted, nullptr);
  EXPECT_TRUE(again && std::holds_alternative<Reserved>(*again));
}

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

TEST_F(StoreTest, ListsInPages) {
  open();
  for (int i = 0; i < 25; ++i) ASSERT_TRUE(put("k" + std::to_string(100 + i), "x"));
  std::string after;
  std::size_t seen = 0;
  for (;;) {
    const auto page = store->list("k", after, 10);
    ASSERT_TRUE(page);
    seen += page->items.size();
    if (!page->more) break;
    after = page->items.back().key;
  }
  EXPECT_EQ(seen, 25U);
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

TEST_F(StoreTest, QuotasOfPutsLeasesAndBytes) {
  config.holder.puts = 2;
  config.holder.leases = 2;
  config.holder.put_bytes = 1000;
  open();
  ASSERT_TRUE(put("a", "x"));
  EXPECT_EQ(store->reserve(me, request("big", 1001), nullptr).error().code, Errc::kQuota);
  ASSERT_TRUE(store->reserve(me, request("b", 500), nullptr));
  ASSERT_TRUE(store->reserve(me, request("c", 500), nullptr));
  EXPECT_EQ(store->reserve(me, request("d", 1), nullptr).error().code, Errc::kQuota);
  const auto first = store->get(me, "a");
  ASSERT_TRUE(first && *first && store->get(me, "a"));
  EXPECT_EQ(store->get(me, "a").error().code, Errc::kQuota);
  store->release(me, (*first)->lease_id);
  EXPECT_TRUE(store->get(me, "a"));
}

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

// No file can be written to for as long as it lives.
class NoWrites {
 public:
  NoWrites() : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &before_), 0);
    struct rlimit now = before_;
    now.rlim_cur = 0;
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &now), 0);
  }
  NoWrites(const NoWrites&) = delete;
  NoWrites& operator=(const NoWrites&) = delete;
  ~NoWrites() {
    (void)::setrlimit(RLIMIT_FSIZE, &before_);
    (void)std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  struct rlimit before_ {};
};

TEST_F(StoreTest, WhatCannotBeRecordedAsEvictedIsEvictedLater) {
  open();
  for (unsigned i = 0; i < 4; ++i) ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
  for (int i = 0; i < 2; ++i) {
    const auto refused = [&] {
      const NoWrites journal_fails;
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

TEST_F(StoreTest, WhenAllIsLeasedAPutGetsNoSpaceAndReadersAreAsked) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  open();
  std::vector<std::string> revoked;
  store->set_listener([&](const Event& event) {
    if (event.kind == EventKind::kRevoked) revoked.emplace_back(event.key);
  });
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
    ASSERT_TRUE(*store->get(me, "k" + std::to_string(i)));
  }
  EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  // Of the oldest, no more than it takes; and of others, when these do not come back.
  EXPECT_EQ(revoked, (std::vector<std::string>{"k0", "k1", "k2"}));
  EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  EXPECT_EQ(revoked.size(), 4U);
}

// Many leases that nobody gives back, and those of others beside them.
class OneManyLeases : public StoreTest, public ::testing::WithParamInterface<bool> {};

TEST_P(OneManyLeases, DoNotStandInTheWayOfWhoCanBeAsked) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  config.revoke_grace_ns = 1000;
  open();
  std::vector<std::string> revoked;
  store->set_listener([&](const Event& event) {
    if (event.kind == EventKind::kRevoked) revoked.emplace_back(event.key);
  });
  const auto other = *store->open_holder({});
  const auto alive = *duplicate(store->lease_descriptor(other));
  for (unsigned i = 0; i < 64; ++i) {
    const std::string key = "o" + std::to_string(i);
    ASSERT_TRUE(put(key, body_of(1000, i)));
    ASSERT_TRUE(*store->get(other, key));
  }
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(900000, i)));
    ASSERT_TRUE(*store->get(me, "k" + std::to_string(i)));
  }
  const auto ask = [&] {
    revoked.clear();
    EXPECT_EQ(store->reserve(me, request("more", 900000), nullptr).error().code, Errc::kNoSpace);
  };
  if (GetParam()) {
    store->close_holder(other);
    EXPECT_EQ(status("holders.orphans"), 1U);
  } else {
    // It has its time to answer.
    ask();
    EXPECT_EQ(revoked.size(), 64U);
    ask();
    EXPECT_TRUE(revoked.empty());
    clock.now_ns += 1001;
  }
  ask();
  EXPECT_EQ(revoked, (std::vector<std::string>{"k0", "k1", "k2"}));
}

INSTANTIATE_TEST_SUITE_P(GoneOrDeaf, OneManyLeases, ::testing::Bool());

TEST_F(StoreTest, WhoDidNotHearThatALeaseIsWantedBackIsToldAgain) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  config.revoke_grace_ns = 1000;
  open();
  std::size_t told = 0;
  store->set_listener([&](const Event& event) {
    if (event.kind != EventKind::kRevoked) return;
    EXPECT_EQ(event.holder, me);
    EXPECT_NE(event.lease_id, 0U);
    ++told;
  });
  std::vector<LeaseId> held;
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
    held.push_back((*store->get(me, "k" + std::to_string(i)))->lease_id);
  }
  EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  EXPECT_EQ(told, 3U);
  for (const std::size_t so_far : {6U, 9U}) {
    store->tick();
    EXPECT_EQ(told, so_far - 3);
    clock.now_ns += 1001;
    store->tick();
    EXPECT_EQ(told, so_far);
  }
  for (const LeaseId lease : held) store->release(me, lease);
  clock.now_ns += 1001;
  store->tick();
  EXPECT_EQ(told, 9U);
  EXPECT_EQ(status("revoked"), 3U);
  EXPECT_TRUE(*store->get(me, "k0"));
}

TEST_F(StoreTest, AnOrphanHolderKeepsItsBytesAlsoOverARestart) {
  open();
  const auto body = body_of(50000, 5);
  ASSERT_TRUE(put("a", body));
  ASSERT_TRUE(put("b", body));
  const auto reader = *store->open_holder({});
  auto copy = *duplicate(store->lease_descriptor(reader));
  ASSERT_TRUE(*store->get(reader, "a"));
  auto b = store->get(reader, "b");
  ASSERT_TRUE(b && *b);
  store->close_holder(reader);
  EXPECT_EQ(status("holders.orphans"), 1U);
  EXPECT_EQ(store->remove("a")->count, 1U);
  EXPECT_EQ(status("held.bytes"), body.size());
  crash();
  EXPECT_EQ(status("holders.orphans"), 1U);
  EXPECT_EQ(status("held.bytes"), body.size());
  EXPECT_EQ(store->remove("b")->count, 1U);
  EXPECT_EQ(status("held.bytes"), 2 * body.size());
  // The holder lets go of one without a daemon to tell, then dies.
  ASSERT_TRUE(unlock_range(copy.borrow(), (*b)->info.object_id, 1));
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), body.size());
  copy.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("holders.orphans"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

// A peer may open its lease file once more; the kernel then tells of locks in an order of its own.
TEST_F(StoreTest, WhatAnOrphanHasLockedIsSeenInWhateverDescription) {
  open();
  const auto reader = *store->open_holder({});
  auto first = *duplicate(store->lease_descriptor(reader));
  auto second = *reopen(first.borrow(), O_RDONLY);
  ASSERT_TRUE(put("a", body_of(1000, 1)));
  // Far from it: locks are taken in blocks of ids.
  for (unsigned i = 0; i < 130; ++i) ASSERT_TRUE(put("between", "x"));
  ASSERT_TRUE(put("z", body_of(2000, 2)));
  const auto a = store->get(reader, "a");
  ASSERT_TRUE(a && *a);
  ASSERT_TRUE(*store->get(reader, "z"));
  ASSERT_TRUE(*lock_range_shared(second.borrow(), (*a)->info.object_id, 1));
  store->close_holder(reader);
  ASSERT_TRUE(store->remove("a") && store->remove("z"));
  const auto held_later = [&] {
    clock.now_ns += 1'000'000'000;
    store->tick();
    return status("held.bytes");
  };
  EXPECT_EQ(held_later(), 3000U);
  ASSERT_TRUE(unlock_range(first.borrow(), (*a)->info.object_id, 1));
  EXPECT_EQ(held_later(), 3000U);
  first.reset();
  EXPECT_EQ(held_later(), 1000U);
  second.reset();
  EXPECT_EQ(held_later(), 0U);
  EXPECT_EQ(status("holders.orphans"), 0U);
}

TEST_F(StoreTest, AReadersDescriptorCannotWrite) {
  with_disk();
  open();
  for (const bool disk : {false, true}) {
    auto wanted = request("a", 100000);
    wanted.disk = disk;
    ASSERT_TRUE(put(wanted, body_of(100000, 1)));
    const auto leased = store->get(me, "a");
    ASSERT_TRUE(leased && *leased);
    const auto view = store->segment(me, (*leased)->extents.front().segment);
    ASSERT_TRUE(view);
    EXPECT_EQ(::pwrite(view->descriptor.raw(), "x", 1, 0), -1);
    EXPECT_EQ(errno, EBADF);
    struct stat status {};
    ASSERT_EQ(::fstat(view->descriptor.raw(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
    const auto stranger = *store->open_holder({});
    EXPECT_FALSE(store->segment(stranger, view->id));
    store->release(me, (*leased)->lease_id);
  }
}

TEST_F(StoreTest, APeerMayWriteAndTruncateItsStagingAfterCommit) {
  open();
  const auto body = body_of(90000, 2);
  auto reservation = store->reserve(me, request("a", body.size()), nullptr);
  ASSERT_TRUE(reservation);
  auto& yours = std::get<Reserved>(*reservation);
  write(yours.segments, yours.extents, body);
  ASSERT_TRUE(commit(me, yours.put_id, body.size()));
  const int staging = yours.segments.front().descriptor.raw();
  ASSERT_EQ(::pwrite(staging, "garbage", 7, 0), 7);
  EXPECT_EQ(::ftruncate(staging, 0), -1);  // sealed
  EXPECT_EQ(get("a"), body);
}

TEST_F(StoreTest, EverythingPublishedIsThereAfterACrash) {
  with_disk();
  open();
  for (unsigned i = 0; i < 60; ++i) {
    auto wanted = request("k" + std::to_string(i), 3000 * (i % 30));
    wanted.disk = i % 2 == 0;
    ASSERT_TRUE(put(wanted, body_of(3000 * (i % 30), i)));
  }
  EXPECT_EQ(store->remove("k7")->count, 1U);
  ASSERT_TRUE(store->reserve(me, request("unfinished", 100000), nullptr));
  crash();
  for (unsigned i = 0; i < 60; ++i) {
    const auto body = get("k" + std::to_string(i));
    if (i == 7)
      EXPECT_EQ(body, std::nullopt);
    else
      EXPECT_EQ(body, body_of(3000 * (i % 30), i)) << i;
  }
  EXPECT_EQ(get("unfinished"), std::nullopt);
}

TEST_F(StoreTest, BodiesOfARoomArePublishedTogetherAndTheRestComesBack) {
  config.memory_bytes = 16 << 20;
  open();
  const auto room = *store->take_room(me, 300'000);
  EXPECT_EQ(status("puts"), 1U);
  ASSERT_TRUE(put("b", body_of(1000, 9)));
  const auto done = put_in_room(me, room.put_id,
                                {into(room, 0, "a", body_of(1000, 1)),
                                 into(room, 1024, "b", body_of(70'000, 2)),
                                 into(room, 72'000, "b", body_of(5, 3)),
                                 {room.extents.front().segment, 7, request("c", 1)}});
  ASSERT_EQ(done.size(), 4U);
  ASSERT_TRUE(done[0] && done[1] && done[2]);
  EXPECT_EQ(done[3].error().code, Errc::kMalformed);
  EXPECT_EQ(get("a"), body_of(1000, 1));
  EXPECT_EQ(get("b"), body_of(5, 3));
  EXPECT_EQ(get("c"), std::nullopt);
  EXPECT_EQ(status("published"), 4U);
  ASSERT_TRUE(store->abort(me, room.put_id));
  EXPECT_EQ(status("puts"), 0U);
  EXPECT_EQ(status("aborted"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 1024U + 64U);
  EXPECT_EQ(put_in_room(me, room.put_id, {into(room, 0, "a", "x")}).front().error().code,
            Errc::kNotFound);
}

TEST_F(StoreTest, ARoomStaysItsWritersAsLongAsThatLives) {
  config.memory_bytes = 16 << 20;
  open();
  const auto writer = *store->open_holder({});
  auto alive = *duplicate(store->lease_descriptor(writer));
  const auto room = *store->take_room(writer, 300'000);
  ASSERT_TRUE(put_in_room(writer, room.put_id, {into(room, 0, "k", body_of(50'000, 1))}).front());
  // What was put may go, and make place for others, while the room is there.
  EXPECT_EQ(store->remove("k")->count, 1U);
  const auto other = *store->take_room(me, 300'000);
  ASSERT_TRUE(put_in_room(me, other.put_id, {into(other, 0, "l", body_of(60'000, 2))}).front());
  ASSERT_TRUE(put("m", body_of(40'000, 3)));
  crash();
  EXPECT_EQ(status("puts"), 0U);
  EXPECT_GE(status("held.bytes"), 250'000U);
  EXPECT_EQ(get("l"), body_of(60'000, 2));
  for (unsigned i = 0; i < 60; ++i) ASSERT_TRUE(put("n" + std::to_string(i), body_of(300'000, i)));
  // It goes on writing, into what is still its own.
  const Extent& place = room.extents.front();
  write(room.segments, {{place.segment, place.offset + 50'048, 249'920}},
        std::string(249'920, '!'));
  for (const char* key : {"l", "m"})
    EXPECT_EQ(get(key).value_or("").find("!!!!!!!!"), std::string::npos);
  for (unsigned i = 0; i < 60; ++i)
    EXPECT_EQ(get("n" + std::to_string(i)).value_or(body_of(300'000, i)), body_of(300'000, i));
  alive.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(StoreTest, RoomsAreAnEighthOfTheMemoryAndNeverTooSmall) {
  config.memory_bytes = 16 << 20;
  open();
  std::uint64_t got = 0;
  for (;;) {
    const auto room = store->take_room(me, std::uint64_t{1} << 40);
    if (!room) {
      EXPECT_EQ(room.error().code, Errc::kNoSpace);
      break;
    }
    for (const Extent& extent : room->extents) got += extent.length;
  }
  EXPECT_EQ(got, std::uint64_t{2} << 20);
  store->close_holder(me);
  const auto next = *store->open_holder({});
  EXPECT_EQ(store->take_room(next, 1000).error().code, Errc::kNoSpace);
  EXPECT_TRUE(store->take_room(next, 128 * 1024));
}

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
  for (int i = 10; i < 20; ++i) EXPECT_EQ(get("k" + std::to_string(i)), body_of(200000, 1));
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

TEST_F(StoreTest, WhoKeepsWhatItWasAskedForGetsNothingElse) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  config.revoke_grace_ns = 1000;
  open();
  std::vector<LeaseId> held;
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
    held.push_back((*store->get(me, "k" + std::to_string(i)))->lease_id);
  }
  for (int i = 0; i < 2; ++i)  // the first asks for what it needs
    EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  clock.now_ns += 500;
  store->tick();
  const auto early = store->get(me, "k0");
  ASSERT_TRUE(early && *early);
  store->release(me, (*early)->lease_id);
  clock.now_ns += 501;
  store->tick();
  EXPECT_EQ(status("leases.overdue"), 4U);
  EXPECT_EQ(store->get(me, "k0").error().code, Errc::kQuota);
  for (unsigned i = 0; i < 3; ++i) store->release(me, held[i]);
  EXPECT_EQ(store->get(me, "k0").error().code, Errc::kQuota);
  store->release(me, held[3]);
  EXPECT_TRUE(*store->get(me, "k0"));
}

TEST_F(StoreTest, LeasesThatComeBackByThePageMakeRoom) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  open();
  auto page = store->release_page(me);
  ASSERT_TRUE(page) << describe(page.error());
  EXPECT_NE(::ftruncate(page->raw(), 0), 0);
  auto mapped = Mapping::of(page->borrow(), 0, kReleaseRingBytes, Access::kReadWrite);
  ASSERT_TRUE(mapped);
  auto* const ring = reinterpret_cast<ReleaseRing*>(mapped->data());
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
    ASSERT_TRUE(ring->push((*store->get(me, "k" + std::to_string(i)))->lease_id));
  }
  // Nobody has looked at the page when room is wanted.
  ASSERT_TRUE(put("more", body_of(1000000, 9)));
  EXPECT_EQ(status("leases"), 0U);
  EXPECT_EQ(get("more"), body_of(1000000, 9));
}

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
