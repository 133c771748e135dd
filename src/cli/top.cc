// objm top: the daemon's numbers as they move, in a terminal of 80x24 or more; once, as text or
// JSON, for scripts.
#include <ncurses.h>
#include <poll.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/result.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/context.h"
#include "cli/duration.h"
#include "cli/sample.h"
#include "cli/text.h"

namespace om::cli {

namespace {

struct TopArguments {
  double interval_s = 1;
  std::string varnish;
  bool once = false;
  bool json = false;
  bool no_varnish = false;
};

std::string fixed(double value, int digits = 1) {
  std::array<char, 64> text{};
  (void)std::snprintf(text.data(), text.size(), "%.*f", digits, value);
  return text.data();
}

std::string percent(std::optional<double> ratio) {
  return ratio ? fixed(*ratio * 100) + "%" : std::string("-");
}

std::string bytes_per_s(double rate) {
  return format_size(static_cast<std::uint64_t>(rate)) + "/s";
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() > width) text.resize(width);
  return text + std::string(width - text.size(), ' ');
}

std::string bar(std::uint64_t used, std::uint64_t capacity, std::size_t width) {
  const double share =
      capacity == 0 ? 0 : std::min(1.0, static_cast<double>(used) / static_cast<double>(capacity));
  const auto filled = static_cast<std::size_t>(share * static_cast<double>(width));
  return "[" + std::string(filled, '#') + std::string(width - filled, ' ') + "]";
}

// The screen as lines of at most `columns`, so that the same goes to a terminal and to a pipe.
std::vector<std::string> render(const Sample& now, const Overview& o, const std::string& socket,
                                std::size_t columns, std::size_t rows) {
  std::vector<std::string> lines;
  const auto version = now.texts.find("daemon.version");
  lines.push_back("objmapper " + (version == now.texts.end() ? std::string() : version->second) +
                  "  pid " + std::to_string(now.number({"daemon.pid"}).value_or(0)) + "  " +
                  printable(socket));
  lines.emplace_back();
  lines.push_back("hit ratio " + padded(percent(o.hit_ratio), 8) + " since start " +
                  padded(percent(o.hit_ratio_total), 8) + " clients " + std::to_string(o.clients));
  lines.push_back("requests  " + padded(fixed(o.requests_per_s) + "/s", 12) + " get " +
                  padded(fixed(o.gets_per_s) + "/s", 12) + " evictions " +
                  fixed(o.evictions_per_s) + "/s");
  lines.push_back("bytes     out " + padded(bytes_per_s(o.bytes_out_per_s), 12) + "  in " +
                  bytes_per_s(o.bytes_in_per_s));
  if (!now.varnish.empty())
    lines.push_back("varnishd  " + padded(fixed(o.varnish_requests_per_s) + "/s", 12) + " hit " +
                    padded(percent(o.varnish_hit_ratio), 8) + " fall-backs " +
                    std::to_string(o.varnish_fallbacks));
  lines.emplace_back();
  for (const Overview::Tier& tier : o.tiers)
    lines.push_back(padded(tier.name, 10) + bar(tier.used_bytes, tier.capacity_bytes, 30) + " " +
                    format_size(tier.used_bytes) + " of " + format_size(tier.capacity_bytes));
  if (!now.regions.empty()) {
    lines.emplace_back();
    lines.push_back(padded("region", 34) + padded("memory", 10) + padded("disk", 10) + "use");
    // A busy host has many: at most a third of the screen.
    const std::size_t most = std::max<std::size_t>(3, rows / 3);
    for (std::size_t i = 0; i < now.regions.size() && i < most; ++i) {
      const RegionEntry& region = now.regions[i];
      lines.push_back(padded(printable(region.owner), 33) + " " +
                      padded(format_size(region.memory_bytes), 10) +
                      padded(format_size(region.disk_bytes), 10) +
                      (region.held ? "pid " + std::to_string(region.pid) : std::string("-")));
    }
    if (now.regions.size() > most)
      lines.push_back("... and " + std::to_string(now.regions.size() - most) + " more");
  }
  lines.emplace_back();
  // The rest of the screen: what moves most, then what has moved at all.
  std::vector<Overview::Rate> counters;
  for (const Overview::Rate& counter : o.counters)
    if (counter.total > 0) counters.push_back(counter);
  std::stable_sort(counters.begin(), counters.end(),
                   [](const auto& a, const auto& b) { return a.per_s > b.per_s; });
  for (const Overview::Rate& counter : counters) {
    if (lines.size() + 1 >= rows) break;
    lines.push_back(padded(counter.name, 36) + padded(std::to_string(counter.total), 16) +
                    fixed(counter.per_s) + "/s");
  }
  for (std::string& line : lines)
    if (line.size() > columns) line.resize(columns);
  if (lines.size() > rows) lines.resize(rows);
  return lines;
}

void print_json(const Sample& now, const Overview& o) {
  using nlohmann::json;
  const auto maybe = [](std::optional<double> value) { return value ? json(*value) : json(); };
  json tiers = json::array();
  for (const Overview::Tier& tier : o.tiers)
    tiers.push_back({{"name", tier.name},
                     {"used_bytes", tier.used_bytes},
                     {"capacity_bytes", tier.capacity_bytes}});
  json regions = json::array();
  for (const RegionEntry& region : now.regions)
    regions.push_back({{"owner", region.owner},
                       {"memory_bytes", region.memory_bytes},
                       {"disk_bytes", region.disk_bytes},
                       {"held", region.held},
                       {"pid", region.pid}});
  json out{{"seconds", o.seconds},
           {"hit_ratio", maybe(o.hit_ratio)},
           {"hit_ratio_total", maybe(o.hit_ratio_total)},
           {"requests_per_s", o.requests_per_s},
           {"gets_per_s", o.gets_per_s},
           {"bytes_out_per_s", o.bytes_out_per_s},
           {"bytes_in_per_s", o.bytes_in_per_s},
           {"evictions_per_s", o.evictions_per_s},
           {"clients", o.clients},
           {"tiers", tiers},
           {"regions", regions},
           {"numbers", now.numbers},
           {"texts", now.texts}};
  if (!now.varnish.empty())
    out["varnish"] = {{"requests_per_s", o.varnish_requests_per_s},
                      {"hit_ratio", maybe(o.varnish_hit_ratio)},
                      {"fallbacks", o.varnish_fallbacks},
                      {"counters", now.varnish}};
  print_json_line(out);
}

Result<Sample> look(Client& client, const TopArguments& options) {
  Sample sample = OM_TRY(take_sample(client));
  if (!options.no_varnish) sample.varnish = varnish_counters(options.varnish);
  return sample;
}

int run_once(const Context& context, Client& client, const TopArguments& options) {
  const auto before = look(client, options);
  if (!before) return fail("top", before.error());
  std::this_thread::sleep_for(std::chrono::duration<double>(options.interval_s));
  const auto now = look(client, options);
  if (!now) return fail("top", now.error());
  const Overview overview = compare(*before, *now);
  if (options.json)
    print_json(*now, overview);
  else
    for (const std::string& line : render(*now, overview, context.socket, 100, 60))
      (void)std::printf("%s\n", line.c_str());
  return finish_output();
}

// ncurses as long as it lives.
class Screen {
 public:
  Screen() {
    ::initscr();
    ::cbreak();
    ::noecho();
    ::curs_set(0);
    ::nodelay(stdscr, TRUE);
    ::keypad(stdscr, TRUE);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  ~Screen() { ::endwin(); }
  static std::size_t rows() { return static_cast<std::size_t>(std::max(getmaxy(stdscr), 1)); }
  static std::size_t columns() { return static_cast<std::size_t>(std::max(getmaxx(stdscr), 1)); }
  static void show(const std::vector<std::string>& lines) {
    ::erase();
    int row = 0;
    for (const std::string& line : lines) (void)mvaddnstr(row++, 0, line.c_str(), -1);
    (void)mvaddnstr(static_cast<int>(rows()) - 1, 0, "q quits", static_cast<int>(columns()) - 1);
    ::refresh();
  }
  // Waits; true: the user wants to leave.
  static bool quit_within(std::chrono::duration<double> time) {
    const auto deadline = std::chrono::steady_clock::now() + time;
    while (true) {
      for (int key = ::getch(); key != ERR; key = ::getch()) {
        if (key == 'q' || key == 'Q' || key == 27) return true;
        if (key == KEY_RESIZE) return false;
      }
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      if (left.count() <= 0) return false;
      pollfd input{STDIN_FILENO, POLLIN, 0};
      if (::poll(&input, 1, static_cast<int>(left.count())) > 0 &&
          (input.revents & (POLLHUP | POLLERR)) != 0)
        return true;
    }
  }
};

int run_live(const Context& context, const TopArguments& options) {
  auto client = context.connect();
  if (!client) return fail(client.error());
  auto before = look(*client, options);
  if (!before) return fail("top", before.error());
  std::optional<Error> failure;
  const Screen screen;
  // A short first look, so that there are rates to show soon.
  std::chrono::duration<double> pause(std::min(options.interval_s, .3));
  while (!Screen::quit_within(pause)) {
    pause = std::chrono::duration<double>(options.interval_s);
    // A look that failed on a new connection left nothing to compare with.
    if (!client || client->closed() || !before) {
      client = context.connect();
      if (client) before = look(*client, options);
      if (!client || !before) {
        Screen::show({describe(client ? before.error() : client.error()), "", "trying again"});
        continue;
      }
    }
    auto now = look(*client, options);
    if (!now) {
      client->close();
      continue;
    }
    Screen::show(render(*now, compare(*before, *now), context.socket, Screen::columns(),
                        Screen::rows() - 1));
    before = std::move(now);
  }
  return kDone;
}

int run_top(const Context& context, const TopArguments& options) {
  if (options.json && !options.once) return misuse("top: --json goes with --once");
  if (options.once) {
    auto client = context.connect();
    if (!client) return fail(client.error());
    return run_once(context, *client, options);
  }
  if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDOUT_FILENO) != 1)
    return misuse("top wants a terminal; use --once, with --json for programs");
  return run_live(context, options);
}

}  // namespace

void add_top(CLI::App& app, Context& context) {
  auto options = std::make_shared<TopArguments>();
  CLI::App* command = app.add_subcommand("top", "Watch the daemon, and varnishd where it runs");
  command->add_option("--interval", options->interval_s, "Seconds between two looks")
      ->check(CLI::Range(.05, 3600.0))
      ->capture_default_str();
  command->add_option("--varnish", options->varnish, "varnishd's -n");
  command->add_flag("--no-varnish", options->no_varnish, "Do not ask varnishstat");
  command->add_flag("--once", options->once, "Print one interval and end");
  command->add_flag("--json", options->json, "With --once: as JSON");
  command->callback([options, &context] { context.exit_code = run_top(context, *options); });
}

}  // namespace om::cli
