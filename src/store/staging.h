// Where untrusted peers write: anonymous files of their own, sealed in length, that are copied from
// at commit and never mapped here. A holder's files are used again by its later puts, so that it
// can keep them mapped; what is in them is its own. Loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"
#include "store/store.h"

namespace om::store {

struct StagingFile {
  SegmentId id = 0;
  std::uint64_t size = 0;
  UniqueFd file;
};

class Staging {
 public:
  explicit Staging(std::uint64_t bytes_max) : bytes_max_(bytes_max) {}

  // Of at least `length` bytes. kNoSpace: others' bodies take all that staging may have.
  Result<StagingFile> take(HolderId holder, std::uint64_t length);
  void give_back(HolderId holder, StagingFile file);
  // One that others have read in: its memory is given back, whoever still has a descriptor.
  void discard(StagingFile file);
  // Its idle files are closed.
  void forget(HolderId holder);
  [[nodiscard]] std::uint64_t used() const { return used_; }

 private:
  void drop(StagingFile& file);
  std::uint64_t bytes_max_;
  std::uint64_t used_ = 0;
  std::uint64_t next_ = 1;
  std::unordered_map<HolderId, std::vector<StagingFile>> idle_;
};

}  // namespace om::store
