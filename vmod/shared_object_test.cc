#include "shared_object.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <random>

#include "base/limits.h"

namespace om::vmod::shared {
namespace {

Metadata example() {
  Metadata m;
  m.status = 404;
  m.reason = "Not Found";
  m.headers = {"Content-Type: text/plain", "ETag: W/\"a,b\"",
               "Last-Modified: Mon, 02 Jan 2006 15:04:05 GMT", "X-Empty:"};
  m.vary = {{"accept-language", "de"}, {"x-device", std::nullopt}};
  m.t_origin = 1700000000.25;
  m.ttl = 120;
  m.grace = 10;
  m.keep = 0.5;
  m.ban_time = 1699999999;
  m.gzip_bits.emplace();
  m.gzip_bits->at(31) = 7;
  return m;
}

HeaderLookup request(std::map<std::string, std::string, std::less<>> headers) {
  return [headers = std::move(headers)](std::string_view name) -> std::optional<std::string> {
    const auto found = headers.find(name);
    if (found == headers.end()) return std::nullopt;
    return found->second;
  };
}

TEST(SharedObject, IsReadAsItWasWritten) {
  const auto bytes = encode(example());
  ASSERT_TRUE(bytes);
  const auto read = decode(*bytes);
  ASSERT_TRUE(read) << describe(read.error());
  EXPECT_EQ(*read, example());

  Metadata index;
  index.kind = Kind::kVaryIndex;
  index.vary = {{"accept-language", std::nullopt}};
  const auto again = decode(*encode(index));
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, index);
}

TEST(SharedObject, NoChangedByteGoesUnseen) {
  const std::string good = *encode(example());
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      EXPECT_FALSE(decode(bad)) << at;
    }
  }
  for (std::size_t bytes = 0; bytes < good.size(); ++bytes)
    EXPECT_FALSE(decode(good.substr(0, bytes)));
  EXPECT_FALSE(decode(good + '\0'));
}

TEST(SharedObject, WhatWouldBreakAResponseIsNotShared) {
  const auto refused = [](auto change) {
    Metadata m = example();
    change(m);
    const auto bytes = encode(m);
    return !bytes && bytes.error().code == Errc::kMalformed;
  };
  EXPECT_TRUE(refused([](Metadata& m) { m.headers.emplace_back("X: a\r\nSet-Cookie: b"); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.headers.emplace_back("no colon"); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.headers.emplace_back("a b: c"); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.headers.emplace_back(": c"); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.reason = "OK\n"; }));
  EXPECT_TRUE(refused([](Metadata& m) { m.status = 99; }));
  EXPECT_TRUE(refused([](Metadata& m) { m.ttl = std::numeric_limits<double>::quiet_NaN(); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.t_origin = std::numeric_limits<double>::infinity(); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.headers.assign(kHeadersMax + 1, "a: b"); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.headers.assign(2, "a: " + std::string(40000, 'x')); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.headers.assign(1, "a: " + std::string(70000, 'x')); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.kind = Kind::kVaryIndex, m.vary.clear(); }));
  EXPECT_TRUE(refused([](Metadata& m) { m.vary.assign(kVaryFieldsMax + 1, {"a", "b"}); }));
}

TEST(SharedObject, AsMuchAsTheStoreTakes) {
  Metadata m;
  m.headers.assign(1, "a: " + std::string(kMetadataBytesMax - 200, 'x'));
  const auto bytes = encode(m);
  ASSERT_TRUE(bytes);
  EXPECT_LE(bytes->size(), kMetadataBytesMax);
  EXPECT_EQ(*decode(*bytes), m);
}

TEST(SharedObject, HeadersAreFoundInAnyCase) {
  EXPECT_EQ(header(example(), "CONTENT-type"), "text/plain");
  EXPECT_EQ(header(example(), "x-empty"), "");
  EXPECT_EQ(header(example(), "content"), std::nullopt);
}

TEST(SharedObject, ItsTimeEndsAfterGraceAndKeep) {
  EXPECT_DOUBLE_EQ(remaining(example(), 1700000100.25), 20);
  EXPECT_NEAR(static_cast<double>(expires_ns(example())), 1700000130.75e9, 1000);
  Metadata m = example();
  m.ttl = 1e11;
  EXPECT_EQ(expires_ns(m), 0u);
  m.ttl = m.grace = m.keep = -1;
  EXPECT_NEAR(static_cast<double>(expires_ns(m)), 1700000000.25e9, 1000);
}

TEST(SharedKey, HoldsPrefixHostUrlAndDigest) {
  const std::array<std::uint8_t, 4> digest{0x00, 0x1f, 0xa0, 0xff};
  EXPECT_EQ(base_key("", "example.com", "/a?b", digest), "http://example.com/a?b#001fa0ff");
  EXPECT_EQ(base_key("cdn://example.com", "www", "/a", digest), "cdn://example.com/www/a#001fa0ff");
  EXPECT_EQ(base_key("cdn://", "www", "/a", digest), "cdn://www/a#001fa0ff");
  EXPECT_EQ(base_key("urn:x:", "www", "/a", digest), "urn:x:www/a#001fa0ff");
  EXPECT_EQ(primary_key("k", true), "k");
  EXPECT_EQ(primary_key("k", false), "k;identity");
  EXPECT_EQ(digest_tag(digest), "varnish-digest:001fa0ff");
}

TEST(SharedKey, OfAPurgeIsWhatKeysOfAllDigestsBeginWithAndFitsAKey) {
  EXPECT_EQ(purge_stem("", "example.com", "/a?b#c"), "http://example.com/a?b#c");
  EXPECT_EQ(purge_stem("cdn://", "", "*"), "cdn://*");
  const std::string longest(kKeyBytesMax - std::string_view("cdn://www/").size(), 'u');
  const std::string stem = purge_stem("cdn://", "www", "/" + longest);
  EXPECT_EQ(stem, "cdn://www/" + longest);
  EXPECT_EQ(purge_stem("cdn://", "www", "/" + longest + "v"), stem);
}

TEST(SharedKey, DigestIsReadBackFromItsTag) {
  std::array<std::uint8_t, 32> digest{};
  for (std::size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<std::uint8_t>(i * 37 + 3);
  const std::string tag = digest_tag(digest);
  EXPECT_EQ(digest_of_tag(tag), digest);
  EXPECT_EQ(digest_of_tag(""), std::nullopt);
  EXPECT_EQ(digest_of_tag("varnish-digest:"), std::nullopt);
  EXPECT_EQ(digest_of_tag(tag + "0"), std::nullopt);
  EXPECT_EQ(digest_of_tag(tag.substr(0, tag.size() - 1)), std::nullopt);
  EXPECT_EQ(digest_of_tag("x" + tag.substr(1)), std::nullopt);
  EXPECT_EQ(digest_of_tag(tag.substr(0, tag.size() - 1) + "g"), std::nullopt);
  // The daemon compares tags as they are.
  EXPECT_EQ(digest_of_tag(tag.substr(0, tag.size() - 1) + "F"), std::nullopt);
}

TEST(SharedKey, AnotherVariantIsAnotherKey) {
  const auto key = [](std::vector<VaryField> fields) { return variant_key("k", fields); };
  const std::string de = key({{"accept-language", "de"}});
  EXPECT_EQ(de, key({{"accept-language", "de"}}));
  EXPECT_TRUE(de.starts_with("k;vary="));
  EXPECT_EQ(de.size(), 7u + 32u);
  EXPECT_NE(de, key({{"accept-language", "en"}}));
  EXPECT_NE(de, key({{"accept-language", std::nullopt}}));
  EXPECT_NE(key({{"a", ""}}), key({{"a", std::nullopt}}));
  EXPECT_NE(key({{"a", "bc"}}), key({{"ab", "c"}}));
}

TEST(SharedVary, IsAListOfNames) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(parse_vary("Accept-Language"), Names{"accept-language"});
  EXPECT_EQ(parse_vary(" b , A,,a "), (Names{"a", "b"}));
  EXPECT_EQ(parse_vary(""), Names{});
  EXPECT_EQ(parse_vary("*"), std::nullopt);
  EXPECT_EQ(parse_vary("a, *"), std::nullopt);
  EXPECT_EQ(parse_vary("a b"), std::nullopt);
  EXPECT_EQ(parse_vary("a;b=1"), std::nullopt);
  std::string many;
  for (std::size_t i = 0; i <= kVaryFieldsMax; ++i) many += "n" + std::to_string(i) + ",";
  EXPECT_EQ(parse_vary(many), std::nullopt);
}

TEST(SharedVary, ARequestChoosesByItsHeaders) {
  const Metadata m = example();
  EXPECT_TRUE(matches(m, request({{"accept-language", " de "}, {"other", "x"}})));
  EXPECT_FALSE(matches(m, request({{"accept-language", "en"}})));
  EXPECT_FALSE(matches(m, request({})));
  EXPECT_FALSE(matches(m, request({{"accept-language", "de"}, {"x-device", "phone"}})));
  EXPECT_EQ(select(m.vary, request({{"accept-language", "de"}})), m.vary);
}

TEST(SharedValidators, AnswerConditionalRequests) {
  const auto date = [](std::string_view text) {
    return text == "Mon, 02 Jan 2006 15:04:05 GMT"   ? 1136214245.0
           : text == "Mon, 02 Jan 2006 15:04:06 GMT" ? 1136214246.0
           : text == "Mon, 02 Jan 2006 15:04:04 GMT" ? 1136214244.0
                                                     : 0.0;
  };
  Metadata m = example();
  m.status = 200;
  const auto none_match = [&](std::string_view tags) {
    return not_modified(m, tags, std::nullopt, date);
  };
  EXPECT_TRUE(none_match("W/\"a,b\""));
  EXPECT_TRUE(none_match("\"x\", \"a,b\""));
  EXPECT_TRUE(none_match("*"));
  EXPECT_FALSE(none_match("\"a\", \"b\""));
  EXPECT_FALSE(none_match("a,b"));
  EXPECT_FALSE(none_match(""));
  const auto since = [&](std::string_view when) {
    return not_modified(m, std::nullopt, when, date);
  };
  EXPECT_TRUE(since("Mon, 02 Jan 2006 15:04:05 GMT"));
  // A cache that has a later one has another response.
  EXPECT_FALSE(since("Mon, 02 Jan 2006 15:04:06 GMT"));
  EXPECT_FALSE(since("Mon, 02 Jan 2006 15:04:04 GMT"));
  EXPECT_FALSE(since("yesterday"));
  // If-None-Match goes first (RFC 9110, 13.2.2).
  EXPECT_FALSE(not_modified(m, "\"x\"", "Mon, 02 Jan 2006 15:04:06 GMT", date));
  EXPECT_FALSE(not_modified(m, std::nullopt, std::nullopt, date));
  m.status = 404;
  EXPECT_FALSE(none_match("*"));
}

}  // namespace
}  // namespace om::vmod::shared
