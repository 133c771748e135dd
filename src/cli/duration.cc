#include "cli/duration.h"

#include <array>
#include <charconv>
#include <cmath>
#include <ctime>

namespace om::cli {

Result<std::chrono::nanoseconds> parse_duration(std::string_view text) {
  const Error no{
      Errc::kMalformed, 0,
      "\"" + std::string(text) + "\" is no duration: write 90s, 15m, 2h, 7d or the like"};
  double number = 0;
  const auto [end, problem] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (problem != std::errc{} || !std::isfinite(number) || number <= 0) return no;
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  double seconds = 0;
  if (unit.empty() || unit == "s")
    seconds = 1;
  else if (unit == "ms")
    seconds = .001;
  else if (unit == "m")
    seconds = 60;
  else if (unit == "h")
    seconds = 3600;
  else if (unit == "d")
    seconds = 86400;
  else if (unit == "w")
    seconds = 7.0 * 86400;
  else
    return no;
  seconds *= number;
  if (seconds > 100.0 * 366 * 86400) return no;
  const auto ns = static_cast<std::int64_t>(seconds * 1e9);
  if (ns <= 0) return no;
  return std::chrono::nanoseconds(ns);
}

std::string format_duration(std::chrono::nanoseconds duration) {
  const std::int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(duration).count();
  if (seconds >= 86400) return std::to_string(seconds / 86400) + "d";
  if (seconds >= 3600) return std::to_string(seconds / 3600) + "h";
  if (seconds >= 60) return std::to_string(seconds / 60) + "m";
  return std::to_string(seconds) + "s";
}

std::string format_time(std::uint64_t ns) {
  if (ns == 0) return "never";
  const auto seconds = static_cast<std::time_t>(ns / 1'000'000'000);
  std::tm parts{};
  if (::gmtime_r(&seconds, &parts) == nullptr) return "?";
  std::array<char, 64> text{};
  const std::size_t length = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text.data(), length};
}

}  // namespace om::cli
