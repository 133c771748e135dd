#include "store/staging.h"

#include <fcntl.h>

#include <algorithm>

#include "base/units.h"
#include "posix/memfd.h"
#include "store/segment_id.h"

namespace om::store {

namespace {

constexpr std::uint64_t kSizeMin = 64 * 1024;
constexpr std::size_t kIdleMax = 4;                              // files of one holder
constexpr std::uint64_t kIdleBytesMax = std::uint64_t{8} << 20;  // a larger one is not kept

// Powers of two below 8 MiB, so that files fit later puts; memory is used where it is touched.
std::uint64_t size_for(std::uint64_t length) {
  if (length > kIdleBytesMax) return round_up(length, 4096);
  std::uint64_t size = kSizeMin;
  while (size < length) size *= 2;
  return size;
}

}  // namespace

void Staging::drop(StagingFile& file) {
  used_ -= file.size;
  file.file.reset();
}

Result<StagingFile> Staging::take(HolderId holder, std::uint64_t length) {
  const std::uint64_t size = size_for(length);
  auto& own = idle_[holder];
  const auto fits = std::find_if(own.begin(), own.end(),
                                 [&](const StagingFile& file) { return file.size == size; });
  if (fits != own.end()) {
    StagingFile file = std::move(*fits);
    own.erase(fits);
    return file;
  }
  const auto full = [&] { return size > bytes_max_ || used_ > bytes_max_ - size; };
  if (full())
    for (auto& [id, files] : idle_) {
      for (auto& file : files) drop(file);
      files.clear();
    }
  if (full())
    return Error{Errc::kNoSpace, 0,
                 "bodies that are being written take all of the " + format_size(bytes_max_) +
                     " that there is for them"};
  StagingFile file;
  file.file = OM_TRY(make_memfd("objmapper-staging", size));
  OM_TRY(seal_length(file.file.borrow()));
  file.id = segment_id(SegmentKind::kStaging, 0, next_++);
  file.size = size;
  used_ += size;
  return file;
}

void Staging::give_back(HolderId holder, StagingFile file) {
  const auto own = idle_.find(holder);
  if (own == idle_.end() || own->second.size() >= kIdleMax || file.size > kIdleBytesMax)
    drop(file);
  else
    own->second.push_back(std::move(file));
}

void Staging::discard(StagingFile file) {
  (void)::fallocate(file.file.raw(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    static_cast<off_t>(file.size));
  drop(file);
}

void Staging::forget(HolderId holder) {
  const auto own = idle_.find(holder);
  if (own == idle_.end()) return;
  for (auto& file : own->second) drop(file);
  idle_.erase(own);
}

}  // namespace om::store
