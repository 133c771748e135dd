#include "cli/context.h"

#include <cstdio>

#include "cli/text.h"

namespace om::cli {

Result<Client> Context::connect() const {
  ConnectOptions options;
  options.socket = socket;
  options.timeout = timeout;
  options.name = "objm";
  auto client = Client::connect(options);
  if (client) return client;
  Error error = std::move(client).error();
  switch (error.code) {
    case Errc::kUnavailable:
      error.what += error.sys_errno == 0
                        ? " (is objmapperd running, and has it room for one more connection?)"
                        : " (is objmapperd running? --socket names another place)";
      break;
    case Errc::kDenied: error.what += " (are you in the daemon's group?)"; break;
    case Errc::kTimeout:
      error.what += " (" + socket + " accepts, but does not answer; --timeout-ms gives it longer)";
      break;
    default: break;
  }
  return error;
}

int exit_code_of(const Error& error) {
  switch (error.code) {
    case Errc::kNotFound: return kAbsent;
    case Errc::kUnavailable:
    case Errc::kTimeout: return kUnreachable;
    case Errc::kDenied: return kDenied;
    case Errc::kNoSpace:
    case Errc::kQuota: return kNoSpace;
    case Errc::kMalformed:
    case Errc::kOk:
    case Errc::kExists:
    case Errc::kBusy:
    case Errc::kCorrupt:
    case Errc::kSystem:
    case Errc::kUnsupported: break;
  }
  return kOther;
}

namespace {

// A key may have 8192 bytes, a message one line.
std::string shortened(const std::string& text) {
  constexpr std::size_t kShown = 200;
  return text.size() <= kShown ? text : text.substr(0, kShown) + "...";
}

}  // namespace

int fail(const Error& error) {
  (void)std::fprintf(stderr, "objm: %s\n", shortened(describe(error)).c_str());
  return exit_code_of(error);
}

int fail(const std::string& doing, const Error& error) {
  (void)std::fprintf(stderr, "objm: %s: %s\n", shortened(doing).c_str(), describe(error).c_str());
  return exit_code_of(error);
}

int misuse(const std::string& what) {
  (void)std::fprintf(stderr, "objm: %s\n", what.c_str());
  return kUsage;
}

int report(const RemovalDone& done, bool count) {
  if (count) (void)std::printf("%llu\n", static_cast<unsigned long long>(done.removed));
  if (done.unapplied > 0)
    (void)std::fprintf(
        stderr,
        "objm: recorded; %u of %u caches have not confirmed it yet and use no shared "
        "objects until they have\n",
        done.unapplied, done.caches);
  return finish_output();
}

}  // namespace om::cli
