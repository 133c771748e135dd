// Writers: filling what was reserved, asking for more, keeping what was written under a lease,
// saying later what it is, and giving up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "client/client_testing.h"
#include "objmapper/client.h"
#include "posix/file.h"
#include "posix/memfd.h"

namespace om::client {
namespace {

using namespace std::chrono_literals;

TEST(Writer, FillsItsExtentsInOrderAndCommitsTheLength) {
  const UniqueFd staging = *make_memfd("staging", 32);
  std::promise<wire::Commit> committed;
  Meeting m([&](FakeServer& s) {
    const auto request = s.receive();
    EXPECT_EQ(request->as<wire::Reserve>().length, 10U);
    EXPECT_EQ(request->as<wire::Reserve>().tags, (std::vector<std::string>{"t"}));
    wire::ReserveReply reply;
    reply.put_id = 4;
    reply.segments = {segment(2, 32, wire::SegmentKind::kStaging, true)};
    reply.extents = {{2, 20, 4}, {2, 0, 6}};
    s.reply(*request, reply, {staging.borrow()});
    const auto commit = s.receive();
    committed.set_value(commit->as<wire::Commit>());
    s.reply(*commit, wire::CommitReply{99, 1});
  });
  auto writer = m.client->reserve({.key = "k", .length = 10, .tags = {"t"}});
  ASSERT_TRUE(writer) << describe(writer.error());
  const std::string body = "0123456789";
  ASSERT_TRUE(writer->write(std::as_bytes(std::span(body).first(3))));
  const auto rest = writer->slices();
  ASSERT_EQ(rest.size(), 2U);
  EXPECT_EQ(rest[0].offset, 23U);
  EXPECT_EQ(rest[0].length, 1U);
  EXPECT_EQ(rest[1].offset, 0U);
  ASSERT_TRUE(writer->write(std::as_bytes(std::span(body).subspan(3))));
  EXPECT_EQ(writer->write(std::as_bytes(std::span(body).first(1))).error().code, Errc::kMalformed);
  auto done = std::move(*writer).commit();
  ASSERT_TRUE(done);
  EXPECT_EQ(done->object_id, 99U);
  EXPECT_EQ(committed.get_future().get().length, 10U);
  std::string there(32, '\0');
  ASSERT_TRUE(read_exactly(staging.borrow(), 0, std::as_writable_bytes(std::span(there))));
  EXPECT_EQ(there.substr(20, 4) + there.substr(0, 6), body);
}

TEST(Writer, HoldsWhatItWritesInto) {
  const UniqueFd memory = *make_memfd("memory", 8192);
  std::promise<std::uint64_t> asked, released;
  Meeting m([&](FakeServer& s) {
    const auto request = s.receive();
    wire::ReserveReply reply;
    reply.put_id = 4;
    reply.segments = {segment(2, 8192, wire::SegmentKind::kMemory, true)};
    reply.extents = {{2, 4096, 10}};
    s.reply(*request, reply, {memory.borrow()});
    const auto hold = s.receive();
    asked.set_value(hold->as<wire::Hold>().more_bytes);
    s.reply(*hold, wire::HoldReply{7, 9, {}, {{2, 100, 50}}});
    const auto again = s.receive();  // a daemon that gives none
    s.reply(*again, wire::HoldReply{});
    (void)s.receive();  // abort
    const auto release = s.receive();
    released.set_value(release->as<wire::Release>().leases.at(0));
  });
  auto writer = m.client->reserve({.key = "k"});
  ASSERT_TRUE(writer) << describe(writer.error());
  auto lease = writer->hold(40);
  ASSERT_TRUE(lease) << describe(lease.error());
  EXPECT_EQ(asked.get_future().get(), 30U);
  EXPECT_EQ(lease->size(), 40U);
  EXPECT_EQ(lease->id(), 7U);
  EXPECT_EQ(lease->info().object_id, 9U);
  EXPECT_EQ(writer->hold(5).error().code, Errc::kQuota);
  const auto room = writer->map();
  ASSERT_EQ(room.size(), 2U);
  EXPECT_EQ(room[0].size(), 10U);
  std::memset(room[0].data(), 'a', 10);
  std::memset(room[1].data(), 'b', 30);
  ASSERT_TRUE(writer->advance(40));
  // The lease stays when the put goes.
  writer = Writer();
  const auto parts = lease->map();
  ASSERT_TRUE(parts);
  ASSERT_EQ(parts->size(), 2U);
  EXPECT_EQ((*parts)[0].data(), room[0].data());
  EXPECT_EQ((*parts)[1].size(), 30U);
  EXPECT_EQ(*lease->read_all(), std::string(10, 'a') + std::string(30, 'b'));
  lease->release();
  EXPECT_EQ(released.get_future().get(), 7U);
}

// Room that came after the lease lies in a segment that only the writer knew.
TEST(Writer, PinsTheRoomThatCameAfterItsLease) {
  const UniqueFd first = *make_memfd("first", 4096);
  const UniqueFd second = *make_memfd("second", 4096);
  const UniqueFd other = file_with("elsewhere");
  FakeServer server([&](FakeServer& s) {
    s.welcome();
    wire::ReserveReply reserved;
    reserved.put_id = 4;
    reserved.segments = {segment(2, 4096, wire::SegmentKind::kMemory, true)};
    reserved.extents = {{2, 0, 100}};
    s.reply(*s.receive(), reserved, {first.borrow()});
    s.reply(*s.receive(), wire::HoldReply{7, 9, {}, {}});
    wire::ExtendReply more;
    more.segments = {segment(3, 4096, wire::SegmentKind::kMemory, true)};
    more.extents = {{3, 0, 50}};
    const auto extend = s.receive();
    EXPECT_EQ(extend->header.type, wire::Type::kExtend);
    s.reply(*extend, more, {second.borrow()});
    const auto commit = s.receive();
    EXPECT_EQ(commit->as<wire::Commit>().length, 150U);
    s.reply(*commit, wire::CommitReply{9, 1});
    wire::GetReply got;
    got.segments = {segment(5, 9, wire::SegmentKind::kMemory)};
    got.items = {item(11, {{5, 0, 9}})};
    s.reply(*s.receive(), got, {other.borrow()});
    while (s.receive()) {
    }
  });
  ConnectOptions options;
  options.descriptors_max = 1;
  auto client = Client::adopt(Fd::adopt(server.take_client_end()), options);
  ASSERT_TRUE(client) << describe(client.error());
  auto writer = client->reserve({.key = "k"});
  ASSERT_TRUE(writer) << describe(writer.error());
  auto lease = writer->hold(100);
  ASSERT_TRUE(lease) << describe(lease.error());
  EXPECT_EQ(writer->pins().size(), 1U);
  std::memset(writer->map().at(0).data(), 'a', 100);
  ASSERT_TRUE(writer->advance(100));
  const auto extended = writer->make_room(50);
  ASSERT_TRUE(extended) << describe(extended.error());
  const auto room = writer->map();
  ASSERT_EQ(room.size(), 2U);
  std::memset(room[1].data(), 'b', 50);
  ASSERT_TRUE(writer->advance(50));
  auto pins = writer->pins();
  ASSERT_EQ(pins.size(), 2U);
  ASSERT_TRUE(std::move(*writer).commit());
  // The one segment that the connection goes on keeping is another one.
  auto elsewhere = client->get("x");
  ASSERT_TRUE(elsewhere) << describe(elsewhere.error());
  EXPECT_EQ(*(*elsewhere)->read_all(), "elsewhere");
  EXPECT_EQ(*lease->read_all(), std::string(100, 'a'));
  const std::string there(reinterpret_cast<const char*>(room[1].data()), 50);
  EXPECT_EQ(there, std::string(50, 'b'));
  const std::weak_ptr<const void> last = pins.back();
  pins.clear();
  EXPECT_TRUE(last.expired());
  client->close();
}

TEST(Writer, AsksForMoreRoomAndThenForLess) {
  const UniqueFd staging = *make_memfd("staging", 1 << 20);
  std::vector<std::uint64_t> asked;
  Meeting m([&](FakeServer& s) {
    const auto request = s.receive();
    EXPECT_EQ(request->as<wire::Reserve>().length, wire::kUnknownLength);
    wire::ReserveReply reply;
    reply.put_id = 4;
    s.reply(*request, reply);
    bool first = true;
    while (const auto extend = s.receive()) {
      if (extend->header.type == wire::Type::kExtend) {
        const auto more = extend->as<wire::Extend>().more_bytes;
        asked.push_back(more);
        if (more > 1000) {
          s.fail(*extend, Errc::kNoSpace, "full");
          continue;
        }
        wire::ExtendReply answer;
        if (first) answer.segments = {segment(2, 1 << 20, wire::SegmentKind::kStaging, true)};
        answer.extents = {{2, first ? 0U : 1000U, more}};
        if (first)
          s.reply(*extend, answer, {staging.borrow()});
        else
          s.reply(*extend, answer);
        first = false;
      } else {
        EXPECT_EQ(extend->as<wire::Commit>().length, 1500U);
        s.reply(*extend, wire::CommitReply{});
      }
    }
  });
  auto writer = m.client->reserve({.key = "k"});
  ASSERT_TRUE(writer);
  const std::string piece(500, 'x');
  for (int i = 0; i < 3; ++i) {
    const auto written = writer->write(std::as_bytes(std::span(piece)));
    ASSERT_TRUE(written) << describe(written.error());
  }
  EXPECT_TRUE(std::move(*writer).commit());
  m.client->close();
  m.server.join();
  EXPECT_THAT(asked, testing::Contains(500));
}

TEST(Writer, ThatIsDroppedAborts) {
  std::promise<std::uint64_t> aborted;
  Meeting m([&](FakeServer& s) {
    wire::ReserveReply reply;
    reply.put_id = 31;
    s.reply(*s.receive(), reply);
    const auto abort = s.receive();
    EXPECT_EQ(abort->header.type, wire::Type::kAbort);
    aborted.set_value(abort->as<wire::Abort>().put_id);
  });
  { auto writer = m.client->reserve({.key = "k"}); }
  EXPECT_EQ(aborted.get_future().get(), 31U);
}

TEST(Writer, ReservesAnewWhenItLacksTheDescriptor) {
  const UniqueFd staging = *make_memfd("staging", 16);
  Meeting m([&](FakeServer& s) {
    wire::ReserveReply reply;  // of a segment that the client is said to have
    reply.put_id = 1;
    reply.segments = {segment(2, 16, wire::SegmentKind::kStaging, true, false)};
    reply.extents = {{2, 0, 4}};
    s.reply(*s.receive(), reply);
    EXPECT_EQ(s.receive()->as<wire::Abort>().put_id, 1U);
    const auto describe = s.receive();
    EXPECT_EQ(describe->header.type, wire::Type::kDescribe);
    s.fail(*describe, Errc::kNotFound, "no lease there");
    reply.put_id = 3;
    reply.segments[0].with_descriptor = 1;
    s.reply(*s.receive(), reply, {staging.borrow()});
    s.reply(*s.receive(), wire::CommitReply{});
    // The next put is over the descriptor that the client has now, in a segment that has grown.
    reply.put_id = 4;
    reply.segments[0].with_descriptor = 0;
    reply.segments[0].size_bytes = 20;
    reply.extents = {{2, 16, 4}};
    s.reply(*s.receive(), reply);
    s.reply(*s.receive(), wire::CommitReply{});
  });
  for (int i = 0; i < 2; ++i) {
    const auto done = m.client->put({.key = "k"}, "body");
    ASSERT_TRUE(done) << describe(done.error());
  }
  std::string there(20, '\0');
  ASSERT_TRUE(read_exactly(staging.borrow(), 0, std::as_writable_bytes(std::span(there))));
  EXPECT_EQ(there.substr(0, 4), "body");
  EXPECT_EQ(there.substr(16), "body");
}

TEST(ReserveOrGet, IsAHitOrAReservation) {
  Meeting m([](FakeServer& s) {
    const auto first = s.receive();
    EXPECT_EQ(first->as<wire::Reserve>().flags & wire::kReserveOrGet, wire::kReserveOrGet);
    EXPECT_EQ(first->as<wire::Reserve>().wait_ms, 70U);
    wire::ReserveReply hit;
    hit.outcome = static_cast<std::uint8_t>(wire::ReserveOutcome::kHit);
    hit.hit = item(8, {});
    s.reply(*first, hit);
    s.reply(*s.receive(), wire::ReserveReply{});
    while (s.receive()) continue;
  });
  auto hit = m.client->reserve_or_get({.key = "k"}, 70ms);
  ASSERT_TRUE(hit);
  EXPECT_TRUE(std::holds_alternative<Lease>(*hit));
  auto mine = m.client->reserve_or_get({.key = "k"}, 70ms);
  ASSERT_TRUE(mine);
  EXPECT_TRUE(std::holds_alternative<Writer>(*mine));
  mine = std::variant<Lease, Writer>();
  m.client->close();
}

TEST(Writer, AmendsOnceWhatItDidNotDeclare) {
  const UniqueFd staging = file_with(std::string(16, '.'));
  Meeting m([&](FakeServer& s) {
    const auto reserve = s.receive();
    wire::ReserveReply yours;
    yours.put_id = 9;
    yours.segments = {segment(2, 16, wire::SegmentKind::kStaging)};
    yours.segments[0].writable = 1;
    yours.extents = {{2, 0, 4}};
    s.reply(*reserve, yours, {staging.borrow()});
    const auto amend = s.receive()->as<wire::Amend>();
    EXPECT_EQ(amend.put_id, 9U);
    EXPECT_EQ(amend.length, 6U);
    EXPECT_EQ(amend.metadata, "meta");
    // Exactly what is missing.
    const auto extend = s.receive();
    EXPECT_EQ(extend->as<wire::Extend>().more_bytes, 2U);
    wire::ExtendReply more;
    more.extents = {{2, 4, 12}};
    s.reply(*extend, more);
    const auto commit = s.receive();
    EXPECT_EQ(commit->as<wire::Commit>().length, 6U);
    s.reply(*commit, wire::CommitReply{1, 2});
    while (s.receive()) continue;
  });
  auto writer = m.client->reserve({.key = "k"});
  ASSERT_TRUE(writer) << describe(writer.error());
  ASSERT_TRUE(writer->amend({.length = 6, .metadata = "meta"}));
  EXPECT_EQ(writer->amend({.length = 6}).error().code, Errc::kMalformed);
  EXPECT_EQ(writer->amend({.tags = {""}}).error().code, Errc::kMalformed);
  const std::string body = "123456";
  const std::string more = body + "7";
  EXPECT_EQ(writer->write(std::as_bytes(std::span(more))).error().code, Errc::kMalformed);
  ASSERT_TRUE(writer->write(std::as_bytes(std::span(body))));
  ASSERT_TRUE((*std::move(writer)).commit());
  m.client->close();
}

TEST(Writer, WaitsForNobodyWhereTheSocketIsFull) {
  const UniqueFd staging = *make_memfd("staging", 16);
  std::promise<void> full;
  std::promise<std::vector<std::uint64_t>> aborted;
  Meeting m(
      [&](FakeServer& s) {
        for (const std::uint64_t put : {4U, 5U}) {
          const auto request = s.receive();
          wire::ReserveReply reply;
          reply.put_id = put;
          reply.segments = {segment(put, 16, wire::SegmentKind::kStaging, true)};
          reply.extents = {{put, 0, 8}};
          s.reply(*request, reply, {staging.borrow()});
        }
        full.get_future().wait();
        std::vector<std::uint64_t> puts;
        while (const auto request = s.receive()) {
          if (request->header.type == wire::Type::kAbort)
            puts.push_back(request->as<wire::Abort>().put_id);
          else if (request->header.type == wire::Type::kStat)
            s.reply(*request, wire::StatReply{});
        }
        aborted.set_value(puts);
      },
      60s);
  auto first = m.client->reserve({.key = "a", .length = 8});
  auto second = m.client->reserve({.key = "b", .length = 8});
  EXPECT_TRUE(first && second);
  const auto begin = std::chrono::steady_clock::now();
  while (m.client->acknowledge(1)) continue;
  if (first && second) {
    EXPECT_TRUE(second->announce());
    second->limit(1ms);
    EXPECT_EQ(second->amend({.metadata = "meta"}).error().code, Errc::kUnavailable);
    const Writer given_up = *std::move(first);
    const Writer too = *std::move(second);
  }
  EXPECT_FALSE(m.client->closed());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  // They go with the next call.
  full.set_value();
  EXPECT_TRUE(m.client->stat("k"));
  m.client->close();
  EXPECT_THAT(aborted.get_future().get(), testing::UnorderedElementsAre(4, 5));
}

}  // namespace
}  // namespace om::client
