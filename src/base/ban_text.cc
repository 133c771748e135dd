#include "base/ban_text.h"

#include <optional>

namespace om {

namespace {

bool blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

// The next word of `rest`; nullopt: there is none. `closed` is false after an open quotation.
std::optional<std::string> next_word(std::string_view& rest, BanQuotes quotes, bool& closed) {
  while (!rest.empty() && blank(rest.front())) rest.remove_prefix(1);
  if (rest.empty()) return std::nullopt;
  std::string word;
  if (quotes == BanQuotes::kPlain || rest.front() != '"') {
    while (!rest.empty() && !blank(rest.front())) {
      word += rest.front();
      rest.remove_prefix(1);
    }
    return word;
  }
  rest.remove_prefix(1);
  while (!rest.empty() && rest.front() != '"') {
    if (rest.front() == '\\' && rest.size() > 1) rest.remove_prefix(1);
    word += rest.front();
    rest.remove_prefix(1);
  }
  closed = !rest.empty();
  if (closed) rest.remove_prefix(1);
  return word;
}

void append_word(std::string& text, std::string_view word) {
  if (!text.empty()) text += ' ';
  bool quote = word.empty() || word.front() == '"';
  for (const char c : word) quote = quote || blank(c);
  if (!quote) {
    text += word;
    return;
  }
  text += '"';
  for (const char c : word) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  text += '"';
}

}  // namespace

Result<std::vector<BanTest>> parse_ban(std::string_view text, BanQuotes quotes) {
  if (text.find('\0') != std::string_view::npos)
    return Error{Errc::kMalformed, 0, "a ban with a NUL byte in it"};
  std::vector<BanTest> tests;
  bool closed = true;
  while (true) {
    auto field = next_word(text, quotes, closed);
    if (!field)
      return Error{Errc::kMalformed, 0,
                   tests.empty() ? "a ban without conditions" : "a ban that ends with &&"};
    auto oper = next_word(text, quotes, closed);
    auto operand = next_word(text, quotes, closed);
    if (!oper || !operand)
      return Error{Errc::kMalformed, 0,
                   "a ban's conditions are a field, an operator and an operand: " + *field};
    if (!closed) return Error{Errc::kMalformed, 0, "a ban with an open quotation"};
    tests.push_back({*std::move(field), *std::move(oper), *std::move(operand)});
    const auto joint = next_word(text, quotes, closed);
    if (!joint) return tests;
    if (*joint != "&&")
      return Error{Errc::kMalformed, 0, "a ban's conditions are joined by &&, not by " + *joint};
  }
}

std::string canonical_ban(const std::vector<BanTest>& tests) {
  std::string text;
  for (const BanTest& test : tests) {
    if (!text.empty()) text += " &&";
    append_word(text, test.field);
    append_word(text, test.oper);
    append_word(text, test.operand);
  }
  return text;
}

}  // namespace om
