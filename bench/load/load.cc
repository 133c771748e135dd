// objm-load: an HTTP/1.1 client that costs as little as it can, so that what is measured is the
// server. Bodies are discarded in the kernel (MSG_TRUNC, tcp(7)), or read and compared with
// --verify. Closed loop (each connection asks as soon as it was answered), or an offered rate with
// latencies counted from when a request was due, so that a stalled server cannot hide its queue
// (coordinated omission).
//
//   URL file: one "PATH [LENGTH [XXH3-64 in hex]]" a line.
//   Output: one JSON object.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <xxhash.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "posix/unique_fd.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Target {
  std::string path;
  std::optional<std::uint64_t> length;
  std::optional<std::uint64_t> hash;
};

struct Options {
  std::string address = "127.0.0.1";
  std::uint16_t port = 0;
  std::string unix_path;
  std::string url_file;
  std::string host = "bench.test";
  std::vector<std::string> headers;
  std::size_t connections = 8;
  double seconds = 3;
  std::uint64_t requests = 0;
  double rate = 0;
  double zipf = 0;
  bool in_order = false;
  bool verify = false;
  std::uint64_t seed = 1;
};

double microseconds(Clock::duration d) {
  return std::chrono::duration<double, std::micro>(d).count();
}

std::vector<Target> read_targets(const std::string& file) {
  std::ifstream in(file);
  std::vector<Target> targets;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    Target target;
    std::uint64_t length = 0;
    std::string hash;
    if (!(fields >> target.path)) continue;
    if (fields >> length) target.length = length;
    if (fields >> hash) target.hash = std::stoull(hash, nullptr, 16);
    targets.push_back(std::move(target));
  }
  return targets;
}

// Which target comes next: in order, uniformly, or by Zipf's law over the order of the file.
class Chooser {
 public:
  Chooser(const Options& options, std::size_t targets)
      : in_order_(options.in_order), targets_(targets), random_(options.seed) {
    if (options.zipf <= 0) return;
    double sum = 0;
    for (std::size_t i = 0; i < targets; ++i) {
      sum += 1 / std::pow(static_cast<double>(i + 1), options.zipf);
      cumulative_.push_back(sum);
    }
  }
  std::size_t next() {
    if (in_order_) return next_++ % targets_;
    if (cumulative_.empty())
      return std::uniform_int_distribution<std::size_t>(0, targets_ - 1)(random_);
    const double x = std::uniform_real_distribution<double>(0, cumulative_.back())(random_);
    const auto at = std::lower_bound(cumulative_.begin(), cumulative_.end(), x);
    return std::min<std::size_t>(static_cast<std::size_t>(at - cumulative_.begin()), targets_ - 1);
  }

 private:
  bool in_order_;
  std::size_t targets_;
  std::size_t next_ = 0;
  std::mt19937_64 random_;
  std::vector<double> cumulative_;
};

struct Totals {
  std::uint64_t requests = 0;
  std::uint64_t body_bytes = 0;
  std::uint64_t hits = 0;  // X-Cache: hit, or an X-Varnish with two numbers
  std::map<int, std::uint64_t> status;
  std::map<std::string, std::uint64_t> errors;
  std::vector<float> latency_us;
  std::vector<float> first_byte_us;
};

// One connection and the request that is under way on it.
class Connection {
 public:
  enum class State { kIdle, kHeader, kBody };

  Connection(const Options& options, Totals& totals) : options_(options), totals_(totals) {}

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] int fd() const { return socket_.raw(); }
  [[nodiscard]] bool open() const { return static_cast<bool>(socket_); }

  bool connect() {
    const bool local = !options_.unix_path.empty();
    socket_ =
        om::UniqueFd::adopt(::socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket_) return fail("socket");
    int result = 0;
    if (local) {
      sockaddr_un to{};
      to.sun_family = AF_UNIX;
      options_.unix_path.copy(static_cast<char*>(to.sun_path), sizeof to.sun_path - 1);
      result = ::connect(socket_.raw(), reinterpret_cast<const sockaddr*>(&to), sizeof to);
    } else {
      sockaddr_in to{};
      to.sin_family = AF_INET;
      to.sin_port = htons(options_.port);
      ::inet_pton(AF_INET, options_.address.c_str(), &to.sin_addr);
      result = ::connect(socket_.raw(), reinterpret_cast<const sockaddr*>(&to), sizeof to);
      const int on = 1;
      ::setsockopt(socket_.raw(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    if (result != 0) return fail("connect");
    ::fcntl(socket_.raw(), F_SETFL, O_NONBLOCK);
    state_ = State::kIdle;
    return true;
  }

  bool send(const Target& target, Clock::time_point due) {
    target_ = &target;
    due_ = due;
    std::string request = "GET " + target.path + " HTTP/1.1\r\nHost: " + options_.host + "\r\n";
    for (const auto& header : options_.headers) request += header + "\r\n";
    request += "\r\n";
    if (::send(socket_.raw(), request.data(), request.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request.size()))
      return fail("send");
    state_ = State::kHeader;
    head_.clear();
    return true;
  }

  // What is readable. False: the connection is of no more use.
  bool receive() {
    while (true) {
      if (state_ == State::kIdle) {
        char byte = 0;
        if (::recv(socket_.raw(), &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN) return true;
        socket_.reset();  // closed between requests: no failure, a new one is made
        return false;
      }
      const bool discard = state_ == State::kBody && !options_.verify && options_.unix_path.empty();
      std::size_t room = buffer_.size();
      if (state_ == State::kBody)
        room = discard ? std::min<std::uint64_t>(left_, std::uint64_t{64} << 20)
                       : std::min<std::uint64_t>(left_, buffer_.size());
      else
        room = 4096;  // little body with the header, so that the rest can be discarded
      const ssize_t n = ::recv(socket_.raw(), buffer_.data(), room, discard ? MSG_TRUNC : 0);
      if (n < 0 && errno == EAGAIN) return true;
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return fail(n == 0 ? "closed early" : "receive");
      if (state_ == State::kHeader) {
        if (!header({buffer_.data(), static_cast<std::size_t>(n)})) return false;
      } else {
        body({buffer_.data(), discard ? 0 : static_cast<std::size_t>(n)},
             static_cast<std::uint64_t>(n));
      }
      if (state_ == State::kBody && left_ == 0 && !finish()) return false;
      if (state_ == State::kIdle) return true;
    }
  }

 private:
  bool fail(const char* why) {
    ++totals_.errors[why];
    socket_.reset();
    state_ = State::kIdle;
    return false;
  }

  bool header(std::string_view bytes) {
    if (head_.empty()) first_byte_ = Clock::now();
    head_.append(bytes);
    const std::size_t end = head_.find("\r\n\r\n");
    if (end == std::string::npos) return head_.size() < 65536 || fail("header too long");
    const std::string rest = head_.substr(end + 4);
    head_.resize(end + 2);
    for (char& c : head_) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    status_ = head_.size() > 12 ? std::atoi(head_.c_str() + 9) : 0;
    const std::string length = field("content-length");
    if (length.empty()) return fail("no content-length");
    left_ = std::stoull(length);
    length_ = left_;
    close_ = field("connection") == "close";
    hit_ = field("x-cache").starts_with("hit") || field("x-varnish").find(' ') != std::string::npos;
    XXH3_64bits_reset(hash_.get());
    state_ = State::kBody;
    body(rest, rest.size());
    return true;
  }

  [[nodiscard]] std::string field(const std::string& name) const {
    const std::size_t at = head_.find("\n" + name + ":");
    if (at == std::string::npos) return {};
    const std::size_t begin = head_.find_first_not_of(' ', at + name.size() + 2);
    return head_.substr(begin, head_.find("\r\n", begin) - begin);
  }

  void body(std::string_view bytes, std::uint64_t n) {
    if (options_.verify) XXH3_64bits_update(hash_.get(), bytes.data(), bytes.size());
    left_ -= std::min(left_, n);
  }

  bool finish() {
    const auto now = Clock::now();
    ++totals_.requests;
    ++totals_.status[status_];
    totals_.body_bytes += length_;
    totals_.hits += hit_ ? 1 : 0;
    totals_.latency_us.push_back(static_cast<float>(microseconds(now - due_)));
    totals_.first_byte_us.push_back(static_cast<float>(microseconds(first_byte_ - due_)));
    state_ = State::kIdle;
    if (status_ / 100 == 2 && target_->length && *target_->length != length_)
      ++totals_.errors["wrong length"];
    if (options_.verify && status_ / 100 == 2 && target_->hash &&
        *target_->hash != XXH3_64bits_digest(hash_.get()))
      ++totals_.errors["wrong bytes"];
    if (close_) socket_.reset();
    return true;
  }

  struct FreeHash {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };

  const Options& options_;
  Totals& totals_;
  om::UniqueFd socket_;
  State state_ = State::kIdle;
  const Target* target_ = nullptr;
  Clock::time_point due_;
  Clock::time_point first_byte_;
  std::string head_;
  int status_ = 0;
  std::uint64_t left_ = 0;
  std::uint64_t length_ = 0;
  bool close_ = false;
  bool hit_ = false;
  std::unique_ptr<XXH3_state_t, FreeHash> hash_{XXH3_createState()};
  std::vector<char> buffer_ = std::vector<char>(std::size_t{256} << 10);
};

double percentile(std::vector<float>& sorted, double p) {
  if (sorted.empty()) return 0;
  const auto at = static_cast<std::size_t>(p * static_cast<double>(sorted.size() - 1));
  return static_cast<double>(sorted[at]);
}

nlohmann::json distribution(std::vector<float>& samples) {
  std::sort(samples.begin(), samples.end());
  return {{"p50", percentile(samples, .5)},
          {"p90", percentile(samples, .9)},
          {"p99", percentile(samples, .99)},
          {"p999", percentile(samples, .999)},
          {"max", percentile(samples, 1)}};
}

// Runs the load; the loop of the program.
class Run {
 public:
  Run(const Options& options, const std::vector<Target>& targets)
      : options_(options), targets_(targets), chooser_(options, targets.size()) {}

  Totals go() {
    poll_ = om::UniqueFd::adopt(::epoll_create1(EPOLL_CLOEXEC));
    for (std::size_t i = 0; i < options_.connections; ++i)
      connections_.push_back(std::make_unique<Connection>(options_, totals_));
    begin_ = Clock::now();
    end_ = begin_ + std::chrono::duration_cast<Clock::duration>(
                        std::chrono::duration<double>(options_.seconds));
    std::deque<std::size_t> idle;
    for (std::size_t i = 0; i < connections_.size(); ++i) idle.push_back(i);
    std::size_t busy = 0;
    std::array<epoll_event, 64> events{};
    while (true) {
      while (!idle.empty() && may_send()) {
        const std::size_t i = idle.front();
        idle.pop_front();
        if (!start(i)) {
          idle.push_back(i);
          if (totals_.errors.size() > 0 && ++failures_ > 1000) return std::move(totals_);
          continue;
        }
        ++busy;
      }
      if (busy == 0 && done()) break;
      const int n = ::epoll_wait(poll_.raw(), events.data(), events.size(), wait_ms());
      for (int e = 0; e < n; ++e) {
        const std::size_t i = events[static_cast<std::size_t>(e)].data.u64;
        Connection& c = *connections_[i];
        const bool was_busy = c.state() != Connection::State::kIdle;
        (void)c.receive();
        if (was_busy && c.state() == Connection::State::kIdle) {
          --busy;
          idle.push_back(i);
        }
      }
      if (Clock::now() > end_ + std::chrono::seconds(30)) {
        totals_.errors["never answered"] += busy;
        break;
      }
    }
    elapsed_ = std::chrono::duration<double>(Clock::now() - begin_).count();
    return std::move(totals_);
  }
  [[nodiscard]] double elapsed() const { return elapsed_; }

 private:
  [[nodiscard]] bool done() const {
    return options_.requests > 0 ? sent_ >= options_.requests : Clock::now() >= end_;
  }
  [[nodiscard]] Clock::time_point due() const {
    if (options_.rate <= 0) return Clock::now();
    return begin_ + std::chrono::duration_cast<Clock::duration>(
                        std::chrono::duration<double>(static_cast<double>(sent_) / options_.rate));
  }
  [[nodiscard]] bool may_send() const {
    return !done() && (options_.rate <= 0 || due() <= Clock::now());
  }
  [[nodiscard]] int wait_ms() const {
    if (options_.rate <= 0) return done() ? 100 : 1000;
    return done() ? 100 : 1;
  }
  bool start(std::size_t i) {
    Connection& c = *connections_[i];
    if (!c.open()) {
      if (!c.connect()) return false;
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.u64 = i;
      ::epoll_ctl(poll_.raw(), EPOLL_CTL_ADD, c.fd(), &event);
    }
    const auto when = due();
    if (!c.send(targets_[chooser_.next()], when)) return false;
    ++sent_;
    return true;
  }

  const Options& options_;
  const std::vector<Target>& targets_;
  Chooser chooser_;
  Totals totals_;
  om::UniqueFd poll_;
  std::vector<std::unique_ptr<Connection>> connections_;
  Clock::time_point begin_;
  Clock::time_point end_;
  std::uint64_t sent_ = 0;
  std::uint64_t failures_ = 0;
  double elapsed_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"an HTTP/1.1 load that discards bodies in the kernel"};
  app.add_option("--address", options.address, "IPv4 address");
  app.add_option("--port", options.port, "TCP port");
  app.add_option("--unix", options.unix_path, "Unix socket instead");
  app.add_option("--urls", options.url_file, "file of PATH [LENGTH [HASH]] lines")->required();
  app.add_option("--host", options.host, "Host header");
  app.add_option("--header", options.headers, "one more header, NAME: VALUE");
  app.add_option("--connections", options.connections, "at once");
  app.add_option("--seconds", options.seconds, "how long");
  app.add_option("--requests", options.requests, "how many, instead of how long");
  app.add_option("--rate", options.rate, "offered requests per second (0: closed loop)");
  app.add_option("--zipf", options.zipf, "exponent (0: uniform)");
  app.add_flag("--in-order", options.in_order, "one URL after the other");
  app.add_flag("--verify", options.verify, "read bodies and compare");
  app.add_option("--seed", options.seed, "of the choice of URLs");
  CLI11_PARSE(app, argc, argv);

  const auto targets = read_targets(options.url_file);
  if (targets.empty()) {
    (void)std::fprintf(stderr, "objm-load: no URLs in %s\n", options.url_file.c_str());
    return 2;
  }
  if (options.requests > 0) options.seconds = 3600;
  Run run(options, targets);
  Totals totals = run.go();
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  nlohmann::json status = nlohmann::json::object();
  for (const auto& [code, n] : totals.status) status[std::to_string(code)] = n;
  const nlohmann::json result = {{"requests", totals.requests},
                                 {"body_bytes", totals.body_bytes},
                                 {"hits", totals.hits},
                                 {"seconds", run.elapsed()},
                                 {"cpu_seconds", seconds(usage.ru_utime) + seconds(usage.ru_stime)},
                                 {"status", status},
                                 {"errors", totals.errors},
                                 {"latency_us", distribution(totals.latency_us)},
                                 {"first_byte_us", distribution(totals.first_byte_us)}};
  std::printf("%s\n", result.dump(1).c_str());
  return totals.errors.empty() ? 0 : 1;
}
