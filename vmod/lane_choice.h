// lane_choice.h: by which lane a delivery sends bytes that lie in files. One function, no I/O.
//
//   mapped   through memory: what Varnish does with any storage. Always possible
//   file     sendfile(2) from the file to the client's socket, past all of Varnish's memory
//   given back  the same, of a body that was not in the page cache and is not to stay there either:
//   its
//            pages are given back to the kernel once they were sent (popularity.h)
//
// Bytes in memory have no choice: a page that sendfile was given must never change until the peer
// has acknowledged it, and our memory is recycled.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "posix/residency.h"

namespace om::vmod {

// delivery = ... of the store.
enum class DeliverySetting : std::uint8_t { kAuto, kMapped, kFile };
std::string_view to_string(DeliverySetting setting);

namespace lane {

// What is known of a delivery. `residency` and `worth_keeping` only once choose() asked for it.
struct Facts {
  DeliverySetting setting = DeliverySetting::kAuto;
  bool http1 = false;         // a client's own request, written to its socket as it is
  bool plain = false;         // no filter but range
  bool length_known = false;  // Content-Length, not chunks
  std::uint64_t bytes = 0;    // that this client gets
  std::optional<Residency> residency{};
  std::optional<bool> worth_keeping{};  // in the page cache, or there already
};

// From here on the file lane is cheaper for bytes that are in the page cache, too, whether the
// client comes by a Unix socket, by TCP from this machine or from another one: the other lane
// copies them once more (bench/lanes measures it). Below it the two cost the same.
inline constexpr std::uint64_t kFileBytesMin = 64 * 1024;

enum class Lane : std::uint8_t {
  kMapped,
  kFile,
  kFileGivenBack,
  kDependsOnResidency,
  kDependsOnPopularity
};

struct Choice {
  Lane lane = Lane::kMapped;
  std::string_view because;  // for the log
};

Choice choose(const Facts& facts);

}  // namespace lane
}  // namespace om::vmod
