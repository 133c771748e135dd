// Room ahead: bodies that are put into it, who may write there for how long, and how much of it
// there is.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "posix/file.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

TEST_F(StoreTest, BodiesOfARoomArePublishedTogetherAndTheRestComesBack) {
  config.memory_bytes = 16 << 20;
  open();
  const auto room = *store->take_room(me, {300'000});
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
  const auto room = *store->take_room(writer, {300'000});
  ASSERT_TRUE(put_in_room(writer, room.put_id, {into(room, 0, "k", body_of(50'000, 1))}).front());
  // What was put may go, and make place for others, while the room is there.
  EXPECT_EQ(store->remove("k")->count, 1U);
  const auto other = *store->take_room(me, {300'000});
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
    const auto room = store->take_room(me, {std::uint64_t{1} << 40});
    if (!room) {
      EXPECT_EQ(room.error().code, Errc::kBusy);
      break;
    }
    for (const Extent& extent : room->extents) got += extent.length;
  }
  EXPECT_EQ(got, std::uint64_t{2} << 20);
  store->close_holder(me);
  const auto next = *store->open_holder({});
  EXPECT_EQ(store->take_room(next, {1000}).error().code, Errc::kUnsupported);
  EXPECT_EQ(store->take_room(next, {1 << 20, 1 << 20}).error().code, Errc::kUnsupported);
  EXPECT_TRUE(store->take_room(next, {128 * 1024}));
}

TEST_F(StoreTest, WhatWasPutCountsAsRoomNoMore) {
  config.memory_bytes = 16 << 20;
  config.holder.put_bytes = 1'000'000;
  open();
  const auto first = *store->take_room(me, {512 * 1024});
  EXPECT_EQ(store->take_room(me, {512 * 1024}).error().code, Errc::kQuota);
  ASSERT_TRUE(put_in_room(me, first.put_id, {into(first, 0, "k", body_of(300'000, 1))}).front());
  const auto second = *store->take_room(me, {512 * 1024});
  const auto other = *store->open_holder({});
  ASSERT_TRUE(store->take_room(other, {512 * 1024}));
  // 2 MiB less 300,032 bytes are given out with the next one.
  ASSERT_TRUE(store->take_room(*store->open_holder({}), {512 * 1024}));
  const auto rest = store->take_room(*store->open_holder({}), {512 * 1024});
  ASSERT_TRUE(rest) << describe(rest.error());
  EXPECT_EQ(rest->extents.front().length, 256U * 1024);
  ASSERT_TRUE(store->abort(me, first.put_id));
  ASSERT_TRUE(store->abort(me, second.put_id));
  EXPECT_TRUE(store->take_room(me, {512 * 1024}));
}

TEST_F(StoreTest, ARoomIsInWholeBodiesAlsoWhereOthersHaveToGo) {
  config.memory_bytes = 32 << 20;
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  open();
  // Every other one stays, so that what the others leave is in pieces.
  unsigned count = 0;
  for (; status("evicted.memory") == 0; ++count) {
    const std::string key = "k" + std::to_string(count);
    ASSERT_TRUE(put(key, body_of(300'000, count)));
    if (count % 2 == 1) {
      ASSERT_TRUE(*store->get(me, key));
    }
  }
  const std::uint64_t before = status("evicted.memory");
  const std::uint64_t each = 299'968;
  const auto room = store->take_room(me, {std::uint64_t{1} << 20, each});
  ASSERT_TRUE(room) << describe(room.error());
  EXPECT_GT(status("evicted.memory"), before);
  EXPECT_GT(room->extents.size(), 1U);
  std::uint64_t got = 0;
  for (const Extent& extent : room->extents) {
    EXPECT_EQ(extent.length % each, 0U);
    got += extent.length;
  }
  EXPECT_EQ(got, 3 * each);
  for (unsigned i = 1; i < count; i += 2)
    EXPECT_EQ(get("k" + std::to_string(i)), body_of(300'000, i));
  // Beyond all measure.
  for (const std::uint64_t much : {std::uint64_t{1} << 30, ~std::uint64_t{0}})
    EXPECT_EQ(store->take_room(me, {much, much}).error().code, Errc::kUnsupported);
}

TEST_F(StoreTest, MuchThatIsFreeInSmallPiecesIsForOthers) {
  config.memory_bytes = 16 << 20;
  open();
  // Two fill a segment, and one of them goes: what is free are sixteen pieces of 348,544 bytes.
  for (unsigned i = 0; i < 16; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(700'032, i)));
    ASSERT_TRUE(put("l" + std::to_string(i), body_of(348'544, i)));
  }
  ASSERT_EQ(store->remove_prefix("l")->count, 16U);
  const auto room = store->take_room(me, {512 * 1024, 400'000});
  EXPECT_EQ(room.error().code, Errc::kBusy) << describe(room.error());
  EXPECT_EQ(status("evicted.memory"), 0U);
  EXPECT_TRUE(store->take_room(me, {512 * 1024, 300'000}));
}

TEST_F(StoreTest, WhatIsFreeInSmallPiecesDoesNotKeepARoomFromEvicting) {
  config.memory_bytes = 16 << 20;
  open();
  // One to a segment, so that what is free lies in pieces of 48,576 bytes.
  for (unsigned i = 0; i < 16; ++i)
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1'000'000, i)));
  ASSERT_EQ(status("evicted.memory"), 0U);
  const auto room = store->take_room(me, {300'000, 100'000});
  ASSERT_TRUE(room) << describe(room.error());
  EXPECT_EQ(status("evicted.memory"), 1U);
}

TEST_F(StoreTest, ARoomHasAPieceAsLargeAsWasAskedForOrIsNone) {
  config.memory_bytes = 16 << 20;
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  open();
  std::size_t revoked = 0;
  store->set_listener(
      [&](const Event& event) { revoked += event.kind == EventKind::kRevoked ? 1U : 0U; });
  // One to a segment, so that what is free lies in pieces of 48,576 bytes.
  for (unsigned i = 0; i < 16; ++i) {
    const std::string key = "k" + std::to_string(i);
    ASSERT_TRUE(put(key, body_of(1'000'000, i)));
    ASSERT_TRUE(*store->get(me, key));
  }
  EXPECT_EQ(store->take_room(me, {1 << 20, 100'000}).error().code, Errc::kNoSpace);
  EXPECT_EQ(status("puts"), 0U);
  const auto pieces = store->take_room(me, {1 << 20, 40'000});
  ASSERT_TRUE(pieces) << describe(pieces.error());
  EXPECT_GT(pieces->extents.size(), 1U);
  for (const Extent& extent : pieces->extents) EXPECT_EQ(extent.length % 40'000, 0U);
  // What is left is less, and so is the room.
  const auto rest = store->take_room(me, {1 << 20});
  ASSERT_TRUE(rest) << describe(rest.error());
  std::uint64_t got = 0;
  for (const Extent& extent : rest->extents) got += extent.length;
  EXPECT_LT(got, 512U * 1024);
  EXPECT_EQ(store->take_room(me, {1 << 20}).error().code, Errc::kNoSpace);
  // Who is refused may reserve, and then others are asked.
  EXPECT_EQ(revoked, 0U);
}

RoomBody under(ObjectId number, RoomBody body) {
  body.object = number;
  return body;
}

std::string bytes_at(const Reserved& room, const RoomBody& body) {
  std::string bytes(*body.put.length, '\0');
  for (const auto& segment : room.segments) {
    if (segment.id != body.segment) continue;
    EXPECT_TRUE(read_exactly(segment.descriptor.borrow(), body.offset,
                             std::as_writable_bytes(std::span(bytes))));
  }
  return bytes;
}

TEST_F(StoreTest, WhatIsPutUnderANumberThatWasLentStaysAsLongAsItsLease) {
  config.memory_bytes = 64 << 20;
  open();
  const auto room = *store->take_room(me, {std::uint64_t{2} << 20, 0, 5});
  ASSERT_EQ(room.lent.count, 5U);
  EXPECT_EQ(status("leases"), 5U);
  ASSERT_TRUE(store->record({0, 0, RemovalKind::kPurge, "removed", "", "", 0}));
  std::vector<RoomBody> bodies;
  for (unsigned i = 0; i < 4; ++i)
    bodies.push_back(under(
        room.lent.object + i,
        into(room, std::uint64_t{i} * 100'032, "k" + std::to_string(i), body_of(100'000, i))));
  bodies[1].held_only = true;
  bodies[2].put.key = "removed";
  bodies[2].removals_seen = 0;
  store->release(me, room.lent.lease + 3);  // before it is put: its writer has no use for it
  const auto done = put_in_room(me, room.put_id, bodies);
  ASSERT_EQ(done.size(), 4U);
  for (const unsigned i : {0U, 1U, 3U}) {
    ASSERT_TRUE(done[i]) << describe(done[i].error());
    EXPECT_EQ(done[i]->object_id, room.lent.object + i);
  }
  EXPECT_EQ(done[2].error().code, Errc::kNotFound);
  EXPECT_EQ(get("k0"), body_of(100'000, 0));
  EXPECT_EQ(get("k1"), std::nullopt);
  EXPECT_EQ(get("removed"), std::nullopt);
  EXPECT_EQ(get("k3"), body_of(100'000, 3));
  EXPECT_EQ((*store->stat("k0"))->object_id, room.lent.object);
  EXPECT_EQ(status("held.bytes"), 200'000U);
  EXPECT_EQ(status("leases"), 4U);
  ASSERT_TRUE(store->abort(me, room.put_id));
  EXPECT_EQ(status("leases"), 3U);  // the fifth was for nothing
  EXPECT_EQ(store->remove("k0")->count, 1U);
  EXPECT_EQ(store->remove("k3")->count, 1U);
  EXPECT_EQ(status("held.bytes"), 300'000U);
  for (unsigned i = 0; i < 150; ++i)
    ASSERT_TRUE(put("fill" + std::to_string(i), body_of(500'000, i)));
  for (unsigned i = 0; i < 3; ++i) {
    EXPECT_EQ(bytes_at(room, bodies[i]), body_of(100'000, i)) << i;
    store->release(me, room.lent.lease + i);
  }
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("leases"), 0U);
}

TEST_F(StoreTest, ANumberThatWasLentIsGoodForOneBodyOfItsRoom) {
  config.memory_bytes = 64 << 20;
  open();
  const auto room = *store->take_room(me, {std::uint64_t{1} << 20, 0, 2});
  const auto other = *store->take_room(me, {std::uint64_t{1} << 20, 0, 2});
  const auto without = *store->take_room(me, {std::uint64_t{1} << 20});
  EXPECT_EQ(without.lent.count, 0U);
  const auto answers_of = [&](const Reserved& into_it, const std::vector<ObjectId>& numbers) {
    std::vector<RoomBody> bodies;
    for (std::size_t i = 0; i < numbers.size(); ++i)
      bodies.push_back(under(numbers[i], into(into_it, i * 64, "k" + std::to_string(i), "body")));
    std::vector<Errc> codes;
    for (const auto& one : put_in_room(me, into_it.put_id, bodies))
      codes.push_back(one ? Errc::kOk : one.error().code);
    return codes;
  };
  constexpr Errc kNo = Errc::kMalformed;
  const ObjectId first = room.lent.object;
  EXPECT_EQ(answers_of(room, {first - 1, first + 2, other.lent.object, first, first}),
            (std::vector<Errc>{kNo, kNo, kNo, Errc::kOk, kNo}));
  EXPECT_EQ(answers_of(without, {first + 1, 0}), (std::vector<Errc>{kNo, Errc::kOk}));
  // What was malformed has taken nothing, neither the number nor the place.
  EXPECT_EQ(put_in_room(me, room.put_id,
                        {under(first + 1, {room.extents[0].segment, 7, request("k", 1)})})
                .front()
                .error()
                .code,
            kNo);
  auto nobodys = into(room, 64, "k", "body");
  nobodys.held_only = true;
  EXPECT_EQ(put_in_room(me, room.put_id, {nobodys}).front().error().code, kNo);
  EXPECT_TRUE(put_in_room(me, room.put_id, {under(first + 1, nobodys)}).front());
  store->close_holder(me);
  EXPECT_EQ(status("leases"), 0U);
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(StoreTest, ARoomThatIsUsedUpEndsWithTheLeasesThatNobodyUsed) {
  config.memory_bytes = 64 << 20;
  open();
  const auto room = *store->take_room(me, {128 * 1024, 0, 64 + 1});
  ASSERT_EQ(room.lent.count, 64U);
  ASSERT_EQ(room.extents.size(), 1U);
  ASSERT_TRUE(put_in_room(me, room.put_id,
                          {under(room.lent.object + 7, into(room, 0, "k", body_of(128 * 1024, 1)))})
                  .front());
  EXPECT_EQ(status("puts"), 0U);
  EXPECT_EQ(status("leases"), 1U);
  store->release(me, room.lent.lease + 7);
  EXPECT_EQ(status("leases"), 0U);
  EXPECT_EQ(get("k"), body_of(128 * 1024, 1));
}

TEST_F(StoreTest, ARoomComesWithAsManyLeasesAsItsHolderMayHave) {
  config.memory_bytes = 64 << 20;
  config.holder.leases = 3;
  open();
  const auto first = *store->take_room(me, {1 << 20, 0, 2});
  EXPECT_EQ(first.lent.count, 2U);
  const auto second = *store->take_room(me, {1 << 20, 0, 2});
  EXPECT_EQ(second.lent.count, 1U);
  EXPECT_EQ((*store->take_room(me, {1 << 20, 0, 2})).lent.count, 0U);
  // And by their bytes: each counts as its part of the room, then as its body.
  config.holder.leases = 1000;
  config.holder.leased_bytes = 1'000'000;
  open();
  const auto room = *store->take_room(me, {std::uint64_t{2} << 20, 0, 8});
  ASSERT_EQ(room.lent.count, 3U);
  ASSERT_TRUE(put("other", body_of(500'000, 1)));
  EXPECT_EQ(store->get(me, "other").error().code, Errc::kQuota);
  ASSERT_TRUE(
      put_in_room(me, room.put_id, {under(room.lent.object, into(room, 0, "k", body_of(1000, 1)))})
          .front());
  store->release(me, room.lent.lease + 1);
  EXPECT_TRUE(*store->get(me, "other"));
}

TEST_F(StoreTest, NobodyIsAskedForWhatIsNotPutYet) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  config.revoke_grace_ns = 1000;
  open();
  std::vector<ObjectId> revoked;
  store->set_listener([&](const Event& event) {
    if (event.kind == EventKind::kRevoked) revoked.push_back(event.object_id);
  });
  const auto room = *store->take_room(me, {128 * 1024, 0, 4});
  ASSERT_EQ(room.lent.count, 4U);
  for (unsigned i = 0; i < 4; ++i) {
    const std::string key = "k" + std::to_string(i);
    ASSERT_TRUE(put(key, body_of(900'000, i)));
    ASSERT_TRUE(*store->get(me, key));
  }
  const auto ask = [&] {
    revoked.clear();
    EXPECT_EQ(store->reserve(me, request("more", 900'000), nullptr).error().code, Errc::kNoSpace);
    return static_cast<std::size_t>(
        std::count(revoked.begin(), revoked.end(), room.lent.object + 2));
  };
  EXPECT_EQ(ask(), 0U);
  EXPECT_FALSE(revoked.empty());
  // Once it is put, it is one as any other.
  ASSERT_TRUE(put_in_room(me, room.put_id,
                          {under(room.lent.object + 2, into(room, 0, "k", body_of(1000, 1)))})
                  .front());
  EXPECT_EQ(ask() + ask(), 1U);
}

TEST_F(StoreTest, WhatAWriterHoldsAndHasNotPutOutlivesTheDaemon) {
  config.memory_bytes = 16 << 20;
  open();
  const auto writer = *store->open_holder({});
  auto alive = *duplicate(store->lease_descriptor(writer));
  const auto room = *store->take_room(writer, {300'000, 0, 4});
  ASSERT_EQ(room.lent.count, 4U);
  const auto put_it = under(room.lent.object, into(room, 0, "put", body_of(50'000, 1)));
  const auto held = under(room.lent.object + 1, into(room, 50'048, "held", body_of(60'000, 2)));
  const auto not_put = under(room.lent.object + 2, into(room, 120'000, "not", body_of(70'000, 3)));
  ASSERT_TRUE(put_in_room(writer, room.put_id, {put_it}).front());
  auto held_only = held;
  held_only.held_only = true;
  ASSERT_TRUE(put_in_room(writer, room.put_id, {held_only}).front());
  crash();
  EXPECT_EQ(get("put"), body_of(50'000, 1));
  EXPECT_EQ(get("held"), std::nullopt);
  EXPECT_EQ(get("not"), std::nullopt);
  EXPECT_EQ(store->remove("put")->count, 1U);
  EXPECT_GE(status("held.bytes"), 290'000U);
  for (unsigned i = 0; i < 60; ++i) ASSERT_TRUE(put("n" + std::to_string(i), body_of(300'000, i)));
  EXPECT_EQ(bytes_at(room, put_it), body_of(50'000, 1));
  EXPECT_EQ(bytes_at(room, held), body_of(60'000, 2));
  EXPECT_EQ(bytes_at(room, not_put), body_of(70'000, 3));
  // Numbers that somebody may know are not given again.
  EXPECT_GT((*store->stat("n59"))->object_id, room.lent.object + 3);
  alive.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(StoreTest, WhatAnOrphanHoldsOfItsRoomStays) {
  config.memory_bytes = 16 << 20;
  open();
  const auto writer = *store->open_holder({});
  auto alive = *duplicate(store->lease_descriptor(writer));
  const auto room = *store->take_room(writer, {300'000, 0, 2});
  const auto body = under(room.lent.object, into(room, 0, "k", body_of(50'000, 1)));
  store->close_holder(writer);
  for (unsigned i = 0; i < 60; ++i) ASSERT_TRUE(put("n" + std::to_string(i), body_of(300'000, i)));
  EXPECT_EQ(bytes_at(room, body), body_of(50'000, 1));
  alive.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("holders.orphans"), 0U);
}

TEST_F(StoreTest, WhatCannotBeWrittenDownStaysTheRooms) {
  config.memory_bytes = 16 << 20;
  bool fails = false;
  config.disk_fault = [&](const char* operation, const std::string& /*path*/) {
    return fails && std::string_view(operation) == "held" ? ENOSPC : 0;
  };
  open();
  const auto room = *store->take_room(me, {200'000, 0, 2});
  auto body = under(room.lent.object, into(room, 0, "k", body_of(100'000, 1)));
  body.held_only = true;
  fails = true;
  EXPECT_EQ(put_in_room(me, room.put_id, {body}).front().error().code, Errc::kNoSpace);
  fails = false;
  EXPECT_EQ(status("held.bytes"), 0U);
  for (unsigned i = 0; i < 60; ++i) ASSERT_TRUE(put("n" + std::to_string(i), body_of(300'000, i)));
  EXPECT_EQ(bytes_at(room, body), body_of(100'000, 1));
  store.reset();
}

TEST_F(StoreTest, WhatIsRemovedAfterItsWriterHasLookedIsNotPut) {
  config.memory_bytes = 16 << 20;
  open();
  const auto record = [&](RemovalKind kind, const std::string& what) {
    const auto recorded = store->record({0, 0, kind, what, "", "", 0});
    EXPECT_TRUE(recorded);
    return recorded ? recorded->sequence : 0;
  };
  const auto room = *store->take_room(me, {300'000});
  std::uint64_t at = 0;
  const auto put_since = [&](std::uint64_t seen) {
    auto body = into(room, at, "url#1", "body");
    at += 64;
    body.put.tags = {"red"};
    body.removals_seen = seen;
    const auto done = put_in_room(me, room.put_id, {body});
    EXPECT_EQ(get("url#1").has_value(), done.front().has_value());
    (void)store->remove("url#1");
    return done.front() ? Errc::kOk : done.front().error().code;
  };
  EXPECT_EQ(put_since(0), Errc::kOk);  // there are none
  const auto purge = record(RemovalKind::kPurge, "url");
  EXPECT_EQ(put_since(0), Errc::kNotFound);
  EXPECT_EQ(put_since(purge), Errc::kOk);
  EXPECT_EQ(put_since(~std::uint64_t{0}), Errc::kOk);
  const auto tag = record(RemovalKind::kTagSoft, "red");
  EXPECT_EQ(put_since(purge), Errc::kNotFound);
  EXPECT_EQ(put_since(tag), Errc::kOk);
  record(RemovalKind::kTag, "blue");
  record(RemovalKind::kBan, "req.url == /x");
  EXPECT_EQ(put_since(tag), Errc::kOk);
  // Its bytes go when nobody holds them: nothing of all this stays.
  ASSERT_TRUE(store->abort(me, room.put_id));
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

}  // namespace
}  // namespace om::store
