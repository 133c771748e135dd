#include "lane_choice.h"

namespace om::vmod {

std::string_view to_string(DeliverySetting setting) {
  switch (setting) {
    case DeliverySetting::kAuto: return "auto";
    case DeliverySetting::kMapped: return "mapped";
    case DeliverySetting::kFile: return "file";
  }
  return "";
}

namespace lane {

Choice choose(const Facts& facts) {
  if (facts.setting == DeliverySetting::kMapped) return {Lane::kMapped, "delivery=mapped"};
  if (!facts.http1) return {Lane::kMapped, "not HTTP/1"};
  if (!facts.plain) return {Lane::kMapped, "filtered"};
  if (!facts.length_known) return {Lane::kMapped, "chunked"};
  if (facts.setting == DeliverySetting::kFile) return {Lane::kFile, "delivery=file"};

  if (facts.bytes >= kFileBytesMin) {
    if (!facts.worth_keeping) return {Lane::kDependsOnPopularity, ""};
    if (!*facts.worth_keeping) return {Lane::kFileGivenBack, "asked for too rarely"};
    return {Lane::kFile, "large"};
  }
  if (!facts.residency) return {Lane::kDependsOnResidency, ""};
  switch (*facts.residency) {
    case Residency::kAbsent: return {Lane::kFile, "not resident"};
    // Reading it ourselves may mean waiting for the disk with a small buffer; sendfile is at worst
    // a little dearer.
    case Residency::kUnknown: return {Lane::kFile, "residency unknown"};
    case Residency::kResident: break;
  }
  return {Lane::kMapped, "small"};
}

}  // namespace lane
}  // namespace om::vmod
