// What clients find by themselves (board.h), and what they read because of it (hazard_pages.h).
//
//   shown    the board says what the catalog says; who reads it may have said so to nobody but his
//            hazard page
//   hidden   taken off; nobody begins to read it, and who had begun is in the pages still
//   looked   for in the pages: who reads it has it pinned, as by any lease
//
// An object is hidden before its record or its place changes in any way (about_to_change(), which
// the catalog calls), and was looked for before its bytes are used again. A look is for all that
// are hidden at that time, and reads the page of each session: so it waits until it is needed, and
// where room is being made some that nobody asks for are hidden along with the one that it is about
// (Board::sweep), for which it will not be needed again.
#include <algorithm>
#include <bit>

#include "base/limits.h"
#include "posix/file.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

constexpr std::size_t kHiddenMax = 4096;     // before they are looked for, to know of no more
constexpr std::size_t kSweptAtOnce = 64;     // slots
constexpr std::size_t kHazardPagesMin = 16;  // however small the board

}  // namespace

void StoreImpl::make_board() {
  const std::uint64_t usual =
      config_.memory_bytes < kBoardMemoryMin ? 0 : config_.memory_bytes / kBoardShare;
  const std::uint64_t bytes = std::min(config_.board_bytes.value_or(usual), kBoardBytesMax);
  if (bytes < Board::kBytesMin) return;
  const std::uint64_t counters = std::clamp(
      std::bit_floor(config_.memory_bytes / kMemoryPerCounter), kCountersMin, kCountersMax);
  auto made = Board::make(memory_dir_.borrow(), bytes, counters, clock_.real_ns());
  if (!made) {
    troubles_.push_back("no board, each GET is a message error=\"" + describe(made.error()) + "\"");
    return;
  }
  board_ = *std::move(made);
  pages_->limit(std::max(static_cast<std::size_t>(board_->bytes() / sizeof(board::HazardPage)),
                         kHazardPagesMin));
  auto table = Claims::make();
  if (!table) {
    troubles_.push_back("no claims, each miss is a message error=\"" + describe(table.error()) +
                        "\"");
    return;
  }
  claims_ = *std::move(table);
}

Result<BoardAccess> StoreImpl::open_board(HolderId holder) {
  if (board_ == nullptr) return Error{Errc::kUnsupported, 0, "there is no board"};
  BoardAccess access;
  access.board = OM_TRY(duplicate(board_->reader()));
  access.page = OM_TRY(pages_->give(holder));
  return access;
}

// Where nobody reads it there is no use in writing.
void StoreImpl::show(const catalog::Record& record) {
  if (board_ == nullptr || pages_->given() == 0 || !Board::may_show(record)) return;
  if (board_->shows(record.object_id)) return board_->touch(record.object_id);
  if (relocating_.count(record.object_id) != 0) return;
  const auto gone = board_->show(record);
  // Those who read it since before are looked for when it is hidden again.
  if (auto* const again = hidden_.find(record.object_id)) hidden_.erase(again);
  if (gone) hidden_[gone->object] = gone->bytes;
  if (hidden_.size() >= kHiddenMax) look();
}

void StoreImpl::hide(ObjectId object) {
  if (const auto gone = board_->hide(object)) hidden_[gone->object] = gone->bytes;
}

void StoreImpl::look() {
  pages_->look(hidden_);
  hidden_ = FlatMap<std::uint64_t>();
}

Result<void> StoreImpl::about_to_change(const catalog::Record& record, bool stays) {
  if (board_ == nullptr) return {};
  hide(record.object_id);
  if (stays) return {};
  if (hidden_.contains(record.object_id)) look();
  // Whoever changes the record has written down what was known to be read; not what we found now,
  // or when another record of the same change was looked at.
  if (!leases_->pinned(record.object_id) || !pages_->has(record.object_id)) return {};
  return write_down(record);
}

void StoreImpl::take_off_board(ObjectId object) {
  if (board_ == nullptr) return;
  hide(object);
  if (!hidden_.contains(object)) return;
  board_->sweep(kSweptAtOnce,
                [this](const Board::Gone& gone) { hidden_[gone.object] = gone.bytes; });
  look();
}

bool StoreImpl::is_in_use(ObjectId object) {
  if (leases_->pinned(object) || relocating_.count(object) != 0) return true;
  take_off_board(object);
  return leases_->pinned(object);
}

bool StoreImpl::may_be_read_by_board(ObjectId object) const {
  return board_ != nullptr && (board_->shows(object) || hidden_.contains(object));
}

bool StoreImpl::collect_all() {
  const bool by_message = leases_->collect_all();
  return pages_->collect() || by_message;
}

void StoreImpl::take_touches() {
  if (board_ == nullptr) return;
  const std::uint64_t before = pages_->gets();
  pages_->take_touches([this](ObjectId object) {
    memory_policy_->touch(object);
    board_->touch(object);
  });
  count_.hits += pages_->gets() - before;
}

}  // namespace om::store
