// Leases: reading what is held in every way, with and without the daemon; how they go back, one by
// one or many together; and the descriptors of the segments in which they lie.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
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
#include "posix/memfd.h"

namespace om::client {
namespace {

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

TEST_P(ReadLease, IsReadByItsPinsWhenItIsGone) {
  Meeting m([](FakeServer& s) { OneObject::serve(s, GetParam()); });
  auto got = m.client->get("k");
  ASSERT_TRUE(got) << describe(got.error());
  Lease lease = **std::move(got);
  const auto spans = *lease.map();
  const std::vector<Slice> slices = lease.slices();
  const auto pins = lease.pins();
  EXPECT_FALSE(pins.empty());
  lease.release();
  m.client.reset();
  std::string mapped;
  for (const auto& span : spans)
    mapped.append(reinterpret_cast<const char*>(span.data()), span.size());
  EXPECT_EQ(mapped, "0123456789");
  // Mapped memory needs no descriptor.
  if (GetParam() == wire::SegmentKind::kMemory) return;
  std::string sliced(5, '\0');
  EXPECT_EQ(::pread(slices[1].fd, sliced.data(), 5, static_cast<off_t>(slices[1].offset)), 5);
  EXPECT_EQ(sliced, "56789");
}

INSTANTIATE_TEST_SUITE_P(Kinds, ReadLease,
                         testing::Values(wire::SegmentKind::kMemory, wire::SegmentKind::kFile,
                                         wire::SegmentKind::kPack),
                         [](const auto& kind) {
                           return "Kind" + std::to_string(static_cast<int>(kind.param));
                         });

TEST(Lease, IsReadAlsoWhereItsSegmentHasGrownSinceItWasMapped) {
  constexpr std::uint64_t kPage = 4096;
  const UniqueFd file = file_with(std::string(kPage, 'a'));
  const std::string more = "0123456789";
  Meeting m([&](FakeServer& s) {
    wire::GetReply first;
    first.segments = {segment(1, kPage, wire::SegmentKind::kMemory)};
    first.items = {item(1, {{1, 0, 10}})};
    s.reply(*s.receive(), first, {file.borrow()});
    const auto again = s.receive();
    EXPECT_TRUE(write_exactly(file.borrow(), kPage, std::as_bytes(std::span(more))));
    wire::GetReply second;
    second.segments = {segment(1, 2 * kPage, wire::SegmentKind::kMemory, false, false)};
    second.items = {item(2, {{1, kPage, 10}})};
    s.reply(*again, second);
    while (s.receive()) continue;
  });
  const auto small = m.client->get("a");
  ASSERT_TRUE(small && small->has_value());
  EXPECT_EQ(*(*small)->read_all(), "aaaaaaaaaa");
  const auto grown = m.client->get("b");
  ASSERT_TRUE(grown) << describe(grown.error());
  const Lease& lease = **grown;
  EXPECT_EQ(*lease.read_all(), more);
  const auto spans = lease.map();
  ASSERT_TRUE(spans);
  ASSERT_EQ(spans->size(), 1U);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(spans->front().data()), 10), more);
  EXPECT_EQ(lease.pins().size(), 2U);  // the descriptor and the copy
  const UniqueFd output = *make_memfd("output", 0);
  ASSERT_TRUE(lease.copy_to(output.raw()));
  EXPECT_EQ(*file_size(output.borrow()), 10U);
  m.client->close();
}

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
    files.reserve(8);
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

TEST(Lease, IsGivenBackLaterToADaemonThatReadsNothing) {
  std::promise<void> goes_on;
  std::promise<std::uint64_t> released;
  Meeting m(
      [&](FakeServer& s) {
        wire::GetReply reply;
        reply.items = {item(5, {})};
        s.reply(*s.receive(), reply);
        goes_on.get_future().wait();
        bool told = false;
        while (const auto request = s.receive()) {
          if (told || request->header.type != wire::Type::kRelease) continue;
          released.set_value(request->as<wire::Release>().leases.at(0));
          told = true;
        }
      },
      std::chrono::seconds(60));
  std::optional<Lease> lease = *m.client->get("k");
  ASSERT_TRUE(lease);
  const std::string key(8000, 'k');
  const auto begin = std::chrono::steady_clock::now();
  // The socket is full long before the last of them.
  for (int i = 0; i < 100; ++i) (void)m.client->stat(key, std::chrono::milliseconds(1));
  lease.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
  goes_on.set_value();
  auto id = released.get_future();
  while (id.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
    (void)m.client->stat("k", std::chrono::milliseconds(10));
  EXPECT_EQ(id.get(), 5U);
  m.client->close();
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
  keys.reserve(150);
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

}  // namespace
}  // namespace om::client
