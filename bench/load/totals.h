// totals.h: what a run has seen, and the JSON that it becomes.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "load/pace.h"

namespace om::load {

// A tenth of a second or so of the run, by when answers were complete.
struct Slice {
  std::uint64_t requests = 0;
  std::uint64_t hits = 0;
  std::uint64_t errors = 0;
};

struct Totals {
  std::uint64_t requests = 0;
  std::uint64_t body_bytes = 0;
  std::uint64_t hits = 0;  // X-Cache: hit, or an X-Varnish with two numbers
  std::uint64_t hit_bytes = 0;
  std::uint64_t compared = 0;
  std::map<int, std::uint64_t> status;
  std::map<std::string, std::uint64_t> errors;
  std::vector<float> latency_us;
  std::vector<float> first_byte_us;
  std::vector<float>
      late_us;  // how much later than due it was sent: our own, or no connection free
  std::map<std::int64_t, Slice> slices;
  Clock::time_point begin;
  double slice_seconds = 0;  // 0: none

  Slice& slice(Clock::time_point now);
  void error(const std::string& what, Clock::time_point now);
};

// Sorts the samples.
nlohmann::json distribution(std::vector<float>& samples);
nlohmann::json to_json(Totals& totals, double elapsed);

}  // namespace om::load
