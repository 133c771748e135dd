#include "lease_budget.h"

#include <gtest/gtest.h>

namespace om::vmod {
namespace {

using std::chrono::milliseconds;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

struct Cache {
  LeaseBudget& budget;
  std::uint64_t bytes = 0;
  // As a fetch does: what is too much goes, then one more comes.
  void take(LeaseBudget::Time now) {
    while (bytes > 0 && budget.is_over(now)) {
      budget.came_back(kMiB);
      bytes -= kMiB;
    }
    budget.lent(kMiB);
    bytes += kMiB;
  }
};

TEST(LeaseBudget, BorrowsWithoutLimitUntilTheDaemonIsShort) {
  LeaseBudget budget;
  LeaseBudget::Time now{std::chrono::hours(1)};
  budget.lent(1000 * kMiB);
  EXPECT_FALSE(budget.is_over(now));
  budget.is_short(now);
  EXPECT_TRUE(budget.is_over(now));
  budget.came_back(32 * kMiB);
  EXPECT_FALSE(budget.is_over(now));
}

TEST(LeaseBudget, AShortageThatIsToldManyTimesIsOne) {
  LeaseBudget budget;
  LeaseBudget::Time now{std::chrono::hours(1)};
  budget.lent(1024 * kMiB);
  for (int i = 0; i < 100; ++i) budget.is_short(now + milliseconds(i));
  budget.came_back(32 * kMiB);
  EXPECT_FALSE(budget.is_over(now + milliseconds(100)));
  // It lasts: again a little less.
  budget.is_short(now + milliseconds(100));
  EXPECT_TRUE(budget.is_over(now + milliseconds(100)));
}

TEST(LeaseBudget, GrowsAgainOnceASecondWhileItIsUsed) {
  LeaseBudget budget;
  LeaseBudget::Time now{std::chrono::hours(1)};
  budget.lent(1024 * kMiB);
  budget.is_short(now);
  // Not before that much is gone.
  EXPECT_TRUE(budget.is_over(now + milliseconds(1500)));
  budget.came_back(32 * kMiB);
  EXPECT_FALSE(budget.is_over(now + milliseconds(999)));
  budget.lent(4 * kMiB);
  EXPECT_TRUE(budget.is_over(now + milliseconds(999)));
  budget.came_back(4 * kMiB);
  EXPECT_FALSE(budget.is_over(now + milliseconds(1000)));
  budget.lent(4 * kMiB);
  EXPECT_FALSE(budget.is_over(now + milliseconds(1001)));
  budget.lent(kMiB);
  EXPECT_TRUE(budget.is_over(now + milliseconds(1001)));
  // And not while nobody needs it.
  budget.came_back(900 * kMiB);
  EXPECT_FALSE(budget.is_over(now + milliseconds(60'000)));
  budget.lent(900 * kMiB);
  EXPECT_TRUE(budget.is_over(now + milliseconds(1002)));
}

TEST(LeaseBudget, ALittleIsAlwaysFree) {
  LeaseBudget budget;
  const LeaseBudget::Time now{std::chrono::hours(1)};
  budget.is_short(now);
  budget.lent(16 * kMiB);
  EXPECT_FALSE(budget.is_over(now));
  budget.lent(kMiB);
  EXPECT_TRUE(budget.is_over(now));
}

TEST(LeaseBudget, TwoCachesFindRoomBesideEachOther) {
  constexpr std::uint64_t kThere = 1000 * kMiB;
  LeaseBudget first;
  LeaseBudget second;
  Cache a{first};
  Cache b{second};
  LeaseBudget::Time now{std::chrono::hours(1)};
  // The first was there before.
  while (a.bytes < kThere) a.take(now);
  std::uint64_t refused = 0;
  for (int i = 0; i < 60'000; ++i, now += milliseconds(1)) {
    for (Cache* one : {&a, &b}) {
      one->take(now);
      if (a.bytes + b.bytes <= kThere) continue;
      ++refused;
      first.is_short(now);
      second.is_short(now);
      // Who asked last is refused.
      one->budget.came_back(kMiB);
      one->bytes -= kMiB;
    }
  }
  // Most of the time there is room, and most of it is used by both.
  EXPECT_LT(refused, 120'000U / 4);
  EXPECT_GT(a.bytes + b.bytes, kThere * 9 / 10);
  EXPECT_GT(b.bytes, kThere / 8);
}

}  // namespace
}  // namespace om::vmod
