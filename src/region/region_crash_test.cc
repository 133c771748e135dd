// A child works on the mapping and is killed at a random moment; the file it leaves is opened and
// compared with what the child had acknowledged. The child tells by counters in a shared page: an
// object's state is "publishing", "published", "retiring" or "retired"; only the two in the middle
// of an act leave a choice.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <random>
#include <set>

#include "region/testing.h"

namespace om::region {
namespace {

using namespace testing;

enum State : std::uint8_t { kNever, kPublishing, kPublished, kRetiring, kRetired };

constexpr std::uint64_t kSize = std::uint64_t{4} << 20;
constexpr std::size_t kObjectsMax = 200'000;

struct Journal {
  std::atomic<std::uint64_t> steps;
  std::array<std::atomic<std::uint8_t>, kObjectsMax> state;
};

// Works until it is killed.
[[noreturn]] void work(const UniqueFd& file, Journal& journal, std::uint64_t first_id,
                       std::uint64_t seed) {
  std::mt19937_64 random(seed);
  auto region = open_region(file, kSize);
  std::deque<Record*> records;
  if (!region->formatted()) {
    const ScanReport report = region->scan();
    region->finish_scan(slots_of(report));
    for (const auto& candidate : report.candidates) records.push_back(candidate.record);
  }
  const auto nuke = [&] {
    Record* record = records.front();
    records.pop_front();
    journal.state[record->vxid].store(kRetiring);
    const std::uint64_t id = record->vxid;
    random() % 2 == 0 ? region->retire(*record) : region->mark_removed(*record);
    journal.state[id].store(kRetired);
    region->destroy(record);
  };
  for (std::uint64_t id = first_id; id < kObjectsMax; ++id) {
    Record* record = nullptr;
    while ((record = make_object(*region, {.id = id,
                                           .body = random() % 30'000,
                                           .extent_max = 4096,
                                           .esi = random() % 4 == 0 ? 200U : 0U})) == nullptr) {
      nuke();
    }
    journal.state[id].store(kPublishing);
    while (!region->publish(*record)) nuke();
    journal.state[id].store(kPublished);
    records.push_back(record);
    journal.steps.fetch_add(1);
  }
  _exit(0);
}

TEST(RegionCrash, LeavesExactlyWhatWasAcknowledged) {
  const UniqueFd file = make_region_file(kSize);
  void* shared =
      ::mmap(nullptr, sizeof(Journal), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto& journal = *static_cast<Journal*>(shared);
  std::mt19937_64 random(42);
  std::uint64_t next_id = 1;
  std::uint64_t survivors = 0;
  for (int round = 0; round < 30; ++round) {
    SCOPED_TRACE(round);
    const std::uint64_t before = journal.steps.load();
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) work(file, journal, next_id, random());
    // At least something is done; then anywhere.
    while (journal.steps.load() < before + 20 + random() % 300) {
      ASSERT_EQ(::waitpid(child, nullptr, WNOHANG), 0);
    }
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::nanoseconds(random() % 300'000);
    while (std::chrono::steady_clock::now() < until) {
    }
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);

    auto region = open_region(file, kSize);
    ASSERT_FALSE(region->formatted()) << region->format_reason();
    const ScanReport report = region->scan();
    // A kill between retire's two stores, or mark_removed's, leaves one such record.
    ASSERT_LE(total_dropped(report), 1U);
    ASSERT_FALSE(report.index_damaged);
    std::set<std::uint64_t> found;
    for (const auto& candidate : report.candidates) {
      const auto id = read_object(*region, *candidate.record);
      ASSERT_TRUE(id.has_value());
      ASSERT_TRUE(region->verify_body(*candidate.record));
      ASSERT_TRUE(found.insert(*id).second);
    }
    for (std::uint64_t id = 1; id < kObjectsMax; ++id) {
      switch (journal.state[id].load()) {
        case kPublished: ASSERT_EQ(found.count(id), 1U) << id; break;
        case kNever:
        case kRetired: ASSERT_EQ(found.count(id), 0U) << id; break;
        default:
          // Whichever it was, it is settled now.
          journal.state[id].store(found.count(id) != 0 ? kPublished : kRetired);
      }
      if (journal.state[id].load() != kNever) next_id = id + 1;
    }
    survivors = found.size();
    region->finish_scan(slots_of(report));
    ASSERT_TRUE(region->allocator().check());
  }
  EXPECT_GT(survivors, 50U);
  ::munmap(shared, sizeof(Journal));
}

}  // namespace
}  // namespace om::region
