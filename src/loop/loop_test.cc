#include "loop/loop.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <thread>

#include "loop/signals.h"
#include "posix/unix_socket.h"

namespace om {
namespace {

using std::chrono::milliseconds;

std::unique_ptr<Loop> make_loop() {
  auto loop = Loop::make();
  EXPECT_TRUE(loop);
  return *std::move(loop);
}

void send_byte(const UniqueFd& socket) { EXPECT_EQ(::write(socket.raw(), "x", 1), 1); }

TEST(Loop, TellsWhenADescriptorIsReadable) {
  auto loop = make_loop();
  auto pair = seqpacket_pair();
  ASSERT_TRUE(pair);
  int calls = 0;
  auto watch = loop->watch(pair->first.borrow(), EPOLLIN, [&](std::uint32_t) {
    std::array<char, 8> buffer{};
    EXPECT_EQ(::read(pair->first.raw(), buffer.data(), buffer.size()), 1);
    ++calls;
  });
  ASSERT_TRUE(watch);
  ASSERT_TRUE(loop->turn(milliseconds(0)));
  EXPECT_EQ(calls, 0);
  send_byte(pair->second);
  ASSERT_TRUE(loop->turn(milliseconds(1000)));
  EXPECT_EQ(calls, 1);
}

TEST(Loop, KeepsQuietAboutWhatNobodyWants) {
  auto loop = make_loop();
  auto pair = seqpacket_pair();
  ASSERT_TRUE(pair);
  int calls = 0;
  auto watch = loop->watch(pair->first.borrow(), EPOLLIN, [&](std::uint32_t) { ++calls; });
  ASSERT_TRUE(watch);
  watch->want(0);
  send_byte(pair->second);
  ASSERT_TRUE(loop->turn(milliseconds(0)));
  EXPECT_EQ(calls, 0);
  watch->want(EPOLLIN);
  ASSERT_TRUE(loop->turn(milliseconds(1000)));
  EXPECT_EQ(calls, 1);
}

TEST(Loop, DeliversNothingToWhatAHandlerForgotInTheSameTurn) {
  auto loop = make_loop();
  auto a = seqpacket_pair();
  auto b = seqpacket_pair();
  ASSERT_TRUE(a && b);
  int calls = 0;
  Watch watch_a;
  Watch watch_b;
  auto forget_both = [&](std::uint32_t) {
    ++calls;
    watch_a.reset();
    watch_b.reset();
    // The slot and the descriptor's number may be taken again at once.
    auto again = loop->watch(b->first.borrow(), 0, [&](std::uint32_t) { ADD_FAILURE(); });
    EXPECT_TRUE(again);
  };
  watch_a = *loop->watch(a->first.borrow(), EPOLLIN, forget_both);
  watch_b = *loop->watch(b->first.borrow(), EPOLLIN, forget_both);
  send_byte(a->second);
  send_byte(b->second);
  ASSERT_TRUE(loop->turn(milliseconds(1000)));
  EXPECT_EQ(calls, 1);
}

TEST(Loop, RunsTimersInTheirOrder) {
  auto loop = make_loop();
  std::string order;
  auto late = loop->after(milliseconds(20), [&] {
    order += "c";
    loop->stop();
  });
  auto soon = loop->after(milliseconds(0), [&] { order += "a"; });
  auto next = loop->after(milliseconds(5), [&] { order += "b"; });
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(order, "abc");
}

TEST(Loop, DoesNotCallACancelledTimer) {
  auto loop = make_loop();
  auto cancelled = loop->after(milliseconds(0), [] { FAIL(); });
  cancelled.reset();
  auto gone = std::make_unique<Timer>(loop->after(milliseconds(0), [] { FAIL(); }));
  auto canceller = loop->after(milliseconds(0), [&] { gone.reset(); });
  gone = std::make_unique<Timer>(loop->after(milliseconds(1), [] { FAIL(); }));
  auto end = loop->after(milliseconds(5), [&] { loop->stop(); });
  ASSERT_TRUE(loop->run());
}

TEST(Loop, ATimerThatSetsItselfAgainDoesNotStarveTheRest) {
  auto loop = make_loop();
  int calls = 0;
  Timer timer;
  std::function<void()> again = [&] {
    ++calls;
    timer = loop->after(milliseconds(0), again);
  };
  again();
  ASSERT_TRUE(loop->turn(milliseconds(1000)));
  EXPECT_LE(calls, 2);
}

TEST(Loop, DoesPostedWorkOnItsOwnThreadInOrder) {
  auto loop = make_loop();
  std::vector<int> order;
  const auto here = std::this_thread::get_id();
  std::thread other([&] {
    for (int i = 0; i < 100; ++i)
      loop->post([&, i] {
        EXPECT_EQ(std::this_thread::get_id(), here);
        order.push_back(i);
      });
    loop->post([&] { loop->stop(); });
  });
  ASSERT_TRUE(loop->run());
  other.join();
  ASSERT_EQ(order.size(), 100U);
  EXPECT_EQ(order.front(), 0);
  EXPECT_EQ(order.back(), 99);
}

TEST(Loop, StopsFromAnotherThread) {
  auto loop = make_loop();
  std::thread other([&] { loop->stop(); });
  ASSERT_TRUE(loop->run());
  other.join();
}

TEST(Loop, SurvivesManyDescriptorsComingAndGoing) {
  auto loop = make_loop();
  int calls = 0;
  for (int round = 0; round < 50; ++round) {
    auto pair = seqpacket_pair();
    ASSERT_TRUE(pair);
    auto watch = loop->watch(pair->first.borrow(), EPOLLIN, [&](std::uint32_t) { ++calls; });
    ASSERT_TRUE(watch);
    send_byte(pair->second);
    ASSERT_TRUE(loop->turn(milliseconds(1000)));
  }
  EXPECT_EQ(calls, 50);
}

TEST(Signals, ArriveAsEvents) {
  auto loop = make_loop();
  int got = 0;
  auto signals = Signals::make(*loop, {SIGUSR1, SIGUSR2}, [&](int number) {
    got = number;
    loop->stop();
  });
  ASSERT_TRUE(signals);
  ASSERT_EQ(::raise(SIGUSR2), 0);
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(got, SIGUSR2);
}

}  // namespace
}  // namespace om
