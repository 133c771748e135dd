#include "policy.h"

#include <algorithm>
#include <cmath>

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

namespace {

// With mode auto: of memory, in 32nds, from where on it is getting full, and from where on it is.
constexpr std::uint64_t kGettingFull = 24;
constexpr std::uint64_t kFull = 31;

// `threshold` when memory is not getting full, kAutoFileBodyBytesMin when it is full; between the
// two as much less for each step.
std::uint64_t between(std::uint64_t threshold, std::uint64_t used, std::uint64_t bytes) {
  const double steps = 32. * static_cast<double>(used) / static_cast<double>(bytes);
  const double filled =
      std::clamp((steps - kGettingFull) / static_cast<double>(kFull - kGettingFull), 0., 1.);
  const double least = static_cast<double>(std::min(threshold, kAutoFileBodyBytesMin));
  return static_cast<std::uint64_t>(std::lround(
      static_cast<double>(threshold) * std::pow(least / static_cast<double>(threshold), filled)));
}

}  // namespace

std::uint64_t Policy::file_from(std::uint64_t memory_used, std::uint64_t memory_bytes) const {
  if (disk_bytes == 0) return 0;
  const std::uint64_t most = std::max(threshold, kFileBodyBytesMin);
  switch (mode) {
    case Mode::kMapped: return 0;
    case Mode::kNative: return kFileBodyBytesMin;
    case Mode::kAuto: return memory_bytes == 0 ? most : between(most, memory_used, memory_bytes);
    case Mode::kDual: break;
  }
  return most;
}

}  // namespace om::vmod
