#include "popularity.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <new>
#include <numeric>

namespace om::vmod {

namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kBudgetMin = std::uint64_t{4} << 20;
// Counters are halved when each body was asked for so often, on an average. Less is noise: which of
// two is asked for more shows from some ten times on.
constexpr std::uint64_t kAskedForEach = 32;
constexpr std::uint64_t kAskedMin = 4096;
// The budget grows by so much of what it serves; and, much slower, of what it does not, so that it
// finds memory that has become free.
constexpr std::uint64_t kGrowsByServed = 64;
constexpr std::uint64_t kGrowsByRefused = 1024;
constexpr unsigned kChooseEvery = 64;

std::uint64_t mix(std::uint64_t number) {
  number = (number ^ (number >> 31)) * 0x9e3779b97f4a7c15U;
  return (number ^ (number >> 29)) * 0xbf58476d1ce4e5b9U;
}

}  // namespace

Popularity::Popularity()
    : counters_(
          static_cast<std::uint16_t*>(std::calloc(std::size_t{1} << kBits, sizeof(std::uint16_t))),
          &std::free),
      budget_(kUnlimited) {
  if (counters_ == nullptr) throw std::bad_alloc();
}

bool Popularity::admit(std::uint64_t what, std::uint64_t bytes, bool resident) {
  const std::uint64_t hash = mix(what);
  const std::lock_guard lock(mutex_);
  if (++asked_ > std::max(kAskedMin, kAskedForEach * known_)) halve();
  std::uint16_t& counter = counters_[hash >> (64 - kBits)];
  const auto tag = static_cast<unsigned>(hash & 0xff00);
  if (counter == 0)
    ++known_;
  else if ((counter & 0xff00U) != tag)
    counter = 0;
  unsigned count = counter & kMost;
  const bool had_place = (counter & kPlace) != 0;
  if (count < kMost) {
    bytes_[count] -= std::min(bytes_[count], bytes);
    bytes_[++count] += bytes;
  }
  if (until_choice_-- == 0) choose_least();
  const bool admitted = count > least_ || (count == least_ && (hash & 255) < share_);
  if (budget_ != kUnlimited) {
    if (resident && admitted)
      budget_ += bytes / kGrowsByServed;
    else if (!resident && !admitted)
      budget_ += bytes / kGrowsByRefused;
  }
  if (!resident && admitted && had_place) {
    // The kernel had better use for its memory. What is not known needs none.
    budget_ = std::min(budget_, std::reduce(bytes_.begin() + 1, bytes_.end()));
    budget_ = std::max(kBudgetMin, budget_ - std::min(budget_, bytes));
    until_choice_ = 0;
  }
  // What is only found there has one, too. When it is gone the next time, and belongs there by
  // then, as much was read meanwhile as if it had belonged there before: the page cache knows of
  // neither. It hardly ever comes to that. What nobody asks for while all of the page cache is used
  // for something else does not become more popular than others thereby.
  const bool has_place = resident || admitted;
  counter = static_cast<std::uint16_t>(tag | count | (has_place ? kPlace : 0U));
  return has_place;
}

std::uint64_t Popularity::budget_bytes() const {
  const std::lock_guard lock(mutex_);
  return budget_ == kUnlimited ? 0 : budget_;
}

void Popularity::halve() {
  asked_ /= 2;
  known_ = 0;
  for (std::size_t i = 0; i < std::size_t{1} << kBits; ++i) {
    if (counters_[i] == 0) continue;
    const unsigned count = (counters_[i] & kMost) / 2;
    counters_[i] = static_cast<std::uint16_t>(count == 0 ? 0U : count | (counters_[i] & ~kMost));
    known_ += count == 0 ? 0U : 1U;
  }
  std::array<std::uint64_t, kMost + 1> before{};
  before.swap(bytes_);
  for (std::size_t count = 2; count <= kMost; ++count) bytes_[count / 2] += before[count];
  until_choice_ = 0;
}

void Popularity::choose_least() {
  until_choice_ = kChooseEvery;
  std::uint64_t room = budget_;
  least_ = kMost;
  while (least_ > 0 && bytes_[least_] <= room) room -= bytes_[least_--];
  share_ = least_ == 0 ? 0U : static_cast<unsigned>(room / (bytes_[least_] / 256 + 1));
}

}  // namespace om::vmod
