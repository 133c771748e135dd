// Followers: what somebody else is still writing, up to what was announced; then the object, or
// word that there is none.
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "client/client_testing.h"
#include "objmapper/client.h"

namespace om::client {
namespace {

using namespace std::chrono_literals;

TEST(Follower, LearnsWhatTheWriterSaysLater) {
  Meeting m([&](FakeServer& s) {
    const auto reserve = s.receive();
    wire::ReserveReply following;
    following.outcome = static_cast<std::uint8_t>(wire::ReserveOutcome::kFollowing);
    following.hit.lease_id = 5;
    following.hit.info.length = wire::kUnknownLength;
    s.reply(*reserve, following);
    wire::FollowReply nothing;
    nothing.hit.status = static_cast<std::uint32_t>(Errc::kNotFound);
    s.reply(*s.receive(), nothing);
    const auto second = s.receive();
    EXPECT_EQ(second->as<wire::Follow>().have_amended, 0U);
    wire::FollowReply said = nothing;
    said.amended = 1;
    said.hit.info.length = 7;
    said.hit.info.metadata = "meta";
    s.reply(*second, said);
    const auto third = s.receive();
    EXPECT_EQ(third->as<wire::Follow>().have_amended, 1U);
    wire::FollowReply end = nothing;
    end.state = static_cast<std::uint8_t>(wire::FollowState::kAborted);
    s.reply(*third, end);
    while (s.receive()) continue;
  });
  auto followed = m.client->reserve_or_follow({.key = "k"});
  ASSERT_TRUE(followed) << describe(followed.error());
  Follower follower = std::get<Follower>(std::move(*followed));
  auto amended = follower.amended(0ms);
  ASSERT_TRUE(amended);
  EXPECT_FALSE(*amended);
  amended = follower.amended(5s);
  ASSERT_TRUE(amended && *amended);
  EXPECT_EQ(follower.info().length, 7U);
  EXPECT_EQ(follower.info().metadata, "meta");
  EXPECT_TRUE(follower.amended(0ms));  // asks nobody
  std::byte some[4];
  EXPECT_EQ(follower.read(0, some, 5s).error().code, Errc::kNotFound);
  EXPECT_EQ(follower.amended(0ms).error().code, Errc::kNotFound);
  m.client->close();
}

TEST(Follower, ReadsWhatIsAnnouncedAndThenTheObject) {
  const UniqueFd staging = file_with("0123456789");
  const UniqueFd final_place = file_with("0123456789AB");
  Meeting m([&](FakeServer& s) {
    const auto reserve = s.receive();
    EXPECT_EQ(reserve->as<wire::Reserve>().flags & (wire::kReserveOrGet | wire::kReserveFollow),
              wire::kReserveOrGet | wire::kReserveFollow);
    wire::ReserveReply following;
    following.outcome = static_cast<std::uint8_t>(wire::ReserveOutcome::kFollowing);
    following.hit.lease_id = 5;
    following.hit.info.length = wire::kUnknownLength;
    s.reply(*reserve, following);
    const auto first = s.receive();
    EXPECT_EQ(first->as<wire::Follow>().lease_id, 5U);
    EXPECT_EQ(first->as<wire::Follow>().have_room, 0U);
    wire::FollowReply some;
    some.available = 4;
    some.segments = {segment(2, 10, wire::SegmentKind::kStaging)};
    some.extents = {{2, 0, 3}, {2, 6, 4}};
    some.hit.status = static_cast<std::uint32_t>(Errc::kNotFound);
    s.reply(*first, some, {staging.borrow()});
    const auto second = s.receive();
    EXPECT_EQ(second->as<wire::Follow>().have_bytes, 4U);
    EXPECT_EQ(second->as<wire::Follow>().have_room, 7U);
    wire::FollowReply end;
    end.state = static_cast<std::uint8_t>(wire::FollowState::kCommitted);
    end.available = 7;
    end.segments = {segment(3, 12, wire::SegmentKind::kFile)};
    end.hit = item(6, {{3, 0, 7}});
    s.reply(*second, end, {final_place.borrow()});
    while (s.receive()) continue;
  });
  auto followed = m.client->reserve_or_follow({.key = "k"});
  ASSERT_TRUE(followed) << describe(followed.error());
  Follower follower = std::get<Follower>(std::move(*followed));
  std::string body(20, '\0');
  const auto room = std::as_writable_bytes(std::span(body));
  auto count = follower.read(0, room, 5s);
  ASSERT_TRUE(count) << describe(count.error());
  EXPECT_EQ(body.substr(0, *count), "0126");
  count = follower.read(4, room, 5s);
  ASSERT_TRUE(count) << describe(count.error());
  EXPECT_EQ(body.substr(0, *count), "456");
  EXPECT_TRUE(follower.committed());
  count = follower.read(7, room, 5s);
  ASSERT_TRUE(count);
  EXPECT_EQ(*count, 0U);
  const auto lease = std::move(follower).lease(0ms);
  ASSERT_TRUE(lease) << describe(lease.error());
  EXPECT_EQ(lease->size(), 7U);
  m.client->close();
}

// The object's place is asked for once more, and that is not answered in time.
TEST(Follower, IsNotAtTheEndBeforeItHasWhatLiesThere) {
  const UniqueFd staging = file_with("0123");
  const UniqueFd final_place = file_with("0123456");
  Meeting m([&](FakeServer& s) {
    wire::ReserveReply following;
    following.outcome = static_cast<std::uint8_t>(wire::ReserveOutcome::kFollowing);
    following.hit.lease_id = 5;
    following.hit.info.length = wire::kUnknownLength;
    s.reply(*s.receive(), following);
    wire::FollowReply some;
    some.available = 4;
    some.segments = {segment(2, 4, wire::SegmentKind::kStaging)};
    some.extents = {{2, 0, 4}};
    some.hit.status = static_cast<std::uint32_t>(Errc::kNotFound);
    s.reply(*s.receive(), some, {staging.borrow()});
    wire::FollowReply end;
    end.state = static_cast<std::uint8_t>(wire::FollowState::kCommitted);
    end.available = 4;  // of the staging; the rest was never announced
    end.segments = {segment(3, 7, wire::SegmentKind::kFile, false, false)};
    end.hit = item(6, {{3, 0, 7}});
    s.reply(*s.receive(), end);
    const auto describe_it = s.receive();
    EXPECT_EQ(describe_it->header.type, wire::Type::kDescribe);
    s.fail(*describe_it, Errc::kTimeout, "busy");
    const auto given_back = s.receive();
    EXPECT_EQ(given_back->header.type, wire::Type::kRelease);
    EXPECT_EQ(given_back->as<wire::Release>().leases, std::vector<std::uint64_t>{6});
    const auto again = s.receive();
    EXPECT_EQ(again->header.type, wire::Type::kFollow);
    EXPECT_EQ(again->as<wire::Follow>().have_bytes, 4U);
    EXPECT_EQ(again->as<wire::Follow>().have_room, 4U);
    end.segments = {segment(3, 7, wire::SegmentKind::kFile)};
    end.hit = item(8, {{3, 0, 7}});
    s.reply(*again, end, {final_place.borrow()});
    while (s.receive()) continue;
  });
  auto followed = m.client->reserve_or_follow({.key = "k"});
  ASSERT_TRUE(followed) << describe(followed.error());
  Follower follower = std::get<Follower>(std::move(*followed));
  std::string body(20, '\0');
  const auto room = std::as_writable_bytes(std::span(body));
  auto count = follower.read(0, room, 5s);
  ASSERT_TRUE(count) << describe(count.error());
  EXPECT_EQ(body.substr(0, *count), "0123");
  count = follower.read(4, room, 5s);
  ASSERT_FALSE(count) << "it ended after " << *count << " more";
  EXPECT_EQ(count.error().code, Errc::kTimeout);
  EXPECT_FALSE(follower.committed());
  count = follower.read(4, room, 5s);
  ASSERT_TRUE(count) << describe(count.error());
  EXPECT_EQ(body.substr(0, *count), "456");
  EXPECT_TRUE(follower.committed());
  m.client->close();
}

TEST(Follower, LearnsThatNothingCameAndThatTheWriterDied) {
  Meeting m([](FakeServer& s) {
    wire::ReserveReply following;
    following.outcome = static_cast<std::uint8_t>(wire::ReserveOutcome::kFollowing);
    s.reply(*s.receive(), following);
    wire::FollowReply nothing;
    nothing.hit.status = static_cast<std::uint32_t>(Errc::kNotFound);
    s.reply(*s.receive(), nothing);
    nothing.state = static_cast<std::uint8_t>(wire::FollowState::kAborted);
    s.reply(*s.receive(), nothing);
    while (s.receive()) continue;
  });
  auto followed = m.client->reserve_or_follow({.key = "k"});
  ASSERT_TRUE(followed);
  auto& follower = std::get<Follower>(*followed);
  std::byte one{};
  EXPECT_EQ(follower.read(0, {&one, 1}, 0ms).error().code, Errc::kTimeout);
  EXPECT_EQ(follower.read(0, {&one, 1}, 5s).error().code, Errc::kNotFound);
  EXPECT_EQ(std::move(follower).lease(5s).error().code, Errc::kNotFound);
  m.client->close();
}

}  // namespace
}  // namespace om::client
