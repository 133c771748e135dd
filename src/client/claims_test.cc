// Claims: had without a message where nobody has the key, ended without one where nobody waits, and
// left to the daemon from the moment on at which it has been sent what ends them.
#include "client/claims.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/board.h"
#include "base/claims.h"
#include "client/claims_testing.h"
#include "objmapper/client.h"

namespace om::client {
namespace {

using namespace std::chrono_literals;

using Messages = ClaimsDaemon::Messages;

PutOptions of_key(const std::string& key) {
  PutOptions options;
  options.key = key;
  options.length = 3;
  return options;
}

TEST(Claims, AreHadAndEndedWithoutAMessage) {
  ClaimsDaemon daemon;
  {
    auto claim = daemon.client->claim("k");
    ASSERT_TRUE(claim);
    EXPECT_EQ(daemon.word("k").load(), ClaimsDaemon::mine("k"));
    EXPECT_FALSE(claim->wanted());
    EXPECT_FALSE(daemon.client->claim("k"));  // by the same connection neither
    const Claim moved = *std::move(claim);
    EXPECT_EQ(daemon.word("k").load(), ClaimsDaemon::mine("k"));
    claim = std::nullopt;
    EXPECT_EQ(daemon.word("k").load(), ClaimsDaemon::mine("k"));
  }
  EXPECT_EQ(daemon.word("k").load(), 0U);
  EXPECT_TRUE(daemon.client->claim("k"));
  EXPECT_EQ(daemon.messages(), Messages());
}

TEST(Claims, AreNotHadOfWhatIsKnownOrTaken) {
  ClaimsDaemon daemon;
  daemon.counter("k") = 1;
  EXPECT_FALSE(daemon.client->claim("k"));
  daemon.counter("k") = 0;
  for (const std::uint64_t there :
       {claims::word_of(board::hash(kClaimsSeed, "k"), kClaimsOwner + 1), std::uint64_t{1}}) {
    daemon.word("k") = there;
    EXPECT_FALSE(daemon.client->claim("k"));
    EXPECT_EQ(daemon.word("k").load(), there);
  }
  daemon.word("k") = 0;
  for (const std::string& key : {std::string(), std::string("a\0b", 3), std::string(9000, 'k')})
    EXPECT_FALSE(daemon.client->claim(key));
  EXPECT_EQ(daemon.messages(), Messages());
  daemon.header().alive = 0;
  EXPECT_FALSE(daemon.client->claim("k"));
  EXPECT_EQ(daemon.word("k").load(), 0U);
  daemon.header().alive = 1;
  EXPECT_TRUE(daemon.client->claim("k"));
  daemon.client->close();
  EXPECT_FALSE(daemon.client->claim("k"));
}

TEST(Claims, AreNotHadWhereTheDaemonDoesNotSay) {
  for (const Grants grants : {Grants{false, 64, kClaimsOwner}, Grants{true, 0, kClaimsOwner},
                              Grants{true, 128, kClaimsOwner}, Grants{true, 48, kClaimsOwner},
                              Grants{true, 64, 0}, Grants{true, 64, 32768}}) {
    ClaimsDaemon daemon(grants);
    EXPECT_FALSE(daemon.client->claim("k"));
    EXPECT_EQ(daemon.word("k").load(), 0U);
  }
}

TEST(Claims, ThatSomebodyWaitsForEndWithAMessage) {
  ClaimsDaemon daemon;
  {
    const auto claim = daemon.client->claim("k");
    ASSERT_TRUE(claim);
    daemon.word("k") |= claims::kWanted;
    EXPECT_TRUE(claim->wanted());
    EXPECT_EQ(daemon.messages(), Messages());
  }
  EXPECT_EQ(daemon.word("k").load(), 0U);
  EXPECT_EQ(daemon.messages(), Messages{"unclaim k"});
  // Whoever overwrote it: the daemon may know of it.
  {
    const auto claim = daemon.client->claim("k");
    ASSERT_TRUE(claim);
    daemon.word("k") = 77;
    EXPECT_TRUE(claim->wanted());
  }
  EXPECT_EQ(daemon.word("k").load(), 77U);
  EXPECT_EQ(daemon.messages(), Messages{"unclaim k"});
}

TEST(Claims, ThatAreReservedAreTheDaemonsToEnd) {
  ClaimsDaemon daemon;
  for (const bool refuse : {false, true}) {
    daemon.refuse = refuse;
    auto claim = daemon.client->claim("k");
    ASSERT_TRUE(claim);
    {
      const auto writer = daemon.client->reserve(of_key("k"), *std::move(claim), 5s);
      EXPECT_EQ(writer.has_value(), !refuse);
      claim = std::nullopt;
      EXPECT_EQ(daemon.word("k").load(), ClaimsDaemon::mine("k"));
    }
    Messages want{"reserve k " + std::to_string(wire::kReserveDirect | wire::kReserveClaimed)};
    if (!refuse) want.emplace_back("abort 7");
    EXPECT_EQ(daemon.messages(), want);
    EXPECT_EQ(daemon.word("k").load(), ClaimsDaemon::mine("k"));
    daemon.word("k") = 0;
  }
  // Of another key, it only ends.
  auto claim = daemon.client->claim("k");
  ASSERT_TRUE(claim);
  EXPECT_EQ(daemon.client->reserve(of_key("l"), *std::move(claim), 5s).error().code,
            Errc::kMalformed);
  EXPECT_EQ(daemon.word("k").load(), 0U);
  EXPECT_EQ(daemon.messages(), Messages());
}

// A writer in room ahead that has taken the claim.
Writer writer_of(ClaimsDaemon& daemon, const std::string& key) {
  auto claim = daemon.client->claim(key);
  auto writer = daemon.client->reserve_ahead(of_key(key), 5s);
  EXPECT_TRUE(claim && writer && *writer);
  Writer ahead = **std::move(writer);
  ahead.take(*std::move(claim));
  claim = std::nullopt;
  EXPECT_EQ(daemon.word(key).load(), ClaimsDaemon::mine(key));
  const std::string body = "abc";
  EXPECT_TRUE(ahead.write(std::as_bytes(std::span(body))));
  return ahead;
}

TEST(Claims, ThatArePutAreTheDaemonsToEnd) {
  ClaimsDaemon daemon;
  const std::string flags = std::to_string(wire::kReserveClaimed);
  std::optional<Result<PutResult>> answer;
  writer_of(daemon, "k").commit({}, [&](Result<PutResult> done) { answer = std::move(done); });
  EXPECT_EQ(daemon.messages(), Messages{"put k " + flags});
  EXPECT_TRUE(answer && *answer);
  std::vector<Writer> two;
  for (const char* key : {"l", "m"}) two.push_back(writer_of(daemon, key));
  for (const auto& done : commit(std::move(two))) EXPECT_TRUE(done);
  EXPECT_EQ(daemon.messages(), (Messages{"put l " + flags, "put m " + flags}));
  for (const char* key : {"k", "l", "m"})
    EXPECT_EQ(daemon.word(key).load(), ClaimsDaemon::mine(key));
}

TEST(Claims, OfCommitsThatAreKeptAndRefusedAreTheDaemonsToEnd) {
  ClaimsDaemon daemon;
  const std::string flags = std::to_string(wire::kReserveClaimed);
  daemon.client->defer(1h);
  std::vector<std::string> told;
  for (const char* key : {"k", "l"})
    writer_of(daemon, key).commit({}, [&told, key](const Result<PutResult>& done) {
      told.push_back(std::string(key) + (done ? " ok" : " ") +
                     (done ? "" : to_string(done.error().code)));
    });
  EXPECT_TRUE(told.empty());
  for (const char* key : {"k", "l"}) EXPECT_FALSE(daemon.client->claim(key));
  daemon.refuse = true;
  // Before what is asked next, each once; and nobody says anything of the claims beside.
  EXPECT_EQ(daemon.messages(), (Messages{"put k " + flags, "put l " + flags}));
  EXPECT_EQ(told, (std::vector<std::string>{"k no space", "l no space"}));
  for (const char* key : {"k", "l"}) {
    EXPECT_EQ(daemon.word(key).load(), ClaimsDaemon::mine(key));
    daemon.word(key) = 0;
  }
  // Now they may be claimed again, and their bytes were not the room's any more.
  daemon.refuse = false;
  for (const char* key : {"k", "l"})
    writer_of(daemon, key).commit({}, [&told](const Result<PutResult>& done) {
      told.emplace_back(done ? "ok" : "refused");
    });
  EXPECT_EQ(daemon.client->flush(), 4U);
  EXPECT_EQ(daemon.messages(), (Messages{"put k " + flags, "put l " + flags}));
  EXPECT_EQ(told, (std::vector<std::string>{"k no space", "l no space", "ok", "ok"}));
}

// The daemon has counted none of these keys, as one that has not heard of them yet.
TEST(Claims, AreNotHadOfWhatThisConnectionHasPutAndHasNoAnswerFor) {
  ClaimsDaemon daemon;
  daemon.client->defer(1h);
  auto reserved = daemon.client->reserve(of_key("r"), 5s);
  auto ahead = daemon.client->reserve_ahead(of_key("a"), 5s);
  ASSERT_TRUE(reserved && ahead && *ahead);
  int answers = 0;
  for (Writer* const writer : {&*reserved, &**ahead}) {
    const std::string body = "abc";
    ASSERT_TRUE(writer->write(std::as_bytes(std::span(body))));
    std::move(*writer).commit({}, [&answers](const Result<PutResult>& done) {
      EXPECT_TRUE(done);
      ++answers;
    });
  }
  for (const char* key : {"r", "a"}) EXPECT_FALSE(daemon.client->claim(key)) << key;
  EXPECT_TRUE(daemon.client->claim("other"));
  EXPECT_EQ(answers, 0);
  EXPECT_EQ(daemon.messages(),
            (Messages{"reserve r " + std::to_string(wire::kReserveDirect), "commit 7", "put a 0"}));
  EXPECT_EQ(answers, 2);
  for (const char* key : {"r", "a"}) EXPECT_TRUE(daemon.client->claim(key)) << key;
}

TEST(Claims, EndWithTheWriterThatIsDropped) {
  ClaimsDaemon daemon;
  { const Writer dropped = writer_of(daemon, "k"); }
  EXPECT_EQ(daemon.word("k").load(), 0U);
  EXPECT_EQ(daemon.messages(), Messages());
  {
    const Writer dropped = writer_of(daemon, "k");
    daemon.word("k") |= claims::kWanted;
  }
  EXPECT_EQ(daemon.word("k").load(), 0U);
  EXPECT_EQ(daemon.messages(), Messages{"unclaim k"});
  // Of another key, and with another writer: at once.
  auto ahead = daemon.client->reserve_ahead(of_key("other"), 5s);
  ASSERT_TRUE(ahead && *ahead);
  auto reserved = daemon.client->reserve(of_key("k"), 5s);
  ASSERT_TRUE(reserved);
  for (Writer* const writer : {&**ahead, &*reserved}) {
    auto claim = daemon.client->claim("k");
    ASSERT_TRUE(claim);
    writer->take(*std::move(claim));
    EXPECT_EQ(daemon.word("k").load(), 0U);
  }
}

}  // namespace
}  // namespace om::client
