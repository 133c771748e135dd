// Any bytes as a packet: decoding must not crash, and what it accepts must encode to the same
// bytes.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "wire/any.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace om::wire;
  const auto packet = std::as_bytes(std::span(data, size));
  std::uint32_t descriptors = 0;
  if (size >= Header::kBytes) std::memcpy(&descriptors, data + 20, sizeof descriptors);
  const auto header = decode_header(packet, descriptors);
  // The lengths rarely agree by chance: decode behind a header that is right as well.
  const auto rest = size > 2 ? packet.subspan(2) : packet;
  std::string whole(Header::kBytes, '\0');
  whole.append(reinterpret_cast<const char*>(rest.data()), rest.size());
  Header made{static_cast<std::uint32_t>(whole.size()),
              static_cast<Type>(size > 0 ? data[0] % 32 : 0),
              static_cast<std::uint16_t>(size > 1 ? data[1] & 1 : 0),
              1,
              om::Errc::kOk,
              0};
  std::string head;
  encode_header(made, head);
  whole.replace(0, Header::kBytes, head);
  if (const auto again = reencode(made, std::as_bytes(std::span(whole))); again && *again) {
    if (**again != whole) std::abort();
  }
  if (header)
    if (const auto again = reencode(*header, packet);
        again && *again && header->status == om::Errc::kOk)
      if ((*again)->size() != size || std::memcmp((*again)->data(), data, size) != 0) std::abort();
  return 0;
}
