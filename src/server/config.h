// What the operator wants: flags (docs/man/objmapperd.8) and a TOML file with the flags' names.
// Flags win. Every refusal says where it stands and what to do.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "server/access.h"
#include "store/store.h"

namespace om::server {

inline constexpr const char* kDefaultSocket = "/run/objmapper/objmapper.sock";
inline constexpr const char* kDefaultConfig = "/etc/objmapper/objmapper.toml";

struct Config {
  std::string config_path;  // empty: none was read
  std::string socket = kDefaultSocket;
  store::Config store;
  AccessGroups access;
  std::optional<std::string> metrics;
  std::string log_level = "info";
};

struct Arguments {
  Config config;
  bool check_only = false;
};
// What to do at once instead of serving: --help and --version (code 0), a mistake (code 2).
struct ExitNow {
  int code = 0;
  std::string text;
};
std::variant<Arguments, ExitNow> parse_arguments(int argc, const char* const* argv);

// The file alone, over `config`. "FILE:LINE: what is wrong, what would be right".
Result<void> read_config_file(const std::string& path, Config& config);
// Whether there is a file of this name, or what is there cannot be looked at. Such a file is to be
// read, and to be an error when that fails: it may say who may do what.
bool may_be_there(const std::string& path);
// "DIR" or "DIR:SIZE".
Result<store::DiskConfig> parse_disk(const std::string& text);

}  // namespace om::server
