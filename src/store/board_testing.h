// For tests of the store: a peer that finds objects by the board, as docs/protocol.md says, and
// keeps what it needs to go on reading when the store has gone.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/board.h"
#include "posix/file.h"
#include "posix/mapping.h"
#include "posix/unique_fd.h"
#include "store/store.h"

namespace om::store::testing {

class BoardReader {
 public:
  struct Lease {
    std::size_t word = 0;
    board::Shown object;
  };

  explicit BoardReader(BoardAccess access)
      : page_file_(std::move(access.page)),
        board_(*Mapping::of(access.board.borrow(), 0,
                            static_cast<std::size_t>(*file_size(access.board.borrow())),
                            Access::kRead)),
        page_(*Mapping::of(page_file_.borrow(), 0, sizeof(board::HazardPage), Access::kReadWrite)) {
  }

  // The store has told this holder of these segments.
  void learn(Store& store, HolderId holder, const std::vector<Extent>& extents) {
    for (const Extent& extent : extents) {
      if (files_.count(extent.segment) != 0) continue;
      const auto view = store.segment(holder, extent.segment);
      ASSERT_TRUE(view) << describe(view.error());
      files_.emplace(extent.segment, *duplicate(view->descriptor));
    }
  }
  // What is shown under the key, to be looked at.
  [[nodiscard]] std::optional<board::Seen> find(std::string_view key) const {
    board::Seen seen;
    if (slot_of(key, seen) == nullptr) return std::nullopt;
    return seen;
  }
  [[nodiscard]] bool shows(std::string_view key) const { return find(key).has_value(); }
  // nullopt: to be asked for by message.
  std::optional<Lease> take(std::string_view key) {
    board::Seen seen;
    const board::Slot* const slot = slot_of(key, seen);
    if (slot == nullptr || files_.count(seen.object.segment) == 0) return std::nullopt;
    std::size_t word = 0;
    while (word < board::kHazards && page().objects[word] != 0) ++word;
    if (word == board::kHazards) return std::nullopt;
    page().objects[word].store(seen.object.object_id, std::memory_order_seq_cst);
    if (!slot->is_unchanged(seen) || header().alive.load(std::memory_order_seq_cst) != 1) {
      page().objects[word] = 0;
      return std::nullopt;
    }
    page().touched[page().gets.fetch_add(1) % board::kTouches] = seen.object.object_id;
    return Lease{word, seen.object};
  }
  [[nodiscard]] std::string read(const Lease& lease) const {
    std::string body(lease.object.length, '\0');
    const auto done = read_exactly(files_.at(lease.object.segment).borrow(), lease.object.offset,
                                   std::as_writable_bytes(std::span(body)));
    return done ? body : "unreadable";
  }
  void let_go(const Lease& lease) {
    page().objects[lease.word].store(0, std::memory_order_release);
  }
  [[nodiscard]] bool is_alive() const { return header().alive.load() == 1; }
  // The end of the process, as far as the store can see.
  void die() { page_file_.reset(); }
  [[nodiscard]] BorrowedFd page_file() const { return page_file_.borrow(); }
  [[nodiscard]] board::HazardPage& page() const {
    return *reinterpret_cast<board::HazardPage*>(page_.data());
  }

 private:
  [[nodiscard]] const board::Header& header() const {
    return *reinterpret_cast<const board::Header*>(board_.data());
  }
  const board::Slot* slot_of(std::string_view key, board::Seen& seen) const {
    const std::uint64_t hash = board::hash(header().seed, key);
    const auto* const set =
        reinterpret_cast<const board::Slot*>(board_.data() + board::kHeaderBytes) +
        hash % header().sets * board::kWays;
    for (std::size_t way = 0; way < board::kWays; ++way)
      if (set[way].look(hash, key, seen)) return set + way;
    return nullptr;
  }

  UniqueFd page_file_;
  Mapping board_;
  Mapping page_;
  std::unordered_map<SegmentId, UniqueFd> files_;
};

}  // namespace om::store::testing
