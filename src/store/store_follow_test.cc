// Several who want the same key: one writes, the others wait for it or follow it. Not what has been
// removed while it was being written.
#include <gtest/gtest.h>

#include <variant>

#include "store/store_testing.h"

namespace om::store {
namespace {

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

}  // namespace
}  // namespace om::store
