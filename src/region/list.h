// list.h: what objects a region holds, read from outside: by pread only, while its owner works on
// it, or after the owner died. Trusts nothing; what does not check out (also: what is changing just
// now) is passed over. The daemon's `list --regions`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "posix/unique_fd.h"
#include "region/format.h"
#include "region/record.h"

namespace om::region {

struct ListedObject {
  std::uint64_t slot = 0;
  std::uint64_t vxid = 0;
  std::array<std::uint8_t, 32> digest{};
  std::string_view url;  // valid during the call
  std::string_view host;
  std::uint64_t body_length = 0;
  Timers timers;
  double ban_time = 0;
};

struct RegionSummary {
  std::string owner;
  std::uint64_t bytes = 0;
  std::uint64_t objects = 0;  // passed to `fn`
  std::uint64_t skipped = 0;  // slots whose record did not check out
  std::uint64_t body_bytes = 0;
};

// Calls `fn` for each object until it returns false. kCorrupt: no region, or not one of ours.
Result<RegionSummary> list_objects(BorrowedFd region,
                                   const std::function<bool(const ListedObject&)>& fn);

}  // namespace om::region
