#include "region/snapshot.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <unordered_set>

#include "base/checksum.h"
#include "base/units.h"
#include "posix/file.h"

namespace om::region {

namespace {

constexpr char kName[] = "snapshot";
constexpr char kNewName[] = "snapshot.new";
constexpr char kGoneName[] = "snapshot.gone";
constexpr std::uint64_t kSnapshotMagic = 0x31504e53474d4fULL;  // "OMGSNP1"
constexpr std::uint64_t kSnapshotBytesMax = std::uint64_t{1} << 36;

struct Head {
  std::uint64_t magic;
  std::uint64_t checksum;  // of all that follows
  std::uint64_t bytes;     // of the whole file
  std::uint64_t objects;
  std::uint64_t owner_bytes;
  std::uint64_t ban_bytes;
  double bans_lost;
  // owner, ban specs, objects follow, each padded to 8
};
struct ObjectHead {
  std::uint64_t record_bytes;
  std::uint64_t esi_bytes;
};
struct GoneEntry {
  std::uint64_t file_number;
  std::uint64_t checksum;  // of that
};

void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
  to.resize(round_up(to.size(), 8));
}

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

std::uint64_t checksum_of(std::span<const std::byte> bytes) {
  return checksum(bytes.subspan(offsetof(Head, bytes)));
}

Error last_error(const char* what) { return file_error(what); }

GoneEntry gone_entry(std::uint64_t file_number) {
  return {file_number, checksum(bytes_of(file_number))};
}

// nullopt: it cannot be read, and anything may have gone. An entry that is cut off was never
// answered.
std::optional<std::unordered_set<std::uint64_t>> read_gone(BorrowedFd directory) {
  const auto file = open_at(directory, kGoneName, O_RDONLY | O_NOFOLLOW);
  if (!file) return std::nullopt;
  const auto size = file_size(file->borrow());
  if (!size || *size > kSnapshotBytesMax) return std::nullopt;
  std::vector<GoneEntry> entries(*size / sizeof(GoneEntry));
  if (!read_exactly(file->borrow(), 0, std::as_writable_bytes(std::span(entries))))
    return std::nullopt;
  std::unordered_set<std::uint64_t> gone;
  for (const GoneEntry& entry : entries) {
    if (entry.checksum != gone_entry(entry.file_number).checksum) return std::nullopt;
    gone.insert(entry.file_number);
  }
  return gone;
}

}  // namespace

SnapshotWriter::SnapshotWriter(std::string_view owner, std::span<const std::byte> ban_specs,
                               double bans_lost) {
  const Head head{kSnapshotMagic, 0, 0, 0, owner.size(), ban_specs.size(), bans_lost};
  append(bytes_, bytes_of(head));
  append(bytes_, std::as_bytes(std::span(owner)));
  append(bytes_, ban_specs);
}

void SnapshotWriter::add(const SnapshotObject& object) {
  append(bytes_, bytes_of(ObjectHead{object.record.size(), object.esi.size()}));
  append(bytes_, object.record);
  append(bytes_, object.esi);
  ++objects_;
}

Result<void> SnapshotWriter::write(BorrowedFd directory) {
  Head head{};
  std::memcpy(&head, bytes_.data(), sizeof head);
  head.bytes = bytes_.size();
  head.objects = objects_;
  std::memcpy(bytes_.data(), &head, sizeof head);
  head.checksum = checksum_of(bytes_);
  std::memcpy(bytes_.data(), &head, sizeof head);
  OM_TRY(remove_at(directory, kNewName));
  const UniqueFd file = OM_TRY(open_at(directory, kNewName, O_WRONLY | O_CREAT | O_EXCL));
  OM_TRY(write_exactly(file.borrow(), 0, bytes_));
  // The bodies and their names as well, all at once.
  if (::syncfs(file.raw()) != 0) return last_error("sync the disk");
  return sync_data(file.borrow());
}

Result<SnapshotGone> SnapshotGone::begin(BorrowedFd directory) {
  OM_TRY(remove_at(directory, kGoneName));
  return SnapshotGone(OM_TRY(open_at(directory, kGoneName, O_WRONLY | O_CREAT | O_EXCL)));
}

Result<void> SnapshotGone::add(std::uint64_t file_number) {
  const GoneEntry entry = gone_entry(file_number);
  OM_TRY(write_exactly(file_.borrow(), end_, bytes_of(entry)));
  end_ += sizeof entry;
  return {};
}

Result<void> SnapshotGone::sync() { return sync_data(file_.borrow()); }

Result<void> commit_snapshot(BorrowedFd directory) {
  OM_TRY(rename_at(directory, kNewName, kName));
  if (::fsync(directory.raw()) != 0) return last_error("sync a region's directory");
  return {};
}

bool withdraw_snapshot(BorrowedFd directory) {
  (void)::unlinkat(directory.raw(), kNewName, 0);
  const bool was_there = ::unlinkat(directory.raw(), kName, 0) == 0;
  // Without this one the snapshot does not check out: it must not go first.
  if (was_there) (void)::fsync(directory.raw());
  (void)::unlinkat(directory.raw(), kGoneName, 0);
  return was_there;
}

std::optional<Snapshot> parse_snapshot(std::vector<std::byte> bytes) {
  Snapshot snapshot;
  snapshot.bytes = std::move(bytes);
  const std::span<const std::byte> all(snapshot.bytes);
  Head head{};
  if (all.size() < sizeof head) return std::nullopt;
  std::memcpy(&head, all.data(), sizeof head);
  if (head.magic != kSnapshotMagic || head.bytes != all.size() || head.checksum != checksum_of(all))
    return std::nullopt;
  std::size_t at = sizeof head;
  bool whole = true;
  const auto take = [&](std::uint64_t length) -> std::span<const std::byte> {
    if (!whole || length > all.size() - at || round_up(length, 8) > all.size() - at) {
      whole = false;
      return {};
    }
    const auto part = all.subspan(at, length);
    at += round_up(length, 8);
    return part;
  };
  const auto owner = take(head.owner_bytes);
  snapshot.owner = {reinterpret_cast<const char*>(owner.data()), owner.size()};
  snapshot.ban_specs = take(head.ban_bytes);
  snapshot.bans_lost = head.bans_lost;
  for (std::uint64_t i = 0; whole && i < head.objects; ++i) {
    ObjectHead object{};
    const auto words = take(sizeof object);
    if (!whole) break;
    std::memcpy(&object, words.data(), sizeof object);
    SnapshotObject one;
    one.record = take(object.record_bytes);
    one.esi = take(object.esi_bytes);
    if (!whole || one.record.size() < sizeof(Record)) return std::nullopt;
    const auto& record = *reinterpret_cast<const Record*>(one.record.data());
    if (check_record(one.record, record.self, record.region_id, 0, kRegionBytesMax) !=
            Drop::kNone ||
        record.record_bytes != one.record.size() || record.esi_length != one.esi.size() ||
        (!one.esi.empty() && record.esi_checksum != checksum(one.esi))) {
      return std::nullopt;
    }
    snapshot.objects.push_back(one);
  }
  if (!whole || at != all.size()) return std::nullopt;
  return snapshot;
}

std::optional<Snapshot> read_snapshot(BorrowedFd directory) {
  const auto file = open_at(directory, kName, O_RDONLY | O_NOFOLLOW);
  if (!file) return std::nullopt;
  const auto size = file_size(file->borrow());
  if (!size || *size < sizeof(Head) || *size > kSnapshotBytesMax) return std::nullopt;
  std::vector<std::byte> bytes(*size);
  if (!read_exactly(file->borrow(), 0, bytes)) return std::nullopt;
  auto snapshot = parse_snapshot(std::move(bytes));
  const auto gone = read_gone(directory);
  if (!snapshot || !gone) return std::nullopt;
  std::erase_if(snapshot->objects, [&gone](const SnapshotObject& object) {
    const auto ref = file_of(*reinterpret_cast<const Record*>(object.record.data()));
    return ref && gone->contains(ref->number);
  });
  return snapshot;
}

}  // namespace om::region
