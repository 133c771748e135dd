#include "get/wire_peer.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

#include "posix/unix_socket.h"
#include "wire/codec.h"
#include "wire/messages.h"

namespace om::bench {

namespace {

[[noreturn]] void fail(const std::string& what) {
  (void)std::fprintf(stderr, "om-bench-get: %s\n", what.c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result, const char* what) {
  if (!result) fail(std::string(what) + ": " + describe(result.error()));
  return *std::move(result);
}

void send(const UniqueFd& socket, const std::string& packet) {
  if (!must(send_packet(socket.borrow(), std::as_bytes(std::span(packet)), {}), "send"))
    fail("the socket is full");
}

}  // namespace

std::size_t get_bytes(std::size_t key_bytes) {
  return wire::encode_request(1, wire::Get{{std::string(key_bytes, 'k')}}).size();
}

std::size_t get_reply_bytes() {
  wire::GetReply reply;
  reply.items.resize(1);
  reply.items.front().extents.resize(1);
  return wire::encode_reply(wire::Type::kGet, 1, reply).size();
}

WirePeer::WirePeer(const std::string& socket)
    : socket_(must(connect_seqpacket(socket, std::chrono::seconds(10)), "connect")),
      buffer_(kPacketBytesMax) {
  wire::Hello hello;
  hello.name = "om-bench-get";
  send(socket_, wire::encode_request(1, hello));
  auto packet = must(receive_packet(socket_.borrow(), buffer_), "receive");
  if (!packet || packet->bytes == 0) fail("no answer to HELLO");
  if (!packet->descriptors.empty()) lease_file_ = std::move(packet->descriptors.front());
}

void WirePeer::send_get(const std::string& key, std::uint64_t index) {
  send(socket_, wire::encode_request(index, wire::Get{{key}}));
}

void WirePeer::remember(std::uint64_t id, UniqueFd file, std::uint64_t size) {
  segments_.push_back({id, must(Mapping::of(file.borrow(), 0, size, Access::kRead), "map")});
}

std::uint64_t WirePeer::receive_one() {
  auto packet = must(receive_packet(socket_.borrow(), buffer_), "receive");
  if (!packet || packet->bytes == 0) fail("no answer");
  const auto bytes = std::span<const std::byte>(buffer_).first(packet->bytes);
  const auto header = must(wire::decode_header(bytes, packet->descriptors.size()), "header");
  if (header.status != Errc::kOk) fail(describe(wire::decode_failure(header, bytes)));
  const auto reply = must(wire::decode_body<wire::GetReply>(bytes), "reply");
  std::size_t next = 0;
  for (const wire::Segment& segment : reply.segments)
    if (segment.with_descriptor != 0)
      remember(segment.id, std::move(packet->descriptors[next++]), segment.size_bytes);
  const wire::GetItem& item = reply.items.front();
  if (item.status != 0 || item.extents.empty()) fail("an object is not there");
  for (const Mapped& segment : segments_) {
    if (segment.id != item.extents.front().segment) continue;
    std::uint64_t number = 0;
    std::memcpy(&number, segment.mapping.data() + item.extents.front().offset, sizeof number);
    if (number != header.request_id) fail("an answer with another object's bytes");
    return item.lease_id;
  }
  fail("a segment that nobody passed");
}

void WirePeer::send_release() {
  send(socket_, wire::encode_request(0, wire::Release{std::move(done_)}));
  done_.clear();
}

double WirePeer::run(const std::vector<std::string>& keys, std::size_t depth, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  const auto end =
      begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  std::uint64_t sent = 0;
  std::uint64_t answered = 0;
  const auto ask = [&] {
    const std::uint64_t index = sent++ % keys.size();
    send_get(keys[index], index);
  };
  // Half of the window is refilled at a time, so that there is always something under way.
  const std::size_t step = depth < 2 ? 1 : depth / 2;
  for (std::size_t i = 0; i < depth; ++i) ask();
  while (Clock::now() < end) {
    for (std::size_t i = 0; i < step; ++i, ++answered) done_.push_back(receive_one());
    send_release();
    for (std::size_t i = 0; i < step; ++i) ask();
  }
  const double took = std::chrono::duration<double>(Clock::now() - begin).count();
  const double rate = static_cast<double>(answered) / took;
  for (std::size_t i = 0; i < depth; ++i) done_.push_back(receive_one());
  send_release();
  return rate;
}

}  // namespace om::bench
