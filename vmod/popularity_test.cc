#include "popularity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <random>
#include <unordered_map>
#include <vector>

namespace om::vmod {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

// The kernel's, as far as it matters: what was read last stays.
class PageCache {
 public:
  explicit PageCache(std::size_t bodies) : most_(bodies) {}
  void resize(std::size_t bodies) {
    most_ = bodies;
    shrink();
  }
  bool has(std::uint64_t body) const { return where_.contains(body); }
  void read(std::uint64_t body) {
    if (const auto found = where_.find(body); found != where_.end()) recent_.erase(found->second);
    recent_.push_front(body);
    where_[body] = recent_.begin();
    shrink();
  }

 private:
  void shrink() {
    while (recent_.size() > most_) {
      where_.erase(recent_.back());
      recent_.pop_back();
    }
  }
  std::size_t most_;
  std::list<std::uint64_t> recent_;
  std::unordered_map<std::uint64_t, std::list<std::uint64_t>::iterator> where_;
};

class Load {
 public:
  Load(std::size_t bodies, double exponent) {
    double sum = 0;
    for (std::size_t i = 1; i <= bodies; ++i)
      below_.push_back(sum += std::pow(static_cast<double>(i), -exponent));
  }
  std::uint64_t next() {
    const double at = std::uniform_real_distribution<>(0, below_.back())(random_);
    return static_cast<std::uint64_t>(std::ranges::lower_bound(below_, at) - below_.begin()) + 1000;
  }

 private:
  std::vector<double> below_;
  std::mt19937_64 random_{1};
};

struct Outcome {
  double hits = 0;     // of all requests
  double read_in = 0;  // bodies that were read into the page cache, of all requests
};

Outcome run(Popularity* popularity, PageCache& cache, Load& load, int requests) {
  int hits = 0;
  int read_in = 0;
  for (int i = 0; i < requests; ++i) {
    const std::uint64_t body = load.next();
    const bool resident = cache.has(body);
    hits += resident ? 1 : 0;
    if (popularity != nullptr && !popularity->admit(body, kMiB, resident)) continue;
    read_in += resident ? 0 : 1;
    cache.read(body);
  }
  return {static_cast<double>(hits) / requests, static_cast<double>(read_in) / requests};
}

TEST(Popularity, WhereMemorySufficesAllAreAdmitted) {
  Popularity popularity;
  PageCache cache(3500);
  Load load(3500, 0.9);
  EXPECT_GT(run(&popularity, cache, load, 200000).hits, 0.98);
  EXPECT_EQ(popularity.budget_bytes(), 0U);
}

TEST(Popularity, WhatIsAskedForOftenIsKeptWhereTheKernelAloneWouldLoseIt) {
  PageCache plain(900);
  Load same(3500, 0.9);
  (void)run(nullptr, plain, same, 100000);
  const Outcome without = run(nullptr, plain, same, 100000);

  Popularity popularity;
  PageCache cache(900);
  Load load(3500, 0.9);
  (void)run(&popularity, cache, load, 100000);
  const Outcome with = run(&popularity, cache, load, 100000);
  EXPECT_LT(1 - with.hits, 0.75 * (1 - without.hits)) << with.hits << " of " << without.hits;
  EXPECT_LT(with.read_in, 0.1 * without.read_in);
}

TEST(Popularity, AUniformLoadFillsMemoryAndDoesNotChurnIt) {
  Popularity popularity;
  PageCache cache(900);
  Load load(3500, 0);
  (void)run(&popularity, cache, load, 100000);
  const Outcome with = run(&popularity, cache, load, 100000);
  EXPECT_GT(with.hits, 0.95 * 900 / 3500);
  EXPECT_LT(with.read_in, 0.15);
}

struct Charges {
  int all = 0;
  int only_found = 0;  // for bodies that did not belong there when they were asked for before
};

// What happens to the budget tells what a body was taken for.
Charges count_charges(Popularity& popularity, PageCache& cache, Load& load, int requests) {
  Charges charges;
  std::unordered_map<std::uint64_t, bool> belonged;
  for (int i = 0; i < requests; ++i) {
    const std::uint64_t body = load.next();
    const bool resident = cache.has(body);
    const std::uint64_t before = popularity.budget_bytes();
    const bool has_place = popularity.admit(body, kMiB, resident);
    const std::uint64_t after = popularity.budget_bytes();
    if (after != 0 && (before == 0 || after < before)) {
      ++charges.all;
      charges.only_found += belonged[body] ? 0 : 1;
    }
    belonged[body] = resident ? before == 0 || after > before : has_place;
    if (has_place) cache.read(body);
  }
  return charges;
}

TEST(Popularity, WhatWasOnlyFoundThereIsHardlyEverChargedFor) {
  for (const double exponent : {0.0, 0.9}) {
    Popularity popularity;
    PageCache cache(900);
    Load load(3500, exponent);
    const Charges charges = count_charges(popularity, cache, load, 150000);
    EXPECT_GT(charges.all, 300) << exponent;
    EXPECT_LE(50 * charges.only_found, charges.all) << exponent;
  }
}

TEST(Popularity, FollowsWhatBecomesPopularAndHowMuchMemoryThereIs) {
  Popularity popularity;
  PageCache cache(900);
  Load load(3500, 0.9);
  (void)run(&popularity, cache, load, 100000);
  const double before = run(&popularity, cache, load, 50000).hits;
  cache.resize(300);
  (void)run(&popularity, cache, load, 50000);
  const double little = run(&popularity, cache, load, 50000).hits;
  cache.resize(900);
  (void)run(&popularity, cache, load, 300000);
  EXPECT_LT(little, before);
  EXPECT_GT(run(&popularity, cache, load, 50000).hits, 0.97 * before);
}

}  // namespace
}  // namespace om::vmod
