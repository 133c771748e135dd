#pragma once
// The HTTP/1.1 part of a server that costs as little as it can: kept connections, a thread for
// each, GET and HEAD, header fields of requests not looked at. For what caches are measured
// against, not for the Internet.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "posix/unique_fd.h"

namespace om::load {

struct Request {
  std::string path;  // and query, as it came
  bool head = false;
};

// Sends the answer to one request; false ends the connection. Called by many threads at once.
using Answer = std::function<bool(int to, const Request&)>;

// Both say on stderr what is wrong and end the program: it has nothing to do without.
UniqueFd listen_on_loopback(std::uint16_t port);
UniqueFd listen_on_path(const std::string& path);

// For good. Threads take a copy of `answer`.
[[noreturn]] void serve(const UniqueFd& listener, const Answer& answer);

// All of it, or false. `flags` as of send(2); never a SIGPIPE.
bool send_all(int to, std::string_view bytes, int flags = 0);

}  // namespace om::load
