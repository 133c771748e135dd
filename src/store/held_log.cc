#include "store/held_log.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_set>

#include "base/checksum.h"
#include "posix/file.h"

namespace om::store {

namespace {

constexpr std::size_t kHeadBytes = 24;
constexpr std::uint32_t kExtentsMax = 65536;
static_assert(sizeof(Extent) == 24);

void encode(ObjectId object, const std::vector<Extent>& extents, std::string& out) {
  std::string entry(kHeadBytes + extents.size() * sizeof(Extent), '\0');
  const auto count = static_cast<std::uint32_t>(extents.size());
  std::memcpy(entry.data() + 8, &object, 8);
  std::memcpy(entry.data() + 16, &count, 4);
  if (count > 0)
    std::memcpy(entry.data() + kHeadBytes, extents.data(), extents.size() * sizeof(Extent));
  const std::uint64_t sum = checksum(std::as_bytes(std::span(entry)).subspan(8));
  std::memcpy(entry.data(), &sum, 8);
  out += entry;
}

}  // namespace

Result<HeldLog> HeldLog::open(BorrowedFd directory, bool fresh) {
  HeldLog log;
  log.directory_ = OM_TRY(duplicate(directory));
  log.file_ = OM_TRY(open_at(directory, "held", O_RDWR | O_CREAT | (fresh ? O_TRUNC : 0)));
  const std::uint64_t size = OM_TRY(file_size(log.file_.borrow()));
  std::string bytes(size, '\0');
  bytes.resize(OM_TRY(read_some(log.file_.borrow(), 0, std::as_writable_bytes(std::span(bytes)))));
  std::size_t at = 0;
  while (bytes.size() - at >= kHeadBytes) {
    std::uint64_t sum = 0;
    ObjectId object = 0;
    std::uint32_t count = 0;
    std::memcpy(&sum, bytes.data() + at, 8);
    std::memcpy(&object, bytes.data() + at + 8, 8);
    std::memcpy(&count, bytes.data() + at + 16, 4);
    if (count > kExtentsMax) break;
    const std::size_t length = kHeadBytes + count * sizeof(Extent);
    if (bytes.size() - at < length ||
        sum != checksum(std::as_bytes(std::span(bytes)).subspan(at + 8, length - 8)))
      break;  // torn: the daemon died while it wrote it, and nobody was told of it
    std::vector<Extent> extents(count);
    if (count > 0)
      std::memcpy(extents.data(), bytes.data() + at + kHeadBytes, count * sizeof(Extent));
    log.recovered_.emplace_back(object, std::move(extents));
    at += length;
  }
  std::reverse(log.recovered_.begin(), log.recovered_.end());
  std::unordered_set<ObjectId> known;
  std::erase_if(log.recovered_, [&](const auto& one) { return !known.insert(one.first).second; });
  log.size_ = at;
  return log;
}

Result<void> HeldLog::append(ObjectId object, const std::vector<Extent>& extents) {
  std::string entry;
  encode(object, extents, entry);
  OM_TRY(write_exactly(file_.borrow(), size_, std::as_bytes(std::span(entry))));
  size_ += entry.size();
  return {};
}

Result<void> HeldLog::rewrite(const Entries& live) {
  std::string bytes;
  for (const auto& [object, extents] : live) encode(object, extents, bytes);
  auto file = OM_TRY(open_at(directory_.borrow(), "held.new", O_RDWR | O_CREAT | O_TRUNC));
  OM_TRY(write_exactly(file.borrow(), 0, std::as_bytes(std::span(bytes))));
  OM_TRY(rename_at(directory_.borrow(), "held.new", "held"));
  file_ = std::move(file);
  size_ = bytes.size();
  return {};
}

}  // namespace om::store
