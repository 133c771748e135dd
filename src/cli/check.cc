// objm check [VCL FILE...]: is everything as objmapper needs it?
#include <fcntl.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/context.h"
#include "cli/sample.h"
#include "cli/text.h"
#include "cli/vcl_lint.h"
#include "posix/file.h"

namespace om::cli {

namespace {

constexpr std::uint64_t kDescriptorsWanted = 4096;
constexpr std::uint64_t kMappingsWanted = 65530;  // the kernel's default

struct CheckArguments {
  std::vector<std::string> files;
  std::vector<std::string> vcl_path{"/etc/varnish", "/usr/share/varnish/vcl",
                                    "/usr/share/objmapper"};
  std::string memory_dir;
  bool offline = false;
};

class Report {
 public:
  void good(const std::string& what) { (void)std::printf("ok       %s\n", what.c_str()); }
  void note(const std::string& what) { (void)std::printf("note     %s\n", what.c_str()); }
  void bad(const std::string& what) {
    (void)std::printf("problem  %s\n", what.c_str());
    code_ = code_ == kDone ? kOther : code_;
  }
  void bad(const std::string& what, int code) {
    bad(what);
    code_ = code;
  }
  [[nodiscard]] int code() const { return code_; }

 private:
  int code_ = kDone;
};

std::optional<std::uint64_t> number_in(const std::string& path) {
  std::ifstream in(path);
  std::uint64_t number = 0;
  if (in >> number) return number;
  return std::nullopt;
}

// The soft limit of another process, which only its user may see.
std::optional<std::uint64_t> open_files_limit(std::uint64_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/limits");
  for (std::string line; std::getline(in, line);) {
    constexpr std::string_view kName = "Max open files";
    if (!line.starts_with(kName)) continue;
    try {
      return std::stoull(line.substr(kName.size()));
    } catch (const std::exception&) {
      return std::nullopt;  // "unlimited"
    }
  }
  return std::nullopt;
}

void check_limits(Report& report, std::optional<std::uint64_t> daemon_pid) {
  if (daemon_pid) {
    if (const auto limit = open_files_limit(*daemon_pid); limit && *limit < kDescriptorsWanted)
      report.bad("objmapperd may open " + std::to_string(*limit) +
                 " files only: set LimitNOFILE=65536 in its unit (or ulimit -n)");
    else if (limit)
      report.good("objmapperd may open " + std::to_string(*limit) + " files");
  } else {
    rlimit limit{};
    (void)::getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < kDescriptorsWanted)
      report.bad("programs of this shell may open " + std::to_string(limit.rlim_max) +
                 " files only: raise RLIMIT_NOFILE (ulimit -n 65536)");
    else
      report.good("programs of this shell may open " + std::to_string(limit.rlim_max) + " files");
  }
  if (const auto mappings = number_in("/proc/sys/vm/max_map_count")) {
    if (*mappings < kMappingsWanted)
      report.bad("vm.max_map_count is " + std::to_string(*mappings) +
                 ": sysctl -w vm.max_map_count=262144");
    else
      report.good("vm.max_map_count is " + std::to_string(*mappings));
  }
}

void check_memory_dir(Report& report, const std::string& directory,
                      const std::optional<Sample>& sample) {
  const auto opened = open_file(directory, O_RDONLY | O_DIRECTORY);
  if (!opened) {
    if (opened.error().sys_errno == EACCES)
      report.note(directory + " cannot be looked at by this user");
    else
      report.bad("the memory tier's directory " + describe(opened.error()) +
                 ": mount a tmpfs there, or name another with objmapperd --memory-dir");
    return;
  }
  if (!is_tmpfs(opened->borrow()))
    return report.bad(directory +
                      " is no tmpfs: the memory tier would be on disk; mount -t tmpfs "
                      "there, or name another directory with objmapperd --memory-dir");
  const auto space = file_system_space(opened->borrow());
  if (!space) return report.bad(describe(space.error()));
  std::string text = directory + " is a tmpfs, " + format_size(space->free_bytes) + " of " +
                     format_size(space->total_bytes) + " free";
  const auto capacity = sample ? sample->number({"memory.capacity_bytes"}) : std::nullopt;
  if (capacity && space->total_bytes != 0 && space->total_bytes < *capacity)
    return report.bad(text + ", but objmapperd was promised " + format_size(*capacity) +
                      ": mount it with a larger size=");
  report.good(text);
}

std::optional<Sample> check_daemon(Report& report, const Context& context) {
  auto client = context.connect();
  if (!client) {
    report.bad(describe(client.error()), exit_code_of(client.error()));
    return std::nullopt;
  }
  report.good("objmapperd " + client->daemon().version + " answers on " + context.socket);
  std::string rights;
  if (client->daemon().may_read) rights += " read";
  if (client->daemon().may_write) rights += " write";
  if (client->daemon().may_admin) rights += " administer";
  report.note("this user may" + (rights.empty() ? std::string(" nothing there") : rights));
  auto sample = take_sample(*client);
  if (!sample) {
    report.bad("status: " + describe(sample.error()));
    return std::nullopt;
  }
  for (const auto& [name, value] : sample->numbers)
    if (name.starts_with("disk") && name.ends_with(".failed") && value != 0)
      report.bad("a disk directory has failed (" + name + "): see objm status and its log");
  for (const Overview::Tier& tier : compare(*sample, *sample).tiers)
    report.note(tier.name + ": " + format_size(tier.used_bytes) + " of " +
                format_size(tier.capacity_bytes) + " used");
  return *std::move(sample);
}

int run_check(const Context& context, const CheckArguments& options) {
  Report report;
  std::optional<Sample> sample;
  if (!options.offline) {
    sample = check_daemon(report, context);
    std::string directory = options.memory_dir;
    if (directory.empty() && sample && sample->texts.contains("memory.directory"))
      directory = sample->texts["memory.directory"];
    check_limits(report, sample ? sample->number({"daemon.pid"}) : std::nullopt);
    check_memory_dir(report, directory.empty() ? "/run/objmapper/mem" : directory, sample);
  }
  for (const std::string& file : options.files) {
    const auto findings = lint_vcl(file, options.vcl_path);
    for (const VclFinding& finding : findings)
      report.bad(printable(finding.file) +
                 (finding.line > 0 ? ":" + std::to_string(finding.line) : std::string()) + ": " +
                 finding.what);
    if (findings.empty()) report.good(printable(file) + " records what it removes");
  }
  const int printed = finish_output();
  return report.code() != kDone ? report.code() : printed;
}

}  // namespace

void add_check(CLI::App& app, Context& context) {
  auto options = std::make_shared<CheckArguments>();
  CLI::App* command =
      app.add_subcommand("check", "Look whether daemon, limits, memory and VCL are as they should");
  command->add_option("VCL", options->files, "VCL files to look into, with what they include");
  command->add_option("--vcl-path", options->vcl_path, "Where included VCL lies")
      ->allow_extra_args(false);
  command->add_option("--memory-dir", options->memory_dir, "Of the memory tier, if not the usual");
  command->add_flag("--offline", options->offline, "Look at the VCL only");
  command->callback([options, &context] { context.exit_code = run_check(context, *options); });
}

}  // namespace om::cli
