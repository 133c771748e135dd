// kept_commits: claims keys, and publishes them with commits that are kept (om::Client::defer()),
// for tests of what becomes of them.
//
//   kept_commits SOCKET      reads a line, does what it says, answers with lines, the last one "."
//     keep PREFIX COUNT BYTES  so many keys that begin with PREFIX: each is claimed, written into
//                              room ahead, and its commit kept. A line each: the key, and behind a
//                              blank what was wrong
//     again                    the same with the same keys
//     flush                    a line for each that was kept: the key, and "ok" or why not
#include <chrono>
#include <cstddef>
#include <iostream>
#include <map>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "objmapper/client.h"

namespace {

using namespace std::chrono_literals;

class Keeper {
 public:
  explicit Keeper(om::Client client) : client_(std::move(client)) { client_.defer(1h); }

  void keep(const std::string& prefix, std::size_t count, std::size_t bytes) {
    keys_.clear();
    bytes_ = bytes;
    for (std::size_t i = 0; i < count; ++i) {
      // A claim may not be had because of another key that is there.
      for (int other = 0; other < 10; ++other) {
        const std::string key = prefix + std::to_string(i) + "." + std::to_string(other);
        auto claim = client_.claim(key);
        if (!claim) continue;
        keys_.push_back(key);
        say(key, commit(key, *std::move(claim)));
        break;
      }
    }
  }
  void again() {
    for (const std::string& key : keys_) {
      auto claim = client_.claim(key);
      say(key, claim ? commit(key, *std::move(claim)) : "is not free");
    }
  }
  void flush() {
    (void)client_.flush();
    for (int i = 0; i < 2000 && answers_.size() < kept_; ++i) {
      std::this_thread::sleep_for(10ms);
      client_.look();
    }
    for (const auto& [key, answer] : answers_) say(key, answer);
    answers_.clear();
    kept_ = 0;
  }

 private:
  static void say(const std::string& key, const std::string& what) {
    std::cout << key << (what.empty() ? "" : " ") << what << "\n";
  }
  // Empty, or what was wrong.
  std::string commit(const std::string& key, om::Claim claim) {
    om::PutOptions options;
    options.key = key;
    options.length = bytes_;
    auto writer = client_.reserve_ahead(options, 5s, true);
    if (!writer) return om::to_string(writer.error().code);
    if (!*writer) return "no room";
    (*writer)->take(std::move(claim));
    std::string body;
    while (body.size() < bytes_) body += key + "\n";
    body.resize(bytes_);
    if (const auto written = (*writer)->write(std::as_bytes(std::span(body))); !written)
      return om::to_string(written.error().code);
    ++kept_;
    (**std::move(writer)).commit(std::nullopt, [this, key](const om::Result<om::PutResult>& done) {
      answers_[key] = done ? "ok" : om::to_string(done.error().code);
    });
    // Those that are told by now were not kept.
    return answers_.contains(key) ? "was not kept" : "";
  }

  om::Client client_;
  std::vector<std::string> keys_;
  std::size_t bytes_ = 0;
  std::size_t kept_ = 0;
  std::map<std::string, std::string> answers_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "kept_commits SOCKET\n";
    return 2;
  }
  om::ConnectOptions options;
  options.socket = argv[1];
  options.name = "kept_commits";
  auto client = om::Client::connect(options);
  if (!client) {
    std::cerr << "kept_commits: " << om::describe(client.error()) << "\n";
    return 1;
  }
  Keeper keeper(*std::move(client));
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string what;
    std::string prefix;
    std::size_t count = 0;
    std::size_t bytes = 0;
    words >> what >> prefix >> count >> bytes;
    if (what == "keep")
      keeper.keep(prefix, count, bytes);
    else if (what == "again")
      keeper.again();
    else if (what == "flush")
      keeper.flush();
    std::cout << "." << std::endl;
  }
  return 0;
}
