#include "store/board.h"

#include <fcntl.h>

#include <bit>
#include <cerrno>
#include <cstddef>
#include <span>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "posix/file.h"
#include "store/segment_id.h"

namespace om::store {

namespace {
constexpr const char* kBoardFile = "board";
}  // namespace

// With pread(2) and pwrite(2): a store to a page of a file that was never whole could be a SIGBUS.
// Of the word that changes one byte does.
Result<void> Board::end_earlier(BorrowedFd memory_dir) {
  const auto file = open_at(memory_dir, kBoardFile, O_RDWR);
  if (!file) {
    if (file.error().sys_errno == ENOENT) return {};
    return file.error();
  }
  constexpr std::uint64_t kAliveAt = offsetof(board::Header, alive);
  std::uint64_t alive = 0;
  const auto word = std::as_writable_bytes(std::span(&alive, 1));
  const std::size_t there = OM_TRY(read_some(file->borrow(), kAliveAt, word));
  if (there == word.size() && alive != 0) {
    alive = 0;
    OM_TRY(write_exactly(file->borrow(), kAliveAt, word));
  }
  return remove_at(memory_dir, kBoardFile);
}

Result<std::unique_ptr<Board>> Board::make(BorrowedFd memory_dir, std::uint64_t bytes,
                                           std::uint64_t counters, std::uint64_t seed) {
  OM_ASSERT(bytes >= kBytesMin && std::has_single_bit(counters));
  const std::uint64_t sets = std::bit_floor(bytes / board::kSetBytes);
  const std::uint64_t size = board::kHeaderBytes + sets * board::kSetBytes + counters;
  const auto file = OM_TRY(open_at(memory_dir, kBoardFile, O_RDWR | O_CREAT | O_EXCL));
  const auto prepare = [&]() -> Result<std::unique_ptr<Board>> {
    OM_TRY(allocate(file.borrow(), 0, size));
    auto mapping =
        OM_TRY(Mapping::of(file.borrow(), 0, static_cast<std::size_t>(size), Access::kReadWrite));
    auto readers = OM_TRY(open_at(memory_dir, kBoardFile, O_RDONLY));
    return std::unique_ptr<Board>(
        new Board(std::move(mapping), std::move(readers), sets, counters, seed));
  };
  auto made = prepare();
  if (!made) (void)remove_at(memory_dir, kBoardFile);
  return made;
}

Board::Board(Mapping mapping, UniqueFd readers, std::uint64_t sets, std::uint64_t counters,
             std::uint64_t seed)
    : mapping_(std::move(mapping)),
      readers_(std::move(readers)),
      seed_(seed),
      counters_(counters),
      entries_(sets * board::kWays),
      hands_(sets) {
  auto* const header = reinterpret_cast<board::Header*>(mapping_.data());
  header->sets.store(sets, std::memory_order_relaxed);
  header->seed.store(seed, std::memory_order_relaxed);
  header->counters.store(counters, std::memory_order_relaxed);
  header->alive.store(1, std::memory_order_relaxed);
  header->magic.store(board::kMagic, std::memory_order_release);
}

void Board::end() {
  reinterpret_cast<board::Header*>(mapping_.data())->alive.store(0, std::memory_order_seq_cst);
}

board::Slot& Board::slot(std::size_t at) const {
  return reinterpret_cast<board::Slot*>(mapping_.data() + board::kHeaderBytes)[at];
}

claims::Counter& Board::counter(std::uint64_t hash) const {
  return reinterpret_cast<claims::Counter*>(
      mapping_.data() + board::kHeaderBytes +
      hands_.size() * board::kSetBytes)[claims::counter_of(hash, counters_)];
}

bool Board::may_show(const catalog::Record& record) {
  return record.place.tier == catalog::kTierMemory && record.place.extents.size() == 1 &&
         kind_of(record.place.extents.front().segment) == SegmentKind::kMemory &&
         record.length > 0 && record.length <= kBoardObjectBytesMax &&
         record.length == record.total_bytes && record.offset == 0 &&
         board::text_bytes(record.key, record.metadata, record.tags) <= board::kTextBytes;
}

std::size_t Board::choose(std::size_t set) {
  const std::size_t first = set * board::kWays;
  for (std::size_t at = first; at < first + board::kWays; ++at)
    if (entries_[at].object == 0) return at;
  std::uint8_t& hand = hands_[set];
  for (;;) {
    const std::size_t at = first + hand;
    hand = static_cast<std::uint8_t>((hand + 1U) % board::kWays);
    if (!std::exchange(entries_[at].touched, false)) return at;
  }
}

std::optional<Board::Gone> Board::show(const catalog::Record& record) {
  OM_ASSERT(may_show(record) && !shows(record.object_id));
  const std::uint64_t hash = hash_of(record.key);
  const std::size_t at = choose(static_cast<std::size_t>(hash % hands_.size()));
  std::optional<Gone> gone;
  if (entries_[at].object != 0) gone = hide_slot(at);
  const catalog::Extent& extent = record.place.extents.front();
  board::Shown object;
  object.object_id = record.object_id;
  object.segment = extent.segment;
  object.offset = extent.offset;
  object.length = record.length;
  object.created_ns = record.created_ns;
  object.expires_ns = record.expires_ns;
  object.revision = record.revision;
  object.ephemeral = record.ephemeral;
  board::Text text;
  text.fill(record.key, record.metadata, record.tags);
  slot(at).show(hash, object, text);
  entries_[at] = {record.object_id, record.length, false};
  where_[record.object_id] = static_cast<std::uint32_t>(at);
  return gone;
}

Board::Gone Board::hide_slot(std::size_t at) {
  Entry& entry = entries_[at];
  slot(at).hide();
  where_.erase(where_.find(entry.object));
  const Gone gone{entry.object, entry.bytes};
  entry = Entry();
  return gone;
}

std::optional<Board::Gone> Board::hide(ObjectId object) {
  const auto* const found = where_.find(object);
  if (found == nullptr) return std::nullopt;
  return hide_slot(found->second);
}

void Board::touch(ObjectId object) {
  if (const auto* const found = where_.find(object)) entries_[found->second].touched = true;
}

void Board::sweep(std::size_t count, const std::function<void(const Gone&)>& gone) {
  for (; count > 0; --count) {
    Entry& entry = entries_[swept_];
    if (entry.object != 0 && !std::exchange(entry.touched, false)) gone(hide_slot(swept_));
    swept_ = (swept_ + 1) % entries_.size();
  }
}

}  // namespace om::store
