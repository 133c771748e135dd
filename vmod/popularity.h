// popularity.h: which bodies in files are worth a place in the page cache.
//
// When a cache has more bodies than memory, the kernel gives a place to whatever was read last, and
// a body that is asked for once pushes out one that is asked for all the time. So how often each is
// asked for is counted, and the pages of what is asked for too rarely are given back once it was
// sent (lane_choice.h).
//
//   counted     in 7 bits by a hash of what is asked for, with 8 bits of it beside them, lest one
//   is
//               taken for another; all are halved from time to time, so that what was popular once
//               is forgotten
//   the budget  bytes of the page cache that are ours. Nobody tells how many that are: without a
//               limit at first; less whenever a body that belongs there is found to have been taken
//               away, a little more whenever one is found there
//   admitted    the most popular bodies, as many as the budget has room for
//
// Where memory suffices nothing is ever taken away, and all are admitted. Any thread; one lock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

namespace om::vmod {

class Popularity {
 public:
  Popularity();

  // `what`, of `bytes`, is delivered now, and is in the page cache or not. Whether it is to be read
  // through it.
  bool admit(std::uint64_t what, std::uint64_t bytes, bool resident);

  // 0: without a limit.
  [[nodiscard]] std::uint64_t budget_bytes() const;

 private:
  static constexpr int kBits = 21;
  static constexpr unsigned kMost = 127;
  static constexpr unsigned kPlace = 128;  // it was given one, and should be in the page cache

  void halve();
  void choose_least();

  mutable std::mutex mutex_;
  std::unique_ptr<std::uint16_t[], void (*)(void*)> counters_;  // untouched pages cost nothing
  std::array<std::uint64_t, kMost + 1> bytes_{};                // of bodies, by count
  std::uint64_t asked_ = 0;
  std::uint64_t known_ = 0;  // counters that are not 0
  std::uint64_t budget_;
  // Admitted: counts above it, and of those that have it a share of 256.
  unsigned least_ = 0;
  unsigned share_ = 0;
  unsigned until_choice_ = 0;
};

}  // namespace om::vmod
