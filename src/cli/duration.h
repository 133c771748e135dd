// Durations and points in time as people write and read them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace om::cli {

// "90", "90s", "250ms", "15m", "2h", "7d", "2w", "1.5h": more than nothing, at most 100 years.
Result<std::chrono::nanoseconds> parse_duration(std::string_view text);
// "3s", "4m", "2h", "5d": the largest unit that is at least 1, rounded down.
std::string format_duration(std::chrono::nanoseconds duration);
// Nanoseconds since 1970 as "2026-01-31T12:00:00Z"; "never" for 0.
std::string format_time(std::uint64_t ns);

}  // namespace om::cli
