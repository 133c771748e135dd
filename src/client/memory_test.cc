// Memory that ends in the middle of a request: whoever asked is told, and the connection knows of
// nobody any more who is not there. A program of its own, for it has an operator new of its own,
// which fails where a test says so.
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <future>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "client/client_testing.h"
#include "client/connection.h"
#include "client/deadline.h"

namespace {

// Of this thread, until one fails. -1: none does.
thread_local long allocations_left = -1;

void* allocate(std::size_t bytes) noexcept {
  if (allocations_left >= 0 && allocations_left-- == 0) return nullptr;
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

// While it is there, one allocation of this thread fails: after so many that do not.
class LackOfMemory {
 public:
  explicit LackOfMemory(long after) { allocations_left = after; }
  LackOfMemory(const LackOfMemory&) = delete;
  LackOfMemory& operator=(const LackOfMemory&) = delete;
  ~LackOfMemory() { allocations_left = -1; }
  [[nodiscard]] bool came() const { return allocations_left < 0; }
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

}  // namespace
}  // namespace om::client
