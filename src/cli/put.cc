// objm put KEY [FILE|-]
#include <fcntl.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <vector>

#include "base/limits.h"
#include "cli/commands.h"
#include "cli/context.h"
#include "cli/duration.h"
#include "cli/progress.h"
#include "posix/file.h"

namespace om::cli {

namespace {

struct PutArguments {
  std::string key;
  std::string file = "-";
  std::string ttl;
  std::vector<std::string> tags;
  std::string metadata;
  std::string metadata_file;
  bool ephemeral = false;
  bool disk = false;
};

// The next piece of the input, however it comes; 0 at its end.
Result<std::size_t> read_piece(int fd, std::span<std::byte> piece) {
  while (true) {
    const ssize_t n = ::read(fd, piece.data(), piece.size());
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno != EINTR) return system_error("read");
  }
}

// One byte more than there may be is enough for the refusal.
Result<std::string> read_metadata(const std::string& path) {
  const UniqueFd file = OM_TRY(open_file(path, O_RDONLY));
  auto text = read_to_end(file.borrow(), kMetadataBytesMax + 1);
  if (!text) return Error{text.error().code, text.error().sys_errno, "read " + path};
  return text;
}

int run_put(const Context& context, const PutArguments& options) {
  PutOptions put;
  put.key = options.key;
  put.tags = options.tags;
  put.ephemeral = options.ephemeral;
  put.disk = options.disk;
  put.metadata = options.metadata;
  if (!options.metadata_file.empty()) {
    auto metadata = read_metadata(options.metadata_file);
    if (!metadata) return fail(metadata.error());
    put.metadata = *std::move(metadata);
  }
  if (!options.ttl.empty()) {
    const auto ttl = parse_duration(options.ttl);
    if (!ttl) return misuse(ttl.error().what);
    put.expires_ns = expires_in(*ttl);
  }

  UniqueFd file;
  int input = STDIN_FILENO;
  if (options.file != "-") {
    auto opened = open_file(options.file, O_RDONLY);
    if (!opened) return fail(opened.error());
    file = *std::move(opened);
    input = file.raw();
    struct stat status {};
    if (::fstat(input, &status) != 0) return fail(system_error("look at " + options.file));
    if (S_ISDIR(status.st_mode)) return misuse(options.file + " is a directory");
    if (S_ISREG(status.st_mode)) put.length = static_cast<std::uint64_t>(status.st_size);
  }

  auto client = context.connect();
  if (!client) return fail(client.error());
  auto writer = client->reserve(put);
  if (!writer) return fail("put " + options.key, writer.error());
  {
    Progress progress(options.key, put.length);
    std::vector<std::byte> buffer(kPieceBytes);
    while (true) {
      const auto bytes = read_piece(input, buffer);
      if (!bytes) return fail(options.file, bytes.error());
      if (*bytes == 0) break;
      if (put.length && writer->written() + *bytes > *put.length)
        return fail({Errc::kSystem, 0, options.file + " grew while it was read: try again"});
      if (auto written = writer->write(std::span(buffer).first(*bytes)); !written)
        return fail("put " + options.key, written.error());
      progress.at(writer->written());
    }
  }
  if (put.length && writer->written() < *put.length)
    return fail({Errc::kSystem, 0, options.file + " became shorter while it was read: try again"});
  auto done = std::move(*writer).commit();
  if (!done) return fail("put " + options.key, done.error());
  return kDone;
}

}  // namespace

void add_put(CLI::App& app, Context& context) {
  auto options = std::make_shared<PutArguments>();
  CLI::App* command = app.add_subcommand("put", "Store an object, replacing one of the same key");
  command->add_option("KEY", options->key, "Its key, a URI")->required();
  command->add_option("FILE", options->file, "The body; - for standard input")
      ->capture_default_str();
  command->add_option("--ttl", options->ttl, "Gone after so long: 90, 90s, 15m, 2h, 7d, 1.5h");
  command->add_option("--tag", options->tags, "A tag to purge it by; may be repeated")
      ->allow_extra_args(false);
  CLI::Option* text = command->add_option("--metadata", options->metadata, "Text to keep with it");
  command->add_option("--metadata-file", options->metadata_file, "The same from a file")
      ->excludes(text);
  command->add_flag("--ephemeral", options->ephemeral, "In memory only, gone with a reboot");
  command->add_flag("--on-disk", options->disk, "Straight to the disk tier");
  command->callback([options, &context] { context.exit_code = run_put(context, *options); });
}

}  // namespace om::cli
