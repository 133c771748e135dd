// XXH3, for keys and for records. Not against an attacker: a key's hash is always confirmed by the
// whole key.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace om {

// XXH3-128 of a key: the catalog's index key.
struct KeyHash {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  constexpr auto operator<=>(const KeyHash&) const = default;
};

KeyHash hash_key(std::string_view key);
std::uint64_t checksum(std::span<const std::byte> bytes);

struct KeyHashHasher {
  std::size_t operator()(const KeyHash& hash) const noexcept { return hash.low; }
};

}  // namespace om
