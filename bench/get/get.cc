// GET of resident objects through the library, beside the floor (floor.h) and beside itself at
// depth. Runs against a daemon that is there (get.py starts one), prints a JSON object of samples:
// one number a pair for each series, in the order in which the pairs ran.
//
//   one    one connection: microseconds of the median GET with its release, and of the floor's
//          round trip
//   four   four connections, a thread each: GETs a second, and the floor's round trips a second
//          (blocking and epoll: the faster shape counts)
//   deep   one connection, 1 and 16 requests under way (wire_peer.h): GETs a second
//   batch  64 keys in a call, and one: microseconds a key, leases given back; both by messages,
//          since what is found on the board costs the same however many are asked for
//
// Every answer's length and first 8 bytes are checked, outside the measured time of `one`.
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "get/floor.h"
#include "get/wire_peer.h"
#include "objmapper/client.h"

namespace om::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;
constexpr std::size_t kObjects = 1024;
constexpr std::size_t kBodyBytes = 1024;
constexpr std::size_t kBatch = 64;
constexpr std::size_t kDepth = 16;
constexpr std::size_t kConnections = 4;

[[noreturn]] void fail(const std::string& what) {
  (void)std::fprintf(stderr, "om-bench-get: %s\n", what.c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result, const char* what) {
  if (!result) fail(std::string(what) + ": " + describe(result.error()));
  return *std::move(result);
}

double us_between(SteadyClock::time_point a, SteadyClock::time_point b) {
  return std::chrono::duration<double, std::micro>(b - a).count();
}

SteadyClock::time_point in(double seconds) {
  return SteadyClock::now() +
         std::chrono::duration_cast<SteadyClock::duration>(std::chrono::duration<double>(seconds));
}

double median(std::vector<double>& samples) {
  if (samples.empty()) fail("no sample");
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

std::string key_of(std::size_t i) {
  char key[64];
  (void)std::snprintf(key, sizeof key, "http://www.example.com/bench/get/%08zu", i);
  return key;
}

std::string body_of(std::size_t i) {
  std::string body(kBodyBytes, '\0');
  std::mt19937_64 random(i);
  for (std::size_t at = 0; at < body.size(); at += 8) {
    const std::uint64_t word = at == 0 ? i : random();
    std::memcpy(body.data() + at, &word, 8);
  }
  return body;
}

void check(const Lease& lease, std::uint64_t expected) {
  std::uint64_t number = 0;
  if (lease.size() != kBodyBytes ||
      must(lease.read(0, std::as_writable_bytes(std::span(&number, 1))), "read") != 8 ||
      number != expected)
    fail("an answer with another object's bytes");
}

struct Bench {
  std::string socket;
  double seconds = 0.25;
  std::vector<std::string> keys;

  Client connect(bool board = true) const {
    ConnectOptions options;
    options.board = board;
    options.socket = socket;
    options.timeout = std::chrono::seconds(10);
    options.name = "om-bench-get";
    return must(Client::connect(options), "connect");
  }

  void prepare() {
    Client client = connect();
    for (std::size_t i = 0; i < kObjects; ++i) {
      keys.push_back(key_of(i));
      PutOptions options;
      options.key = keys.back();
      (void)must(client.put(options, body_of(i)), "put");
    }
    // Every byte, once.
    for (std::size_t i = 0; i < kObjects; ++i) {
      const auto lease = must(client.get(keys[i]), "get");
      if (!lease || must(lease->read_all(), "read") != body_of(i)) fail("an object is not whole");
    }
  }

  // Calls `each(microseconds of its GET and release)`.
  void gets(Client& client, SteadyClock::time_point end, std::uint64_t seed,
            const std::function<void(double)>& each) const {
    std::minstd_rand random(static_cast<std::minstd_rand::result_type>(seed + 1));
    while (true) {
      const std::size_t i = random() % kObjects;
      const auto a = SteadyClock::now();
      if (a >= end) return;
      auto lease = must(client.get(keys[i]), "get");
      const auto b = SteadyClock::now();
      if (!lease) fail("an object is not there");
      check(*lease, i);
      const auto c = SteadyClock::now();
      lease->release();
      each(us_between(a, b) + us_between(c, SteadyClock::now()));
    }
  }

  void echoes(int socket_end, SteadyClock::time_point end,
              const std::function<void(double)>& each) const {
    const std::size_t reply_bytes = get_reply_bytes();
    std::vector<char> request(get_bytes(keys.front().size()));
    std::vector<char> reply(std::size_t{128} << 10);
    while (true) {
      const auto a = SteadyClock::now();
      if (a >= end) return;
      if (::send(socket_end, request.data(), request.size(), MSG_NOSIGNAL) < 0) fail("floor: send");
      if (::recv(socket_end, reply.data(), reply.size(), 0) != static_cast<ssize_t>(reply_bytes))
        fail("floor: a wrong answer");
      each(us_between(a, SteadyClock::now()));
    }
  }

  double one(bool board = true) const {
    Client client = connect(board);
    std::vector<double> samples;
    gets(client, in(seconds), 1, [&](double us) { samples.push_back(us); });
    return median(samples);
  }
  double one_floor() const {
    const Floor floor(Shape::kBlocking, 1, get_reply_bytes());
    std::vector<double> samples;
    echoes(floor.socket(0), in(seconds), [&](double us) { samples.push_back(us); });
    return median(samples);
  }

  template <class Body>
  double in_threads(Body body) const {
    std::vector<std::thread> threads;
    std::vector<std::uint64_t> counts(kConnections);
    const auto begin = SteadyClock::now();
    for (std::size_t i = 0; i < kConnections; ++i)
      threads.emplace_back([&, i] {
        std::uint64_t count = 0;
        body(i, [&count](double) { ++count; });
        counts[i] = count;
      });
    for (std::thread& thread : threads) thread.join();
    const double took = us_between(begin, SteadyClock::now()) / 1e6;
    std::uint64_t total = 0;
    for (const std::uint64_t count : counts) total += count;
    return static_cast<double>(total) / took;
  }
  double four() const {
    std::vector<Client> clients;
    for (std::size_t i = 0; i < kConnections; ++i) clients.push_back(connect());
    return in_threads([&](std::size_t i, const std::function<void(double)>& each) {
      gets(clients[i], in(seconds), i, each);
    });
  }
  double four_floor(Shape shape) const {
    const Floor floor(shape, kConnections, get_reply_bytes());
    return in_threads([&](std::size_t i, const std::function<void(double)>& each) {
      echoes(floor.socket(i), in(seconds), each);
    });
  }

  double deep(std::size_t depth) const { return WirePeer(socket).run(keys, depth, seconds); }

  // Microseconds a key.
  double batch() const {
    Client client = connect(false);
    std::minstd_rand random(7);
    std::vector<double> samples;
    const auto end = in(seconds);
    std::vector<std::string> wanted(kBatch);
    std::vector<std::size_t> numbers(kBatch);
    while (true) {
      for (std::size_t i = 0; i < kBatch; ++i) wanted[i] = keys[numbers[i] = random() % kObjects];
      const auto a = SteadyClock::now();
      if (a >= end) break;
      auto leases = must(client.get_many(wanted), "get_many");
      const auto b = SteadyClock::now();
      for (std::size_t i = 0; i < kBatch; ++i) {
        if (!leases[i]) fail("an object is not there");
        check(*leases[i], numbers[i]);
      }
      const auto c = SteadyClock::now();
      release(std::move(leases));
      samples.push_back((us_between(a, b) + us_between(c, SteadyClock::now())) / kBatch);
    }
    return median(samples);
  }
};

int run(int argc, char** argv) {
  Bench bench;
  std::size_t pairs = 20;
  std::string only = "one,four,deep,batch";
  CLI::App app{"GET through the library and on the wire, beside an echo by bare system calls"};
  app.add_option("--socket", bench.socket, "of a daemon with nothing to lose")->required();
  app.add_option("--pairs", pairs, "samples of each series");
  app.add_option("--seconds", bench.seconds, "of each sample");
  app.add_option("--only", only, "of one,four,deep,batch");
  CLI11_PARSE(app, argc, argv);
  bench.prepare();
  using Series = std::pair<std::string, std::function<double()>>;
  std::vector<std::vector<Series>> groups;
  const auto wanted = [&](const char* name) { return only.find(name) != std::string::npos; };
  if (wanted("one"))
    groups.push_back({{"one_us", [&] { return bench.one(); }},
                      {"one_floor_us", [&] { return bench.one_floor(); }}});
  if (wanted("four"))
    groups.push_back(
        {{"four_per_s", [&] { return bench.four(); }},
         {"four_floor_blocking_per_s", [&] { return bench.four_floor(Shape::kBlocking); }},
         {"four_floor_epoll_per_s", [&] { return bench.four_floor(Shape::kEpoll); }}});
  if (wanted("deep"))
    groups.push_back({{"deep_1_per_s", [&] { return bench.deep(1); }},
                      {"deep_16_per_s", [&] { return bench.deep(kDepth); }}});
  if (wanted("batch"))
    groups.push_back({{"batch_us_per_key", [&] { return bench.batch(); }},
                      {"single_us_per_key", [&] { return bench.one(false); }}});
  std::map<std::string, std::vector<double>> samples;
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    for (const auto& group : groups) {
      // Who comes first changes, so that a drift of the machine hits both alike.
      for (std::size_t i = 0; i < group.size(); ++i) {
        const Series& series = group[(i + pair) % group.size()];
        samples[series.first].push_back(series.second());
      }
    }
  }
  std::printf("{");
  bool first = true;
  for (const auto& [name, values] : samples) {
    std::printf("%s\n \"%s\": [", first ? "" : ",", name.c_str());
    first = false;
    for (std::size_t i = 0; i < values.size(); ++i)
      std::printf("%s%.3f", i == 0 ? "" : ", ", values[i]);
    std::printf("]");
  }
  std::printf("\n}\n");
  return 0;
}

}  // namespace
}  // namespace om::bench

int main(int argc, char** argv) { return om::bench::run(argc, argv); }
