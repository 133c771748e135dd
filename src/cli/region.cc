// objm region list | drop OWNER... | drain OWNER... | resume OWNER...
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/context.h"
#include "cli/text.h"

namespace om::cli {

namespace {

struct RegionArguments {
  std::vector<std::string> owners;
  bool json = false;
};

int list(const Context& context, const RegionArguments& options) {
  auto client = context.connect();
  if (!client) return fail(client.error());
  const auto regions = client->list_regions();
  if (!regions) return fail("region list", regions.error());
  for (const RegionEntry& region : *regions) {
    if (options.json) {
      print_json_line({{"owner", region.owner},
                       {"memory_bytes", region.memory_bytes},
                       {"disk_bytes", region.disk_bytes},
                       {"held", region.held},
                       {"pid", region.pid}});
      continue;
    }
    const std::string use =
        region.held
            ? region.pid != 0 ? "in use by " + std::to_string(region.pid) : std::string("in use")
            : std::string("not in use");
    (void)std::printf("%-32s  memory %-6s  disk %-6s  %s\n", printable(region.owner).c_str(),
                      format_size(region.memory_bytes).c_str(),
                      format_size(region.disk_bytes).c_str(), use.c_str());
  }
  return finish_output();
}

int drop(const Context& context, const RegionArguments& options) {
  auto client = context.connect();
  if (!client) return fail(client.error());
  int code = kDone;
  for (const std::string& owner : options.owners) {
    const auto dropped = client->drop_region(owner);
    if (!dropped) {
      Error error = dropped.error();
      if (error.code == Errc::kBusy) error.what += " (stop the varnishd that uses it first)";
      return fail("drop " + owner, error);
    }
    if (!*dropped) code = fail({Errc::kNotFound, 0, "no region of " + owner});
  }
  return code;
}

int drain(const Context& context, const RegionArguments& options, bool on) {
  auto client = context.connect();
  if (!client) return fail(client.error());
  int code = kDone;
  for (const std::string& owner : options.owners) {
    const auto done = client->drain_region(owner, on);
    if (!done) return fail((on ? "drain " : "resume ") + owner, done.error());
    if (!*done) code = fail({Errc::kNotFound, 0, "no region of " + owner});
  }
  return code;
}

}  // namespace

void add_region(CLI::App& app, Context& context) {
  auto options = std::make_shared<RegionArguments>();
  CLI::App* command = app.add_subcommand("region", "Regions: the caches that varnishd keeps here");
  command->require_subcommand(1);
  CLI::App* lists = command->add_subcommand("list", "Who has one, how large, in use or not");
  lists->add_flag("--json", options->json, "One JSON object a line");
  lists->callback([options, &context] { context.exit_code = list(context, *options); });
  CLI::App* drops = command->add_subcommand("drop", "Forget a region that nobody uses");
  drops->add_option("OWNER", options->owners, "As region list names it")->required();
  drops->callback([options, &context] { context.exit_code = drop(context, *options); });
  CLI::App* drains = command->add_subcommand(
      "drain", "New objects go to varnishd's own storage; those that are there stay hits");
  drains->add_option("OWNER", options->owners, "As region list names it")->required();
  drains->callback([options, &context] { context.exit_code = drain(context, *options, true); });
  CLI::App* resumes = command->add_subcommand("resume", "Ends drain");
  resumes->add_option("OWNER", options->owners, "As region list names it")->required();
  resumes->callback([options, &context] { context.exit_code = drain(context, *options, false); });
}

}  // namespace om::cli
