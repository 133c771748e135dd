#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "adopt.h"
#include "region/record.h"

namespace om::vmod::adoption {

namespace {

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

struct Ranked {
  std::uint64_t key;  // start of the digest: sorting touches the record only on a tie
  double last_used;
  double t_origin;
  region::ScanReport::Candidate candidate;
};

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
  std::vector<Ranked> ranked;
  ranked.reserve(scan.candidates.size());
  for (const auto& candidate : scan.candidates) {
    const region::Record& record = *candidate.record;
    if (!usable(record)) {
      drop(Reason::kUnusable);
      continue;
    }
    Ranked one{};
    std::memcpy(&one.key, record.digest.data(), sizeof one.key);
    one.last_used = region::load_double(record.last_used);
    one.t_origin = timers(record).t_origin;
    one.candidate = candidate;
    ranked.push_back(one);
  }
  // The newest of each variant first. One that is no good any more still proves the older ones
  // replaced.
  std::ranges::sort(ranked, [](const Ranked& a, const Ranked& b) {
    if (a.key != b.key) return a.key < b.key;
    if (const int by = compare_variant(*a.candidate.record, *b.candidate.record); by != 0)
      return by < 0;
    if (a.t_origin != b.t_origin) return a.t_origin > b.t_origin;
    return a.candidate.record->vxid > b.candidate.record->vxid;
  });
  std::vector<Ranked> keep;
  keep.reserve(ranked.size());
  const Ranked* newest = nullptr;
  for (const Ranked& one : ranked) {
    const region::Record& record = *one.candidate.record;
    const bool older = newest != nullptr && newest->key == one.key &&
                       compare_variant(*newest->candidate.record, record) == 0;
    newest = older ? newest : &one;
    const region::Timers t = timers(record);
    const double tested = region::load_double(record.ban_time);
    if (older)
      drop(Reason::kReplaced);
    else if (t.t_origin + t.ttl + t.grace + t.keep <= now)
      drop(Reason::kExpired);
    else if (tested < lost_until || tested < oldest_ban)
      drop(Reason::kBanLost);
    else
      keep.push_back(one);
  }
  std::ranges::sort(keep, {}, &Ranked::last_used);
  plan.keep.reserve(keep.size());
  for (const Ranked& one : keep) plan.keep.push_back(one.candidate);
  return plan;
}

void fit_to_disk(Plan& plan, std::uint64_t disk_bytes) {
  // From the most recently used on; a file that several name counts once.
  std::unordered_set<std::uint64_t> kept;
  std::uint64_t used = 0;
  std::vector<region::ScanReport::Candidate> keep;
  keep.reserve(plan.keep.size());
  for (auto it = plan.keep.rbegin(); it != plan.keep.rend(); ++it) {
    if (const auto file = file_of(*it->record); file && !kept.contains(file->number)) {
      const std::uint64_t bytes = region::BodyFiles::blocks(file->length);
      if (used > disk_bytes || bytes > disk_bytes - used) {
        ++plan.dropped[static_cast<std::size_t>(Reason::kNoDisk)];
        continue;
      }
      used += bytes;
      kept.insert(file->number);
    }
    keep.push_back(*it);
  }
  std::ranges::reverse(keep);
  plan.keep = std::move(keep);
}

std::string describe_reasons(const std::array<std::uint64_t, kReasons>& dropped) {
  static constexpr std::array<const char*, kReasons> kNames = {"expired",
                                                               "unusable",
                                                               "that a lost ban may have matched",
                                                               "replaced",
                                                               "past the time limit",
                                                               "purged",
                                                               "of a damaged body",
                                                               "for a disk that is smaller now"};
  std::string text;
  for (std::size_t reason = 0; reason < kReasons; ++reason)
    if (dropped[reason] != 0)
      text += (text.empty() ? "" : ", ") + std::to_string(dropped[reason]) + " " + kNames[reason];
  return text;
}

}  // namespace om::vmod::adoption
