#include "load/totals.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>

namespace om::load {

namespace {

double percentile(const std::vector<float>& sorted, double p) {
  if (sorted.empty()) return 0;
  return static_cast<double>(
      sorted[static_cast<std::size_t>(p * static_cast<double>(sorted.size() - 1))]);
}

double seconds(const timeval& t) {
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
}

}  // namespace

Slice& Totals::slice(Clock::time_point now) {
  if (slice_seconds <= 0) return slices[0];
  const double at = std::chrono::duration<double>(now - begin).count();
  return slices[static_cast<std::int64_t>(std::floor(at / slice_seconds))];
}

void Totals::error(const std::string& what, Clock::time_point now) {
  ++errors[what];
  ++slice(now).errors;
}

nlohmann::json distribution(std::vector<float>& samples) {
  std::sort(samples.begin(), samples.end());
  return {{"p50", percentile(samples, .5)},
          {"p90", percentile(samples, .9)},
          {"p99", percentile(samples, .99)},
          {"p999", percentile(samples, .999)},
          {"max", percentile(samples, 1)}};
}

nlohmann::json to_json(Totals& totals, double elapsed) {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  nlohmann::json status = nlohmann::json::object();
  for (const auto& [code, n] : totals.status) status[std::to_string(code)] = n;
  nlohmann::json result = {{"requests", totals.requests},
                           {"body_bytes", totals.body_bytes},
                           {"hits", totals.hits},
                           {"hit_bytes", totals.hit_bytes},
                           {"compared", totals.compared},
                           {"seconds", elapsed},
                           {"cpu_seconds", seconds(usage.ru_utime) + seconds(usage.ru_stime)},
                           {"status", status},
                           {"errors", totals.errors},
                           {"latency_us", distribution(totals.latency_us)},
                           {"first_byte_us", distribution(totals.first_byte_us)},
                           {"late_us", distribution(totals.late_us)}};
  if (totals.slice_seconds > 0) {
    nlohmann::json slices = nlohmann::json::array();
    for (const auto& [number, slice] : totals.slices)
      slices.push_back({{"at", static_cast<double>(number) * totals.slice_seconds},
                        {"requests", slice.requests},
                        {"hits", slice.hits},
                        {"errors", slice.errors}});
    result["slices"] = slices;
  }
  return result;
}

}  // namespace om::load
