#include "server/metrics.h"

#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "posix/unique_fd.h"
#include "posix/unix_socket.h"

namespace om::server {

namespace {

constexpr unsigned kThreads = 2;
constexpr std::size_t kWaitingMax = 16;
// To say what is wanted, and then to take it.
constexpr auto kPatience = std::chrono::seconds(2);

// Anybody on the machine may connect to a loopback address: what is more than a few connections
// waits in the kernel, where it costs us no descriptors.
class BoundedPool final : public httplib::TaskQueue {
 public:
  BoundedPool() {
    for (unsigned i = 0; i < kThreads; ++i) threads_.emplace_back([this] { work(); });
  }
  void enqueue(std::function<void()> job) override {
    {
      std::unique_lock lock(mutex_);
      taken_.wait(lock, [this] { return jobs_.size() < kWaitingMax; });
      jobs_.push_back(std::move(job));
    }
    came_.notify_one();
  }
  // A job that nobody does would leave its socket open.
  void shutdown() override {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    came_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      came_.wait(lock, [this] { return ended_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      taken_.notify_one();
      job();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable came_;
  std::condition_variable taken_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_
  bool ended_ = false;                      // guarded by mutex_
  std::vector<std::thread> threads_;        // last: they use the above
};

// A connection for one request. The library's own waits anew for every byte.
class Connection final : public httplib::Stream {
 public:
  Connection(int socket, const std::atomic<bool>& stopping)
      : socket_(socket), stopping_(stopping) {}
  [[nodiscard]] bool is_readable() const override { return wait(POLLIN); }
  [[nodiscard]] bool is_writable() const override { return wait(POLLOUT); }
  ssize_t read(char* into, std::size_t size) override {
    return wait(POLLIN) ? ::recv(socket_, into, size, MSG_DONTWAIT) : -1;
  }
  ssize_t write(const char* from, std::size_t size) override {
    if (!std::exchange(answers_, true)) deadline_ = std::chrono::steady_clock::now() + kPatience;
    for (std::size_t sent = 0; sent < size;) {
      if (!wait(POLLOUT)) return -1;
      const ssize_t n = ::send(socket_, from + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n > 0)
        sent += static_cast<std::size_t>(n);
      else if (errno != EAGAIN && errno != EINTR)
        return -1;
    }
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  void get_local_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  [[nodiscard]] socket_t socket() const override { return socket_; }

 private:
  [[nodiscard]] bool wait(short events) const {
    constexpr std::int64_t kLookMs = 50;  // whether the daemon ends
    while (!stopping_.load()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(
          deadline_ - std::chrono::steady_clock::now());
      if (left.count() <= 0) return false;
      pollfd look{socket_, events, 0};
      const int ready =
          ::poll(&look, 1, static_cast<int>(std::min<std::int64_t>(left.count(), kLookMs)));
      if (ready > 0) return true;
      if (ready < 0 && errno != EINTR) return false;
    }
    return false;
  }

  const int socket_;
  const std::atomic<bool>& stopping_;
  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::now() + kPatience;
  bool answers_ = false;
};

class HttpServer final : public httplib::Server {
 public:
  explicit HttpServer(const std::atomic<bool>& stopping) : stopping_(stopping) {
    new_task_queue = [] { return new BoundedPool; };
    set_payload_max_length(4096);
  }

 private:
  bool process_and_close_socket(socket_t number) override {
    const UniqueFd socket = UniqueFd::adopt(number);
    Connection connection(number, stopping_);
    bool closed = false;
    const bool answered = process_request(connection, true, closed, nullptr);
    (void)::shutdown(number, SHUT_RDWR);
    return answered;
  }
  const std::atomic<bool>& stopping_;
};

struct Address {
  std::string path;  // of a Unix socket, or
  std::string host;
  int port = 0;
};

Result<Address> parse(const std::string& text) {
  const Error wrong{
      Errc::kMalformed, 0,
      "metrics address \"" + text + "\": expected /path/of/a/socket, 127.0.0.1:PORT or [::1]:PORT"};
  if (text.starts_with('/')) {
    if (text.size() > 107)
      return Error{Errc::kMalformed, 0, "metrics socket path is longer than 107 bytes: " + text};
    return Address{text, "", 0};
  }
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return wrong;
  Address address;
  address.host = text.substr(0, colon);
  if (address.host.empty()) address.host = "127.0.0.1";
  if (address.host == "[::1]") address.host = "::1";
  const char* const end = text.data() + text.size();
  const auto [rest, code] = std::from_chars(text.data() + colon + 1, end, address.port);
  if (code != std::errc() || rest != end || address.port < 0 || address.port > 65535) return wrong;
  // There is no password on it: it is for the collector on this machine.
  if (address.host != "::1" && address.host != "localhost" && !address.host.starts_with("127."))
    return Error{Errc::kMalformed, 0,
                 "metrics address \"" + text +
                     "\" is not of this machine: use a loopback address or a Unix socket"};
  return address;
}

class HttpMetrics final : public Metrics {
 public:
  HttpMetrics(Loop& loop, std::function<std::string()> render)
      : loop_(loop), render_(std::move(render)) {
    server_.Get("/metrics",
                [this](const httplib::Request&, httplib::Response& response) { answer(response); });
  }
  HttpMetrics(const HttpMetrics&) = delete;
  HttpMetrics& operator=(const HttpMetrics&) = delete;
  ~HttpMetrics() override {
    stopping_->store(true);
    server_.stop();
    if (thread_.joinable()) thread_.join();
    if (made_) ::unlink(address_.path.c_str());
  }

  Result<void> bind(Address address) {
    address_ = std::move(address);
    if (!address_.path.empty()) {
      OM_TRY(remove_stale_socket(address_.path));
      server_.set_address_family(AF_UNIX);
      if (!server_.bind_to_port(address_.path, 80))
        return Error{Errc::kSystem, errno, "listen for metrics on " + address_.path};
      made_ = true;
      ::chmod(address_.path.c_str(), 0660);
      where_ = address_.path;
    } else {
      const int port = address_.port == 0 ? server_.bind_to_any_port(address_.host)
                       : server_.bind_to_port(address_.host, address_.port) ? address_.port
                                                                            : -1;
      where_ = address_.host + ":" + std::to_string(port < 0 ? address_.port : port);
      if (port < 0) return Error{Errc::kSystem, errno, "listen for metrics on " + where_};
    }
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    // stop() does nothing before the thread is that far.
    while (!server_.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return {};
  }
  [[nodiscard]] const std::string& where() const override { return where_; }

 private:
  void answer(httplib::Response& response) {
    auto text = std::make_shared<std::promise<std::string>>();
    auto future = text->get_future();
    loop_.post([this, text, stopping = stopping_] {
      if (!stopping->load()) text->set_value(render_());
    });
    for (int i = 0; i < 100 && !stopping_->load(); ++i) {
      if (future.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) continue;
      response.set_content(future.get(), "text/plain; version=0.0.4; charset=utf-8");
      return;
    }
    response.status = 503;
  }

  Loop& loop_;
  std::function<std::string()> render_;
  // Shared with what is posted to the loop, which may run after us.
  std::shared_ptr<std::atomic<bool>> stopping_ = std::make_shared<std::atomic<bool>>(false);
  Address address_;
  bool made_ = false;  // the socket at address_.path
  std::string where_;
  HttpServer server_{*stopping_};
  std::thread thread_;
};

}  // namespace

Result<void> Metrics::check(const std::string& address) {
  OM_TRY(parse(address));
  return {};
}

Result<std::unique_ptr<Metrics>> Metrics::start(Loop& loop, const std::string& address,
                                                std::function<std::string()> render) {
  Address where = OM_TRY(parse(address));
  auto metrics = std::make_unique<HttpMetrics>(loop, std::move(render));
  OM_TRY(metrics->bind(std::move(where)));
  return std::unique_ptr<Metrics>(std::move(metrics));
}

}  // namespace om::server
