#include <gtest/gtest.h>

#include "policy.h"

namespace om::vmod {
namespace {

constexpr std::uint64_t kMemory = std::uint64_t{128} << 20;

Policy policy(Mode mode, std::uint64_t threshold = 65536) {
  Policy policy;
  policy.mode = mode;
  policy.threshold = threshold;
  policy.disk_bytes = std::uint64_t{1} << 30;
  return policy;
}

TEST(Policy, NothingGoesToADiskThatIsNotThere) {
  for (const Mode mode : {Mode::kAuto, Mode::kMapped, Mode::kNative, Mode::kDual}) {
    Policy none = policy(mode);
    none.disk_bytes = 0;
    EXPECT_EQ(none.file_from(kMemory, kMemory), 0U) << to_string(mode);
  }
}

TEST(Policy, OnlyAutoLooksAtMemory) {
  for (const std::uint64_t used : {std::uint64_t{0}, kMemory / 2, kMemory}) {
    EXPECT_EQ(policy(Mode::kMapped).file_from(used, kMemory), 0U);
    EXPECT_EQ(policy(Mode::kNative).file_from(used, kMemory), kFileBodyBytesMin);
    EXPECT_EQ(policy(Mode::kDual, 100000).file_from(used, kMemory), 100000U);
    EXPECT_EQ(policy(Mode::kDual, 1).file_from(used, kMemory), kFileBodyBytesMin);
  }
}

TEST(Policy, AutoSendsSmallerBodiesToDiskTheFullerMemoryGets) {
  const Policy automatic = policy(Mode::kAuto);
  EXPECT_EQ(automatic.file_from(0, kMemory), 65536U);
  EXPECT_EQ(automatic.file_from(kMemory / 4 * 3, kMemory), 65536U);
  std::uint64_t before = 65536;
  for (std::uint64_t used = kMemory / 4 * 3; used <= kMemory; used += kMemory / 64) {
    const std::uint64_t now = automatic.file_from(used, kMemory);
    EXPECT_LE(now, before);
    EXPECT_GE(now, kAutoFileBodyBytesMin);
    before = now;
  }
  EXPECT_EQ(automatic.file_from(kMemory / 64 * 55, kMemory), 46341U) << "half way";
  EXPECT_EQ(automatic.file_from(kMemory / 32 * 31, kMemory), kAutoFileBodyBytesMin);
  EXPECT_EQ(automatic.file_from(kMemory, kMemory), kAutoFileBodyBytesMin);
  EXPECT_EQ(policy(Mode::kAuto, 1 << 20).file_from(kMemory, kMemory), kAutoFileBodyBytesMin);
  // A threshold below what a file is worth, or at it, has nowhere to go.
  EXPECT_EQ(policy(Mode::kAuto, 1).file_from(kMemory, kMemory), kFileBodyBytesMin);
  EXPECT_EQ(policy(Mode::kAuto, 16384).file_from(0, kMemory), kFileBodyBytesMin);
  EXPECT_EQ(policy(Mode::kAuto, 20000).file_from(kMemory, kMemory), 20000U);
  EXPECT_EQ(automatic.file_from(0, 0), 65536U);
}

}  // namespace
}  // namespace om::vmod
