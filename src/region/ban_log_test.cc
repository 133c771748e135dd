#include "region/ban_log.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "region/record.h"

namespace om::region {
namespace {

// A spec as Varnish writes it: time and length big endian, flags, padding, tests.
std::vector<std::byte> spec(double time, const std::string& tests) {
  std::vector<std::byte> out(16 + tests.size());
  const auto bits = std::bit_cast<std::uint64_t>(time);
  for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<std::byte>(bits >> (56 - 8 * i));
  const auto length = static_cast<std::uint32_t>(out.size());
  for (std::size_t i = 0; i < 4; ++i) out[8 + i] = static_cast<std::byte>(length >> (24 - 8 * i));
  std::memcpy(out.data() + 16, tests.data(), tests.size());
  return out;
}

std::vector<std::byte> joined(const std::vector<std::vector<std::byte>>& specs) {
  std::vector<std::byte> out;
  for (const auto& one : specs) out.insert(out.end(), one.begin(), one.end());
  return out;
}

struct Fixture {
  explicit Fixture(std::uint64_t bytes = 8192) : area(bytes / 8, 0), log(make(bytes)) {
    log.format();
  }
  BanLog make(std::uint64_t bytes) {
    return {&header, reinterpret_cast<std::byte*>(area.data()), bytes};
  }
  // What the next process would see.
  BanLog::Loaded reload() { return make(area.size() * 8).load(); }
  RegionHeader header{};
  std::vector<std::uint64_t> area;
  BanLog log;
};

TEST(BanLog, TimesRiseInTheOrderInWhichBansCame) {
  Fixture f;
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(12, "req.url ~ /a")));
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(12, "req.url ~ /b")));
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(11, "req.url ~ /c")));
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(13, "req.url ~ /d")));
  const double next = std::nextafter(12., 13.);
  const double after = std::nextafter(next, 13.);
  const auto loaded = f.reload();
  EXPECT_EQ(loaded.specs, joined({spec(12, "req.url ~ /a"), spec(next, "req.url ~ /b"),
                                  spec(after, "req.url ~ /c"), spec(13, "req.url ~ /d")}));
  EXPECT_EQ(loaded.newest, 13);
  // They are dropped by the times that Varnish knows.
  ASSERT_TRUE(f.log.append(BanEvent::kDrop, spec(12, "")));
  ASSERT_TRUE(f.log.append(BanEvent::kDrop, spec(11, "")));
  EXPECT_EQ(f.reload().specs, joined({spec(12, "req.url ~ /b"), spec(13, "req.url ~ /d")}));
}

TEST(BanLog, GivesBackWhatWasAppendedOldestFirst) {
  Fixture f;
  EXPECT_EQ(f.reload().count, 0U);
  EXPECT_EQ(f.reload().lost_until, 0);
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(1, "req.url ~ /a")));
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(2, "obj.status == 200")));
  const auto loaded = f.reload();
  EXPECT_EQ(loaded.specs, joined({spec(1, "req.url ~ /a"), spec(2, "obj.status == 200")}));
  EXPECT_EQ(loaded.count, 2U);
  EXPECT_EQ(loaded.newest, 2);
  EXPECT_EQ(loaded.lost_until, 0);
}

TEST(BanLog, KnowsWhatHasBeenSent) {
  Fixture f;
  EXPECT_EQ(f.log.sent_until(), 0);
  f.log.mark_sent(5);
  f.log.mark_sent(3);  // never back
  EXPECT_EQ(f.make(f.area.size() * 8).sent_until(), 5);
  for (const double damaged :
       {std::numeric_limits<double>::quiet_NaN(), -1., std::numeric_limits<double>::infinity()}) {
    store_double(f.header.bans_sent, damaged);
    EXPECT_EQ(f.log.sent_until(), 0);
  }
  f.log.mark_sent(7);
  EXPECT_EQ(f.log.sent_until(), 7);
  f.log.format();
  EXPECT_EQ(f.log.sent_until(), 0);
}

TEST(BanLog, ForgetsADroppedBanAlsoWhenItsSpecHasBecomeShorter) {
  Fixture f;
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(1, "a")));
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(2, "b")));
  ASSERT_TRUE(f.log.append(BanEvent::kDrop, spec(1, "")));
  EXPECT_EQ(f.reload().specs, spec(2, "b"));
}

TEST(BanLog, SaysNoWhenFullAndGoesOnAfterReplace) {
  Fixture f;
  double time = 0;
  while (f.log.append(BanEvent::kNew, spec(++time, std::string(100, 'x')))) {
  }
  EXPECT_GT(time, 20);
  EXPECT_EQ(f.reload().count, static_cast<std::size_t>(time) - 1);
  ASSERT_TRUE(f.log.replace(joined({spec(time - 1, "kept"), spec(time, "new")})));
  EXPECT_EQ(f.reload().specs, joined({spec(time - 1, "kept"), spec(time, "new")}));
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(time + 1, "after")));
  EXPECT_EQ(f.reload().count, 3U);
  EXPECT_EQ(f.reload().lost_until, 0);
}

TEST(BanLog, MarksLostWhatDoesNotFit) {
  Fixture f;
  std::vector<std::vector<std::byte>> many;
  for (int i = 1; i <= 100; ++i) many.push_back(spec(i, std::string(100, 'x')));
  EXPECT_FALSE(f.log.replace(joined(many)));
  const auto loaded = f.reload();
  EXPECT_GT(loaded.count, 10U);
  EXPECT_EQ(loaded.newest, 100);
  EXPECT_EQ(loaded.lost_until, 100 - static_cast<double>(loaded.count));
  EXPECT_FALSE(f.log.replace(std::vector<std::byte>(40)));
  EXPECT_TRUE(std::isinf(f.reload().lost_until));
}

TEST(BanLog, RefusesWhatIsNoSpec) {
  Fixture f;
  EXPECT_FALSE(f.log.append(BanEvent::kNew, {}));
  auto wrong = spec(1, "a");
  wrong[11] = std::byte{200};
  EXPECT_FALSE(f.log.append(BanEvent::kNew, wrong));
  EXPECT_EQ(f.reload().count, 0U);
}

// A kill at any moment of an append: the log without it, or with it, never something else.
TEST(BanLog, ATornAppendIsNotThere) {
  std::mt19937_64 random(3);
  Fixture f;
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(1, "first")));
  const auto before = f.area;
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(2, "second")));
  const auto after = f.area;
  for (int round = 0; round < 500; ++round) {
    // Any subset of the stores before the commit, which is the last.
    f.area = before;
    for (std::size_t i = 0; i < f.area.size(); ++i) {
      const bool is_committed_word = i == 4096 / 8 + 1 || i == 1;
      if (!is_committed_word && random() % 2 == 0) f.area[i] = after[i];
    }
    const auto loaded = f.reload();
    ASSERT_EQ(loaded.specs, spec(1, "first"));
    ASSERT_EQ(loaded.lost_until, 0);
  }
}

TEST(BanLog, ATornReplaceIsNotThere) {
  std::mt19937_64 random(4);
  Fixture f;
  ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(1, "first")));
  const auto before = f.area;
  const std::uint64_t current = f.header.bans_current.load();
  ASSERT_TRUE(f.log.replace(joined({spec(1, "first"), spec(2, "second")})));
  const auto after = f.area;
  f.header.bans_current.store(current);
  for (int round = 0; round < 500; ++round) {
    for (std::size_t i = 0; i < f.area.size(); ++i) {
      f.area[i] = random() % 2 == 0 ? after[i] : before[i];
    }
    ASSERT_EQ(f.reload().specs, spec(1, "first"));
    ASSERT_EQ(f.reload().lost_until, 0);
  }
}

// Damage is never a shorter list that looks whole: either the same bans, or nothing may be trusted.
TEST(BanLog, ADamagedByteIsSeen) {
  Fixture f;
  for (int i = 1; i <= 5; ++i) {
    ASSERT_TRUE(f.log.append(BanEvent::kNew, spec(i, "req.url ~ " + std::to_string(i))));
  }
  const auto whole = f.reload().specs;
  auto* bytes = reinterpret_cast<unsigned char*>(f.area.data());
  for (std::size_t i = 0; i < f.area.size() * 8; ++i) {
    for (const unsigned flip : {0x01U, 0x80U, 0xffU}) {
      bytes[i] = static_cast<unsigned char>(bytes[i] ^ flip);
      const auto loaded = f.reload();
      ASSERT_TRUE(loaded.specs == whole || std::isinf(loaded.lost_until)) << i;
      bytes[i] = static_cast<unsigned char>(bytes[i] ^ flip);
    }
  }
  f.log.mark_lost(77);
  for (Word* word : {&f.header.bans_current, &f.header.bans_lost, &f.header.bans_lost_again}) {
    for (unsigned bit = 0; bit < 64; ++bit) {
      const std::uint64_t old = word->fetch_xor(std::uint64_t{1} << bit);
      const auto loaded = f.reload();
      ASSERT_TRUE(loaded.specs == whole || std::isinf(loaded.lost_until));
      ASSERT_GE(loaded.lost_until, 77);
      word->store(old);
    }
  }
}

}  // namespace
}  // namespace om::region
