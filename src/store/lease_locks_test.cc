#include "store/lease_locks.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <unordered_map>
#include <vector>

#include "posix/file.h"
#include "posix/memfd.h"
#include "posix/range_lock.h"

namespace om::store {
namespace {

class LeaseLocksTest : public ::testing::Test {
 protected:
  [[nodiscard]] bool locked(std::uint64_t object) const {
    return *range_is_locked(looking.borrow(), object, 1);
  }
  // Locked ranges, as the kernel has merged them.
  [[nodiscard]] std::size_t ranges() const {
    std::size_t count = 0;
    std::uint64_t from = 0;
    while (const auto range = *first_locked(looking.borrow(), from, (1ULL << 62) - from)) {
      ++count;
      from = range->offset + range->length;
    }
    return count;
  }
  UniqueFd memfd = *make_memfd("locks", 4096);
  UniqueFd file = *reopen(memfd.borrow(), O_RDONLY);
  UniqueFd looking = *reopen(memfd.borrow(), O_RDWR);
  LeaseLocks locks;
};

TEST_F(LeaseLocksTest, WhatIsPinnedIsLockedAndIsUnlockedInTheEnd) {
  ASSERT_TRUE(locks.add(file.borrow(), 1000));
  ASSERT_TRUE(locks.add(file.borrow(), 1000));
  ASSERT_TRUE(locks.add(file.borrow(), 5000));
  EXPECT_TRUE(locked(1000) && locked(5000));
  EXPECT_FALSE(locked(3000));
  locks.remove(file.borrow(), 1000);
  locks.settle(file.borrow());
  EXPECT_TRUE(locked(1000));
  locks.remove(file.borrow(), 1000);
  EXPECT_EQ(locks.idle(), 1U);
  locks.settle(file.borrow());
  EXPECT_FALSE(locked(1000));
  EXPECT_TRUE(locked(5000));
  locks.remove(file.borrow(), 5000);
  locks.settle(file.borrow());
  EXPECT_EQ(ranges(), 0U);
}

TEST_F(LeaseLocksTest, AGoneHolderHasNoLocks) {
  ASSERT_TRUE(locks.add(file.borrow(), 7));
  file.reset();
  EXPECT_FALSE(locked(7));
}

// Tens of thousands of pins, far from each other: the kernel's list stays short, and nothing that
// is pinned is ever unlocked.
TEST_F(LeaseLocksTest, ManyPinsFarApartAreFewLocks) {
  std::mt19937_64 random(1);
  std::unordered_map<std::uint64_t, int> pins;
  std::vector<std::uint64_t> order;
  for (int i = 0; i < 60000; ++i) {
    const std::uint64_t object = random() % 100'000'000;
    ASSERT_TRUE(locks.add(file.borrow(), object));
    ++pins[object];
    order.push_back(object);
    ASSERT_LE(locks.blocks(), LeaseLocks::kBlocksMax);
    if (i % 1000 == 0) {
      ASSERT_LE(ranges(), LeaseLocks::kBlocksMax);
      for (int look = 0; look < 200; ++look) ASSERT_TRUE(locked(order[random() % order.size()]));
    }
  }
  std::shuffle(order.begin(), order.end(), random);
  for (std::size_t i = 0; i < order.size(); ++i) {
    locks.remove(file.borrow(), order[i]);
    if (i % 1000 != 0) continue;
    for (int look = 0; look < 50 && i + 1 < order.size(); ++look)
      ASSERT_TRUE(locked(order[i + 1 + random() % (order.size() - i - 1)]));
  }
  locks.settle(file.borrow());
  EXPECT_EQ(ranges(), 0U);
  // And it begins anew with small blocks.
  ASSERT_TRUE(locks.add(file.borrow(), 1000));
  EXPECT_FALSE(locked(2000));
}

// One lease at a time on objects in any order, as a reader without batches has.
TEST_F(LeaseLocksTest, IdleLocksAreFew) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t object = random() % 1'000'000;
    ASSERT_TRUE(locks.add(file.borrow(), object));
    locks.remove(file.borrow(), object);
    ASSERT_LE(locks.blocks(), LeaseLocks::kIdleMax + 1);
  }
}

}  // namespace
}  // namespace om::store
