// Room ahead: bodies that are put into it, who may write there for how long, and how much of it
// there is.
#include <gtest/gtest.h>

#include <string>

#include "posix/file.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

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

}  // namespace
}  // namespace om::store
