// om_trace: what S3-FIFO, SIEVE and LRU hit.
//   om_trace [--trace FILE] [--seed N] [--requests N] [--print]
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "trace/trace.h"

namespace {

int usage() {
  std::fputs(
      "usage: om_trace [--trace FILE] [--seed N] [--requests N] [--print]\n"
      "  --trace FILE   \"key size\" lines instead of the generated trace\n"
      "  --print        the generated trace itself, in that form\n",
      stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  om::trace::Shape shape;
  std::string file;
  bool print = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--print") {
      print = true;
    } else if (i + 1 == argc) {
      return usage();
    } else if (word == "--trace") {
      file = argv[++i];
    } else if (word == "--seed") {
      shape.seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (word == "--requests") {
      shape.requests = std::strtoull(argv[++i], nullptr, 10);
    } else {
      return usage();
    }
  }
  std::vector<om::trace::Request> trace;
  if (file.empty()) {
    trace = om::trace::generate(shape);
  } else {
    std::ifstream in(file);
    if (!in) {
      std::perror(file.c_str());
      return 1;
    }
    auto read = om::trace::read_trace(in);
    if (!read) {
      std::fprintf(stderr, "%s: %s\n", file.c_str(), read.error().what.c_str());
      return 1;
    }
    trace = *std::move(read);
  }
  if (print) {
    for (const auto& request : trace)
      std::printf("%llu %llu\n", static_cast<unsigned long long>(request.key),
                  static_cast<unsigned long long>(request.bytes));
    return 0;
  }
  const std::uint64_t all = om::trace::working_set(trace);
  std::printf("%zu requests, %.1f MiB of different objects; hit in %% of objects / of bytes\n",
              trace.size(), static_cast<double>(all) / 1048576);
  std::printf("%-8s %15s %15s %15s\n", "cache", "s3fifo", "sieve", "lru");
  for (const int percent : {1, 2, 5, 10, 20}) {
    std::printf("%6d %%", percent);
    const std::uint64_t capacity = all / 100 * static_cast<std::uint64_t>(percent);
    for (const char* name : {"s3fifo", "sieve", "lru"}) {
      const auto policy = om::eviction::make_policy(name, capacity);
      const auto outcome = om::trace::run(trace, *policy, capacity);
      std::printf("   %5.2f / %5.2f", 100 * outcome.object_ratio(), 100 * outcome.byte_ratio());
    }
    std::printf("\n");
  }
  return 0;
}
