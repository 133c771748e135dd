#include "region/body_files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "posix/file.h"
#include "region/testing.h"

namespace om::region {
namespace {

using namespace testing;
namespace fs = std::filesystem;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

class BodyFilesTest : public ::testing::Test {
 public:
  BodyFilesTest() {
    char path[] = "/tmp/om-body-files.XXXXXX";
    if (::mkdtemp(path) == nullptr) std::abort();
    directory = path;
  }
  ~BodyFilesTest() override { fs::remove_all(directory); }

  std::unique_ptr<BodyFiles> open(std::uint64_t capacity = kMiB, std::size_t descriptors = 4) {
    auto files = BodyFiles::open(*open_file(directory, O_RDONLY | O_DIRECTORY),
                                 {.capacity = capacity, .descriptors_max = descriptors});
    EXPECT_TRUE(files) << describe(files.error());
    return *std::move(files);
  }
  // A finished one whose bytes tell its number.
  static FileRef make(BodyFiles& files, std::uint64_t length) {
    auto file = files.create(length);
    EXPECT_TRUE(file) << describe(file.error());
    const std::uint64_t number = (*file)->ref().number;
    std::vector<std::byte> bytes(length);
    for (std::uint64_t i = 0; i < length; ++i) bytes[i] = body_byte(number, i);
    EXPECT_TRUE(files.write(**file, 0, bytes));
    EXPECT_TRUE(files.finish(*file, length));
    return (*file)->ref();
  }
  static bool good(BodyFiles& files, const FileRef& ref) {
    const auto file = files.pin(ref);
    std::vector<std::byte> bytes(ref.length);
    if (!file || !read_exactly((*file)->fd(), 0, bytes)) return false;
    for (std::uint64_t i = 0; i < ref.length; ++i)
      if (bytes[i] != body_byte(ref.number, i)) return false;
    return true;
  }
  [[nodiscard]] std::size_t on_disk() const {
    std::size_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(directory))
      count += entry.is_regular_file() ? 1 : 0;
    return count;
  }
  [[nodiscard]] std::string path_of(const FileRef& ref) const {
    return directory + "/" + BodyFiles::name_of(ref.number);
  }

  std::string directory;
};

TEST_F(BodyFilesTest, SpaceIsCountedInBlocksBeforeItIsTakenAndComesBack) {
  auto files = open(10 * 4096);
  const FileRef one = make(*files, 5000);
  EXPECT_EQ(files->used_bytes(), 8192U);
  EXPECT_EQ(files->create(9 * 4096).error().code, Errc::kNoSpace);
  auto growing = files->create(0);
  ASSERT_TRUE(growing);
  ASSERT_TRUE(files->grow(**growing, 8 * 4096));
  EXPECT_EQ(files->grow(**growing, 8 * 4096 + 1).error().code, Errc::kNoSpace);
  EXPECT_EQ(files->used_bytes(), files->capacity());
  const std::vector<std::byte> bytes(100);
  ASSERT_TRUE(files->write(**growing, 0, bytes));
  ASSERT_TRUE(files->finish(*growing, 100));
  EXPECT_EQ(files->used_bytes(), 3 * 4096U);
  struct stat st {};
  ASSERT_EQ(::stat(path_of((*growing)->ref()).c_str(), &st), 0);
  EXPECT_EQ(st.st_size, 100);
  EXPECT_LE(st.st_blocks * 512, 4096);
  files->remove((*growing)->ref());
  EXPECT_EQ(files->used_bytes(), 3 * 4096U) << "somebody has it open";
  growing->reset();
  EXPECT_EQ(files->used_bytes(), 8192U);
  files->remove(one);
  EXPECT_EQ(files->used_bytes(), 0U);
  EXPECT_EQ(files->files(), 0U);
  EXPECT_EQ(on_disk(), 0U);
  EXPECT_EQ(files->counters().write_errors.load(), 0U);
}

TEST_F(BodyFilesTest, WhatIsGivenUpLeavesNothing) {
  auto files = open();
  auto file = files->create(100000);
  ASSERT_TRUE(file);
  EXPECT_EQ(on_disk(), 1U);
  files->discard(**file);
  EXPECT_EQ(on_disk(), 0U);
  file->reset();
  EXPECT_EQ(files->used_bytes(), 0U);
  EXPECT_EQ(files->descriptors(), 0U);
}

TEST_F(BodyFilesTest, DescriptorsStayWithinTheBudgetAndAreOpenedAgain) {
  auto files = open(kMiB, 4);
  std::vector<FileRef> refs;
  refs.reserve(50);
  for (int i = 0; i < 50; ++i) refs.push_back(make(*files, 3000));
  EXPECT_LE(files->descriptors(), 4U);
  for (const FileRef& ref : refs) EXPECT_TRUE(good(*files, ref));
  EXPECT_LE(files->descriptors(), 4U);
  EXPECT_GE(files->counters().reopened.load(), 46U);
  // Those that are being read are beside the budget, and count as used until they are let go.
  std::vector<std::shared_ptr<const BodyFile>> pins;
  pins.reserve(refs.size());
  for (const FileRef& ref : refs) pins.push_back(*files->pin(ref));
  EXPECT_EQ(files->descriptors(), 50U);
  for (const FileRef& ref : refs) files->remove(ref);
  EXPECT_EQ(on_disk(), 0U);
  std::vector<std::byte> bytes(3000);
  EXPECT_TRUE(read_exactly(pins.back()->fd(), 0, bytes));
  EXPECT_EQ(bytes[2999], body_byte(refs.back().number, 2999));
  pins.clear();
  EXPECT_EQ(files->descriptors(), 0U);
  EXPECT_EQ(files->used_bytes(), 0U);
}

TEST_F(BodyFilesTest, AFileThatIsAnotherOneIsNotTaken) {
  auto files = open(kMiB, 1);
  const FileRef shorter = make(*files, 9000);
  const FileRef other = make(*files, 9000);
  const FileRef gone = make(*files, 9000);
  const FileRef link = make(*files, 9000);
  (void)make(*files, 1);  // takes the only descriptor
  fs::resize_file(path_of(shorter), 8999);
  fs::copy_file(path_of(other), directory + "/copy");
  fs::rename(directory + "/copy", path_of(other));
  fs::remove(path_of(gone));
  fs::rename(path_of(link), directory + "/there");
  fs::create_symlink(directory + "/there", path_of(link));
  for (const FileRef& ref : {shorter, other, gone, link}) {
    EXPECT_FALSE(files->check(ref));
    EXPECT_FALSE(files->pin(ref));
  }
  EXPECT_EQ(files->counters().read_errors.load(), 4U);
}

TEST_F(BodyFilesTest, NumbersAreNeverUsedAgainAndFilesWithoutObjectGo) {
  Word next{0};
  FileRef kept;
  std::uint64_t highest = 0;
  {
    auto files = open();
    files->count_in(next);
    kept = make(*files, 100);
    const FileRef lost = make(*files, 100);
    highest = lost.number;
    files->remove(lost);
    (void)make(*files, 100);
  }
  auto files = open();
  files->count_in(next);
  EXPECT_TRUE(files->check(kept));
  files->keep(kept);
  files->remove_others({kept.number});
  files->wait_until_removed();
  EXPECT_EQ(on_disk(), 1U);
  EXPECT_EQ(files->counters().orphans.load(), 1U);
  EXPECT_EQ(files->used_bytes(), 4096U);
  EXPECT_GT(make(*files, 100).number, highest);
  EXPECT_TRUE(good(*files, kept));
}

TEST_F(BodyFilesTest, FilesWithoutObjectGoInTheBackgroundAndNoNewOneWithThem) {
  {
    auto files = open(64 * kMiB);
    for (int i = 0; i < 2000; ++i) (void)make(*files, 1);
  }
  auto files = open(64 * kMiB);
  files->remove_others({});
  std::vector<FileRef> made;
  made.reserve(200);
  for (int i = 0; i < 200; ++i) made.push_back(make(*files, 500));
  files->wait_until_removed();
  EXPECT_EQ(files->counters().orphans.load(), 2000U);
  EXPECT_EQ(on_disk(), 200U);
  for (const FileRef& ref : made) EXPECT_TRUE(good(*files, ref));
}

// Of this process: the limit is lowered to what is in use now, and `more`.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t more) {
    (void)::getrlimit(RLIMIT_NOFILE, &before_);
    const UniqueFd lowest = UniqueFd::adopt(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    rlimit now = before_;
    now.rlim_cur = static_cast<rlim_t>(lowest.raw()) + more;
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &now), 0);
  }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;
  ~DescriptorLimit() { (void)::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(BodyFilesTest, WithoutADescriptorLeftThoseOfFilesThatNobodyReadsAreGivenUp) {
  std::vector<FileRef> refs;
  {
    auto files = open(kMiB, 64);
    for (int i = 0; i < 10; ++i) refs.push_back(make(*files, 3000));
  }
  auto files = open(kMiB, 64);
  const DescriptorLimit limit(4);
  for (const FileRef& ref : refs) EXPECT_TRUE(good(*files, ref));
  EXPECT_LE(files->descriptors(), 4U);
  const FileRef one = make(*files, 3000);
  EXPECT_TRUE(good(*files, one));
  EXPECT_TRUE(files->usable());
  EXPECT_EQ(files->counters().read_errors.load() + files->counters().write_errors.load(), 0U);
  // All of them in use: an error, which is not the disk's.
  std::vector<std::shared_ptr<const BodyFile>> pins;
  for (std::size_t i = 0; i < 4; ++i) pins.push_back(*files->pin(refs[i]));
  EXPECT_EQ(files->pin(refs[5]).error().sys_errno, EMFILE);
  EXPECT_EQ(files->create(100).error().sys_errno, EMFILE);
  EXPECT_TRUE(files->usable());
  pins.clear();
  EXPECT_TRUE(good(*files, refs[5]));
}

// --- in records ---

class FileRecords : public BodyFilesTest {
 protected:
  FileRecords() : memory(make_region_file(4 * kMiB)) {}
  std::unique_ptr<Region> open_with_files(bool fresh = false) {
    auto region = open_region(memory, 4 * kMiB, fresh);
    region->use_files(open(4 * kMiB));
    return region;
  }
  static Record* publish(Region& region, std::uint64_t id, std::uint32_t esi = 0) {
    Record* record = make_object(region, {.id = id, .body = 0, .esi = esi, .with_checksum = false});
    record->magic.store(0);
    const FileRef ref = make(*region.files(), 5000 + id);
    std::vector<std::byte> bytes(ref.length);
    EXPECT_TRUE(read_exactly((*region.files()->pin(ref))->fd(), 0, bytes));
    BodyChecksum sum;
    sum.add(bytes);
    region.attach_file(*record, ref, sum.value());
    region.seal(*record);
    EXPECT_TRUE(region.publish(*record));
    return record;
  }
  static std::vector<std::uint64_t> vxids(const ScanReport& report) {
    std::vector<std::uint64_t> all;
    for (const auto& candidate : report.candidates) all.push_back(candidate.record->vxid);
    std::ranges::sort(all);
    return all;
  }

  UniqueFd memory;
};

TEST_F(FileRecords, ComeBackWithTheirFilesAndOthersAreDropped) {
  FileRef missing;
  {
    auto region = open_with_files(true);
    for (std::uint64_t id = 1; id <= 4; ++id) (void)publish(*region, id);
    region->mark_removed(*publish(*region, 5));
    missing = *file_of(*publish(*region, 6));
  }
  fs::remove(path_of(missing));
  auto region = open_with_files();
  ASSERT_FALSE(region->formatted());
  const ScanReport report = region->scan();
  EXPECT_EQ(vxids(report), (std::vector<std::uint64_t>{1, 2, 3, 4}));
  EXPECT_EQ(report.dropped[static_cast<std::size_t>(Drop::kBadFile)], 1U);
  region->finish_scan(slots_of(report));
  region->files()->wait_until_removed();
  EXPECT_EQ(on_disk(), 4U) << "the removed one's file is an orphan";
  EXPECT_EQ(region->files()->used_bytes(), 4 * 8192U);
  for (const auto& candidate : report.candidates) {
    EXPECT_TRUE(region->verify_body(*candidate.record));
    region->destroy(candidate.record);
  }
  EXPECT_EQ(on_disk(), 0U);
  EXPECT_EQ(region->files()->used_bytes(), 0U);
  EXPECT_TRUE(region->allocator().check());
}

TEST_F(FileRecords, AreDroppedWhereThereIsNoDisk) {
  { (void)publish(*open_with_files(true), 1); }
  auto region = open_region(memory, 4 * kMiB);
  const ScanReport report = region->scan();
  EXPECT_TRUE(report.candidates.empty());
  EXPECT_EQ(report.dropped[static_cast<std::size_t>(Drop::kBadFile)], 1U);
}

TEST_F(FileRecords, ShareAFileWhichGoesWithTheLast) {
  {
    auto region = open_with_files(true);
    Record* first = publish(*region, 1);
    Record* second = make_object(*region, {.id = 2, .body = 0, .with_checksum = false});
    second->magic.store(0);
    ASSERT_TRUE(region->share_body(*second, *first));
    region->seal(*second);
    ASSERT_TRUE(region->publish(*second));
  }
  auto region = open_with_files();
  const ScanReport report = region->scan();
  ASSERT_EQ(report.candidates.size(), 2U);
  region->finish_scan(slots_of(report));
  EXPECT_EQ(region->files()->used_bytes(), 8192U);
  region->destroy(report.candidates[0].record);
  EXPECT_EQ(on_disk(), 1U);
  EXPECT_TRUE(region->verify_body(*report.candidates[1].record));
  region->destroy(report.candidates[1].record);
  EXPECT_EQ(on_disk(), 0U);
}

TEST_F(FileRecords, ASnapshotBringsThemBackOnceWhenTheMemoryIsGone) {
  {
    auto region = open_with_files(true);
    for (std::uint64_t id = 1; id <= 300; ++id) (void)publish(*region, id, id % 3 == 0 ? 90U : 0U);
    (void)region->publish(*make_object(*region, {.id = 1000}));  // in memory: lost with it
    region->mark_removed(*publish(*region, 301));
    const auto written = region->write_snapshot();
    ASSERT_TRUE(written) << describe(written.error());
    EXPECT_EQ(*written, 300U);
  }
  memory = make_region_file(4 * kMiB);
  {
    auto region = open_with_files(true);
    ASSERT_FALSE(region->formatted());
    EXPECT_FALSE(fs::exists(directory + "/snapshot"));
    const ScanReport report = region->scan();
    EXPECT_EQ(total_dropped(report), 0U);
    ASSERT_EQ(report.candidates.size(), 300U);
    region->finish_scan(slots_of(report));
    region->files()->wait_until_removed();
    EXPECT_EQ(on_disk(), 300U);
    for (const auto& candidate : report.candidates) {
      const Record& record = *candidate.record;
      EXPECT_TRUE(region->verify_body(record));
      EXPECT_EQ(region->esi(record).size(), record.vxid % 3 == 0 ? 90U : 0U);
      EXPECT_EQ(url(record), url_of(record.vxid));
      EXPECT_EQ(timers(record).t_origin, 1000.0 + static_cast<double>(record.vxid));
    }
  }
  // Without an orderly end the next boot has nothing.
  memory = make_region_file(4 * kMiB);
  auto region = open_with_files(true);
  EXPECT_TRUE(region->formatted());
  region->files()->wait_until_removed();
  EXPECT_EQ(on_disk(), 0U);
}

TEST_F(FileRecords, WhatIsRemovedAfterTheSnapshotWasBegunDoesNotComeBack) {
  {
    auto region = open_with_files(true);
    Record* removed = publish(*region, 1);
    Record* shortened = publish(*region, 2);
    (void)publish(*region, 3);
    ASSERT_TRUE(region->write_snapshot());
    region->mark_removed(*removed);
    region->leave_snapshot(*shortened);
    region->leave_snapshot(*shortened);  // once more does no harm
    EXPECT_TRUE(fs::exists(directory + "/snapshot"));
  }
  memory = make_region_file(4 * kMiB);
  auto region = open_with_files(true);
  EXPECT_FALSE(fs::exists(directory + "/snapshot"));
  EXPECT_FALSE(fs::exists(directory + "/snapshot.gone"));
  const ScanReport report = region->scan();
  ASSERT_EQ(report.candidates.size(), 1U);
  EXPECT_EQ(url(*report.candidates.front().record), url_of(3));
  region->finish_scan(slots_of(report));
  region->files()->wait_until_removed();
  EXPECT_EQ(on_disk(), 1U);
}

TEST_F(FileRecords, WithoutTheListOfWhatHasGoneASnapshotBringsNothing) {
  for (const char* how : {"missing", "damaged", "cut off"}) {
    SCOPED_TRACE(how);
    const std::string gone = directory + "/snapshot.gone";
    memory = make_region_file(4 * kMiB);
    {
      auto region = open_with_files(true);
      if (!region->formatted()) region->finish_scan(slots_of(region->scan()));
      Record* removed = publish(*region, 1);
      (void)publish(*region, 2);
      ASSERT_TRUE(region->write_snapshot());
      region->mark_removed(*removed);
      ASSERT_EQ(fs::file_size(gone), 16U);
      if (how == std::string("missing")) fs::remove(gone);
      if (how == std::string("damaged")) {
        const auto file = open_file(gone, O_WRONLY);
        ASSERT_TRUE(file);
        ASSERT_TRUE(write_exactly(file->borrow(), 0, std::as_bytes(std::span("x", 1))));
      }
      // An entry that was never written whole was never answered.
      if (how == std::string("cut off")) fs::resize_file(gone, 16 + 7);
    }
    memory = make_region_file(4 * kMiB);
    auto region = open_with_files(true);
    EXPECT_EQ(region->scan().candidates.size(), how == std::string("cut off") ? 1U : 0U);
  }
}

TEST_F(FileRecords, ADamagedSnapshotBringsNothing) {
  auto region = open_with_files(true);
  for (std::uint64_t id = 1; id <= 3; ++id) (void)publish(*region, id);
  ASSERT_TRUE(region->write_snapshot());
  const auto file = open_file(directory + "/snapshot", O_RDONLY);
  ASSERT_TRUE(file);
  std::vector<std::byte> good(*file_size(file->borrow()));
  ASSERT_TRUE(read_exactly(file->borrow(), 0, good));
  ASSERT_TRUE(parse_snapshot(good).has_value());
  EXPECT_EQ(parse_snapshot(good)->objects.size(), 3U);
  for (std::size_t at = 0; at < good.size(); at += 7) {
    auto bad = good;
    bad[at] ^= std::byte{16};
    EXPECT_FALSE(parse_snapshot(bad).has_value()) << at;
    EXPECT_FALSE(parse_snapshot({good.begin(), good.begin() + static_cast<long>(at)}).has_value());
  }
}

}  // namespace
}  // namespace om::region
