// fetch_clock.h: when a fetch began, by a clock that nobody sets.
//
// Varnish says by the real-time clock when a fetch began, and that may be set back or forward
// before the fetch ends. What is removed has its time by the monotonic clock. The two differ by the
// same as long as nobody sets the one (NTP slews both alike); so the fetch began, by the monotonic
// clock, at its real time less the difference of then. Where that was another one than now, it may
// have been either: the largest counts, by which the fetch is oldest.
//
// A set-back is remembered for kRemembered, and so is what it makes unclear: what began since then
// seems to be older by as much. One that is larger than that makes nothing unclear: a fetch of
// before has begun in the future, for that long, and whoever compares it sees that.
#pragma once

#include <atomic>
#include <cmath>

namespace om::vmod {

// All times are seconds.
class FetchClock {
 public:
  static constexpr double kRemembered = 600;

  // Both clocks at this moment. One thread at a time.
  void look(double real, double monotonic) {
    const double now = real - monotonic;
    const double largest = largest_.load(std::memory_order_relaxed);
    // What was seen last may have held until now.
    if (last_.load(std::memory_order_relaxed) >= largest - kSame) until_ = monotonic;
    last_.store(now, std::memory_order_relaxed);
    if (now < largest && largest - now <= kRemembered && monotonic - until_ <= kRemembered) return;
    largest_.store(now, std::memory_order_relaxed);
    until_ = monotonic;
  }
  // The rest is for any thread. Whether look() would find nothing new.
  [[nodiscard]] bool is_settled(double real, double monotonic) const {
    const double last = last_.load(std::memory_order_relaxed);
    return std::abs(real - monotonic - last) <= kSame &&
           largest_.load(std::memory_order_relaxed) - last <= kSame;
  }
  // By the monotonic clock, when what began at that real time began at the earliest.
  [[nodiscard]] double earliest(double real) const {
    return real - largest_.load(std::memory_order_relaxed);
  }
  // By how much the real-time clock was set back lately.
  [[nodiscard]] double set_back() const {
    const double back =
        largest_.load(std::memory_order_relaxed) - last_.load(std::memory_order_relaxed);
    return back > kSame ? back : 0;
  }

 private:
  // Two differences are the same one: between reading the one clock and the other time goes by.
  static constexpr double kSame = 1e-3;
  // Of the real-time clock to the monotonic one.
  std::atomic<double> last_{-HUGE_VAL};
  std::atomic<double> largest_{-HUGE_VAL};
  double until_ = 0;  // the largest may have held
};

}  // namespace om::vmod
