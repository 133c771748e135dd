// objmapperd: flags, log, limits, the order of starting and of ending.
//
// Exit codes: 0 asked to end, 1 something failed while serving, 2 flags or configuration are wrong,
// 3 cannot start with them here (socket taken, directory not writable, no space).
#include <fcntl.h>
#include <grp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <optional>

#include "base/units.h"
#include "loop/signals.h"
#include "posix/file.h"
#include "posix/unix_socket.h"
#include "server/config.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/server.h"
#include "server/status.h"

namespace om::server {
namespace {

constexpr int kCannotStart = 3;

// The socket that systemd passed, or one of our own.
struct Listening {
  UniqueFd socket;
  std::optional<FileId> file;  // that we made for it
};

Result<Listening> listen(const Config& config) {
  const int passed = ::sd_listen_fds(1);
  if (passed > 1)
    return Error{
        Errc::kMalformed, 0,
        "systemd passed more than one socket: one .socket unit with one ListenSequentialPacket="};
  if (passed == 1) {
    auto socket = UniqueFd::adopt(SD_LISTEN_FDS_START);
    if (::sd_is_socket_unix(socket.raw(), SOCK_SEQPACKET, 1, nullptr, 0) <= 0)
      return Error{Errc::kMalformed, 0,
                   "the socket that systemd passed is not ListenSequentialPacket="};
    const int flags = ::fcntl(socket.raw(), F_GETFL);
    (void)::fcntl(socket.raw(), F_SETFL, flags | O_NONBLOCK);
    return Listening{std::move(socket), std::nullopt};
  }
  const auto directory = std::filesystem::path(config.socket).parent_path();
  if (!directory.empty()) {
    std::error_code code;
    // The way to the socket is for all, who may connect is its own mode.
    const mode_t ours = ::umask(022);
    std::filesystem::create_directories(directory, code);
    ::umask(ours);
    if (::access(directory.c_str(), W_OK | X_OK) != 0)
      return Error{Errc::kDenied, errno,
                   "socket directory " + directory.string() + " is not writable for user " +
                       std::to_string(::geteuid()) + ": choose another --socket, or make it"};
  }
  auto socket = OM_TRY(listen_seqpacket(config.socket, 0660, 1024));
  const auto file = file_id(config.socket);
  // NOLINTNEXTLINE(concurrency-mt-unsafe): there is one thread yet
  if (const group* const g = ::getgrnam("objmapper"); g != nullptr && ::geteuid() == 0)
    (void)!::chown(config.socket.c_str(), static_cast<uid_t>(-1), g->gr_gid);
  return Listening{std::move(socket), file};
}

Result<void> check_directory(const char* flag, const std::string& path) {
  if (auto made = open_directory(path); !made)
    return Error{
        made.error().code, made.error().sys_errno,
        std::string("--") + flag + " " + path + " cannot be used: make it, or choose another"};
  if (::access(path.c_str(), R_OK | W_OK | X_OK) != 0)
    return Error{Errc::kDenied, errno,
                 std::string("--") + flag + " " + path + " is not writable for user " +
                     std::to_string(::geteuid()) + ": chown it, or choose another"};
  return {};
}

Result<void> check_directories(const Config& config) {
  OM_TRY(check_directory("memory-dir", config.store.memory_dir));
  for (const store::DiskConfig& disk : config.store.disks)
    OM_TRY(check_directory("disk", disk.path));
  return check_directory("state-dir", config.store.state_dir);
}

// Of those that are configured.
std::uint64_t open_disks(const Config& config, store::Store& store) {
  std::uint64_t failed = 0;
  for (const store::StatusItem& item : store.status())
    if (item.name == "disk.failed") failed = item.number;
  return config.store.disks.size() - failed;
}

int cannot_start(const Error& error) {
  spdlog::critical("cannot start: {}", describe(error));
  (void)::sd_notifyf(0, "STATUS=cannot start: %s", describe(error).c_str());
  return kCannotStart;
}

// What can change while we run: the groups and the log level. The rest says that it needs a start.
void reload(int argc, const char* const* argv, Config& config, Server& server) {
  timespec now{};
  (void)::clock_gettime(CLOCK_MONOTONIC, &now);
  (void)::sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld",
                     static_cast<long long>(now.tv_sec) * 1'000'000 + now.tv_nsec / 1000);
  auto parsed = parse_arguments(argc, argv);
  if (const auto* wrong = std::get_if<ExitNow>(&parsed)) {
    spdlog::error("reload refused, the old configuration stays: {}", wrong->text);
  } else if (!config.config_path.empty() &&
             std::get<Arguments>(parsed).config.config_path.empty()) {
    // Without it nobody would be kept out any more.
    spdlog::error("reload refused, the old configuration stays: {} is gone", config.config_path);
  } else {
    const Config& fresh = std::get<Arguments>(parsed).config;
    server.set_access(fresh.access);
    set_log_level(fresh.log_level);
    const auto same_disks = [](const auto& a, const auto& b) {
      return a.path == b.path && a.bytes == b.bytes;
    };
    const bool needs_start =
        fresh.socket != config.socket || fresh.metrics != config.metrics ||
        fresh.store.memory_bytes != config.store.memory_bytes ||
        fresh.store.memory_dir != config.store.memory_dir ||
        fresh.store.state_dir != config.store.state_dir ||
        fresh.store.file_threshold != config.store.file_threshold ||
        fresh.store.revoke_grace_ns != config.store.revoke_grace_ns ||
        !std::equal(fresh.store.disks.begin(), fresh.store.disks.end(), config.store.disks.begin(),
                    config.store.disks.end(), same_disks);
    spdlog::info("reloaded log_level={}", fresh.log_level);
    if (needs_start)
      spdlog::warn(
          "socket, metrics, sizes, directories and revoke-grace change with the next start only");
    config.config_path = fresh.config_path;
    config.access = fresh.access;
    config.log_level = fresh.log_level;
  }
  (void)::sd_notify(0, "READY=1");
}

int serve(int argc, const char* const* argv, Config config) {
  const std::size_t descriptors = raise_descriptor_limit();
  auto loop = Loop::make();
  if (!loop) return cannot_start(loop.error());
  Server* running = nullptr;
  auto signals = Signals::make(**loop, {SIGTERM, SIGINT, SIGHUP}, [&](int number) {
    if (number == SIGHUP && running != nullptr) return reload(argc, argv, config, *running);
    spdlog::info("ending signal={}", number);
    (*loop)->stop();
  });
  if (!signals) return cannot_start(signals.error());
  (void)std::signal(SIGPIPE, SIG_IGN);

  auto listening = listen(config);
  if (!listening) return cannot_start(listening.error());
  const auto remove_socket = [&] {
    if (listening->file) remove_own_socket(config.socket, listening->file);
  };
  if (auto checked = check_directories(config); !checked) {
    remove_socket();
    return cannot_start(checked.error());
  }
  const SystemClock clock;
  std::vector<std::string> troubles;
  auto store = store::Store::open(config.store, clock, &troubles);
  if (!store) {
    for (const std::string& line : troubles) spdlog::warn("{}", line);
    remove_socket();
    return cannot_start(store.error());
  }
  int code = 0;
  {
    auto server =
        Server::start(**loop, **store, clock, config.access, std::move(listening->socket));
    if (!server) {
      remove_socket();
      return cannot_start(server.error());
    }
    running = server->get();
    std::unique_ptr<Metrics> metrics;
    if (config.metrics) {
      auto started = Metrics::start(**loop, *config.metrics, [s = server->get()] {
        return prometheus_text(status_items(s->shared()));
      });
      if (!started) {
        remove_socket();
        return cannot_start(started.error());
      }
      metrics = *std::move(started);
      spdlog::info("metrics at={}", metrics->where());
    }
    spdlog::info(
        "ready version={} socket={} memory={} memory_dir={} disks={} state_dir={} descriptors={}",
        OM_VERSION, config.socket, format_size(config.store.memory_bytes), config.store.memory_dir,
        open_disks(config, **store), config.store.state_dir, descriptors);
    (void)::sd_notifyf(0, "READY=1\nSTATUS=serving on %s", config.socket.c_str());
    if (auto ran = (*loop)->run(); !ran) {
      spdlog::critical("the event loop failed error=\"{}\"", describe(ran.error()));
      code = 1;
    }
    (void)::sd_notify(0, "STOPPING=1");
    running = nullptr;
    remove_socket();
  }
  if (auto ended = (*store)->shutdown(); !ended) {
    spdlog::error("the store did not end cleanly error=\"{}\"", describe(ended.error()));
    code = 1;
  }
  spdlog::info("ended");
  return code;
}

int run(int argc, const char* const* argv) {
  auto parsed = parse_arguments(argc, argv);
  if (const auto* now = std::get_if<ExitNow>(&parsed)) {
    (void)std::fputs(now->text.c_str(), now->code == 0 ? stdout : stderr);
    return now->code;
  }
  auto& arguments = std::get<Arguments>(parsed);
  if (arguments.check_only) {
    const Config& config = arguments.config;
    (void)std::printf("configuration is right%s%s\nsocket %s\nmemory %s in %s\nstate in %s\n",
                      config.config_path.empty() ? "" : ": ", config.config_path.c_str(),
                      config.socket.c_str(), format_size(config.store.memory_bytes).c_str(),
                      config.store.memory_dir.c_str(), config.store.state_dir.c_str());
    for (const store::DiskConfig& disk : config.store.disks)
      (void)std::printf(
          "disk %s %s\n", disk.path.c_str(),
          disk.bytes == 0 ? "as large as its file system" : format_size(disk.bytes).c_str());
    return 0;
  }
  start_log(arguments.config.log_level);
  // Nothing that we make is for others; but the socket and the way to it (listen).
  ::umask(077);
  return serve(argc, argv, arguments.config);
}

}  // namespace
}  // namespace om::server

int main(int argc, char** argv) {
  try {
    return om::server::run(argc, argv);
  } catch (const std::exception& error) {
    (void)std::fprintf(stderr, "objmapperd: %s\n", error.what());
    return 1;
  }
}
