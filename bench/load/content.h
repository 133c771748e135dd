// content.h: bodies that both ends can tell without having exchanged them. The body of a path is a
// stretch of one table of pseudo-random bytes that begins where the path's hash says, and goes
// round. The table's length is a prime, so that bytes that come from another path, or from another
// multiple of any block size within the same body, do not compare equal.
//
//   A path with a body: /o/SIZE/NAME, SIZE in bytes or with K, M, G.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace om::load {

// "64K" and the like, powers of 1024.
std::optional<std::uint64_t> parse_size(std::string_view text);
// The SIZE of a path /o/SIZE/NAME.
std::optional<std::uint64_t> body_length(std::string_view path);

class Content {
 public:
  Content();
  static const Content& instance();

  // Contiguous bytes of the path's body from `offset` on, at most `length`, at least one.
  [[nodiscard]] std::string_view piece(std::string_view path, std::uint64_t offset,
                                       std::uint64_t length) const;
  [[nodiscard]] bool equal(std::string_view path, std::uint64_t offset,
                           std::string_view bytes) const;

 private:
  std::vector<char> table_;
};

}  // namespace om::load
