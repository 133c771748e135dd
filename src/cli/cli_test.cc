// The parts of objm that need no daemon. The rest: tests/cli.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "cli/duration.h"
#include "cli/sample.h"
#include "cli/text.h"
#include "cli/vcl_lint.h"

namespace om::cli {
namespace {

using namespace std::chrono_literals;

TEST(Duration, ReadsWhatPeopleWrite) {
  EXPECT_EQ(*parse_duration("90"), 90s);
  EXPECT_EQ(*parse_duration("90s"), 90s);
  EXPECT_EQ(*parse_duration("250ms"), 250ms);
  EXPECT_EQ(*parse_duration("15m"), 15min);
  EXPECT_EQ(*parse_duration("1.5h"), 90min);
  EXPECT_EQ(*parse_duration("7d"), 168h);
  EXPECT_EQ(*parse_duration("2w"), 336h);
  for (const char* no : {"", "s", "-1s", "0", "1x", "1 s", "1e3", "nan", "inf", "999999d"})
    EXPECT_FALSE(parse_duration(no)) << no;
}

TEST(Time, IsUtc) {
  EXPECT_EQ(format_time(0), "never");
  EXPECT_EQ(format_time(1'700'000'000'000'000'000), "2023-11-14T22:13:20Z");
}

TEST(Printable, KeepsTextAndDisarmsTheRest) {
  EXPECT_EQ(printable("http://a/\xc3\xa4?x=1"), "http://a/\xc3\xa4?x=1");
  EXPECT_EQ(printable("a\x1b[2Jb\n"), "a\\x1b[2Jb\\x0a");
  EXPECT_EQ(printable("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(printable("\xc2\x9b"), "\\xc2\\x9b");  // CSI in one character
  EXPECT_EQ(printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");
}

TEST(Varnishstat, IsRead) {
  const auto counters = parse_varnishstat(
      "MAIN.cache_hit             12         0.50 Cache hits\n"
      "SMA.s0.g_bytes          1048576          .   Bytes outstanding\n"
      "nonsense\n\nMAIN.broken x y\n");
  EXPECT_EQ(counters.size(), 2U);
  EXPECT_EQ(counters.at("MAIN.cache_hit"), 12U);
  EXPECT_EQ(counters.at("SMA.s0.g_bytes"), 1048576U);
}

TEST(Overview, RatesAreOverTheInterval) {
  Sample before;
  Sample now;
  now.when = before.when + 2s;
  before.numbers = {{"get.hits_total", 10}, {"get.misses_total", 10}, {"requests.get_total", 20}};
  now.numbers = {{"get.hits_total", 40},     {"get.misses_total", 20},
                 {"requests.get_total", 60}, {"memory.capacity_bytes", 100},
                 {"memory.used_bytes", 50},  {"evicted.memory", 4},
                 {"connections.open", 3},    {"refreshed", 6}};
  const Overview o = compare(before, now);
  EXPECT_DOUBLE_EQ(*o.hit_ratio, .75);
  EXPECT_DOUBLE_EQ(*o.hit_ratio_total, 40.0 / 60);
  EXPECT_DOUBLE_EQ(o.requests_per_s, 20);
  EXPECT_DOUBLE_EQ(o.evictions_per_s, 2);
  EXPECT_EQ(o.clients, 3U);
  EXPECT_TRUE(std::any_of(o.counters.begin(), o.counters.end(), [](const Overview::Rate& rate) {
    return rate.name == "refreshed" && rate.total == 6;
  }));
  ASSERT_EQ(o.tiers.size(), 1U);
  EXPECT_EQ(o.tiers[0].used_bytes, 50U);
  EXPECT_FALSE(compare(now, now).hit_ratio);
  EXPECT_DOUBLE_EQ(compare(now, before).requests_per_s, 0);  // a daemon that started anew
}

class Vcl : public testing::Test {
 public:
  Vcl() {
    std::string name = "/tmp/om-vcl-XXXXXX";
    directory_ = ::mkdtemp(name.data());
  }
  ~Vcl() override {
    for (const std::string& file : files_) (void)::remove(file.c_str());
    (void)::remove(directory_.c_str());
  }
  std::string write(const std::string& name, const std::string& text) {
    std::string path = directory_ + "/" + name;
    std::ofstream(path) << text;
    files_.push_back(path);
    return path;
  }
  std::vector<std::string> findings(const std::string& text) {
    std::vector<std::string> found;
    for (const auto& finding : lint_vcl(write("test.vcl", text), {}))
      found.push_back(std::to_string(finding.line) + " " + finding.what.substr(0, 14));
    return found;
  }
  std::string directory_;
  std::vector<std::string> files_;
};

TEST_F(Vcl, ThatPurgesWithoutRecordingIsFound) {
  EXPECT_THAT(findings("vcl 4.1;\nsub vcl_recv {\n  if (1) {\n    return(purge);\n  }\n}\n"),
              testing::ElementsAre("4 return (purge)"));
  EXPECT_THAT(findings("vcl 4.1; import objmapper;\n sub vcl_recv { return ( purge ); }"),
              testing::ElementsAre("1 imports objmap", "2 return (purge)"));
}

TEST_F(Vcl, ThatRecordsIsNot) {
  EXPECT_THAT(findings("vcl 4.1; import objmapper; include \"objmapper.vcl\";"
                       "sub vcl_recv { return (purge); }"),
              testing::IsEmpty());
  EXPECT_THAT(findings("import objmapper; sub vcl_purge { objmapper.purge(); }"
                       "sub vcl_recv { return (purge); }"),
              testing::IsEmpty());
  // Elsewhere it does not help.
  EXPECT_THAT(findings("sub vcl_recv { objmapper.purge(); return (purge); }"), testing::SizeIs(1));
}

TEST_F(Vcl, InCommentsStringsAndInlineCDoesNotCount) {
  EXPECT_THAT(findings("# return (purge)\n// return (purge)\n/* return (purge) */\n"
                       "sub vcl_recv { set req.http.a = \"return (purge)\";"
                       " set req.http.b = {\" return (purge) \"};"
                       " C{ return (purge); }C set req.http.c = \"\"\"return (purge)\"\"\"; }"),
              testing::IsEmpty());
  EXPECT_THAT(findings("# include \"objmapper.vcl\";\nsub vcl_recv { return (purge); }"),
              testing::SizeIs(1));
}

TEST_F(Vcl, IsFollowedIntoItsIncludes) {
  write("more.vcl", "sub vcl_recv { return (purge); }\ninclude \"test.vcl\";\n");
  EXPECT_THAT(findings("include \"more.vcl\"; include \"missing.vcl\";"), testing::SizeIs(1));
  write("record.vcl", "sub vcl_purge { objmapper.purge(); }");
  EXPECT_THAT(findings("include \"more.vcl\"; include \"record.vcl\";"), testing::IsEmpty());
}

TEST_F(Vcl, ThatIsNotThereIsAFinding) {
  EXPECT_THAT(lint_vcl(directory_ + "/none.vcl", {}), testing::SizeIs(1));
  EXPECT_THAT(lint_vcl(directory_, {}), testing::SizeIs(1));
}

}  // namespace
}  // namespace om::cli
