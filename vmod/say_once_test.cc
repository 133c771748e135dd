#include "say_once.h"

#include <gtest/gtest.h>

namespace om::vmod {
namespace {

TEST(SayOnce, TellsWhatIsNewAndThatItIsOver) {
  SayOnce trouble;
  EXPECT_FALSE(trouble.is_over());
  EXPECT_TRUE(trouble.is_news("denied"));
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(trouble.is_news("denied"));
  EXPECT_TRUE(trouble.is_news("no space"));
  EXPECT_TRUE(trouble.is_news("denied"));
  EXPECT_TRUE(trouble.is_over());
  EXPECT_FALSE(trouble.is_over());
  EXPECT_TRUE(trouble.is_news("denied"));
}

}  // namespace
}  // namespace om::vmod
