// objm proxy: a caching proxy in one command.
//
//   origin.h       addresses as typed, and whether they answer
//   vcl.h          the VCL
//   plan.h         what will be done, decided beforehand
//   directories.h  where the data lies
//   child.h        a program that does not outlive us
//   leftovers.h    what one that was killed has left
//   supervise.h    runs the plan
#include <CLI/CLI.hpp>
#include <cstring>
#include <iostream>
#include <memory>

#include "cli/commands.h"
#include "cli/context.h"
#include "cli/proxy/plan.h"
#include "cli/proxy/supervise.h"

namespace om::cli {
namespace {

int dry_run(const proxy::Plan& plan) {
  std::cout << "# " << plan.path("proxy.vcl") << "\n"
            << plan.vcl() << "\n# command lines\n"
            << proxy::shell_line(plan.objmapperd_command()) << "\n"
            << proxy::shell_line(plan.varnishd_command()) << "\n";
  return kDone;
}

// Sentences that were made for people are printed as they are.
int refuse(const Error& error) {
  std::cerr << "objm: " << (error.code == Errc::kSystem ? describe(error) : error.what)
            << std::endl;
  if (error.code == Errc::kMalformed) return kUsage;
  return error.code == Errc::kNotFound || error.code == Errc::kUnavailable ? kOther
                                                                           : exit_code_of(error);
}

int run(const proxy::Options& options) {
  const auto plan = proxy::make_plan(options);
  if (!plan) return refuse(plan.error());
  if (options.dry_run) return dry_run(*plan);
  if (!plan->reached.answers) {
    std::cerr << "objm: the origin " << plan->origin.text() << " does not answer ("
              << plan->reached.why_not << "): start it, or correct --origin; until then only what "
              << "is cached is served" << std::endl;
  }
  const auto done = proxy::supervise(*plan);
  return done ? kDone : refuse(done.error());
}

}  // namespace

void add_proxy(CLI::App& app, Context& context) {
  auto options = std::make_shared<proxy::Options>();
  CLI::App* command = app.add_subcommand(
      "proxy", "Run a caching proxy: objmapperd and varnishd, in front of an origin");
  command->add_option("--origin", options->origin, "http://HOST[:PORT] or unix:/PATH")->required();
  command->add_option("--listen", options->listen, "[HOST]:PORT to serve on")
      ->capture_default_str();
  command->add_option("--memory", options->memory, "Memory for the cache")->capture_default_str();
  command->add_option("--disk", options->disk, "DIR:SIZE, disk for shared objects");
  command->add_option("--vcl", options->vcl, "A file with VCL subs of your own, run before ours");
  command->add_option("--name", options->name,
                      "Of this proxy, when several run (default: the port)");
  command->add_option("--host", options->host,
                      "What the origin reads as Host (default: the client's)");
  command->add_option("--probe", options->probe, "URL path asked every 5 s, or none")
      ->capture_default_str();
  command->add_flag("--no-x-cache", options->no_x_cache, "Leave out the X-Cache header");
  command->add_flag("--discard", options->discard, "Begin with an empty cache");
  command->add_flag("--verbose", options->verbose, "Show all that objmapperd and varnishd say");
  command->add_flag("--dry-run", options->dry_run,
                    "Print the VCL and the command lines, start nothing");
  command->callback([options, &context] { context.exit_code = run(*options); });
}

}  // namespace om::cli
