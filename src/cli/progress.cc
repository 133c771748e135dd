#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "base/units.h"

namespace om::cli {

namespace {

constexpr std::chrono::milliseconds kQuietAtFirst{500};
constexpr std::chrono::milliseconds kBetween{100};

std::size_t terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

Progress::Progress(std::string what, std::optional<std::uint64_t> total)
    : what_(std::move(what)),
      total_(total),
      terminal_(::isatty(STDERR_FILENO) == 1),
      begin_(std::chrono::steady_clock::now()),
      next_(begin_ + kQuietAtFirst) {}

Progress::~Progress() {
  if (drawn_) (void)std::fputs("\r\x1b[K", stderr);
}

void Progress::at(std::uint64_t bytes) {
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return;
  next_ = now + kBetween;
  drawn_ = true;
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  const auto rate = static_cast<std::uint64_t>(static_cast<double>(bytes) / seconds);
  std::string line = format_size(bytes);
  if (total_) line += " of " + format_size(*total_);
  line += "  " + format_size(rate) + "/s";
  const std::size_t columns = terminal_columns();
  if (total_ && *total_ > 0 && columns > line.size() + 20) {
    const double share = std::min(1.0, static_cast<double>(bytes) / static_cast<double>(*total_));
    const std::size_t width = std::min<std::size_t>(40, columns - line.size() - 12);
    const auto filled = static_cast<std::size_t>(share * static_cast<double>(width));
    std::array<char, 16> percent{};
    (void)std::snprintf(percent.data(), percent.size(), "%3.0f%%", share * 100);
    line = "[" + std::string(filled, '=') + std::string(width - filled, ' ') + "] " +
           percent.data() + "  " + line;
  }
  if (what_.size() + line.size() + 3 < columns) line = what_ + "  " + line;
  if (line.size() >= columns) line.resize(columns - 1);
  (void)std::fprintf(stderr, "\r%s\x1b[K", line.c_str());
}

}  // namespace om::cli
