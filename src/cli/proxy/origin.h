// Addresses as an operator types them: where the origin is, where the proxy listens.
//
//   http://127.0.0.1:8081   www.example.org   [::1]:3000   unix:/run/app.sock   /run/app.sock
//
// Parsing is done here once; past it there are hosts, ports and paths. Refusals are sentences that
// say what to type instead.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace om::cli::proxy {

// What was typed is wrong: `what` says how, and what to type.
Error malformed(std::string what);

struct Origin {
  std::string host;  // a name or an address, without brackets; empty for a Unix socket
  std::uint16_t port = 80;
  std::string path;  // of the Unix socket
  [[nodiscard]] bool is_unix() const { return !path.empty(); }
  [[nodiscard]] std::string text() const;  // as one types it
  // What the origin wants to read as Host when nobody says otherwise: for the health probe.
  [[nodiscard]] std::string host_header() const;
};

Result<Origin> parse_origin(std::string_view text);

struct Listen {
  std::string host;  // empty: every address
  std::uint16_t port = 0;
  [[nodiscard]] std::string text() const;  // for varnishd -a
  // Where somebody on this machine reaches it: "127.0.0.1:8080".
  [[nodiscard]] std::string local() const;
};

// ":8080", "8080", "127.0.0.1:8080", "[::1]:8080".
Result<Listen> parse_listen(std::string_view text);

// What was found out about an origin by asking it.
struct Reached {
  std::string address;  // numeric; empty for a Unix socket
  bool answers = false;
  std::string why_not;  // "Connection refused"
};

// Resolves the name (VCL would refuse one with several addresses) and tries to connect to each
// address in turn. A name that does not resolve is an error; a refused connection is not, because
// the cache may well have what the origin has not at the moment.
Result<Reached> reach(const Origin& origin, std::chrono::milliseconds timeout);

// kBusy with a sentence when somebody listens there, kDenied when we may not.
Result<void> check_listen(const Listen& listen);

}  // namespace om::cli::proxy
