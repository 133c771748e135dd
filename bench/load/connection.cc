#include "load/connection.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "load/content.h"

namespace om::load {

namespace {

double microseconds(Clock::duration d) {
  return std::chrono::duration<double, std::micro>(d).count();
}

}  // namespace

bool Connection::connect() {
  const bool local = !options_.unix_path.empty();
  socket_ = UniqueFd::adopt(::socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
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

bool Connection::send(const Target& target, Clock::time_point due, bool compare,
                      std::uint64_t range_begin, std::uint64_t range_length) {
  target_ = &target;
  due_ = due;
  compare_ = compare;
  range_begin_ = range_begin;
  range_length_ = range_length;
  std::string request = "GET " + target.path + " HTTP/1.1\r\nHost: " + options_.host + "\r\n";
  for (const auto& header : options_.headers) request += header + "\r\n";
  if (range_length > 0)
    request += "Range: bytes=" + std::to_string(range_begin) + "-" +
               std::to_string(range_begin + range_length - 1) + "\r\n";
  request += "\r\n";
  if (::send(socket_.raw(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size()))
    return fail("send");
  totals_.late_us.push_back(static_cast<float>(microseconds(Clock::now() - due)));
  state_ = State::kHeader;
  head_.clear();
  return true;
}

bool Connection::receive() {
  while (true) {
    if (state_ == State::kIdle) {
      char byte = 0;
      if (::recv(socket_.raw(), &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN) return true;
      socket_.reset();  // closed between requests: no failure, a new one is made
      return false;
    }
    const bool discard = state_ == State::kBody && !compare_ && options_.unix_path.empty();
    std::size_t room = 4096;  // little body with the header, so that the rest can be discarded
    if (state_ == State::kBody)
      room = std::min<std::uint64_t>(left_, discard ? std::uint64_t{64} << 20 : buffer_.size());
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

bool Connection::fail(const char* why) {
  totals_.error(why, Clock::now());
  socket_.reset();
  state_ = State::kIdle;
  return false;
}

bool Connection::header(std::string_view bytes) {
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
  left_ = std::strtoull(length.c_str(), nullptr, 10);
  length_ = left_;
  close_ = field("connection") == "close";
  hit_ = field("x-cache").starts_with("hit") || field("x-varnish").find(' ') != std::string::npos;
  at_ = status_ == 206 ? range_begin_ : 0;
  equal_ = true;
  XXH3_64bits_reset(hash_.get());
  state_ = State::kBody;
  body(rest, rest.size());
  return true;
}

std::string Connection::field(const std::string& name) const {
  const std::size_t at = head_.find("\n" + name + ":");
  if (at == std::string::npos) return {};
  const std::size_t begin = head_.find_first_not_of(' ', at + name.size() + 2);
  return head_.substr(begin, head_.find("\r\n", begin) - begin);
}

void Connection::body(std::string_view bytes, std::uint64_t n) {
  if (compare_) {
    if (target_->hash)
      XXH3_64bits_update(hash_.get(), bytes.data(), bytes.size());
    else if (status_ / 100 == 2 && body_length(target_->path))
      equal_ = equal_ && Content::instance().equal(target_->path, at_, bytes);
  }
  at_ += n;
  left_ -= std::min(left_, n);
}

bool Connection::finish() {
  const auto now = Clock::now();
  ++totals_.requests;
  ++totals_.status[status_];
  totals_.body_bytes += length_;
  totals_.hits += hit_ ? 1 : 0;
  totals_.hit_bytes += hit_ ? length_ : 0;
  Slice& slice = totals_.slice(now);
  ++slice.requests;
  slice.hits += hit_ ? 1 : 0;
  totals_.latency_us.push_back(static_cast<float>(microseconds(now - due_)));
  totals_.first_byte_us.push_back(static_cast<float>(microseconds(first_byte_ - due_)));
  state_ = State::kIdle;
  if (status_ / 100 == 2) {
    if (range_length_ > 0 && status_ != 206) totals_.error("range ignored", now);
    const auto expected = status_ == 206 ? range_length_ : target_->length;
    if (expected && *expected != length_) totals_.error("wrong length", now);
    if (compare_) {
      const bool can_hash = target_->hash && status_ == 200;
      totals_.compared += can_hash || body_length(target_->path) ? 1 : 0;
      if (!equal_ || (can_hash && *target_->hash != XXH3_64bits_digest(hash_.get())))
        totals_.error("wrong bytes", now);
    }
  } else {
    totals_.error("status " + std::to_string(status_), now);
  }
  if (close_) socket_.reset();
  return true;
}

}  // namespace om::load
