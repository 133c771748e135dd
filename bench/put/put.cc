// PUT through the library into the memory tier, beside the floor: filling recycled, already faulted
// memory of a tmpfs file with the same bytes. Runs against a daemon that is there (put.py starts
// one) and that writes in place for us (--write-gid), prints a JSON object of samples.
//
// Where the bytes come from (--feed): `socket`, as a cache gets them, both sides receive them from
// a child process straight into place; `memory`, both copy them from 64 MiB of random ones (so that
// the source is not in the processor's cache for one side and out of it for the other).
//
// Bodies are published one by one, or (--batch) so many with one om::commit(), as a cache does that
// has several fetches under way; or (--ahead) each with a commit that nobody waits for, which the
// library sends with others (Client::defer()), as one does who puts at a rate. A sample ends when
// the last of them is published.
//
// CPU is counted, not time: of this process and, for puts, of the daemon (--pid), from the kernel's
// clocks, in seconds per GB; the child's is not. Keys are a few, replaced in turn, so that slots
// are recycled. Every body is compared at the start, the last of each key after every sample.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "objmapper/client.h"

namespace om::bench {
namespace {

constexpr std::size_t kSourceBytes = std::size_t{64} << 20;
constexpr std::size_t kArenaBytes = std::size_t{64} << 20;
// What the other end of the feed sends with one call, as much as a network gives at a time. On a
// kernel that does not preempt system calls a longer one holds up whoever shares the processor, and
// the time between his wake-up and his turn counts as his.
constexpr std::size_t kFeedBytes = std::size_t{64} << 10;
// Commits under way from which on we look for answers: those of one message, and of the one before.
constexpr std::size_t kCommitsLook = 256;

[[noreturn]] void fail(const std::string& what) {
  (void)std::fprintf(stderr, "om-bench-put: %s\n", what.c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result, const char* what) {
  if (!result) fail(std::string(what) + ": " + describe(result.error()));
  return *std::move(result);
}

double own_cpu() {
  timespec now{};
  (void)::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// All threads of another process, in nanoseconds and not in ticks.
double cpu_of(pid_t pid) {
  clockid_t clock = 0;
  timespec now{};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &now) != 0)
    fail("cannot read the daemon's CPU time");
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

struct Bench {
  std::string socket;
  std::string directory = "/dev/shm";
  pid_t pid = 0;
  std::size_t bytes = 1 << 20;
  std::size_t total = std::size_t{256} << 20;  // of each sample
  std::vector<std::byte> source = std::vector<std::byte>(kSourceBytes);
  std::byte* arena = nullptr;

  std::size_t batch = 1;
  bool ahead = false;
  bool from_socket = true;
  int feed = -1;      // our end
  pid_t feeder = -1;  // who writes to the other
  std::map<int, std::byte*> segments;

  [[nodiscard]] std::size_t keys() const { return kArenaBytes / bytes; }
  [[nodiscard]] std::span<const std::byte> body(std::size_t i) const {
    // Not the slot's own offset, so that no page is copied to where it came from.
    const std::size_t places = kSourceBytes / bytes;
    return std::span(source).subspan((i * 7 + 3) % places * bytes, bytes);
  }
  static std::string key(std::size_t i) {
    return "http://www.example.com/put/" + std::to_string(i);
  }

  // A child that sends body(0), body(1), ... for ever: bodies are told apart by their number, and
  // each sample begins with a child of its own.
  void start_feed() {
    if (!from_socket) return;
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) fail("socketpair");
    const int room = 1 << 20;
    (void)::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    feeder = ::fork();
    if (feeder < 0) fail("fork");
    if (feeder == 0) {
      (void)::close(ends[0]);
      for (std::size_t i = 0;; ++i) {
        auto left = body(i);
        while (!left.empty()) {
          const ssize_t n =
              ::send(ends[1], left.data(), std::min(left.size(), kFeedBytes), MSG_NOSIGNAL);
          if (n <= 0) std::_Exit(0);
          left = left.subspan(static_cast<std::size_t>(n));
        }
      }
    }
    (void)::close(ends[1]);
    feed = ends[0];
  }
  void stop_feed() {
    if (feed < 0) return;
    (void)::close(feed);
    feed = -1;
    (void)::kill(feeder, SIGKILL);
    (void)::waitpid(feeder, nullptr, 0);
  }
  // The next bytes to where they belong.
  void fill(std::byte* at, std::size_t count, std::span<const std::byte> from) const {
    if (!from_socket) {
      std::memcpy(at, from.data(), count);
      return;
    }
    while (count > 0) {
      const ssize_t n = ::recv(feed, at, count, 0);
      if (n <= 0) fail("the feed has ended");
      at += n;
      count -= static_cast<std::size_t>(n);
    }
  }
  // Where a slice is mapped: each segment once. The library keeps a segment's descriptor.
  std::byte* place(const Slice& slice) {
    std::byte*& at = segments[slice.fd];
    if (at == nullptr) {
      struct stat status {};
      if (::fstat(slice.fd, &status) != 0) fail("fstat");
      void* const mapped = ::mmap(nullptr, static_cast<std::size_t>(status.st_size),
                                  PROT_READ | PROT_WRITE, MAP_SHARED, slice.fd, 0);
      if (mapped == MAP_FAILED) fail("mmap of a segment");
      at = static_cast<std::byte*>(mapped);
    }
    return at + slice.offset;
  }

  Client connect() const {
    ConnectOptions options;
    options.socket = socket;
    options.timeout = std::chrono::seconds(10);
    options.name = "om-bench-put";
    return must(Client::connect(options), "connect");
  }

  void prepare() {
    std::mt19937_64 random(1);
    for (std::size_t at = 0; at < source.size(); at += 8) {
      const std::uint64_t word = random();
      std::memcpy(source.data() + at, &word, 8);
    }
    const std::string path = directory + "/om-bench-arena." + std::to_string(::getpid());
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0) fail("cannot make " + path);
    (void)::unlink(path.c_str());
    if (::ftruncate(file, kArenaBytes) != 0 || ::posix_fallocate(file, 0, kArenaBytes) != 0)
      fail("no room in " + directory);
    void* const at = ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) fail("mmap");
    (void)::close(file);
    arena = static_cast<std::byte*>(at);
    std::memset(arena, 1, kArenaBytes);
  }

  Writer write_one(Client& client, const PutOptions& options, std::size_t i) {
    Writer writer;
    if (ahead) {
      auto one = must(client.reserve_ahead(options, std::chrono::seconds(10)), "reserve");
      if (!one) fail("there is no room ahead");
      writer = *std::move(one);
    } else {
      writer = must(client.reserve(options), "reserve");
    }
    if (!from_socket) {
      if (auto written = writer.write(body(i)); !written) fail("write");
      return writer;
    }
    for (const Slice& slice : writer.slices()) {
      fill(place(slice), static_cast<std::size_t>(slice.length), {});
      if (auto advanced = writer.advance(slice.length); !advanced) fail("advance");
    }
    return writer;
  }

  [[nodiscard]] PutOptions options_of(std::size_t i) const {
    PutOptions options;
    options.key = key(i % keys());
    options.length = bytes;
    options.ahead = true;
    return options;
  }

  std::size_t put_all_ahead(Client& client, std::size_t count) {
    std::size_t under_way = 0;
    const auto done = [&under_way](const Result<PutResult>& answer) {
      if (!answer) fail("commit: " + describe(answer.error()));
      --under_way;
    };
    client.defer(std::chrono::hours(1));
    for (std::size_t i = 0; i < count; ++i) {
      Writer writer = write_one(client, options_of(i), i);
      ++under_way;
      std::move(writer).commit(std::nullopt, done);
      if (under_way >= kCommitsLook) client.look();
    }
    (void)client.flush();
    while (under_way > 0) {
      pollfd answers{client.native_handle(), POLLIN, 0};
      if (::poll(&answers, 1, 10'000) == 0) fail("commits are not answered");
      client.look();
    }
    return count - 1;
  }

  std::size_t put_all(Client& client, std::size_t count) {
    if (ahead) return put_all_ahead(client, count);
    std::vector<Writer> writers;
    for (std::size_t i = 0; i < count; ++i) {
      Writer writer = write_one(client, options_of(i), i);
      if (batch == 1) {
        (void)must(std::move(writer).commit(), "commit");
        continue;
      }
      writers.push_back(std::move(writer));
      if (writers.size() < batch && i + 1 < count) continue;
      for (auto& answer : commit(std::exchange(writers, {})))
        (void)must(std::move(answer), "commit");
    }
    return count - 1;
  }

  // That what a reader gets is what put number `i` wrote.
  void compare(Client& client, std::size_t i) const {
    const auto lease = must(client.get(key(i % keys())), "get");
    if (!lease) fail("an object is not there");
    if (lease->info().on_disk) fail("an object is on disk: more --memory");
    const std::string read = must(lease->read_all(), "read");
    const auto want = body(i);
    if (read.size() != want.size() || std::memcmp(read.data(), want.data(), want.size()) != 0)
      fail("an object is not what was put");
  }

  // Slots of this connection's mapping are faulted on the way.
  void check_once(Client& client) {
    for (int round = 0; round < 3; ++round) {
      start_feed();
      const std::size_t last = put_all(client, keys());
      stop_feed();
      for (std::size_t i = 0; i <= last; ++i) compare(client, i);
    }
  }

  double puts(Client& client) {
    const std::size_t count = total / bytes;
    start_feed();
    const double before = own_cpu() + cpu_of(pid);
    const std::size_t last = put_all(client, count);
    const double cpu = own_cpu() + cpu_of(pid) - before;
    stop_feed();
    for (std::size_t i = last + 1 - std::min(keys(), count); i <= last; ++i) compare(client, i);
    return cpu * (1 << 30) / static_cast<double>(count * bytes);
  }

  // Another process that answers each packet with another one: what is the least that a PUT can
  // cost whose answer is waited for.
  struct Other {
    int socket = -1;
    pid_t pid = -1;
    Other() {
      int ends[2];
      if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) fail("socketpair");
      pid = ::fork();
      if (pid < 0) fail("fork");
      socket = ends[pid == 0 ? 1 : 0];
      (void)::close(ends[pid == 0 ? 0 : 1]);
      if (pid != 0) return;
      char word = 0;
      while (::recv(socket, &word, 1, 0) == 1 && ::send(socket, &word, 1, MSG_NOSIGNAL) == 1)
        continue;
      std::_Exit(0);
    }
    Other(const Other&) = delete;
    Other& operator=(const Other&) = delete;
    ~Other() {
      (void)::close(socket);
      (void)::waitpid(pid, nullptr, 0);
    }
    void ask() const {
      char word = 'x';
      if (::send(socket, &word, 1, MSG_NOSIGNAL) != 1 || ::recv(socket, &word, 1, 0) != 1)
        fail("nobody answers");
    }
  };

  // `asks`: and somebody else is asked as often as the daemon would be, and answers.
  double floor(bool asks) {
    const std::size_t count = total / bytes;
    std::optional<Other> other;
    if (asks) other.emplace();
    start_feed();
    const double before = own_cpu() + (other ? cpu_of(other->pid) : 0);
    for (std::size_t i = 0; i < count; ++i) {
      fill(arena + i % keys() * bytes, bytes, body(i));
      if (other && (i + 1) % batch == 0) other->ask();
    }
    const double cpu = own_cpu() + (other ? cpu_of(other->pid) : 0) - before;
    stop_feed();
    for (std::size_t i = count - std::min(keys(), count); i < count; ++i)
      if (std::memcmp(arena + i % keys() * bytes, body(i).data(), bytes) != 0) fail("the floor");
    return cpu * (1 << 30) / static_cast<double>(count * bytes);
  }
};

int run(int argc, char** argv) {
  Bench bench;
  std::size_t pairs = 20;
  CLI::App app{"PUT through the library beside memcpy into recycled memory: CPU seconds per GB"};
  app.add_option("--socket", bench.socket, "of a daemon with nothing to lose")->required();
  app.add_option("--pid", bench.pid, "of that daemon")->required();
  app.add_option("--directory", bench.directory, "the floor's tmpfs");
  app.add_option("--bytes", bench.bytes, "of an object, 4096 to 64 MiB");
  app.add_option("--total", bench.total, "bytes of a sample");
  std::string feed = "socket";
  app.add_option("--feed", feed, "socket or memory");
  app.add_option("--batch", bench.batch, "bodies that are published at once, 1 to 64");
  app.add_flag("--ahead", bench.ahead, "nobody waits for a commit, and they go together");
  app.add_option("--pairs", pairs, "samples of each series");
  CLI11_PARSE(app, argc, argv);
  if (bench.batch < 1 || bench.batch > 64) fail("--batch out of range");
  if (bench.bytes < 4096 || bench.bytes > kSourceBytes / 4 || bench.total < bench.bytes)
    fail("--bytes or --total out of range");
  bench.from_socket = feed != "memory";
  bench.prepare();
  Client client = bench.connect();
  bench.check_once(client);
  std::map<std::string, std::vector<double>> samples;
  for (std::size_t pair = 0; pair < pairs; ++pair) {
    const std::size_t series = bench.ahead ? 2 : 3;
    for (std::size_t i = 0; i < series; ++i) {
      switch ((i + pair) % series) {
        case 0: samples["put_cpu_s_per_gb"].push_back(bench.puts(client)); break;
        case 1: samples["floor_cpu_s_per_gb"].push_back(bench.floor(false)); break;
        default: samples["asking_floor_cpu_s_per_gb"].push_back(bench.floor(true)); break;
      }
    }
  }
  std::printf("{");
  bool first = true;
  for (const auto& [name, values] : samples) {
    std::printf("%s\n \"%s\": [", first ? "" : ",", name.c_str());
    first = false;
    for (std::size_t i = 0; i < values.size(); ++i)
      std::printf("%s%.5f", i == 0 ? "" : ", ", values[i]);
    std::printf("]");
  }
  std::printf("\n}\n");
  return 0;
}

}  // namespace
}  // namespace om::bench

int main(int argc, char** argv) { return om::bench::run(argc, argv); }
