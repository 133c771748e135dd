#include <cstring>

#include "base/result.h"

namespace om {

const char* to_string(Errc code) {
  switch (code) {
    case Errc::kOk: return "ok";
    case Errc::kNotFound: return "not found";
    case Errc::kExists: return "exists";
    case Errc::kBusy: return "busy";
    case Errc::kNoSpace: return "no space";
    case Errc::kQuota: return "quota";
    case Errc::kMalformed: return "malformed";
    case Errc::kDenied: return "denied";
    case Errc::kUnavailable: return "unavailable";
    case Errc::kTimeout: return "timed out";
    case Errc::kCorrupt: return "corrupt";
    case Errc::kSystem: return "system error";
    case Errc::kUnsupported: return "unsupported";
  }
  return "unknown status";
}

std::string describe(const Error& error) {
  if (error.code == Errc::kSystem && error.sys_errno != 0)
    return error.what + ": " + std::strerror(error.sys_errno);  // NOLINT(concurrency-mt-unsafe)
  std::string text = to_string(error.code);
  if (!error.what.empty()) text += ": " + error.what;
  if (error.sys_errno != 0)
    text +=
        std::string(" (") + std::strerror(error.sys_errno) + ")";  // NOLINT(concurrency-mt-unsafe)
  return text;
}

}  // namespace om
