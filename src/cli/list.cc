// objm list [PREFIX] [--regions]
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

struct ListArguments {
  std::string prefix;
  std::uint64_t limit = 0;
  bool regions = false;
  bool json = false;
  bool longer = false;
};

void print_entry(const ListEntry& entry, const ListArguments& options) {
  if (options.json) {
    nlohmann::json out{{"key", entry.key},
                       {"length", entry.length},
                       {"created_ns", entry.created_ns},
                       {"expires_ns", entry.expires_ns},
                       {"tier", entry.on_disk ? "disk" : "memory"}};
    if (options.regions) out["url"] = entry.url;
    print_json_line(out);
    return;
  }
  if (options.longer)
    (void)std::printf("%12llu  %-6s  %s  %-20s  ", static_cast<unsigned long long>(entry.length),
                      entry.on_disk ? "disk" : "memory", format_time(entry.created_ns).c_str(),
                      format_time(entry.expires_ns).c_str());
  (void)std::fputs(printable(entry.key).c_str(), stdout);
  if (options.regions && !entry.url.empty())
    (void)std::printf("  %s", printable(entry.url).c_str());
  (void)std::fputc('\n', stdout);
}

int run_list(const Context& context, const ListArguments& options) {
  auto client = context.connect();
  if (!client) return fail(client.error());
  ListOptions list;
  list.prefix = options.prefix;
  list.regions = options.regions;
  std::uint64_t left = options.limit == 0 ? ~std::uint64_t{0} : options.limit;
  while (left > 0) {
    list.limit = static_cast<std::uint32_t>(std::min<std::uint64_t>(left, 8192));
    auto page = client->list(list);
    if (!page) return fail("list", page.error());
    for (const ListEntry& entry : page->entries) {
      if (left-- == 0) break;
      print_entry(entry, options);
    }
    if (std::ferror(stdout) != 0 || !page->more || left == 0) break;
    list.after = page->entries.back().key;
  }
  return finish_output();
}

}  // namespace

void add_list(CLI::App& app, Context& context) {
  auto options = std::make_shared<ListArguments>();
  CLI::App* command = app.add_subcommand("list", "Print the keys, in the order of their bytes");
  command->add_option("PREFIX", options->prefix, "Only those that begin so");
  command->add_flag("--regions", options->regions, "Objects in regions instead of shared ones");
  command->add_flag("-l,--long", options->longer, "With length, tier, times");
  command->add_flag("--json", options->json, "One JSON object a line");
  command->add_option("--limit", options->limit, "No more than so many");
  command->callback([options, &context] { context.exit_code = run_list(context, *options); });
}

}  // namespace om::cli
