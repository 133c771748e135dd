// Bans against objects of the shared store: what matches, what does not, what cannot be told.
#include "ban_expression.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <regex>

namespace om::vmod {
namespace {

class StdPattern final : public Pattern {
 public:
  explicit StdPattern(const std::string& text) : regex_(text) {}
  [[nodiscard]] bool matches(std::string_view text) const override {
    return std::regex_search(std::string(text), regex_);
  }

 private:
  std::regex regex_;
};
std::unique_ptr<Pattern> compile(const std::string& text) {
  if (text == "*") return nullptr;
  return std::make_unique<StdPattern>(text);
}

using Headers = std::map<std::string, std::string, std::less<>>;
auto lookup(const Headers& headers) {
  return [&headers](std::string_view name) -> std::optional<std::string_view> {
    const auto found = headers.find(name);
    if (found == headers.end()) return std::nullopt;
    return found->second;
  };
}

bool may_match(const char* ban, bool final_headers = false) {
  const Headers request{{"host", "a.example"}, {"range", "bytes=0-1"}};
  const Headers object{{"x-kind", "image"}, {"etag", "\"7\""}};
  BanSubject subject;
  subject.url = "/pictures/1.png";
  subject.request_header = lookup(request);
  subject.status = 200;
  subject.object_header = lookup(object);
  subject.headers_are_final = final_headers;
  return BanExpression(*parse_ban(ban, BanQuotes::kPlain), compile).may_match(subject);
}

TEST(BanExpression, IsDecidedByUrlHostStatusAndHeadersThatAreThere) {
  const std::pair<const char*, bool> rows[] = {
      {"req.url ~ ^/pictures/", true},
      {"req.url ~ ^/texts/", false},
      {"req.url !~ ^/texts/", true},
      {"req.url == /pictures/1.png", true},
      {"req.url != /pictures/1.png", false},
      {"req.http.host == a.example && req.url ~ .", true},
      {"req.http.Host == b.example && req.url ~ .", false},
      {"req.http.x-none == a", false},
      {"req.http.x-none != a", true},
      {"req.http.x-none ~ a", false},
      {"req.http.x-none !~ a", false},
      {"obj.status == 200", true},
      {"obj.status != 200", false},
      {"obj.http.X-Kind == image", true},
      {"obj.http.x-kind == text", false},
      {"obj.http.x-kind ~ ^im && obj.status == 404", false},
      {"obj.http.etag == \"7\"", true},
  };
  for (const auto& [ban, expected] : rows) EXPECT_EQ(may_match(ban), expected) << ban;
}

TEST(BanExpression, CountsAsAMatchWhereItCannotBeTold) {
  for (const char* ban :
       {"obj.http.x-url ~ ^/elsewhere", "req.http.range == x", "obj.ttl > 10s", "obj.age < 1s",
        "obj.keep == 0s", "req.url ~ *", "something.new == 1", "req.http.accept-encoding == br"})
    EXPECT_TRUE(may_match(ban)) << ban;
  EXPECT_FALSE(may_match("obj.http.x-url ~ ^/elsewhere", true));
  EXPECT_FALSE(may_match("obj.ttl > 10s && req.url == /other"));
}

// As Varnish's BAN_AddTest and BAN_Commit write it.
class Spec {
 public:
  Spec() : bytes_(16, '\0') {}
  Spec& put(unsigned byte) {
    bytes_ += static_cast<char>(byte);
    return *this;
  }
  Spec& name(const std::string& name) {
    put(static_cast<unsigned>(name.size() + 1));
    bytes_ += name + ":";
    return put(0);
  }
  Spec& lump(const std::string& value) {
    while (bytes_.size() % 8 != 0) put(0xff);
    put(0).put(0).put(static_cast<unsigned>(value.size() >> 8));
    put(static_cast<unsigned>(value.size() & 0xff));
    put(0).put(0).put(0).put(0);
    bytes_ += value;
    return *this;
  }
  std::string done() {
    bytes_[10] = static_cast<char>(bytes_.size() >> 8);
    bytes_[11] = static_cast<char>(bytes_.size() & 0xff);
    return bytes_;
  }

 private:
  std::string bytes_;
};

std::optional<std::vector<BanTest>> read(const std::string& spec) {
  return tests_of_spec(std::as_bytes(std::span(spec)));
}

TEST(BanSpec, IsReadBack) {
  const std::string text("a b\0", 4);
  const std::string pattern("^/x\0", 4);
  const double seconds = 1.5;
  std::uint64_t bits = 0;
  std::memcpy(&bits, &seconds, sizeof bits);
  std::string duration;
  for (int shift = 56; shift >= 0; shift -= 8) duration += static_cast<char>(bits >> shift & 0xff);
  const std::string spec = Spec()
                               .put(0x18)
                               .lump(pattern)
                               .put(0x12)
                               .lump("compiled")
                               .put(0x1a)
                               .name("X-Kind")
                               .lump(text)
                               .put(0x11)
                               .put(0x1c)
                               .lump(duration)
                               .put(0x14)
                               .done();
  const auto tests = read(spec);
  ASSERT_TRUE(tests);
  EXPECT_EQ(canonical_ban(*tests), "req.url ~ ^/x && obj.http.X-Kind != \"a b\" && obj.ttl > 1.5s");
  for (std::size_t size = 0; size < spec.size(); ++size)
    EXPECT_FALSE(read(spec.substr(0, size))) << size;
}

TEST(BanSpec, OfACompletedBanSaysNothing) {
  std::string spec = Spec().put(0x18).lump(std::string("/\0", 2)).put(0x10).done();
  ASSERT_TRUE(read(spec));
  spec[12] = 4;
  EXPECT_FALSE(read(spec));
}

std::string compiled(const std::string& text) { return text == "*" ? "" : "code of " + text; }

std::optional<std::string> renewed(const std::string& spec) {
  const auto made = renew_spec(std::as_bytes(std::span(spec)), compiled);
  if (!made) return std::nullopt;
  return std::string(reinterpret_cast<const char*>(made->data()), made->size());
}

TEST(BanSpec, OfAnEarlierLifeGetsItsPatternsCompiledAnew) {
  const auto spec = [](const std::string& first, const std::string& second) {
    return Spec()
        .put(0x18)
        .lump(std::string("^/x\0", 4))
        .put(0x12)
        .lump(first)
        .put(0x1a)
        .name("X-Kind")
        .lump(std::string("a b\0", 4))
        .put(0x11)
        .put(0x19)
        .name("Host")
        .lump(std::string("b\0", 2))
        .put(0x13)
        .lump(second)
        .put(0x1b)
        .lump(std::string("200\0", 4))
        .put(0x10)
        .done();
  };
  const std::string now = spec("code of ^/x", "code of b");
  EXPECT_EQ(renewed(spec("addresses of another process", "")), now);
  EXPECT_EQ(renewed(spec("", std::string(700, 'm'))), now);
  EXPECT_EQ(renewed(now), now);
  for (std::size_t size = 0; size < now.size(); ++size)
    EXPECT_FALSE(renewed(now.substr(0, size))) << size;
}

TEST(BanSpec, OfAnEarlierLifeKeepsItsTimeAndWhatHasNoPattern) {
  std::string spec = Spec().put(0x18).lump(std::string("/\0", 2)).put(0x10).done();
  for (std::size_t i = 0; i < 8; ++i) spec[i] = static_cast<char>(i + 1);
  spec[12] = 1;
  EXPECT_EQ(renewed(spec), spec);
}

TEST(BanSpec, OfAnEarlierLifeWithAPatternThatDoesNotCompileIsNone) {
  EXPECT_FALSE(renewed(Spec().put(0x18).lump(std::string("*\0", 2)).put(0x12).lump("code").done()));
}

TEST(BanSpec, OfAnEarlierLifeThatIsCompletedHasNoTests) {
  std::string spec = Spec().put(0x18).lump(std::string("/\0", 2)).put(0x10).done();
  spec[12] = 4;
  const auto made = renewed(spec);
  ASSERT_TRUE(made);
  EXPECT_EQ(made->size(), 16U);
  EXPECT_EQ(made, renewed(*made));
}

TEST(BanSpec, OfAnEarlierLifeHasDuplicatesUnlessItDependsOnItsTime) {
  const auto flags = [](unsigned field, const std::string& operand, unsigned oper, int before) {
    std::string spec = Spec().put(field).lump(operand).put(oper).done();
    spec[12] = static_cast<char>(before);
    return static_cast<int>((*renewed(spec))[12]);
  };
  EXPECT_EQ(flags(0x18, std::string("/\0", 2), 0x10, 1 | 32), 1);
  const std::string seconds(8, '\0');
  EXPECT_EQ(flags(0x1c, seconds, 0x14, 2 | 16 | 32), 2 | 16 | 32);
  EXPECT_EQ(flags(0x1d, seconds, 0x14, 2 | 16 | 32), 2 | 16 | 32);
  EXPECT_EQ(flags(0x1e, seconds, 0x14, 2 | 16 | 32), 2 | 16);
}

TEST(BanSpec, WithAnOperatorThatItsFieldDoesNotHaveIsNone) {
  EXPECT_FALSE(read(Spec().put(0x1c).lump(std::string(8, '\0')).put(0x12).lump("code").done()));
  EXPECT_FALSE(read(Spec().put(0x18).lump(std::string("/\0", 2)).put(0x14).done()));
}

TEST(BanSpec, WithoutItsTestsKeepsItsPlace) {
  std::string spec = Spec().put(0x18).lump(std::string("*\0", 2)).put(0x12).lump("code").done();
  for (std::size_t i = 0; i < 8; ++i) spec[i] = static_cast<char>(i + 1);
  spec[12] = 1;
  const auto made = completed_spec(std::as_bytes(std::span(spec)));
  ASSERT_TRUE(made);
  const std::string head(reinterpret_cast<const char*>(made->data()), made->size());
  EXPECT_EQ(head, std::string("\1\2\3\4\5\6\7\10\0\0\0\20\5\0\0\0", 16));
  EXPECT_FALSE(completed_spec({}));
}

}  // namespace
}  // namespace om::vmod
