// objm-load: an HTTP/1.1 client that costs as little as it can, so that what is measured is the
// server. Bodies are discarded in the kernel, or compared: all of them with --verify, every n-th
// with --sample n. Closed loop (each connection asks as soon as it was answered), or an offered
// rate with latencies counted from when a request was due (pace.h).
//
//   URL file: see targets.h; a trace is one with --in-order.     Output: one JSON object.
#include <sys/epoll.h>
#include <sys/prctl.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <cstdio>
#include <deque>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "load/connection.h"
#include "load/content.h"

namespace om::load {
namespace {

class Run {
 public:
  Run(const Options& options, const std::vector<Target>& targets)
      : options_(options),
        targets_(targets),
        chooser_(targets.size(), options.in_order, options.zipf, options.seed),
        range_bytes_(parse_size(options.range).value_or(0)),
        pace_(options.rate, options.requests, options.seconds, Clock::now()) {}

  Totals& go() {
    poll_ = UniqueFd::adopt(::epoll_create1(EPOLL_CLOEXEC));
    totals_.slice_seconds = options_.slices;
    for (std::size_t i = 0; i < options_.connections; ++i)
      connections_.push_back(std::make_unique<Connection>(options_, totals_));
    begin_ = Clock::now();
    totals_.begin = begin_;
    pace_ = Pace(options_.rate, options_.requests, options_.seconds, begin_);
    for (std::size_t i = 0; i < connections_.size(); ++i) idle_.push_back(i);
    std::array<epoll_event, 64> events{};
    auto last_answer = begin_;
    while (true) {
      const auto now = Clock::now();
      if (busy_ == 0 && pace_.done(sent_, now)) break;
      if (now - last_answer > std::chrono::seconds(30)) {
        totals_.error("never answered", now);
        break;
      }
      if (!send_what_is_due()) break;
      const timespec wait = waiting();
      const int n = ::epoll_pwait2(poll_.raw(), events.data(), events.size(), &wait, nullptr);
      for (int e = 0; e < n; ++e) {
        const std::size_t i = events[static_cast<std::size_t>(e)].data.u64;
        Connection& c = *connections_[i];
        const bool was_busy = c.state() != Connection::State::kIdle;
        (void)c.receive();
        if (was_busy && c.state() == Connection::State::kIdle) {
          --busy_;
          idle_.push_back(i);
        }
      }
      if (n > 0) last_answer = Clock::now();
    }
    if (const auto unsent = pace_.unsent(sent_); unsent > 0) totals_.errors["never sent"] = unsent;
    elapsed_ = std::chrono::duration<double>(Clock::now() - begin_).count();
    return totals_;
  }
  [[nodiscard]] double elapsed() const { return elapsed_; }

 private:
  // False: the server is gone.
  bool send_what_is_due() {
    while (!idle_.empty()) {
      const auto now = Clock::now();
      if (pace_.done(sent_, now) || pace_.wait(sent_, now) > Clock::duration::zero()) return true;
      const std::size_t i = idle_.front();
      idle_.pop_front();
      if (start(i, now)) {
        ++busy_;
        continue;
      }
      idle_.push_back(i);
      if (pace_.paced()) {
        ++sent_;  // it was due, and failed: a server that restarts is watched, not waited for
        continue;
      }
      if (++failures_ > 1000) return false;
    }
    return true;
  }

  // Until something is due; a tick when only an answer can help.
  [[nodiscard]] timespec waiting() const {
    using std::chrono::nanoseconds;
    const auto now = Clock::now();
    nanoseconds wait = std::chrono::milliseconds(100);
    if (pace_.paced() && !idle_.empty() && !pace_.done(sent_, now))
      wait = std::min(wait, nanoseconds(pace_.wait(sent_, now)));
    timespec result{};
    result.tv_sec = 0;
    result.tv_nsec = wait.count();
    return result;
  }

  bool start(std::size_t i, Clock::time_point now) {
    Connection& c = *connections_[i];
    if (!c.open()) {
      if (!c.connect()) return false;
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u64 = i;
      ::epoll_ctl(poll_.raw(), EPOLL_CTL_ADD, c.fd(), &event);
    }
    const Target& target = targets_[chooser_.next()];
    const bool compare = options_.verify || (options_.sample > 0 && sent_ % options_.sample == 0);
    std::uint64_t begin = 0;
    std::uint64_t length = 0;
    if (range_bytes_ > 0 && target.length) {
      length = std::min(range_bytes_, *target.length);
      begin = chooser_.range_begin(*target.length, length);
    }
    if (!c.send(target, pace_.due(sent_, now), compare, begin, length)) return false;
    ++sent_;
    return true;
  }

  const Options& options_;
  const std::vector<Target>& targets_;
  Chooser chooser_;
  std::uint64_t range_bytes_;
  Totals totals_;
  UniqueFd poll_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::deque<std::size_t> idle_;
  std::size_t busy_ = 0;
  Pace pace_;
  Clock::time_point begin_;
  std::uint64_t sent_ = 0;
  std::uint64_t failures_ = 0;
  double elapsed_ = 0;
};

int run(int argc, char** argv) {
  Options options;
  CLI::App app{"an HTTP/1.1 load that discards bodies in the kernel"};
  app.add_option("--address", options.address, "IPv4 address");
  app.add_option("--port", options.port, "TCP port");
  app.add_option("--unix", options.unix_path, "Unix socket instead");
  app.add_option("--urls", options.url_file, "file of PATH [LENGTH [HASH]] or KEY SIZE lines")
      ->required();
  app.add_option("--host", options.host, "Host header");
  app.add_option("--header", options.headers, "one more header, NAME: VALUE");
  app.add_option("--connections", options.connections, "at once");
  app.add_option("--seconds", options.seconds, "how long");
  app.add_option("--requests", options.requests, "how many, instead of how long");
  app.add_option("--rate", options.rate, "offered requests per second (0: closed loop)");
  app.add_option("--zipf", options.zipf, "exponent (0: uniform)");
  app.add_flag("--in-order", options.in_order, "one URL after the other");
  app.add_flag("--verify", options.verify, "read bodies and compare");
  app.add_option("--sample", options.sample, "read every n-th body and compare");
  app.add_option("--range", options.range, "ask for a random range of SIZE bytes each time");
  app.add_option("--slices", options.slices, "also count by slices of so many seconds");
  app.add_option("--seed", options.seed, "of the choice of URLs");
  CLI11_PARSE(app, argc, argv);

  std::ifstream file(options.url_file);
  const auto targets = read_targets(file);
  if (targets.empty()) {
    (void)std::fprintf(stderr, "objm-load: no URLs in %s\n", options.url_file.c_str());
    return 2;
  }
  // Timers are 50 us late unless told otherwise, which is what a small hit takes.
  (void)::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  Run load(options, targets);
  Totals& totals = load.go();
  std::printf("%s\n", to_json(totals, load.elapsed()).dump(1).c_str());
  return totals.errors.empty() ? 0 : 1;
}

}  // namespace
}  // namespace om::load

int main(int argc, char** argv) { return om::load::run(argc, argv); }
