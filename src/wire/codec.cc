#include "wire/codec.h"

#include <bit>

namespace om::wire {

static_assert(std::endian::native == std::endian::little,
              "the wire is little endian and so are we");

namespace {
// The reason for a failure, for people.
struct Reason {
  std::string text;
  template <class A>
  void fields(A& a) {
    a(text, std::size_t{4096});
  }
};
}  // namespace

Result<Header> decode_header(std::span<const std::byte> packet, std::size_t descriptors_received) {
  Header header;
  if (packet.size() < Header::kBytes)
    return Error{Errc::kMalformed, 0, "packet shorter than a header"};
  Decoder decoder(packet.first(Header::kBytes));
  std::uint16_t type = 0;
  std::uint32_t status = 0;
  decoder(header.length), decoder(type), decoder(header.flags), decoder(header.request_id);
  decoder(status), decoder(header.descriptors);
  header.type = static_cast<Type>(type);
  header.status = static_cast<Errc>(status);
  if (header.length != packet.size())
    return Error{Errc::kMalformed, 0, "length is not the packet's"};
  if (header.descriptors != descriptors_received)
    return Error{Errc::kMalformed, 0, "descriptor count is not what came with the packet"};
  return header;
}

void encode_header(const Header& header, std::string& out) {
  Encoder encoder(out);
  encoder(header.length), encoder(static_cast<std::uint16_t>(header.type)), encoder(header.flags);
  encoder(header.request_id), encoder(static_cast<std::uint32_t>(header.status)),
      encoder(header.descriptors);
}

std::string encode_failure(Type type, std::uint64_t request_id, const Error& error) {
  Reason reason{error.code == Errc::kSystem || error.sys_errno != 0 ? describe(error) : error.what};
  if (reason.text.size() > 4096) reason.text.resize(4096);
  std::string packet = encode(type, request_id, reason, kReplyFlag);
  std::string head;
  encode_header(
      {static_cast<std::uint32_t>(packet.size()), type, kReplyFlag, request_id, error.code, 0},
      head);
  packet.replace(0, Header::kBytes, head);
  return packet;
}

Error decode_failure(const Header& header, std::span<const std::byte> packet) {
  auto reason = decode_body<Reason>(packet);
  return {header.status, 0, reason ? std::move(reason->text) : "the daemon gave no reason"};
}

}  // namespace om::wire
