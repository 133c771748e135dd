#include "server/metrics.h"

#include <fcntl.h>
#include <httplib.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

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
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "posix/unique_fd.h"
#include "posix/unix_socket.h"

namespace om::server {

namespace {

constexpr unsigned kThreads = 2;
constexpr std::size_t kWaitingMax = 16;
constexpr int kBacklog = 16;
// After accept(2) has failed, and between two lines of the log about it.
constexpr auto kPause = std::chrono::milliseconds(100);
constexpr auto kTellAgain = std::chrono::seconds(60);
// To say what is wanted, and then to take it.
constexpr auto kPatience = std::chrono::seconds(2);

// Anybody on the machine may connect to a loopback address: what is more than a few connections
// waits in the kernel, where it costs us no descriptors.
class BoundedPool {
 public:
  BoundedPool() {
    try {
      for (unsigned i = 0; i < kThreads; ++i) threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      shutdown();
      throw;
    }
  }
  BoundedPool(const BoundedPool&) = delete;
  BoundedPool& operator=(const BoundedPool&) = delete;
  ~BoundedPool() { shutdown(); }
  void enqueue(std::function<void()> job) {
    {
      std::unique_lock lock(mutex_);
      taken_.wait(lock, [this] { return jobs_.size() < kWaitingMax; });
      jobs_.push_back(std::move(job));
    }
    came_.notify_one();
  }

 private:
  // A job that nobody does would leave its socket open.
  void shutdown() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    came_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
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

// What the library knows of HTTP. It accepts nothing: most of what accept(2) may say, such as that
// the machine is short of memory for a moment, would end that for good, and nobody would be told.
class HttpServer final : public httplib::Server {
 public:
  explicit HttpServer(const std::atomic<bool>& stopping) : stopping_(stopping) {
    set_payload_max_length(4096);
  }
  // A listening socket; nullopt: it cannot be had, errno says why. `port` 0: any, told there.
  std::optional<UniqueFd> make_listener(const std::string& host, int& port) {
    if (port == 0)
      port = bind_to_any_port(host);
    else if (!bind_to_port(host, port))
      return std::nullopt;
    auto socket = UniqueFd::adopt(svr_sock_.exchange(INVALID_SOCKET));
    if (port < 0 || !socket) return std::nullopt;
    const int flags = ::fcntl(socket.raw(), F_GETFL);
    if (flags < 0 || ::fcntl(socket.raw(), F_SETFL, flags | O_NONBLOCK) != 0) return std::nullopt;
    return socket;
  }
  void answer(UniqueFd socket) {
    Connection connection(socket.raw(), stopping_);
    bool closed = false;
    (void)process_request(connection, true, closed, nullptr);
    (void)::shutdown(socket.raw(), SHUT_RDWR);
  }

 private:
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
    // Wakes poll(2): it is readable from now on.
    if (listener_) (void)::shutdown(listener_.raw(), SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
    pool_.reset();
    if (file_) remove_own_socket(where_, file_);
  }

  Result<void> bind(Address address) {
    if (!address.path.empty()) {
      where_ = address.path;
      listener_ = OM_TRY(listen_stream(address.path, 0660, kBacklog));
      file_ = file_id(address.path);
    } else {
      const std::string wanted = address.host + ":" + std::to_string(address.port);
      auto listener = server_.make_listener(address.host, address.port);
      if (!listener) return Error{Errc::kSystem, errno, "listen for metrics on " + wanted};
      listener_ = *std::move(listener);
      where_ = address.host + ":" + std::to_string(address.port);
    }
    try {
      pool_ = std::make_unique<BoundedPool>();
      thread_ = std::thread([this] { accept_all(); });
    } catch (const std::system_error& failure) {
      return Error{Errc::kSystem, failure.code().value(), "start the threads for metrics"};
    }
    return {};
  }
  [[nodiscard]] const std::string& where() const override { return where_; }

 private:
  void accept_all() {
    std::optional<std::chrono::steady_clock::time_point> told;
    while (!stopping_->load()) {
      pollfd look{listener_.raw(), POLLIN, 0};
      (void)::poll(&look, 1, -1);
      if (stopping_->load()) return;
      auto socket = accept_connection(listener_.borrow());
      if (!socket) {
        const auto now = std::chrono::steady_clock::now();
        if (!told || now - *told >= kTellAgain) {
          told = now;
          spdlog::warn("metrics accept failed error=\"{}\"", describe(socket.error()));
        }
        std::this_thread::sleep_for(kPause);
        continue;
      }
      if (!*socket) continue;
      // std::function wants to be copied.
      pool_->enqueue([this, one = std::make_shared<UniqueFd>(**std::move(socket))] {
        server_.answer(std::move(*one));
      });
    }
  }
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
  std::string where_;
  UniqueFd listener_;
  std::optional<FileId> file_;  // that we made for it
  HttpServer server_{*stopping_};
  std::unique_ptr<BoundedPool> pool_;
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
