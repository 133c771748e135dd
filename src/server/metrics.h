// GET /metrics for Prometheus, on loopback TCP or on a Unix socket, from a thread of its own. It
// asks the loop's thread for the text and waits for it: a scrape never sees half a change, and
// costs the loop nothing but the moment that the text takes. A connection is for one request, has
// a few seconds for it, and is taken when few others are: who holds many keeps other collectors
// waiting, and takes nothing else from the daemon.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "loop/loop.h"

namespace om::server {

class Metrics {
 public:
  // `address`: "/path/of/a/socket", "127.0.0.1:9100", "[::1]:9100" or ":9100" (loopback). `render`
  // runs on the loop's thread. At a path, a stale socket is replaced; anything else there is an
  // error, and stays.
  static Result<std::unique_ptr<Metrics>> start(Loop& loop, const std::string& address,
                                                std::function<std::string()> render);
  // Whether an address has one of these forms; for --check-config.
  static Result<void> check(const std::string& address);
  virtual ~Metrics() = default;
  Metrics() = default;
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;
  // Where it listens, with the port that the kernel chose for port 0.
  [[nodiscard]] virtual const std::string& where() const = 0;
};

}  // namespace om::server
