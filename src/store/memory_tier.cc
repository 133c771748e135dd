#include "store/memory_tier.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>

#include "base/assert.h"
#include "posix/file.h"
#include "posix/huge_pages.h"
#include "posix/mapping.h"
#include "store/segment_id.h"

namespace om::store {

namespace {

constexpr std::uint64_t kSegmentPage = 4096;
// Less is not worth a file.
constexpr std::uint64_t kSegmentBytesMin = 64 * 1024;
// Faulted at a time: a huge page, and short enough for other work in between.
constexpr std::uint64_t kFaultStep = std::uint64_t{2} << 20;

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

Result<UniqueFd> make_segment(BorrowedFd directory, const std::string& name, std::uint64_t size) {
  auto file = OM_TRY(open_at(directory, name, O_RDWR | O_CREAT | O_EXCL));
  auto made = resize(file.borrow(), size);
  if (made) made = allocate(file.borrow(), 0, size);
  if (!made) {
    (void)remove_at(directory, name);
    return std::move(made).error();
  }
  return file;
}

// Fewer blocks than its size takes. When in doubt, yes.
bool has_holes(BorrowedFd file, std::uint64_t size) {
  struct stat status {};
  return ::fstat(file.raw(), &status) != 0 ||
         static_cast<std::uint64_t>(status.st_blocks) * 512 < size;
}

void fault_file(BorrowedFd file, std::uint64_t size, std::atomic<std::uint64_t>& progress,
                std::atomic<std::uint64_t>& huge) {
  for (std::uint64_t at = 0; at < size; at += kFaultStep) {
    const std::uint64_t length = std::min(kFaultStep, size - at);
    auto mapping = Mapping::of(file, at, length, Access::kReadWrite);
    // A file that a trusted peer has shortened answers EFAULT here, not SIGBUS.
    if (mapping) {
      (void)::madvise(mapping->data(), length, MADV_POPULATE_WRITE);
      if (const auto bytes = huge_bytes_of(mapping->bytes())) huge += *bytes;
    }
    progress += length;
  }
}

}  // namespace

Result<std::unique_ptr<MemoryTier>> MemoryTier::open(UniqueFd directory, Options options,
                                                     bool fresh, Worker& worker) {
  options.segment_bytes =
      std::max(kSegmentBytesMin,
               std::min(options.segment_bytes, options.capacity / 4) & ~(kSegmentPage - 1));
  std::unique_ptr<MemoryTier> tier(new MemoryTier(std::move(directory), options, worker));
  OM_TRY(tier->recover(fresh));
  return tier;
}

Result<void> MemoryTier::recover(bool fresh) {
  for (const auto& name : OM_TRY(list_directory(directory_.borrow()))) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    const bool ours = error == std::errc() && end == name.data() + name.size();
    if (!ours) continue;
    next_number_ = std::max(next_number_, number + 1);
    if (fresh) {
      OM_TRY(remove_at(directory_.borrow(), name));
      continue;
    }
    auto file = OM_TRY(open_at(directory_.borrow(), name, O_RDWR));
    const std::uint64_t size = OM_TRY(file_size(file.borrow())) & ~(kSegmentPage - 1);
    if (size == 0) {  // a crash between its birth and its size
      OM_TRY(remove_at(directory_.borrow(), name));
      continue;
    }
    // Usually there is nothing left to allocate; a hole would be SIGBUS to a reader. fallocate(2)
    // looks at every page even then: seconds for a large tier.
    if (auto allocated =
            has_holes(file.borrow(), size) ? allocate(file.borrow(), 0, size) : Result<void>();
        !allocated) {
      if (allocated.error().code != Errc::kNoSpace) return allocated;
      // Killed between its size and its blocks, and by now they are gone: nothing is in it yet.
      OM_TRY(remove_at(directory_.borrow(), name));
      continue;
    }
    OM_TRY(adopt(number, size));
    *faulted_ += size;
  }
  return {};
}

Result<SegmentId> MemoryTier::adopt(std::uint64_t number, std::uint64_t size) {
  Segment segment;
  segment.name = std::to_string(number);
  segment.size = size;
  segment.own = OM_TRY(open_at(directory_.borrow(), segment.name, O_RDWR));
  segment.readers = OM_TRY(open_at(directory_.borrow(), segment.name, O_RDONLY));
  segment.writers = OM_TRY(open_at(directory_.borrow(), segment.name, O_RDWR));
  const SegmentId id = segment_id(SegmentKind::kMemory, 0, number);
  segments_.emplace(id, std::move(segment));
  slots_.add_segment(id, size);
  return id;
}

std::uint64_t MemoryTier::object_capacity() const {
  const std::uint64_t rest =
      options_.capacity > region_bytes_ ? options_.capacity - region_bytes_ : 0;
  return std::max(rest, segment_total());
}

std::uint64_t MemoryTier::next_size() const {
  const std::uint64_t taken = segment_total() + region_bytes_;
  if (taken >= options_.capacity) return 0;
  const std::uint64_t size =
      std::min(options_.segment_bytes, (options_.capacity - taken) & ~(kSegmentPage - 1));
  return size < kSegmentBytesMin ? 0 : size;
}

bool MemoryTier::grow() {
  const std::uint64_t size = file_system_full_ ? 0 : next_size();
  if (size == 0) return false;
  const std::uint64_t number = next_number_++;
  const std::string name = std::to_string(number);
  if (!make_segment(directory_.borrow(), name, size)) {
    file_system_full_ = true;
    return false;
  }
  const auto id = adopt(number, size);
  if (!id) {
    (void)remove_at(directory_.borrow(), name);
    return false;
  }
  fault(*id);
  return true;
}

void MemoryTier::fault(SegmentId id) {
  if (!options_.background_faulting) return;
  auto file = duplicate(segments_.at(id).own.borrow());
  if (!file) return;
  auto shared = std::make_shared<UniqueFd>(*std::move(file));
  worker_.run_idle([shared, size = segments_.at(id).size, progress = faulted_,
                    huge = huge_] { fault_file(shared->borrow(), size, *progress, *huge); },
                   nullptr);
}

void MemoryTier::prepare() {
  file_system_full_ = false;
  if (!options_.background_faulting || growing_ != 0) return;
  if (slots_.total_bytes() != 0 && slots_.free_bytes() >= options_.segment_bytes / 2) return;
  const std::uint64_t size = next_size();
  if (size == 0) return;
  growing_ = size;
  const std::uint64_t number = next_number_++;
  struct Made {
    UniqueFd directory;
    bool done = false;
  };
  auto directory = duplicate(directory_.borrow());
  if (!directory) {
    growing_ = 0;
    return;
  }
  auto made = std::make_shared<Made>();
  made->directory = *std::move(directory);
  const std::string name = std::to_string(number);
  worker_.run_idle(
      [made, name, size, progress = faulted_, huge = huge_] {
        auto file = make_segment(made->directory.borrow(), name, size);
        if (!file) return;
        fault_file(file->borrow(), size, *progress, *huge);
        made->done = true;
      },
      [this, made, number, size, name] {
        growing_ = 0;
        if (made->done && !adopt(number, size)) (void)remove_at(directory_.borrow(), name);
      });
}

std::string MemoryTier::pages() const {
  return page_kind_of(segments_.empty() ? directory_.borrow()
                                        : segments_.begin()->second.own.borrow());
}

std::optional<std::vector<Extent>> MemoryTier::take(std::uint64_t length, std::uint64_t piece) {
  for (;;) {
    auto extents = slots_.take(length, piece);
    if (extents) return extents;
    if (!grow()) return std::nullopt;
  }
}

void MemoryTier::give_back(const std::vector<Extent>& extents) {
  for (const auto& extent : extents) give_back(extent);
}

Result<SegmentView> MemoryTier::reader(SegmentId id) const {
  const auto found = segments_.find(id);
  if (found == segments_.end()) return Error{Errc::kNotFound, 0, "no such segment"};
  return SegmentView{id, SegmentKind::kMemory, found->second.size, found->second.readers.borrow()};
}

Result<WritableSegment> MemoryTier::writer(SegmentId id) const {
  const auto found = segments_.find(id);
  if (found == segments_.end()) return Error{Errc::kNotFound, 0, "no such segment"};
  return WritableSegment{id, SegmentKind::kMemory, found->second.size,
                         OM_TRY(duplicate(found->second.writers.borrow()))};
}

Result<BorrowedFd> MemoryTier::own(SegmentId id) const {
  const auto found = segments_.find(id);
  if (found == segments_.end()) return Error{Errc::kNotFound, 0, "no such segment"};
  return found->second.own.borrow();
}

bool MemoryTier::promise_region(std::uint64_t bytes) {
  const std::uint64_t taken = segment_total() + region_bytes_;
  if (bytes > options_.capacity || taken > options_.capacity - bytes) return false;
  region_bytes_ += bytes;
  return true;
}

bool MemoryTier::shrink_for(std::uint64_t bytes) {
  const auto enough = [&] {
    const std::uint64_t taken = segment_total() + region_bytes_;
    return bytes <= options_.capacity && taken <= options_.capacity - bytes;
  };
  if (enough()) return true;
  for (auto entry = segments_.begin(); entry != segments_.end(); ++entry) {
    if (!slots_.is_free(entry->first)) continue;
    slots_.remove_segment(entry->first);
    (void)remove_at(directory_.borrow(), entry->second.name);
    segments_.erase(entry);
    return true;
  }
  return false;
}

bool MemoryTier::cut_to_capacity(const std::unordered_set<SegmentId>& keep) {
  bool any = false;
  // The newest first: what was there for long has earned its place.
  for (auto entry = segments_.end(); entry != segments_.begin() && over_capacity();) {
    --entry;
    if (keep.count(entry->first) != 0) continue;
    slots_.remove_segment(entry->first);
    (void)remove_at(directory_.borrow(), entry->second.name);
    entry = segments_.erase(entry);
    any = true;
  }
  return any;
}

std::vector<SegmentId> MemoryTier::segments() const {
  std::vector<SegmentId> ids;
  for (const auto& [id, segment] : segments_) ids.push_back(id);
  return ids;
}

}  // namespace om::store
