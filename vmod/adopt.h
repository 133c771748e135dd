// adopt.h: which of the objects that survived come back, decided without Varnish.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "region/region.h"

namespace om::vmod::adoption {

// Why a record that checks out is not adopted.
enum class Reason : std::uint8_t {
  kExpired,   // or within a moment of it
  kUnusable,  // timers that are no numbers, attributes that Varnish insists on missing
  kBanLost,   // a ban that it may have missed is not known any more
  kReplaced,  // there is a newer one of the same variant
  kTooLate,   // the time limit was reached
  kPurged,    // purged while adoption ran
  kDamaged,   // the body is not the one that was stored (verify = on_adopt)
  kNoDisk,    // the disk has become smaller
  kLentGone,  // the daemon does not have the body's object any more, or another one
  kNoLease,   // the daemon did not answer in time, or lends no more
};
inline constexpr std::size_t kReasons = 10;

struct Plan {
  // In the order of their digests, in which they are attached: one that was looked up just now has
  // brought most of the way to the next into the cache.
  std::vector<region::ScanReport::Candidate> keep;
  std::vector<std::size_t> by_use;  // places in `keep`, least recently used first
  std::vector<std::size_t> lent;    // places of those whose body lies in the daemon
  std::array<std::uint64_t, kReasons> dropped{};
};
// `now` in seconds; `oldest_ban`: an object that was not tested against it lost its place in the
// list; `lost_until`: see BanLog.
Plan plan(const region::ScanReport& scan, double now, double oldest_ban, double lost_until);
// Takes those out whose place says no; whoever calls counts them.
void keep_only(Plan& plan, const std::vector<bool>& stays);
// Drops the least recently used objects whose bodies do not fit on a disk of that size.
void fit_to_disk(Plan& plan, std::uint64_t disk_bytes);

// "3 expired, 1 replaced", or "".
std::string describe_reasons(const std::array<std::uint64_t, kReasons>& dropped);

}  // namespace om::vmod::adoption
