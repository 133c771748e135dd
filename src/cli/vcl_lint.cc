#include "cli/vcl_lint.h"

#include <cctype>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

namespace om::cli {

namespace {

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '-';
}

class Lexer {
 public:
  explicit Lexer(std::string_view text) : rest_(text) {}
  std::vector<Token> run() {
    while (!rest_.empty()) step();
    return std::move(tokens_);
  }

 private:
  void step() {
    if (std::isspace(static_cast<unsigned char>(rest_[0])) != 0) return skip(1);
    if (rest_[0] == '#' || rest_.starts_with("//")) return skip(rest_.find('\n'));
    if (rest_.starts_with("/*")) return skip_past(2, "*/");
    if (rest_.starts_with("C{")) return skip_past(2, "}C");
    if (rest_.starts_with("\"\"\"")) return string(3, "\"\"\"");
    if (rest_.starts_with("{\"")) return string(2, "\"}");
    if (rest_[0] == '"') return string(1, "\"");
    std::size_t length = 0;
    while (length < rest_.size() && is_word(rest_[length])) ++length;
    if (length > 0)
      tokens_.push_back({Token::Kind::kWord, std::string(rest_.substr(0, length)), line_});
    else
      tokens_.push_back({Token::Kind::kSign, std::string(rest_.substr(0, 1)), line_});
    skip(length > 0 ? length : 1);
  }
  void skip(std::size_t bytes) {
    bytes = std::min(bytes, rest_.size());
    for (const char c : rest_.substr(0, bytes)) line_ += c == '\n' ? 1 : 0;
    rest_.remove_prefix(bytes);
  }
  void skip_past(std::size_t opening, std::string_view closing) {
    const std::size_t end = rest_.find(closing, opening);
    skip(end == std::string_view::npos ? rest_.size() : end + closing.size());
  }
  void string(std::size_t opening, std::string_view closing) {
    const std::size_t end = std::min(rest_.find(closing, opening), rest_.size());
    tokens_.push_back(
        {Token::Kind::kString, std::string(rest_.substr(opening, end - opening)), line_});
    skip(end + closing.size());
  }

  std::string_view rest_;
  int line_ = 1;
  std::vector<Token> tokens_;
};

// What a configuration does, all files together.
struct Facts {
  std::vector<std::pair<std::string, int>> purges;  // return (purge): file and line
  std::optional<std::pair<std::string, int>> import;
  bool includes_ours = false;
  bool records_purges = false;  // objmapper.purge() in vcl_purge
};

bool is(const std::vector<Token>& tokens, std::size_t at, std::string_view text) {
  return at < tokens.size() && tokens[at].kind != Token::Kind::kString && tokens[at].text == text;
}

std::optional<std::string> find_include(const std::string& name, const std::string& from,
                                        const std::vector<std::string>& vcl_path) {
  namespace fs = std::filesystem;
  std::vector<fs::path> places;
  if (fs::path(name).is_absolute()) {
    places.emplace_back(name);
  } else {
    places.push_back(fs::path(from).parent_path() / name);
    for (const std::string& directory : vcl_path) places.push_back(fs::path(directory) / name);
  }
  std::error_code ignored;
  for (const fs::path& place : places)
    if (fs::is_regular_file(place, ignored)) return place.string();
  return std::nullopt;
}

bool read(const std::string& file, std::string& text) {
  const std::ifstream in(file, std::ios::binary);
  if (!in) return false;
  std::ostringstream all;
  all << in.rdbuf();
  text = all.str();
  return true;
}

void gather(const std::string& file, const std::vector<std::string>& vcl_path,
            std::set<std::string>& seen, Facts& facts) {
  std::error_code ignored;
  if (!seen.insert(std::filesystem::weakly_canonical(file, ignored).string()).second) return;
  std::string text;
  if (!read(file, text)) return;
  const std::vector<Token> tokens = tokenize_vcl(text);
  std::string sub;
  int depth = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (is(tokens, i, "sub") && depth == 0 && i + 1 < tokens.size()) sub = tokens[i + 1].text;
    if (is(tokens, i, "{")) ++depth;
    if (is(tokens, i, "}")) --depth;
    if (is(tokens, i, "return") && is(tokens, i + 1, "(") && is(tokens, i + 2, "purge"))
      facts.purges.emplace_back(file, tokens[i].line);
    if (is(tokens, i, "import") && is(tokens, i + 1, "objmapper") && !facts.import)
      facts.import = {file, tokens[i].line};
    if (is(tokens, i, "objmapper.purge") && is(tokens, i + 1, "(") && sub == "vcl_purge")
      facts.records_purges = true;
    if (is(tokens, i, "include") && i + 1 < tokens.size()) {
      // include +glob "...": rare, and never how ours is included.
      const std::string& name = tokens[i + 1].text;
      if (std::filesystem::path(name).filename() == "objmapper.vcl") facts.includes_ours = true;
      if (const auto found = find_include(name, file, vcl_path))
        gather(*found, vcl_path, seen, facts);
    }
  }
}

}  // namespace

std::vector<Token> tokenize_vcl(std::string_view text) { return Lexer(text).run(); }

std::vector<VclFinding> lint_vcl(const std::string& file,
                                 const std::vector<std::string>& vcl_path) {
  std::string text;
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored) || !read(file, text))
    return {{file, 0, "cannot be read"}};
  Facts facts;
  std::set<std::string> seen;
  gather(file, vcl_path, seen, facts);
  std::vector<VclFinding> findings;
  if (facts.includes_ours || facts.records_purges) return findings;
  if (facts.import)
    findings.push_back({facts.import->first, facts.import->second,
                        "imports objmapper, but does not include \"objmapper.vcl\": write the "
                        "include before your own subs, so that purges are recorded"});
  for (const auto& [where, line] : facts.purges)
    findings.push_back({where, line,
                        "return (purge) without objmapper.purge() in vcl_purge: after a crash the "
                        "object may be back; include \"objmapper.vcl\", or call it yourself"});
  return findings;
}

}  // namespace om::cli
