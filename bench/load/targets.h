// targets.h: what is asked for, and in which order.
//
//   A line is "PATH [LENGTH [XXH3-64 in hex]]", or "KEY SIZE" as traces have it: then the path is
//   /o/SIZE/KEY. The length of a path /o/SIZE/NAME is known without being said.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace om::load {

struct Target {
  std::string path;
  std::optional<std::uint64_t> length;
  std::optional<std::uint64_t> hash;
};

std::vector<Target> read_targets(std::istream& in);

// Which target comes next: in order, uniformly, or by Zipf's law over the order of the file.
class Chooser {
 public:
  Chooser(std::size_t targets, bool in_order, double zipf, std::uint64_t seed);
  std::size_t next();
  // A random stretch of `length` bytes in a body of `total`: its first byte.
  std::uint64_t range_begin(std::uint64_t total, std::uint64_t length);

 private:
  bool in_order_;
  std::size_t targets_;
  std::size_t next_ = 0;
  std::mt19937_64 random_;
  std::vector<double> cumulative_;
};

}  // namespace om::load
