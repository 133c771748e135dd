// pace.h: when the n-th request is due. In a closed loop that is as soon as somebody can send it;
// at an offered rate it is a fixed instant, whether or not the server keeps up, and a latency
// counts from there: a server that stands still for a second then shows a second for every request
// that fell due meanwhile, not only for the one it held (coordinated omission).
#pragma once

#include <chrono>
#include <cstdint>

namespace om::load {

using Clock = std::chrono::steady_clock;

class Pace {
 public:
  // `rate` a second, 0 for a closed loop; `requests` in all, 0 for as many as `seconds` hold.
  Pace(double rate, std::uint64_t requests, double seconds, Clock::time_point begin)
      : rate_(rate), begin_(begin), end_(begin + to_duration(seconds)) {
    total_ = requests > 0 ? requests : rate > 0 ? static_cast<std::uint64_t>(rate * seconds) : 0;
    if (requests > 0 && rate <= 0) end_ = Clock::time_point::max();
    // Requests that are due are sent late rather than forgotten; a server that is hopelessly behind
    // gets as long again, and what is left then is reported.
    give_up_ = total_ == 0                        ? end_
               : end_ == Clock::time_point::max() ? end_
               : rate > 0 ? begin + 2 * to_duration(static_cast<double>(total_) / rate)
                          : end_;
  }

  [[nodiscard]] Clock::time_point due(std::uint64_t n, Clock::time_point now) const {
    return rate_ <= 0 ? now : begin_ + to_duration(static_cast<double>(n) / rate_);
  }
  [[nodiscard]] bool done(std::uint64_t sent, Clock::time_point now) const {
    return total_ > 0 ? sent >= total_ || now >= give_up_ : now >= end_;
  }
  // Requests that were never sent although they were due.
  [[nodiscard]] std::uint64_t unsent(std::uint64_t sent) const {
    return rate_ > 0 && total_ > sent ? total_ - sent : 0;
  }
  // How long nothing is due: zero when something is.
  [[nodiscard]] Clock::duration wait(std::uint64_t sent, Clock::time_point now) const {
    const auto at = due(sent, now);
    return at <= now ? Clock::duration::zero() : at - now;
  }
  [[nodiscard]] bool paced() const { return rate_ > 0; }
  [[nodiscard]] Clock::time_point end() const { return end_; }

 private:
  static Clock::duration to_duration(double seconds) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

  double rate_;
  std::uint64_t total_ = 0;
  Clock::time_point begin_;
  Clock::time_point end_;
  Clock::time_point give_up_;
};

}  // namespace om::load
