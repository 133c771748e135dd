// What the origin can serve: files of a folder, and bodies that are computed.
//
//   /files/PATH            a file below --files
//   /generated/BYTES       so many bytes; every eight of them are their own offset, little endian.
//                          ?rate=N      no faster than N bytes a second
//                          ?length=no   the length is not said beforehand
//                          ?fail_at=N   the origin fails after N bytes
//                          anything else makes it another URL with the same body
//
// A Body is read at offsets, by whoever, from any thread: an answer can be begun twice.
#pragma once

#include <objmapper/fd.h>
#include <objmapper/result.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace origin {

class Body {
 public:
  Body() = default;
  Body(const Body&) = delete;
  Body& operator=(const Body&) = delete;
  virtual ~Body() = default;
  // At least one byte from `offset` on; 0: it ends there. `since` is when the answer was begun.
  virtual om::Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> into,
                                       std::chrono::steady_clock::time_point since) const = 0;
};

struct Resource {
  std::shared_ptr<const Body> body;
  std::optional<std::uint64_t> length;  // nullopt: not said beforehand
  std::string content_type;
  std::string etag;  // changes when the bytes do
};

// `path` has no ".." in it that leads out of `folder`, or there is nothing there.
std::optional<Resource> open_file(const std::string& folder, const std::string& path);

struct Generated {
  std::uint64_t length = 0;
  std::uint64_t bytes_per_second = 0;  // 0: as fast as it goes
  bool says_length = true;
  std::optional<std::uint64_t> fail_at;
};
Resource generate(const Generated& wanted);

}  // namespace origin
