// For tests: the other end of a socket pair, which says what the test tells it to, right or wrong.
#pragma once

#include <functional>
#include <future>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "posix/unix_socket.h"
#include "wire/codec.h"

namespace om::client {

class FakeServer {
 public:
  // Runs `script` in a thread of its own over the daemon's end.
  explicit FakeServer(std::function<void(FakeServer&)> script) {
    auto pair = seqpacket_pair();
    ends_ = *std::move(pair);
    thread_ = std::thread([this, script = std::move(script)] { script(*this); });
  }
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;
  ~FakeServer() { join(); }
  void join() {
    if (thread_.joinable()) thread_.join();
  }
  // The client's end, once.
  int take_client_end() { return ends_.first.release(); }

  struct Request {
    wire::Header header;
    std::vector<std::byte> packet;
    template <class T>
    T as() const {
      auto message = wire::decode_body<T>(packet);
      return message ? *std::move(message) : T{};
    }
  };
  // nullopt: the client has gone.
  std::optional<Request> receive() {
    std::vector<std::byte> buffer(kPacketBytesMax);
    auto packet = receive_packet(ends_.second.borrow(), buffer);
    if (!packet || !packet->has_value() || (*packet)->bytes == 0) return std::nullopt;
    buffer.resize((*packet)->bytes);
    const auto header = wire::decode_header(buffer, (*packet)->descriptors.size());
    if (!header) return std::nullopt;
    return Request{*header, std::move(buffer)};
  }
  void send(const std::string& packet, const std::vector<BorrowedFd>& descriptors = {}) {
    const auto sent =
        send_packet(ends_.second.borrow(), std::as_bytes(std::span(packet)), descriptors);
    // One that has gone does not wait for what it has asked last: receive() says so.
    if (sent || sent.error().code == Errc::kUnavailable) return;
    (void)*sent;
  }
  template <class T>
  void reply(const Request& to, const T& message, const std::vector<BorrowedFd>& descriptors = {}) {
    send(wire::encode_reply(to.header.type, to.header.request_id, message,
                            static_cast<std::uint32_t>(descriptors.size())),
         descriptors);
  }
  void fail(const Request& to, Errc code, std::string why) {
    send(wire::encode_failure(to.header.type, to.header.request_id, {code, 0, std::move(why)}));
  }
  // Answers HELLO as it should be.
  void welcome() {
    if (const auto hello = receive()) {
      wire::HelloReply answer;
      answer.daemon_epoch = 7;
      answer.may_read = answer.may_write = 1;
      answer.version_text = "fake";
      reply(*hello, answer);
    }
  }
  void hang_up() { ends_.second.reset(); }

 private:
  std::pair<UniqueFd, UniqueFd> ends_;
  std::thread thread_;
};

}  // namespace om::client
