#include "store/catalog/catalog.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "store/catalog/crashing_log.h"
#include "store/catalog/journal.h"

namespace om::catalog {
namespace {

class TempDir {
 public:
  TempDir() {
    const char* const base = std::getenv("TMPDIR");
    // The index is synced for real; memory makes that cheap.
    std::string name = base != nullptr                   ? base
                       : ::access("/dev/shm", W_OK) == 0 ? "/dev/shm"
                                                         : "/tmp";
    name += "/om-catalog-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

Record make_record(std::uint64_t id, std::string key, std::uint8_t tier = kTierDisk) {
  Record record;
  record.object_id = id;
  record.key = std::move(key);
  record.length = record.total_bytes = id * 3;
  record.created_ns = id;
  record.place.tier = tier;
  record.place.extents = {{id, 0, id * 3}};
  record.metadata = "m" + std::to_string(id);
  record.revision = static_cast<std::uint32_t>(id % 3);
  return record;
}

// What the catalog fills in set aside.
Record plain(Record record) {
  record.sequence = 0;
  record.durable = false;
  return record;
}

Options options_for(std::string boot, LogDirectory* journal = nullptr) {
  Options options;
  options.boot_id = std::move(boot);
  options.journal_directory = journal;
  options.map_bytes = 1 << 20;
  return options;
}

std::unique_ptr<Catalog> must_open(const std::string& path, Options options) {
  static const ManualClock clock;
  auto opened = Catalog::open(path, std::move(options), clock);
  EXPECT_TRUE(opened) << (opened ? "" : describe(opened.error()));
  return opened ? *std::move(opened) : nullptr;
}

// As publish() for each of them: what each key had, in order.
Result<std::vector<std::optional<Record>>> publish_all(Catalog& catalog,
                                                       const std::vector<Record>& records) {
  std::vector<Publication> publications;
  publications.reserve(records.size());
  for (const Record& record : records)
    publications.push_back({std::make_shared<Record>(record), nullptr, false});
  OM_TRY(catalog.publish_all(publications));
  std::vector<std::optional<Record>> old;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const Publication& one = publications[i];
    EXPECT_EQ(plain(*one.record), plain(records[i]));
    EXPECT_TRUE(one.replaced != nullptr || !one.replaced_durable);
    auto& replaced = old.emplace_back();
    if (one.replaced == nullptr) continue;
    replaced = *one.replaced;
    replaced->durable = one.replaced_durable;
  }
  return old;
}

std::map<std::string, std::uint64_t> contents(Catalog& catalog) {
  std::map<std::string, std::uint64_t> all;
  EXPECT_TRUE(catalog.for_each([&](const Record& record) {
    EXPECT_EQ(plain(record), plain(make_record(record.object_id, record.key, record.place.tier)));
    EXPECT_TRUE(all.emplace(record.key, record.object_id).second) << record.key;
  }));
  EXPECT_EQ(all.size(), catalog.status().objects);
  for (const auto& [key, id] : all) {
    const auto found = catalog.find(key);
    EXPECT_TRUE(found && *found && (*found)->object_id == id) << key;
    // Twice: from the index, then from what was looked at lately, whatever happened in between.
    for (int again = 0; again < 2; ++again) {
      const auto looked = catalog.look(key);
      EXPECT_TRUE(looked && *looked && **looked == **found) << key;
    }
    const auto by_id = catalog.find_object(id);
    EXPECT_TRUE(by_id && *by_id && (*by_id)->key == key) << key;
  }
  return all;
}

std::vector<std::string> listed(Catalog& catalog, std::string_view prefix, std::string_view after,
                                std::size_t limit) {
  std::vector<std::string> keys;
  EXPECT_TRUE(catalog.list(prefix, after, limit, [&](const Record& record) {
    keys.push_back(record.key);
    return true;
  }));
  return keys;
}

TEST(Record, HasItsExtentsInOrderHoweverMany) {
  std::vector<Extent> expected;
  Record record = make_record(7, "k");
  record.place.extents = {};
  const Record none = record;
  for (std::uint64_t n = 0; n <= 5; ++n) {
    const Extents& extents = record.place.extents;
    EXPECT_EQ(std::vector<Extent>(extents.begin(), extents.end()), expected);
    EXPECT_EQ(extents.size(), n);
    EXPECT_EQ(extents.empty(), n == 0);
    std::string bytes;
    encode_record(record, bytes);
    const auto back =
        decode_record({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
    ASSERT_TRUE(back);
    EXPECT_EQ(*back, record);
    EXPECT_EQ(*back == none, n == 0);
    Record copy = record;
    const Record moved = std::move(copy);
    EXPECT_EQ(moved, record);
    const Extent next{n, n * 64, n + 1};
    expected.push_back(next);
    record.place.extents.push_back(next);
    EXPECT_EQ(record.place.extents.front(), expected.front());
    EXPECT_EQ(record.place.extents[n], next);
    EXPECT_FALSE(moved == record);
  }
  EXPECT_EQ((Extents{{1, 2, 3}, {4, 5, 6}})[1], (Extent{4, 5, 6}));
}

TEST(Record, ComesBackAsItWent) {
  Record record = make_record(7, "k");
  record.tags = {"a", "", std::string(255, 't')};
  record.metadata.assign(64 * 1024, 'm');
  record.ephemeral = true;
  record.has_body_checksum = true;
  record.body_checksum = 99;
  record.expires_ns = 5;
  std::string bytes;
  encode_record(record, bytes);
  const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  const auto back = decode_record({data, bytes.size()});
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, record);
  EXPECT_FALSE(decode_record({data, bytes.size() - 1}));
  bytes.push_back('x');
  EXPECT_FALSE(decode_record({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}));
}

TEST(Record, HasANumberThatTablesCanHave) {
  for (const std::uint64_t number : {kNoObjectId - 1, kNoObjectId}) {
    std::string bytes;
    encode_record(make_record(number, "k"), bytes);
    EXPECT_EQ(
        decode_record({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()}).has_value(),
        number != kNoObjectId);
  }
}

TEST(LogFile, ReservesWhatIsAskedForAndNotTheSize) {
  const TempDir dir;
  const auto directory = open_log_directory(dir.path());
  ASSERT_TRUE(directory);
  const auto file = (*directory)->create("log");
  ASSERT_TRUE(file);
  constexpr std::uint64_t kStep = std::uint64_t{1} << 20;
  for (std::uint64_t step = 0; step < 3; ++step) {
    ASSERT_TRUE((*file)->reserve(step * kStep, kStep));
    struct stat status {};
    ASSERT_EQ(::stat((dir.path() + "/log").c_str(), &status), 0);
    const auto blocks = static_cast<std::uint64_t>(status.st_blocks) * 512;
    EXPECT_GE(blocks, (step + 1) * kStep);
    EXPECT_LT(blocks, (step + 2) * kStep);
    EXPECT_EQ(status.st_size, 0);
  }
}

class CatalogSyncedOrNot : public testing::TestWithParam<bool> {};

TEST_P(CatalogSyncedOrNot, PublishesReplacesMovesRemoves) {
  const TempDir dir;
  const auto catalog = must_open(dir.path(), options_for("a"));
  const auto sync = [&] { ASSERT_TRUE(!GetParam() || catalog->group_sync()); };
  EXPECT_TRUE(catalog->recovery().fresh);
  EXPECT_EQ(*catalog->publish(make_record(1, "k")), std::nullopt);
  sync();
  EXPECT_EQ((*catalog->find("k"))->durable, GetParam());
  EXPECT_EQ((*catalog->look("k"))->object_id, 1U);  // and remembered, if it was in the index
  auto old = catalog->publish(make_record(2, "k"));
  ASSERT_TRUE(old && *old);
  EXPECT_EQ((*old)->object_id, 1U);
  EXPECT_EQ((*old)->durable, GetParam());
  EXPECT_EQ(*catalog->find_object(1), std::nullopt);
  sync();
  EXPECT_EQ(*catalog->find_object(1), std::nullopt);
  EXPECT_EQ((*catalog->look("k"))->object_id, 2U);
  EXPECT_EQ(*catalog->move("k", 1, Place{}), std::nullopt);
  ASSERT_TRUE(*catalog->move("k", 2, Place{kTierMemory, 0, {{9, 9, 9}}}));
  EXPECT_EQ((*catalog->find("k"))->place.extents[0].segment, 9U);
  sync();
  EXPECT_EQ((*catalog->find_object(2))->place.extents[0].segment, 9U);
  EXPECT_EQ((*catalog->look("k"))->place.extents[0].segment, 9U);
  EXPECT_EQ(*catalog->remove("none"), std::nullopt);
  ASSERT_TRUE(*catalog->remove("k"));
  EXPECT_EQ(*catalog->find("k"), std::nullopt);
  EXPECT_EQ(*catalog->look("k"), nullptr);
  EXPECT_EQ(*catalog->find_object(2), std::nullopt);
  sync();
  EXPECT_EQ(*catalog->find("k"), std::nullopt);
  EXPECT_EQ(catalog->status().objects, 0U);
}

TEST_P(CatalogSyncedOrNot, PublishesTheSameObjectAnew) {
  const TempDir dir;
  const auto catalog = must_open(dir.path(), options_for("a"));
  const auto sync = [&] { ASSERT_TRUE(!GetParam() || catalog->group_sync()); };
  Record record = make_record(1, "k");
  record.tags = {"red", "blue"};
  ASSERT_TRUE(catalog->publish(record));
  sync();
  (void)catalog->look("k");  // and remembered
  record.tags = {"blue", "green"};
  record.metadata = "other";
  ++record.revision;
  auto old = catalog->publish(record);
  ASSERT_TRUE(old && *old);
  EXPECT_EQ((*old)->metadata, "m1");
  EXPECT_EQ((*old)->durable, GetParam());
  for (int synced = 0; synced < 2; ++synced) {
    EXPECT_EQ(plain(**catalog->find("k")), record);
    EXPECT_EQ(plain(**catalog->look("k")), record);
    EXPECT_EQ(plain(**catalog->find_object(1)), record);
    EXPECT_TRUE(catalog->keys_with_tag("red")->empty());
    EXPECT_EQ(catalog->keys_with_tag("blue")->size(), 1U);
    EXPECT_EQ(catalog->keys_with_tag("green")->size(), 1U);
    EXPECT_EQ(catalog->status().objects, 1U);
    sync();
  }
  // The old place is the new one: a move still finds it.
  ASSERT_TRUE(*catalog->move("k", 1, Place{kTierMemory, 0, {{9, 9, 9}}}));
  EXPECT_EQ((*catalog->find("k"))->metadata, "other");
}

TEST_P(CatalogSyncedOrNot, ListsLongKeysInOrderAndByTag) {
  const TempDir dir;
  Options options = options_for("a");
  options.hash = [](std::string_view key) { return KeyHash{0, key.size() % 3}; };  // all collide
  const auto catalog = must_open(dir.path(), options);
  std::mt19937_64 random(3);
  std::set<std::string> keys;
  std::set<std::string> tagged;
  for (std::uint64_t id = 1; id <= 300; ++id) {
    std::string key = "p" + std::string(random() % 2 == 0 ? 495 : random() % 600, 'x');
    key += std::to_string(random() % 1000);
    Record record = make_record(id, key);
    if (random() % 3 == 0) record.tags = {"red"};
    ASSERT_TRUE(catalog->publish(record));
    keys.insert(key);
    tagged.erase(key);
    if (!record.tags.empty()) tagged.insert(key);
    if (id % 7 == 0) {
      const std::string gone = *keys.begin();
      ASSERT_TRUE(*catalog->remove(gone));
      keys.erase(gone);
      tagged.erase(gone);
    }
    ASSERT_TRUE(!GetParam() || id % 40 != 0 || catalog->group_sync());
  }
  std::vector<std::string> all;
  std::string after;
  for (;;) {
    const auto page = listed(*catalog, "px", after, 7);
    if (page.empty()) break;
    all.insert(all.end(), page.begin(), page.end());
    after = page.back();
  }
  std::vector<std::string> expected;
  for (const auto& key : keys) {
    if (key.compare(0, 2, "px") == 0) expected.push_back(key);
  }
  EXPECT_EQ(all, expected);
  const std::string longer = "p" + std::string(520, 'x');
  expected.clear();
  for (const auto& key : keys) {
    if (key.compare(0, longer.size(), longer) == 0) expected.push_back(key);
  }
  EXPECT_EQ(listed(*catalog, longer, "", 1000), expected);
  auto found = *catalog->keys_with_tag("red");
  EXPECT_EQ(std::set<std::string>(found.begin(), found.end()), tagged);
  EXPECT_TRUE(catalog->keys_with_tag("blue")->empty());
}

TEST_P(CatalogSyncedOrNot, PublishesManyWithOneWrite) {
  const TempDir dir;
  CrashingLogDirectory journal(1);
  auto catalog = must_open(dir.path(), options_for("a", &journal));
  std::vector<Record> records;
  for (std::uint64_t id = 1; id <= 4; ++id)
    records.push_back(
        make_record(id, "k" + std::to_string(id), id % 2 == 0 ? kTierMemory : kTierDisk));
  records[2].tags = {"red"};
  ASSERT_TRUE(publish_all(*catalog, records));
  ASSERT_TRUE(!GetParam() || catalog->group_sync());
  for (const Record& record : records) (void)catalog->look(record.key);  // and remembered
  const std::uint64_t writes = journal.writes;
  const std::uint64_t sequence = catalog->status().sequence;
  // One that is looked at stays what it was, whatever comes after it.
  const auto looked = *catalog->look("k3");
  std::vector<Publication> anew;
  for (std::uint64_t id = 12; id <= 15; ++id) {
    Record record = make_record(id, "k" + std::to_string(id - 10));
    if (id == 12) record.metadata.assign(1000, 'm');  // too long to be kept beside the journal
    anew.push_back({std::make_shared<Record>(record), nullptr, false});
  }
  const auto said = [&](std::size_t i) { return plain(*anew[i].record); };
  const std::vector<Record> before{said(0), said(1), said(2), said(3)};
  journal.fail_writes = true;
  EXPECT_EQ(catalog->publish_all(anew).error().code, Errc::kNoSpace);
  journal.fail_writes = false;
  for (std::size_t i = 0; i < anew.size(); ++i) EXPECT_EQ(said(i), before[i]);
  EXPECT_EQ(catalog->status().sequence, sequence);
  for (std::uint64_t id = 1; id <= 4; ++id) {
    EXPECT_EQ(plain(**catalog->find_object(id)), records[id - 1]);
    EXPECT_EQ(plain(**catalog->look("k" + std::to_string(id))), records[id - 1]);
    EXPECT_EQ(*catalog->find_object(id + 11), std::nullopt);
  }
  const std::uint64_t failed = journal.writes;
  EXPECT_GT(failed, writes);
  ASSERT_TRUE(catalog->publish_all(anew));
  EXPECT_EQ(journal.writes, failed + 1);
  EXPECT_EQ(catalog->status().sequence, sequence + anew.size());
  for (std::size_t i = 0; i < anew.size(); ++i) {
    EXPECT_EQ(said(i), before[i]);
    EXPECT_EQ(plain(**catalog->find(before[i].key)), before[i]);
    EXPECT_EQ(plain(**catalog->look(before[i].key)), before[i]);
    EXPECT_EQ(plain(**catalog->find_object(before[i].object_id)), before[i]);
    if (i == 3) continue;  // k5 is new
    ASSERT_NE(anew[i].replaced, nullptr);
    EXPECT_EQ(plain(*anew[i].replaced), records[i + 1]);
    EXPECT_EQ(anew[i].replaced_durable, GetParam() && records[i + 1].survives_boot());
    EXPECT_EQ(*catalog->find_object(records[i + 1].object_id), std::nullopt);
  }
  EXPECT_EQ(anew[3].replaced, nullptr);
  EXPECT_FALSE(anew[3].replaced_durable);
  EXPECT_EQ(plain(*looked), records[2]);
  EXPECT_TRUE(catalog->keys_with_tag("red")->empty());
  std::vector<Publication> none;
  ASSERT_TRUE(catalog->publish_all(none));
  EXPECT_EQ(journal.writes, failed + 1);
  for (int again = 0; again < 2; ++again) {
    std::set<std::uint64_t> there;
    ASSERT_TRUE(catalog->for_each([&](const Record& record) { there.insert(record.object_id); }));
    EXPECT_EQ(there, (std::set<std::uint64_t>{1, 12, 13, 14, 15}));
    EXPECT_EQ(catalog->status().objects, 5U);
    catalog.reset();
    catalog = must_open(dir.path(), options_for("a", &journal));
    ASSERT_TRUE(catalog);
  }
}

TEST_P(CatalogSyncedOrNot, RemovesManyWithOneWrite) {
  const TempDir dir;
  CrashingLogDirectory journal(1);
  auto catalog = must_open(dir.path(), options_for("a", &journal));
  std::vector<Record> records;
  for (std::uint64_t id = 1; id <= 6; ++id)
    records.push_back(
        make_record(id, "k" + std::to_string(id), id % 2 == 0 ? kTierMemory : kTierDisk));
  records[3].tags = {"red"};
  ASSERT_TRUE(publish_all(*catalog, records));
  ASSERT_TRUE(!GetParam() || catalog->group_sync());
  std::vector<Record> gone;
  for (std::uint64_t id = 2; id <= 5; ++id) gone.push_back(**catalog->find_object(id));
  const std::uint64_t writes = journal.writes;
  const std::uint64_t sequence = catalog->status().sequence;
  ASSERT_TRUE(catalog->remove_all(gone));
  EXPECT_EQ(journal.writes, writes + 1);
  EXPECT_EQ(catalog->status().sequence, sequence + gone.size());
  ASSERT_EQ(gone.size(), 4U);
  for (std::size_t i = 0; i < gone.size(); ++i) {
    EXPECT_EQ(gone[i].durable, GetParam() && gone[i].survives_boot()) << gone[i].key;
    EXPECT_EQ(plain(gone[i]), records[i + 1]);
    EXPECT_EQ(*catalog->find(gone[i].key), std::nullopt);
    EXPECT_EQ(*catalog->find_object(gone[i].object_id), std::nullopt);
  }
  EXPECT_TRUE(catalog->keys_with_tag("red")->empty());
  std::vector<Record> none;
  ASSERT_TRUE(catalog->remove_all(none));
  EXPECT_EQ(journal.writes, writes + 1);
  const std::map<std::string, std::uint64_t> left{{"k1", 1}, {"k6", 6}};
  EXPECT_EQ(contents(*catalog), left);
  catalog.reset();
  catalog = must_open(dir.path(), options_for("a", &journal));
  ASSERT_TRUE(catalog);
  EXPECT_EQ(contents(*catalog), left);
  ASSERT_TRUE(catalog->group_sync());
  EXPECT_EQ(contents(*catalog), left);
}

INSTANTIATE_TEST_SUITE_P(Catalog, CatalogSyncedOrNot, testing::Bool());

TEST(Catalog, MapGrowsAndIsLockedAndEndsClean) {
  const TempDir dir;
  const SystemClock clock;
  {
    const auto catalog = must_open(dir.path(), options_for("a"));
    EXPECT_EQ(Catalog::open(dir.path(), options_for("a"), clock).error().code, Errc::kBusy);
    for (std::uint64_t id = 1; id <= 3000; ++id) {
      Record record = make_record(id, "key" + std::to_string(id));
      record.metadata.assign(1000, 'x');
      ASSERT_TRUE(catalog->publish(record));
    }
    EXPECT_TRUE(catalog->mark_clean());
    EXPECT_GT(catalog->status().map_bytes, std::uint64_t{1} << 20);
    EXPECT_EQ(catalog->status().overlay_entries, 0U);
  }
  const auto catalog = must_open(dir.path(), options_for("b"));
  EXPECT_TRUE(catalog->recovery().clean);
  EXPECT_FALSE(catalog->recovery().same_boot);
  EXPECT_EQ(catalog->status().objects, 3000U);
}

TEST(Catalog, PowerLossKeepsWhatWasCoveredAndNotRemoved) {
  const TempDir dir;
  {
    const auto catalog = must_open(dir.path(), options_for("a"));
    ASSERT_TRUE(catalog->publish(make_record(1, "stays")));
    ASSERT_TRUE(catalog->publish(make_record(2, "in memory", kTierMemory)));
    ASSERT_TRUE(catalog->publish(make_record(3, "removed")));
    ASSERT_TRUE(catalog->publish(make_record(4, "moved")));
    ASSERT_TRUE(catalog->publish(make_record(5, "replaced")));
    ASSERT_TRUE(catalog->group_sync());
    ASSERT_TRUE(catalog->publish(make_record(6, "late")));
    EXPECT_TRUE((*catalog->remove("removed"))->durable);
    ASSERT_TRUE(*catalog->move("moved", 4, Place{}));
    EXPECT_TRUE((*catalog->publish(make_record(7, "replaced")))->durable);
    // What hides a durable object says so, however often it is replaced.
    EXPECT_TRUE((*catalog->remove("moved"))->durable);
    ASSERT_TRUE(catalog->sync_removals());
  }
  const auto catalog = must_open(dir.path(), options_for("b"));
  EXPECT_EQ(contents(*catalog), (std::map<std::string, std::uint64_t>{{"stays", 1}}));
  EXPECT_FALSE(catalog->recovery().removals_may_be_missing);
}

TEST(Catalog, PowerLossAfterAMoveFindsTheOldPlace) {
  const TempDir dir;
  const Record before = make_record(1, "k");
  {
    const auto catalog = must_open(dir.path(), options_for("a"));
    ASSERT_TRUE(catalog->publish(before));
    ASSERT_TRUE(catalog->group_sync());
    ASSERT_TRUE(*catalog->move("k", 1, Place{kTierDisk, 2, {{77, 8, before.length}}}));
    ASSERT_TRUE(catalog->sync_removals());
  }
  const auto catalog = must_open(dir.path(), options_for("b"));
  const auto found = catalog->find("k");
  ASSERT_TRUE(found && *found);
  EXPECT_EQ((*found)->place.extents.front().segment, before.place.extents.front().segment);
}

TEST(Catalog, FullFileSystemRefusesAndRecovers) {
  const TempDir dir;
  CrashingLogDirectory journal(1);
  const auto catalog = must_open(dir.path(), options_for("a", &journal));
  ASSERT_TRUE(catalog->publish(make_record(1, "one")));
  journal.fail_writes = true;
  EXPECT_EQ(catalog->publish(make_record(2, "two")).error().code, Errc::kNoSpace);
  journal.fail_writes = false;
  EXPECT_EQ(*catalog->find("two"), std::nullopt);
  ASSERT_TRUE(catalog->publish(make_record(3, "three")));
  EXPECT_EQ(contents(*catalog), (std::map<std::string, std::uint64_t>{{"one", 1}, {"three", 3}}));
}

// A full file system takes a part of what is written, whole entries among it. They are none: not
// when it has room again for the zeros over them, and not when the next entry is a short one.
TEST(Catalog, WhatAFailedWriteOfManyHasLeftIsNoEntry) {
  for (std::uint64_t seed = 1; seed <= 100 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    const TempDir dir;
    CrashingLogDirectory journal(seed);
    std::map<std::string, std::uint64_t> expected;
    {
      const auto catalog = must_open(dir.path(), options_for("a", &journal));
      std::vector<Record> there;
      std::vector<Record> others;
      for (std::uint64_t id = 1; id <= 8; ++id) {
        there.push_back(make_record(id, std::string(200, 'k') + std::to_string(id)));
        others.push_back(make_record(id + 10, std::string(200, 'o') + std::to_string(id)));
        expected[there.back().key] = id;
      }
      ASSERT_TRUE(publish_all(*catalog, there));
      const bool for_long = seed % 2 == 0;
      (for_long ? journal.fail_writes : journal.fail_one_write) = true;
      const Error why =
          seed % 4 < 2 ? publish_all(*catalog, others).error() : catalog->remove_all(there).error();
      EXPECT_EQ(why.code, Errc::kNoSpace);
      journal.fail_writes = false;
      EXPECT_EQ(contents(*catalog), expected);
      for (const Record& record : there) EXPECT_EQ(expected[record.key], record.object_id);
      if (for_long) {
        ASSERT_TRUE(catalog->publish(make_record(20, "short")));
        expected["short"] = 20;
      }
    }
    const auto catalog = must_open(dir.path(), options_for("a", &journal));
    ASSERT_TRUE(catalog);
    EXPECT_EQ(contents(*catalog), expected);
    EXPECT_EQ(catalog->recovery().records_missing, 0U);
    EXPECT_FALSE(catalog->recovery().removals_may_be_missing);
  }
}

TEST(Catalog, AFailedSyncIsNeverPapered) {
  const TempDir dir;
  CrashingLogDirectory journal(1);
  const auto catalog = must_open(dir.path(), options_for("a", &journal));
  ASSERT_TRUE(catalog->publish(make_record(1, "one")));
  journal.fail_syncs = true;
  EXPECT_FALSE(catalog->sync_removals());
  journal.fail_syncs = false;
  EXPECT_FALSE(catalog->sync_removals());
  ASSERT_TRUE(catalog->group_sync());  // the index has it now
  EXPECT_TRUE(catalog->sync_removals());
  ASSERT_TRUE(catalog->publish(make_record(2, "two")));
  EXPECT_TRUE(catalog->sync_removals());
}

// The first of two transactions is in the index for good, the second was never made.
TEST(Catalog, WhatAGroupSyncThatFailedHasWrittenStaysRemovedAfterPowerLoss) {
  const TempDir dir;
  {
    Options options = options_for("a");
    options.batch_entries = 1;
    int batches = 0;
    options.before_batch = [&]() -> Result<void> {
      if (++batches == 2) return Error{Errc::kNoSpace, 0, "full"};
      return {};
    };
    const auto catalog = must_open(dir.path(), options);
    ASSERT_TRUE(catalog->publish(make_record(1, "first")));
    ASSERT_TRUE(catalog->publish(make_record(2, "second")));
    ASSERT_TRUE(catalog->publish(make_record(3, "in memory", kTierMemory)));
    EXPECT_FALSE(catalog->group_sync());
    EXPECT_EQ(contents(*catalog).size(), 3U);
    // Its caller has to sync before it answers, and so has who replaces it.
    EXPECT_TRUE((*catalog->publish(make_record(4, "first")))->durable);
    EXPECT_TRUE((*catalog->remove("first"))->durable);
    EXPECT_FALSE((*catalog->remove("in memory"))->durable);
    ASSERT_TRUE(catalog->sync_removals());
  }
  const auto catalog = must_open(dir.path(), options_for("b"));
  EXPECT_EQ(catalog->status().objects, 0U);
  EXPECT_EQ(*catalog->find("first"), std::nullopt);
}

// Flips a byte of the journal at `offset` of its newest file.
void damage(CrashingLogDirectory& journal, std::size_t offset) {
  auto& content = *std::prev(journal.names().end())->second;
  content.now[offset] ^= std::byte{1};
}

TEST(Catalog, DamagedPayloadCostsItsKeyAlone) {
  const TempDir dir;
  CrashingLogDirectory journal(1);
  {
    const auto catalog = must_open(dir.path(), options_for("a", &journal));
    for (std::uint64_t id = 1; id <= 3; ++id)
      ASSERT_TRUE(catalog->publish(make_record(id, "k" + std::to_string(id))));
  }
  damage(journal, sizeof(FileHeader) + sizeof(EntryHeader) + 10);
  const auto catalog = must_open(dir.path(), options_for("a", &journal));
  EXPECT_EQ(catalog->recovery().records_damaged, 1U);
  EXPECT_EQ(contents(*catalog), (std::map<std::string, std::uint64_t>{{"k2", 2}, {"k3", 3}}));
}

TEST(Catalog, HoleInTheMiddleKeepsOnlyWhatCameAfter) {
  const TempDir dir;
  CrashingLogDirectory journal(1);
  {
    const auto catalog = must_open(dir.path(), options_for("a", &journal));
    ASSERT_TRUE(catalog->publish(make_record(9, "indexed")));
    ASSERT_TRUE(catalog->group_sync());
  }
  {
    const auto catalog = must_open(dir.path(), options_for("a", &journal));
    for (std::uint64_t id = 1; id <= 3; ++id)
      ASSERT_TRUE(catalog->publish(make_record(id, "k" + std::to_string(id))));
  }
  damage(journal, sizeof(FileHeader) + 20);
  const auto catalog = must_open(dir.path(), options_for("a", &journal));
  EXPECT_TRUE(catalog->recovery().removals_may_be_missing);
  EXPECT_EQ(catalog->recovery().records_missing, 1U);
  EXPECT_EQ(contents(*catalog), (std::map<std::string, std::uint64_t>{{"k2", 2}, {"k3", 3}}));
  EXPECT_FALSE(catalog->recovery().report.empty());
}

TEST(Catalog, IndexThatIsNoneIsPutAside) {
  const TempDir dir;
  { ASSERT_TRUE(must_open(dir.path(), options_for("a"))->publish(make_record(1, "k"))); }
  std::filesystem::resize_file(dir.path() + "/index.mdb", 0);
  { std::filesystem::resize_file(dir.path() + "/index.mdb", 100); }
  const auto catalog = must_open(dir.path(), options_for("a"));
  EXPECT_TRUE(catalog->recovery().index_lost);
  EXPECT_EQ(contents(*catalog), (std::map<std::string, std::uint64_t>{{"k", 1}}));
}

// One key in the model: what a reader may see after the crash that comes next.
struct Expected {
  std::uint64_t id = 0;   // 0: nothing
  bool doubtful = false;  // the last call on it did not return: its outcome is open
  std::uint64_t doubtful_id = 0;
  std::uint64_t durable_id = 0;  // after power loss, if nothing later was journalled; 0: nothing
  bool durable_open = false;     // ... or perhaps not even that
  bool touched = false;          // by a change after the last group sync
};

// Random calls, a crash in one of them, open again, everything compared, several times over.
void crash_schedule(std::uint64_t seed) {
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const TempDir dir;
  CrashingLogDirectory journal(seed);
  std::map<std::string, Expected> model;
  std::uint64_t next_id = 1;
  int boot = 0;
  for (int life = 0; life < 4; ++life) {
    Options options = options_for("boot" + std::to_string(boot), &journal);
    options.journal_bytes_max = 1000;
    options.batch_entries = 3;
    std::uint64_t batches_left = random() % 12;
    options.before_batch = [&]() -> Result<void> {
      if (batches_left == 0) {
        journal.die_after(1);
        (void)journal.sync();
      }
      if (journal.dead()) return Error{Errc::kSystem, 0, "dead"};
      --batches_left;
      return {};
    };
    auto catalog = must_open(dir.path(), options);
    ASSERT_TRUE(catalog);
    EXPECT_FALSE(catalog->recovery().removals_may_be_missing) << catalog->recovery().report;
    const auto now = contents(*catalog);
    for (auto& [key, expected] : model) {
      const auto found = now.find(key);
      const std::uint64_t id = found == now.end() ? 0 : found->second;
      EXPECT_TRUE(id == expected.id || (expected.doubtful && id == expected.doubtful_id))
          << key << " has " << id << ", expected " << expected.id << " life " << life;
      expected = {id, false, 0, expected.durable_id, expected.durable_open, expected.touched};
      if (!catalog->recovery().same_boot) {
        expected.touched = false;
        expected.durable_id = id;
        expected.durable_open = false;
      }
    }
    for (const auto& [key, id] : now) EXPECT_EQ(model.count(key), 1U) << key;
    journal.die_after(5 + random() % 60);
    while (!journal.dead()) {
      const auto number = random() % 12;
      const std::string key = "k" + std::to_string(number);
      Expected& expected = model[key];
      const auto kind = random() % 10;
      if (kind < 8) expected.touched = true;
      if (kind == 0) {
        std::vector<Record> records;
        for (std::uint64_t i = 0; i <= random() % 4; ++i)
          records.push_back(make_record(next_id++, "k" + std::to_string((number + i) % 12),
                                        random() % 4 == 0 ? kTierMemory : kTierDisk));
        const auto done = publish_all(*catalog, records);
        const bool any_durable =
            done && std::any_of(done->begin(), done->end(),
                                [](const auto& old) { return old && old->durable; });
        const bool synced = any_durable ? bool(catalog->sync_removals()) : bool(done);
        for (std::size_t i = 0; i < records.size(); ++i) {
          Expected& one = model[records[i].key];
          one.touched = true;
          if (!synced) {
            one.doubtful = true;
            one.doubtful_id = records[i].object_id;
            one.durable_open = true;
            continue;
          }
          one.id = records[i].object_id;
          if ((*done)[i] && (*done)[i]->durable) {
            one.durable_id = 0;
            one.durable_open = false;
          } else if (one.durable_id == 0) {
            one.durable_open = false;
          }
        }
        if (!synced) break;
      } else if (kind < 5) {
        const std::uint64_t id = next_id++;
        const std::uint8_t tier = random() % 4 == 0 ? kTierMemory : kTierDisk;
        const auto done = catalog->publish(make_record(id, key, tier));
        const bool synced =
            done && *done && (*done)->durable ? bool(catalog->sync_removals()) : bool(done);
        if (!synced) {
          expected.doubtful = true;
          expected.doubtful_id = id;
          expected.durable_open = true;
          break;
        }
        expected.id = id;
        if (*done && (*done)->durable) {
          expected.durable_id = 0;
          expected.durable_open = false;
        } else if (expected.durable_id == 0) {
          expected.durable_open = false;
        }
      } else if (kind == 5) {
        std::vector<Record> records;
        for (std::uint64_t i = 0; i <= random() % 4; ++i) {
          const auto found = catalog->find("k" + std::to_string((number + i) % 12));
          ASSERT_TRUE(found);
          if (*found) records.push_back(**found);
        }
        const auto done = catalog->remove_all(records);
        const bool any_durable =
            done && std::any_of(records.begin(), records.end(),
                                [](const Record& record) { return record.durable; });
        const bool synced = any_durable ? bool(catalog->sync_removals()) : bool(done);
        for (const Record& record : records) {
          Expected& one = model[record.key];
          one.touched = true;
          if (!synced) {
            one.doubtful = true;
            one.doubtful_id = 0;
            one.durable_open = true;
            continue;
          }
          one.id = 0;
          if (record.durable) one.durable_id = 0;
        }
        if (!synced) break;
      } else if (kind < 8) {
        const auto done = catalog->remove(key);
        const bool synced =
            done && *done && (*done)->durable ? bool(catalog->sync_removals()) : bool(done);
        if (!synced) {
          expected.doubtful = true;
          expected.doubtful_id = 0;
          expected.durable_open = true;
          break;
        }
        expected.id = 0;
        if (*done && (*done)->durable) expected.durable_id = 0;
      } else {
        if (!catalog->group_sync()) {
          // What it had got to is open.
          for (auto& [other, state] : model) {
            (void)other;
            state.durable_open = true;
          }
          break;
        }
        for (auto& [other, state] : model) {
          const auto record = catalog->find(other);
          ASSERT_TRUE(record);
          state.durable_id = *record && (*record)->durable ? state.id : 0;
          state.durable_open = false;
          state.touched = false;
        }
      }
    }
    catalog.reset();
    if (random() % 2 == 0) {
      journal.kill();
      continue;
    }
    ++boot;
    journal.lose_power();
    for (auto& [key, expected] : model) {
      const bool open = expected.durable_open;
      const std::uint64_t latest = expected.id;
      expected.id = expected.durable_id;
      // An unfinished group sync may have written the latest state, or removed what was there.
      expected.doubtful = true;
      expected.doubtful_id = expected.id;
      if (open && latest != 0) {
        // Either is right: the durable one, the latest, or nothing. Let the next look decide.
        expected.doubtful_id = latest;
      }
    }
    // Nothing where a durable one had no later change would be a loss.
    auto check = must_open(dir.path(), options_for("boot" + std::to_string(boot), &journal));
    ASSERT_TRUE(check);
    EXPECT_FALSE(check->recovery().removals_may_be_missing) << check->recovery().report;
    const auto after = contents(*check);
    for (auto& [key, expected] : model) {
      const auto found = after.find(key);
      const std::uint64_t id = found == after.end() ? 0 : found->second;
      EXPECT_TRUE((id == 0 && expected.touched) || id == expected.id || id == expected.doubtful_id)
          << key << " came back as " << id << ", durable was " << expected.id << " life " << life;
      expected = {id, false, 0, id, false, false};
    }
  }
}

TEST(CatalogCrash, KeepsItsWordAfterAnyCrash) {
  for (std::uint64_t seed = 1; seed <= 400 && !testing::Test::HasFailure(); ++seed) {
    crash_schedule(seed);
  }
}

TEST(CatalogCrash, OfManyThatAreRemovedTheFirstAreGoneAfterACrash) {
  for (std::uint64_t seed = 1; seed <= 100 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    const TempDir dir;
    CrashingLogDirectory journal(seed);
    const bool power = seed % 2 == 0;
    {
      const auto catalog = must_open(dir.path(), options_for("a", &journal));
      std::vector<Record> records;
      for (std::uint64_t id = 1; id <= 8; ++id)
        records.push_back(make_record(id, "k" + std::to_string(id)));
      ASSERT_TRUE(publish_all(*catalog, records));
      ASSERT_TRUE(!power || catalog->group_sync());
      for (Record& record : records) record = **catalog->find(record.key);
      journal.die_after(1);
      EXPECT_FALSE(catalog->remove_all(records));
    }
    power ? journal.lose_power() : journal.kill();
    const auto catalog = must_open(dir.path(), options_for(power ? "b" : "a", &journal));
    ASSERT_TRUE(catalog);
    EXPECT_FALSE(catalog->recovery().removals_may_be_missing);
    const auto left = contents(*catalog);
    std::map<std::string, std::uint64_t> last;
    for (std::uint64_t id = 9 - left.size(); id <= 8; ++id) last["k" + std::to_string(id)] = id;
    EXPECT_EQ(left, last);
  }
}

// Journal alone: what is read back after power loss is what was written, in order; all that was
// synced is there.
TEST(JournalCrash, SyncedEntriesAreAllThereAndNothingIsInvented) {
  for (std::uint64_t seed = 1; seed <= 4000 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    CrashingLogDirectory directory(seed);
    std::map<std::uint64_t, std::string> written;
    std::uint64_t synced = 0;
    std::uint64_t sequence = 0;
    {
      Journal journal(directory);
      auto file = journal.make_file(1, 1, KeyHash{1, 2});
      ASSERT_TRUE(file);
      journal.use_file(*std::move(file));
      directory.die_after(1 + random() % 80);
      while (!directory.dead()) {
        if (random() % 6 == 0) {
          if (journal.current()->log->sync()) synced = sequence;
        } else if (random() % 12 == 0) {
          if (!journal.current()->log->sync()) break;
          synced = sequence;
          auto next = journal.make_file(journal.next_number(), sequence + 1, KeyHash{1, 2});
          if (next) journal.use_file(*std::move(next));
        } else {
          const std::string payload(random() % 300, static_cast<char>('a' + random() % 26));
          EntryHeader header{};
          header.type = static_cast<std::uint16_t>(EntryType::kRemove);
          header.sequence = sequence + 1;
          header.synced_sequence = synced;
          written[sequence + 1] = payload;
          if (!journal.append(
                  header, {reinterpret_cast<const std::byte*>(payload.data()), payload.size()})) {
            break;
          }
          ++sequence;
        }
      }
    }
    const bool power = random() % 2 == 0;
    power ? directory.lose_power() : directory.kill();
    std::set<std::uint64_t> seen;
    Journal journal(directory);
    const auto replay = journal.replay(
        0, {[&](const ScannedEntry& entry, Journal::File&) {
              seen.insert(entry.header.sequence);
              const std::string text(reinterpret_cast<const char*>(entry.payload.data()),
                                     entry.payload.size());
              EXPECT_TRUE(entry.damaged || text == written[entry.header.sequence]);
              EXPECT_FALSE(entry.damaged && (!power || entry.header.sequence <= synced));
            },
            [](std::uint64_t, std::uint64_t) {}});
    ASSERT_TRUE(replay);
    for (std::uint64_t s = 1; s <= (power ? synced : sequence); ++s) EXPECT_EQ(seen.count(s), 1U);
    EXPECT_LE(replay->claimed_synced, synced);
  }
}

// For those who show others what is there: they learn of each change first, and can refuse it.
TEST(Catalog, TellsOfARecordBeforeItChanges) {
  using Told = std::vector<std::pair<std::uint64_t, bool>>;
  const TempDir dir;
  Told told;
  bool refuse = false;
  auto options = options_for("a");
  options.before_change = [&](const Record& record, bool stays) -> Result<void> {
    told.emplace_back(record.object_id, stays);
    if (refuse) return Error{Errc::kNoSpace, 0, "not now"};
    return {};
  };
  const auto catalog = must_open(dir.path(), options);
  const auto last = [&] { return std::exchange(told, Told()); };
  ASSERT_TRUE(catalog->publish(make_record(1, "k")));
  EXPECT_EQ(last(), Told());
  Record anew = make_record(1, "k");
  anew.metadata = "said anew";
  ASSERT_TRUE(catalog->publish(anew));
  EXPECT_EQ(last(), (Told{{1, true}}));
  ASSERT_TRUE(catalog->publish(make_record(2, "k")));
  EXPECT_EQ(last(), (Told{{1, false}}));
  ASSERT_TRUE(catalog->move("k", 2, Place{kTierDisk, 0, {{9, 0, 6}}}));
  EXPECT_EQ(last(), (Told{{2, false}}));
  ASSERT_TRUE(catalog->move("k", 7, Place{kTierDisk, 0, {{9, 0, 6}}}));  // another object
  ASSERT_TRUE(catalog->remove("none"));
  EXPECT_EQ(last(), Told());
  ASSERT_TRUE(publish_all(*catalog, {make_record(3, "k"), make_record(4, "l")}));
  EXPECT_EQ(last(), (Told{{2, false}}));
  refuse = true;
  EXPECT_EQ(catalog->remove("k").error().code, Errc::kNoSpace);
  EXPECT_EQ(catalog->publish(make_record(5, "l")).error().code, Errc::kNoSpace);
  EXPECT_EQ(last(), (Told{{3, false}, {4, false}}));
  EXPECT_EQ((*catalog->find("k"))->object_id, 3U);
  EXPECT_EQ((*catalog->find("l"))->object_id, 4U);
  refuse = false;
  ASSERT_TRUE(catalog->remove("k"));
  EXPECT_EQ(last(), (Told{{3, false}}));
  EXPECT_EQ(*catalog->find("k"), std::nullopt);
  ASSERT_TRUE(catalog->publish(make_record(6, "m")));
  std::vector<Record> both{**catalog->find("l"), **catalog->find("m")};
  refuse = true;
  EXPECT_EQ(catalog->remove_all(both).error().code, Errc::kNoSpace);
  EXPECT_EQ(last(), (Told{{4, false}}));
  EXPECT_EQ((*catalog->find("l"))->object_id, 4U);
  EXPECT_EQ(both[1], **catalog->find("m"));
  refuse = false;
  ASSERT_TRUE(catalog->remove_all(both));
  EXPECT_EQ(last(), (Told{{4, false}, {6, false}}));
  EXPECT_EQ(catalog->status().objects, 0U);
}

TEST(Catalog, TellsOfKeysThatComeAndGo) {
  using Told = std::vector<std::pair<std::string, bool>>;
  const TempDir dir;
  CrashingLogDirectory journal(1);
  Told told;
  auto options = options_for("a", &journal);
  options.on_presence = [&](std::string_view key, bool there) { told.emplace_back(key, there); };
  auto catalog = must_open(dir.path(), options);
  const auto last = [&] { return std::exchange(told, Told()); };
  ASSERT_TRUE(catalog->publish(make_record(1, "k")));
  EXPECT_EQ(last(), (Told{{"k", true}}));
  ASSERT_TRUE(catalog->publish(make_record(2, "k")));
  ASSERT_TRUE(catalog->move("k", 2, Place{kTierDisk, 0, {{9, 0, 6}}}));
  ASSERT_TRUE(catalog->move("none", 2, Place{kTierDisk, 0, {{9, 0, 6}}}));
  ASSERT_TRUE(catalog->remove("none"));
  EXPECT_EQ(last(), Told());
  ASSERT_TRUE(publish_all(*catalog, {make_record(3, "k"), make_record(4, "l")}));
  EXPECT_EQ(last(), (Told{{"l", true}}));
  // What does not get into the journal was not there.
  journal.fail_writes = true;
  EXPECT_FALSE(catalog->publish(make_record(5, "m")));
  EXPECT_EQ(last(), (Told{{"m", true}, {"m", false}}));
  EXPECT_FALSE(
      publish_all(*catalog, {make_record(6, "m"), make_record(7, "l"), make_record(8, "n")}));
  EXPECT_EQ(last(), (Told{{"m", true}, {"n", true}, {"m", false}, {"n", false}}));
  EXPECT_FALSE(catalog->remove("k"));
  EXPECT_EQ(last(), Told());
  journal.fail_writes = false;
  ASSERT_TRUE(catalog->remove("k"));
  EXPECT_EQ(last(), (Told{{"k", false}}));
  ASSERT_TRUE(publish_all(*catalog, {make_record(9, "m"), make_record(10, "n")}));
  (void)last();
  std::vector<Record> both{**catalog->find("m"), **catalog->find("n")};
  journal.fail_writes = true;
  EXPECT_FALSE(catalog->remove_all(both));
  EXPECT_EQ(last(), Told());
  journal.fail_writes = false;
  ASSERT_TRUE(catalog->remove_all(both));
  EXPECT_EQ(last(), (Told{{"m", false}, {"n", false}}));
  // Of what is there at the start its owner knows by for_each().
  catalog.reset();
  catalog = must_open(dir.path(), options);
  EXPECT_EQ(last(), Told());
  ASSERT_TRUE(catalog->remove("l"));
  EXPECT_EQ(last(), (Told{{"l", false}}));
}

}  // namespace
}  // namespace om::catalog
