#include "lane_choice.h"

#include <gtest/gtest.h>

namespace om::vmod::lane {
namespace {

constexpr std::uint64_t kSizes[] = {1, 4096, kFileBytesMin - 1, kFileBytesMin, 64 * 1024 * 1024};
constexpr std::optional<Residency> kResidencies[] = {std::nullopt, Residency::kResident,
                                                     Residency::kAbsent, Residency::kUnknown};

// All that the file lane needs.
Facts good(DeliverySetting setting, std::uint64_t bytes, std::optional<Residency> residency) {
  Facts facts;
  facts.setting = setting;
  facts.http1 = facts.plain = facts.length_known = true;
  facts.bytes = bytes;
  facts.residency = residency;
  facts.worth_keeping = true;
  return facts;
}

TEST(LaneChoice, MappedIsNeverTheFileLane) {
  for (const std::uint64_t bytes : kSizes)
    for (const auto residency : kResidencies)
      EXPECT_EQ(choose(good(DeliverySetting::kMapped, bytes, residency)).lane, Lane::kMapped);
}

TEST(LaneChoice, FileIsTheFileLaneWheneverItCanBe) {
  for (const std::uint64_t bytes : kSizes)
    for (const auto residency : kResidencies)
      EXPECT_EQ(choose(good(DeliverySetting::kFile, bytes, residency)).lane, Lane::kFile);
}

TEST(LaneChoice, LargeBodiesThatAreAskedForTooRarelyGoPastThePageCache) {
  for (const std::uint64_t bytes : kSizes)
    for (const auto residency : kResidencies) {
      Facts facts = good(DeliverySetting::kAuto, bytes, residency);
      facts.worth_keeping = std::nullopt;
      EXPECT_EQ(choose(facts).lane == Lane::kDependsOnPopularity, bytes >= kFileBytesMin);
      facts.worth_keeping = false;
      EXPECT_EQ(choose(facts).lane == Lane::kFileGivenBack, bytes >= kFileBytesMin);
      facts.setting = DeliverySetting::kFile;
      EXPECT_EQ(choose(facts).lane, Lane::kFile);
    }
}

TEST(LaneChoice, EveryConditionIsNeededWhateverIsSet) {
  for (const DeliverySetting setting : {DeliverySetting::kAuto, DeliverySetting::kFile})
    for (bool Facts::*condition : {&Facts::http1, &Facts::plain, &Facts::length_known}) {
      Facts facts = good(setting, kFileBytesMin, Residency::kAbsent);
      ASSERT_EQ(choose(facts).lane, Lane::kFile);
      facts.*condition = false;
      EXPECT_EQ(choose(facts).lane, Lane::kMapped) << choose(facts).because;
      facts.residency = std::nullopt;  // and nobody is asked for it
      EXPECT_EQ(choose(facts).lane, Lane::kMapped) << choose(facts).because;
    }
}

TEST(LaneChoice, AutoSendsByFileWhatIsLargeOrNotResident) {
  struct Row {
    std::uint64_t bytes;
    std::optional<Residency> residency;
    Lane lane;
  };
  const Row rows[] = {
      {kFileBytesMin, std::nullopt, Lane::kFile},
      {kFileBytesMin, Residency::kResident, Lane::kFile},
      {kFileBytesMin - 1, std::nullopt, Lane::kDependsOnResidency},
      {kFileBytesMin - 1, Residency::kResident, Lane::kMapped},
      {kFileBytesMin - 1, Residency::kAbsent, Lane::kFile},
      {kFileBytesMin - 1, Residency::kUnknown, Lane::kFile},
      {1, Residency::kAbsent, Lane::kFile},
  };
  for (const Row& row : rows) {
    const Choice choice = choose(good(DeliverySetting::kAuto, row.bytes, row.residency));
    EXPECT_EQ(choice.lane, row.lane) << row.bytes;
    EXPECT_EQ(choice.because.empty(), choice.lane == Lane::kDependsOnResidency);
  }
}

}  // namespace
}  // namespace om::vmod::lane
