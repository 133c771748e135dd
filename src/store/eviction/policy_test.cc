#include "store/eviction/policy.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <unordered_map>

namespace om::eviction {
namespace {

class EveryPolicy : public testing::TestWithParam<const char*> {};

TEST_P(EveryPolicy, AccountsBytesExactlyUnderRandomUse) {
  const auto policy = make_policy(GetParam(), 1'000'000);
  std::mt19937_64 random(7);
  std::unordered_map<std::uint64_t, std::uint64_t> model;
  std::uint64_t sum = 0;
  for (int step = 0; step < 60'000; ++step) {
    const std::uint64_t id = random() % 5000;
    switch (random() % 4) {
      case 0:
      case 1: {
        const std::uint64_t bytes = random() % 3000;
        sum -= model.count(id) != 0 ? model[id] : 0;
        model[id] = bytes;
        sum += bytes;
        policy->insert(id, bytes, id * 77);
        break;
      }
      case 2: policy->touch(id); break;
      default:
        EXPECT_EQ(policy->erase(id), model.count(id) != 0);
        if (model.count(id) != 0) sum -= model[id];
        model.erase(id);
    }
    while (policy->bytes() > 1'000'000) {
      const auto victim = policy->evict([](std::uint64_t v) { return v % 7 == 0; });
      ASSERT_TRUE(victim);
      ASSERT_NE(victim->id % 7, 0U);
      ASSERT_EQ(model.at(victim->id), victim->bytes);
      sum -= victim->bytes;
      model.erase(victim->id);
    }
    ASSERT_EQ(policy->bytes(), sum);
    ASSERT_EQ(policy->objects(), model.size());
  }
  for (const auto& [id, bytes] : model) EXPECT_TRUE(policy->contains(id));
  while (policy->evict()) {
  }
  EXPECT_EQ(policy->bytes(), 0U);
  EXPECT_EQ(policy->objects(), 0U);
}

TEST_P(EveryPolicy, PassesOverWhatIsLeasedAndDoesNotLoseIt) {
  const auto policy = make_policy(GetParam(), 1000);
  for (std::uint64_t id = 1; id <= 10; ++id) policy->insert(id, 100, id);
  for (std::uint64_t id = 1; id <= 5; ++id) policy->touch(id);
  const auto leased = [](std::uint64_t id) { return id % 2 == 1; };
  std::set<std::uint64_t> gone;
  while (const auto victim = policy->evict(leased)) gone.insert(victim->id);
  EXPECT_EQ(gone, (std::set<std::uint64_t>{2, 4, 6, 8, 10}));
  EXPECT_EQ(policy->objects(), 5U);
  while (const auto victim = policy->evict()) gone.insert(victim->id);
  EXPECT_EQ(gone.size(), 10U);
}

TEST_P(EveryPolicy, CostsAtMost80BytesAnObject) {
  const auto policy = make_policy(GetParam(), 100'000);
  for (std::uint64_t id = 1; id <= 200'000; ++id) {
    policy->insert(id, 1, id);
    while (policy->bytes() > 100'000) ASSERT_TRUE(policy->evict());
  }
  EXPECT_EQ(policy->objects(), 100'000U);
  EXPECT_LE(policy->memory_bytes() / policy->objects(), 80U);
}

INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicy, testing::Values("s3fifo", "sieve", "lru"));

TEST(S3Fifo, HotKeySurvivesAScanOfOneHitWonders) {
  const auto policy = make_s3fifo(100);
  policy->insert(1, 1, 1);
  policy->touch(1);
  for (std::uint64_t id = 2; id < 10'000; ++id) {
    policy->insert(id, 1, id);
    while (policy->bytes() > 100) ASSERT_TRUE(policy->evict());
  }
  EXPECT_TRUE(policy->contains(1));
  // LRU is swept.
  const auto lru = make_lru(100);
  lru->insert(1, 1, 1);
  lru->touch(1);
  for (std::uint64_t id = 2; id < 10'000; ++id) {
    lru->insert(id, 1, id);
    while (lru->bytes() > 100) ASSERT_TRUE(lru->evict());
  }
  EXPECT_FALSE(lru->contains(1));
}

TEST(S3Fifo, GhostComesBackIntoMain) {
  const auto policy = make_s3fifo(100);
  for (std::uint64_t id = 1; id <= 101; ++id) policy->insert(id, 1, 1000 + id);
  const auto victim = policy->evict();
  ASSERT_TRUE(victim);
  ASSERT_EQ(victim->id, 1U);
  // The same content under another id; it is remembered, so the scan does not sweep it out.
  policy->insert(5000, 1, 1001);
  for (std::uint64_t id = 200; id < 280; ++id) {
    policy->insert(id, 1, 1000 + id);
    while (policy->bytes() > 100) ASSERT_TRUE(policy->evict());
  }
  for (std::uint64_t id = 280; id < 500; ++id) {
    policy->insert(id, 1, 1000 + id);
    while (policy->bytes() > 100) ASSERT_TRUE(policy->evict());
  }
  EXPECT_TRUE(policy->contains(5000));
}

TEST(S3Fifo, UnknownIdsAreNoBusinessOfIts) {
  const auto policy = make_s3fifo(100);
  policy->touch(7);
  EXPECT_FALSE(policy->erase(7));
  EXPECT_FALSE(policy->evict());
  EXPECT_EQ(make_policy("clock", 1), nullptr);
}

}  // namespace
}  // namespace om::eviction
