// One function for each subcommand, each in the file of its name.
#pragma once

namespace CLI {
class App;
}

namespace om::cli {

struct Context;

void add_put(CLI::App& app, Context& context);
void add_get(CLI::App& app, Context& context);
void add_stat(CLI::App& app, Context& context);
void add_list(CLI::App& app, Context& context);
void add_delete(CLI::App& app, Context& context);
void add_purge(CLI::App& app, Context& context);
void add_ban(CLI::App& app, Context& context);
void add_status(CLI::App& app, Context& context);
void add_region(CLI::App& app, Context& context);
void add_top(CLI::App& app, Context& context);
void add_check(CLI::App& app, Context& context);
// src/cli/proxy
void add_proxy(CLI::App& app, Context& context);

}  // namespace om::cli
