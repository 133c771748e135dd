// objm purge PREFIX | --key KEY | --tag TAG [--soft] | --all
#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/commands.h"
#include "cli/context.h"
#include "cli/text.h"

namespace om::cli {

namespace {

struct PurgeArguments {
  std::string prefix;
  std::string key;
  std::string tag;
  bool soft = false;
  bool everything = false;
};

// For the caches' own copies too.
int run_everywhere(Client& client, const PurgeArguments& options) {
  RemovalRequest request;
  if (!options.key.empty()) {
    request.kind = RemovalKind::kPurge;
    request.what = options.key;
  } else {
    request.kind = options.soft ? RemovalKind::kTagSoft : RemovalKind::kTag;
    request.what = options.tag;
  }
  const auto done = client.remove_everywhere(request);
  if (!done) return fail("purge", done.error());
  return report(*done);
}

int run_purge(const Context& context, const PurgeArguments& options) {
  const int named = int{!options.prefix.empty()} + int{!options.key.empty()} +
                    int{!options.tag.empty()} + int{options.everything};
  if (named != 1) return misuse("purge wants one of PREFIX, --key KEY, --tag TAG or --all");
  if (options.soft && options.tag.empty()) return misuse("--soft goes with --tag");
  auto client = context.connect();
  if (!client) return fail(client.error());
  if (!options.key.empty() || !options.tag.empty()) return run_everywhere(*client, options);
  const auto removed = client->remove_prefix(options.prefix);
  if (!removed) return fail("purge", removed.error());
  (void)std::printf("%llu\n", static_cast<unsigned long long>(*removed));
  return finish_output();
}

}  // namespace

void add_purge(CLI::App& app, Context& context) {
  auto options = std::make_shared<PurgeArguments>();
  CLI::App* command = app.add_subcommand(
      "purge", "Remove objects by prefix, key or tag; prints how many. None is no failure");
  command->add_option("PREFIX", options->prefix, "Shared objects whose key begins so");
  command->add_option("--key", options->key,
                      "This key without its variant, also in the caches that have joined");
  command->add_option("--tag", options->tag, "Those that have this tag, also in the caches");
  command->add_flag("--soft", options->soft, "Caches may still use it while they fetch it anew");
  command->add_flag("--all", options->everything, "Every shared object");
  command->callback([options, &context] { context.exit_code = run_purge(context, *options); });
}

}  // namespace om::cli
