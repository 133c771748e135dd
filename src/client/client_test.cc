// The client library against a daemon that does what each test wants, mostly wrong. What a real
// daemon makes of it: tests/cli.
#include "objmapper/client.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "client/fake_server.h"
#include "posix/file.h"
#include "posix/memfd.h"

namespace om::client {
namespace {

using namespace std::chrono_literals;

Result<Client> connect_to(FakeServer& server, std::chrono::milliseconds timeout = 5s) {
  ConnectOptions options;
  options.timeout = timeout;
  options.name = "test";
  return Client::adopt(Fd::adopt(server.take_client_end()), options);
}

// A client whose HELLO went well; `script` is what the daemon does then.
struct Meeting {
  explicit Meeting(std::function<void(FakeServer&)> script, std::chrono::milliseconds timeout = 5s)
      : server([script = std::move(script)](FakeServer& s) {
          s.welcome();
          script(s);
        }) {
    auto connected = connect_to(server, timeout);
    EXPECT_TRUE(connected) << describe(connected.error());
    client.emplace(*std::move(connected));
  }
  FakeServer server;
  std::optional<Client> client;
};

UniqueFd file_with(const std::string& bytes) {
  UniqueFd file = *make_memfd("test", bytes.size());
  EXPECT_TRUE(write_exactly(file.borrow(), 0, std::as_bytes(std::span(bytes))));
  return file;
}

wire::GetItem item(std::uint64_t lease, std::vector<wire::Extent> extents) {
  wire::GetItem item;
  item.lease_id = lease;
  item.info.object_id = lease + 100;
  for (const auto& extent : extents) item.info.length += extent.length;
  item.info.total_bytes = item.info.length;
  item.extents = std::move(extents);
  return item;
}

wire::Segment segment(std::uint64_t id, std::uint64_t size, wire::SegmentKind kind,
                      bool writable = false, bool with_descriptor = true) {
  return {id, size, static_cast<std::uint8_t>(kind), std::uint8_t{writable},
          std::uint8_t{with_descriptor}};
}

std::size_t open_descriptors() {
  return list_directory(open_directory("/proc/self/fd")->borrow())->size();
}

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
    for (int i = 0; i < kThreads; ++i) requests.push_back(*s.receive());
    for (auto request = requests.rbegin(); request != requests.rend(); ++request) {
      wire::StatReply reply;
      reply.info.metadata = request->as<wire::Stat>().key;
      s.reply(*request, reply);
    }
  });
  std::vector<std::thread> threads;
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

// --- leases

struct OneObject {
  // "0123456789" in two extents of the segment, the second one first.
  static void serve(FakeServer& s, wire::SegmentKind kind) {
    const UniqueFd file = file_with("56789.....01234");
    const UniqueFd reader = *reopen(file.borrow(), O_RDONLY);
    wire::GetReply reply;
    reply.segments = {segment(3, 15, kind)};
    reply.items = {item(11, {{3, 10, 5}, {3, 0, 5}})};
    s.reply(*s.receive(), reply, {reader.borrow()});
    while (s.receive()) continue;
  }
};

class ReadLease : public testing::TestWithParam<wire::SegmentKind> {};

TEST_P(ReadLease, InEveryWay) {
  Meeting m([](FakeServer& s) { OneObject::serve(s, GetParam()); });
  auto got = m.client->get("k");
  ASSERT_TRUE(got) << describe(got.error());
  const Lease lease = **std::move(got);
  EXPECT_EQ(lease.size(), 10U);
  EXPECT_EQ(lease.id(), 11U);
  EXPECT_EQ(*lease.read_all(), "0123456789");
  for (std::uint64_t from = 0; from <= 11; ++from) {
    std::string part(4, '\0');
    const auto count = lease.read(from, std::as_writable_bytes(std::span(part)));
    ASSERT_TRUE(count);
    EXPECT_EQ(part.substr(0, *count), from > 10 ? "" : std::string("0123456789").substr(from, 4));
  }
  std::string mapped;
  for (const auto& span : *lease.map())
    mapped.append(reinterpret_cast<const char*>(span.data()), span.size());
  EXPECT_EQ(mapped, "0123456789");
  const UniqueFd output = *make_memfd("output", 0);
  ASSERT_TRUE(lease.copy_to(output.raw()));
  std::string copied(10, '\0');
  ASSERT_TRUE(read_exactly(output.borrow(), 0, std::as_writable_bytes(std::span(copied))));
  EXPECT_EQ(copied, "0123456789");
  EXPECT_EQ(*file_size(output.borrow()), 10U);
  ASSERT_EQ(lease.slices().size(), 2U);
  std::string sliced(5, '\0');
  EXPECT_EQ(
      ::pread(lease.slices()[1].fd, sliced.data(), 5, static_cast<off_t>(lease.slices()[1].offset)),
      5);
  EXPECT_EQ(sliced, "56789");
}

INSTANTIATE_TEST_SUITE_P(Kinds, ReadLease,
                         testing::Values(wire::SegmentKind::kMemory, wire::SegmentKind::kFile,
                                         wire::SegmentKind::kPack),
                         [](const auto& kind) {
                           return "Kind" + std::to_string(static_cast<int>(kind.param));
                         });

TEST(Lease, OutlivesTheClientAndTheDaemon) {
  const std::size_t before = open_descriptors();
  {
    std::optional<Lease> lease;
    {
      Meeting m([](FakeServer& s) {
        const UniqueFd file = file_with("still here");
        wire::GetReply reply;
        reply.segments = {segment(1, 10, wire::SegmentKind::kFile)};
        reply.items = {item(1, {{1, 0, 10}})};
        s.reply(*s.receive(), reply, {file.borrow()});
        s.hang_up();
      });
      auto got = m.client->get("k");
      ASSERT_TRUE(got);
      lease = **std::move(got);
    }
    EXPECT_EQ(*lease->read_all(), "still here");
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Lease, IsGivenBackWhenDroppedOverwrittenOrReleased) {
  std::promise<std::vector<std::uint64_t>> released;
  Meeting m([&](FakeServer& s) {
    std::vector<std::uint64_t> given_back;
    std::uint64_t next = 1;
    while (const auto request = s.receive()) {
      if (request->header.type == wire::Type::kGet) {
        wire::GetReply reply;
        reply.items = {item(next++, {})};
        s.reply(*request, reply);
      } else {
        for (const auto id : request->as<wire::Release>().leases) given_back.push_back(id);
      }
    }
    released.set_value(given_back);
  });
  {
    auto first = m.client->get("a");
    Lease second = **m.client->get("b");
    Lease third = **m.client->get("c");
    third.release();
    third.release();
    third = std::move(second);
    EXPECT_TRUE(third);
  }
  m.client->close();
  EXPECT_THAT(released.get_future().get(), testing::UnorderedElementsAre(1, 2, 3));
}

TEST(Segments, AreAskedForAgainWhenTheyWereDropped) {
  std::atomic<int> described{0};
  const auto serve = [&](FakeServer& s) {
    // Eight memory segments for a cache of four, met over and over.
    std::vector<UniqueFd> files;
    std::vector<bool> met(8);
    for (int i = 0; i < 8; ++i) files.push_back(file_with("segment" + std::to_string(i)));
    while (const auto request = s.receive()) {
      wire::GetReply reply;
      std::vector<BorrowedFd> descriptors;
      if (request->header.type == wire::Type::kGet) {
        const auto id = static_cast<std::uint64_t>(std::stoi(request->as<wire::Get>().keys[0]));
        if (!met[id]) {
          reply.segments = {segment(id, 8, wire::SegmentKind::kMemory)};
          descriptors.push_back(files[id].borrow());
        }
        met[id] = true;
        reply.items = {item(id, {{id, 0, 8}})};
      } else if (request->header.type == wire::Type::kDescribe) {
        ++described;
        const auto id = request->as<wire::Describe>().segments.at(0);
        reply.segments = {segment(id, 8, wire::SegmentKind::kMemory)};
        descriptors.push_back(files[id].borrow());
      } else {
        continue;
      }
      s.reply(*request, reply, descriptors);
    }
  };
  FakeServer server([&](FakeServer& s) {
    s.welcome();
    serve(s);
  });
  ConnectOptions options;
  options.descriptors_max = 4;
  auto client = Client::adopt(Fd::adopt(server.take_client_end()), options);
  ASSERT_TRUE(client);
  const std::size_t before = open_descriptors();
  for (int round = 0; round < 3; ++round)
    for (int i = 0; i < 8; ++i) {
      auto lease = client->get(std::to_string(i));
      ASSERT_TRUE(lease) << describe(lease.error());
      EXPECT_EQ(*(*lease)->read_all(), "segment" + std::to_string(i));
    }
  EXPECT_EQ(described, 16);
  EXPECT_LE(open_descriptors(), before + 8 + 4);
  client->close();
}

TEST(Segments, ComeAgainAfterThisProcessHadNoRoomForThem) {
  std::promise<void> made;
  std::promise<void> full;
  Meeting m([&](FakeServer& s) {
    const UniqueFd file = file_with("here after all");
    made.set_value();
    const auto get = s.receive();
    wire::GetReply reply;
    reply.segments = {segment(1, 14, wire::SegmentKind::kMemory)};
    reply.items = {item(1, {{1, 0, 14}})};
    full.get_future().wait();
    s.reply(*get, reply, {file.borrow()});
    const auto describe = s.receive();
    EXPECT_EQ(describe->header.type, wire::Type::kDescribe);
    reply.items.clear();
    rlimit limit{};
    (void)::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    (void)::setrlimit(RLIMIT_NOFILE, &limit);
    s.reply(*describe, reply, {file.borrow()});
    (void)s.receive();
  });
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  // The daemon's side has made its own file before.
  std::thread limiter([&] {
    made.get_future().wait();
    rlimit none = before;
    none.rlim_cur = 3;
    (void)::setrlimit(RLIMIT_NOFILE, &none);
    full.set_value();
  });
  limiter.join();
  auto lease = m.client->get("k");
  (void)::setrlimit(RLIMIT_NOFILE, &before);
  ASSERT_TRUE(lease) << describe(lease.error());
  EXPECT_EQ(*(*lease)->read_all(), "here after all");
}

TEST(GetMany, LeasesGoBackInOnePacket) {
  std::vector<std::vector<std::uint64_t>> released;
  Meeting m([&](FakeServer& s) {
    const UniqueFd file = file_with("0123456789");
    while (const auto request = s.receive()) {
      if (request->header.type == wire::Type::kRelease)
        released.push_back(request->as<wire::Release>().leases);
      if (request->header.type != wire::Type::kGet) continue;
      wire::GetReply reply;
      reply.segments = {segment(1, 10, wire::SegmentKind::kMemory)};
      for (std::uint64_t i = 0; i < request->as<wire::Get>().keys.size(); ++i) {
        reply.items.push_back(item(1, {{1, i, 1}}));
        reply.items.back().lease_id = 100 + i;
      }
      s.reply(*request, reply, {file.borrow()});
    }
  });
  auto leases = m.client->get_many({"a", "b", "c"});
  ASSERT_TRUE(leases) << describe(leases.error());
  leases->push_back(std::nullopt);
  (*leases)[1]->release();
  release(*std::move(leases));
  m.client->close();
  m.server.join();
  EXPECT_EQ(released, (std::vector<std::vector<std::uint64_t>>{{101}, {100, 102}}));
}

TEST(GetMany, AsksAgainForWhatDidNotFitAndKeepsTheOrder) {
  Meeting m([](FakeServer& s) {
    const UniqueFd file = file_with("0123456789");
    bool met = false;
    while (const auto request = s.receive()) {
      if (request->header.type != wire::Type::kGet) continue;
      const auto keys = request->as<wire::Get>().keys;
      EXPECT_LE(keys.size(), kKeysPerGetMax);
      wire::GetReply reply;
      std::vector<BorrowedFd> descriptors;
      if (!met) {
        reply.segments = {segment(1, 10, wire::SegmentKind::kMemory)};
        descriptors.push_back(file.borrow());
      }
      met = true;
      std::size_t room = 10;
      for (const auto& key : keys) {
        const auto digit = static_cast<std::uint64_t>(key.back() - '0');
        wire::GetItem answer;
        if (digit == 7)
          answer.status = static_cast<std::uint32_t>(Errc::kNotFound);
        else if (room-- > 0 && room < 10)
          answer = item(1, {{1, digit, 1}});
        else
          answer.status = static_cast<std::uint32_t>(Errc::kBusy);
        if (answer.status != 0) room = std::min<std::size_t>(room, 10);
        reply.items.push_back(answer);
      }
      s.reply(*request, reply, descriptors);
    }
  });
  std::vector<std::string> keys;
  for (int i = 0; i < 150; ++i) keys.push_back("key" + std::to_string(i));
  auto leases = m.client->get_many(keys);
  ASSERT_TRUE(leases) << describe(leases.error());
  ASSERT_EQ(leases->size(), keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].back() == '7')
      EXPECT_FALSE((*leases)[i]) << i;
    else
      EXPECT_EQ(*(*leases)[i]->read_all(), std::string(1, keys[i].back())) << i;
  }
  leases = std::vector<std::optional<Lease>>();
  m.client->close();
}

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

// --- writing

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
    wire::ReserveReply reply;
    reply.put_id = 77;
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

// --- the pool, over a real listening socket

struct Listener {
  Listener() {
    std::string name = "/tmp/om-client-test-XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    directory = name;
    path = directory + "/s";
  }
  ~Listener() {
    stop();
    (void)::unlink(path.c_str());
    (void)::rmdir(directory.c_str());
  }
  void start() {
    stopping = false;
    UniqueFd socket = *listen_seqpacket(path, 0600, 8);
    thread = std::thread([this, socket = std::move(socket)] {
      std::vector<std::thread> sessions;
      std::vector<int> open;
      while (!stopping) {
        auto peer = accept_connection(socket.borrow());
        if (!peer || !peer->has_value()) {
          std::this_thread::sleep_for(1ms);
          continue;
        }
        open.push_back((*peer)->raw());
        (void)::fcntl((*peer)->raw(), F_SETFL, 0);
        sessions.emplace_back([end = std::make_shared<UniqueFd>(**std::move(peer))] {
          std::vector<std::byte> buffer(kPacketBytesMax);
          while (true) {
            auto packet = receive_packet(end->borrow(), buffer);
            if (!packet || !packet->has_value() || (*packet)->bytes == 0) break;
            const auto bytes = std::span(buffer).first((*packet)->bytes);
            const auto header = *wire::decode_header(bytes, 0);
            const std::string reply =
                header.type == wire::Type::kHello
                    ? wire::encode_reply(header.type, header.request_id, wire::HelloReply{})
                    : wire::encode_reply(header.type, header.request_id, wire::StatusReply{});
            (void)send_packet(end->borrow(), std::as_bytes(std::span(reply)), {});
          }
          (void)::shutdown(end->raw(), SHUT_RDWR);
        });
      }
      for (const int fd : open) (void)::shutdown(fd, SHUT_RDWR);
      for (auto& session : sessions) session.join();
    });
  }
  void stop() {
    stopping = true;
    if (thread.joinable()) thread.join();
  }
  std::string directory;
  std::string path;
  std::atomic<bool> stopping{false};
  std::thread thread;
};

TEST(Pool, ComesBackAfterTheDaemonDid) {
  Listener daemon;
  Pool::Options options;
  options.connect.socket = daemon.path;
  options.connections = 2;
  Pool pool(options);
  const auto look = [](Client& client) { return client.status(); };
  EXPECT_EQ(pool.run(look).error().code, Errc::kUnavailable);
  daemon.start();
  ASSERT_TRUE(pool.wait_for_client(10s));
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(pool.run(look));
  daemon.stop();
  EXPECT_FALSE(pool.run(look));
  daemon.start();
  ASSERT_TRUE(pool.wait_for_client(10s));
  EXPECT_TRUE(pool.run(look));
}

TEST(Pool, DoesNotHammerADaemonThatIsGone) {
  Pool::Options options;
  options.connect.socket = "/nonexistent/s";
  options.backoff_min = 60s;
  options.backoff_max = 60s;
  Pool pool(options);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(pool.client());
  EXPECT_FALSE(pool.wait_for_client(30ms));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
}

}  // namespace
}  // namespace om::client
