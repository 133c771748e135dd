// The board: a file that the daemon writes and clients map read-only. It shows objects that are
// small, lie in memory in one piece and were put or asked for lately, so that a client finds them
// without a message. And the hazard page, one for each connection, in which the client says which
// of them it reads. docs/protocol.md, "The board"; why nobody reads bytes that change:
// docs/adr/0011-get-of-what-is-small-and-hot-without-a-message.md.
//
// A slot is a seqlock. Its sequence is odd while it shows an object, even while it shows none or is
// being written, and only rises. Who reads it copies what it says, names the object in his hazard
// page, and looks at the sequence again: the same, and he has a lease.
//
// Each word is atomic, and there are no fences, which ThreadSanitizer does not know: what a slot
// says is stored with release and loaded with acquire, and so stays between the two looks at its
// sequence on every machine (H.-J. Boehm, "Can seqlocks get along with programming language memory
// models?", 2012).
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace om::board {

using Word = std::atomic<std::uint64_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == 8);

inline constexpr std::uint64_t kMagic = 0x314452414f424d4f;  // "OMBOARD1"
inline constexpr std::size_t kHeaderBytes = 4096;
inline constexpr std::size_t kSlotBytes = 1024;
inline constexpr std::size_t kWays = 4;  // slots in a set
inline constexpr std::size_t kSetBytes = kWays * kSlotBytes;

struct Header {
  Word magic;     // written last
  Word alive;     // 1; 0 before another daemon, or nobody, has the memory
  Word sets;      // a power of two
  Word seed;      // of hash()
  Word counters;  // behind the sets (base/claims.h), a power of two; 0: there are none
  std::array<std::byte, kHeaderBytes - 5 * sizeof(Word)> reserved;
};
static_assert(sizeof(Header) == kHeaderBytes);

// Of a key. Its remainder says in which set the key may be shown. Simple, so that it is easily
// written in any language; the whole key is compared.
inline std::uint64_t hash(std::uint64_t seed, std::string_view key) {
  constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15;
  std::uint64_t value = seed;
  const auto add = [&value](std::uint64_t word) {
    value = (value ^ word) * kFactor;
    value ^= value >> 32;
  };
  for (std::string_view rest = key; !rest.empty();) {
    std::uint64_t word = 0;
    const std::size_t count = std::min(rest.size(), sizeof word);
    std::memcpy(&word, rest.data(), count);
    add(word);
    rest.remove_prefix(count);
  }
  add(key.size());
  return value;
}

inline constexpr std::size_t kTextWords = kSlotBytes / sizeof(Word) - 10;
inline constexpr std::size_t kTextBytes = kTextWords * sizeof(Word);

// Where an object lies, and what is known of it.
struct Shown {
  std::uint64_t object_id = 0;
  std::uint64_t segment = 0;
  std::uint64_t offset = 0;  // in the segment
  std::uint64_t length = 0;
  std::uint64_t created_ns = 0;
  std::uint64_t expires_ns = 0;  // 0: never
  std::uint32_t revision = 0;
  bool ephemeral = false;
};

// Its key, its metadata, and its tags, each with a byte before it that says how long it is.
inline std::size_t text_bytes(std::string_view key, std::string_view metadata,
                              const std::vector<std::string>& tags) {
  std::size_t bytes = key.size() + metadata.size();
  for (const std::string& tag : tags) bytes += 1 + tag.size();
  return bytes;
}
struct Text {
  std::size_t key_bytes = 0;
  std::size_t metadata_bytes = 0;
  std::size_t tags_bytes = 0;
  std::size_t tag_count = 0;
  std::array<char, kTextBytes> bytes{};

  [[nodiscard]] std::size_t used() const { return key_bytes + metadata_bytes + tags_bytes; }
  // Together at most kTextBytes.
  void fill(std::string_view key, std::string_view metadata, const std::vector<std::string>& tags) {
    key_bytes = key.size();
    metadata_bytes = metadata.size();
    tags_bytes = text_bytes({}, {}, tags);
    tag_count = tags.size();
    char* at = std::copy(key.begin(), key.end(), bytes.data());
    at = std::copy(metadata.begin(), metadata.end(), at);
    for (const std::string& tag : tags) {
      *at++ = static_cast<char>(tag.size());
      at = std::copy(tag.begin(), tag.end(), at);
    }
  }
  [[nodiscard]] std::string_view key() const { return {bytes.data(), key_bytes}; }
  [[nodiscard]] std::string_view metadata() const {
    return {bytes.data() + key_bytes, metadata_bytes};
  }
  // nullopt: these are none.
  [[nodiscard]] std::optional<std::vector<std::string>> tags() const {
    std::vector<std::string> list;
    std::string_view rest(bytes.data() + key_bytes + metadata_bytes, tags_bytes);
    while (!rest.empty()) {
      const std::size_t length = static_cast<unsigned char>(rest.front());
      rest.remove_prefix(1);
      if (length > rest.size()) return std::nullopt;
      list.emplace_back(rest.substr(0, length));
      rest.remove_prefix(length);
    }
    if (list.size() != tag_count) return std::nullopt;
    return list;
  }
};

// What was copied out of a slot.
struct Seen {
  std::uint64_t sequence = 0;
  Shown object;
  Text text;
};

struct Slot {
  Word sequence;
  Word key_hash;
  Word object_id;
  Word segment;
  Word offset;
  Word length;
  Word created_ns;
  Word expires_ns;
  Word revision;  // in the upper half 1: ephemeral
  Word sizes;     // bytes of key, metadata and tags, and how many tags: 16 bits each, lowest first
  std::array<Word, kTextWords> text;

  // --- the reader's side. Looks: whether it seems to show this key. What it says is to be believed
  // once is_unchanged() says so, not before.
  bool look(std::uint64_t hash_of_key, std::string_view key, Seen& seen) const {
    constexpr auto kAcquire = std::memory_order_acquire;
    seen.sequence = sequence.load(kAcquire);
    if (seen.sequence % 2 == 0 || key_hash.load(kAcquire) != hash_of_key) return false;
    const std::uint64_t packed = sizes.load(kAcquire);
    Text& said = seen.text;
    said.key_bytes = packed & 0xffffU;
    said.metadata_bytes = (packed >> 16) & 0xffffU;
    said.tags_bytes = (packed >> 32) & 0xffffU;
    said.tag_count = packed >> 48;
    if (said.key_bytes != key.size() || said.used() > kTextBytes) return false;
    for (std::size_t at = 0; at < said.used(); at += sizeof(Word)) {
      const std::uint64_t word = text[at / sizeof(Word)].load(kAcquire);
      std::memcpy(said.bytes.data() + at, &word, sizeof word);
    }
    if (said.key() != key) return false;
    Shown& object = seen.object;
    object.object_id = object_id.load(kAcquire);
    object.segment = segment.load(kAcquire);
    object.offset = offset.load(kAcquire);
    object.length = length.load(kAcquire);
    object.created_ns = created_ns.load(kAcquire);
    object.expires_ns = expires_ns.load(kAcquire);
    const std::uint64_t both = revision.load(kAcquire);
    object.revision = static_cast<std::uint32_t>(both);
    object.ephemeral = ((both >> 32) & 1U) != 0;
    return true;
  }
  // Ordered after the store to a hazard word that came before it: both are seq_cst.
  [[nodiscard]] bool is_unchanged(const Seen& seen) const {
    return sequence.load(std::memory_order_seq_cst) == seen.sequence;
  }

  // --- the daemon's side. Of a slot that shows nothing.
  void show(std::uint64_t hash_of_key, const Shown& object, const Text& said) {
    constexpr auto kRelease = std::memory_order_release;
    key_hash.store(hash_of_key, kRelease);
    object_id.store(object.object_id, kRelease);
    segment.store(object.segment, kRelease);
    offset.store(object.offset, kRelease);
    length.store(object.length, kRelease);
    created_ns.store(object.created_ns, kRelease);
    expires_ns.store(object.expires_ns, kRelease);
    revision.store((std::uint64_t{object.ephemeral} << 32) | object.revision, kRelease);
    sizes.store(std::uint64_t{said.key_bytes} | (std::uint64_t{said.metadata_bytes} << 16) |
                    (std::uint64_t{said.tags_bytes} << 32) | (std::uint64_t{said.tag_count} << 48),
                kRelease);
    for (std::size_t at = 0; at < said.used(); at += sizeof(Word)) {
      std::uint64_t word = 0;
      std::memcpy(&word, said.bytes.data() + at, std::min(said.used() - at, sizeof word));
      text[at / sizeof(Word)].store(word, kRelease);
    }
    sequence.store(sequence.load(std::memory_order_relaxed) + 1, kRelease);
  }
  // Whoever looks at its sequence from now on takes nothing of what it shows.
  void hide() {
    sequence.store(sequence.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  }
};
static_assert(sizeof(Slot) == kSlotBytes);

// Written by the client alone. The daemon reads it with pread(2), and believes nothing of it but
// object ids that it knows.
inline constexpr std::size_t kHazards = 64;
inline constexpr std::size_t kTouches = 256;
struct HazardPage {
  std::array<Word, kHazards> objects;  // that are read; 0: none
  Word gets;                           // by the board, so far
  std::array<std::byte, 2048 - (kHazards + 1) * sizeof(Word)> reserved;
  std::array<Word, kTouches> touched;  // get number n (from 0): its object, in entry n modulo 256
};
static_assert(sizeof(HazardPage) == 4096 && offsetof(HazardPage, gets) == 512 &&
              offsetof(HazardPage, touched) == 2048);

// The id of the lease that word n of the page is, should the daemon speak of it: this and n.
inline constexpr std::uint64_t kLeases = std::uint64_t{1} << 63;

}  // namespace om::board
