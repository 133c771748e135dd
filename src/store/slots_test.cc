#include "store/slots.h"

#include <gtest/gtest.h>

#include <random>

namespace om::store {
namespace {

constexpr SegmentId kA = 1;
constexpr SegmentId kB = 2;

TEST(Slots, TakesTheSmallestHoleThatFits) {
  Slots slots;
  slots.add_segment(kA, 4096);
  slots.add_segment(kB, 1024);
  const auto taken = slots.take(1000);
  ASSERT_TRUE(taken);
  ASSERT_EQ(taken->size(), 1U);
  EXPECT_EQ(taken->front(), (Extent{kB, 0, 1000}));
  EXPECT_EQ(slots.free_bytes(), 4096U);
}

TEST(Slots, MergesNeighbours) {
  Slots slots;
  slots.add_segment(kA, 4096);
  std::vector<Extent> taken;
  taken.reserve(64);
  for (int i = 0; i < 64; ++i) taken.push_back(slots.take(64)->front());
  EXPECT_FALSE(slots.take(1));
  for (std::size_t i = 0; i < 64; i += 2) slots.give_back(taken[i]);
  EXPECT_EQ(slots.largest_hole(), 64U);
  for (std::size_t i = 1; i < 64; i += 2) slots.give_back(taken[i]);
  EXPECT_TRUE(slots.is_free(kA));
  slots.remove_segment(kA);
  EXPECT_EQ(slots.total_bytes(), 0U);
}

TEST(Slots, ALargeBodyTakesSeveralHoles) {
  Slots slots;
  slots.add_segment(kA, 1024);
  slots.add_segment(kB, 1024);
  const auto taken = slots.take(1500);
  ASSERT_TRUE(taken);
  ASSERT_EQ(taken->size(), 2U);
  EXPECT_EQ((*taken)[0].length + (*taken)[1].length, 1500U);
}

TEST(Slots, SeveralHolesGiveWholePieces) {
  Slots slots;
  slots.add_segment(1, 10 * 1024);
  // Holes of 3, 1.5 and 2 KiB.
  ASSERT_TRUE(slots.take_exactly({1, 3072, 512}));
  ASSERT_TRUE(slots.take_exactly({1, 5120, 512}));
  ASSERT_TRUE(slots.take_exactly({1, 7680, 2560}));
  ASSERT_EQ(slots.free_bytes(), 6656U);
  const auto free = slots.free_bytes();
  EXPECT_EQ(slots.take(5 * 1024, 2048), std::nullopt);
  EXPECT_EQ(slots.free_bytes(), free);
  const auto pieces = slots.take(6 * 1024, 1024);
  ASSERT_TRUE(pieces);
  ASSERT_EQ(pieces->size(), 3U);
  for (const Extent& extent : *pieces) EXPECT_EQ(extent.length % 1024, 0U);
  EXPECT_EQ((*pieces)[0].length, 3072U);
  EXPECT_EQ((*pieces)[1].length, 2048U);
  EXPECT_EQ((*pieces)[2].length, 1024U);
  EXPECT_EQ(slots.free_bytes(), 512U);
}

TEST(Slots, AnEmptyBodyHasASlotToo) {
  Slots slots;
  slots.add_segment(kA, 64);
  const auto taken = slots.take(0);
  ASSERT_TRUE(taken);
  EXPECT_EQ(taken->front().length, 0U);
  EXPECT_FALSE(slots.take(0));
}

TEST(Slots, RecoveryRefusesWhatIsTakenOrOutside) {
  Slots slots;
  slots.add_segment(kA, 1024);
  EXPECT_TRUE(slots.take_exactly({kA, 128, 100}));
  EXPECT_FALSE(slots.take_exactly({kA, 192, 64}));
  EXPECT_FALSE(slots.take_exactly({kA, 960, 65}));
  EXPECT_FALSE(slots.take_exactly({kA, 1024, 1}));
  EXPECT_FALSE(slots.take_exactly({kA, ~std::uint64_t{63}, 64}));
  EXPECT_FALSE(slots.take_exactly({kA, 0, ~std::uint64_t{0}}));
  EXPECT_FALSE(slots.take_exactly({kB, 0, 64}));
  EXPECT_FALSE(slots.take_exactly({kA, 7, 8}));
  EXPECT_TRUE(slots.take_exactly({kA, 0, 128}));
}

TEST(Slots, RecoveryTakesWhatIsFreeOfARoom) {
  Slots slots;
  slots.add_segment(kA, 1024);
  ASSERT_TRUE(slots.take_exactly({kA, 128, 64}));
  ASSERT_TRUE(slots.take_exactly({kA, 320, 100}));
  using Extents = std::vector<Extent>;
  EXPECT_EQ(slots.take_free_of({kA, 64, 400}),
            (Extents{{kA, 64, 64}, {kA, 192, 128}, {kA, 448, 16}}));
  EXPECT_EQ(slots.take_free_of({kA, 64, 400}), Extents{});
  EXPECT_EQ(slots.take_free_of({kA, 512, 512}), (Extents{{kA, 512, 512}}));
  EXPECT_EQ(slots.take_free_of({kA, 512, 1024}), Extents{});
  EXPECT_EQ(slots.take_free_of({kB, 0, 64}), Extents{});
  EXPECT_EQ(slots.free_bytes(), 64U);
}

TEST(Slots, NothingOverlapsAndNothingIsLost) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    Slots slots;
    constexpr std::uint64_t kSize = 1 << 16;
    slots.add_segment(kA, kSize);
    slots.add_segment(kB, kSize);
    std::vector<std::vector<Extent>> live;
    std::vector<std::vector<bool>> used(3, std::vector<bool>(kSize / Slots::kGranule));
    const auto mark = [&](const Extent& extent, bool value) {
      for (std::uint64_t at = extent.offset; at < extent.offset + Slots::rounded(extent.length);
           at += Slots::kGranule) {
        ASSERT_NE(used[extent.segment][at / Slots::kGranule], value);
        used[extent.segment][at / Slots::kGranule] = value;
      }
    };
    for (int step = 0; step < 2000; ++step) {
      if (random() % 2 == 0) {
        auto taken = slots.take(random() % 5000);
        if (!taken) continue;
        for (const auto& extent : *taken) mark(extent, true);
        live.push_back(std::move(*taken));
      } else if (!live.empty()) {
        std::swap(live[random() % live.size()], live.back());
        for (const auto& extent : live.back()) {
          mark(extent, false);
          slots.give_back(extent);
        }
        live.pop_back();
      }
    }
    for (const auto& extents : live)
      for (const auto& extent : extents) slots.give_back(extent);
    EXPECT_TRUE(slots.is_free(kA) && slots.is_free(kB));
    EXPECT_EQ(slots.free_bytes(), 2 * kSize);
  }
}

}  // namespace
}  // namespace om::store
