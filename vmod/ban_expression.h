// ban_expression.h: one ban, as text and as something to test objects with.
//
// Varnish keeps a ban as bytes (its "spec") and tests objects of its own against them. For objects
// of the shared store we do the same from the text, with one difference: here an answer may be
// "cannot tell", and that counts as a match. Which it is:
//
//   req.url, req.http.X   of the request at hand; fields that Varnish leaves out of a fetch's
//   request
//                         (hop-by-hop, conditions, ranges) cannot be told, nor Accept-Encoding
//   obj.status            decided
//   obj.http.X            decided where the object has X, or where its headers are the final ones;
//                         VCL may yet add it to a shared one
//   obj.ttl and so on     cannot be told: VCL sets them
//
// No Varnish here; regular expressions come in from outside.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ban_text.h"

namespace om::vmod {

class Pattern {
 public:
  Pattern() = default;
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;
  virtual ~Pattern() = default;
  [[nodiscard]] virtual bool matches(std::string_view text) const = 0;
};
// nullptr: does not compile.
using CompilePattern = std::function<std::unique_ptr<Pattern>(const std::string&)>;

struct BanSubject {
  std::string_view url;
  std::function<std::optional<std::string_view>(std::string_view name)> request_header;
  unsigned status = 200;
  std::function<std::optional<std::string_view>(std::string_view name)> object_header;
  bool headers_are_final = false;
};

class BanExpression {
 public:
  // Fields and operators that we do not know make a ban that matches everything.
  BanExpression(std::vector<BanTest> tests, const CompilePattern& compile);
  [[nodiscard]] bool may_match(const BanSubject& subject) const;
  [[nodiscard]] bool uses_request() const { return uses_request_; }

 private:
  struct Test {
    BanTest text;
    std::string header;  // of req.http. and obj.http., lower case
    std::unique_ptr<Pattern> pattern;
  };
  static bool may_pass(const Test& test, const BanSubject& subject);
  std::vector<Test> tests_;
  bool uses_request_ = false;
};

// The tests of a spec of Varnish's ban list. nullopt: it has none (completed), or is not one.
std::optional<std::vector<BanTest>> tests_of_spec(std::span<const std::byte> spec);

// As Varnish puts a compiled pattern into a spec. Empty: does not compile.
using ExportPattern = std::function<std::string(const std::string&)>;
// A spec of an earlier life, for this process. What a pattern was compiled to has addresses of the
// process that did it, and is what its version of PCRE2 made of it: it is compiled anew. Time,
// tests and flags stay, but that it has no duplicates (NODEDUP) only where it depends on its time.
// nullopt: not a spec, or with a pattern that does not compile.
std::optional<std::vector<std::byte>> renew_spec(std::span<const std::byte> spec,
                                                 const ExportPattern& export_pattern);
// The same ban without its tests, as one that is completed: only its place in the list.
std::optional<std::vector<std::byte>> completed_spec(std::span<const std::byte> spec);

}  // namespace om::vmod
