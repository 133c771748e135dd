// The daemon's and varnishd's numbers at one moment, and what two such moments say: for `objm top`.
#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "objmapper/client.h"

namespace om::cli {

struct Sample {
  std::chrono::steady_clock::time_point when;
  std::map<std::string, std::uint64_t> numbers;
  std::map<std::string, std::string> texts;
  std::vector<RegionEntry> regions;
  std::map<std::string, std::uint64_t> varnish;  // empty: no varnishstat, or no varnishd

  // The first of these names that there is.
  [[nodiscard]] std::optional<std::uint64_t> number(std::initializer_list<const char*> names) const;
};

Result<Sample> take_sample(Client& client);
// Counters of varnishd by name (MAIN.cache_hit), from `varnishstat -1`; empty when there are none.
// `instance`: varnishd's -n, or empty.
std::map<std::string, std::uint64_t> varnish_counters(const std::string& instance);
// "MAIN.cache_hit   12   0.5 text" lines.
std::map<std::string, std::uint64_t> parse_varnishstat(const std::string& text);

// What top shows. Rates are per second, over the time between two samples; with one sample they are
// over nothing and 0.
struct Overview {
  double seconds = 0;
  std::optional<double> hit_ratio;        // of the interval; nullopt: nobody asked
  std::optional<double> hit_ratio_total;  // since the daemon's start
  double requests_per_s = 0;
  double gets_per_s = 0;
  double bytes_out_per_s = 0;
  double bytes_in_per_s = 0;
  double evictions_per_s = 0;
  std::uint64_t clients = 0;
  struct Tier {
    std::string name;
    std::uint64_t used_bytes = 0;
    std::uint64_t capacity_bytes = 0;
  };
  std::vector<Tier> tiers;
  struct Rate {
    std::string name;
    std::uint64_t total = 0;
    double per_s = 0;
  };
  std::vector<Rate> counters;  // all that only grow, by name
  // varnishd, where it runs
  std::optional<double> varnish_hit_ratio;
  double varnish_requests_per_s = 0;
  std::uint64_t varnish_fallbacks = 0;  // objects that went to Varnish's own storage instead
};

Overview compare(const Sample& before, const Sample& now);

}  // namespace om::cli
