// objm stat KEY
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/context.h"
#include "cli/duration.h"
#include "cli/text.h"

namespace om::cli {

namespace {

struct StatArguments {
  std::string key;
  bool json = false;
};

void print_json(const std::string& key, const ObjectInfo& info) {
  nlohmann::json tags = nlohmann::json::array();
  for (const std::string& tag : info.tags) tags.push_back(tag);
  nlohmann::json out{{"key", key},
                     {"object_id", info.object_id},
                     {"length", info.length},
                     {"created_ns", info.created_ns},
                     {"expires_ns", info.expires_ns},
                     {"tier", info.on_disk ? "disk" : "memory"},
                     {"ephemeral", info.ephemeral},
                     {"revision", info.revision},
                     {"tags", tags},
                     {"metadata", info.metadata}};
  print_json_line(out);
}

void print_text(const std::string& key, const ObjectInfo& info) {
  (void)std::printf("key        %s\n", printable(key).c_str());
  (void)std::printf("object     %llu\n", static_cast<unsigned long long>(info.object_id));
  (void)std::printf("length     %llu (%s)\n", static_cast<unsigned long long>(info.length),
                    format_size(info.length).c_str());
  (void)std::printf("tier       %s%s\n", info.on_disk ? "disk" : "memory",
                    info.ephemeral ? ", ephemeral" : "");
  (void)std::printf("created    %s\n", format_time(info.created_ns).c_str());
  (void)std::printf("expires    %s\n", format_time(info.expires_ns).c_str());
  if (info.revision != 0) (void)std::printf("refreshed  %u times\n", info.revision);
  for (const std::string& tag : info.tags)
    (void)std::printf("tag        %s\n", printable(tag).c_str());
  if (!info.metadata.empty())
    (void)std::printf("metadata   %zu bytes: %s\n", info.metadata.size(),
                      printable(info.metadata.substr(0, 200)).c_str());
}

int run_stat(const Context& context, const StatArguments& options) {
  auto client = context.connect();
  if (!client) return fail(client.error());
  const auto info = client->stat(options.key);
  if (!info) return fail("stat " + options.key, info.error());
  if (!info->has_value()) return fail({Errc::kNotFound, 0, options.key});
  if (options.json)
    print_json(options.key, **info);
  else
    print_text(options.key, **info);
  return finish_output();
}

}  // namespace

void add_stat(CLI::App& app, Context& context) {
  auto options = std::make_shared<StatArguments>();
  CLI::App* command = app.add_subcommand("stat", "Show what is known of an object");
  command->add_option("KEY", options->key, "Its key")->required();
  command->add_flag("--json", options->json, "As JSON");
  command->callback([options, &context] { context.exit_code = run_stat(context, *options); });
}

}  // namespace om::cli
