// objm ban EXPRESSION...
#include <CLI/CLI.hpp>

#include "base/ban_text.h"
#include "cli/commands.h"
#include "cli/context.h"

namespace om::cli {

namespace {

struct BanArguments {
  std::vector<std::string> words;
};

// One argument is a whole expression; several are its words, as varnishadm takes them.
Result<std::vector<BanTest>> tests_of(const std::vector<std::string>& words) {
  if (words.size() == 1) return parse_ban(words.front(), BanQuotes::kCanonical);
  std::vector<BanTest> tests;
  for (std::size_t at = 0; at < words.size(); at += 4) {
    if (at + 3 > words.size() || (at + 3 < words.size() && words[at + 3] != "&&") ||
        at + 4 == words.size())
      return Error{Errc::kMalformed, 0,
                   "a ban's conditions are a field, an operator and an operand, joined by &&"};
    tests.push_back({words[at], words[at + 1], words[at + 2]});
  }
  return tests;
}

int run_ban(const Context& context, const BanArguments& options) {
  const auto tests = tests_of(options.words);
  if (!tests) return misuse(tests.error().what);
  auto client = context.connect();
  if (!client) return fail(client.error());
  RemovalRequest request;
  request.kind = RemovalKind::kBan;
  request.what = canonical_ban(*tests);
  const auto done = client->remove_everywhere(request);
  if (!done) return fail("ban", done.error());
  return report(*done, false);
}

}  // namespace

void add_ban(CLI::App& app, Context& context) {
  auto options = std::make_shared<BanArguments>();
  CLI::App* command = app.add_subcommand(
      "ban", "Ban objects in every cache that has joined, as varnishadm's ban does in one");
  command->add_option("EXPRESSION", options->words, "Such as: req.url '~' '^/pictures/'")
      ->required();
  command->callback([options, &context] { context.exit_code = run_ban(context, *options); });
}

}  // namespace om::cli
