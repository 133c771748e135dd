#include "equal_bans.h"

#include <gtest/gtest.h>

#include <bit>
#include <list>
#include <string>
#include <string_view>
#include <vector>

namespace om::vmod {
namespace {

constexpr std::uint8_t kNoDuplicates = OM_BAN_FLAG_NODEDUP;
constexpr std::size_t kFlags = 12;

void complete(struct ban* ban) { ban->flags |= OM_BAN_FLAG_COMPLETED; }

// Varnish's list, and both clocks.
struct Bans {
  struct Kept {
    struct ban ban {};
    std::vector<std::uint8_t> spec;
  };

  Bans() { VTAILQ_INIT(&head); }
  Bans(const Bans&) = delete;
  Bans& operator=(const Bans&) = delete;
  ~Bans() = default;

  struct ban* make(std::string_view text, std::uint8_t flags = 1) {
    Kept& kept = all.emplace_back();
    kept.spec.assign(16, 0);
    const auto time = std::bit_cast<std::uint64_t>(now);
    for (unsigned i = 0; i < 8; ++i) kept.spec[i] = static_cast<std::uint8_t>(time >> (56 - 8 * i));
    kept.spec[11] = static_cast<std::uint8_t>(16 + text.size());
    kept.spec[kFlags] = flags;
    kept.spec.insert(kept.spec.end(), text.begin(), text.end());
    kept.ban.spec = kept.spec.data();
    VTAILQ_INSERT_HEAD(&head, &kept.ban, list);
    equal.made(head, now, monotonic, marks);
    return &kept.ban;
  }
  void pass(double seconds) {
    now += seconds;
    monotonic += seconds;
  }

  struct banhead_s head {};
  std::list<Kept> all;
  EqualBans equal;
  void (*marks)(struct ban*) = complete;
  double now = 1.7e9;
  double monotonic = 5000;
};

bool counts(const struct ban* ban) { return (ban->flags & OM_BAN_FLAG_COMPLETED) == 0; }
bool is_hunted_for(const struct ban* ban) { return (ban->spec[kFlags] & kNoDuplicates) == 0; }

// After the start nothing is known of the clock.
constexpr double kLong = EqualBans::kLookupMax + 1;

TEST(EqualBans, BothCountWhileALookupMayBeBetween) {
  Bans bans;
  bans.make("first");
  bans.pass(kLong);
  const struct ban* one = bans.make("x");
  bans.pass(kLong);
  // However long the first has been there: lookups begin at any time.
  const struct ban* two = bans.make("x");
  bans.pass(EqualBans::kLookupMax / 2);
  const struct ban* three = bans.make("x");
  EXPECT_TRUE(counts(one));
  EXPECT_TRUE(counts(two));
  EXPECT_TRUE(counts(three));
}

TEST(EqualBans, TheOlderOneIsDoneWhenTheNewerOneIsSeenByAll) {
  Bans bans;
  bans.make("first");
  bans.pass(kLong);
  const struct ban* one = bans.make("x");
  const struct ban* two = bans.make("x");
  const struct ban* other = bans.make("y");
  bans.pass(kLong);
  const struct ban* three = bans.make("x");
  EXPECT_FALSE(counts(one));
  EXPECT_TRUE(counts(two));
  EXPECT_TRUE(counts(three));
  EXPECT_TRUE(counts(other));
}

TEST(EqualBans, TheListOfOneThatIsMadeAllTheTimeEnds) {
  Bans bans;
  for (int i = 0; i < 1000; ++i) {
    bans.make("x");
    bans.pass(1);
  }
  std::size_t counting = 0;
  for (const auto& kept : bans.all) counting += counts(&kept.ban) ? 1 : 0;
  EXPECT_LE(counting, EqualBans::kLookupMax + 2);
}

TEST(EqualBans, VarnishDoesNotHuntForDuplicatesOfTheNewestAndTheOthersAreAsTheyWere) {
  Bans bans;
  const struct ban* one = bans.make("x");
  EXPECT_FALSE(is_hunted_for(one));
  const struct ban* two = bans.make("y");
  EXPECT_TRUE(is_hunted_for(one));
  EXPECT_FALSE(is_hunted_for(two));
}

TEST(EqualBans, WhatDependsOnItsTimeHasNoDuplicatesAndKeepsItsFlag) {
  Bans bans;
  bans.make("first");
  bans.pass(kLong);
  const struct ban* one = bans.make("age", 2 | kNoDuplicates);
  const struct ban* two = bans.make("age", 2 | kNoDuplicates);
  bans.pass(kLong);
  const struct ban* three = bans.make("age", 2 | kNoDuplicates);
  bans.make("x");
  EXPECT_TRUE(counts(one));
  EXPECT_TRUE(counts(two));
  EXPECT_FALSE(is_hunted_for(one));
  EXPECT_FALSE(is_hunted_for(three));
}

TEST(EqualBans, AClockThatIsSetForwardMakesNothingOlder) {
  Bans bans;
  bans.make("first");
  bans.pass(kLong);
  const struct ban* one = bans.make("x");
  const struct ban* two = bans.make("x");
  bans.now += 3600;
  bans.make("x");
  EXPECT_TRUE(counts(one));
  bans.pass(EqualBans::kLookupMax / 2);
  bans.make("x");
  EXPECT_TRUE(counts(one));
  EXPECT_TRUE(counts(two));
  bans.pass(kLong);
  bans.make("x");
  EXPECT_FALSE(counts(one));
  EXPECT_FALSE(counts(two));
}

TEST(EqualBans, AClockThatIsSetBackMakesThemStayLonger) {
  Bans bans;
  bans.make("first");
  bans.pass(kLong);
  const struct ban* one = bans.make("x");
  bans.make("x");
  bans.now -= 3600;
  bans.pass(kLong);
  bans.make("other");
  bans.pass(kLong);
  bans.make("x");
  EXPECT_TRUE(counts(one));
  // By then one that was made after it was set is seen by all.
  bans.pass(kLong);
  bans.make("x");
  EXPECT_FALSE(counts(one));
}

TEST(EqualBans, OneThatIsGoneIsNotTakenForAnotherInItsPlace) {
  Bans bans;
  bans.make("first");
  struct ban* one = bans.make("x");
  VTAILQ_REMOVE(&bans.head, one, list);
  bans.equal.dropped(one->spec);
  // Another one has its memory, and a flag of its own.
  one->spec[kFlags] = 2 | kNoDuplicates;
  VTAILQ_INSERT_HEAD(&bans.head, one, list);
  bans.make("y");
  EXPECT_FALSE(is_hunted_for(one));
}

TEST(EqualBans, WithoutDuplicatesBeingWantedNoneIsMarked) {
  Bans bans;
  bans.make("first");
  bans.pass(kLong);
  const struct ban* one = bans.make("x");
  bans.make("x");
  bans.pass(kLong);
  bans.marks = nullptr;
  const struct ban* last = bans.make("x");
  EXPECT_TRUE(counts(one));
  EXPECT_FALSE(is_hunted_for(last));
}

TEST(EqualBans, NothingIsDoneWithoutAList) {
  struct banhead_s head {};
  VTAILQ_INIT(&head);
  EqualBans().made(head, 1, 1, complete);
}

}  // namespace
}  // namespace om::vmod
