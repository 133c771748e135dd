// Memory that ends in the middle of a request: whoever asked is told, and the connection knows of
// nobody any more who is not there. Or at the end of what the daemon gave: the program goes on, and
// the daemon has it back. A program of its own, for it has an operator new of its own, which fails
// where a test says so.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/claims.h"
#include "base/release_ring.h"
#include "client/claims_testing.h"
#include "client/client_testing.h"
#include "client/connection.h"
#include "client/deadline.h"
#include "objmapper/client.h"
#include "posix/mapping.h"
#include "posix/memfd.h"

namespace {

// Of this thread, until one fails. -1: none does.
thread_local long allocations_left = -1;
thread_local bool all_fail = false;  // from that one on
thread_local bool one_has_failed = false;

void* allocate(std::size_t bytes) noexcept {
  if (allocations_left == 0) {
    one_has_failed = true;
    if (!all_fail) allocations_left = -1;
    return nullptr;
  }
  if (allocations_left > 0) --allocations_left;
  return std::malloc(bytes == 0 ? 1 : bytes);
}

}  // namespace

// Not inlined: the compiler would see free() of what operator new has given.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* const memory = allocate(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  return allocate(bytes);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*bytes*/) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t& /*tag*/) noexcept {
  std::free(memory);
}

namespace om::client {
namespace {

using namespace std::chrono_literals;

enum class Fails { kOne, kAll };

// While it is there, one allocation of this thread fails, or all do: after so many that do not.
class LackOfMemory {
 public:
  explicit LackOfMemory(long after, Fails fails = Fails::kOne) {
    all_fail = fails == Fails::kAll;
    one_has_failed = false;
    allocations_left = after;
  }
  LackOfMemory(const LackOfMemory&) = delete;
  LackOfMemory& operator=(const LackOfMemory&) = delete;
  ~LackOfMemory() {
    allocations_left = -1;
    all_fail = false;
  }
  [[nodiscard]] bool came() const { return one_has_failed; }
};

std::shared_ptr<Connection> connection_to(FakeServer& server) {
  ConnectOptions options;
  options.timeout = 5s;
  auto started = Connection::start(UniqueFd::adopt(server.take_client_end()), options);
  EXPECT_TRUE(started) << describe(started.error());
  return started ? *std::move(started) : nullptr;
}

TEST(LackOfMemory, WhileARequestIsSentLeavesNobodyRegistered) {
  bool came = true;
  for (long after = 0; came; ++after) {
    SCOPED_TRACE(after);
    ASSERT_LT(after, 1000);
    FakeServer server([](FakeServer& s) {
      s.welcome();
      s.hang_up();
    });
    const auto connection = connection_to(server);
    ASSERT_NE(connection, nullptr);
    server.join();
    const wire::Stat request{std::string(100, 'k')};
    Call<wire::StatReply> waiting;
    {
      const LackOfMemory lack(after);
      try {
        (void)connection->begin(request, waiting, deadline_in(5s));
      } catch (const std::bad_alloc&) {
        EXPECT_TRUE(lack.came());
      }
      came = lack.came();
    }
    EXPECT_EQ(connection->under_way(), 0U);
  }
}

TEST(LackOfMemory, WhileManyAreCommittedLeavesNobodyRegistered) {
  bool came = true;
  for (long after = 0; came; ++after) {
    SCOPED_TRACE(after);
    ASSERT_LT(after, 10'000);
    FakeServer server([](FakeServer& s) {
      s.welcome();
      const UniqueFd file = file_with(std::string(4096, '.'));
      std::uint64_t puts = 0;
      while (const auto request = s.receive()) {
        if (request->header.type == wire::Type::kReserve) {
          wire::ReserveReply reply;
          reply.put_id = ++puts;
          reply.extents = {{3, 64 * puts, 2}};
          reply.segments = {segment(3, 4096, wire::SegmentKind::kMemory, true, puts == 1)};
          if (puts == 1)
            s.reply(*request, reply, {file.borrow()});
          else
            s.reply(*request, reply);
        } else if (request->header.type == wire::Type::kCommit) {
          s.reply(*request, wire::CommitReply{request->as<wire::Commit>().put_id, 1});
        } else if (request->header.type == wire::Type::kAbort) {
          s.reply(*request, wire::Empty{});
        }
      }
    });
    auto client = connect_to(server);
    ASSERT_TRUE(client);
    std::vector<Writer> writers;
    const std::string body = "ab";
    for (int i = 0; i < 3; ++i) {
      auto writer = client->reserve({.key = "k" + std::to_string(i), .length = body.size()});
      ASSERT_TRUE(writer) << describe(writer.error());
      ASSERT_TRUE(writer->write(std::as_bytes(std::span(body))));
      writers.push_back(*std::move(writer));
    }
    {
      const LackOfMemory lack(after);
      try {
        (void)commit(std::move(writers));
      } catch (const std::bad_alloc&) {
        EXPECT_TRUE(lack.came());
      }
      came = lack.came();
    }
    // Tells all that it knows of: none of them has gone.
    client->close();
  }
}

TEST(LackOfMemory, ACallThatNobodyAwaitsIsForgottenAndSoIsItsAnswer) {
  std::promise<void> forgotten;
  FakeServer server([&](FakeServer& s) {
    s.welcome();
    const auto first = s.receive();
    forgotten.get_future().wait();
    s.reply(*first, wire::StatReply{});
    const auto second = s.receive();
    s.reply(*second, wire::StatReply{});
    (void)s.receive();
  });
  const auto connection = connection_to(server);
  ASSERT_NE(connection, nullptr);
  {
    Call<wire::StatReply> begun;
    ASSERT_TRUE(connection->begin(wire::Stat{"first"}, begun, deadline_in(5s)));
    EXPECT_EQ(connection->under_way(), 1U);
  }
  EXPECT_EQ(connection->under_way(), 0U);
  forgotten.set_value();
  Call<wire::StatReply> other;
  EXPECT_TRUE(connection->call(wire::Stat{"second"}, other));
  EXPECT_EQ(connection->under_way(), 0U);
  connection->close();
}

// A daemon that gives whatever it is asked for, and writes down what it hears.
class Lender {
 public:
  using Heard = std::vector<std::string>;
  explicit Lender(std::uint64_t room_bytes = 1024, bool with_page = false)
      : room_bytes_(room_bytes),
        with_page_(with_page),
        file_(file_with(std::string(kBytes, '.'))),
        page_file_(*make_memfd("page", kReleaseRingBytes)),
        page_(*Mapping::of(page_file_.borrow(), 0, kReleaseRingBytes, Access::kReadWrite)) {
    server_.emplace([this](FakeServer& s) { serve(s); });
    auto connected = connect_to(*server_);
    EXPECT_TRUE(connected) << describe(connected.error());
    client.emplace(*std::move(connected));
  }
  Lender(const Lender&) = delete;
  Lender& operator=(const Lender&) = delete;
  ~Lender() { stop(); }

  // The client goes, and with it the connection, if nobody else has it. What was heard.
  Heard end() {
    stop();
    return heard_;
  }
  // What has come by the page.
  std::vector<std::uint64_t> released() {
    std::vector<std::uint64_t> leases;
    std::uint32_t taken = 0;
    reinterpret_cast<ReleaseRing*>(page_.data())->take(taken, [&](std::uint64_t lease) {
      leases.push_back(lease);
    });
    return leases;
  }

  std::optional<Client> client;

 private:
  static constexpr std::size_t kBytes = 65536;
  static constexpr std::uint64_t kToWrite = 3;
  static constexpr std::uint64_t kToRead = 4;

  void stop() {
    // Of one that is over the daemon hears to the end, whatever we have not read.
    if (client && client->closed()) server_->join();
    client.reset();
    server_->join();
  }
  void serve(FakeServer& s) {
    const UniqueFd lease_file = *make_memfd("leases", 0);
    const auto hello = s.receive();
    if (!hello) return;
    wire::HelloReply answer;
    answer.may_read = answer.may_write = 1;
    answer.with_lease_file = 1;
    answer.features = wire::kFeatureRoom;
    std::vector<BorrowedFd> descriptors{lease_file.borrow()};
    if (with_page_) {
      answer.features |= wire::kFeatureReleasePage;
      descriptors.push_back(page_file_.borrow());
    }
    s.reply(*hello, answer, descriptors);
    while (const auto request = s.receive()) answer_to(s, *request);
  }
  // With the segment, and its descriptor where it is named for the first time.
  template <class Reply>
  void give(FakeServer& s, const FakeServer::Request& to, Reply& reply, bool to_write) {
    const bool is_new = !std::exchange(to_write ? told_to_write_ : told_to_read_, true);
    reply.segments = {segment(to_write ? kToWrite : kToRead, kBytes, wire::SegmentKind::kMemory,
                              to_write, is_new)};
    std::vector<BorrowedFd> descriptors;
    if (is_new) descriptors.push_back(file_.borrow());
    s.reply(to, reply, descriptors);
  }
  void answer_to(FakeServer& s, const FakeServer::Request& request) {
    const wire::Type type = request.header.type;
    if (type == wire::Type::kGet) {
      heard_.emplace_back("get");
      wire::GetReply reply;
      reply.items = {item(++leases_, {{kToRead, 0, 10}})};
      give(s, request, reply, false);
    } else if (type == wire::Type::kReserve) {
      heard_.emplace_back("reserve");
      wire::ReserveReply reply;
      if ((request.as<wire::Reserve>().flags & wire::kReserveFollow) != 0) {
        reply.outcome = static_cast<std::uint8_t>(wire::ReserveOutcome::kFollowing);
        reply.hit = item(++leases_, {});
        return s.reply(request, reply);
      }
      reply.put_id = 9;
      reply.extents = {{kToWrite, kBytes / 2, 1024}};
      give(s, request, reply, true);
    } else if (type == wire::Type::kRoom) {
      heard_.emplace_back("room");
      wire::RoomReply reply;
      reply.room_id = 7 + rooms_;
      reply.extents = {{kToWrite, rooms_ * room_bytes_, room_bytes_}};
      reply.first_object = 500 + 10 * rooms_;
      reply.first_lease = 600 + 10 * rooms_;
      reply.leases = 4;
      ++rooms_;
      give(s, request, reply, true);
    } else if (type == wire::Type::kPut) {
      wire::PutReply reply;
      bool is_awaited = false;
      for (const wire::PutBody& body : request.as<wire::Put>().bodies) {
        const bool held_only = (body.flags & wire::kPutHeldOnly) != 0;
        is_awaited = is_awaited || !held_only;
        heard_.push_back((held_only ? "held " : "put ") + std::to_string(body.object_id));
        reply.items.push_back({0, body.object_id, 1});
      }
      if (is_awaited) s.reply(request, reply);
    } else if (type == wire::Type::kCommit) {
      heard_.push_back("commit " + std::to_string(request.as<wire::Commit>().put_id));
      s.reply(request, wire::CommitReply{1, 1});
    } else if (type == wire::Type::kAbort) {
      heard_.push_back("abort " + std::to_string(request.as<wire::Abort>().put_id));
    } else if (type == wire::Type::kRelease) {
      for (const std::uint64_t lease : request.as<wire::Release>().leases)
        heard_.push_back("release " + std::to_string(lease));
    } else if (type == wire::Type::kSubscribe) {
      heard_.emplace_back("subscribe");
      s.reply(request, wire::Empty{});
    } else if (type == wire::Type::kStat) {
      s.reply(request, wire::StatReply{});
    }
  }

  const std::uint64_t room_bytes_;
  const bool with_page_;
  UniqueFd file_;
  UniqueFd page_file_;
  Mapping page_;
  // The daemon's.
  std::uint64_t leases_ = 0;
  std::uint64_t rooms_ = 0;
  bool told_to_write_ = false;
  bool told_to_read_ = false;
  Heard heard_;
  std::optional<FakeServer> server_;
};
using Heard = Lender::Heard;

// Three in a room, the second of them held, and one that was reserved.
std::vector<Writer> writers_of(Client& client, std::optional<Lease>& lease) {
  const std::string body(100, 'b');
  std::vector<Writer> writers;
  for (int i = 0; i < 4; ++i) {
    PutOptions options;
    options.key = "k" + std::to_string(i);
    options.length = body.size();
    options.held = i == 1;
    std::optional<Writer> writer;
    if (i < 3)
      writer = *client.reserve_ahead(options, 5s);
    else
      writer = *client.reserve(options);
    if (options.held) lease = *writer->hold(body.size());
    EXPECT_TRUE(writer->write(std::as_bytes(std::span(body))));
    writers.push_back(*std::move(writer));
  }
  return writers;
}

TEST(LackOfMemory, WhileManyAreCommittedEndsThoseThatNothingComesOf) {
  for (const Fails fails : {Fails::kOne, Fails::kAll}) {
    bool came = true;
    for (long after = 0; came; ++after) {
      SCOPED_TRACE(after);
      ASSERT_LT(after, 10'000);
      Lender daemon;
      std::optional<Lease> lease;
      std::vector<Writer> writers = writers_of(*daemon.client, lease);
      {
        const LackOfMemory lack(after, fails);
        try {
          (void)commit(std::move(writers));
        } catch (const std::bad_alloc&) {
          // Where it can be told to each in its answer, it is.
        }
        came = lack.came();
      }
      const bool is_over = daemon.client->closed();
      // So that all answers are read that came.
      EXPECT_EQ(daemon.client->stat("k").has_value(), !is_over);
      ASSERT_TRUE(lease);
      EXPECT_EQ(lease->read_all()->size(), 100U);
      lease.reset();
      const Heard heard = daemon.end();
      const auto place = [&heard](const char* what) {
        return std::find(heard.begin(), heard.end(), what) - heard.begin();
      };
      const auto nowhere = static_cast<std::ptrdiff_t>(heard.size());
      // What is held is known before its room ends, or all ends together.
      const auto known = std::min(place("put 500"), place("held 500"));
      EXPECT_EQ(place("abort 7") == nowhere, is_over);
      EXPECT_TRUE(is_over || known < place("abort 7"));
      EXPECT_TRUE(is_over || std::min(place("commit 9"), place("abort 9")) < nowhere);
    }
  }
}

TEST(NoMemory, AtTheEndOfALeaseTakesNothingElseAlong) {
  Lender daemon;
  std::optional<Lease> first = *daemon.client->get("k");
  std::optional<Lease> second = *daemon.client->get("k");
  auto following = daemon.client->reserve_or_follow({.key = "k"});
  ASSERT_TRUE(following);
  std::optional<Follower> follower(std::get<Follower>(*std::move(following)));
  ASSERT_TRUE(first && second);
  {
    const LackOfMemory lack(0, Fails::kAll);
    first.reset();
    follower.reset();
  }
  EXPECT_FALSE(daemon.client->closed());
  EXPECT_TRUE(daemon.client->stat("k"));
  EXPECT_EQ(second->read_all()->size(), 10U);
  second.reset();
  EXPECT_EQ(daemon.end(), (Heard{"get", "get", "reserve", "release 2"}));
}

TEST(NoMemory, IsNotNeededForALeaseThatGoesBackByThePage) {
  Lender daemon(1024, true);
  std::optional<Lease> lease = *daemon.client->get("k");
  ASSERT_TRUE(lease);
  {
    const LackOfMemory lack(0, Fails::kAll);
    lease.reset();
  }
  EXPECT_EQ(daemon.released(), std::vector<std::uint64_t>{1});
  EXPECT_EQ(daemon.end(), Heard{"get"});
}

TEST(NoMemory, AtTheEndOfAWriterEndsTheConnection) {
  Lender daemon;
  auto reserved = daemon.client->reserve({.key = "k", .length = 4});
  ASSERT_TRUE(reserved) << describe(reserved.error());
  std::optional<Writer> writer(*std::move(reserved));
  {
    const LackOfMemory lack(0, Fails::kAll);
    writer.reset();
  }
  EXPECT_TRUE(daemon.client->closed());
  const auto later = daemon.client->stat("k");
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().sys_errno, ENOMEM);
  EXPECT_EQ(daemon.end(), Heard{"reserve"});
}

// Where the daemon heard of the room's end alone, it would give away what is held.
TEST(NoMemory, AtTheEndOfAWriterThatHoldsLeavesItsRoomToTheEndOfTheConnection) {
  Lender daemon;
  auto given = daemon.client->reserve_ahead({.key = "k", .length = 100, .held = true}, 5s);
  ASSERT_TRUE(given && *given);
  std::optional<Writer> writer = *std::move(given);
  const auto lease = writer->hold(100);
  ASSERT_TRUE(lease) << describe(lease.error());
  {
    const LackOfMemory lack(0, Fails::kAll);
    writer.reset();
  }
  EXPECT_TRUE(daemon.client->closed());
  EXPECT_EQ(lease->read_all()->size(), 100U);
  EXPECT_EQ(daemon.end(), Heard{"room"});
}

TEST(NoMemory, AtTheEndOfARoomEndsTheConnection) {
  Lender daemon(128);
  auto given = daemon.client->reserve_ahead({.key = "k", .length = 100}, 5s);
  ASSERT_TRUE(given && *given);
  std::optional<Writer> writer = *std::move(given);  // has all of the room
  {
    const LackOfMemory lack(0, Fails::kAll);
    writer.reset();
  }
  EXPECT_TRUE(daemon.client->closed());
  EXPECT_EQ(daemon.end(), (Heard{"room", "room"}));  // the next one was asked for
}

TEST(NoMemory, AtTheEndOfAClaimEndsTheConnectionWhereSomebodyWaits) {
  ClaimsDaemon daemon;
  for (const bool waits : {false, true}) {
    auto claim = daemon.client->claim("k");
    ASSERT_TRUE(claim);
    if (waits) daemon.word("k") |= claims::kWanted;
    {
      const LackOfMemory lack(0, Fails::kAll);
      claim.reset();
    }
    EXPECT_EQ(daemon.word("k").load(), 0U);
    EXPECT_EQ(daemon.client->closed(), waits);
  }
}

TEST(NoMemory, AtTheEndOfAClientEndsItsSubscriptionWithTheConnection) {
  Lender daemon;
  ASSERT_TRUE(daemon.client->subscribe(wire::kEventRemoved));
  std::optional<Lease> lease = *daemon.client->get("k");
  ASSERT_TRUE(lease);
  {
    const LackOfMemory lack(0, Fails::kAll);
    daemon.client.reset();
  }
  EXPECT_EQ(lease->read_all()->size(), 10U);
  lease.reset();
  EXPECT_EQ(daemon.end(), (Heard{"subscribe", "get"}));
}

TEST(NoMemory, AtTheEndOfAConnectionIsNoReasonNotToTellThoseWhoseCommitsItHas) {
  for (const bool deferred : {false, true}) {
    SCOPED_TRACE(deferred);
    Lender daemon;
    if (deferred) daemon.client->defer(1h);
    auto given = daemon.client->reserve_ahead({.key = "k", .length = 2, .held = true}, 5s);
    ASSERT_TRUE(given && *given);
    std::optional<Writer> writer = *std::move(given);
    auto lease = writer->hold(2);
    ASSERT_TRUE(lease) << describe(lease.error());
    lease->release();
    ASSERT_TRUE(writer->write(std::as_bytes(std::span("ab", 2))));
    std::vector<Errc> told;
    told.reserve(2);
    std::move(*writer).commit({}, [&told](const Result<PutResult>& done) {
      told.push_back(done ? Errc::kOk : done.error().code);
    });
    {
      const LackOfMemory lack(0, Fails::kAll);
      daemon.client.reset();
    }
    EXPECT_EQ(told, std::vector<Errc>{Errc::kUnavailable});
  }
}

}  // namespace
}  // namespace om::client
