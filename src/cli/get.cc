// objm get KEY [FILE|-]
#include <fcntl.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <vector>

#include "cli/commands.h"
#include "cli/context.h"
#include "cli/progress.h"
#include "posix/file.h"

namespace om::cli {

namespace {

constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

struct Options {
  std::string key;
  std::string file = "-";
};

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
Result<void> copy_to_file(const Lease& lease, const Options& options) {
  struct stat status {};
  if (::stat(options.file.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    const UniqueFd device = OM_TRY(open_file(options.file, O_WRONLY));
    return copy(lease, options.key, device.raw());
  }
  const std::string partial = options.file + ".objm-" + std::to_string(::getpid());
  const UniqueFd file = OM_TRY(open_file(partial, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666));
  auto done = copy(lease, options.key, file.raw());
  if (done && ::rename(partial.c_str(), options.file.c_str()) != 0)
    done = system_error("rename " + partial + " to " + options.file);
  if (!done) (void)::unlink(partial.c_str());
  return done;
}

int run(const Context& context, const Options& options) {
  auto client = context.connect();
  if (!client) return fail(client.error());
  auto lease = client->get(options.key);
  if (!lease) return fail("get " + options.key, lease.error());
  if (!lease->has_value()) return fail({Errc::kNotFound, 0, options.key});
  const auto done = options.file == "-" ? copy(**lease, options.key, STDOUT_FILENO)
                                        : copy_to_file(**lease, options);
  if (!done) return fail(options.file == "-" ? "standard output" : options.file, done.error());
  return kDone;
}

}  // namespace

void add_get(CLI::App& app, Context& context) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("get", "Write an object's body to a file");
  command->add_option("KEY", options->key, "Its key")->required();
  command->add_option("FILE", options->file, "Where to; - for standard output")
      ->capture_default_str();
  command->callback([options, &context] { context.exit_code = run(context, *options); });
}

}  // namespace om::cli
