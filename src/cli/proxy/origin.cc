#include "cli/proxy/origin.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <charconv>
#include <cstring>
#include <memory>

#include "posix/unique_fd.h"

namespace om::cli::proxy {

Error malformed(std::string what) { return {Errc::kMalformed, 0, std::move(what)}; }

namespace {

bool is_numeric(const std::string& host) {
  in6_addr six{};
  in_addr four{};
  return ::inet_pton(AF_INET, host.c_str(), &four) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), &six) == 1;
}

std::string bracketed(const std::string& host) {
  return host.find(':') == std::string::npos ? host : "[" + host + "]";
}

Result<std::uint16_t> parse_port(std::string_view text, std::string_view whole) {
  unsigned port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc{} || end != text.data() + text.size() || port == 0 || port > 65535) {
    return malformed("\"" + std::string(text) + "\" in \"" + std::string(whole) +
                     "\" is no port: give a number from 1 to 65535");
  }
  return static_cast<std::uint16_t>(port);
}

struct HostPort {
  std::string host;
  std::string_view port;  // empty: none given
};

// "host", "host:port", "[v6]", "[v6]:port", ":port".
Result<HostPort> split(std::string_view text) {
  HostPort result;
  if (text.starts_with('[')) {
    const auto close = text.find(']');
    if (close == std::string_view::npos || (close + 1 < text.size() && text[close + 1] != ':') ||
        close + 2 == text.size()) {
      return malformed("\"" + std::string(text) + "\": write an IPv6 address as [::1]:8080");
    }
    result.host = text.substr(1, close - 1);
    if (close + 1 < text.size()) result.port = text.substr(close + 2);
    if (!is_numeric(result.host)) {
      return malformed("\"" + result.host + "\" in brackets is no IPv6 address");
    }
    return result;
  }
  const auto colon = text.find(':');
  if (colon != std::string_view::npos && text.find(':', colon + 1) != std::string_view::npos) {
    return malformed("\"" + std::string(text) +
                     "\": write an IPv6 address in brackets, [::1]:8080");
  }
  if (colon != std::string_view::npos && colon + 1 == text.size()) {
    return malformed("\"" + std::string(text) + "\" ends where the port should be");
  }
  result.host = text.substr(0, colon);
  if (colon != std::string_view::npos) result.port = text.substr(colon + 1);
  return result;
}

bool is_host_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_' || c == ':';
}

// Connects within the time limit; the errno of the failure, or 0.
int try_connect(const sockaddr* address, socklen_t length, std::chrono::milliseconds timeout) {
  const auto socket =
      UniqueFd::adopt(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return errno;
  if (::connect(socket.raw(), address, length) == 0) return 0;
  if (errno != EINPROGRESS && errno != EAGAIN) return errno;
  pollfd wait{.fd = socket.raw(), .events = POLLOUT, .revents = 0};
  if (::poll(&wait, 1, static_cast<int>(timeout.count())) == 0) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof error;
  if (::getsockopt(socket.raw(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
  return error;
}

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Result<AddressList> lookup(const std::string& host, std::uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string service = std::to_string(port);
  const int code =
      ::getaddrinfo(host.empty() ? nullptr : host.c_str(), service.c_str(), &hints, &found);
  if (code != 0) {
    return Error{Errc::kNotFound, 0,
                 "the name " + host + " does not resolve (" + ::gai_strerror(code) +
                     "): check its spelling and /etc/resolv.conf, or give an address"};
  }
  return AddressList(found, &::freeaddrinfo);
}

std::string numeric(const addrinfo& entry) {
  char text[NI_MAXHOST] = "";
  ::getnameinfo(entry.ai_addr, entry.ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
  return text;
}

Result<Reached> reach_unix(const Origin& origin, std::chrono::milliseconds timeout) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (origin.path.size() >= sizeof address.sun_path) {
    return malformed("the socket path " + origin.path + " is longer than the " +
                     std::to_string(sizeof address.sun_path - 1) +
                     " bytes that a Unix socket may have: use a shorter one");
  }
  std::memcpy(address.sun_path, origin.path.data(), origin.path.size());
  const int error =
      try_connect(reinterpret_cast<const sockaddr*>(&address), sizeof address, timeout);
  // NOLINTNEXTLINE(concurrency-mt-unsafe): a buffer for each thread
  const char* const why_not = error != 0 ? std::strerror(error) : "";
  return Reached{.address = "", .answers = error == 0, .why_not = why_not};
}

}  // namespace

std::string Origin::text() const {
  if (is_unix()) return "unix:" + path;
  return "http://" + bracketed(host) + (port == 80 ? "" : ":" + std::to_string(port));
}

std::string Origin::host_header() const {
  if (is_unix()) return "localhost";
  return bracketed(host) + (port == 80 ? "" : ":" + std::to_string(port));
}

Result<Origin> parse_origin(std::string_view text) {
  const std::string whole(text);
  if (text.starts_with("https://")) {
    return malformed(
        "https origins are not supported, because varnishd speaks plain HTTP to them: put a "
        "TLS client such as \"socat\", \"stunnel\" or \"nginx\" in between, or give the origin's "
        "http:// address");
  }
  if (text.starts_with("unix:")) text.remove_prefix(5);
  if (text.starts_with('/')) {
    Origin origin;
    origin.path = text;
    if (origin.path.find_first_of("\"\n\r") != std::string::npos) {
      return malformed("a quote or a line break in the socket path cannot stand in VCL");
    }
    return origin;
  }
  if (text.starts_with("http://")) {
    text.remove_prefix(7);
  } else if (text.find("://") != std::string_view::npos) {
    return malformed("\"" + whole + "\": an origin is http://HOST[:PORT] or unix:/PATH");
  }
  const auto slash = text.find('/');
  if (slash != std::string_view::npos && slash + 1 != text.size()) {
    return malformed("\"" + whole + "\": an origin is a server and has no path; say http://" +
                     std::string(text.substr(0, slash)) +
                     " and put the path into the URLs you ask for, or rewrite them with --vcl");
  }
  text = text.substr(0, slash);
  auto parts = OM_TRY(split(text));
  Origin origin;
  origin.host = std::move(parts.host);
  if (!parts.port.empty()) origin.port = OM_TRY(parse_port(parts.port, whole));
  if (origin.host.empty()) {
    return malformed("\"" + whole + "\" names no host: an origin is http://HOST[:PORT]");
  }
  for (const char c : origin.host) {
    if (!is_host_character(c)) {
      return malformed("\"" + whole + "\": \"" + std::string(1, c) + "\" cannot stand in a host");
    }
  }
  return origin;
}

std::string Listen::text() const { return bracketed(host) + ":" + std::to_string(port); }

std::string Listen::local() const {
  if (host.empty() || host == "0.0.0.0") return "127.0.0.1:" + std::to_string(port);
  if (host == "::") return "[::1]:" + std::to_string(port);
  return text();
}

Result<Listen> parse_listen(std::string_view text) {
  const std::string whole(text);
  if (text.starts_with("http://")) text.remove_prefix(7);
  if (text.starts_with('/') || text.starts_with("unix:")) {
    return malformed(
        "--listen takes [HOST]:PORT; for a Unix socket run varnishd yourself with "
        "the VCL that --dry-run prints");
  }
  Listen listen;
  if (text.find_first_not_of("0123456789") == std::string_view::npos) {
    listen.port = OM_TRY(parse_port(text, whole));
    return listen;
  }
  auto parts = OM_TRY(split(text));
  if (parts.port.empty()) {
    return malformed("\"" + whole + "\" has no port: --listen takes [HOST]:PORT, such as :8080");
  }
  for (const char c : parts.host) {
    if (!is_host_character(c)) {
      return malformed("\"" + whole + "\": \"" + std::string(1, c) + "\" cannot stand in a host");
    }
  }
  listen.host = std::move(parts.host);
  listen.port = OM_TRY(parse_port(parts.port, whole));
  return listen;
}

Result<Reached> reach(const Origin& origin, std::chrono::milliseconds timeout) {
  if (origin.is_unix()) return reach_unix(origin, timeout);
  const auto list = OM_TRY(lookup(origin.host, origin.port, 0));
  Reached reached;
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    const int error = try_connect(entry->ai_addr, entry->ai_addrlen, timeout);
    if (error == 0) return Reached{.address = numeric(*entry), .answers = true, .why_not = ""};
    // None may answer: then the first is the one to go on trying.
    if (reached.address.empty()) reached.address = numeric(*entry);
    reached.why_not = std::strerror(error);  // NOLINT(concurrency-mt-unsafe)
  }
  return reached;
}

Result<void> check_listen(const Listen& listen) {
  const auto list = OM_TRY(lookup(listen.host, listen.port, AI_PASSIVE));
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    const auto socket = UniqueFd::adopt(::socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) continue;  // no IPv6 here
    const int on = 1;
    ::setsockopt(socket.raw(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (entry->ai_family == AF_INET6) {
      ::setsockopt(socket.raw(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    }
    if (::bind(socket.raw(), entry->ai_addr, entry->ai_addrlen) == 0) {
      // Two may bind with SO_REUSEADDR; only one may listen.
      if (::listen(socket.raw(), 1) == 0) continue;
    }
    const std::string where = listen.text();
    if (errno == EADDRINUSE) {
      return Error{Errc::kBusy, 0,
                   "port " + std::to_string(listen.port) +
                       " is taken by another program (see: ss -ltnp): stop it, or choose another "
                       "with --listen"};
    }
    if (errno == EACCES) {
      return Error{Errc::kDenied, 0,
                   "ports below 1024 are for root: run as root, or choose another with --listen "
                   ":8080"};
    }
    if (errno == EADDRNOTAVAIL) {
      return malformed(where +
                       " is no address of this machine (see: ip addr): choose one with "
                       "--listen, or :" +
                       std::to_string(listen.port) + " for all");
    }
    return system_error("cannot listen on " + where);
  }
  return {};
}

}  // namespace om::cli::proxy
