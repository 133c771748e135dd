// objm purge PREFIX | --tag TAG
#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/commands.h"
#include "cli/context.h"
#include "cli/text.h"

namespace om::cli {

namespace {

struct Options {
  std::string prefix;
  std::string tag;
  bool everything = false;
};

int run(const Context& context, const Options& options) {
  const int named =
      int{!options.prefix.empty()} + int{!options.tag.empty()} + int{options.everything};
  if (named != 1) return misuse("purge wants one of PREFIX, --tag TAG or --all");
  auto client = context.connect();
  if (!client) return fail(client.error());
  const auto removed =
      options.tag.empty() ? client->remove_prefix(options.prefix) : client->remove_tag(options.tag);
  if (!removed) return fail("purge", removed.error());
  (void)std::printf("%llu\n", static_cast<unsigned long long>(*removed));
  return finish_output();
}

}  // namespace

void add_purge(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "purge", "Remove objects by prefix or tag; prints how many. None is no failure");
  command->add_option("PREFIX", options->prefix, "Those whose key begins so");
  command->add_option("--tag", options->tag, "Those that have this tag");
  command->add_flag("--all", options->everything, "Every shared object");
  command->callback([options, &context] { context.exit_code = run(context, *options); });
}

}  // namespace om::cli
