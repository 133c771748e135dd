// policy.h: where bodies are to lie, as each VCL says for the stores that it names (settings.h).
//
// A fetch goes by the VCL of its request, so that vcl.use takes effect at once, and back; what is
// stored stays where it is, and is read from there under any policy.
#pragma once

#include <cstdint>

namespace om::vmod {

enum class Mode { kAuto, kMapped, kNative, kDual };
const char* to_string(Mode mode);

struct Policy {
  Mode mode = Mode::kAuto;
  std::uint64_t threshold = 65536;
  std::uint64_t disk_bytes = 0;

  // Bodies of this length or more are to lie in a file; 0: none is. With mode auto that is the
  // threshold as long as memory has room, and less the fuller it gets: what would make memory evict
  // goes to disk as soon as a file is worth it, and where all small bodies fit no files are made.
  [[nodiscard]] std::uint64_t file_from(std::uint64_t memory_used,
                                        std::uint64_t memory_bytes) const;
};

// Making a file costs what copying some 100 KiB does: no mode makes one for less than this.
inline constexpr std::uint64_t kFileBodyBytesMin = 16384;
// Nor does mode auto for less than this, or its threshold where that is less, however full memory
// is: what more hits save of fetches is less than what these files cost (docs/benchmarks.md, the
// mixed load).
inline constexpr std::uint64_t kAutoFileBodyBytesMin = 32768;

// Less is no use.
inline constexpr std::uint64_t kDiskBytesMin = std::uint64_t{1} << 20;

}  // namespace om::vmod
