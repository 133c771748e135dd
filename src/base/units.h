// Sizes and durations as people write them. K, M, G, T and KB, MB, GB, TB are powers of 1024,
// everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace om {

// "64K", "2GB", "1.5g", "4096". Refuses signs, unknown suffixes and what does not fit in 63 bits.
Result<std::uint64_t> parse_size(std::string_view text);
// The shortest exact or two-digit form: "64K", "1.5G", "17".
std::string format_size(std::uint64_t bytes);

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t power_of_two) {
  return (value + power_of_two - 1) & ~(power_of_two - 1);
}

}  // namespace om
