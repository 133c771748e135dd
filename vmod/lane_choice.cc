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

std::string_view to_string(Peer peer) {
  switch (peer) {
    case Peer::kUnix: return "unix";
    case Peer::kThisMachine: return "loopback";
    case Peer::kElsewhere: return "tcp";
  }
  return "";
}

Choice choose(const Facts& facts) {
  if (facts.setting == DeliverySetting::kMapped) return {Lane::kMapped, "delivery=mapped"};
  if (!facts.http1) return {Lane::kMapped, "not HTTP/1"};
  if (!facts.plain) return {Lane::kMapped, "filtered"};
  if (!facts.length_known) return {Lane::kMapped, "chunked"};
  if (facts.setting == DeliverySetting::kFile) return {Lane::kFile, "delivery=file"};

  if (facts.peer == Peer::kUnix && facts.bytes >= kUnixBytesMin) return {Lane::kFile, "large"};
  if (facts.peer == Peer::kElsewhere && facts.bytes >= kElsewhereBytesMin)
    return {Lane::kFile, "large"};
  if (!facts.residency) return {Lane::kDependsOnResidency, ""};
  switch (*facts.residency) {
    case Residency::kAbsent: return {Lane::kFile, "not resident"};
    // Reading it ourselves may mean waiting for the disk with a small buffer; sendfile is at worst
    // a little dearer.
    case Residency::kUnknown: return {Lane::kFile, "residency unknown"};
    case Residency::kResident: break;
  }
  // A reader on this machine pays for sendfile what varnishd saves by it, and more.
  return {Lane::kMapped, facts.peer == Peer::kThisMachine ? "loopback, resident" : "small"};
}

}  // namespace lane
}  // namespace om::vmod
