#include "cli/text.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/result.h"
#include "cli/context.h"

namespace om::cli {

namespace {

// Length of the UTF-8 sequence at the front of `text`, 0 when it is none.
std::size_t sequence(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  std::size_t length = 0;
  if (first >= 0xc2 && first <= 0xdf)
    length = 2;
  else if (first >= 0xe0 && first <= 0xef)
    length = 3;
  else if (first >= 0xf0 && first <= 0xf4)
    length = 4;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  const unsigned char second = byte(1);
  if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
      (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90))
    return 0;
  // C1 controls steer terminals as well.
  return first == 0xc2 && second < 0xa0 ? 0 : length;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto first = static_cast<unsigned char>(text[0]);
    std::size_t take = first >= 0x20 && first < 0x7f ? 1 : first < 0x80 ? 0 : sequence(text);
    if (take == 0) {
      std::array<char, 8> escaped{};
      (void)std::snprintf(escaped.data(), escaped.size(), "\\x%02x", first);
      out += escaped.data();
      take = 1;
    } else {
      out.append(text.substr(0, take));
    }
    text.remove_prefix(take);
  }
  return out;
}

void print_json_line(const nlohmann::json& value) {
  const std::string text =
      value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  (void)std::fwrite(text.data(), 1, text.size(), stdout);
}

int finish_output() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return kDone;
  return fail(system_error("write to standard output"));
}

}  // namespace om::cli
