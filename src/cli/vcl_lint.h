// What `objm check` looks for in VCL: removals that are answered before they are recorded.
//
// Varnish gives no synchronous hook for `return (purge)`, so objmapper.vcl brings a vcl_purge that
// calls objmapper.purge(). VCL that purges without either loses purges in a crash right after them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace om::cli {

struct Token {
  enum class Kind { kWord, kString, kSign };
  Kind kind = Kind::kSign;
  std::string text;
  int line = 0;
};
// VCL without comments and inline C. Words keep their dots (objmapper.purge).
std::vector<Token> tokenize_vcl(std::string_view text);

struct VclFinding {
  std::string file;
  int line = 0;
  std::string what;
};
// Looks at the file and at those it includes, as far as they can be found beside it or in
// `vcl_path`. An unreadable `file` is a finding; an include that cannot be found is passed over
// (varnishd complains about it).
std::vector<VclFinding> lint_vcl(const std::string& file, const std::vector<std::string>& vcl_path);

}  // namespace om::cli
