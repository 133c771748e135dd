#include "region/region.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <set>
#include <thread>

#include "region/list.h"
#include "region/testing.h"

namespace om::region {
namespace {

using namespace testing;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

std::multiset<std::uint64_t> ids(const Region& region, const ScanReport& report) {
  std::multiset<std::uint64_t> out;
  for (const auto& candidate : report.candidates) {
    const auto id = read_object(region, *candidate.record);
    EXPECT_TRUE(id.has_value());
    out.insert(id.value_or(~std::uint64_t{0}));
  }
  return out;
}

std::uint64_t dropped(const ScanReport& report, Drop why) {
  return report.dropped[static_cast<std::size_t>(why)];
}

TEST(Region, PublishedObjectsAreThereAfterwardsAndNothingElse) {
  const UniqueFd file = make_region_file(8 * kMiB);
  {
    auto region = open_region(file, 8 * kMiB);
    EXPECT_EQ(region->format_reason(), "empty");
    for (std::uint64_t id = 1; id <= 1200; ++id) {  // more than two index pages
      Record* record = make_object(*region, {.id = id, .body = id, .esi = id % 3 == 0 ? 100U : 0U});
      ASSERT_NE(record, nullptr);
      if (id % 2 == 0) {
        ASSERT_TRUE(region->publish(*record));
      }
      if (id % 4 == 0) region->retire(*record);
      if (id % 8 == 0) region->destroy(record);
    }
    EXPECT_EQ(region->published(), 300U);
  }
  auto region = open_region(file, 8 * kMiB);
  EXPECT_FALSE(region->formatted()) << region->format_reason();
  EXPECT_FALSE(region->was_clean());
  const ScanReport report = region->scan();
  EXPECT_EQ(total_dropped(report), 0U);
  EXPECT_FALSE(report.index_damaged);
  const auto found = ids(*region, report);
  EXPECT_EQ(found.size(), 300U);
  for (std::uint64_t id = 2; id <= 1200; id += 4) EXPECT_EQ(found.count(id), 1U);
  EXPECT_TRUE(region->verify_body(*report.candidates.front().record));
  EXPECT_EQ(
      timers(*report.candidates.front().record),
      (Timers{1000.0 + static_cast<double>(report.candidates.front().record->vxid), 120, 10, 5}));

  // Keep half; then everything can be given back, down to the index pages.
  std::vector<std::uint64_t> kept;
  std::vector<Record*> records;
  for (std::size_t i = 0; i < report.candidates.size(); i += 2) {
    kept.push_back(report.candidates[i].slot);
    records.push_back(report.candidates[i].record);
  }
  region->finish_scan(kept);
  EXPECT_EQ(region->published(), 150U);
  EXPECT_TRUE(region->allocator().check());
  for (Record* record : records) {
    ASSERT_TRUE(read_object(*region, *record));
    region->destroy(record);
  }
  EXPECT_TRUE(region->allocator().check());
  EXPECT_EQ(region->allocator().used_bytes() % kIndexPageBytesSmall, 0U);
  EXPECT_LE(region->allocator().used_bytes(), 3 * kIndexPageBytesSmall);
  region->mark_clean();
  region.reset();
  EXPECT_TRUE(open_region(file, 8 * kMiB)->was_clean());
}

TEST(Region, IsScannedBySeveralThreadsWithTheSameResult) {
  const UniqueFd file = make_region_file(16 * kMiB);
  {
    auto region = open_region(file, 16 * kMiB);
    for (std::uint64_t id = 1; id <= 4000; ++id) {  // eight index pages
      Record* record =
          make_object(*region, {.id = id, .body = id % 5000, .esi = id % 3 == 0 ? 50U : 0U});
      ASSERT_NE(record, nullptr);
      ASSERT_TRUE(region->publish(*record));
      if (id % 100 == 0) record->checksum ^= 1;
      if (id % 50 == 1) {  // one that shares the body
        Record* other = region->create({});
        ASSERT_TRUE(region->share_body(*other, *record));
        std::memcpy(set_variable(*other, Variable::kHeaders, 8), "sharing", 8);
        region->seal(*other);
        ASSERT_TRUE(region->publish(*other));
      }
    }
  }
  std::vector<std::uint64_t> slots;
  std::uint64_t used = 0;
  for (const unsigned threads : {1U, 4U}) {
    const UniqueFd copy = make_region_file(16 * kMiB);
    const auto from = Mapping::of(file.borrow(), 0, 16 * kMiB, Access::kRead);
    const auto to = Mapping::of(copy.borrow(), 0, 16 * kMiB, Access::kReadWrite);
    std::memcpy(to->data(), from->data(), 16 * kMiB);
    auto region = open_region(copy, 16 * kMiB);
    const ScanReport report = region->scan(threads);
    EXPECT_EQ(report.slots_in_use, 4080U);
    EXPECT_EQ(report.candidates.size(), 4040U);
    EXPECT_EQ(dropped(report, Drop::kBadChecksum), 40U);
    auto found = slots_of(report);
    std::ranges::sort(found);
    region->finish_scan(found);
    EXPECT_TRUE(region->allocator().check());
    if (threads == 1) {
      slots = found;
      used = region->allocator().used_bytes();
    }
    EXPECT_EQ(found, slots);
    EXPECT_EQ(region->allocator().used_bytes(), used);
    for (const auto& candidate : report.candidates) region->destroy(candidate.record);
    EXPECT_TRUE(region->allocator().check());
    EXPECT_LE(region->allocator().used_bytes(), 9 * kIndexPageBytesSmall);
  }
}

// Nobody shares anything: what scan() claimed is what stays, less what goes.
TEST(Region, WhatIsNotKeptIsFree) {
  const UniqueFd file = make_region_file(8 * kMiB);
  {
    auto region = open_region(file, 8 * kMiB);
    for (std::uint64_t id = 1; id <= 600; ++id) {
      ASSERT_TRUE(region->publish(*make_object(
          *region, {.id = id, .body = 5000, .extent_max = id % 4 == 0 ? 1024U : 8192U})));
    }
  }
  auto region = open_region(file, 8 * kMiB);
  const ScanReport report = region->scan();
  ASSERT_EQ(report.candidates.size(), 600U);
  std::vector<std::uint64_t> kept;
  std::vector<Record*> records;
  for (std::size_t i = 0; i < 600; i += 3) {
    kept.push_back(report.candidates[i].slot);
    records.push_back(report.candidates[i].record);
  }
  region->finish_scan(kept);
  EXPECT_EQ(region->published(), 200U);
  EXPECT_TRUE(region->allocator().check());
  const std::uint64_t blocks = region->allocator().blocks();
  for (Record* record : records) {
    ASSERT_TRUE(read_object(*region, *record));
    region->destroy(record);
  }
  EXPECT_TRUE(region->allocator().check());
  EXPECT_EQ(region->allocator().blocks(), region->allocator().used_bytes() / kIndexPageBytesSmall);
  EXPECT_GT(blocks, 400U);
  // And the next life finds the same.
  region.reset();
  EXPECT_TRUE(open_region(file, 8 * kMiB)->scan().candidates.empty());
}

TEST(Region, IsHeldByOneAtATimeAndByItsOwner) {
  const UniqueFd file = make_region_file(kMiB);
  {
    auto first = open_region(file, kMiB);
    const auto second = try_open(file, kMiB);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, Errc::kBusy);
  }
  const auto other = try_open(file, kMiB, false, "other/s0");
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, Errc::kDenied);
  EXPECT_FALSE(open_region(file, kMiB)->formatted());
  EXPECT_TRUE(open_region(file, kMiB, true)->formatted());
  EXPECT_EQ(try_open(file, 2 * kMiB).error().code, Errc::kMalformed);
  EXPECT_EQ(try_open(file, 4096).error().code, Errc::kMalformed);
}

TEST(Region, TakesWhatFitsWhenItsSizeChanges) {
  const UniqueFd file = make_region_file(4 * kMiB);
  {
    auto region = open_region(file, 4 * kMiB);
    for (std::uint64_t id = 1; id <= 30; ++id) {
      ASSERT_TRUE(region->publish(*make_object(*region, {.id = id, .body = 100'000})));
    }
  }
  ASSERT_TRUE(resize(file.borrow(), 2 * kMiB));
  {
    auto region = open_region(file, 2 * kMiB);
    ASSERT_FALSE(region->formatted());
    const ScanReport report = region->scan();
    // Bodies come from the back of the heap, so about half of them are gone.
    EXPECT_GT(dropped(report, Drop::kBadExtents), 10U);
    EXPECT_GT(report.candidates.size(), 8U);
    (void)ids(*region, report);
    region->finish_scan(slots_of(report));
    EXPECT_TRUE(region->allocator().check());
  }
  ASSERT_TRUE(resize(file.borrow(), 8 * kMiB));
  auto region = open_region(file, 8 * kMiB);
  const ScanReport report = region->scan();
  EXPECT_EQ(total_dropped(report), 0U);
  region->finish_scan(slots_of(report));
  EXPECT_GT(region->allocator().free_bytes(), 5 * kMiB);
}

TEST(Region, TellsRemovedRefusedAndCrashedAtApart) {
  const UniqueFd file = make_region_file(kMiB);
  std::uint64_t crashed_slot = 0;
  {
    auto region = open_region(file, kMiB);
    for (std::uint64_t id = 1; id <= 4; ++id) {
      Record* record = make_object(*region, {.id = id});
      ASSERT_TRUE(region->publish(*record));
      // As if the process died right after the first of mark_removed's two stores.
      if (id == 1) record->removed.store(1);
      if (id == 2) region->mark_removed(*record);
    }
  }
  {
    auto region = open_region(file, kMiB);
    const ScanReport report = region->scan();
    EXPECT_EQ(dropped(report, Drop::kRemoved), 1U);
    ASSERT_EQ(report.candidates.size(), 2U);
    region->finish_scan(slots_of(report));
    crashed_slot = report.candidates[1].slot;
    region->set_adopting(crashed_slot);  // and dies here
  }
  {
    auto region = open_region(file, kMiB);
    const ScanReport report = region->scan();
    EXPECT_EQ(dropped(report, Drop::kCrashedAt), 1U);
    EXPECT_EQ(ids(*region, report), (std::multiset<std::uint64_t>{3}));
    region->finish_scan(slots_of(report));
  }
  auto region = open_region(file, kMiB);
  EXPECT_EQ(total_dropped(region->scan()), 0U);
}

TEST(Region, BodiesAreSharedAndFreedWithTheLastWhoNamesThem) {
  const UniqueFd file = make_region_file(4 * kMiB);
  const auto share = [](Region& region, const Record& from) {
    Record* record = region.create(
        {.digest = {}, .vxid = from.vxid, .url = url(from), .host = {}, .attribute_bytes = 40});
    std::memcpy(set_variable(*record, Variable::kHeaders, 24), &from.vxid, sizeof from.vxid);
    EXPECT_TRUE(region.share_body(*record, from));
    region.seal(*record);
    EXPECT_TRUE(region.publish(*record));
    return record;
  };
  {
    auto region = open_region(file, 4 * kMiB);
    Record* first = make_object(*region, {.id = 5, .body = 300'000, .extent_max = 65536});
    ASSERT_TRUE(region->publish(*first));
    const std::uint64_t used = region->allocator().used_bytes();
    Record* second = share(*region, *first);
    Record* third = share(*region, *second);
    EXPECT_LT(region->allocator().used_bytes() - used, 3000U);
    region->destroy(first);
    EXPECT_EQ(read_object(*region, *second), 5U);
    share(*region, *third);
    region->destroy(second);
    EXPECT_TRUE(region->verify_body(*third));
  }
  auto region = open_region(file, 4 * kMiB);
  const ScanReport report = region->scan();
  EXPECT_EQ(total_dropped(report), 0U);
  EXPECT_EQ(ids(*region, report), (std::multiset<std::uint64_t>{5, 5}));
  region->finish_scan(slots_of(report));
  region->destroy(report.candidates[0].record);
  EXPECT_EQ(read_object(*region, *report.candidates[1].record), 5U);
  EXPECT_GT(region->allocator().used_bytes(), 300'000U);
  region->destroy(report.candidates[1].record);
  EXPECT_EQ(region->allocator().used_bytes(), kIndexPageBytesSmall);
}

TEST(Region, RecordsThatOverlapAreAllDropped) {
  const UniqueFd file = make_region_file(4 * kMiB);
  {
    auto region = open_region(file, 4 * kMiB);
    for (std::uint64_t id = 1; id <= 4; ++id) {
      ASSERT_TRUE(region->publish(*make_object(*region, {.id = id, .body = 200'000})));
    }
    // A sealed lie: the body of 2 lies half in that of 1.
    const ScanReport report = region->scan();
    Record* one = report.candidates[0].record;
    Record* two = report.candidates[1].record;
    two->extents[0].offset = one->extents[0].offset - 64;
    region->seal(*two);
  }
  auto region = open_region(file, 4 * kMiB);
  const ScanReport report = region->scan();
  EXPECT_EQ(dropped(report, Drop::kOverlap), 2U);
  EXPECT_EQ(ids(*region, report), (std::multiset<std::uint64_t>{3, 4}));
  region->finish_scan(slots_of(report));
  EXPECT_TRUE(region->allocator().check());
}

TEST(Region, OtherVersionsAreDroppedNotMisread) {
  const UniqueFd file = make_region_file(kMiB);
  {
    auto region = open_region(file, kMiB);
    for (std::uint64_t id = 1; id <= 2; ++id) {
      Record* record = make_object(*region, {.id = id});
      if (id == 1) record->version = kRecordVersionLent + 1;
      region->seal(*record);
      ASSERT_TRUE(region->publish(*record));
    }
  }
  {
    auto region = open_region(file, kMiB);
    const ScanReport report = region->scan();
    EXPECT_EQ(dropped(report, Drop::kBadVersion), 1U);
    region->finish_scan(slots_of(report));
    region->header()->version = kRegionVersion + 1;
    region->header()->checksum = header_checksum(*region->header());
  }
  auto region = open_region(file, kMiB);
  EXPECT_EQ(region->format_reason(), "version 2 instead of 1");
}

constexpr char kLentKey[] = "http://example.org/lent#0123";

// As an object whose body the daemon has.
Record* make_lent(Region& region, std::uint64_t id, const LentRef& lent, std::uint32_t esi = 0) {
  Record* record = make_object(region, {.id = id, .body = 0, .esi = esi, .with_checksum = false});
  if (record == nullptr) return nullptr;
  record->magic.store(0);
  if (!region.attach_lent(*record, lent, 77)) return nullptr;
  region.seal(*record);
  return record;
}

TEST(RegionLent, NamesAnObjectOfTheDaemonAndOwnsNoBody) {
  const UniqueFd file = make_region_file(kMiB);
  const LentRef one{kLentKey, 41, 600'000, 1'000'000};
  const std::string longest(kKeyBytesMax, 'k');
  const LentRef two{longest, 42, 1, 2'000'000};
  std::uint64_t free = 0;
  {
    auto region = open_region(file, kMiB);
    ASSERT_TRUE(region->publish(*make_object(*region, {.id = 3})));
    free = region->allocator().free_bytes();
    ASSERT_TRUE(region->publish(*make_lent(*region, 1, one, 70)));
    Record* other = make_lent(*region, 2, two);
    ASSERT_TRUE(region->publish(*other));
    EXPECT_EQ(region->lent(*other), two);
    EXPECT_EQ(other->version, kRecordVersionLent);
    EXPECT_TRUE(region->body(*other).empty());
  }
  auto region = open_region(file, kMiB);
  const ScanReport report = region->scan();
  ASSERT_EQ(report.candidates.size(), 3U);
  EXPECT_EQ(total_dropped(report), 0U);
  region->finish_scan(slots_of(report));
  EXPECT_TRUE(region->allocator().check());
  for (const auto& candidate : report.candidates) {
    Record& record = *candidate.record;
    if (record.vxid == 3) {
      EXPECT_FALSE(region->lent(record));
      continue;
    }
    EXPECT_EQ(region->lent(record), record.vxid == 1 ? one : two);
    EXPECT_EQ(record.body_length, record.vxid == 1 ? 600'000U : 1U);
    EXPECT_EQ(record.body_checksum, 77U);
    EXPECT_EQ(region->esi(record).size(), record.vxid == 1 ? 70U : 0U);
    region->destroy(&record);
  }
  EXPECT_TRUE(region->allocator().check());
  EXPECT_EQ(region->allocator().free_bytes(), free);
}

// Sealed by a writer that is wrong, or by one that knows another format.
TEST(RegionLent, IsDroppedNotMisread) {
  const std::vector<std::pair<Drop, std::function<void(Region&, Record&)>>> lies = {
      {Drop::kBadVersion, [](Region&, Record& r) { r.version = kRecordVersion; }},
      {Drop::kBadVersion, [](Region&, Record& r) { r.version = kRecordVersionFile; }},
      {Drop::kBadVersion, [](Region&, Record& r) { r.version = kRecordVersionLent + 1; }},
      {Drop::kBadVersion, [](Region&, Record& r) { r.flags &= ~kBodyLent; }},
      {Drop::kBadVersion, [](Region&, Record& r) { r.flags |= kBodyInFile; }},
      {Drop::kBadLent, [](Region&, Record& r) { r.extents[0].offset = 0; }},
      {Drop::kBadLent, [](Region&, Record& r) { r.extents[0].length = 0; }},
      {Drop::kBadLent, [](Region&, Record& r) { r.extents[0].length += 16; }},
      {Drop::kBadLent, [](Region&, Record& r) { r.extents[0].length = kKeyBytesMax + 1; }},
      {Drop::kBadLent, [](Region&, Record& r) { r.extent_count = 0; }},
      {Drop::kBadLent, [](Region&, Record& r) { r.extents_block = 0; }},
      {Drop::kBadLent, [](Region&, Record& r) { r.body_length = 0; }},
      {Drop::kBadExtents, [](Region& g, Record& r) { r.extents_block = g.size(); }},
      {Drop::kBadExtents, [](Region&, Record& r) { r.extents_block += 8; }},
      {Drop::kBadChecksum, [](Region&, Record& r) { r.extents_block = r.self; }},
      {Drop::kBadChecksum,
       [](Region& g, Record& r) {
         g.pointer(r.extents_block)[sizeof(ExtentsBlock)] ^= std::byte{1};
       }},
  };
  for (std::size_t i = 0; i < lies.size(); ++i) {
    SCOPED_TRACE(i);
    const UniqueFd file = make_region_file(kMiB);
    {
      auto region = open_region(file, kMiB);
      Record* record = make_lent(*region, 1, {kLentKey, 41, 600'000, 1'000'000});
      lies[i].second(*region, *record);
      region->seal(*record);
      ASSERT_TRUE(region->publish(*record));
      ASSERT_TRUE(region->publish(*make_object(*region, {.id = 2})));
    }
    auto region = open_region(file, kMiB);
    const ScanReport report = region->scan();
    EXPECT_EQ(dropped(report, lies[i].first), 1U);
    EXPECT_EQ(ids(*region, report), (std::multiset<std::uint64_t>{2}));
    region->finish_scan(slots_of(report));
    EXPECT_TRUE(region->allocator().check());
  }
}

// Every byte of header, index, records, lists and ESI data, damaged one at a time: what is still
// taken over is what it was.
TEST(RegionDamage, IsDroppedNeverMisread) {
  constexpr std::uint64_t kSize = kRegionBytesMin;
  const UniqueFd pristine = make_region_file(kSize);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> interesting = {{0, sizeof(RegionHeader)}};
  {
    auto region = open_region(pristine, kSize);
    for (std::uint64_t id = 1; id <= 3; ++id) {
      Record* record = make_object(*region, {.id = id, .body = 900, .extent_max = 256, .esi = 70});
      ASSERT_TRUE(region->publish(*record));
      interesting.push_back({record->self, record->record_bytes});
      interesting.push_back({record->extents_block, 24 + 16 * record->extent_count});
      interesting.push_back({record->esi_offset, 70});
    }
    const std::uint64_t page = decode_pointer(region->header()->index_root.load());
    interesting.push_back({page, sizeof(IndexPage) + 6 * 8});
  }
  std::mt19937_64 random(11);
  std::uint64_t damaged = 0;
  std::uint64_t seen = 0;
  const UniqueFd file = make_region_file(kSize);
  for (const auto& [begin, length] : interesting) {
    for (std::uint64_t at = begin; at < begin + length; ++at) {
      ASSERT_TRUE(copy_bytes(pristine.borrow(), 0, file.borrow(), 0, kSize));
      std::byte byte{};
      ASSERT_TRUE(read_exactly(file.borrow(), at, {&byte, 1}));
      byte ^= static_cast<std::byte>(1U << (random() % 8));
      ASSERT_TRUE(write_exactly(file.borrow(), at, {&byte, 1}));
      const auto listed = list_objects(file.borrow(), [](const ListedObject& object) {
        EXPECT_EQ(object.url, url_of(object.vxid));
        return true;
      });
      auto opened = try_open(file, kSize);
      ++damaged;
      if (!opened) continue;  // another owner, perhaps
      Region& region = **opened;
      if (region.formatted()) {
        ++seen;
        continue;
      }
      const ScanReport report = region.scan();
      (void)ids(region, report);
      ASSERT_LE(report.candidates.size(), 3U);
      // 240 bytes of the mutable words and the like may change without a loss of the record.
      if (report.candidates.size() < 3) ++seen;
      region.finish_scan(slots_of(report));
      ASSERT_TRUE(region.allocator().check());
      for (const auto& candidate : report.candidates) region.destroy(candidate.record);
      ASSERT_TRUE(region.allocator().check());
      ASSERT_TRUE(make_object(region, {.id = 9}) != nullptr);
    }
  }
  // What went by unseen: mutable words (timers ...), padding of the index page, the page number.
  EXPECT_GT(seen * 100, damaged * 85);
}

TEST(RegionList, ShowsWhatIsPublishedWhileItIsInUse) {
  const UniqueFd file = make_region_file(4 * kMiB);
  auto region = open_region(file, 4 * kMiB);
  for (std::uint64_t id = 1; id <= 600; ++id) {
    ASSERT_TRUE(region->publish(*make_object(*region, {.id = id, .body = 100})));
  }
  const UniqueFd reader = *reopen(file.borrow(), O_RDONLY);
  std::set<std::uint64_t> seen;
  const auto summary = list_objects(reader.borrow(), [&](const ListedObject& object) {
    EXPECT_EQ(object.url, url_of(object.vxid));
    EXPECT_EQ(object.host, "example.org");
    EXPECT_EQ(object.body_length, 100U);
    EXPECT_EQ(object.timers.ttl, 120);
    seen.insert(object.vxid);
    return true;
  });
  ASSERT_TRUE(summary);
  EXPECT_EQ(summary->owner, "test/s0");
  EXPECT_EQ(summary->objects, 600U);
  EXPECT_EQ(summary->body_bytes, 60'000U);
  EXPECT_EQ(seen.size(), 600U);
  const auto first = list_objects(reader.borrow(), [](const ListedObject&) { return false; });
  EXPECT_EQ(first->objects, 1U);
  const UniqueFd other = make_region_file(kMiB);
  EXPECT_EQ(list_objects(other.borrow(), [](const ListedObject&) { return true; }).error().code,
            Errc::kCorrupt);
}

TEST(RegionThreads, PublishRetireAndShareAtOnce) {
  const UniqueFd file = make_region_file(16 * kMiB);
  {
    auto region = open_region(file, 16 * kMiB);
    std::vector<std::thread> threads;
    for (std::uint64_t thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&region, thread] {
        std::mt19937_64 random(thread);
        std::vector<Record*> mine;
        for (std::uint64_t i = 0; i < 1500; ++i) {
          if (random() % 5 < 3) {
            Record* record =
                make_object(*region, {.id = thread << 32 | i, .body = random() % 2000});
            if (record == nullptr) continue;
            ASSERT_TRUE(region->publish(*record));
            mine.push_back(record);
          } else if (!mine.empty()) {
            std::swap(mine[random() % mine.size()], mine.back());
            set_timers(*mine.back(), {2000, 1, 1, 1});
            ASSERT_EQ(read_object(*region, *mine.back()).value() >> 32, thread);
            region->destroy(mine.back());
            mine.pop_back();
          }
        }
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_TRUE(region->allocator().check());
  }
  auto region = open_region(file, 16 * kMiB);
  const ScanReport report = region->scan();
  EXPECT_EQ(total_dropped(report), 0U);
  (void)ids(*region, report);
}

}  // namespace
}  // namespace om::region
