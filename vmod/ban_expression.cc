#include "ban_expression.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstring>

namespace om::vmod {

namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Request headers that are not in a fetch's request as they were in the client's.
constexpr std::array<std::string_view, 22> kNotInFetches = {"accept-encoding",
                                                            "accept-ranges",
                                                            "cache-control",
                                                            "connection",
                                                            "content-range",
                                                            "http2-settings",
                                                            "if-match",
                                                            "if-modified-since",
                                                            "if-none-match",
                                                            "if-range",
                                                            "if-unmodified-since",
                                                            "keep-alive",
                                                            "proxy-authenticate",
                                                            "proxy-authorization",
                                                            "range",
                                                            "te",
                                                            "trailer",
                                                            "transfer-encoding",
                                                            "upgrade",
                                                            "x-varnish",
                                                            "proxy-connection",
                                                            "content-length"};

// What Varnish's spec has: docs of the layout are beside the constants of abi/varnish_7_1_1.h.
constexpr std::size_t kHeadBytes = 16;
constexpr std::size_t kLengthAt = 8;
constexpr std::size_t kFlagsAt = 12;
constexpr unsigned kCompleted = 4;
constexpr unsigned kNoDuplicates = 32;
constexpr std::array<const char*, 8> kOperators = {"==", "!=", "~", "!~", ">", ">=", "<", "<="};
constexpr unsigned kFirstOperator = 0x10;
constexpr std::array<const char*, 8> kFields = {"req.url", "req.http.", "obj.http.", "obj.status",
                                                "obj.ttl", "obj.age",   "obj.grace", "obj.keep"};
constexpr unsigned kFirstField = 0x18;

// Reads the bytes of a spec in order; after the first thing that does not fit nothing does.
class SpecReader {
 public:
  explicit SpecReader(std::span<const std::byte> spec) : spec_(spec) {}
  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] bool at_end() const { return at_ >= spec_.size(); }
  unsigned byte() {
    if (!ok_ || at_ >= spec_.size()) {
      ok_ = false;
      return 0;
    }
    return std::to_integer<unsigned>(spec_[at_++]);
  }
  std::string_view bytes(std::size_t count) {
    if (!ok_ || count > spec_.size() - at_) {
      ok_ = false;
      return {};
    }
    const auto* text = reinterpret_cast<const char*>(spec_.data() + at_);
    at_ += count;
    return {text, count};
  }
  // A lump: filler of 0xff up to a multiple of eight, a length in eight bytes, its bytes.
  std::string_view lump() {
    while (ok_ && at_ < spec_.size() && at_ % 8 != 0) {
      if (byte() != 0xff) ok_ = false;
    }
    const std::string_view head = bytes(8);
    if (!ok_) return {};
    std::uint32_t length = 0;
    for (std::size_t i = 0; i < 4; ++i) length = length << 8 | static_cast<unsigned char>(head[i]);
    return bytes(length);
  }

 private:
  std::span<const std::byte> spec_;
  std::size_t at_ = kHeadBytes;
  bool ok_ = true;
};

// Writes the bytes that SpecReader reads.
class SpecWriter {
 public:
  explicit SpecWriter(std::span<const std::byte> head) : spec_(head.begin(), head.end()) {}
  void flags(unsigned flags) { spec_[kFlagsAt] = static_cast<std::byte>(flags); }
  void byte(unsigned value) { spec_.push_back(static_cast<std::byte>(value)); }
  void bytes(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    spec_.insert(spec_.end(), bytes.begin(), bytes.end());
  }
  void lump(std::string_view text) {
    while (spec_.size() % 8 != 0) byte(0xff);
    for (int shift = 24; shift >= 0; shift -= 8)
      byte(static_cast<unsigned>(text.size() >> shift) & 0xff);
    for (int i = 0; i < 4; ++i) byte(0);
    bytes(text);
  }
  std::vector<std::byte> done() && {
    for (std::size_t i = 0; i < 4; ++i)
      spec_[kLengthAt + i] = static_cast<std::byte>(spec_.size() >> (24 - 8 * i));
    return std::move(spec_);
  }

 private:
  std::vector<std::byte> spec_;
};

std::string duration_text(std::string_view lump) {
  std::uint64_t bits = 0;
  for (const char c : lump) bits = bits << 8 | static_cast<unsigned char>(c);
  double seconds = 0;
  static_assert(sizeof seconds == sizeof bits);
  std::memcpy(&seconds, &bits, sizeof seconds);
  std::array<char, 512> text{};
  const auto end =
      std::to_chars(text.data(), text.data() + text.size(), seconds, std::chars_format::fixed);
  return std::string(text.data(), end.ptr) + "s";
}

}  // namespace

BanExpression::BanExpression(std::vector<BanTest> tests, const CompilePattern& compile) {
  for (BanTest& one : tests) {
    Test test;
    test.text = std::move(one);
    const std::string& field = test.text.field;
    for (const std::string_view prefix : {"req.http.", "obj.http."})
      if (field.starts_with(prefix)) test.header = field.substr(prefix.size());
    std::transform(test.header.begin(), test.header.end(), test.header.begin(), lower);
    if (test.text.oper == "~" || test.text.oper == "!~") test.pattern = compile(test.text.operand);
    uses_request_ = uses_request_ || field.starts_with("req.");
    tests_.push_back(std::move(test));
  }
}

bool BanExpression::may_pass(const Test& test, const BanSubject& subject) {
  std::optional<std::string_view> value;
  std::array<char, 16> digits{};
  const std::string_view field = test.text.field;
  if (field.starts_with("req.url")) {
    value = subject.url;
  } else if (field.starts_with("req.http.")) {
    if (std::ranges::find(kNotInFetches, test.header) != kNotInFetches.end()) return true;
    value = subject.request_header(test.header);
  } else if (field.starts_with("obj.http.")) {
    value = subject.object_header(test.header);
    if (!value && !subject.headers_are_final) return true;
  } else if (field.starts_with("obj.status")) {
    const auto end =
        std::to_chars(digits.data(), digits.data() + digits.size(), subject.status).ptr;
    value = std::string_view(digits.data(), static_cast<std::size_t>(end - digits.data()));
  } else {
    return true;
  }
  const std::string& oper = test.text.oper;
  // As Varnish has it: what is not there equals nothing, differs from everything, and neither
  // matches nor fails to match a pattern.
  if (oper == "==") return value == test.text.operand;
  if (oper == "!=") return value != test.text.operand;
  if (oper != "~" && oper != "!~") return true;
  if (!value) return false;
  if (test.pattern == nullptr) return true;
  return test.pattern->matches(*value) == (oper == "~");
}

bool BanExpression::may_match(const BanSubject& subject) const {
  return std::ranges::all_of(tests_, [&](const Test& test) { return may_pass(test, subject); });
}

std::optional<std::vector<BanTest>> tests_of_spec(std::span<const std::byte> spec) {
  if (spec.size() <= kHeadBytes) return std::nullopt;
  std::uint32_t length = 0;
  for (std::size_t i = 0; i < 4; ++i)
    length = length << 8 | std::to_integer<std::uint32_t>(spec[kLengthAt + i]);
  if (length != spec.size() || (std::to_integer<unsigned>(spec[kFlagsAt]) & kCompleted) != 0)
    return std::nullopt;
  SpecReader reader(spec);
  std::vector<BanTest> tests;
  while (!reader.at_end()) {
    const unsigned field = reader.byte() - kFirstField;
    if (field >= kFields.size()) return std::nullopt;
    BanTest test;
    test.field = kFields[field];
    if (test.field.ends_with('.')) {
      // Length of the name with its colon; the name, the colon, a NUL.
      const unsigned name_bytes = reader.byte();
      const std::string_view name = reader.bytes(name_bytes + 1);
      if (!reader.ok() || name_bytes == 0) return std::nullopt;
      test.field += name.substr(0, name_bytes - 1);
    }
    const bool duration = field >= 4;
    const std::string_view operand = reader.lump();
    if (!reader.ok() || operand.empty() || (duration && operand.size() != 8)) return std::nullopt;
    test.operand =
        duration ? duration_text(operand) : std::string(operand.substr(0, operand.size() - 1));
    const unsigned oper = reader.byte() - kFirstOperator;
    // Varnish makes no others.
    const bool is_order = oper >= 4;
    const bool is_pattern = oper == 2 || oper == 3;
    if (!reader.ok() || oper >= kOperators.size() || (duration ? is_pattern : is_order))
      return std::nullopt;
    test.oper = kOperators[oper];
    if (is_pattern) (void)reader.lump();  // the compiled one
    if (!reader.ok()) return std::nullopt;
    tests.push_back(std::move(test));
  }
  return tests;
}

std::optional<std::vector<std::byte>> completed_spec(std::span<const std::byte> spec) {
  if (spec.size() < kHeadBytes) return std::nullopt;
  SpecWriter writer(spec.first(kHeadBytes));
  writer.flags(std::to_integer<unsigned>(spec[kFlagsAt]) | kCompleted);
  return std::move(writer).done();
}

std::optional<std::vector<std::byte>> renew_spec(std::span<const std::byte> spec,
                                                 const ExportPattern& export_pattern) {
  if (spec.size() < kHeadBytes) return std::nullopt;
  const auto flags = std::to_integer<unsigned>(spec[kFlagsAt]);
  if ((flags & kCompleted) != 0) return completed_spec(spec);
  const auto tests = tests_of_spec(spec);
  if (!tests) return std::nullopt;
  SpecWriter writer(spec.first(kHeadBytes));
  const auto depends_on_time = [](const BanTest& test) {
    return test.field == "obj.ttl" || test.field == "obj.age";
  };
  if (std::ranges::none_of(*tests, depends_on_time)) writer.flags(flags & ~kNoDuplicates);
  SpecReader reader(spec);
  for (const BanTest& test : *tests) {
    writer.byte(reader.byte());
    if (test.field.find(".http.") != std::string::npos) {
      const unsigned name_bytes = reader.byte();
      writer.byte(name_bytes);
      writer.bytes(reader.bytes(name_bytes + 1));
    }
    writer.lump(reader.lump());
    writer.byte(reader.byte());
    if (test.oper != "~" && test.oper != "!~") continue;
    (void)reader.lump();
    const std::string pattern = export_pattern(test.operand);
    if (pattern.empty()) return std::nullopt;
    writer.lump(pattern);
  }
  return std::move(writer).done();
}

}  // namespace om::vmod
