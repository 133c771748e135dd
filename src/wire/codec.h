// Bytes <-> messages. Decoding trusts nothing: lengths are checked against what is there before
// anything is allocated, limits are those of the message's fields(), and bytes left over are an
// error.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/result.h"
#include "wire/messages.h"

namespace om::wire {

// Appends fields to a packet.
class Encoder {
 public:
  explicit Encoder(std::string& out) : out_(out) {}
  template <std::unsigned_integral T>
  void operator()(const T& value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void operator()(const std::string& text, std::size_t /*bytes_max*/) {
    (*this)(static_cast<std::uint32_t>(text.size()));
    out_.append(text);
  }
  void operator()(const std::vector<std::string>& list, std::size_t /*count_max*/,
                  std::size_t bytes_max) {
    (*this)(static_cast<std::uint32_t>(list.size()));
    for (const auto& text : list) (*this)(text, bytes_max);
  }
  template <class T>
  void operator()(const std::vector<T>& list, std::size_t /*count_max*/) {
    (*this)(static_cast<std::uint32_t>(list.size()));
    for (const T& item : list) (*this)(item);
  }
  template <class T>
  requires requires(T& t, Encoder& e) { t.fields(e); }
  void operator()(const T& part) {
    const_cast<T&>(part).fields(
        *this);  // NOLINT(cppcoreguidelines-pro-type-const-cast): fields() serves both ways
  }

 private:
  std::string& out_;
};

// Takes fields from a packet. After the first thing that does not fit, everything reads as nothing
// and ok() is false.
class Decoder {
 public:
  explicit Decoder(std::span<const std::byte> bytes) : rest_(bytes) {}
  template <std::unsigned_integral T>
  void operator()(T& value) {
    if (rest_.size() < sizeof value) return fail();
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_ = rest_.subspan(sizeof value);
  }
  void operator()(std::string& text, std::size_t bytes_max) {
    const std::uint32_t n = count(bytes_max, 1);
    text.assign(reinterpret_cast<const char*>(rest_.data()), n);
    rest_ = rest_.subspan(n);
  }
  void operator()(std::vector<std::string>& list, std::size_t count_max, std::size_t bytes_max) {
    const std::uint32_t n = count(count_max, sizeof(std::uint32_t));
    list.clear();
    for (std::uint32_t i = 0; i < n && ok_; ++i) (*this)(list.emplace_back(), bytes_max);
  }
  template <class T>
  void operator()(std::vector<T>& list, std::size_t count_max) {
    const std::uint32_t n = count(count_max, 1);
    list.clear();
    list.reserve(n);
    for (std::uint32_t i = 0; i < n && ok_; ++i) (*this)(list.emplace_back());
  }
  template <class T>
  requires requires(T& t, Decoder& d) { t.fields(d); }
  void operator()(T& part) { part.fields(*this); }
  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] bool finished() const { return ok_ && rest_.empty(); }

 private:
  void fail() {
    ok_ = false;
    rest_ = {};
  }
  // A count that the limit allows and the rest of the packet can hold.
  std::uint32_t count(std::size_t max, std::size_t bytes_each) {
    std::uint32_t n = 0;
    (*this)(n);
    if (n > max || n * bytes_each > rest_.size()) fail();
    return ok_ ? n : 0;
  }

  std::span<const std::byte> rest_;
  bool ok_ = true;
};

// Reads and checks a packet's header: the length must be the packet's, the descriptors those that
// came with it.
Result<Header> decode_header(std::span<const std::byte> packet, std::size_t descriptors_received);
void encode_header(const Header& header, std::string& out);

// The body behind the header, as T.
template <class T>
Result<T> decode_body(std::span<const std::byte> packet) {
  Decoder decoder(packet.subspan(Header::kBytes));
  T message;
  decoder(message);
  if (!decoder.finished())
    return Error{Errc::kMalformed, 0, "message does not have the form of its type"};
  return message;
}

// Most packets are shorter: one allocation.
inline constexpr std::size_t kUsualPacketBytes = 256;

// A whole packet. The caller keeps to kPacketBytesMax and sends `descriptors` descriptors with it.
template <class T>
std::string encode(Type type, std::uint64_t request_id, const T& message, std::uint16_t flags = 0,
                   std::uint32_t descriptors = 0) {
  std::string packet;
  packet.reserve(kUsualPacketBytes);
  encode_header({0, type, flags, request_id, Errc::kOk, descriptors}, packet);
  Encoder encoder(packet);
  encoder(message);
  const auto length = static_cast<std::uint32_t>(packet.size());
  std::memcpy(packet.data(), &length, sizeof length);
  return packet;
}
template <class T>
std::string encode_request(std::uint64_t request_id, const T& message) {
  return encode(T::kType, request_id, message);
}
template <class T>
std::string encode_reply(Type type, std::uint64_t request_id, const T& message,
                         std::uint32_t descriptors = 0) {
  return encode(type, request_id, message, kReplyFlag, descriptors);
}
// A reply that says no, and why in words.
std::string encode_failure(Type type, std::uint64_t request_id, const Error& error);
// The Error of a reply whose status is not ok.
Error decode_failure(const Header& header, std::span<const std::byte> packet);

}  // namespace om::wire
