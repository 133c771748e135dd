#include "equal_bans.h"

#include <cmath>
#include <cstring>

#include "region/ban_log.h"

namespace om::vmod {

namespace {

constexpr std::size_t kBanLengthAt = 8;  // where what two equal specs have in common begins
constexpr std::size_t kBanFlagsAt = 12;
// Seconds. Less than what a preemption between reading the one clock and the other may take would
// be taken for a step; this much less of kLookupMax does no harm.
constexpr double kClockStep = 1;

std::size_t length_of(const std::uint8_t* spec) {
  const std::uint8_t* at = spec + kBanLengthAt;
  return std::size_t{at[0]} << 24U | std::size_t{at[1]} << 16U | std::size_t{at[2]} << 8U | at[3];
}

double time_of(const std::uint8_t* spec) {
  return region::ban_spec_time(std::as_bytes(std::span(spec, kBanLengthAt)));
}

bool equal(const std::uint8_t* one, const std::uint8_t* other) {
  const std::size_t length = length_of(one);
  return length == length_of(other) &&
         std::memcmp(one + kBanLengthAt, other + kBanLengthAt, length - kBanLengthAt) == 0;
}

}  // namespace

void EqualBans::made(const struct banhead_s& list, double now, double monotonic,
                     void (*complete)(struct ban*)) noexcept {
  struct ban* const newest = VTAILQ_FIRST(&list);
  if (newest == nullptr) return;
  const bool steady = clock_is_steady(now, monotonic);
  struct ban* const before = VTAILQ_NEXT(newest, list);
  if (flagged_ != nullptr && before != nullptr && before->spec == flagged_)
    before->spec[kBanFlagsAt] &= static_cast<std::uint8_t>(~OM_BAN_FLAG_NODEDUP);
  flagged_ = nullptr;
  // What it removes depends on when it was made: there is none like it.
  if ((newest->spec[kBanFlagsAt] & OM_BAN_FLAG_NODEDUP) != 0) return;
  // Whoever is looking up began with the newest of those that have been there for long enough, or
  // with a newer one: it sees that.
  bool seen_by_all = false;
  for (struct ban* ban = complete == nullptr ? nullptr : before; ban != nullptr;
       ban = VTAILQ_NEXT(ban, list)) {
    if ((ban->flags & OM_BAN_FLAG_COMPLETED) != 0 || !equal(newest->spec, ban->spec)) continue;
    if (seen_by_all)
      complete(ban);
    else
      seen_by_all = steady && time_of(ban->spec) + kLookupMax < now;
  }
  newest->spec[kBanFlagsAt] |= OM_BAN_FLAG_NODEDUP;
  flagged_ = newest->spec;
}

void EqualBans::dropped(const std::uint8_t* spec) noexcept {
  if (flagged_ == spec) flagged_ = nullptr;
}

// Bans are dated by the wall clock: after it was set, they look older than they are.
bool EqualBans::clock_is_steady(double now, double monotonic) noexcept {
  const double ahead = now - monotonic;
  if (std::abs(ahead - ahead_) > kClockStep) {
    steady_from_ = monotonic + kLookupMax;
    ahead_ = ahead;
  }
  return monotonic > steady_from_;
}

}  // namespace om::vmod
