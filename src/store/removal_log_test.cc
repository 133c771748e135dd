// The removal log: what was answered is there after a kill, what was synced after power loss, and
// what has gone is known to have gone.
#include "store/removal_log.h"

#include <gtest/gtest.h>

#include "store/catalog/crashing_log.h"

namespace om::store {
namespace {

using catalog::CrashingLogDirectory;

// The log owns its directory; the test's lives on.
class Borrowed final : public catalog::LogDirectory {
 public:
  explicit Borrowed(CrashingLogDirectory& real) : real_(real) {}
  Result<std::unique_ptr<catalog::LogFile>> create(const std::string& name) override {
    return real_.create(name);
  }
  Result<std::unique_ptr<catalog::LogFile>> open(const std::string& name) override {
    return real_.open(name);
  }
  Result<std::vector<std::string>> list() override { return real_.list(); }
  Result<void> remove(const std::string& name) override { return real_.remove(name); }
  Result<void> sync() override { return real_.sync(); }

 private:
  CrashingLogDirectory& real_;
};

class RemovalLogTest : public ::testing::Test {
 protected:
  void open() {
    log.reset();
    auto opened = RemovalLog::open(std::make_unique<Borrowed>(directory), options, clock);
    ASSERT_TRUE(opened) << describe(opened.error());
    log = *std::move(opened);
  }
  std::uint64_t add(RemovalKind kind, const std::string& what, const std::string& tag = "") {
    clock.now_ns += 1000;
    auto entry = log->append({0, 0, kind, what, tag, "web", 7});
    EXPECT_TRUE(entry) << describe(entry.error());
    return entry ? (*entry)->sequence : 0;
  }

  CrashingLogDirectory directory{1};
  RemovalLog::Options options;
  ManualClock clock;
  std::unique_ptr<RemovalLog> log;
};

TEST_F(RemovalLogTest, IsThereAfterAKill) {
  open();
  const std::uint64_t id = log->id();
  EXPECT_EQ(log->head(), 0U);
  EXPECT_EQ(log->oldest(), 1U);
  EXPECT_EQ(add(RemovalKind::kPurge, "http://a/x", "digest"), 1U);
  EXPECT_EQ(add(RemovalKind::kBan, "req.url ~ \"a b\""), 2U);
  EXPECT_EQ(add(RemovalKind::kTagSoft, "red"), 3U);
  directory.kill();
  open();
  EXPECT_EQ(log->id(), id);
  EXPECT_EQ(log->head(), 3U);
  EXPECT_EQ(log->oldest(), 1U);
  const Removal* const purge = log->find(1);
  ASSERT_NE(purge, nullptr);
  EXPECT_EQ(purge->kind, RemovalKind::kPurge);
  EXPECT_EQ(purge->what, "http://a/x");
  EXPECT_EQ(purge->tag, "digest");
  EXPECT_EQ(purge->origin, "web");
  EXPECT_EQ(purge->token, 7U);
  EXPECT_EQ(log->find(2)->what, "req.url ~ \"a b\"");
  EXPECT_LT(log->find(2)->time_ns, log->find(3)->time_ns);
  EXPECT_EQ(log->find(4), nullptr);
  EXPECT_EQ(log->find(0), nullptr);
  EXPECT_EQ(add(RemovalKind::kTag, "blue"), 4U);
}

TEST_F(RemovalLogTest, IsLaterThanWhatWasThereBeforeWhereverTheClockGoes) {
  open();
  const std::uint64_t first = add(RemovalKind::kBan, "req.url ~ a");
  const std::uint64_t born = clock.real_ns() + 1'000'000'000;
  log->not_before(born);
  clock.set_back_ns = std::uint64_t{3600} * 1'000'000'000;
  const std::uint64_t second = add(RemovalKind::kBan, "req.url ~ b");
  ASSERT_NE(log->find(second), nullptr);
  EXPECT_LT(log->find(first)->time_ns, born);
  EXPECT_GT(log->find(second)->time_ns, born);
  log->not_before(1);
  const std::uint64_t third = add(RemovalKind::kBan, "req.url ~ c");
  EXPECT_GT(log->find(third)->time_ns, log->find(second)->time_ns);
  directory.kill();
  open();
  const std::uint64_t fourth = add(RemovalKind::kBan, "req.url ~ d");
  EXPECT_GT(log->find(fourth)->time_ns, log->find(third)->time_ns);
  // Once the clock has caught up, it counts again.
  clock.now_ns += std::uint64_t{7200} * 1'000'000'000;
  const std::uint64_t last = add(RemovalKind::kBan, "req.url ~ e");
  EXPECT_EQ(log->find(last)->time_ns, clock.real_ns());
}

TEST_F(RemovalLogTest, WhatWasSyncedIsThereAfterPowerLoss) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SCOPED_TRACE(seed);
    CrashingLogDirectory disk(seed);
    auto first = RemovalLog::open(std::make_unique<Borrowed>(disk), options, clock);
    ASSERT_TRUE(first);
    const std::uint64_t id = (*first)->id();
    for (int i = 0; i < 20; ++i)
      ASSERT_TRUE((*first)->append({0, 0, RemovalKind::kTag, "t" + std::to_string(i), "", "", 0}));
    ASSERT_TRUE((*first)->sync());
    for (int i = 20; i < 25; ++i)
      ASSERT_TRUE((*first)->append({0, 0, RemovalKind::kTag, "t" + std::to_string(i), "", "", 0}));
    first->reset();
    disk.lose_power();
    auto again = RemovalLog::open(std::make_unique<Borrowed>(disk), options, clock);
    ASSERT_TRUE(again);
    EXPECT_GE((*again)->head(), 20U);
    // What was not synced may have gone from the middle: then it is another log, and whoever has
    // objects is told of a gap.
    const bool is_whole = (*again)->oldest() == 1;
    EXPECT_EQ((*again)->id() == id, is_whole);
    for (std::uint64_t i = 1; is_whole && i <= (*again)->head(); ++i)
      EXPECT_EQ((*again)->find(i)->what, "t" + std::to_string(i - 1));
    // And it goes on behind what is left.
    const std::uint64_t head = (*again)->head();
    ASSERT_TRUE((*again)->append({0, 0, RemovalKind::kTag, "next", "", "", 0}));
    again->reset();
    auto third = RemovalLog::open(std::make_unique<Borrowed>(disk), options, clock);
    ASSERT_TRUE(third);
    ASSERT_GE((*third)->head(), head + 1);
    EXPECT_EQ((*third)->find(head + 1)->what, "next");
  }
}

TEST_F(RemovalLogTest, DiesAnywhereAndComesBackWithWhatItHadSaid) {
  for (std::uint64_t step = 1; step < 60; ++step) {
    SCOPED_TRACE(step);
    CrashingLogDirectory disk(step);
    RemovalLog::Options small;
    small.entries_per_file = 4;
    small.files_max = 3;
    std::uint64_t answered = 0;
    std::vector<std::uint64_t> times(1);  // of the bans, by their numbers
    {
      auto first = RemovalLog::open(std::make_unique<Borrowed>(disk), small, clock);
      ASSERT_TRUE(first);
      disk.die_after(step);
      for (int i = 0; i < 30; ++i) {
        auto entry = (*first)->append({0, 0, RemovalKind::kBan, "b", "", "", 0});
        if (disk.dead()) break;
        ASSERT_TRUE(entry);
        answered = (*entry)->sequence;
        times.push_back((*entry)->time_ns);
      }
    }
    disk.kill();
    auto again = RemovalLog::open(std::make_unique<Borrowed>(disk), small, clock);
    ASSERT_TRUE(again) << describe(again.error());
    EXPECT_GE((*again)->head(), answered);
    EXPECT_LE((*again)->head(), answered + 1);
    // Also where the oldest file went, and the one that was to say so did not come.
    const std::uint64_t gone = (*again)->oldest() - 1;
    ASSERT_LT(gone, times.size());
    EXPECT_GE((*again)->floor_ns(), times[gone]);
    ASSERT_TRUE((*again)->append({0, 0, RemovalKind::kBan, "b", "", "", 0}));
  }
}

TEST_F(RemovalLogTest, IsBoundedAndKnowsWhatItHasForgotten) {
  options.entries_per_file = 10;
  options.files_max = 3;
  open();
  std::uint64_t last_ban = 0;
  for (int i = 0; i < 100; ++i) {
    add(RemovalKind::kBan, "req.url ~ " + std::to_string(i));
    if (log->oldest() > 1 && last_ban == 0) {
      // The first ten have gone, the newest of them is the floor.
      EXPECT_EQ(log->oldest(), 11U);
      EXPECT_NE(log->floor_ns(), 0U);
      EXPECT_LT(log->floor_ns(), log->find(11)->time_ns);
      last_ban = log->floor_ns();
    }
    EXPECT_LE(log->head() - log->oldest() + 1, 30U);
  }
  const std::uint64_t floor = log->floor_ns();
  const std::uint64_t oldest = log->oldest();
  EXPECT_GT(floor, last_ban);
  directory.kill();
  open();
  EXPECT_EQ(log->floor_ns(), floor);
  EXPECT_EQ(log->oldest(), oldest);
  EXPECT_EQ(log->head(), 100U);
}

TEST_F(RemovalLogTest, KnowsWhatAPutMustNotPublishAnyMore) {
  options.entries_per_file = 4;
  options.files_max = 2;
  open();
  const std::vector<std::string> none;
  const std::vector<std::string> red{"blue", "red"};
  EXPECT_FALSE(log->removed_since(0, "http://a/x#1", red));
  const std::uint64_t before = log->head();
  const std::uint64_t purge = add(RemovalKind::kPurge, "http://a/x", "digest");
  EXPECT_TRUE(log->removed_since(before, "http://a/x#1", none));
  EXPECT_TRUE(log->removed_since(before, "http://a/x", none));
  EXPECT_TRUE(log->removed_since(before, "set-by-key", {"digest"}));
  EXPECT_FALSE(log->removed_since(before, "http://a/xy#1", none));
  EXPECT_FALSE(log->removed_since(purge, "http://a/x#1", none));
  const std::uint64_t tag = add(RemovalKind::kTagSoft, "red");
  EXPECT_TRUE(log->removed_since(purge, "http://a/y#1", red));
  EXPECT_FALSE(log->removed_since(tag, "http://a/y#1", red));
  add(RemovalKind::kBan, "req.url ~ .");
  EXPECT_FALSE(log->removed_since(tag, "http://a/x#1", red));
  // A writer that is slower than the log.
  for (int i = 0; i < 20; ++i) add(RemovalKind::kBan, "req.url ~ .");
  EXPECT_TRUE(log->removed_since(before, "http://b/z#1", none));
}

TEST_F(RemovalLogTest, RemembersHowFarEachCacheIs) {
  options.caches_max = 2;
  open();
  add(RemovalKind::kTag, "a");
  add(RemovalKind::kTag, "b");
  EXPECT_FALSE(log->applied("web"));
  EXPECT_TRUE(log->note_applied("web", 1));
  EXPECT_TRUE(log->note_applied("a name with blanks", 2));
  EXPECT_FALSE(log->note_applied("one too many", 0));
  EXPECT_TRUE(log->note_applied("web", 2));
  EXPECT_TRUE(log->note_applied("web", 1));  // never back
  ASSERT_TRUE(log->save_applied());
  directory.kill();
  open();
  EXPECT_EQ(log->applied("web"), 2U);
  EXPECT_EQ(log->applied("a name with blanks"), 2U);
  EXPECT_FALSE(log->applied("nobody"));
}

TEST_F(RemovalLogTest, ALogThatWasLostIsAnotherOne) {
  open();
  add(RemovalKind::kTag, "a");
  EXPECT_TRUE(log->note_applied("web", 1));
  ASSERT_TRUE(log->save_applied());
  const std::uint64_t id = log->id();
  const auto names = *directory.list();
  for (const std::string& name : names)
    if (name != "applied") {
      ASSERT_TRUE(directory.remove(name));
    }
  open();
  EXPECT_NE(log->id(), id);
  EXPECT_EQ(log->head(), 0U);
  EXPECT_FALSE(log->applied("web"));
}

// What nobody can know to have applied any more has a number, and no other removal gets that.
TEST_F(RemovalLogTest, OfALogThatWasLostWholeThoseWhoHaveObjectsLackARemoval) {
  options.is_first = false;
  clock.now_ns += 1000;
  open();
  const std::uint64_t id = log->id();
  EXPECT_EQ(log->report(), "the log of earlier removals is gone");
  const std::uint64_t floor = log->floor_ns();
  EXPECT_EQ(floor, clock.real_ns());
  for (int start = 0; start < 3; ++start) {
    SCOPED_TRACE(start);
    EXPECT_EQ(log->id(), id);
    EXPECT_EQ(log->oldest(), 2U);
    EXPECT_EQ(log->head(), start < 2 ? 1U : 2U);
    EXPECT_EQ(log->floor_ns(), floor);
    EXPECT_FALSE(log->applied("web"));
    EXPECT_TRUE(log->removed_since(0, "http://a/x#1", {}));
    if (start == 1) {
      EXPECT_FALSE(log->removed_since(log->head(), "http://a/x#1", {}));
      EXPECT_EQ(add(RemovalKind::kBan, "req.url ~ a"), 2U);
      EXPECT_GT(log->find(2)->time_ns, floor);
    }
    clock.now_ns += 1000;
    directory.kill();
    open();
    EXPECT_EQ(log->report(), "");
  }
}

TEST_F(RemovalLogTest, ATornEndIsToldOnce) {
  open();
  EXPECT_EQ(log->report(), "");
  add(RemovalKind::kPurge, "http://a/x");
  add(RemovalKind::kBan, "req.url ~ a");
  const std::string torn = directory.names().rbegin()->first;
  auto& bytes = directory.names()[torn]->now;
  const std::size_t whole = bytes.size();
  add(RemovalKind::kTag, "cut short");
  const std::size_t entry = bytes.size() - whole;
  bytes.resize(bytes.size() - 9);
  for (int start = 0; start < 4; ++start) {
    SCOPED_TRACE(start);
    open();
    if (start == 0) {
      EXPECT_EQ(log->report(), std::to_string(entry - 9) + " bytes at the end of " + torn +
                                   " are no entry, and dropped");
    } else {
      EXPECT_EQ(log->report(), "");
    }
    // What is whole stays, and the number of the one that was cut short is given anew.
    EXPECT_EQ(log->oldest(), 1U);
    EXPECT_EQ(log->head(), 2U + static_cast<unsigned>(start > 1));
    EXPECT_EQ(log->find(2)->what, "req.url ~ a");
    if (start == 1) {
      EXPECT_EQ(add(RemovalKind::kTag, "anew"), 3U);
    }
  }
  // The next one is told again.
  const std::string last = directory.names().rbegin()->first;
  EXPECT_NE(last, torn);
  directory.names()[last]->now.resize(directory.names()[last]->now.size() + 5);
  open();
  EXPECT_EQ(log->report(), "5 bytes at the end of " + last + " are no entry, and dropped");
  EXPECT_EQ(log->head(), 3U);
  EXPECT_EQ(log->floor_ns(), 0U);  // what was cut short was never answered
}

TEST_F(RemovalLogTest, ATornEndIsToldAlsoByAStartThatFails) {
  open();
  add(RemovalKind::kTag, "cut short");
  auto& bytes = directory.names().rbegin()->second->now;
  bytes.resize(bytes.size() - 9);
  log.reset();
  directory.fail_syncs = true;
  const auto failed = RemovalLog::open(std::make_unique<Borrowed>(directory), options, clock);
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().what.find(" are no entry, and dropped"), std::string::npos)
      << describe(failed.error());
  directory.fail_syncs = false;
  open();
  EXPECT_EQ(log->report(), "");
}

TEST_F(RemovalLogTest, WhatIsLostBetweenTwoFilesIsNotNewerThanTheFloor) {
  options.entries_per_file = 4;
  options.files_max = 5;
  open();
  std::vector<std::uint64_t> times(1);  // by number
  std::string second;
  for (int i = 1; i <= 10; ++i) {
    times.push_back(log->find(add(RemovalKind::kBan, "req.url ~ a"))->time_ns);
    if (i == 8) second = directory.names().rbegin()->first;
  }
  auto& bytes = directory.names()[second]->now;
  bytes.resize(bytes.size() - 9);
  open();
  EXPECT_EQ(log->report(), "removals 8 to 8 are lost");
  EXPECT_EQ(log->oldest(), 9U);
  EXPECT_EQ(log->head(), 10U);
  EXPECT_GE(log->floor_ns(), times[8]);
  EXPECT_LT(log->floor_ns(), times[9]);
  const std::uint64_t floor = log->floor_ns();
  // It is told once, and what was concluded from it stays.
  directory.kill();
  open();
  EXPECT_EQ(log->report(), "");
  EXPECT_EQ(log->oldest(), 9U);
  EXPECT_EQ(log->floor_ns(), floor);
  // When the file before the gap goes, nothing goes with it that is known.
  while (log->head() < 19) add(RemovalKind::kBan, "req.url ~ b");
  EXPECT_EQ(directory.names().count("removals-0000000000000001"), 0U);
  EXPECT_EQ(log->oldest(), 9U);
  EXPECT_EQ(log->floor_ns(), floor);
}

TEST_F(RemovalLogTest, WhereNothingFollowsWhatIsLostTheFloorIsNow) {
  open();
  const std::string first = directory.names().rbegin()->first;
  auto& bytes = directory.names()[first]->now;
  for (int i = 0; i < 3; ++i) add(RemovalKind::kBan, "req.url ~ a");
  const std::size_t three = bytes.size();
  const std::uint64_t lost = log->find(add(RemovalKind::kBan, "req.url ~ b"))->time_ns;
  add(RemovalKind::kBan, "cut short");
  bytes.resize(bytes.size() - 9);
  open();  // begins another file
  EXPECT_EQ(log->head(), 4U);
  bytes.resize(three);
  open();
  EXPECT_EQ(log->report(), "removals 4 to 4 are lost");
  EXPECT_EQ(log->head(), 4U);
  EXPECT_EQ(log->oldest(), 5U);
  const std::uint64_t floor = log->floor_ns();
  EXPECT_GE(floor, lost);
  EXPECT_EQ(add(RemovalKind::kBan, "req.url ~ c"), 5U);
  EXPECT_GT(log->find(5)->time_ns, floor);
  directory.kill();
  open();
  EXPECT_EQ(log->report(), "");
  EXPECT_EQ(log->oldest(), 5U);
  EXPECT_EQ(log->floor_ns(), floor);
}

TEST_F(RemovalLogTest, WhatIsLostBehindADamagedEntryIsNotNewerThanTheFloor) {
  open();
  add(RemovalKind::kBan, "req.url ~ a");
  const std::string name = directory.names().rbegin()->first;
  auto& bytes = directory.names()[name]->now;
  const std::size_t whole = bytes.size();
  add(RemovalKind::kBan, "req.url ~ b");
  const std::uint64_t last = log->find(add(RemovalKind::kBan, "req.url ~ c"))->time_ns;
  bytes[whole + 50] ^= std::byte{1};
  for (int start = 0; start < 2; ++start) {
    SCOPED_TRACE(start);
    open();
    // Number 2 is what is lost.
    EXPECT_EQ(log->oldest(), 3U);
    EXPECT_EQ(log->head(), 2U);
    EXPECT_EQ(log->floor_ns(), last);
  }
  EXPECT_EQ(add(RemovalKind::kBan, "req.url ~ d"), 3U);
  EXPECT_GT(log->find(3)->time_ns, last);
}

TEST_F(RemovalLogTest, ALogThatLostItsEndIsAnotherOneAndNobodyHasAppliedThatEnd) {
  open();
  const std::uint64_t id = log->id();
  add(RemovalKind::kTag, "a");
  auto& bytes = directory.names().rbegin()->second->now;
  const std::size_t whole = bytes.size();
  const std::uint64_t lost = log->find(add(RemovalKind::kBan, "req.url ~ b"))->time_ns;
  EXPECT_TRUE(log->note_applied("behind", 1));
  EXPECT_TRUE(log->note_applied("current", 2));
  ASSERT_TRUE(log->save_applied());
  bytes[whole + 50] ^= std::byte{1};
  clock.now_ns += 1000;
  open();
  // What a cache calls number 2 of the log that it knows is none of this one.
  const std::uint64_t second = log->id();
  EXPECT_NE(second, id);
  EXPECT_GE(log->floor_ns(), lost);
  const std::uint64_t floor = log->floor_ns();
  clock.now_ns += 1000;
  for (int start = 0; start < 2; ++start) {
    SCOPED_TRACE(start);
    // Number 2 is what is lost, here.
    EXPECT_EQ(log->oldest(), 3U);
    EXPECT_EQ(log->head(), 2U + static_cast<unsigned>(start));
    EXPECT_EQ(log->applied("behind"), 1U);
    EXPECT_EQ(log->applied("current"), 1U);
    EXPECT_EQ(log->floor_ns(), floor);
    EXPECT_EQ(log->id(), second);
    if (start == 0) {
      EXPECT_EQ(add(RemovalKind::kTag, "c"), 3U);
      directory.kill();
      open();
    }
  }
}

TEST_F(RemovalLogTest, AnEndThatWentWithoutATraceShowsByWhatCachesHadApplied) {
  open();
  const std::uint64_t id = log->id();
  add(RemovalKind::kTag, "a");
  auto& bytes = directory.names().rbegin()->second->now;
  const std::size_t whole = bytes.size();
  const std::uint64_t lost = log->find(add(RemovalKind::kBan, "req.url ~ b"))->time_ns;
  EXPECT_TRUE(log->note_applied("web", 2));
  ASSERT_TRUE(log->save_applied());
  bytes.resize(whole);
  open();
  EXPECT_EQ(log->report(), "a cache had applied more than is here");
  EXPECT_NE(log->id(), id);
  EXPECT_EQ(log->oldest(), 3U);
  EXPECT_EQ(log->head(), 2U);
  EXPECT_GE(log->floor_ns(), lost);
  EXPECT_EQ(log->applied("web"), 1U);
  EXPECT_EQ(add(RemovalKind::kTag, "c"), 3U);
  directory.kill();
  open();
  EXPECT_EQ(log->report(), "");
  EXPECT_EQ(log->head(), 3U);
  EXPECT_EQ(log->applied("web"), 1U);  // and not 3, which it has not seen
}

TEST_F(RemovalLogTest, ALastFileWithoutAHeaderIsALostEndIfThereWasSomethingInIt) {
  options.entries_per_file = 2;
  open();
  const std::uint64_t id = log->id();
  add(RemovalKind::kTag, "a");
  add(RemovalKind::kTag, "b");
  // Its making was interrupted.
  directory.names()["removals-0000000000000002"] =
      std::make_shared<CrashingLogDirectory::Content>();
  open();
  EXPECT_EQ(log->report(), "removals-0000000000000002 has no valid header");
  EXPECT_EQ(directory.names().count("removals-0000000000000002"), 0U);
  EXPECT_EQ(log->id(), id);
  EXPECT_EQ(log->floor_ns(), 0U);
  const std::uint64_t lost = log->find(add(RemovalKind::kBan, "req.url ~ c"))->time_ns;
  const std::string last = directory.names().rbegin()->first;
  EXPECT_EQ(last, "removals-0000000000000003");
  directory.names()[last]->now[0] ^= std::byte{1};
  clock.now_ns += 1000;
  open();
  EXPECT_EQ(log->report(), last + " has no valid header");
  EXPECT_EQ(directory.names().count(last), 0U);
  const std::uint64_t second = log->id();
  EXPECT_NE(second, id);
  EXPECT_EQ(log->oldest(), 4U);
  EXPECT_EQ(log->head(), 3U);
  EXPECT_GE(log->floor_ns(), lost);
  EXPECT_EQ(add(RemovalKind::kBan, "req.url ~ d"), 4U);
  // And where that one is lost too, it is not the same log either.
  const std::string another = directory.names().rbegin()->first;
  EXPECT_NE(another, last);
  directory.names()[another]->now[0] ^= std::byte{1};
  open();
  EXPECT_NE(log->id(), id);
  EXPECT_NE(log->id(), second);
  EXPECT_EQ(log->head(), 3U);
}

TEST_F(RemovalLogTest, AppendsThatWereInterruptedAreNoLostEnd) {
  for (std::uint64_t step = 1; step < 40; ++step) {
    SCOPED_TRACE(step);
    CrashingLogDirectory disk(step);
    RemovalLog::Options small;
    small.entries_per_file = 4;
    std::uint64_t id = 0;
    {
      auto first = RemovalLog::open(std::make_unique<Borrowed>(disk), small, clock);
      ASSERT_TRUE(first);
      id = (*first)->id();
      disk.die_after(step);
      while (!disk.dead())
        (void)(*first)->append({0, 0, RemovalKind::kPurge, "http://a/x", "tag", "web", 7});
    }
    disk.kill();
    auto again = RemovalLog::open(std::make_unique<Borrowed>(disk), small, clock);
    ASSERT_TRUE(again) << describe(again.error());
    EXPECT_EQ((*again)->id(), id);
    EXPECT_EQ((*again)->floor_ns(), 0U);
  }
}

TEST_F(RemovalLogTest, WhatAFailedWriteLeavesIsNoLostEnd) {
  open();
  const std::uint64_t id = log->id();
  add(RemovalKind::kTag, "a");
  directory.fail_writes = true;
  for (int i = 0; i < 10; ++i)
    EXPECT_FALSE(
        log->append({0, 0, RemovalKind::kPurge, "http://a/" + std::string(1000, 'x'), "", "", 0}));
  directory.fail_writes = false;
  EXPECT_GT(directory.names().rbegin()->second->now.size(), 64U + 64 + 64);
  EXPECT_EQ(add(RemovalKind::kTag, "b"), 2U);
  directory.kill();
  open();
  EXPECT_EQ(log->id(), id);
  EXPECT_EQ(log->head(), 2U);
  EXPECT_EQ(log->find(2)->what, "b");
  EXPECT_EQ(log->floor_ns(), 0U);
}

TEST_F(RemovalLogTest, AFailedWriteRecordsNothing) {
  open();
  add(RemovalKind::kTag, "a");
  directory.die_after(1);
  EXPECT_FALSE(log->append({0, 0, RemovalKind::kTag, "b", "", "", 0}));
  EXPECT_EQ(log->head(), 1U);
}

}  // namespace
}  // namespace om::store
