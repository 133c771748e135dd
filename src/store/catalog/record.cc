#include "store/catalog/record.h"

#include <cstring>
#include <type_traits>

#include "base/limits.h"

namespace om::catalog {
namespace {

// docs/catalog-format.md, "Object". A changed field must fail to compile.
struct ObjectHead {
  std::uint64_t object_id;
  std::uint64_t length;
  std::uint64_t total_bytes;
  std::uint64_t offset;
  std::uint64_t created_ns;
  std::uint64_t expires_ns;
  std::uint64_t body_checksum;
  std::uint64_t sequence;
  std::uint32_t key_bytes;
  std::uint32_t metadata_bytes;
  std::uint32_t extent_count;
  std::uint16_t tag_count;
  std::uint8_t version;
  std::uint8_t flags;
  std::uint8_t tier;
  std::uint8_t segment_kind;
  std::uint8_t zero[2];
  std::uint32_t revision;
};
static_assert(sizeof(ObjectHead) == 88 && std::has_unique_object_representations_v<ObjectHead>);
static_assert(std::has_unique_object_representations_v<Extent>);

constexpr std::uint8_t kVersion = 1;
constexpr std::uint8_t kFlagEphemeral = 1;
constexpr std::uint8_t kFlagBodyChecksum = 2;
constexpr std::uint8_t kFlagsKnown = kFlagEphemeral | kFlagBodyChecksum;

Error corrupt(const char* what) { return {Errc::kCorrupt, 0, what}; }

// Takes bytes from the front; false when there are not so many.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}
  template <class T>
  bool take(T& value) {
    if (rest_.size() < sizeof value) return false;
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_ = rest_.subspan(sizeof value);
    return true;
  }
  bool take(std::string& text, std::size_t bytes) {
    if (rest_.size() < bytes) return false;
    text.assign(reinterpret_cast<const char*>(rest_.data()), bytes);
    rest_ = rest_.subspan(bytes);
    return true;
  }
  [[nodiscard]] std::size_t left() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
};

template <class T>
void append(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

bool limits_kept(std::size_t key_bytes, std::size_t metadata_bytes, std::size_t tag_count,
                 std::size_t extent_count) {
  return key_bytes > 0 && key_bytes <= kKeyBytesMax && metadata_bytes <= kMetadataBytesMax &&
         tag_count <= kTagsMax && extent_count <= kExtentsMax;
}

}  // namespace

Result<void> check_limits(const Record& record) {
  if (!limits_kept(record.key.size(), record.metadata.size(), record.tags.size(),
                   record.place.extents.size())) {
    return Error{Errc::kMalformed, 0, "object breaks a limit of key, metadata, tags or extents"};
  }
  for (const auto& tag : record.tags) {
    if (tag.size() > kTagBytesMax) return Error{Errc::kMalformed, 0, "tag is too long"};
  }
  return {};
}

void encode_record(const Record& record, std::string& out) {
  ObjectHead head{};
  head.object_id = record.object_id;
  head.length = record.length;
  head.total_bytes = record.total_bytes;
  head.offset = record.offset;
  head.created_ns = record.created_ns;
  head.expires_ns = record.expires_ns;
  head.body_checksum = record.has_body_checksum ? record.body_checksum : 0;
  head.sequence = record.sequence;
  head.key_bytes = static_cast<std::uint32_t>(record.key.size());
  head.metadata_bytes = static_cast<std::uint32_t>(record.metadata.size());
  head.extent_count = static_cast<std::uint32_t>(record.place.extents.size());
  head.tag_count = static_cast<std::uint16_t>(record.tags.size());
  head.version = kVersion;
  head.flags = static_cast<std::uint8_t>((record.ephemeral ? kFlagEphemeral : 0) |
                                         (record.has_body_checksum ? kFlagBodyChecksum : 0));
  head.tier = record.place.tier;
  head.segment_kind = record.place.segment_kind;
  head.revision = record.revision;
  append(out, head);
  for (const Extent& extent : record.place.extents) append(out, extent);
  out.append(record.key);
  for (const auto& tag : record.tags) {
    append(out, static_cast<std::uint16_t>(tag.size()));
    out.append(tag);
  }
  out.append(record.metadata);
}

Result<std::string_view> encoded_key(std::span<const std::byte> bytes) {
  ObjectHead head;
  if (bytes.size() < sizeof head) return corrupt("object: short");
  std::memcpy(&head, bytes.data(), sizeof head);
  const std::uint64_t begin = sizeof head + std::uint64_t{head.extent_count} * sizeof(Extent);
  if (begin > bytes.size() || head.key_bytes > bytes.size() - begin) return corrupt("object: key");
  return std::string_view(reinterpret_cast<const char*>(bytes.data()) + begin, head.key_bytes);
}

Result<Record> decode_record(std::span<const std::byte> bytes) {
  Reader in(bytes);
  ObjectHead head;
  if (!in.take(head)) return corrupt("object: short");
  if (head.version != kVersion) return corrupt("object: unknown version");
  if ((head.flags & ~kFlagsKnown) != 0) return corrupt("object: unknown flags");
  for (const std::uint8_t zero : head.zero) {
    if (zero != 0) return corrupt("object: reserved bytes are not zero");
  }
  if (head.object_id == kNoObjectId) return corrupt("object: a number that none has");
  if (!limits_kept(head.key_bytes, head.metadata_bytes, head.tag_count, head.extent_count)) {
    return corrupt("object: limits");
  }
  if (in.left() < std::uint64_t{head.extent_count} * sizeof(Extent))
    return corrupt("object: short");
  Record record;
  record.object_id = head.object_id;
  record.length = head.length;
  record.total_bytes = head.total_bytes;
  record.offset = head.offset;
  record.created_ns = head.created_ns;
  record.expires_ns = head.expires_ns;
  record.has_body_checksum = (head.flags & kFlagBodyChecksum) != 0;
  record.body_checksum = head.body_checksum;
  if (!record.has_body_checksum && head.body_checksum != 0) return corrupt("object: checksum");
  record.ephemeral = (head.flags & kFlagEphemeral) != 0;
  record.revision = head.revision;
  record.sequence = head.sequence;
  record.place.tier = head.tier;
  record.place.segment_kind = head.segment_kind;
  record.place.extents.reserve(head.extent_count);
  for (std::uint32_t i = 0; i < head.extent_count; ++i) {
    Extent extent;
    (void)in.take(extent);
    record.place.extents.push_back(extent);
  }
  if (!in.take(record.key, head.key_bytes)) return corrupt("object: key");
  record.tags.resize(head.tag_count);
  for (std::string& tag : record.tags) {
    std::uint16_t size = 0;
    if (!in.take(size) || size > kTagBytesMax || !in.take(tag, size)) return corrupt("object: tag");
  }
  if (!in.take(record.metadata, head.metadata_bytes)) return corrupt("object: metadata");
  if (in.left() != 0) return corrupt("object: surplus bytes");
  return record;
}

}  // namespace om::catalog
