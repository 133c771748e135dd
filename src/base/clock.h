// Time comes in through the constructor, so that a test can set it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace om {

class Clock {
 public:
  Clock() = default;
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  virtual ~Clock() = default;
  // Nanoseconds since 1970, for what outlives the process.
  [[nodiscard]] virtual std::uint64_t real_ns() const = 0;
  // Nanoseconds since some fixed point, never set back: for time limits.
  [[nodiscard]] virtual std::uint64_t monotonic_ns() const = 0;
};

class SystemClock final : public Clock {
 public:
  [[nodiscard]] std::uint64_t real_ns() const override {
    return static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch() /
                                      std::chrono::nanoseconds(1));
  }
  [[nodiscard]] std::uint64_t monotonic_ns() const override {
    return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                                      std::chrono::nanoseconds(1));
  }
};

// Stands still until a test moves it; others may look at it meanwhile.
class ManualClock final : public Clock {
 public:
  [[nodiscard]] std::uint64_t real_ns() const override {
    return monotonic_ns() - set_back_ns.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t monotonic_ns() const override {
    return now_ns.load(std::memory_order_relaxed);
  }
  std::atomic<std::uint64_t> now_ns{std::uint64_t{1'700'000'000} * 1'000'000'000};
  std::atomic<std::uint64_t> set_back_ns{0};  // the wall clock, by so much
};

}  // namespace om
