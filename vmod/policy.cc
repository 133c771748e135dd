#include "policy.h"

#include <algorithm>

namespace om::vmod {

const char* to_string(Mode mode) {
  switch (mode) {
    case Mode::kAuto: return "auto";
    case Mode::kMapped: return "mapped";
    case Mode::kNative: return "native";
    case Mode::kDual: return "dual";
  }
  return "?";
}

std::uint64_t Policy::file_from() const {
  if (disk_bytes == 0) return 0;
  switch (mode) {
    case Mode::kMapped: return 0;
    case Mode::kNative: return kFileBodyBytesMin;
    case Mode::kAuto:
    case Mode::kDual: break;
  }
  return std::max(threshold, kFileBodyBytesMin);
}

}  // namespace om::vmod
