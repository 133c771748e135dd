// Many small objects: fills a daemon, or waits for one to answer for an old key. For
// many_objects.py.
//
//   om-bench-many --socket S fill COUNT     objects of 1 KiB; every one compared afterwards
//   om-bench-many --socket S first COUNT I  tries to connect until the socket answers, gets object
//                                           I, compares its body, then prints the moment
//                                           (CLOCK_MONOTONIC, seconds)
//   om-bench-many --socket S compare COUNT  every one
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "objmapper/client.h"

namespace {

constexpr std::size_t kBodyBytes = 1024;
constexpr std::size_t kBatch = 64;

[[noreturn]] void fail(const std::string& what) {
  (void)std::fprintf(stderr, "om-bench-many: %s\n", what.c_str());
  std::exit(1);
}

template <class T>
T must(om::Result<T> result, const char* what) {
  if (!result) fail(std::string(what) + ": " + om::describe(result.error()));
  return *std::move(result);
}

double now() {
  timespec t{};
  (void)::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

std::string key_of(std::size_t i) {
  char key[64];
  (void)std::snprintf(key, sizeof key, "http://www.example.com/many/%08zu.html", i);
  return key;
}

std::string body_of(std::size_t i) {
  std::string body(kBodyBytes, '\0');
  std::mt19937_64 random(i);
  for (std::size_t at = 0; at < body.size(); at += 8) {
    const std::uint64_t word = random();
    std::memcpy(body.data() + at, &word, 8);
  }
  return body;
}

void compare(const std::optional<om::Lease>& lease, std::size_t i) {
  if (!lease) fail("object " + std::to_string(i) + " is not there");
  if (must(lease->read_all(), "read") != body_of(i))
    fail("object " + std::to_string(i) + " is not what was put");
}

om::ConnectOptions options_for(const std::string& socket) {
  om::ConnectOptions options;
  options.socket = socket;
  options.timeout = std::chrono::seconds(30);
  options.name = "om-bench-many";
  return options;
}

void compare_all(om::Client& client, std::size_t count) {
  for (std::size_t at = 0; at < count; at += kBatch) {
    std::vector<std::string> keys;
    for (std::size_t i = at; i < std::min(count, at + kBatch); ++i) keys.push_back(key_of(i));
    auto leases = must(client.get_many(keys), "get_many");
    for (std::size_t i = 0; i < leases.size(); ++i) compare(leases[i], at + i);
    om::release(std::move(leases));
  }
}

int fill(const std::string& socket, std::size_t count) {
  auto client = must(om::Client::connect(options_for(socket)), "connect");
  for (std::size_t i = 0; i < count; ++i) {
    om::PutOptions put;
    put.key = key_of(i);
    (void)must(client.put(put, body_of(i)), "put");
  }
  compare_all(client, count);
  return 0;
}

int first(const std::string& socket, std::size_t i) {
  const double limit = now() + 60;
  for (;;) {
    auto client = om::Client::connect(options_for(socket));
    if (client) {
      auto lease = client->get(key_of(i));
      if (lease) {
        compare(*lease, i);
        std::printf("%.6f\n", now());
        return 0;
      }
    }
    if (now() > limit) fail("nobody answers");
    (void)::usleep(500);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5 || std::string(argv[1]) != "--socket") fail("see the head of many.cc");
  const std::string socket = argv[2];
  const std::string what = argv[3];
  const std::size_t count = std::strtoull(argv[4], nullptr, 10);
  if (what == "fill") return fill(socket, count);
  if (what == "first" && argc == 6) return first(socket, std::strtoull(argv[5], nullptr, 10));
  if (what == "compare") {
    auto client = must(om::Client::connect(options_for(socket)), "connect");
    compare_all(client, count);
    return 0;
  }
  fail("see the head of many.cc");
}
