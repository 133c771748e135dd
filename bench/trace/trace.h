// trace.h: requests as a cache sees them. A seeded generator for what a CDN's edge is like, and a
// reader for real traces.
//
// The generator: objects are asked for by a Zipf law whose ranks drift slowly (yesterday's news);
// part of the requests are one-hit wonders, keys that never come again (they come in bursts, as
// crawlers do); sizes are log-normal with a long tail of large files, fixed per key.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/eviction/policy.h"

namespace om::trace {

struct Request {
  std::uint64_t key = 0;  // a number, or the hash of a text
  std::uint64_t bytes = 0;
};

struct Shape {
  std::uint64_t seed = 1;
  std::size_t requests = 500'000;
  std::size_t objects = 60'000;
  double zipf = 0.9;
  double one_hit_share = 0.25;      // of the requests
  double drift_per_request = 0.02;  // ranks that change their object
  double size_median = 12 * 1024;
  double size_sigma = 1.6;  // of the logarithm
  std::uint64_t size_max = 64ULL << 20;
};

std::vector<Request> generate(const Shape& shape);
// "key size" lines; a third and further columns are ignored, as are empty lines and # lines.
Result<std::vector<Request>> read_trace(std::istream& in);
// Bytes of all different keys.
std::uint64_t working_set(const std::vector<Request>& trace);

struct Outcome {
  std::uint64_t requests = 0;
  std::uint64_t hits = 0;
  std::uint64_t bytes = 0;
  std::uint64_t hit_bytes = 0;
  [[nodiscard]] double byte_ratio() const;
  [[nodiscard]] double object_ratio() const;
};
Outcome run(const std::vector<Request>& trace, eviction::Policy& policy, std::uint64_t capacity);

}  // namespace om::trace
