// objm get [--follow] [--wait T] KEY [FILE|-]
#include <fcntl.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <variant>
#include <vector>

#include "cli/commands.h"
#include "cli/context.h"
#include "cli/duration.h"
#include "cli/progress.h"
#include "posix/file.h"

namespace om::cli {

namespace {

struct GetArguments {
  std::string key;
  std::string file = "-";
  std::string wait;  // a duration
  bool follow = false;
  std::chrono::milliseconds timeout{0};  // of each of the daemon's answers
};

using SteadyClock = std::chrono::steady_clock;

Result<void> write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n >= 0)
      bytes = bytes.subspan(static_cast<std::size_t>(n));
    else if (errno != EINTR)
      return file_error("write");
  }
  return {};
}

std::chrono::milliseconds left_until(SteadyClock::time_point deadline) {
  return std::max(std::chrono::ceil<std::chrono::milliseconds>(deadline - SteadyClock::now()),
                  std::chrono::milliseconds(0));
}

// What somebody is writing, as it arrives. Between two pieces the writer may take as long as it
// likes: it is the daemon that knows when it is gone.
Result<void> copy(Follower& follower, const GetArguments& options, int output) {
  constexpr std::chrono::seconds kLook{2};
  constexpr std::uint64_t kUnknown = ~std::uint64_t{0};
  const std::uint64_t length = follower.info().length;
  Progress progress(options.key, length == kUnknown ? std::nullopt : std::optional(length));
  std::vector<std::byte> buffer(kPieceBytes);
  for (std::uint64_t done = 0;;) {
    const auto begin = SteadyClock::now();
    auto bytes = follower.read(done, buffer, kLook);
    if (!bytes) {
      // The daemon said that there is nothing new; else it would have had `timeout` more.
      const bool answered = bytes.error().code == Errc::kTimeout &&
                            SteadyClock::now() - begin < kLook + options.timeout;
      if (answered) continue;
      return std::move(bytes).error();
    }
    if (*bytes == 0) return {};
    OM_TRY(write_all(output, std::span(buffer).first(*bytes)));
    done += *bytes;
    progress.at(done);
  }
}

Result<void> copy(const Lease& lease, const GetArguments& options, int output) {
  Progress progress(options.key, lease.size());
  std::vector<std::byte> buffer(
      static_cast<std::size_t>(std::min<std::uint64_t>(lease.size(), kPieceBytes)));
  for (std::uint64_t done = 0; done < lease.size();) {
    const std::size_t bytes = OM_TRY(lease.read(done, buffer));
    OM_TRY(write_all(output, std::span(buffer).first(bytes)));
    done += bytes;
    progress.at(done);
  }
  return {};
}

// Ctrl-C and the like remove what is half written; empty when there is no such file.
std::array<char, PATH_MAX> unfinished{};

void remove_unfinished(int number) {
  (void)::unlink(unfinished.data());
  // The default again (SA_RESETHAND): it ends us when this function does.
  (void)::raise(number);
}

// A file for which mkostemp(3) makes the last letters of `name`, and which goes when we are ended
// before keep_unfinished().
Result<UniqueFd> make_unfinished(std::string& name) {
  sigset_t ending;
  sigset_t before;
  (void)::sigemptyset(&ending);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    (void)::sigaddset(&ending, number);
    struct sigaction action {};
    (void)::sigaction(number, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;  // nohup(1)
    action = {};
    action.sa_handler = remove_unfinished;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    (void)::sigaction(number, &action, nullptr);
  }
  (void)::pthread_sigmask(SIG_BLOCK, &ending, &before);
  auto file = UniqueFd::adopt(::mkostemp(name.data(), O_CLOEXEC));
  const int reason = errno;
  if (file && name.size() < unfinished.size())
    unfinished[name.copy(unfinished.data(), name.size())] = '\0';
  (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = reason;
  if (!file) return file_error("make " + name);
  return file;
}

// Some file systems tell here alone that they have not taken all of it.
Result<void> close_written(UniqueFd file, const std::string& path) {
  if (::close(file.release()) != 0 && errno != EINTR) return file_error("write " + path);
  return {};
}

// All of it is on the disk, then it takes the place of what was there, with its owner and mode.
Result<void> keep_unfinished(UniqueFd file, const std::string& name, const std::string& place,
                             const struct stat* old) {
  if (old != nullptr) {
    (void)!::fchown(file.raw(), old->st_uid, old->st_gid);
    (void)!::fchmod(file.raw(), old->st_mode & 0777U);
  } else {
    const mode_t mask = ::umask(0);
    (void)::umask(mask);
    (void)!::fchmod(file.raw(), 0666U & ~mask);
  }
  OM_TRY(sync_data(file.borrow()));
  OM_TRY(close_written(std::move(file), place));
  if (::rename(name.c_str(), place.c_str()) != 0)
    return system_error("rename " + name + " to " + place);
  return {};
}

// Where links lead to. None: to a descriptor (/dev/stdout, /dev/fd/3), which is no place. As the
// kernel does where it is told to (protected_symlinks), another user's link in a directory like
// /tmp is not followed.
Result<std::optional<std::string>> behind_links(std::string path) {
  using Place = std::optional<std::string>;
  constexpr int kLinksMost = 40;  // as the kernel
  struct stat processes {};
  (void)::stat("/proc", &processes);
  for (int links = 0; links < kLinksMost; ++links) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0 || !S_ISLNK(status.st_mode)) break;
    if (status.st_dev == processes.st_dev) return Place();
    const auto directory = std::filesystem::path(path).parent_path();
    struct stat above {};
    if (::stat(directory.empty() ? "." : directory.c_str(), &above) != 0) break;
    const bool is_for_all = (above.st_mode & S_ISVTX) != 0 && (above.st_mode & S_IWOTH) != 0;
    if (is_for_all && status.st_uid != ::geteuid() && status.st_uid != above.st_uid)
      return Error{Errc::kSystem, EACCES, "follow another user's link " + path};
    std::error_code failure;
    const auto to = std::filesystem::read_symlink(path, failure);
    if (failure) break;
    path = (directory / to).string();
  }
  return Place(std::move(path));
}

// What nothing can take the place of. What is standard output already is not opened again: whoever
// writes there after us would not know how far we came.
Result<UniqueFd> open_as_it_is(const std::string& path, const struct stat& status) {
  struct stat output {};
  if (::fstat(STDOUT_FILENO, &output) == 0 && output.st_dev == status.st_dev &&
      output.st_ino == status.st_ino)
    return duplicate(BorrowedFd(STDOUT_FILENO));
  return open_file(path, O_WRONLY | O_APPEND);
}

// The file under another name until it is whole, so that nobody sees half of it.
template <class Source>
Result<void> copy_to_file(Source& source, const GetArguments& options) {
  struct stat status {};
  const bool is_there = ::stat(options.file.c_str(), &status) == 0;
  if (!is_there && errno != ENOENT) return file_error("look at " + options.file);
  const auto place = OM_TRY(behind_links(options.file));
  if (!place || (is_there && !S_ISREG(status.st_mode))) {
    UniqueFd device = OM_TRY(open_as_it_is(options.file, status));
    OM_TRY(copy(source, options, device.raw()));
    return close_written(std::move(device), options.file);
  }
  std::string name = *place + ".objm-XXXXXX";
  UniqueFd file = OM_TRY(make_unfinished(name));
  auto done = copy(source, options, file.raw());
  if (done) done = keep_unfinished(std::move(file), name, *place, is_there ? &status : nullptr);
  if (!done) (void)::unlink(name.c_str());
  unfinished.front() = '\0';
  return done;
}

using Found = std::variant<std::monostate, Lease, Follower>;

// What there is at this moment.
Result<Found> look(Client& client, const GetArguments& options) {
  if (!options.follow) {
    auto lease = OM_TRY(client.get(options.key));
    return lease ? Found(*std::move(lease)) : Found();
  }
  PutOptions put;
  put.key = options.key;
  auto reserved = client.reserve_or_follow(put);
  if (!reserved) {
    // One of several writers has just given up.
    if (reserved.error().code == Errc::kBusy) return Found();
    return std::move(reserved).error();
  }
  if (auto* lease = std::get_if<Lease>(&*reserved)) return Found(std::move(*lease));
  if (auto* follower = std::get_if<Follower>(&*reserved)) return Found(std::move(*follower));
  // Nobody writes it, and we are no writer.
  OM_TRY(std::get<Writer>(*std::move(reserved)).abort());
  return Found();
}

// What there is, to where it is wanted. False: nothing that would be an object came of it.
Result<bool> deliver(Found& found, const GetArguments& options) {
  const auto copied = [&](auto& source) {
    return options.file == "-" ? copy(source, options, STDOUT_FILENO)
                               : copy_to_file(source, options);
  };
  if (auto* lease = std::get_if<Lease>(&found)) {
    OM_TRY(copied(*lease));
    return true;
  }
  auto* follower = std::get_if<Follower>(&found);
  if (follower == nullptr) return false;
  auto done = copied(*follower);
  // Whoever looks as we do (look()) is a writer for a moment.
  if (!done && done.error().code == Errc::kNotFound && follower->available() == 0) return false;
  if (!done) return std::move(done).error();
  return true;
}

// Until something came, or the time is up.
Result<bool> get(Client& client, const GetArguments& options, std::chrono::nanoseconds wait) {
  // Nothing tells when somebody begins to write: that is looked for.
  constexpr std::chrono::milliseconds kLook{100};
  const auto deadline = SteadyClock::now() + wait;
  if (wait.count() > 0) OM_TRY(client.subscribe(kPublishedEvents, options.key));
  while (true) {
    auto found = look(client, options);
    const auto left = left_until(deadline);
    if (!found) {
      // A daemon that is busy: whoever waits waits for that, too.
      if (found.error().code == Errc::kTimeout && left.count() > 0) continue;
      return std::move(found).error();
    }
    if (OM_TRY(deliver(*found, options))) return true;
    if (wait.count() == 0 || left.count() == 0) return false;
    (void)OM_TRY(client.next_event(options.follow ? std::min(left, kLook) : left));
  }
}

int run_get(const Context& context, const GetArguments& options) {
  std::chrono::nanoseconds wait{0};
  if (!options.wait.empty()) {
    const auto parsed = parse_duration(options.wait);
    if (!parsed) return misuse("--wait: " + parsed.error().what);
    wait = *parsed;
  }
  auto client = context.connect();
  if (!client) return fail(client.error());
  const auto done = get(*client, options, wait);
  if (!done)
    return fail(done.error().code == Errc::kNotFound ? options.key : "get " + options.key,
                done.error());
  return *done ? kDone : fail({Errc::kNotFound, 0, options.key});
}

}  // namespace

void add_get(CLI::App& app, Context& context) {
  auto options = std::make_shared<GetArguments>();
  CLI::App* command = app.add_subcommand("get", "Write an object's body to a file");
  command->add_option("KEY", options->key, "Its key")->required();
  command->add_option("FILE", options->file, "Where to; - for standard output")
      ->capture_default_str();
  command->add_flag("--follow", options->follow,
                    "Where somebody is writing it: its bytes as they arrive");
  command->add_option("--wait", options->wait, "Where there is none: wait for it, so long at most")
      ->type_name("T");
  command->callback([options, &context] {
    options->timeout = context.timeout;
    context.exit_code = run_get(context, *options);
  });
}

}  // namespace om::cli
