#include "cli/sample.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om::cli {

namespace {

constexpr std::chrono::seconds kVarnishstatLimit{2};

// What only grows. The store's own counters have no suffix.
bool is_counter(const std::string& name) {
  if (name.ends_with("_total") || name.starts_with("evicted.")) return true;
  for (const char* counter : {"published", "refreshed", "aborted", "removed", "expired", "demoted",
                              "compacted", "revoked", "no_space"})
    if (name == counter) return true;
  return false;
}

double rate(std::uint64_t before, std::uint64_t now, double seconds) {
  // A counter that went back belongs to a daemon that started anew.
  return seconds <= 0 || now < before ? 0 : static_cast<double>(now - before) / seconds;
}

std::optional<double> ratio(std::uint64_t hits, std::uint64_t misses) {
  if (hits + misses == 0) return std::nullopt;
  return static_cast<double>(hits) / static_cast<double>(hits + misses);
}

// What a program says on its standard output within a time limit; empty when it fails.
std::string output_of(std::vector<std::string> arguments) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return {};
  const auto reader = UniqueFd::adopt(ends[0]);
  auto writer = UniqueFd::adopt(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, writer.raw(), STDOUT_FILENO);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t child = -1;
  const int failed = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return {};
  writer.reset();
  std::string text;
  std::array<char, 16384> piece{};
  const auto deadline = std::chrono::steady_clock::now() + kVarnishstatLimit;
  bool whole = false;
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd look{reader.raw(), POLLIN, 0};
    if (left.count() <= 0 || ::poll(&look, 1, static_cast<int>(left.count())) <= 0) break;
    const ssize_t n = ::read(reader.raw(), piece.data(), piece.size());
    if (n <= 0) {
      whole = n == 0;
      break;
    }
    text.append(piece.data(), static_cast<std::size_t>(n));
  }
  if (!whole) (void)::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return whole && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? text : std::string();
}

}  // namespace

std::optional<std::uint64_t> Sample::number(std::initializer_list<const char*> names) const {
  for (const char* name : names)
    if (const auto found = numbers.find(name); found != numbers.end()) return found->second;
  return std::nullopt;
}

Result<Sample> take_sample(Client& client) {
  Sample sample;
  auto items = OM_TRY(client.status());
  sample.when = std::chrono::steady_clock::now();
  for (StatusItem& item : items) {
    if (item.text.empty())
      sample.numbers[item.name] = item.number;
    else
      sample.texts[item.name] = std::move(item.text);
  }
  // Not everybody may look at regions; the rest is worth showing all the same.
  if (auto regions = client.list_regions())
    sample.regions = *std::move(regions);
  else if (regions.error().code == Errc::kUnavailable)
    return std::move(regions).error();
  return sample;
}

std::map<std::string, std::uint64_t> parse_varnishstat(const std::string& text) {
  std::map<std::string, std::uint64_t> counters;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    std::string value;
    if (!(words >> name >> value) || name.find('.') == std::string::npos) continue;
    std::uint64_t number = 0;
    const auto [end, problem] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (problem == std::errc{} && end == value.data() + value.size()) counters[name] = number;
  }
  return counters;
}

std::map<std::string, std::uint64_t> varnish_counters(const std::string& instance) {
  std::vector<std::string> arguments{"varnishstat", "-1", "-t", "0"};
  if (!instance.empty()) {
    arguments.emplace_back("-n");
    arguments.push_back(instance);
  }
  return parse_varnishstat(output_of(std::move(arguments)));
}

Overview compare(const Sample& before, const Sample& now) {
  Overview o;
  o.seconds = std::chrono::duration<double>(now.when - before.when).count();
  const auto grown = [&](std::initializer_list<const char*> names) {
    const std::uint64_t old = before.number(names).value_or(0);
    const std::uint64_t fresh = now.number(names).value_or(0);
    return fresh < old ? 0 : fresh - old;
  };
  const auto per_s = [&](std::initializer_list<const char*> names) {
    return rate(before.number(names).value_or(0), now.number(names).value_or(0), o.seconds);
  };
  o.hit_ratio = ratio(grown({"get.hits_total"}), grown({"get.misses_total"}));
  o.hit_ratio_total = ratio(now.number({"get.hits_total"}).value_or(0),
                            now.number({"get.misses_total"}).value_or(0));
  o.gets_per_s = per_s({"get.hits_total"}) + per_s({"get.misses_total"});
  o.bytes_out_per_s = per_s({"get.bytes_total"});
  o.bytes_in_per_s = per_s({"put.bytes_total"});
  o.clients = now.number({"connections.open"}).value_or(0);
  for (const auto& [name, value] : now.numbers) {
    if (!is_counter(name)) continue;
    const auto old = before.numbers.find(name);
    const double r = rate(old == before.numbers.end() ? 0 : old->second, value, o.seconds);
    if (name.starts_with("requests.")) o.requests_per_s += r;
    if (name.find("evict") != std::string::npos && name.find("bytes") == std::string::npos)
      o.evictions_per_s += r;
    o.counters.push_back({name, value, r});
  }
  for (const auto& [name, value] : now.numbers) {
    constexpr std::string_view kSuffix = ".capacity_bytes";
    if (!name.ends_with(kSuffix)) continue;
    const std::string tier = name.substr(0, name.size() - kSuffix.size());
    // A single disk directory is the disk tier.
    if (tier.starts_with("disk.") && !now.numbers.contains("disk.1.capacity_bytes")) continue;
    const auto used = now.numbers.find(tier + ".used_bytes");
    o.tiers.push_back({tier, used == now.numbers.end() ? 0 : used->second, value});
  }

  const auto varnish = [](const Sample& s, const char* name) {
    const auto found = s.varnish.find(name);
    return found == s.varnish.end() ? std::uint64_t{0} : found->second;
  };
  const auto varnish_grown = [&](const char* name) {
    const std::uint64_t old = varnish(before, name);
    const std::uint64_t fresh = varnish(now, name);
    return fresh < old ? 0 : fresh - old;
  };
  o.varnish_hit_ratio = ratio(varnish_grown("MAIN.cache_hit"), varnish_grown("MAIN.cache_miss"));
  o.varnish_requests_per_s =
      rate(varnish(before, "MAIN.client_req"), varnish(now, "MAIN.client_req"), o.seconds);
  for (const auto& [name, value] : now.varnish)
    if (name.find(".c_fallback_") != std::string::npos) o.varnish_fallbacks += value;
  return o;
}

}  // namespace om::cli
