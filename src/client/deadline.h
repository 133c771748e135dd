// Time limits, as points in time and as poll(2) takes them. Whatever a caller says has to fit:
// om_client_open() takes up to 49 days, where poll(2) takes 24, and milliseconds::max() is
// somebody's "for ever".
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>

namespace om::client {

using Deadline = std::chrono::steady_clock::time_point;

// Of what waits for nobody.
inline constexpr Deadline kAtOnce{};

// Nothing is waited for longer than a year. A point in time has room for a sum of some of these.
inline constexpr std::chrono::milliseconds kWaitMax = std::chrono::hours(24 * 365);

// So long from now, and so much longer.
inline Deadline deadline_in(std::chrono::milliseconds wait,
                            std::chrono::milliseconds more = std::chrono::milliseconds(0)) {
  constexpr std::chrono::milliseconds kNone(0);
  return std::chrono::steady_clock::now() + std::clamp(wait, kNone, kWaitMax) +
         std::clamp(more, kNone, kWaitMax);
}

// Rounded up, so that the time is over when a wait for it is.
inline std::chrono::milliseconds left_until(Deadline deadline) {
  return std::max(
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()),
      std::chrono::milliseconds(0));
}

// For poll(2), to which a negative time is for ever. It may be over before `left` is: whoever waits
// looks at the clock, not at poll's answer.
inline int poll_ms(std::chrono::milliseconds left) {
  return static_cast<int>(
      std::clamp<std::int64_t>(left.count(), 0, std::numeric_limits<int>::max()));
}

}  // namespace om::client
