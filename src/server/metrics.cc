#include "server/metrics.h"

#include <httplib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <future>
#include <thread>

namespace om::server {

namespace {

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
    server_.new_task_queue = [] { return new httplib::ThreadPool(2); };
    server_.set_read_timeout(5, 0);
    server_.set_write_timeout(5, 0);
    server_.set_keep_alive_timeout(5);
    server_.set_payload_max_length(4096);
    server_.Get("/metrics",
                [this](const httplib::Request&, httplib::Response& response) { answer(response); });
  }
  HttpMetrics(const HttpMetrics&) = delete;
  HttpMetrics& operator=(const HttpMetrics&) = delete;
  ~HttpMetrics() override {
    stopping_->store(true);
    server_.stop();
    if (thread_.joinable()) thread_.join();
    if (!address_.path.empty()) ::unlink(address_.path.c_str());
  }

  Result<void> bind(Address address) {
    address_ = std::move(address);
    if (!address_.path.empty()) {
      struct stat status {};
      if (::lstat(address_.path.c_str(), &status) == 0) {
        if (!S_ISSOCK(status.st_mode))
          return Error{Errc::kExists, 0, address_.path + " exists and is not a socket"};
        ::unlink(address_.path.c_str());
      }
      server_.set_address_family(AF_UNIX);
      if (!server_.bind_to_port(address_.path, 80))
        return Error{Errc::kSystem, errno, "listen for metrics on " + address_.path};
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
  std::string where_;
  httplib::Server server_;
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
