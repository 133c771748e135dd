#include "trace/trace.h"

#include <algorithm>
#include <cmath>
#include <istream>
#include <random>
#include <sstream>
#include <unordered_map>

#include "base/checksum.h"

namespace om::trace {
namespace {

// The library's distributions differ between implementations; a seed should mean one trace.
double unit(std::mt19937_64& random) {
  return static_cast<double>(random() >> 11) * (1.0 / 9007199254740992.0);
}

std::uint64_t size_of(std::uint64_t key, const Shape& shape) {
  std::mt19937_64 random(key * 0x9e3779b97f4a7c15 + shape.seed);
  const double normal =
      std::sqrt(-2 * std::log(1 - unit(random))) * std::cos(2 * 3.14159265358979 * unit(random));
  const double bytes = shape.size_median * std::exp(shape.size_sigma * normal);
  return std::clamp<std::uint64_t>(static_cast<std::uint64_t>(bytes), 128, shape.size_max);
}

}  // namespace

std::vector<Request> generate(const Shape& shape) {
  std::mt19937_64 random(shape.seed);
  std::vector<double> cumulative(shape.objects);
  double sum = 0;
  for (std::size_t rank = 0; rank < shape.objects; ++rank) {
    sum += std::pow(static_cast<double>(rank + 1), -shape.zipf);
    cumulative[rank] = sum;
  }
  std::uint64_t next_key = 1;
  std::vector<std::uint64_t> key_of_rank(shape.objects);
  for (auto& key : key_of_rank) key = next_key++;
  std::vector<Request> trace;
  trace.reserve(shape.requests);
  // Wonders come in bursts of 200 requests in which every second is one.
  const double burst_chance = shape.one_hit_share * 2 / 200;
  int burst = 0;
  while (trace.size() < shape.requests) {
    if (burst == 0 && unit(random) < burst_chance) burst = 200;
    if (burst > 0) --burst;
    std::uint64_t key = 0;
    if (burst > 0 && unit(random) < 0.5) {
      key = next_key++;
    } else {
      const auto rank = std::lower_bound(cumulative.begin(), cumulative.end(), unit(random) * sum) -
                        cumulative.begin();
      auto& at =
          key_of_rank[std::min<std::size_t>(static_cast<std::size_t>(rank), shape.objects - 1)];
      key = at;
      if (unit(random) < shape.drift_per_request)
        key_of_rank[random() % shape.objects] = next_key++;
    }
    trace.push_back({key, size_of(key, shape)});
  }
  return trace;
}

Result<std::vector<Request>> read_trace(std::istream& in) {
  std::vector<Request> trace;
  std::string line;
  for (std::size_t number = 1; std::getline(in, line); ++number) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string key;
    std::uint64_t bytes = 0;
    if (!(words >> key >> bytes))
      return Error{Errc::kMalformed, 0, "line " + std::to_string(number) + " is not \"key size\""};
    trace.push_back({hash_key(key).low, bytes});
  }
  return trace;
}

std::uint64_t working_set(const std::vector<Request>& trace) {
  std::unordered_map<std::uint64_t, std::uint64_t> sizes;
  std::uint64_t sum = 0;
  for (const Request& request : trace) {
    if (sizes.emplace(request.key, request.bytes).second) sum += request.bytes;
  }
  return sum;
}

double Outcome::byte_ratio() const {
  return bytes == 0 ? 0 : static_cast<double>(hit_bytes) / static_cast<double>(bytes);
}
double Outcome::object_ratio() const {
  return requests == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(requests);
}

Outcome run(const std::vector<Request>& trace, eviction::Policy& policy, std::uint64_t capacity) {
  Outcome outcome;
  for (const Request& request : trace) {
    ++outcome.requests;
    outcome.bytes += request.bytes;
    if (policy.contains(request.key)) {
      ++outcome.hits;
      outcome.hit_bytes += request.bytes;
      policy.touch(request.key);
      continue;
    }
    if (request.bytes > capacity) continue;
    while (policy.bytes() + request.bytes > capacity && policy.evict()) {
    }
    policy.insert(request.key, request.bytes, request.key);
  }
  return outcome;
}

}  // namespace om::trace
