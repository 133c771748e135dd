// How a put ends: with a commit that nobody waits for, with a refresh instead, or not at all, where
// what was written does not fit what was said.
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "client/client_testing.h"
#include "objmapper/client.h"
#include "posix/memfd.h"

namespace om::client {
namespace {

TEST(Writer, CommitsWithoutWaiting) {
  const UniqueFd staging = *make_memfd("staging", 32);
  std::promise<void> go;
  std::promise<std::string> said_first;
  Meeting m([&](FakeServer& s) {
    for (std::uint64_t put = 1; put <= 3; ++put) {
      const auto request = s.receive();
      wire::ReserveReply reply;
      reply.put_id = put;
      reply.segments = {segment(2, 32, wire::SegmentKind::kStaging, true)};
      reply.extents = {{2, 0, 4}};
      s.reply(*request, reply, {staging.borrow()});
      if (put == 2) said_first.set_value(s.receive()->as<wire::Amend>().metadata);
      const auto commit = s.receive();
      if (put == 1)
        s.reply(*commit, wire::CommitReply{99, 1});
      else if (put == 2)
        s.fail(*commit, Errc::kNotFound, "removed");
    }
    go.get_future().wait();
    s.hang_up();
  });
  std::vector<std::string> said;
  const auto say = [&said](Result<PutResult> done) {
    said.push_back(done ? std::to_string(done->object_id) : describe(done.error()));
  };
  for (int i = 0; i < 3; ++i) {
    PutOptions options;
    options.key = "k";
    if (i != 1) options.length = 4;
    auto writer = m.client->reserve(options);
    ASSERT_TRUE(writer) << describe(writer.error());
    ASSERT_TRUE(writer->write(std::as_bytes(std::span("1234", 4))));
    std::optional<Amendment> last;
    if (i == 1) last = Amendment{4, "what it is", {}, 0};
    std::move(*writer).commit(std::move(last), say);
  }
  EXPECT_EQ(said_first.get_future().get(), "what it is");
  // The first two came before the third reservation, whose answer this thread has read; the last
  // is over with the connection.
  ASSERT_EQ(said.size(), 2U);
  EXPECT_EQ(said[0], "99");
  EXPECT_NE(said[1].find("removed"), std::string::npos);
  go.set_value();
  EXPECT_FALSE(m.client->next_event(std::chrono::seconds(10)));
  ASSERT_EQ(said.size(), 3U);
}

TEST(Writer, RefreshesInsteadOfCommitting) {
  std::promise<wire::Refresh> said;
  std::promise<wire::Type> ended;
  std::promise<wire::Reserve> reserved;
  Meeting m([&](FakeServer& s) {
    for (std::uint64_t put = 1; put <= 2; ++put) {
      const auto request = s.receive();
      if (put == 1) reserved.set_value(request->as<wire::Reserve>());
      wire::ReserveReply reply;
      reply.put_id = put;
      s.reply(*request, reply);
      const auto next = s.receive();
      if (put == 2) return ended.set_value(next->header.type);
      said.set_value(next->as<wire::Refresh>());
      s.reply(*next, wire::CommitReply{9, 1});
    }
  });
  PutOptions options;
  options.key = "k";
  options.length = 0;
  options.stale_object_id = 9;
  options.stale_revision = 4;
  std::optional<std::uint64_t> refreshed;
  auto writer = m.client->reserve(options);
  ASSERT_TRUE(writer) << describe(writer.error());
  EXPECT_EQ(reserved.get_future().get().stale_revision, 4U);
  std::move(*writer).refresh(9, Amendment{{}, "meta", {"tag"}, 7},
                             [&](const auto& done) { refreshed = done ? done->object_id : 0; });
  const wire::Refresh words = said.get_future().get();
  EXPECT_EQ(words.put_id, 1U);
  EXPECT_EQ(words.object_id, 9U);
  EXPECT_EQ(words.expires_ns, 7U);
  EXPECT_EQ(words.metadata, "meta");
  EXPECT_EQ(words.tags, std::vector<std::string>{"tag"});
  // Its answer is read by whoever waits next. What breaks a limit is not sent.
  writer = m.client->reserve(options);
  ASSERT_TRUE(writer) << describe(writer.error());
  EXPECT_EQ(refreshed, 9U);
  std::optional<Errc> code;
  std::move(*writer).refresh(9, Amendment{{}, {}, {""}, 0}, [&](const auto& done) {
    code = done ? Errc::kOk : done.error().code;
  });
  EXPECT_EQ(code, Errc::kMalformed);
  writer = Writer();
  EXPECT_EQ(ended.get_future().get(), wire::Type::kAbort);
}

TEST(Writer, DoesNotCommitWhatItsLastWordsDoNotFit) {
  const UniqueFd staging = *make_memfd("staging", 32);
  std::promise<wire::Type> ended;
  Meeting m([&](FakeServer& s) {
    const auto request = s.receive();
    wire::ReserveReply reply;
    reply.put_id = 1;
    reply.segments = {segment(2, 32, wire::SegmentKind::kStaging, true)};
    reply.extents = {{2, 0, 8}};
    s.reply(*request, reply, {staging.borrow()});
    ended.set_value(s.receive()->header.type);
  });
  auto writer = m.client->reserve({.key = "k"});
  ASSERT_TRUE(writer) << describe(writer.error());
  ASSERT_TRUE(writer->write(std::as_bytes(std::span("1234", 4))));
  std::optional<Errc> code;
  std::move(*writer).commit(Amendment{5, {}, {}, 0}, [&](const Result<PutResult>& done) {
    code = done ? Errc::kOk : done.error().code;
  });
  EXPECT_EQ(code, Errc::kMalformed);
  writer = Writer();
  EXPECT_EQ(ended.get_future().get(), wire::Type::kAbort);
}

TEST(Writer, ThatIsShortOfItsLengthDoesNotCommit) {
  Meeting m([](FakeServer& s) {
    const UniqueFd staging = *make_memfd("staging", 10);
    wire::ReserveReply reply;
    reply.put_id = 1;
    reply.segments = {segment(2, 10, wire::SegmentKind::kStaging, true)};
    reply.extents = {{2, 0, 10}};
    s.reply(*s.receive(), reply, {staging.borrow()});
    EXPECT_EQ(s.receive()->header.type, wire::Type::kAbort);
  });
  auto writer = m.client->reserve({.key = "k", .length = 10});
  ASSERT_TRUE(writer);
  EXPECT_EQ(std::move(*writer).commit().error().code, Errc::kMalformed);
}

}  // namespace
}  // namespace om::client
