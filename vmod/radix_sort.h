// radix_sort.h: sorts millions of numbers that stand for something else.
//
// Eleven bits at a time from the low end, stable; digits that all have in common cost nothing.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace om::vmod {

struct SortKey {
  std::uint64_t key = 0;
  std::uint64_t place = 0;  // of what it stands for
};

inline void radix_sort(std::vector<SortKey>& items) {
  constexpr unsigned kBits = 11;
  constexpr unsigned kDigits = (64 + kBits - 1) / kBits;
  constexpr std::uint64_t kMask = (std::uint64_t{1} << kBits) - 1;
  std::array<std::array<std::uint64_t, kMask + 1>, kDigits> counts{};
  for (const SortKey& item : items)
    for (unsigned digit = 0; digit < kDigits; ++digit)
      ++counts[digit][item.key >> (digit * kBits) & kMask];
  std::vector<SortKey> other(items.size());
  for (unsigned digit = 0; digit < kDigits && !items.empty(); ++digit) {
    auto& places = counts[digit];
    if (places[items.front().key >> (digit * kBits) & kMask] == items.size()) continue;
    std::uint64_t sum = 0;
    for (std::uint64_t& place : places) {
      const std::uint64_t count = place;
      place = sum;
      sum += count;
    }
    for (const SortKey& item : items) other[places[item.key >> (digit * kBits) & kMask]++] = item;
    items.swap(other);
  }
}

}  // namespace om::vmod
