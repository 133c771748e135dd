#include "trace/trace.h"

#include <gtest/gtest.h>

#include <sstream>

namespace om::trace {
namespace {

TEST(Trace, ReadsKeySizeLinesAndNamesTheBadOne) {
  std::istringstream good("# a trace\n/a 10\n/b 20 1700000000\n\n/a 10\n");
  const auto trace = read_trace(good);
  ASSERT_TRUE(trace);
  ASSERT_EQ(trace->size(), 3U);
  EXPECT_EQ((*trace)[0].key, (*trace)[2].key);
  EXPECT_EQ(working_set(*trace), 30U);
  std::istringstream bad("/a 10\n/b\n");
  EXPECT_EQ(read_trace(bad).error().what, "line 2 is not \"key size\"");
}

TEST(Trace, OneSeedIsOneTrace) {
  Shape shape;
  shape.requests = 1000;
  const auto a = generate(shape);
  const auto b = generate(shape);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].key, b[i].key);
}

double bytes_hit(const std::vector<Request>& trace, const char* name, std::uint64_t capacity) {
  const auto policy = eviction::make_policy(name, capacity);
  return run(trace, *policy, capacity).byte_ratio();
}

TEST(Trace, BytesHitByS3FifoAboveSieveAboveLru) {
  const auto trace = generate(Shape{});
  const std::uint64_t all = working_set(trace);
  for (const std::uint64_t percent : {5, 10}) {
    const std::uint64_t capacity = all / 100 * percent;
    const double s3fifo = bytes_hit(trace, "s3fifo", capacity);
    const double sieve = bytes_hit(trace, "sieve", capacity);
    const double lru = bytes_hit(trace, "lru", capacity);
    EXPECT_GT(s3fifo, sieve) << percent << " %";
    EXPECT_GT(sieve, lru) << percent << " %";
  }
}

}  // namespace
}  // namespace om::trace
