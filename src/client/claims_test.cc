// Claims: had without a message where nobody has the key, ended without one where nobody waits, and
// left to the daemon from the moment on at which it has been sent what ends them. The daemon is a
// script; what it shares is written here.
#include "client/claims.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/board.h"
#include "base/claims.h"
#include "client/client_testing.h"
#include "objmapper/client.h"
#include "posix/file.h"
#include "posix/mapping.h"
#include "posix/memfd.h"

namespace om::client {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kSeed = 99;
constexpr std::uint64_t kOwner = 5;
constexpr std::uint64_t kClaimsSegment = 3;
constexpr std::size_t kClaimsSegmentBytes = 65536;

struct Grants {
  bool claims = true;
  std::uint64_t counters = 64;
  std::uint32_t owner = kOwner;
};

class ClaimsDaemon {
 public:
  explicit ClaimsDaemon(Grants grants = {})
      : grants_(grants),
        board_file_(*make_memfd("board", kBoardBytes)),
        claims_file_(*make_memfd("claims", sizeof(claims::Table))),
        page_file_(*make_memfd("page", sizeof(board::HazardPage))),
        segment_file_(*make_memfd("segment", kClaimsSegmentBytes)),
        board_(*Mapping::of(board_file_.borrow(), 0, kBoardBytes, Access::kReadWrite)),
        claims_(*Mapping::of(claims_file_.borrow(), 0, sizeof(claims::Table), Access::kReadWrite)) {
    header().sets = 1;
    header().seed = kSeed;
    header().counters = grants.counters;
    header().alive = 1;
    header().magic = board::kMagic;
    server_.emplace([this](FakeServer& server) { serve(server); });
    auto connected = connect_to(*server_);
    EXPECT_TRUE(connected) << describe(connected.error());
    client.emplace(*std::move(connected));
  }
  ClaimsDaemon(const ClaimsDaemon&) = delete;
  ClaimsDaemon& operator=(const ClaimsDaemon&) = delete;
  ~ClaimsDaemon() {
    client.reset();
    server_->join();
  }

  board::Header& header() { return *reinterpret_cast<board::Header*>(board_.data()); }
  claims::Counter& counter(const std::string& key) {
    return reinterpret_cast<claims::Counter*>(
        board_.data() + board::kHeaderBytes +
        board::kSetBytes)[claims::counter_of(board::hash(kSeed, key), 64)];
  }
  claims::Word& word(const std::string& key) {
    return reinterpret_cast<claims::Table*>(claims_.data())->of(board::hash(kSeed, key));
  }
  static std::uint64_t mine(const std::string& key) {
    return claims::word_of(board::hash(kSeed, key), kOwner);
  }
  // Since the last time.
  std::vector<std::string> messages() {
    EXPECT_TRUE(client->status());
    const std::lock_guard lock(mutex_);
    return std::exchange(messages_, {});
  }
  using Messages = std::vector<std::string>;

  std::optional<Client> client;
  std::atomic<bool> refuse{false};

 private:
  static constexpr std::size_t kBoardBytes = board::kHeaderBytes + board::kSetBytes + 64;

  void note(std::string text) {
    const std::lock_guard lock(mutex_);
    messages_.push_back(std::move(text));
  }
  std::vector<BorrowedFd> once() {
    if (std::exchange(told_, true)) return {};
    return {segment_file_.borrow()};
  }
  void serve(FakeServer& server) {
    const auto hello = server.receive();
    if (!hello) return;
    EXPECT_NE(hello->as<wire::Hello>().features & wire::kFeatureClaims, 0U);
    const UniqueFd lease_file = *make_memfd("leases", 0);
    const UniqueFd shown = *reopen(board_file_.borrow(), O_RDONLY);
    wire::HelloReply answer;
    answer.may_read = answer.may_write = 1;
    answer.with_lease_file = 1;
    answer.features = wire::kFeatureBoard | wire::kFeatureRoom;
    std::vector<BorrowedFd> descriptors{lease_file.borrow(), shown.borrow(), page_file_.borrow()};
    if (grants_.claims) {
      answer.features |= wire::kFeatureClaims;
      answer.owner = grants_.owner;
      descriptors.push_back(claims_file_.borrow());
    }
    server.reply(*hello, answer, descriptors);
    while (const auto request = server.receive()) answer_to(server, *request);
  }
  void answer_to(FakeServer& server, const FakeServer::Request& request) {
    if (request.header.type == wire::Type::kReserve) {
      const auto reserve = request.as<wire::Reserve>();
      note("reserve " + reserve.key + " " + std::to_string(reserve.flags));
      if (refuse.load()) return server.fail(request, Errc::kNoSpace, "the tier is full");
      wire::ReserveReply reply;
      reply.put_id = 7;
      const auto descriptors = once();
      reply.segments = {segment(kClaimsSegment, kClaimsSegmentBytes, wire::SegmentKind::kMemory,
                                true, !descriptors.empty())};
      reply.extents = {{kClaimsSegment, 0, 4096}};
      server.reply(request, reply, descriptors);
    } else if (request.header.type == wire::Type::kRoom) {
      wire::RoomReply reply;
      reply.room_id = 8;
      const auto descriptors = once();
      reply.segments = {segment(kClaimsSegment, kClaimsSegmentBytes, wire::SegmentKind::kMemory,
                                true, !descriptors.empty())};
      reply.extents = {{kClaimsSegment, 0, kClaimsSegmentBytes}};
      server.reply(request, reply, descriptors);
    } else if (request.header.type == wire::Type::kPut) {
      wire::PutReply reply;
      for (const wire::PutBody& body : request.as<wire::Put>().bodies) {
        note("put " + body.key + " " + std::to_string(body.flags));
        if (refuse.load())
          reply.items.push_back({static_cast<std::uint32_t>(Errc::kNoSpace), 0, 0});
        else
          reply.items.push_back({0, 1, 2});
      }
      server.reply(request, reply);
    } else if (request.header.type == wire::Type::kCommit) {
      note("commit " + std::to_string(request.as<wire::Commit>().put_id));
      server.reply(request, wire::CommitReply{1, 2});
    } else if (request.header.type == wire::Type::kUnclaim) {
      note("unclaim " + request.as<wire::Unclaim>().key);
    } else if (request.header.type == wire::Type::kAbort) {
      note("abort " + std::to_string(request.as<wire::Abort>().put_id));
      server.reply(request, wire::Empty{});
    } else if (request.header.type == wire::Type::kStatus) {
      server.reply(request, wire::StatusReply{});
    }
  }

  const Grants grants_;
  UniqueFd board_file_;
  UniqueFd claims_file_;
  UniqueFd page_file_;
  UniqueFd segment_file_;
  Mapping board_;
  Mapping claims_;
  bool told_ = false;
  std::mutex mutex_;
  Messages messages_;  // guarded by mutex_
  std::optional<FakeServer> server_;
};
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
       {claims::word_of(board::hash(kSeed, "k"), kOwner + 1), std::uint64_t{1}}) {
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
  for (const Grants grants :
       {Grants{false, 64, kOwner}, Grants{true, 0, kOwner}, Grants{true, 128, kOwner},
        Grants{true, 48, kOwner}, Grants{true, 64, 0}, Grants{true, 64, 32768}}) {
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
