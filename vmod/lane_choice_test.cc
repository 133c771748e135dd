#include "lane_choice.h"

#include <gtest/gtest.h>

namespace om::vmod::lane {
namespace {

constexpr std::uint64_t kSmall = 4096;
constexpr std::uint64_t kLarge = 64 * 1024 * 1024;

// All that the file lane needs, for a peer elsewhere.
Facts good(std::uint64_t bytes = kLarge) {
  Facts facts;
  facts.http1 = facts.plain = facts.length_known = true;
  facts.bytes = bytes;
  return facts;
}

TEST(LaneChoice, MappedIsNeverTheFileLane) {
  for (const Peer peer : {Peer::kUnix, Peer::kThisMachine, Peer::kElsewhere})
    for (const Residency residency :
         {Residency::kResident, Residency::kAbsent, Residency::kUnknown}) {
      Facts facts = good();
      facts.setting = DeliverySetting::kMapped;
      facts.peer = peer;
      facts.residency = residency;
      EXPECT_EQ(choose(facts).lane, Lane::kMapped);
    }
}

TEST(LaneChoice, EveryConditionIsNeededWhateverIsSet) {
  for (const DeliverySetting setting : {DeliverySetting::kAuto, DeliverySetting::kFile})
    for (bool Facts::*condition : {&Facts::http1, &Facts::plain, &Facts::length_known}) {
      Facts facts = good();
      facts.setting = setting;
      facts.peer = Peer::kUnix;
      facts.residency = Residency::kAbsent;
      ASSERT_EQ(choose(facts).lane, Lane::kFile);
      facts.*condition = false;
      EXPECT_EQ(choose(facts).lane, Lane::kMapped) << choose(facts).because;
    }
}

TEST(LaneChoice, FileIsTheFileLaneWheneverItCan) {
  for (const Peer peer : {Peer::kUnix, Peer::kThisMachine, Peer::kElsewhere})
    for (const std::uint64_t bytes : {std::uint64_t{1}, kSmall, kLarge}) {
      Facts facts = good(bytes);
      facts.setting = DeliverySetting::kFile;
      facts.peer = peer;
      EXPECT_EQ(choose(facts).lane, Lane::kFile);
    }
}

TEST(LaneChoice, AutoAsksForResidencyOnlyWhereItMatters) {
  struct Row {
    Peer peer;
    std::uint64_t bytes;
    Lane lane;
  };
  const Row rows[] = {
      {Peer::kUnix, kUnixBytesMin, Lane::kFile},
      {Peer::kUnix, kUnixBytesMin - 1, Lane::kDependsOnResidency},
      {Peer::kElsewhere, kElsewhereBytesMin, Lane::kFile},
      {Peer::kElsewhere, kElsewhereBytesMin - 1, Lane::kDependsOnResidency},
      {Peer::kThisMachine, kSmall, Lane::kDependsOnResidency},
      {Peer::kThisMachine, kLarge, Lane::kDependsOnResidency},
  };
  for (const Row& row : rows) {
    Facts facts = good(row.bytes);
    facts.peer = row.peer;
    EXPECT_EQ(choose(facts).lane, row.lane) << to_string(row.peer) << ' ' << row.bytes;
  }
}

TEST(LaneChoice, AutoSendsWhatIsNotResidentByFile) {
  for (const Peer peer : {Peer::kUnix, Peer::kThisMachine, Peer::kElsewhere})
    for (const std::uint64_t bytes : {kSmall, kLarge}) {
      Facts facts = good(bytes);
      facts.peer = peer;
      facts.residency = Residency::kAbsent;
      EXPECT_EQ(choose(facts).lane, Lane::kFile);
      facts.residency = Residency::kUnknown;
      EXPECT_EQ(choose(facts).lane, Lane::kFile);
    }
}

TEST(LaneChoice, AutoSendsWhatIsResidentByTheCheaperLane) {
  struct Row {
    Peer peer;
    std::uint64_t bytes;
    Lane lane;
  };
  const Row rows[] = {
      {Peer::kUnix, kSmall, Lane::kMapped},        {Peer::kUnix, kLarge, Lane::kFile},
      {Peer::kElsewhere, kSmall, Lane::kMapped},   {Peer::kElsewhere, kLarge, Lane::kFile},
      {Peer::kThisMachine, kSmall, Lane::kMapped}, {Peer::kThisMachine, kLarge, Lane::kMapped},
  };
  for (const Row& row : rows) {
    Facts facts = good(row.bytes);
    facts.peer = row.peer;
    facts.residency = Residency::kResident;
    EXPECT_EQ(choose(facts).lane, row.lane) << to_string(row.peer) << ' ' << row.bytes;
    EXPECT_FALSE(choose(facts).because.empty());
  }
}

}  // namespace
}  // namespace om::vmod::lane
