// Workers that share one wakeup_fd(): what any of them has finished is heard of.
#include "store/worker.h"

#include <gtest/gtest.h>
#include <poll.h>

namespace om::store {
namespace {

bool is_readable(const Worker& worker, int wait_ms) {
  pollfd look{worker.wakeup_fd().raw(), POLLIN, 0};
  return ::poll(&look, 1, wait_ms) == 1;
}

TEST(Worker, ThatFinishesWhileAnotherOneIsLookedAtIsNotForgotten) {
  auto first = Worker::start();
  ASSERT_TRUE(first);
  auto second = (*first)->start_beside();
  ASSERT_TRUE(second);
  bool done = false;
  (*first)->clear_wakeup();
  (*first)->deliver();
  (*first)->run([] {}, [&done] { done = true; });
  ASSERT_TRUE(is_readable(**first, 10'000));
  (*second)->deliver();
  EXPECT_TRUE(is_readable(**first, 0));
  EXPECT_TRUE(is_readable(**second, 0));
  EXPECT_FALSE(done);
  (*second)->clear_wakeup();
  EXPECT_FALSE(is_readable(**first, 0));
  (*first)->deliver();
  EXPECT_TRUE(done);
  EXPECT_EQ((*first)->pending(), 0U);
}

}  // namespace
}  // namespace om::store
