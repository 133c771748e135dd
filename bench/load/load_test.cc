#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "load/content.h"
#include "load/pace.h"
#include "load/targets.h"

namespace om::load {
namespace {

using std::chrono::milliseconds;

TEST(Pace, ARequestIsDueAtItsInstantHoweverLateTheServerIs) {
  const auto begin = Clock::now();
  const Pace pace(100, 0, 2, begin);
  EXPECT_EQ(pace.due(0, begin), begin);
  EXPECT_EQ(pace.due(50, begin + milliseconds(900)), begin + milliseconds(500));
  EXPECT_EQ(pace.wait(50, begin + milliseconds(900)), Clock::duration::zero());
  EXPECT_EQ(pace.wait(50, begin + milliseconds(400)), milliseconds(100));
}

TEST(Pace, WhatIsDueIsSentLateOrReportedNeverForgotten) {
  const auto begin = Clock::now();
  const Pace pace(100, 0, 2, begin);
  EXPECT_FALSE(pace.done(150, begin + milliseconds(2500)));
  EXPECT_TRUE(pace.done(200, begin + milliseconds(1999)));
  EXPECT_TRUE(pace.done(150, begin + milliseconds(4001)));
  EXPECT_EQ(pace.unsent(150), 50U);
  EXPECT_EQ(pace.unsent(200), 0U);
}

TEST(Pace, AClosedLoopIsDueAtOnceAndEndsByTimeOrCount) {
  const auto begin = Clock::now();
  const Pace timed(0, 0, 1, begin);
  EXPECT_EQ(timed.due(7, begin + milliseconds(3)), begin + milliseconds(3));
  EXPECT_FALSE(timed.done(1'000'000, begin + milliseconds(999)));
  EXPECT_TRUE(timed.done(0, begin + milliseconds(1000)));
  const Pace counted(0, 10, 1, begin);
  EXPECT_FALSE(counted.done(9, begin + std::chrono::hours(1)));
  EXPECT_TRUE(counted.done(10, begin));
}

TEST(Content, BodiesOfPathsAndOfShiftsAreDifferent) {
  const Content& content = Content::instance();
  EXPECT_EQ(body_length("/o/64K/a"), 65536U);
  EXPECT_EQ(body_length("/o/77/a"), 77U);
  EXPECT_FALSE(body_length("/o/64X/a"));
  EXPECT_FALSE(body_length("/x"));
  const std::string_view a = content.piece("/o/1K/a", 0, 1024);
  EXPECT_EQ(a.size(), 1024U);
  EXPECT_TRUE(content.equal("/o/1K/a", 0, a));
  EXPECT_FALSE(content.equal("/o/1K/b", 0, a));
  EXPECT_FALSE(content.equal("/o/1K/a", 1, a));
  // The table goes round at no multiple of a block.
  for (std::uint64_t shift = 4096; shift <= (std::uint64_t{1} << 30); shift *= 2)
    EXPECT_FALSE(content.equal("/o/1K/a", shift, a)) << shift;
  const std::string_view long_one = content.piece("/o/9M/a", 5'000'000, 4'000'000);
  EXPECT_TRUE(content.equal("/o/9M/a", 5'000'000, long_one));
}

TEST(Targets, LinesOfPathsAndOfTraces) {
  std::istringstream in("/x 10 ff\n# remark\n\n/o/4K/n\nkey7 300 1700000000\n");
  const auto targets = read_targets(in);
  ASSERT_EQ(targets.size(), 3U);
  EXPECT_EQ(targets[0].hash, 0xffU);
  EXPECT_EQ(targets[1].length, 4096U);
  EXPECT_EQ(targets[2].path, "/o/300/key7");
  EXPECT_EQ(targets[2].length, 300U);
}

TEST(Chooser, ZipfAsksForTheFirstMostAndOneSeedIsOneOrder) {
  Chooser one(100, false, 0.9, 7);
  Chooser two(100, false, 0.9, 7);
  std::map<std::size_t, int> seen;
  for (int i = 0; i < 20000; ++i) {
    const std::size_t at = one.next();
    ASSERT_EQ(at, two.next());
    ++seen[at];
  }
  EXPECT_GT(seen[0], seen[10]);
  EXPECT_GT(seen[10], seen[99]);
  // Rank 1 against rank 2 is 2^0.9.
  EXPECT_NEAR(static_cast<double>(seen[0]) / seen[1], 1.87, 0.25);
}

}  // namespace
}  // namespace om::load
