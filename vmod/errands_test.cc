#include "errands.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace om::vmod {
namespace {

using namespace std::chrono_literals;
using IntErrands = Errands<int>;

std::uint64_t begin(IntErrands& errands, int what) {
  const auto number = errands.begin([what](int& item, const auto& /*open*/) {
    item = what;
    return true;
  });
  EXPECT_TRUE(number);
  return number.value_or(0);
}

TEST(Errands, AreDoneAtOnceWhereThereIsAWorker) {
  std::vector<int> done;
  IntErrands* all = nullptr;
  IntErrands errands([&](IntErrands::Errand& errand) {
    done.push_back(errand.item);
    all->finished(errand);
    return true;
  });
  all = &errands;
  EXPECT_TRUE(errands.see_to(begin(errands, 1), 0ms));
  EXPECT_TRUE(errands.see_to(begin(errands, 2), 1h));
  EXPECT_EQ(done, (std::vector<int>{1, 2}));
  const auto none = errands.begin([](int& /*item*/, const auto& open) { return !open.empty(); });
  EXPECT_FALSE(none);
}

TEST(Errands, ArePutOffWhereThereIsNoneAndNobodyWaitsForEver) {
  bool is_there = false;
  int tries = 0;
  std::vector<int> done;
  IntErrands* all = nullptr;
  IntErrands errands([&](IntErrands::Errand& errand) {
    ++tries;
    if (!is_there) return false;
    done.push_back(errand.item);
    all->finished(errand);
    return true;
  });
  all = &errands;
  EXPECT_FALSE(errands.see_to(begin(errands, 1), 100ms));
  EXPECT_GT(tries, 1);
  EXPECT_TRUE(errands.any_late());
  // Another one is not waited for: it is tried once.
  const auto before = std::chrono::steady_clock::now();
  tries = 0;
  EXPECT_FALSE(errands.see_to(begin(errands, 2), 1h));
  EXPECT_EQ(tries, 1);
  EXPECT_LT(std::chrono::steady_clock::now() - before, 10min);
  errands.take_up_again();
  EXPECT_EQ(tries, 2);
  // Whoever begins one sees what is not over.
  std::vector<int> open_items;
  EXPECT_FALSE(errands.begin([&](int& /*item*/, const auto& open) {
    for (const auto& one : open) open_items.push_back(one.item);
    return false;
  }));
  EXPECT_EQ(open_items, (std::vector<int>{1, 2}));
  is_there = true;
  errands.take_up_again();
  EXPECT_EQ(done, (std::vector<int>{1, 2}));
  EXPECT_FALSE(errands.any_late());
  errands.take_up_again();
  EXPECT_EQ(done.size(), 2U);
}

TEST(Errands, ThatAWorkerTakesLongForAreLateAndDoneOnce) {
  std::vector<std::thread> workers;
  std::atomic<bool> may_end{false};
  std::atomic<int> done{0};
  IntErrands* all = nullptr;
  IntErrands errands([&](IntErrands::Errand& errand) {
    workers.emplace_back([&] {
      while (!may_end) std::this_thread::sleep_for(1ms);
      ++done;
      all->finished(errand);
    });
    return true;
  });
  all = &errands;
  EXPECT_FALSE(errands.see_to(begin(errands, 1), 20ms));
  // Given all the same, and not waited for.
  EXPECT_TRUE(errands.see_to(begin(errands, 2), 1h));
  errands.take_up_again();
  EXPECT_EQ(done, 0);
  may_end = true;
  for (auto& worker : workers) worker.join();
  workers.clear();
  EXPECT_EQ(done, 2);
  EXPECT_FALSE(errands.any_late());
  EXPECT_TRUE(errands.see_to(begin(errands, 3), 1h));
  EXPECT_EQ(done, 3);
  for (auto& worker : workers) worker.join();
}

TEST(Errands, OfManyThreadsAreEachDoneOnce) {
  constexpr int kThreads = 4;
  constexpr int kEach = 200;
  std::atomic<int> tries{0};
  std::mutex mutex;
  std::vector<int> done(kThreads * kEach);
  IntErrands* all = nullptr;
  IntErrands errands([&](IntErrands::Errand& errand) {
    if (++tries % 3 == 0) return false;
    {
      const std::lock_guard lock(mutex);
      ++done[static_cast<std::size_t>(errand.item)];
    }
    all->finished(errand);
    return true;
  });
  all = &errands;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        const auto number = begin(errands, t * kEach + i);
        if (i % 2 == 0) errands.take_up_again();
        EXPECT_TRUE(errands.see_to(number, 10s));
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(done, std::vector<int>(kThreads * kEach, 1));
}

}  // namespace
}  // namespace om::vmod
