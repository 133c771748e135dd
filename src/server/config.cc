#include "server/config.h"

#include <grp.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <sstream>

#include "base/units.h"
#include "server/metrics.h"
// Last: what it says of exceptions must not depend on what is before it.
#include <toml++/toml.h>

namespace om::server {

namespace {

// The settings that flags and file share, as texts. A disk may come more than once.
struct Texts {
  std::optional<std::string> socket, memory, memory_dir, state_dir, file_threshold, read_gid,
      write_gid, admin_gid, revoke_grace, metrics, log_level;
  std::vector<std::string> disks;
};

struct Setting {
  const char* name;
  std::optional<std::string> Texts::*text;
  const char* help;
};
constexpr std::array kSettings = {
    Setting{"socket", &Texts::socket, "Where to listen [/run/objmapper/objmapper.sock]"},
    Setting{"memory", &Texts::memory, "Size of the memory tier, such as 4G [256M]"},
    Setting{"memory-dir", &Texts::memory_dir,
            "tmpfs directory of the memory tier [mem beside the socket]"},
    Setting{"state-dir", &Texts::state_dir,
            "Directory of the catalog [in the first disk directory, or beside the socket]"},
    Setting{"file-threshold", &Texts::file_threshold,
            "On disk, objects from this size on have a file each [64K]"},
    Setting{"read-gid", &Texts::read_gid, "Only this group (name or number) may read"},
    Setting{"write-gid", &Texts::write_gid, "Only this group may write, and it may write in place"},
    Setting{"admin-gid", &Texts::admin_gid, "Only this group may drop regions"},
    Setting{"revoke-grace", &Texts::revoke_grace,
            "Seconds within which a reader gives back what it was asked for [10]"},
    Setting{"metrics", &Texts::metrics,
            "Serve Prometheus text at 127.0.0.1:PORT or /path/of/a/socket"},
    Setting{"log-level", &Texts::log_level, "trace, debug, info, warning, error or off [info]"},
};

Error wrong(std::string what) { return {Errc::kMalformed, 0, std::move(what)}; }

Result<std::uint64_t> size_of(const std::string& name, const std::string& text) {
  auto size = parse_size(text);
  if (!size)
    return wrong(name + " \"" + text +
                 "\" is not a size: write a number with K, M, G or T behind it, such as 512M");
  return size;
}

Result<gid_t> group_of(const std::string& name, const std::string& text) {
  unsigned number = 0;
  const char* const end = text.data() + text.size();
  if (const auto [rest, code] = std::from_chars(text.data(), end, number);
      code == std::errc() && rest == end)
    return gid_t{number};
  // NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread yet
  const group* const entry = ::getgrnam(text.c_str());
  if (entry == nullptr)
    return wrong(name + ": there is no group \"" + text + "\": make it (groupadd -r " + text +
                 ") or give a number");
  return gid_t{entry->gr_gid};
}

Result<void> apply(const Texts& texts, Config& config) {
  if (texts.socket) {
    if (texts.socket->empty() || texts.socket->size() >= sizeof(sockaddr_un::sun_path))
      return wrong("socket \"" + *texts.socket + "\" is " + std::to_string(texts.socket->size()) +
                   " bytes long: a Unix socket path has 1 to " +
                   std::to_string(sizeof(sockaddr_un::sun_path) - 1) +
                   ", choose one nearer to the root");
    config.socket = *texts.socket;
  }
  if (texts.memory) {
    config.store.memory_bytes = OM_TRY(size_of("memory", *texts.memory));
    if (config.store.memory_bytes < (std::uint64_t{4} << 20))
      return wrong("memory " + *texts.memory + " is too little: 4M at least");
  }
  if (texts.memory_dir) config.store.memory_dir = *texts.memory_dir;
  if (texts.state_dir) config.store.state_dir = *texts.state_dir;
  if (texts.file_threshold)
    config.store.file_threshold = OM_TRY(size_of("file-threshold", *texts.file_threshold));
  if (texts.read_gid) config.access.read = OM_TRY(group_of("read-gid", *texts.read_gid));
  if (texts.write_gid) config.access.write = OM_TRY(group_of("write-gid", *texts.write_gid));
  if (texts.admin_gid) config.access.admin = OM_TRY(group_of("admin-gid", *texts.admin_gid));
  if (texts.revoke_grace) {
    std::uint64_t seconds = 0;
    const char* const end = texts.revoke_grace->data() + texts.revoke_grace->size();
    const auto [rest, code] = std::from_chars(texts.revoke_grace->data(), end, seconds);
    if (code != std::errc() || rest != end || seconds == 0 || seconds > 86400)
      return wrong("revoke-grace \"" + *texts.revoke_grace +
                   "\" is not a number of seconds from 1 to 86400");
    config.store.revoke_grace_ns = seconds * 1'000'000'000;
  }
  if (texts.metrics) {
    OM_TRY(Metrics::check(*texts.metrics));
    config.metrics = texts.metrics;
  }
  if (texts.log_level) {
    constexpr std::array kLevels = {"trace", "debug", "info", "warning", "warn", "error", "off"};
    if (std::find(kLevels.begin(), kLevels.end(), *texts.log_level) == kLevels.end())
      return wrong("log-level \"" + *texts.log_level +
                   "\" is none of trace, debug, info, warning, error, off");
    config.log_level = *texts.log_level;
  }
  if (!texts.disks.empty()) {
    config.store.disks.clear();
    for (const std::string& disk : texts.disks)
      config.store.disks.push_back(OM_TRY(parse_disk(disk)));
  }
  return {};
}

std::string where(const std::string& path, const toml::node& node) {
  return path + ":" + std::to_string(node.source().begin.line) + ": ";
}

Result<std::string> text_of(const std::string& path, std::string_view name,
                            const toml::node& node) {
  if (const auto text = node.value_exact<std::string>()) return *text;
  if (const auto number = node.value_exact<std::int64_t>()) return std::to_string(*number);
  return wrong(where(path, node) + std::string(name) +
               " must be a text in quotes or a whole number");
}

// The value a message is about stands first in it, the line before that.
Error at(const std::string& place, Error error) {
  error.what = place + error.what;
  return error;
}

void default_directories(Config& config) {
  const std::string beside = std::filesystem::path(config.socket).parent_path().string();
  const std::string base = beside.empty() ? "." : beside;
  if (config.store.memory_dir.empty()) config.store.memory_dir = base + "/mem";
  if (config.store.state_dir.empty())
    config.store.state_dir =
        (config.store.disks.empty() ? base : config.store.disks.front().path) + "/state";
}

}  // namespace

Result<store::DiskConfig> parse_disk(const std::string& text) {
  store::DiskConfig disk{text, 0};
  const std::size_t colon = text.rfind(':');
  // "/data:1" has a size; in "/odd:name" the colon belongs to the directory.
  if (colon != std::string::npos && colon + 1 < text.size() && text[colon + 1] >= '0' &&
      text[colon + 1] <= '9') {
    disk.path = text.substr(0, colon);
    disk.bytes = OM_TRY(size_of("disk " + disk.path + ":", text.substr(colon + 1)));
    if (disk.bytes == 0) return wrong("disk \"" + text + "\": a size of 0 holds nothing");
  }
  if (disk.path.empty()) return wrong("disk \"" + text + "\": expected DIR or DIR:SIZE");
  return disk;
}

bool may_be_there(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0 || errno != ENOENT;
}

Result<void> read_config_file(const std::string& path, Config& config) {
  toml::table table;
  try {
    table = toml::parse_file(path);
  } catch (const toml::parse_error& error) {
    if (error.source().begin.line == 0)
      return wrong(path + ": " + std::string(error.description()) +
                   ": let the daemon's user read it, or name another with --config");
    return wrong(path + ":" + std::to_string(error.source().begin.line) + ": " +
                 std::string(error.description()));
  }
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    Texts texts;
    const auto setting = std::find_if(kSettings.begin(), kSettings.end(),
                                      [&](const Setting& s) { return name == s.name; });
    if (name == "disk" && node.is_array()) {
      for (const toml::node& element : *node.as_array())
        texts.disks.push_back(OM_TRY(text_of(path, name, element)));
    } else if (name == "disk") {
      texts.disks.push_back(OM_TRY(text_of(path, name, node)));
    } else if (setting != kSettings.end()) {
      texts.*(setting->text) = OM_TRY(text_of(path, name, node));
    } else {
      std::string known = "disk";
      for (const Setting& s : kSettings) known += std::string(", ") + s.name;
      return wrong(path + ":" + std::to_string(key.source().begin.line) + ": unknown key \"" +
                   name + "\"; known are " + known);
    }
    if (auto applied = apply(texts, config); !applied)
      return at(where(path, node), std::move(applied).error());
  }
  return {};
}

std::variant<Arguments, ExitNow> parse_arguments(int argc, const char* const* argv) {
  Texts texts;
  Arguments arguments;
  std::string config_path;
  CLI::App app{
      "objmapperd: an object store for one machine, whose clients get descriptors instead of "
      "copies.",
      "objmapperd"};
  app.set_version_flag("--version", "objmapperd " OM_VERSION);
  app.add_option("--config", config_path,
                 "TOML file with these flags' names [" + std::string(kDefaultConfig) +
                     ", when it is there]")
      ->type_name("FILE");
  for (const Setting& setting : kSettings)
    app.add_option(std::string("--") + setting.name, texts.*(setting.text), setting.help);
  app.add_option("--disk", texts.disks,
                 "Directory of the disk tier, with its size; may be repeated")
      ->type_name("DIR[:SIZE]")
      ->allow_extra_args(false);
  app.add_flag("--check-config", arguments.check_only,
               "Say whether the configuration is right, and end");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::ostringstream text;
    const int code = app.exit(error, text, text);
    return ExitNow{code == 0 ? 0 : 2, text.str()};
  }
  Config& config = arguments.config;
  const bool named = !config_path.empty();
  if (!named && may_be_there(kDefaultConfig)) config_path = kDefaultConfig;
  if (!config_path.empty()) {
    config.config_path = config_path;
    if (auto read = read_config_file(config_path, config); !read)
      return ExitNow{2, "objmapperd: " + read.error().what + "\n"};
  }
  if (auto applied = apply(texts, config); !applied)
    return ExitNow{2, "objmapperd: --" + applied.error().what + "\n"};
  default_directories(config);
  return arguments;
}

}  // namespace om::server
