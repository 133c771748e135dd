#include "load/content.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace om::load {

namespace {

constexpr std::uint64_t kTableBytes = 4194301;  // a prime

std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

std::optional<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t value = 0;
  std::size_t at = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    if (value > (std::uint64_t{1} << 50)) return std::nullopt;
    value = value * 10 + static_cast<std::uint64_t>(text[at] - '0');
  }
  if (at == 0) return std::nullopt;
  if (at == text.size()) return value;
  if (at + 1 != text.size()) return std::nullopt;
  switch (text[at]) {
    case 'K': return value << 10;
    case 'M': return value << 20;
    case 'G': return value << 30;
    default: return std::nullopt;
  }
}

std::optional<std::uint64_t> body_length(std::string_view path) {
  if (!path.starts_with("/o/")) return std::nullopt;
  const std::size_t end = path.find('/', 3);
  if (end == std::string_view::npos) return std::nullopt;
  return parse_size(path.substr(3, end - 3));
}

Content::Content() : table_(2 * kTableBytes) {
  for (std::uint64_t at = 0; at < kTableBytes; at += 8) {
    const std::uint64_t word = mix(at);
    std::memcpy(table_.data() + at, &word, std::min<std::uint64_t>(8, kTableBytes - at));
  }
  // Twice, so that a piece is contiguous wherever it begins.
  std::memcpy(table_.data() + kTableBytes, table_.data(), kTableBytes);
}

const Content& Content::instance() {
  static const Content content;
  return content;
}

std::string_view Content::piece(std::string_view path, std::uint64_t offset,
                                std::uint64_t length) const {
  const std::uint64_t begin =
      (XXH3_64bits(path.data(), path.size()) % kTableBytes + offset % kTableBytes) % kTableBytes;
  return {table_.data() + begin, std::min(length, kTableBytes)};
}

bool Content::equal(std::string_view path, std::uint64_t offset, std::string_view bytes) const {
  while (!bytes.empty()) {
    const std::string_view expected = piece(path, offset, bytes.size());
    if (bytes.substr(0, expected.size()) != expected) return false;
    bytes.remove_prefix(expected.size());
    offset += expected.size();
  }
  return true;
}

}  // namespace om::load
