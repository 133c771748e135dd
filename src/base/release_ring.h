// A page that daemon and client share, by which a client gives leases back without a packet: it
// writes their ids, the daemon looks before it handles what the client sends, ten times a second,
// and whenever it is short of room. docs/protocol.md, "The release page".
//
// One writer (the client, under a lock of its own) and one reader (the daemon). The daemon believes
// nothing of what stands here: an id that is no lease of this client is ignored, and so is a count
// that cannot be.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace om {

struct ReleaseRing {
  static constexpr std::uint32_t kEntries = 256;

  std::atomic<std::uint32_t> written;  // the client's: entries so far, modulo 2^32
  std::array<std::byte, 60> padding_1;
  std::atomic<std::uint32_t> read;  // the daemon's: how many of them it has taken
  std::array<std::byte, 1980> padding_2;
  std::array<std::atomic<std::uint64_t>, kEntries> leases;

  // False: full. The client's side.
  bool push(std::uint64_t lease) {
    const std::uint32_t at = written.load(std::memory_order_relaxed);
    if (at - read.load(std::memory_order_acquire) >= kEntries) return false;
    leases[at % kEntries].store(lease, std::memory_order_relaxed);
    written.store(at + 1, std::memory_order_release);
    return true;
  }
  // Calls `each` for what is new since `taken`, the daemon's own count. The daemon's side.
  template <class Each>
  void take(std::uint32_t& taken, Each each) {
    const std::uint32_t end = written.load(std::memory_order_acquire);
    if (end == taken) return;
    if (end - taken <= kEntries)
      for (std::uint32_t at = taken; at != end; ++at)
        each(leases[at % kEntries].load(std::memory_order_relaxed));
    taken = end;
    read.store(end, std::memory_order_release);
  }
};
inline constexpr std::size_t kReleaseRingBytes = 4096;
static_assert(sizeof(ReleaseRing) == kReleaseRingBytes &&
              std::atomic<std::uint32_t>::is_always_lock_free &&
              std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace om
