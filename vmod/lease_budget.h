// lease_budget.h: how much of the daemon's memory our objects borrow.
//
// The daemon lends until all of it is lent; from then on it has to ask for something back for each
// body that is published, by us or by others, and whoever publishes is refused first. What it has
// lent may not be all: so whenever it is short of room we keep a little less from then on, down to
// where it finds room by itself, and slowly try more again. Several caches that share a daemon find
// their shares like that, without being told how much there is.
//
// Up to a gigabyte that is slow additive growth and multiplicative decrease, as TCP shares a link
// (Chiu and Jain, 1989); with more, who has little still grows faster. Of one store. Thread-safe.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>

namespace om::vmod {

class LeaseBudget {
 public:
  using Time = std::chrono::steady_clock::time_point;

  [[nodiscard]] std::uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  void lent(std::uint64_t bytes) { bytes_.fetch_add(bytes, std::memory_order_relaxed); }
  void came_back(std::uint64_t bytes) { bytes_.fetch_sub(bytes, std::memory_order_relaxed); }

  // The daemon asked for some of it back, or had no room for us.
  void is_short(Time now) {
    auto changed = changed_.load(std::memory_order_relaxed);
    // One shortage is told many times, and what is to go goes little by little.
    if (now < changed + kShrinkPause) return;
    const std::uint64_t most = most_.load(std::memory_order_relaxed);
    if (most != kUnlimited && bytes() > most + most / kShrink / 2)
      return changed_.store(now, std::memory_order_relaxed);
    if (!changed_.compare_exchange_strong(changed, now, std::memory_order_relaxed)) return;
    const std::uint64_t kept =
        std::min(bytes_.load(std::memory_order_relaxed), most_.load(std::memory_order_relaxed));
    most_.store(std::max(kept - kept / kShrink, kAtLeast), std::memory_order_relaxed);
  }

  // Whether more is lent than is good, before another lease is taken.
  bool is_over(Time now) {
    const std::uint64_t most = most_.load(std::memory_order_relaxed);
    // It grows with those who use it.
    if (most == kUnlimited || bytes() < most / 2) return false;
    if (bytes() > most) return true;
    auto changed = changed_.load(std::memory_order_relaxed);
    if (now >= changed + kGrowPause &&
        changed_.compare_exchange_strong(changed, now, std::memory_order_relaxed))
      most_.fetch_add(std::max(most / kGrow, kGrowAtLeast), std::memory_order_relaxed);
    return false;
  }

 private:
  static constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
  static constexpr std::uint64_t kShrink = 32;
  static constexpr std::uint64_t kGrow = 256;
  static constexpr std::uint64_t kGrowAtLeast = std::uint64_t{4} << 20;
  // Whoever has no more than that does not stand in anybody's way.
  static constexpr std::uint64_t kAtLeast = std::uint64_t{16} << 20;
  static constexpr std::chrono::milliseconds kShrinkPause{100};
  static constexpr std::chrono::milliseconds kGrowPause{1000};
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<std::uint64_t> most_{kUnlimited};
  std::atomic<Time> changed_{Time{}};
};

}  // namespace om::vmod
