// objm delete KEY...
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/context.h"

namespace om::cli {

namespace {

struct DeleteArguments {
  std::vector<std::string> keys;
};

int run_delete(const Context& context, const DeleteArguments& options) {
  auto client = context.connect();
  if (!client) return fail(client.error());
  int code = kDone;
  for (const std::string& key : options.keys) {
    const auto removed = client->remove(key);
    if (!removed) return fail("delete " + key, removed.error());
    if (!*removed) code = fail({Errc::kNotFound, 0, key});
  }
  return code;
}

}  // namespace

void add_delete(CLI::App& app, Context& context) {
  auto options = std::make_shared<DeleteArguments>();
  CLI::App* command = app.add_subcommand(
      "delete", "Remove objects by their keys; readers of them are not disturbed");
  command->add_option("KEY", options->keys, "Which")->required();
  command->callback([options, &context] { context.exit_code = run_delete(context, *options); });
}

}  // namespace om::cli
