#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>
#include <unordered_set>

#include "adopt.h"
#include "base/prefetch.h"
#include "radix_sort.h"
#include "region/record.h"

namespace om::vmod::adoption {

namespace {

constexpr std::size_t kAhead = 8;           // records that are on their way into the cache
constexpr std::uint32_t kAttributeLen = 1;  // bit of OA_LEN in oa_present
constexpr std::uint32_t kAttributeHeaders = 1U << 6;

std::uint64_t big_endian(const std::array<std::uint8_t, 8>& bytes) {
  std::uint64_t value = 0;
  for (const std::uint8_t byte : bytes) value = value << 8 | byte;
  return value;
}

bool usable(const region::Record& record) {
  const region::Timers t = timers(record);
  if (!std::isfinite(t.t_origin) || !std::isfinite(t.ttl) || !std::isfinite(t.grace) ||
      !std::isfinite(t.keep) || !std::isfinite(region::load_double(record.ban_time)))
    return false;
  constexpr std::uint32_t kNeeded = kAttributeLen | kAttributeHeaders;
  if ((record.oa_present & kNeeded) != kNeeded) return false;
  if (variable(record, region::Variable::kHeaders).empty()) return false;
  return big_endian(record.fixed.len) == record.body_length;
}

// What the decision takes of a candidate, so that its record is read once.
struct Ranked {
  region::ScanReport::Candidate candidate;
  double t_origin;
  double last_used;
  Reason if_newest;  // why it goes nevertheless
  bool stays;
  bool lent;
};

// In the order of Varnish's tree, which begins at the top bit of the first byte.
std::uint64_t start_of_digest(const region::Record& record) {
  std::array<std::uint8_t, 8> bytes{};
  std::copy_n(record.digest.begin(), bytes.size(), bytes.begin());
  return big_endian(bytes);
}

// Keeps the order of all numbers; what is no number comes first or last.
std::uint64_t ordered_bits(double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  constexpr std::uint64_t kSign = std::uint64_t{1} << 63;
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

int compare_variant(const region::Record& a, const region::Record& b) {
  if (const int by = std::memcmp(a.digest.data(), b.digest.data(), a.digest.size()); by != 0)
    return by;
  const auto va = variable(a, region::Variable::kVary);
  const auto vb = variable(b, region::Variable::kVary);
  if (va.size() != vb.size()) return va.size() < vb.size() ? -1 : 1;
  return va.empty() ? 0 : std::memcmp(va.data(), vb.data(), va.size());
}

}  // namespace

Plan plan(const region::ScanReport& scan, double now, double oldest_ban, double lost_until) {
  Plan plan;
  const auto drop = [&plan](Reason reason) { ++plan.dropped[static_cast<std::size_t>(reason)]; };
  std::vector<Ranked> all;
  std::vector<SortKey> by_digest;
  all.reserve(scan.candidates.size());
  by_digest.reserve(scan.candidates.size());
  for (std::size_t i = 0; i < scan.candidates.size(); ++i) {
    if (i + kAhead < scan.candidates.size())
      prefetch(scan.candidates[i + kAhead].record, sizeof(region::Record));
    const auto& candidate = scan.candidates[i];
    const region::Record& record = *candidate.record;
    if (!usable(record)) {
      drop(Reason::kUnusable);
      continue;
    }
    const region::Timers t = timers(record);
    const double tested = region::load_double(record.ban_time);
    const bool expired = t.t_origin + t.ttl + t.grace + t.keep <= now;
    by_digest.push_back({start_of_digest(record), all.size()});
    all.push_back({candidate, t.t_origin, region::load_double(record.last_used),
                   expired ? Reason::kExpired : Reason::kBanLost,
                   !expired && tested >= lost_until && tested >= oldest_ban,
                   (record.flags & region::kBodyLent) != 0});
  }
  radix_sort(by_digest);

  // The newest of each variant first. One that is no good any more still proves the older ones
  // replaced.
  const auto newest_first = [&all](const SortKey& x, const SortKey& y) {
    const Ranked& a = all[x.place];
    const Ranked& b = all[y.place];
    if (const int by = compare_variant(*a.candidate.record, *b.candidate.record); by != 0)
      return by < 0;
    if (a.t_origin != b.t_origin) return a.t_origin > b.t_origin;
    return a.candidate.record->vxid > b.candidate.record->vxid;
  };
  std::vector<SortKey> by_use;
  by_use.reserve(all.size());
  plan.keep.reserve(all.size());
  for (std::size_t begin = 0, end = 0; begin < by_digest.size(); begin = end) {
    if (begin + kAhead < by_digest.size())
      prefetch(&all[by_digest[begin + kAhead].place], sizeof(Ranked));
    end = begin + 1;
    while (end < by_digest.size() && by_digest[end].key == by_digest[begin].key) ++end;
    const auto same = std::span(by_digest).subspan(begin, end - begin);
    if (same.size() > 1) std::ranges::sort(same, newest_first);
    const Ranked* newest = nullptr;
    for (const SortKey& item : same) {
      const Ranked& one = all[item.place];
      const bool older = newest != nullptr &&
                         compare_variant(*newest->candidate.record, *one.candidate.record) == 0;
      newest = older ? newest : &one;
      if (older || !one.stays) {
        drop(older ? Reason::kReplaced : one.if_newest);
        continue;
      }
      by_use.push_back({ordered_bits(one.last_used), plan.keep.size()});
      if (one.lent) plan.lent.push_back(plan.keep.size());
      plan.keep.push_back(one.candidate);
    }
  }
  radix_sort(by_use);
  plan.by_use.reserve(by_use.size());
  for (const SortKey& item : by_use) plan.by_use.push_back(item.place);
  return plan;
}

void fit_to_disk(Plan& plan, std::uint64_t disk_bytes) {
  // From the most recently used on; a file that several name counts once.
  std::unordered_set<std::uint64_t> kept;
  std::uint64_t used = 0;
  std::vector<bool> stays(plan.keep.size(), true);
  for (std::size_t at = plan.by_use.size(); at-- > 0;) {
    const std::size_t i = plan.by_use[at];
    if (const auto file = file_of(*plan.keep[i].record); file && !kept.contains(file->number)) {
      const std::uint64_t bytes = region::BodyFiles::blocks(file->length);
      if (used > disk_bytes || bytes > disk_bytes - used) {
        ++plan.dropped[static_cast<std::size_t>(Reason::kNoDisk)];
        stays[i] = false;
        continue;
      }
      used += bytes;
      kept.insert(file->number);
    }
  }
  keep_only(plan, stays);
}

void keep_only(Plan& plan, const std::vector<bool>& stays) {
  std::vector<std::size_t> place(plan.keep.size());  // of those that stay, from now on
  std::size_t count = 0;
  for (std::size_t i = 0; i < plan.keep.size(); ++i) {
    place[i] = count;
    if (stays[i]) plan.keep[count++] = plan.keep[i];
  }
  plan.keep.resize(count);
  for (std::vector<std::size_t>* list : {&plan.by_use, &plan.lent}) {
    std::erase_if(*list, [&](std::size_t i) { return !stays[i]; });
    for (std::size_t& i : *list) i = place[i];
  }
}

std::string describe_reasons(const std::array<std::uint64_t, kReasons>& dropped) {
  static constexpr std::array<const char*, kReasons> kNames = {"expired",
                                                               "unusable",
                                                               "that a lost ban may have matched",
                                                               "replaced",
                                                               "past the time limit",
                                                               "purged",
                                                               "of a damaged body",
                                                               "for a disk that is smaller now",
                                                               "whose shared object is gone",
                                                               "whose body was not lent in time"};
  std::string text;
  for (std::size_t reason = 0; reason < kReasons; ++reason)
    if (dropped[reason] != 0)
      text += (text.empty() ? "" : ", ") + std::to_string(dropped[reason]) + " " + kNames[reason];
  return text;
}

}  // namespace om::vmod::adoption
