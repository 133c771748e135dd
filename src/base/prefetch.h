// Memory that will be wanted soon, on its way into the cache. A hint: any address will do.
#pragma once

#include <cstddef>

namespace om {

inline constexpr std::size_t kCacheLineBytes = 64;

inline void prefetch(const void* at, std::size_t bytes) {
  const auto* from = static_cast<const std::byte*>(at);
  for (std::size_t i = 0; i < bytes; i += kCacheLineBytes) __builtin_prefetch(from + i);
  // A function that does nothing else has no effect in g++'s eyes, and its calls are left out.
  asm volatile("");
}

}  // namespace om
