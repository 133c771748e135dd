#include "base/units.h"

#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>

namespace om {

namespace {

constexpr std::string_view kLetters = "KMGTP";

Error bad_size(std::string_view text) {
  return {Errc::kMalformed, 0,
          "\"" + std::string(text) +
              "\" is not a size: write a number with K, M, G or T behind it, such as 512M"};
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  double number = 0;
  if (text.empty() || std::isdigit(static_cast<unsigned char>(text.front())) == 0)
    return bad_size(text);
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{}) return bad_size(text);
  std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  std::uint64_t factor = 1;
  if (!suffix.empty() && std::toupper(static_cast<unsigned char>(suffix.front())) != 'B') {
    const auto power =
        kLetters.find(static_cast<char>(std::toupper(static_cast<unsigned char>(suffix.front()))));
    if (power == std::string_view::npos) return bad_size(text);
    factor = std::uint64_t{1} << (10 * (power + 1));
    suffix.remove_prefix(1);
    if (suffix.starts_with("i")) suffix.remove_prefix(1);
  }
  if (suffix == "B" || suffix == "b") suffix.remove_prefix(1);
  if (!suffix.empty()) return bad_size(text);
  const double bytes = number * static_cast<double>(factor);
  if (!(bytes < 9.2e18)) return bad_size(text);
  std::uint64_t whole = 0;
  // Whole numbers do not pass through a double: 2^53 + 1 stays what it is.
  const auto [stop, whole_error] = std::from_chars(text.data(), text.data() + text.size(), whole);
  if (whole_error == std::errc{} && stop == end) return whole * factor;
  return static_cast<std::uint64_t>(std::llround(bytes));
}

std::string format_size(std::uint64_t bytes) {
  std::size_t power = 0;
  double value = static_cast<double>(bytes);
  while (value >= 1024 && power < kLetters.size()) {
    value /= 1024;
    ++power;
  }
  if (power == 0) return std::to_string(bytes);
  std::array<char, 32> text{};
  const bool whole = value == std::floor(value);
  const int n = std::snprintf(text.data(), text.size(), whole || value >= 100 ? "%.0f%c" : "%.1f%c",
                              value, kLetters[power - 1]);
  return {text.data(), static_cast<std::size_t>(n)};
}

}  // namespace om
