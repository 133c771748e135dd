// objm status [--json]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/context.h"
#include "cli/text.h"

namespace om::cli {

namespace {

struct StatusArguments {
  bool json = false;
};

int run_status(const Context& context, const StatusArguments& options) {
  auto client = context.connect();
  if (!client) return fail(client.error());
  const auto items = client->status();
  if (!items) return fail("status", items.error());
  if (options.json) {
    nlohmann::json out = nlohmann::json::object();
    for (const StatusItem& item : *items) {
      if (item.text.empty())
        out[item.name] = item.number;
      else
        out[item.name] = item.text;
    }
    print_json_line(out);
    return finish_output();
  }
  std::size_t width = 0;
  for (const StatusItem& item : *items) width = std::max(width, item.name.size());
  for (const StatusItem& item : *items) {
    std::string value = item.text.empty() ? std::to_string(item.number) : printable(item.text);
    if (item.text.empty() && item.number >= 1024 && item.name.find("bytes") != std::string::npos)
      value += " (" + format_size(item.number) + ")";
    (void)std::printf("%-*s  %s\n", static_cast<int>(width), item.name.c_str(), value.c_str());
  }
  return finish_output();
}

}  // namespace

void add_status(CLI::App& app, Context& context) {
  auto options = std::make_shared<StatusArguments>();
  CLI::App* command = app.add_subcommand("status", "Print the daemon's numbers");
  command->add_flag("--json", options->json, "As one JSON object");
  command->callback([options, &context] { context.exit_code = run_status(context, *options); });
}

}  // namespace om::cli
