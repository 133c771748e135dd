#include "adopt.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <set>

#include "region/record.h"

namespace om::vmod::adoption {
namespace {

constexpr double kNow = 1'000'000;

// Records as a region's scan would hand them over.
class AdoptionPlan : public testing::Test {
 protected:
  struct About {
    std::uint8_t digest = 1;
    std::string vary;
    double t_origin = kNow - 10;
    float ttl = 100;
    double ban_time = 500;
    double last_used = kNow;
  };

  region::Record& add(const About& about) {
    region::RecordPlan plan;
    plan.digest.fill(about.digest);
    plan.vxid = scan_.candidates.size() + 1;
    plan.attribute_bytes = 256;
    memory_.push_back(std::make_unique<std::byte[]>(region::record_bytes(plan) + 64));
    auto* at = memory_.back().get();
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    at += (64 - address % 64) % 64;
    region::Record& record = *region::init_record(at, 4096, 1, plan);
    if (!about.vary.empty()) {
      const auto length = static_cast<std::uint32_t>(about.vary.size());
      std::memcpy(region::set_variable(record, region::Variable::kVary, length), about.vary.data(),
                  length);
    }
    std::memset(region::set_variable(record, region::Variable::kHeaders, 16), 'h', 16);
    region::set_timers(record, {about.t_origin, about.ttl, 0, 0});
    region::store_double(record.ban_time, about.ban_time);
    region::store_double(record.last_used, about.last_used);
    record.oa_present = 1 | 1U << 6;
    scan_.candidates.push_back({scan_.candidates.size(), &record});
    return record;
  }
  [[nodiscard]] Plan decide(double oldest_ban = 100, double lost_until = 0) const {
    return plan(scan_, kNow, oldest_ban, lost_until);
  }
  static std::uint64_t dropped(const Plan& plan, Reason reason) {
    return plan.dropped[static_cast<std::size_t>(reason)];
  }

  region::ScanReport scan_;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

TEST_F(AdoptionPlan, KeepsWhatIsAliveLeastRecentlyUsedFirst) {
  region::Record& later = add({.digest = 1, .vary = {}, .last_used = 20});
  region::Record& earlier = add({.digest = 2, .vary = {}, .last_used = 10});
  const Plan plan = decide();
  ASSERT_EQ(plan.keep.size(), 2U);
  ASSERT_EQ(plan.by_use.size(), 2U);
  EXPECT_EQ(plan.keep[plan.by_use[0]].record, &earlier);
  EXPECT_EQ(plan.keep[plan.by_use[1]].record, &later);
}

TEST_F(AdoptionPlan, KnowsWhoseBodiesLieInTheDaemon) {
  add({.digest = 3, .vary = {}}).flags |= region::kBodyLent;
  add({.digest = 1, .vary = {}});
  add({.digest = 2, .vary = {}, .last_used = 5}).flags |= region::kBodyLent;
  add({.digest = 4, .vary = {}, .t_origin = kNow - 101}).flags |= region::kBodyLent;
  Plan plan = decide();
  ASSERT_EQ(plan.keep.size(), 3U);
  EXPECT_EQ(plan.lent, (std::vector<std::size_t>{1, 2}));
  keep_only(plan, {false, true, true});
  EXPECT_EQ(plan.lent, (std::vector<std::size_t>{0, 1}));
  EXPECT_EQ(plan.by_use, (std::vector<std::size_t>{0, 1}));
  EXPECT_EQ(plan.keep[0].record->digest[0], 2);
  keep_only(plan, {true, false});
  EXPECT_EQ(plan.lent, (std::vector<std::size_t>{0}));
}

TEST_F(AdoptionPlan, DropsTheExpired) {
  add({.vary = {}, .t_origin = kNow - 101});
  EXPECT_TRUE(decide().keep.empty());
  EXPECT_EQ(dropped(decide(), Reason::kExpired), 1U);
}

TEST_F(AdoptionPlan, KeepsTheNewestOfEachVariant) {
  add({.vary = "a", .t_origin = kNow - 20});
  region::Record& newest_a = add({.vary = "a", .t_origin = kNow - 10});
  region::Record& only_b = add({.vary = "b", .t_origin = kNow - 20});
  const Plan plan = decide();
  ASSERT_EQ(plan.keep.size(), 2U);
  for (const auto& candidate : plan.keep)
    EXPECT_TRUE(candidate.record == &newest_a || candidate.record == &only_b);
  EXPECT_EQ(dropped(plan, Reason::kReplaced), 1U);
}

TEST_F(AdoptionPlan, AnExpiredNewerOneDoesNotBringTheOlderOneBack) {
  add({.vary = {}, .t_origin = kNow - 50, .ttl = 1000});
  add({.vary = {}, .t_origin = kNow - 20, .ttl = 10});
  const Plan plan = decide();
  EXPECT_TRUE(plan.keep.empty());
  EXPECT_EQ(dropped(plan, Reason::kReplaced), 1U);
  EXPECT_EQ(dropped(plan, Reason::kExpired), 1U);
}

TEST_F(AdoptionPlan, DropsWhatALostBanMayHaveMatched) {
  add({.vary = {}, .ban_time = 500});
  EXPECT_EQ(decide(100, 499).keep.size(), 1U);
  EXPECT_EQ(decide(100, 501).keep.size(), 0U);
  EXPECT_EQ(decide(100, std::numeric_limits<double>::infinity()).keep.size(), 0U);
}

TEST_F(AdoptionPlan, DropsWhatHasNoPlaceInTheBanListAnyMore) {
  add({.vary = {}, .ban_time = 99});
  EXPECT_EQ(dropped(decide(100, 0), Reason::kBanLost), 1U);
}

TEST_F(AdoptionPlan, DropsTimersThatAreNoNumbersAndBodiesOfAnotherLength) {
  region::store_double(add({.digest = 1, .vary = {}}).t_origin,
                       std::numeric_limits<double>::quiet_NaN());
  add({.digest = 2, .vary = {}}).body_length = 7;
  add({.digest = 3, .vary = {}}).oa_present = 0;
  const Plan plan = decide();
  EXPECT_TRUE(plan.keep.empty());
  EXPECT_EQ(dropped(plan, Reason::kUnusable), 3U);
}

TEST_F(AdoptionPlan, OrdersManyByUseAndByDigest) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 3000; ++i) {
    region::Record& record = add({.vary = {}, .last_used = kNow - static_cast<double>(random())});
    for (std::uint8_t& byte : record.digest) byte = static_cast<std::uint8_t>(random());
  }
  const Plan plan = decide();
  ASSERT_EQ(plan.keep.size(), 3000U);
  EXPECT_TRUE(std::ranges::is_sorted(
      plan.keep, {}, [](const auto& candidate) { return candidate.record->digest; }));
  EXPECT_TRUE(std::ranges::is_sorted(plan.by_use, {}, [&](std::size_t place) {
    return region::load_double(plan.keep[place].record->last_used);
  }));
  EXPECT_EQ(std::set(plan.by_use.begin(), plan.by_use.end()).size(), plan.keep.size());
}

TEST_F(AdoptionPlan, ADiskThatIsSmallerKeepsWhatWasUsedLast) {
  for (std::uint8_t i = 1; i <= 9; ++i) {
    region::Record& record =
        add({.digest = static_cast<std::uint8_t>(10 - i), .vary = {}, .last_used = i * 1.});
    region::set_file(record, {.number = i, .inode = i, .length = 100'000});
    record.fixed.len[5] = 1;  // 0x186a0, big endian
    record.fixed.len[6] = 0x86;
    record.fixed.len[7] = 0xa0;
  }
  Plan plan = decide();
  ASSERT_EQ(plan.keep.size(), 9U);
  fit_to_disk(plan, 4 * region::BodyFiles::blocks(100'000));
  EXPECT_EQ(dropped(plan, Reason::kNoDisk), 5U);
  ASSERT_EQ(plan.keep.size(), 4U);
  // Their digests fall as their use rises.
  EXPECT_EQ(region::load_double(plan.keep.front().record->last_used), 9.);
  EXPECT_EQ(region::load_double(plan.keep.back().record->last_used), 6.);
  EXPECT_EQ(plan.by_use, (std::vector<std::size_t>{3, 2, 1, 0}));
}

TEST_F(AdoptionPlan, SaysWhyInWords) {
  add({.vary = {}, .t_origin = kNow - 101});
  EXPECT_EQ(describe_reasons(decide().dropped), "1 expired");
}

}  // namespace
}  // namespace om::vmod::adoption
