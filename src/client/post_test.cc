// Commits that nobody waits for, and that go together: when they go, in which order, and what
// becomes of them where they cannot.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/client_testing.h"
#include "objmapper/client.h"

namespace om::client {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;

// A daemon that gives room: `bytes` of segment 3 in each, with two leases where some are asked for.
class RoomServer {
 public:
  RoomServer(FakeServer& server, std::uint64_t bytes) : server_(server), bytes_(bytes) {
    if (const auto hello = server_.receive()) {
      wire::HelloReply answer;
      answer.features = wire::kFeatureRoom;
      server_.reply(*hello, answer);
    }
  }
  // The next request that is none for room.
  std::optional<FakeServer::Request> receive() {
    while (true) {
      auto request = server_.receive();
      if (!request || request->header.type != wire::Type::kRoom) return request;
      const std::uint64_t number = ++rooms_;
      wire::RoomReply reply;
      reply.room_id = number;
      reply.segments = {segment(3, kSegment, wire::SegmentKind::kMemory, true, number == 1)};
      reply.extents = {{3, bytes_ * (number - 1), bytes_}};
      if (request->as<wire::Room>().leases > 0) {
        reply.first_object = 100 * number;
        reply.first_lease = 1000 * number;
        reply.leases = 2;
      }
      if (number == 1)
        server_.reply(*request, reply, {file_.borrow()});
      else
        server_.reply(*request, reply);
    }
  }
  // The next PUT, its bodies' keys; all of them are answered with their place in it.
  std::vector<std::string> put() {
    const auto request = receive();
    if (!request || request->header.type != wire::Type::kPut) return {"no PUT"};
    std::vector<std::string> keys;
    wire::PutReply reply;
    const auto message = request->as<wire::Put>();
    for (const wire::PutBody& body : message.bodies) {
      keys.push_back(body.key);
      reply.items.push_back({0, keys.size(), 1});
    }
    server_.reply(*request, reply);
    return keys;
  }

 private:
  static constexpr std::uint64_t kSegment = std::uint64_t{32} << 20;
  FakeServer& server_;
  const std::uint64_t bytes_;
  const UniqueFd file_ = file_with(std::string(kSegment, '.'));
  std::uint64_t rooms_ = 0;
};

// What the functions of commits were told, in order.
struct Said {
  std::vector<std::string> all;
  std::function<void(Result<PutResult>)> as(const std::string& name) {
    return [this, name](const Result<PutResult>& done) {
      all.push_back(name + ": " +
                    (done ? std::to_string(done->object_id) : to_string(done.error().code)));
    };
  }
};

Writer writer_of(Client& client, const std::string& key, std::uint64_t length = 512) {
  auto writer = client.reserve_ahead({.key = key, .length = length}, 5s);
  EXPECT_TRUE(writer) << describe(writer.error());
  EXPECT_TRUE(*writer);
  const std::string body(length, 'b');
  EXPECT_TRUE((*writer)->write(std::as_bytes(std::span(body))));
  return **std::move(writer);
}

void commit(Client& client, Said& said, const std::string& key) {
  writer_of(client, key).commit(std::nullopt, said.as(key));
}

void look_until(Client& client, const Said& said, std::size_t count) {
  for (int i = 0; i < 5000 && said.all.size() < count; ++i) {
    std::this_thread::sleep_for(1ms);
    client.look();
  }
}

TEST(Post, ThoseThatAreKeptGoTogetherBeforeWhatIsAskedNext) {
  FakeServer server([](FakeServer& s) {
    RoomServer rooms(s, 65536);
    const auto put = rooms.receive();
    ASSERT_TRUE(put);
    ASSERT_EQ(put->header.type, wire::Type::kPut);
    const auto bodies = put->as<wire::Put>().bodies;
    ASSERT_EQ(bodies.size(), 3U);
    for (std::size_t i = 0; i < bodies.size(); ++i) {
      EXPECT_EQ(bodies[i].key, std::to_string(i));
      EXPECT_EQ(bodies[i].offset, 512 * i);
    }
    EXPECT_EQ(bodies[1].metadata, "last words");
    s.reply(*put,
            wire::PutReply{
                {{0, 11, 1}, {0, 12, 1}, {static_cast<std::uint32_t>(Errc::kNotFound), 0, 0}}});
    const auto stat = s.receive();
    ASSERT_TRUE(stat);
    ASSERT_EQ(stat->header.type, wire::Type::kStat);
    s.reply(*stat, wire::StatReply{});
    while (s.receive()) continue;
  });
  Said said;
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  client->defer(1h);
  commit(*client, said, "0");
  writer_of(*client, "1").commit(Amendment{{}, "last words", {}, 0}, said.as("1"));
  commit(*client, said, "2");
  EXPECT_TRUE(said.all.empty());
  EXPECT_TRUE(client->stat("2"));
  EXPECT_THAT(said.all,
              ElementsAre("0: 11", "1: 12", std::string("2: ") + to_string(Errc::kNotFound)));
  EXPECT_EQ(client->flush(), 3U);
  EXPECT_EQ(client->flush(), 0U);
}

TEST(Post, ManyGoByThemselvesAndTheRestWhenSomebodySaysSo) {
  std::promise<std::vector<std::string>> first, second, third;
  FakeServer server([&](FakeServer& s) {
    RoomServer rooms(s, 131072);
    first.set_value(rooms.put());
    second.set_value(rooms.put());
    third.set_value(rooms.put());
    while (s.receive()) continue;
  });
  Said said;
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  client->defer(1h);
  for (int i = 0; i < 129; ++i) commit(*client, said, std::to_string(i));
  EXPECT_EQ(first.get_future().get().size(), 128U);
  EXPECT_EQ(client->flush(), 129U);
  EXPECT_THAT(second.get_future().get(), ElementsAre("128"));
  // From now on each goes at once.
  client->defer(0ms);
  commit(*client, said, "at once");
  EXPECT_THAT(third.get_future().get(), ElementsAre("at once"));
  EXPECT_EQ(client->flush(), 1U);
  look_until(*client, said, 130);
  ASSERT_EQ(said.all.size(), 130U);
  EXPECT_EQ(said.all[127], "127: 128");
  EXPECT_EQ(said.all[128], "128: 1");
}

TEST(Post, LongOnesGoTogetherUpToEightMegabytes) {
  std::promise<std::vector<std::vector<std::string>>> seen;
  FakeServer server([&](FakeServer& s) {
    RoomServer rooms(s, std::uint64_t{32} << 20);
    std::vector<std::vector<std::string>> puts(3);
    for (auto& put : puts) put = rooms.put();
    seen.set_value(puts);
    while (s.receive()) continue;
  });
  Said said;
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  client->defer(1h);
  constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
  const auto commit_one = [&](const std::string& key, std::uint64_t length) {
    writer_of(*client, key, length).commit(std::nullopt, said.as(key));
  };
  for (int i = 0; i < 8; ++i) commit_one(std::to_string(i), kMiB);
  commit_one("kept", kMiB);
  commit_one("too long", kMiB + 1);
  (void)client->flush();
  EXPECT_THAT(seen.get_future().get(),
              ElementsAre(ElementsAre("0", "1", "2", "3", "4", "5", "6", "7"), ElementsAre("kept"),
                          ElementsAre("too long")));
  look_until(*client, said, 10);
  EXPECT_EQ(said.all.size(), 10U);
}

TEST(Post, ThoseOfARoomGoTogetherAndThoseOfAKeyInOrder) {
  std::promise<std::vector<std::vector<std::string>>> seen;
  FakeServer server([&](FakeServer& s) {
    RoomServer rooms(s, 2048);  // for four of them
    std::vector<std::vector<std::string>> puts(5);
    for (auto& put : puts) put = rooms.put();
    seen.set_value(puts);
    while (s.receive()) continue;
  });
  Said said;
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  client->defer(1h);
  std::vector<Writer> writers;
  for (const char* key : {"x", "z", "k", "k", "y", "k"}) writers.push_back(writer_of(*client, key));
  const auto commit_these = [&](std::initializer_list<std::size_t> which) {
    for (const std::size_t i : which) std::move(writers[i]).commit(std::nullopt, said.as("."));
    (void)client->flush();
  };
  commit_these({0, 4, 1});
  commit_these({2, 5, 3});
  const auto puts = seen.get_future().get();
  EXPECT_THAT(puts, ElementsAre(ElementsAre("x", "z"), ElementsAre("y"), ElementsAre("k"),
                                ElementsAre("k"), ElementsAre("k")));
  look_until(*client, said, 6);
  EXPECT_EQ(said.all.size(), 6U);
}

TEST(Post, ThoseThatAreKeptAreSentWhenTheConnectionIsClosed) {
  for (const bool closes : {true, false}) {
    std::promise<std::vector<std::string>> sent;
    FakeServer server([&](FakeServer& s) {
      RoomServer rooms(s, 65536);
      sent.set_value(rooms.put());
      while (s.receive()) continue;
    });
    Said said;
    {
      auto client = connect_to(server);
      ASSERT_TRUE(client);
      client->defer(1h);
      commit(*client, said, "a");
      commit(*client, said, "b");
      if (closes) {
        client->close();
        // Whether they were published is not known.
        EXPECT_EQ(said.all.size(), 2U);
        commit(*client, said, "c");
        EXPECT_EQ(said.all.size(), 3U);
      }
    }
    EXPECT_EQ(said.all.size(), closes ? 3U : 2U);
    EXPECT_THAT(sent.get_future().get(), ElementsAre("a", "b"));
  }
}

TEST(Post, IsToldThatTheDaemonHasGone) {
  std::promise<void> go;
  FakeServer server([&](FakeServer& s) {
    RoomServer rooms(s, 65536);
    const auto stat = rooms.receive();
    ASSERT_TRUE(stat);
    s.reply(*stat, wire::StatReply{});
    go.get_future().wait();
    s.hang_up();
  });
  Said said;
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  client->defer(1h);
  auto last = writer_of(*client, "last");
  EXPECT_TRUE(client->stat("x"));
  commit(*client, said, "first");
  EXPECT_TRUE(said.all.empty());
  go.set_value();
  server.join();
  EXPECT_EQ(client->flush(), 1U);
  const std::string gone = to_string(Errc::kUnavailable);
  EXPECT_THAT(said.all, ElementsAre("first: " + gone));
  std::move(last).commit(std::nullopt, said.as("last"));
  EXPECT_THAT(said.all, ElementsAre("first: " + gone, "last: " + gone));
}

// One has little time, and is held; the other has more, and goes when the daemon reads again.
TEST(Post, StaysKeptWhereTheSocketIsFullForAsLongAsItMay) {
  std::promise<int> full;
  std::promise<void> emptied;
  std::promise<wire::Put> held;
  std::promise<std::vector<std::string>> sent;
  FakeServer server([&](FakeServer& s) {
    RoomServer rooms(s, 65536);
    for (int left = -1; left != 0; --left) {
      const auto request = rooms.receive();
      ASSERT_TRUE(request);
      if (request->header.type == wire::Type::kStat) {
        s.reply(*request, wire::StatReply{});
        left = full.get_future().get() + 1;
      }
    }
    emptied.set_value();
    const auto first = rooms.receive();
    ASSERT_TRUE(first);
    EXPECT_EQ(first->header.type, wire::Type::kPut);
    held.set_value(first->as<wire::Put>());
    sent.set_value(rooms.put());
    while (s.receive()) continue;
  });
  Said said;
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  client->defer(1h);
  auto brief = client->reserve_ahead({.key = "brief", .length = 512, .held = true}, 5s);
  ASSERT_TRUE(brief && *brief);
  const auto lease = (*brief)->hold(512);
  ASSERT_TRUE(lease) << describe(lease.error());
  ASSERT_TRUE((*brief)->advance(512));
  (*brief)->limit(1ms);
  auto patient = writer_of(*client, "patient");
  EXPECT_TRUE(client->stat("x"));
  int acknowledged = 0;
  while (client->acknowledge(1)) ++acknowledged;
  (**std::move(brief)).commit(std::nullopt, said.as("brief"));
  std::move(patient).commit(std::nullopt, said.as("patient"));
  for (int i = 0; i < 5000 && said.all.empty(); ++i) {
    (void)client->flush();
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_THAT(said.all, ElementsAre(std::string("brief: ") + to_string(Errc::kTimeout)));
  full.set_value(acknowledged);
  emptied.get_future().wait();
  (void)client->flush();
  const auto put = held.get_future().get();
  ASSERT_EQ(put.bodies.size(), 1U);
  EXPECT_EQ(put.bodies[0].flags, wire::kPutHeldOnly);
  EXPECT_EQ(put.bodies[0].object_id, 100U);
  EXPECT_THAT(sent.get_future().get(), ElementsAre("patient"));
  look_until(*client, said, 2);
  ASSERT_EQ(said.all.size(), 2U);
  EXPECT_EQ(said.all[1], "patient: 1");
}

TEST(Post, ThoseOfManyThreadsAllArrive) {
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kEach = 200;
  std::promise<std::pair<std::size_t, std::size_t>> seen;
  FakeServer server([&](FakeServer& s) {
    RoomServer rooms(s, 65536);
    std::size_t bodies = 0;
    std::size_t messages = 0;
    for (; bodies < kThreads * kEach; ++messages) {
      const auto keys = rooms.put();
      ASSERT_FALSE(keys.empty());
      ASSERT_NE(keys.front(), "no PUT");
      bodies += keys.size();
    }
    seen.set_value({bodies, messages});
    while (s.receive()) continue;
  });
  std::atomic<std::size_t> done{0};
  auto client = connect_to(server);
  ASSERT_TRUE(client);
  client->defer(1h);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      for (std::size_t i = 0; i < kEach; ++i) {
        std::optional<Writer> writer;
        while (!writer) {
          auto one = client->reserve_ahead({.key = "k", .length = 64}, 5s);
          ASSERT_TRUE(one) << describe(one.error());
          writer = *std::move(one);  // none: another thread asks for the next room
        }
        ASSERT_TRUE(writer->advance(64));
        std::move(*writer).commit(std::nullopt, [&done](const Result<PutResult>& answer) {
          EXPECT_TRUE(answer);
          ++done;
        });
        if (i % 50 == 0) client->look();
      }
    });
  for (auto& thread : threads) thread.join();
  (void)client->flush();
  for (int i = 0; i < 5000 && done < kThreads * kEach; ++i) {
    std::this_thread::sleep_for(1ms);
    client->look();
  }
  EXPECT_EQ(done, kThreads * kEach);
  EXPECT_LT(seen.get_future().get().second, kThreads * kEach / 2);
}

}  // namespace
}  // namespace om::client
