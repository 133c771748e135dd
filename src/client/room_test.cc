// Puts through room that is reserved ahead: one message for many bodies; one by one where there is
// none.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <future>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/client_testing.h"
#include "objmapper/client.h"
#include "posix/file.h"

namespace om::client {
namespace {

// Puts through room that is reserved ahead, against a daemon that grants 1,024 bytes of it.
TEST(Room, TakesBodiesAndPublishesThemTogether) {
  FakeServer server([](FakeServer& s) {
    const UniqueFd file = file_with(std::string(8192, '.'));
    if (const auto hello = s.receive()) {
      EXPECT_NE(hello->as<wire::Hello>().features & wire::kFeatureRoom, 0U);
      wire::HelloReply answer;
      answer.features = wire::kFeatureRoom;
      s.reply(*hello, answer);
    }
    // The first four of a connection are reserved one by one.
    for (std::uint64_t i = 1; i <= 4; ++i) {
      const auto reserve = s.receive();
      ASSERT_EQ(reserve->header.type, wire::Type::kReserve);
      wire::ReserveReply reply;
      reply.put_id = i;
      reply.extents = {{3, 64 * i, 2}};
      reply.segments = {segment(3, 8192, wire::SegmentKind::kMemory, true, i == 1)};
      if (i == 1)
        s.reply(*reserve, reply, {file.borrow()});
      else
        s.reply(*reserve, reply);
      const auto commit = s.receive();
      ASSERT_EQ(commit->header.type, wire::Type::kCommit);
      s.reply(*commit, wire::CommitReply{i, 0});
    }
    const auto room = s.receive();
    ASSERT_EQ(room->header.type, wire::Type::kRoom);
    EXPECT_EQ(room->as<wire::Room>().at_least, 128U);
    EXPECT_EQ(room->as<wire::Room>().leases, 0U);
    wire::RoomReply reply;
    reply.room_id = 77;
    reply.extents = {{3, 4096, 1024}};
    reply.segments = {segment(3, 8192, wire::SegmentKind::kMemory, true, false)};
    s.reply(*room, reply);
    const auto first = s.receive();
    ASSERT_EQ(first->header.type, wire::Type::kPut);
    const auto put = first->as<wire::Put>();
    EXPECT_EQ(put.room_id, 77U);
    ASSERT_EQ(put.bodies.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(put.bodies[i].key, "k" + std::to_string(i));
      EXPECT_EQ(put.bodies[i].offset, 4096 + 128 * i);
      EXPECT_EQ(put.bodies[i].length, 100U);
      std::string written(100, '.');
      ASSERT_TRUE(read_exactly(file.borrow(), put.bodies[i].offset,
                               std::as_writable_bytes(std::span(written))));
      EXPECT_EQ(written, std::string(100, static_cast<char>('a' + i)));
    }
    s.reply(*first,
            wire::PutReply{
                {{0, 11, 1}, {static_cast<std::uint32_t>(Errc::kNoSpace), 0, 0}, {0, 13, 1}}});
    // What is left of it goes back with the last that has a part of it.
    const auto abort = s.receive();
    ASSERT_EQ(abort->header.type, wire::Type::kAbort);
    EXPECT_EQ(abort->as<wire::Abort>().put_id, 77U);
  });
  {
    auto client = connect_to(server);
    ASSERT_TRUE(client);
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(client->put({.key = "first"}, std::string("ab")));
    std::vector<Writer> writers;
    for (int i = 0; i < 3; ++i) {
      auto writer = client->reserve({.key = "k" + std::to_string(i), .length = 100, .ahead = true});
      ASSERT_TRUE(writer);
      ASSERT_TRUE(writer->announce());
      const std::string body(100, static_cast<char>('a' + i));
      ASSERT_TRUE(writer->write(std::as_bytes(std::span(body))));
      writers.push_back(*std::move(writer));
    }
    auto short_one = client->reserve({.key = "short", .length = 100, .ahead = true});
    ASSERT_TRUE(short_one);
    writers.push_back(*std::move(short_one));
    const auto done = commit(std::move(writers));
    ASSERT_EQ(done.size(), 4U);
    EXPECT_EQ(done[0]->object_id, 11U);
    EXPECT_EQ(done[1].error().code, Errc::kNoSpace);
    EXPECT_EQ(done[2]->object_id, 13U);
    EXPECT_EQ(done[3].error().code, Errc::kMalformed);
  }
  server.join();
}

TEST(Room, IsDoneWithoutWhereThereIsNone) {
  FakeServer server([](FakeServer& s) {
    if (const auto hello = s.receive()) {
      wire::HelloReply answer;
      answer.features = wire::kFeatureRoom;
      s.reply(*hello, answer);
    }
    const UniqueFd file = file_with("..");
    for (std::uint64_t i = 1; i <= 8; ++i) {
      auto request = s.receive();
      if (i == 5) {
        ASSERT_EQ(request->header.type, wire::Type::kRoom);
        s.fail(*request, Errc::kNoSpace, "none to spare");
        request = s.receive();
      }
      ASSERT_EQ(request->header.type, wire::Type::kReserve);
      wire::ReserveReply reply;
      reply.put_id = i;
      reply.extents = {{3, 0, 2}};
      reply.segments = {segment(3, 2, wire::SegmentKind::kStaging, true, i == 1)};
      if (i == 1)
        s.reply(*request, reply, {file.borrow()});
      else
        s.reply(*request, reply);
      const auto commit = s.receive();
      ASSERT_EQ(commit->header.type, wire::Type::kCommit);
      s.reply(*commit, wire::CommitReply{i, 0});
    }
  });
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(client->put({.key = "k"}, std::string("ab")));
  server.join();
}

void welcome_with_room(FakeServer& s) {
  if (const auto hello = s.receive()) {
    wire::HelloReply answer;
    answer.features = wire::kFeatureRoom;
    s.reply(*hello, answer);
  }
}

TEST(Room, IsTwiceAsLargeForThoseWhoUseItUpSoon) {
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
  std::vector<std::uint64_t> wishes;
  FakeServer server([&wishes](FakeServer& s) {
    const UniqueFd file = file_with(std::string(16 * kMiB, '.'));
    welcome_with_room(s);
    while (const auto request = s.receive()) {
      if (request->header.type != wire::Type::kRoom) continue;
      wishes.push_back(request->as<wire::Room>().bytes);
      wire::RoomReply reply;
      reply.room_id = wishes.size();
      reply.segments = {
          segment(3, 16 * kMiB, wire::SegmentKind::kMemory, true, wishes.size() == 1)};
      reply.extents = {{3, 0, wishes.back()}};
      std::vector<BorrowedFd> descriptors;
      if (wishes.size() == 1) descriptors.push_back(file.borrow());
      s.reply(*request, reply, descriptors);
    }
  });
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  std::vector<Writer> writers;  // 16 in 4 MiB, 32 in 8, and one more
  writers.reserve(49);
  for (int i = 0; i < 49; ++i) {
    auto writer = client->reserve_ahead({.key = "k", .length = kMiB / 4}, std::chrono::seconds(5));
    ASSERT_TRUE(writer && *writer) << i;
    writers.push_back(**std::move(writer));
  }
  writers.clear();
  client->close();
  server.join();
  ASSERT_GE(wishes.size(), 3U);
  wishes.resize(3);
  EXPECT_EQ(wishes, (std::vector<std::uint64_t>{4 * kMiB, 8 * kMiB, 16 * kMiB}));
}

constexpr std::chrono::seconds kLong{5};

// Each body is one message, none where nothing comes of it; its lease was lent with the room.
TEST(Room, LendsLeasesToThoseWhoHold) {
  FakeServer server([](FakeServer& s) {
    const UniqueFd file = file_with(std::string(16384, '.'));
    welcome_with_room(s);
    auto request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kRoom);
    EXPECT_EQ(request->as<wire::Room>().bytes, std::uint64_t{4} << 20);
    EXPECT_EQ(request->as<wire::Room>().at_least, 1024U);
    EXPECT_EQ(request->as<wire::Room>().leases, 32U);
    wire::RoomReply reply;
    reply.room_id = 77;
    reply.segments = {segment(3, 16384, wire::SegmentKind::kMemory, true)};
    reply.extents = {{3, 4096, 8192}};
    reply.first_object = 500;
    reply.first_lease = 600;
    reply.leases = 2;
    s.reply(*request, reply, {file.borrow()});

    request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kPut);
    auto put = request->as<wire::Put>();
    EXPECT_EQ(put.room_id, 77U);
    ASSERT_EQ(put.bodies.size(), 1U);
    EXPECT_EQ(put.bodies[0].offset, 4096U);
    EXPECT_EQ(put.bodies[0].length, 1000U);
    EXPECT_EQ(put.bodies[0].key, "published");
    EXPECT_EQ(put.bodies[0].flags, 0U);
    EXPECT_EQ(put.bodies[0].metadata, "last words");
    EXPECT_EQ(put.bodies[0].tags, std::vector<std::string>{"tag"});
    EXPECT_EQ(put.bodies[0].object_id, 500U);
    EXPECT_EQ(put.bodies[0].removals_seen, 9U);
    s.reply(*request, wire::PutReply{{{0, 500, 1}}});

    // All leases are lent: the next room is asked for, though bytes are left. It has none.
    request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kRoom);
    EXPECT_EQ(request->as<wire::Room>().at_least, 2048U);
    EXPECT_EQ(request->as<wire::Room>().leases, 32U);
    reply.room_id = 78;
    reply.segments = {segment(3, 16384, wire::SegmentKind::kMemory, true, false)};
    reply.extents = {{3, 12288, 4096}};
    reply.leases = 0;
    s.reply(*request, reply);

    request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kPut);
    put = request->as<wire::Put>();
    ASSERT_EQ(put.bodies.size(), 1U);
    EXPECT_EQ(put.bodies[0].flags, wire::kPutHeldOnly);
    EXPECT_EQ(put.bodies[0].object_id, 501U);
    EXPECT_EQ(put.bodies[0].offset, 4096U + 1024U);
    EXPECT_EQ(put.bodies[0].length, 2000U);
    s.reply(*request, wire::PutReply{{{0, 501, 0}}});

    // What came is of no use, and goes back.
    request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kAbort);
    EXPECT_EQ(request->as<wire::Abort>().put_id, 78U);
    // Something was given back, in vain.
    request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kRelease);
    EXPECT_EQ(request->as<wire::Release>().leases, std::vector<std::uint64_t>{601});
    request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kRoom);
    s.fail(*request, Errc::kNoSpace, "memory is full");

    request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kRelease);
    EXPECT_EQ(request->as<wire::Release>().leases, std::vector<std::uint64_t>{600});
    // The rest of the room.
    request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kAbort);
    EXPECT_EQ(request->as<wire::Abort>().put_id, 77U);
  });
  {
    auto client = connect_to(server);
    ASSERT_TRUE(client);
    auto writer = client->reserve_ahead(
        {.key = "published", .length = 1000, .held = true, .removals_seen = 9}, kLong);
    ASSERT_TRUE(writer) << describe(writer.error());
    ASSERT_TRUE(*writer);
    auto lease = (*writer)->hold(1000);
    ASSERT_TRUE(lease) << describe(lease.error());
    EXPECT_EQ(lease->id(), 600U);
    EXPECT_EQ(lease->info().object_id, 500U);
    EXPECT_EQ(lease->size(), 1000U);
    EXPECT_EQ((*writer)->hold(1).error().code, Errc::kUnsupported);
    const auto memory = (*writer)->map();
    ASSERT_EQ(memory.size(), 1U);
    ASSERT_EQ(memory[0].size(), 1000U);
    std::memset(memory[0].data(), 'p', 1000);
    ASSERT_TRUE((*writer)->advance(1000));
    std::optional<std::uint64_t> published;
    std::move(**writer).commit(
        Amendment{{}, "last words", {"tag"}, 7},
        [&](const Result<PutResult>& done) { published = done ? done->object_id : 0; });
    // Nobody waits for the answer; who looks has it.
    for (int i = 0; i < 5000 && !published; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      client->look();
    }
    EXPECT_EQ(published, 500U);
    EXPECT_EQ(*lease->read_all(), std::string(1000, 'p'));

    auto dropped = client->reserve_ahead({.key = "dropped", .length = 2000, .held = true}, kLong);
    ASSERT_TRUE(dropped && *dropped);
    auto second = (*dropped)->hold(2000);
    ASSERT_TRUE(second) << describe(second.error());
    EXPECT_EQ(second->id(), 601U);
    **dropped = Writer();
    EXPECT_EQ(second->read_all()->size(), 2000U);

    const PutOptions third{.key = "third", .length = 1000, .held = true};
    auto refused = client->reserve_ahead(third, kLong);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::kQuota);
    second->release();
    refused = client->reserve_ahead(third, kLong, true);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::kNoSpace);
    // Without a lease there is still room; nothing comes of this one, and nobody hears of it.
    auto without = client->reserve_ahead({.key = "without", .length = 1000}, kLong);
    ASSERT_TRUE(without && *without);
    EXPECT_EQ((*without)->hold(1000).error().code, Errc::kUnsupported);
    lease->release();
  }
  server.join();
}

// Both are packets that nobody waits for; the socket is full for the first, and no more for the
// second.
TEST(Room, EndsWhenTheDaemonHasHeardOfWhatIsHeldInIt) {
  std::promise<int> full;
  std::promise<void> emptied;
  FakeServer server([&](FakeServer& s) {
    const UniqueFd file = file_with(std::string(8192, '.'));
    welcome_with_room(s);
    const auto request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kRoom);
    wire::RoomReply reply;
    reply.room_id = 7;
    reply.segments = {segment(3, 8192, wire::SegmentKind::kMemory, true)};
    reply.extents = {{3, 0, 2048}};
    reply.first_object = 500;
    reply.first_lease = 600;
    reply.leases = 2;
    s.reply(*request, reply, {file.borrow()});
    EXPECT_EQ(s.receive()->header.type, wire::Type::kRoom);  // the next one
    for (int left = full.get_future().get(); left > 0; --left)
      EXPECT_EQ(s.receive()->header.type, wire::Type::kAck);
    emptied.set_value();
    const auto held = s.receive();
    ASSERT_TRUE(held);
    ASSERT_EQ(held->header.type, wire::Type::kPut);
    const auto put = held->as<wire::Put>();
    EXPECT_EQ(put.room_id, 7U);
    ASSERT_EQ(put.bodies.size(), 1U);
    EXPECT_EQ(put.bodies[0].flags, wire::kPutHeldOnly);
    EXPECT_EQ(put.bodies[0].object_id, 500U);
    const auto end = s.receive();
    ASSERT_TRUE(end);
    ASSERT_EQ(end->header.type, wire::Type::kAbort);
    EXPECT_EQ(end->as<wire::Abort>().put_id, 7U);
  });
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  auto first = client->reserve_ahead({.key = "first", .length = 1024, .held = true}, kLong);
  ASSERT_TRUE(first && *first);
  const auto lease = (*first)->hold(1024);
  ASSERT_TRUE(lease) << describe(lease.error());
  auto second = client->reserve_ahead({.key = "second", .length = 1024}, kLong);
  ASSERT_TRUE(second && *second);
  int acknowledged = 0;
  while (client->acknowledge(1)) ++acknowledged;
  **first = Writer();
  full.set_value(acknowledged);
  emptied.get_future().wait();
  **second = Writer();
}

// Gives two rooms of 4096 bytes, without leases; the second one when `may_give` returns.
void give_two_rooms(FakeServer& s, const std::function<void()>& may_give) {
  const UniqueFd file = file_with(std::string(16384, '.'));
  welcome_with_room(s);
  for (std::uint64_t room = 1; room <= 2; ++room) {
    const auto request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kRoom);
    EXPECT_EQ(request->as<wire::Room>().leases, 0U);
    if (room == 2) may_give();
    wire::RoomReply reply;
    reply.room_id = room;
    reply.segments = {segment(3, 16384, wire::SegmentKind::kMemory, true, room == 1)};
    reply.extents = {{3, 4096 * room, 4096}};
    if (room == 1)
      s.reply(*request, reply, {file.borrow()});
    else
      s.reply(*request, reply);
  }
  while (s.receive()) {
  }
}

TEST(Room, IsAskedForBeforeItIsNeeded) {
  std::promise<void> asked;
  FakeServer server([&](FakeServer& s) { give_two_rooms(s, [&] { asked.set_value(); }); });
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  const auto reserve = [&] {
    auto writer = client->reserve_ahead({.key = "k", .length = 1024}, kLong);
    ASSERT_TRUE(writer) << describe(writer.error());
    ASSERT_TRUE(*writer);
    EXPECT_EQ((*writer)->slices().front().length, 1024U);
  };
  for (int i = 0; i < 4; ++i) reserve();
  ASSERT_EQ(asked.get_future().wait_for(kLong), std::future_status::ready);
  // It is read when it is needed.
  for (int i = 0; i < 3; ++i) reserve();
}

TEST(Room, ThatWasAskedForIsWaitedForByAllWhoNeedIt) {
  std::promise<void> asked;
  std::promise<void> go;
  FakeServer server([&](FakeServer& s) {
    give_two_rooms(s, [&] {
      asked.set_value();
      go.get_future().wait();
    });
  });
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  std::atomic<int> got = 0;
  const auto reserve = [&](const std::string& key) {
    const auto writer = client->reserve_ahead({.key = key, .length = 1024}, kLong);
    if (writer && *writer) ++got;
  };
  for (int i = 0; i < 4; ++i) reserve("before");
  asked.get_future().wait();
  {
    std::vector<std::jthread> threads;
    threads.reserve(3);
    for (int i = 0; i < 3; ++i) threads.emplace_back(reserve, "k" + std::to_string(i));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(got, 4);
    go.set_value();
  }
  EXPECT_EQ(got, 7);
}

TEST(Room, ThatWasAskedForAndDoesNotComeIsWaitedForInTime) {
  std::promise<void> asked;
  FakeServer server([&](FakeServer& s) {
    const UniqueFd file = file_with(std::string(8192, '.'));
    welcome_with_room(s);
    const auto request = s.receive();
    wire::RoomReply reply;
    reply.room_id = 1;
    reply.segments = {segment(3, 8192, wire::SegmentKind::kMemory, true)};
    reply.extents = {{3, 4096, 4096}};
    s.reply(*request, reply, {file.borrow()});
    if (s.receive()) asked.set_value();
    while (s.receive()) {
    }
  });
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  constexpr std::chrono::milliseconds kShort{200};
  for (int i = 0; i < 4; ++i) {
    const auto writer = client->reserve_ahead({.key = "k", .length = 1024}, kLong);
    EXPECT_TRUE(writer && *writer);
  }
  asked.get_future().wait();
  // The one that reads the answer is told so; the others wait as long, and do without.
  std::atomic<int> waited = 0;
  {
    std::vector<std::jthread> threads;
    threads.reserve(3);
    for (int i = 0; i < 3; ++i)
      threads.emplace_back([&] {
        const auto begin = std::chrono::steady_clock::now();
        const auto writer = client->reserve_ahead({.key = "k", .length = 1024}, kShort);
        EXPECT_FALSE(writer && *writer);
        if (std::chrono::steady_clock::now() - begin >= kShort) ++waited;
      });
  }
  EXPECT_GE(waited, 1);
}

TEST(Room, IsWaitedForByOneAlone) {
  std::promise<void> asked;
  std::promise<void> go;
  FakeServer server([&](FakeServer& s) {
    const UniqueFd file = file_with(std::string(8192, '.'));
    welcome_with_room(s);
    const auto request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kRoom);
    asked.set_value();
    go.get_future().wait();
    wire::RoomReply reply;
    reply.room_id = 7;
    reply.segments = {segment(3, 8192, wire::SegmentKind::kMemory, true)};
    reply.extents = {{3, 0, 8192}};
    s.reply(*request, reply, {file.borrow()});
    while (s.receive()) {
    }
  });
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  auto first = std::async(std::launch::async, [&] {
    const auto writer = client->reserve_ahead({.key = "first", .length = 100}, kLong);
    return writer && *writer;
  });
  asked.get_future().wait();
  const auto second = client->reserve_ahead({.key = "second", .length = 100}, kLong);
  EXPECT_TRUE(second && !*second);
  go.set_value();
  EXPECT_TRUE(first.get());
  const auto third = client->reserve_ahead({.key = "third", .length = 100}, kLong);
  EXPECT_TRUE(third && *third);
}

TEST(Room, ThatDoesNotComeInTimeGoesBack) {
  std::promise<void> go;
  std::promise<std::uint64_t> aborted;
  FakeServer server([&](FakeServer& s) {
    welcome_with_room(s);
    const auto request = s.receive();
    ASSERT_EQ(request->header.type, wire::Type::kRoom);
    go.get_future().wait();
    wire::RoomReply reply;
    reply.room_id = 7;
    s.reply(*request, reply);
    const auto abort = s.receive();
    ASSERT_EQ(abort->header.type, wire::Type::kAbort);
    aborted.set_value(abort->as<wire::Abort>().put_id);
  });
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  const auto late =
      client->reserve_ahead({.key = "k", .length = 100}, std::chrono::milliseconds(20));
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Errc::kTimeout);
  go.set_value();
  auto ended = aborted.get_future();
  for (int i = 0; i < 5000; ++i) {
    client->look();
    if (ended.wait_for(std::chrono::milliseconds(1)) == std::future_status::ready) break;
  }
  EXPECT_EQ(ended.get(), 7U);
}

}  // namespace
}  // namespace om::client
