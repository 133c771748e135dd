// Puts through room that is reserved ahead: one message for many bodies; one by one where there is
// none.
#include <gtest/gtest.h>

#include <span>
#include <string>
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

}  // namespace
}  // namespace om::client
