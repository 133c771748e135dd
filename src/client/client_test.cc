// The client library against a daemon that does what each test wants, mostly wrong. What a real
// daemon makes of it: tests/cli. Here: the connection, its answers, regions and events. The rest
// has files of its own, all of them one program: lease_test.cc, writer_test.cc, commit_test.cc,
// room_test.cc, follower_test.cc, pool_test.cc.
#include "objmapper/client.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <limits>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/client_testing.h"
#include "client/connection.h"
#include "client/deadline.h"
#include "posix/file.h"
#include "posix/testing.h"

namespace om::client {
namespace {

using namespace std::chrono_literals;

// --- HELLO

TEST(Hello, SaysWhoTheDaemonIs) {
  FakeServer server([](FakeServer& s) {
    const auto hello = s.receive();
    EXPECT_EQ(hello->as<wire::Hello>().magic, wire::kMagic);
    EXPECT_EQ(hello->as<wire::Hello>().name, "test");
    wire::HelloReply answer;
    answer.daemon_epoch = 42;
    answer.may_read = 1;
    s.reply(*hello, answer);
  });
  auto client = connect_to(server);
  ASSERT_TRUE(client) << describe(client.error());
  EXPECT_EQ(client->daemon().epoch, 42U);
  EXPECT_TRUE(client->daemon().may_read);
  EXPECT_FALSE(client->daemon().may_write);
}

TEST(Hello, PassesOnAVersionThatIsNotSpoken) {
  FakeServer server([](FakeServer& s) { s.fail(*s.receive(), Errc::kUnsupported, "too old"); });
  auto client = connect_to(server);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::kUnsupported);
}

TEST(Hello, RefusesAnotherVersionThanItsOwn) {
  FakeServer server([](FakeServer& s) {
    wire::HelloReply answer;
    answer.version = 9;
    s.reply(*s.receive(), answer);
  });
  auto client = connect_to(server);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::kUnsupported);
}

TEST(Hello, IsUnavailableWhenTheDaemonHangsUp) {
  FakeServer server([](FakeServer& s) {
    (void)s.receive();
    s.hang_up();
  });
  auto client = connect_to(server);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::kUnavailable);
}

TEST(Hello, HasATimeLimit) {
  std::promise<void> finished;
  FakeServer server([&](FakeServer&) { finished.get_future().wait(); });
  const auto begin = std::chrono::steady_clock::now();
  auto client = connect_to(server, 50ms);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  finished.set_value();
}

TEST(Connect, ToNobodyIsUnavailable) {
  ConnectOptions options;
  options.socket = "/nonexistent/om.sock";
  auto client = Client::connect(options);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code, Errc::kUnavailable);
}

TEST(Connect, HasATimeLimitAlsoWhereItIsSaidToBeNone) {
  std::string directory = (std::filesystem::temp_directory_path() / "om-client-XXXXXX").string();
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  ConnectOptions options;
  options.socket = directory + "/s";
  options.timeout = 0ms;
  {
    const auto listener = listen_seqpacket(options.socket, 0600, 0);
    ASSERT_TRUE(listener);
    // Nobody accepts: the queue is full at once.
    std::vector<UniqueFd> queue;
    while (auto one = connect_seqpacket(options.socket, 50ms)) queue.push_back(*std::move(one));
    const auto client = Client::connect(options);
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().code, Errc::kUnavailable);
  }
  std::filesystem::remove_all(directory);
}

// --- replies that are none

class Nonsense : public testing::TestWithParam<std::pair<const char*, std::string>> {};

TEST_P(Nonsense, BreaksTheConnectionAndSaysSo) {
  Meeting m([](FakeServer& s) {
    const auto request = s.receive();
    if (!request) return;
    std::string packet = GetParam().second;
    // The request's own number, where there is room for one.
    if (packet.size() >= 16) std::memcpy(packet.data() + 8, &request->header.request_id, 8);
    s.send(packet);
    (void)s.receive();  // until the client closes
  });
  auto answer = m.client->get("k");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Errc::kMalformed) << describe(answer.error());
  EXPECT_TRUE(m.client->closed());
  EXPECT_FALSE(m.client->get("k"));  // and stays broken
}

std::string get_reply(const std::function<void(std::string&)>& spoil) {
  wire::GetReply reply;
  reply.items.push_back(item(1, {}));
  std::string packet = wire::encode_reply(wire::Type::kGet, 0, reply);
  spoil(packet);
  return packet;
}
std::string with_length(std::string packet) {
  const auto length = static_cast<std::uint32_t>(packet.size());
  std::memcpy(packet.data(), &length, sizeof length);
  return packet;
}

INSTANTIATE_TEST_SUITE_P(
    Packets, Nonsense,
    testing::Values(
        std::pair("OneByte", std::string("x")), std::pair("HalfAHeader", std::string(12, '\0')),
        std::pair("LengthBeyondThePacket",
                  get_reply([](std::string& p) { p[0] = char(p[0] + 1); })),
        std::pair("BodyCutShort",
                  with_length(get_reply([](std::string& p) { p.resize(p.size() - 3); }))),
        std::pair("BodyTooLong", with_length(get_reply([](std::string& p) { p += "more"; }))),
        std::pair("CountBeyondThePacket", get_reply([](std::string& p) { p[28] = '\x40'; })),
        std::pair("HugeCount",
                  get_reply([](std::string& p) { p.replace(28, 4, "\xff\xff\xff\xff"); })),
        std::pair("DescriptorsThatDidNotCome", get_reply([](std::string& p) { p[20] = 3; })),
        std::pair("ARequest", get_reply([](std::string& p) { p[6] = 0; }))),
    [](const auto& kind) { return kind.param.first; });

TEST(Reply, ToAnotherNumberOfKeysIsRefused) {
  Meeting m([](FakeServer& s) { s.reply(*s.receive(), wire::GetReply{}); });
  auto answer = m.client->get("k");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Errc::kMalformed);
}

TEST(Reply, WithBytesOutsideItsSegmentIsRefusedAndGivenBack) {
  std::promise<std::uint64_t> released;
  Meeting m([&](FakeServer& s) {
    const UniqueFd file = file_with("0123456789");
    wire::GetReply reply;
    reply.segments = {segment(1, 10, wire::SegmentKind::kMemory)};
    reply.items = {item(5, {{1, 8, 3}})};
    s.reply(*s.receive(), reply, {file.borrow()});
    released.set_value(s.receive()->as<wire::Release>().leases.at(0));
  });
  auto answer = m.client->get("k");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Errc::kMalformed);
  EXPECT_EQ(released.get_future().get(), 5U);
}

TEST(Reply, WithASegmentShorterThanSaidIsAnErrorNotADeath) {
  Meeting m([](FakeServer& s) {
    const UniqueFd file = file_with("0123");
    wire::GetReply reply;
    reply.segments = {segment(1, 1 << 20, wire::SegmentKind::kMemory)};
    reply.items = {item(5, {{1, 500'000, 10}})};
    s.reply(*s.receive(), reply, {file.borrow()});
    (void)s.receive();
  });
  auto lease = m.client->get("k");
  ASSERT_TRUE(lease);
  EXPECT_FALSE((*lease)->read_all());
}

TEST(Reply, ThatFailsCarriesItsReason) {
  Meeting m([](FakeServer& s) { s.fail(*s.receive(), Errc::kNoSpace, "the tier is full"); });
  auto answer = m.client->put({.key = "k"}, "body");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Errc::kNoSpace);
  EXPECT_EQ(answer.error().what, "the tier is full");
  EXPECT_FALSE(m.client->closed());
}

TEST(Daemon, ThatDiesEndsTheCallAndAllLaterOnes) {
  Meeting m([](FakeServer& s) {
    (void)s.receive();
    s.hang_up();
  });
  const auto begin = std::chrono::steady_clock::now();
  auto answer = m.client->get("k");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, Errc::kUnavailable);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  EXPECT_TRUE(m.client->closed());
  EXPECT_EQ(m.client->status().error().code, Errc::kUnavailable);
}

TEST(Daemon, ThatDiesEndsTheWaitsOfAllThreads) {
  std::atomic<int> arrived{0};
  Meeting m([&](FakeServer& s) {
    for (; arrived < 4; ++arrived) (void)s.receive();
    s.hang_up();
  });
  std::vector<std::thread> threads;
  threads.reserve(4);
  std::atomic<int> unavailable{0};
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      if (auto answer = m.client->stat("k"); !answer && answer.error().code == Errc::kUnavailable)
        ++unavailable;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(unavailable, 4);
}

TEST(Close, EndsTheWaitsOfOtherThreads) {
  std::promise<void> asked;
  Meeting m([&](FakeServer& s) {
    (void)s.receive();
    asked.set_value();
    (void)s.receive();
  });
  std::thread other([&] { EXPECT_EQ(m.client->stat("k").error().code, Errc::kUnavailable); });
  asked.get_future().wait();
  m.client->close();
  other.join();
}

// --- replies in any order, late ones

TEST(Replies, InAnyOrderFindTheirCallers) {
  constexpr int kThreads = 8;
  Meeting m([](FakeServer& s) {
    std::vector<FakeServer::Request> requests;
    requests.reserve(kThreads);
    for (int i = 0; i < kThreads; ++i) requests.push_back(*s.receive());
    std::ranges::reverse(requests);
    for (const auto& request : requests) {
      wire::StatReply reply;
      reply.info.metadata = request.as<wire::Stat>().key;
      s.reply(request, reply);
    }
  });
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  std::atomic<int> right{0};
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&, i] {
      const std::string key = "key" + std::to_string(i);
      auto info = m.client->stat(key);
      if (info && info->has_value() && (*info)->metadata == key) ++right;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, kThreads);
}

TEST(Replies, AreReadAlsoWhileSomebodyHasAskedAndDoesNotWaitYet) {
  std::promise<void> first_asked;
  std::promise<void> first_answered;
  FakeServer server([&](FakeServer& s) {
    s.welcome();
    const auto begun = s.receive();
    const auto first = s.receive();
    first_asked.set_value();
    const auto second = s.receive();
    // Until the second one waits, most likely. If it does not yet, it reads by itself.
    std::this_thread::sleep_for(50ms);
    s.reply(*first, wire::StatReply{});
    first_answered.get_future().wait();
    s.reply(*second, wire::StatReply{});
    s.reply(*begun, wire::StatReply{});
    (void)s.receive();
  });
  ConnectOptions options;
  options.timeout = 5s;
  const auto started = Connection::start(UniqueFd::adopt(server.take_client_end()), options);
  ASSERT_TRUE(started) << describe(started.error());
  Connection& connection = **started;
  Call<wire::StatReply> begun;
  ASSERT_TRUE(connection.begin(wire::Stat{"begun"}, begun, deadline_in(5s)));
  std::thread first([&] {
    Call<wire::StatReply> waiting;
    EXPECT_TRUE(connection.call(wire::Stat{"first"}, waiting));
    first_answered.set_value();
  });
  first_asked.get_future().wait();
  std::thread second([&] {
    Call<wire::StatReply> waiting;
    EXPECT_TRUE(connection.call(wire::Stat{"second"}, waiting));
  });
  first.join();
  second.join();
  EXPECT_TRUE(connection.await(begun, deadline_in(5s)));
}

// An answer for which there is no memory.
struct TooLarge {
  template <class A>
  void fields(A& /*a*/) {
    throw std::bad_alloc();
  }
};

TEST(Memory, ThatIsNotThereForAnAnswerEndsTheConnectionAndLeavesNobodyWaiting) {
  FakeServer server([](FakeServer& s) {
    s.welcome();
    const auto first = s.receive();
    (void)s.receive();
    s.reply(*first, wire::StatReply{});
    (void)s.receive();
  });
  ConnectOptions options;
  options.timeout = 60s;
  const auto started = Connection::start(UniqueFd::adopt(server.take_client_end()), options);
  ASSERT_TRUE(started) << describe(started.error());
  Connection& connection = **started;
  Call<TooLarge> large;
  Call<wire::StatReply> other;
  ASSERT_TRUE(connection.begin(wire::Stat{"large"}, large, deadline_in(60s)));
  ASSERT_TRUE(connection.begin(wire::Stat{"other"}, other, deadline_in(60s)));
  const auto begin = std::chrono::steady_clock::now();
  // By somebody else than the one whose it is.
  EXPECT_EQ(connection.await(other, deadline_in(60s)).error().sys_errno, ENOMEM);
  EXPECT_EQ(connection.await(large, deadline_in(60s)).error().sys_errno, ENOMEM);
  Call<wire::StatReply> later;
  EXPECT_EQ(connection.call(wire::Stat{"later"}, later).error().sys_errno, ENOMEM);
  EXPECT_TRUE(connection.closed());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
}

TEST(Memory, ThatWhoeverIsToldDoesNotHaveEndsTheConnectionToo) {
  FakeServer server([](FakeServer& s) {
    s.welcome();
    const auto first = s.receive();
    s.reply(*first, wire::StatReply{});
    (void)s.receive();
  });
  ConnectOptions options;
  options.timeout = 60s;
  const auto started = Connection::start(UniqueFd::adopt(server.take_client_end()), options);
  ASSERT_TRUE(started) << describe(started.error());
  Connection& connection = **started;
  // Whoever reads calls it.
  ASSERT_TRUE((connection.call_later<wire::Stat, wire::StatReply>(
      wire::Stat{"k"}, [](const Result<wire::StatReply>& /*answer*/) { throw std::bad_alloc(); },
      deadline_in(60s))));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(connection.next_event(deadline_in(60s)).error().sys_errno, ENOMEM);
  EXPECT_EQ(connection.next_event(deadline_in(60s)).error().sys_errno, ENOMEM);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
}

TEST(Timeout, LeavesTheConnectionUsableAndGivesBackWhatComesLate) {
  std::promise<void> timed_out;
  std::promise<std::uint64_t> released;
  Meeting m(
      [&](FakeServer& s) {
        const UniqueFd file = file_with("late bytes");
        const auto slow = s.receive();
        timed_out.get_future().wait();
        wire::GetReply late;
        late.segments = {segment(1, 10, wire::SegmentKind::kMemory)};
        late.items = {item(77, {{1, 0, 10}})};
        const auto next = s.receive();
        s.reply(*slow, late, {file.borrow()});
        wire::GetReply prompt;  // of the same segment, whose descriptor has been sent
        prompt.items = {item(78, {{1, 5, 5}})};
        s.reply(*next, prompt);
        released.set_value(s.receive()->as<wire::Release>().leases.at(0));
        (void)s.receive();
      },
      200ms);
  EXPECT_EQ(m.client->get("slow").error().code, Errc::kTimeout);
  timed_out.set_value();
  auto lease = m.client->get("k");
  ASSERT_TRUE(lease) << describe(lease.error());
  EXPECT_EQ(*(*lease)->read_all(), "bytes");
  EXPECT_EQ(released.get_future().get(), 77U);
}

TEST(Timeout, IsTheCallsOwnWhereItNamesOne) {
  std::promise<void> over;
  Meeting m(
      [&](FakeServer& s) {
        over.get_future().wait();
        (void)s.receive();
        (void)s.receive();
      },
      60s);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(m.client->stat("k", 20ms).error().code, Errc::kTimeout);
  EXPECT_EQ(m.client->remove("k", 20ms).error().code, Errc::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  over.set_value();
}

TEST(Timeout, IsTheCallsOwnAlsoWhereTheDaemonReadsNothing) {
  std::promise<void> over;
  Meeting m([&](FakeServer& /*s*/) { over.get_future().wait(); }, 60s);
  const std::string key(8000, 'k');
  const auto begin = std::chrono::steady_clock::now();
  // The socket is full long before the last of them.
  for (int i = 0; i < 100; ++i) EXPECT_EQ(m.client->stat(key, 1ms).error().code, Errc::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  over.set_value();
}

TEST(Acknowledge, WaitsForNothing) {
  std::promise<void> over;
  Meeting m([&](FakeServer& /*s*/) { over.get_future().wait(); }, 60s);
  const auto begin = std::chrono::steady_clock::now();
  // The socket is full long before the last of them.
  int sent = 0;
  while (sent < 100'000 && m.client->acknowledge(1)) ++sent;
  EXPECT_LT(sent, 100'000);
  EXPECT_FALSE(m.client->closed());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  over.set_value();
}

TEST(Timeout, HoldsWhateverSignalsCome) {
  std::promise<void> over;
  Meeting m([&](FakeServer& /*s*/) { over.get_future().wait(); }, 200ms);
  const SignalStorm storm;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(m.client->stat("k").error().code, Errc::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 3s);
  over.set_value();
}

TEST(Timeout, OfManyKeysIsOneForThemAll) {
  std::size_t questions = 0;
  std::size_t given_back = 0;
  Meeting m(
      [&](FakeServer& s) {
        while (const auto request = s.receive()) {
          if (request->header.type == wire::Type::kDescribe) ++questions;  // and no answer
          if (request->header.type == wire::Type::kRelease)
            given_back += request->as<wire::Release>().leases.size();
          if (request->header.type != wire::Type::kGet) continue;
          // All of segments whose descriptors are to be asked for.
          wire::GetReply reply;
          for (std::uint64_t id = 1; id <= request->as<wire::Get>().keys.size(); ++id) {
            reply.segments.push_back(segment(id, 10, wire::SegmentKind::kMemory, false, false));
            reply.items.push_back(item(id, {{id, 0, 10}}));
          }
          s.reply(*request, reply);
        }
      },
      60s);
  const std::vector<std::string> keys(20, "k");
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(m.client->get_many(keys, 1s).error().code, Errc::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  m.client->close();
  m.server.join();
  EXPECT_EQ(questions, 1U);
  EXPECT_EQ(given_back, keys.size());
}

TEST(Timeout, OfAnyLengthFitsPollAndTheClock) {
  using std::chrono::milliseconds;
  constexpr int kMost = std::numeric_limits<int>::max();
  EXPECT_EQ(poll_ms(-1ms), 0);
  EXPECT_EQ(poll_ms(0ms), 0);
  EXPECT_EQ(poll_ms(20ms), 20);
  // As an int, 25 days would be for ever, and the fourth of these a millisecond.
  for (const milliseconds wait :
       {milliseconds(kMost), milliseconds(25 * 24h), milliseconds(50 * 24h),
        milliseconds((std::int64_t{1} << 32) + 1), milliseconds::max()})
    EXPECT_EQ(poll_ms(wait), kMost) << wait.count();
  const auto now = std::chrono::steady_clock::now();
  EXPECT_GE(deadline_in(50 * 24h), now + 50 * 24h);
  EXPECT_GT(deadline_in(milliseconds::max()), now + 300 * 24h);
  EXPECT_GT(deadline_in(milliseconds::max(), milliseconds::max()), now + 600 * 24h);
  EXPECT_LT(deadline_in(milliseconds::min(), 1ms), now + 24h);
  EXPECT_EQ(left_until(now).count(), 0);
  EXPECT_GT(left_until(deadline_in(milliseconds::max())), 300 * 24h);
}

TEST(Timeout, ForEverIsNotOverAtOnce) {
  constexpr auto kForEver = std::chrono::milliseconds::max();
  Meeting m(
      [](FakeServer& s) {
        s.reply(*s.receive(), wire::StatReply{});
        s.reply(*s.receive(), wire::Empty{});
        s.send(wire::encode(wire::Type::kEvent, 0, wire::Event{wire::kEventPublished, "k", 1, 0}));
        (void)s.receive();
      },
      kForEver);
  const auto info = m.client->stat("k", kForEver);
  ASSERT_TRUE(info) << describe(info.error());
  EXPECT_TRUE(info->has_value());
  ASSERT_TRUE(m.client->subscribe(kPublishedEvents));
  const auto event = m.client->next_event(kForEver);
  ASSERT_TRUE(event && event->has_value());
  EXPECT_EQ((*event)->key, "k");
  m.client->close();
}

TEST(Timeout, OfAReservationAbortsItWhenItComes) {
  std::promise<void> timed_out;
  std::promise<std::uint64_t> aborted;
  Meeting m(
      [&](FakeServer& s) {
        const auto slow = s.receive();
        timed_out.get_future().wait();
        const auto next = s.receive();
        wire::ReserveReply late;
        late.put_id = 9;
        s.reply(*slow, late);
        s.reply(*next, wire::StatusReply{});
        aborted.set_value(s.receive()->as<wire::Abort>().put_id);
      },
      200ms);
  EXPECT_EQ(m.client->reserve({.key = "k"}).error().code, Errc::kTimeout);
  timed_out.set_value();
  EXPECT_TRUE(m.client->status());
  EXPECT_EQ(aborted.get_future().get(), 9U);
}

TEST(ExpiresIn, ALongTimeIsNotThePast) {
  const std::uint64_t tomorrow = expires_in(24h);
  EXPECT_GT(tomorrow, expires_in(1h));
  EXPECT_GT(expires_in(std::chrono::nanoseconds::max()), tomorrow);
  EXPECT_GT(expires_in(std::chrono::nanoseconds::max() - 24h), tomorrow);
  // 0 would be never.
  EXPECT_EQ(expires_in(std::chrono::nanoseconds::min()), 1U);
}

// --- what is refused without asking

TEST(Keys, ThatAreNoneAreRefusedWithoutAsking) {
  Meeting m([](FakeServer& s) { EXPECT_FALSE(s.receive()); });
  for (const std::string& key : {std::string(), std::string(8193, 'x'), std::string("a\0b", 3)}) {
    EXPECT_EQ(m.client->get(key).error().code, Errc::kMalformed);
    EXPECT_EQ(m.client->stat(key).error().code, Errc::kMalformed);
    EXPECT_EQ(m.client->reserve({.key = key}).error().code, Errc::kMalformed);
    EXPECT_EQ(m.client->remove(key).error().code, Errc::kMalformed);
  }
  m.client->close();
}

// --- regions and events

TEST(Region, ComesWithItsDescriptors) {
  Meeting m([](FakeServer& s) {
    const UniqueFd memory = file_with("region");
    const UniqueFd directory = *open_directory("/tmp");
    const auto request = s.receive();
    EXPECT_EQ(request->as<wire::RegionOpen>().owner, "a/b");
    wire::RegionReply reply;
    reply.region_id = 3;
    reply.memory = segment(1, 6, wire::SegmentKind::kRegion, true);
    reply.with_directory = 1;
    s.reply(*request, reply, {memory.borrow(), directory.borrow()});
    // And once without the descriptor that it must have.
    reply.with_directory = 0;
    s.reply(*s.receive(), reply);
  });
  auto grant = m.client->open_region({.owner = "a/b", .memory_bytes = 6});
  ASSERT_TRUE(grant) << describe(grant.error());
  EXPECT_EQ(grant->memory_bytes, 6U);
  EXPECT_TRUE(grant->memory);
  EXPECT_TRUE(grant->directory);
  EXPECT_FALSE(grant->fresh);
  EXPECT_FALSE(m.client->open_region({.owner = "a/b", .memory_bytes = 6}));
}

TEST(Events, ComeWhileWaitingAndWhileOtherCallsWait) {
  Meeting m([](FakeServer& s) {
    s.reply(*s.receive(), wire::Empty{});
    wire::Event event{wire::kEventPublished, "first", 1, 0};
    const auto request = s.receive();
    s.send(wire::encode(wire::Type::kEvent, 0, event));
    s.reply(*request, wire::StatusReply{});
    event.key = "second";
    event.event = wire::kEventRevoked;
    event.lease_id = 5;
    s.send(wire::encode(wire::Type::kEvent, 0, event));
    (void)s.receive();
  });
  ASSERT_TRUE(m.client->subscribe(kPublishedEvents));
  ASSERT_TRUE(m.client->status());
  auto first = m.client->next_event(5s);
  ASSERT_TRUE(first && first->has_value());
  EXPECT_EQ((*first)->key, "first");
  auto second = m.client->next_event(5s);
  ASSERT_TRUE(second && second->has_value());
  EXPECT_EQ((*second)->kind, Event::Kind::kRevoked);
  EXPECT_EQ((*second)->lease_id, 5U);
  auto none = m.client->next_event(20ms);
  ASSERT_TRUE(none);
  EXPECT_FALSE(none->has_value());
  m.client->close();
  EXPECT_FALSE(m.client->next_event(1s));
}

TEST(Events, DoNotKeepOtherThreadsWaiting) {
  Meeting m([](FakeServer& s) {
    while (const auto request = s.receive()) s.reply(*request, wire::StatusReply{});
  });
  std::thread listener([&] { EXPECT_FALSE(m.client->next_event(60s)); });
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(m.client->status());
  m.client->close();
  listener.join();
}

}  // namespace
}  // namespace om::client
