// objm(1): objmapper from the command line. This file knows which subcommands there are; each is a
// file of its own (commands.h, context.h).
#include <CLI/CLI.hpp>
#include <csignal>
#include <exception>
#include <iostream>

#include "cli/commands.h"
#include "cli/context.h"

namespace {

int run(int argc, char** argv) {
  CLI::App app{"Look into and use an objmapper store.", "objm"};
  om::cli::Context context;
  std::uint64_t timeout_ms = 10000;
  app.set_version_flag("--version", OM_VERSION);
  app.add_option("--socket", context.socket, "The daemon's socket")
      ->envname("OBJMAPPER_SOCKET")
      ->capture_default_str();
  app.add_option("--timeout-ms", timeout_ms, "How long to wait for each of the daemon's answers")
      ->check(CLI::Range(1, 3600 * 1000))
      ->capture_default_str();
  app.require_subcommand(1);
  app.fallthrough();  // --socket may also stand behind the subcommand
  app.footer(
      "Ends with 0: done, 1: there is no such object, 2: wrong usage, 3: the daemon cannot be\n"
      "reached, 4: not allowed, 5: no space, 6: another failure. See objm(1).");
  app.parse_complete_callback([&] { context.timeout = std::chrono::milliseconds(timeout_ms); });
  om::cli::add_put(app, context);
  om::cli::add_get(app, context);
  om::cli::add_stat(app, context);
  om::cli::add_list(app, context);
  om::cli::add_delete(app, context);
  om::cli::add_purge(app, context);
  om::cli::add_ban(app, context);
  om::cli::add_status(app, context);
  om::cli::add_region(app, context);
  om::cli::add_top(app, context);
  om::cli::add_check(app, context);
  om::cli::add_proxy(app, context);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) return app.exit(error);
    (void)std::fprintf(stderr, "objm: %s\nobjm: see objm --help\n", error.what());
    return om::cli::kUsage;
  }
  return context.exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  (void)std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error message, not a death
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    (void)std::fprintf(stderr, "objm: %s\n", error.what());
    return om::cli::kOther;
  }
}
