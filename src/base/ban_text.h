// The text of a ban, as it travels between caches: tests joined by &&, each a field, an operator
// and an operand, separated by blanks:
//
//   req.http.host == example.com && obj.http.x-kind ~ "^a \"quoted\" one"
//
// VCL cannot write an operand with a blank in it, Varnish's command line can. So there are two ways
// to read: plain, as VCL's ban() does, where a quotation mark is a character like any other; and
// canonical, where a word that begins with one ends at the next, with backslashes before quotation
// marks and backslashes inside. Only canonical texts travel. What fields and operators there are is
// the caches' business.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace om {

struct BanTest {
  std::string field;
  std::string oper;
  std::string operand;
  bool operator==(const BanTest&) const = default;
};

enum class BanQuotes { kPlain, kCanonical };

// kMalformed, with words for people, where it is not of that form.
Result<std::vector<BanTest>> parse_ban(std::string_view text, BanQuotes quotes);
std::string canonical_ban(const std::vector<BanTest>& tests);

}  // namespace om
