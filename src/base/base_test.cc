#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/ban_text.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "base/flat_map.h"
#include "base/result.h"
#include "base/units.h"

namespace om {
namespace {

TEST(Size, ReadsWhatPeopleWrite) {
  const std::pair<const char*, std::uint64_t> rows[] = {
      {"0", 0},           {"4096", 4096},
      {"64K", 65536},     {"64KB", 65536},
      {"64kb", 65536},    {"64KiB", 65536},
      {"1.5G", 3u << 29}, {"2T", std::uint64_t{2} << 40},
      {"17b", 17},        {"9007199254740993", 9007199254740993U},
  };
  for (const auto& [text, bytes] : rows) {
    const auto size = parse_size(text);
    ASSERT_TRUE(size) << text;
    EXPECT_EQ(*size, bytes) << text;
  }
}

TEST(Size, RefusesWhatIsNone) {
  for (const char* text :
       {"", "K", "-1", "+1", " 1", "1 K", "1X", "1KK", "1e9", "99999999999T", "0x10", "nan", "inf"})
    EXPECT_FALSE(parse_size(text)) << text;
}

TEST(Size, WritesTheShortForm) {
  EXPECT_EQ(format_size(17), "17");
  EXPECT_EQ(format_size(65536), "64K");
  EXPECT_EQ(format_size(3U << 29), "1.5G");
}

Result<int> half(int n) {
  if (n % 2 != 0) return Error{Errc::kMalformed, 0, "odd"};
  return n / 2;
}
Result<int> quarter(int n) { return OM_TRY(half(OM_TRY(half(n)))); }

TEST(Result, LeavesWithTheFirstError) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(6).error().what, "odd");
  EXPECT_EQ(describe(quarter(6).error()), "malformed: odd");
}

TEST(BanText, PlainWordsTakeQuotationMarksAsTheyAre) {
  const auto tests =
      parse_ban(" obj.http.etag ==  \"a\" && req.url ~ ^/x\\.png$", BanQuotes::kPlain);
  ASSERT_TRUE(tests);
  EXPECT_EQ(*tests, (std::vector<BanTest>{{"obj.http.etag", "==", "\"a\""},
                                          {"req.url", "~", "^/x\\.png$"}}));
}

TEST(BanText, WhatIsWrittenCanonicallyIsReadTheSame) {
  const std::vector<BanTest> rows[] = {
      {{"req.url", "~", "."}},
      {{"obj.http.x", "==", "with blanks"}, {"req.http.host", "!=", ""}},
      {{"obj.http.etag", "==", "\"quoted\""}, {"obj.http.y", "~", "\\s \"\\\\\"\t"}},
  };
  for (const auto& tests : rows) {
    const std::string text = canonical_ban(tests);
    const auto again = parse_ban(text, BanQuotes::kCanonical);
    ASSERT_TRUE(again) << text;
    EXPECT_EQ(*again, tests) << text;
  }
}

TEST(BanText, RefusesWhatIsNoBan) {
  for (const char* text : {"", " ", "req.url", "req.url ~", "req.url ~ x &&",
                           "req.url ~ x || a b c", "req.url ~ \"open"})
    EXPECT_FALSE(parse_ban(text, BanQuotes::kCanonical)) << text;
  EXPECT_FALSE(parse_ban(std::string_view("req.url ~ a\0b", 13), BanQuotes::kPlain));
}

TEST(Checksum, DependsOnEveryByte) {
  EXPECT_NE(hash_key("a"), hash_key("b"));
  EXPECT_EQ(hash_key("a"), hash_key(std::string("a")));
}

TEST(FlatMap, IsWhatAMapIs) {
  for (unsigned seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    FlatMap<std::uint32_t> flat;
    std::map<std::uint64_t, std::uint32_t> model;
    const std::uint64_t keys = seed % 2 == 0 ? 50 : 3000;
    for (int step = 0; step < 20000; ++step) {
      const std::uint64_t key = random() % keys * (seed % 3 == 0 ? 64 : 1);
      if (random() % 2 == 0) {
        ++flat[key];
        ++model[key];
      } else if (auto* const found = flat.find(key)) {
        EXPECT_EQ(found->second, model.at(key));
        flat.erase(found);
        model.erase(key);
      } else {
        EXPECT_EQ(model.count(key), 0U);
      }
      ASSERT_EQ(flat.size(), model.size());
    }
    std::map<std::uint64_t, std::uint32_t> seen;
    flat.for_each([&](std::uint64_t key, std::uint32_t value) { seen[key] = value; });
    EXPECT_EQ(seen, model);
  }
}

}  // namespace
}  // namespace om
