// What the subcommands of objm share: where the daemon is, how a failure becomes a message and an
// exit code.
//
// A subcommand is one file with one function, declared in commands.h and called in main.cc:
//
//   void add_stat(CLI::App& app, Context& context) {
//     auto options = std::make_shared<StatArguments>();
//     CLI::App* command = app.add_subcommand("stat", "Show what is known of an object");
//     command->add_option("KEY", options->key, "...")->required();
//     command->callback([options, &context] { context.exit_code = run_stat(context, *options); });
//   }
//
// with `int run_stat(Context&, const StatArguments&)` in the file's anonymous namespace (names
// differ: unity builds) returning one of the codes below; mostly `return fail(error)` or `return
// kDone`.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "objmapper/client.h"

namespace om::cli {

// What put and get hold at a time.
inline constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

// Exit codes, part of the interface (objm(1)).
inline constexpr int kDone = 0;
inline constexpr int kAbsent = 1;
inline constexpr int kUsage = 2;
inline constexpr int kUnreachable = 3;
inline constexpr int kDenied = 4;
inline constexpr int kNoSpace = 5;
inline constexpr int kOther = 6;

struct Context {
  std::string socket = kDefaultSocket;
  std::chrono::milliseconds timeout{10000};
  int exit_code = kDone;

  // A connection to the daemon. Its failures say what to do: hand them to fail().
  [[nodiscard]] Result<Client> connect() const;
};

// Which code an error ends with.
int exit_code_of(const Error& error);
// Prints "objm: <error>" on standard error; the code to end with.
int fail(const Error& error);
int fail(const std::string& doing, const Error& error);  // "objm: <doing>: <error>"
// Prints "objm: <what>"; kUsage.
int misuse(const std::string& what);

// Prints how many shared objects went (`count`), and, on standard error, which caches have not
// confirmed; the code to end with.
int report(const RemovalDone& done, bool count = true);

}  // namespace om::cli
