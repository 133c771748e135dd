// A line on the terminal that shows how far a long transfer is. Silent when standard error is no
// terminal, and for the first half second.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace om::cli {

class Progress {
 public:
  // `total`: nullopt when nobody knows.
  Progress(std::string what, std::optional<std::uint64_t> total);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();  // clears the line
  void at(std::uint64_t bytes);

 private:
  const std::string what_;
  const std::optional<std::uint64_t> total_;
  const bool terminal_;
  const std::chrono::steady_clock::time_point begin_;
  std::chrono::steady_clock::time_point next_;
  bool drawn_ = false;
};

}  // namespace om::cli
