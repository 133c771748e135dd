#include "fetch_clock.h"

#include <gtest/gtest.h>

namespace om::vmod {
namespace {

constexpr double kReal = 1.7e9;
constexpr double kUp = 5000;
constexpr double kNear = 1e-3;

// Both clocks, the real one set by hand.
struct Clocks {
  double real = kReal;
  double monotonic = kUp;
  void pass(double seconds) {
    real += seconds;
    monotonic += seconds;
  }
};

void look(FetchClock& clock, const Clocks& at) {
  EXPECT_FALSE(clock.is_settled(at.real, at.monotonic));
  clock.look(at.real, at.monotonic);
}

TEST(FetchClock, KnowsWhenWhatBeganWhereNobodySetsTheClock) {
  FetchClock clock;
  Clocks at;
  look(clock, at);
  at.pass(1e6);
  EXPECT_TRUE(clock.is_settled(at.real, at.monotonic));
  EXPECT_NEAR(clock.earliest(at.real), at.monotonic, kNear);
  EXPECT_EQ(clock.set_back(), 0);
}

TEST(FetchClock, TakesWhatBeganBeforeASetBackAsThatAndTheRestAsOlderForSomeTime) {
  FetchClock clock;
  Clocks at;
  look(clock, at);
  at.pass(1e5);  // nobody looks for long
  const Clocks began = at;
  at.pass(3);
  at.real -= 5;
  const Clocks removed = at;
  look(clock, at);
  EXPECT_NEAR(clock.set_back(), 5, kNear);
  // By the real time that fetch is newer than what is removed now, and no longer in the future
  // soon.
  EXPECT_GT(began.real, removed.real);
  EXPECT_NEAR(clock.earliest(began.real), began.monotonic, kNear);
  EXPECT_LT(clock.earliest(began.real), removed.monotonic);
  at.pass(10);
  EXPECT_NEAR(clock.earliest(at.real), at.monotonic - 5, kNear);
  at.pass(FetchClock::kRemembered - 20);
  look(clock, at);
  EXPECT_NEAR(clock.set_back(), 5, kNear);
  at.pass(20);
  look(clock, at);
  EXPECT_EQ(clock.set_back(), 0);
  EXPECT_NEAR(clock.earliest(at.real), at.monotonic, kNear);
  EXPECT_TRUE(clock.is_settled(at.real, at.monotonic));
}

TEST(FetchClock, RemembersNothingOfATimeThatIsFarAway) {
  FetchClock clock;
  Clocks at;
  at.real += 1e8;
  look(clock, at);
  at.pass(1);
  at.real -= 1e8;
  look(clock, at);
  EXPECT_EQ(clock.set_back(), 0);
  EXPECT_NEAR(clock.earliest(at.real), at.monotonic, kNear);
}

TEST(FetchClock, TakesWhatBeganBeforeTheClockWasSetForwardAsOlder) {
  FetchClock clock;
  Clocks at;
  look(clock, at);
  const Clocks before = at;
  at.pass(1);
  at.real += 1e8;
  look(clock, at);
  EXPECT_NEAR(clock.earliest(at.real), at.monotonic, kNear);
  EXPECT_LT(clock.earliest(before.real), before.monotonic);
  EXPECT_EQ(clock.set_back(), 0);
  // By little, and back again.
  at.real += 60;
  look(clock, at);
  at.pass(1);
  const Clocks between = at;
  at.real -= 60;
  look(clock, at);
  EXPECT_NEAR(clock.earliest(between.real), between.monotonic, kNear);
  EXPECT_NEAR(clock.set_back(), 60, kNear);
}

TEST(FetchClock, IsNotMisledByWhatGoesByBetweenReadingTheTwo) {
  FetchClock clock;
  Clocks at;
  at.real += 5e-4;
  look(clock, at);
  at.real -= 5e-4;
  // As long as it is the same one it holds.
  for (int i = 0; i < 10; ++i) {
    at.pass(FetchClock::kRemembered / 2);
    EXPECT_TRUE(clock.is_settled(at.real, at.monotonic));
    clock.look(at.real, at.monotonic);
    EXPECT_EQ(clock.set_back(), 0);
  }
  at.pass(1);
  at.real -= 5;
  look(clock, at);
  at.pass(FetchClock::kRemembered - 1);
  look(clock, at);
  EXPECT_NEAR(clock.set_back(), 5, kNear);
}

}  // namespace
}  // namespace om::vmod
