#include "load/targets.h"

#include <algorithm>
#include <cmath>
#include <istream>
#include <sstream>

#include "load/content.h"

namespace om::load {

std::vector<Target> read_targets(std::istream& in) {
  std::vector<Target> targets;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    Target target;
    std::uint64_t length = 0;
    std::string hash;
    if (!(fields >> target.path) || target.path[0] == '#') continue;
    if (fields >> length) target.length = length;
    if (target.path[0] != '/' && target.length)
      target.path = "/o/" + std::to_string(length) + "/" + target.path;
    else if (fields >> hash)
      target.hash = std::stoull(hash, nullptr, 16);
    if (!target.length) target.length = body_length(target.path);
    targets.push_back(std::move(target));
  }
  return targets;
}

Chooser::Chooser(std::size_t targets, bool in_order, double zipf, std::uint64_t seed)
    : in_order_(in_order), targets_(targets), random_(seed) {
  if (zipf <= 0 || in_order) return;
  double sum = 0;
  for (std::size_t i = 0; i < targets; ++i) {
    sum += 1 / std::pow(static_cast<double>(i + 1), zipf);
    cumulative_.push_back(sum);
  }
}

std::size_t Chooser::next() {
  if (in_order_) return next_++ % targets_;
  if (cumulative_.empty())
    return std::uniform_int_distribution<std::size_t>(0, targets_ - 1)(random_);
  const double x = std::uniform_real_distribution<double>(0, cumulative_.back())(random_);
  const auto at = std::lower_bound(cumulative_.begin(), cumulative_.end(), x);
  return std::min<std::size_t>(static_cast<std::size_t>(at - cumulative_.begin()), targets_ - 1);
}

std::uint64_t Chooser::range_begin(std::uint64_t total, std::uint64_t length) {
  if (length >= total) return 0;
  return std::uniform_int_distribution<std::uint64_t>(0, total - length)(random_);
}

}  // namespace om::load
