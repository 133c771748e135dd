// objm get [--follow] [--wait T] KEY [FILE|-]
#include <fcntl.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
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
Result<void> copy(Follower& follower, const std::string& key, int output) {
  constexpr std::chrono::seconds kLook{60};
  constexpr std::uint64_t kUnknown = ~std::uint64_t{0};
  const std::uint64_t length = follower.info().length;
  Progress progress(key, length == kUnknown ? std::nullopt : std::optional(length));
  std::vector<std::byte> buffer(kPieceBytes);
  for (std::uint64_t done = 0;;) {
    auto bytes = follower.read(done, buffer, kLook);
    if (!bytes && bytes.error().code == Errc::kTimeout) continue;
    if (!bytes) return std::move(bytes).error();
    if (*bytes == 0) return {};
    OM_TRY(write_all(output, std::span(buffer).first(*bytes)));
    done += *bytes;
    progress.at(done);
  }
}

Result<void> copy(const Lease& lease, const std::string& key, int output) {
  Progress progress(key, lease.size());
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

// The file under another name until it is whole, so that nobody sees half of it.
template <class Source>
Result<void> copy_to_file(Source& source, const GetArguments& options) {
  struct stat status {};
  if (::stat(options.file.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    const UniqueFd device = OM_TRY(open_file(options.file, O_WRONLY));
    return copy(source, options.key, device.raw());
  }
  const std::string partial = options.file + ".objm-" + std::to_string(::getpid());
  const UniqueFd file = OM_TRY(open_file(partial, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666));
  auto done = copy(source, options.key, file.raw());
  if (done && ::rename(partial.c_str(), options.file.c_str()) != 0)
    done = system_error("rename " + partial + " to " + options.file);
  if (!done) (void)::unlink(partial.c_str());
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
    return options.file == "-" ? copy(source, options.key, STDOUT_FILENO)
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
  command->callback([options, &context] { context.exit_code = run_get(context, *options); });
}

}  // namespace om::cli
