// The daemon's side of the board (base/board.h): one file, <memory-dir>/board, that shows objects
// of the memory tier to clients, who map it read-only. What is shown is what the catalog says at
// that moment: whoever changes an object's record or place takes it off first (store_board.cc).
//
// Sets of four slots. What is new takes a free one, or that of an object that nobody has touched
// since the hand of the set came by (clock). Behind them are counters (base/claims.h), of all keys
// that name an object in either tier, or are being written. Loop thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/board.h"
#include "base/claims.h"
#include "base/flat_map.h"
#include "base/result.h"
#include "posix/mapping.h"
#include "posix/unique_fd.h"
#include "store/catalog/record.h"
#include "store/store.h"

namespace om::store {

class Board {
 public:
  static constexpr std::uint64_t kBytesMin = board::kSetBytes;

  // That of an earlier daemon, if there is one: when this returns nobody takes a lease by it any
  // more. Before anything else is done with the memory.
  static Result<void> end_earlier(BorrowedFd memory_dir);
  // With slots of `bytes` at most, kBytesMin at least, and `counters`, a power of two. `seed`: of
  // the hash that says where keys are.
  static Result<std::unique_ptr<Board>> make(BorrowedFd memory_dir, std::uint64_t bytes,
                                             std::uint64_t counters, std::uint64_t seed);
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;
  ~Board() = default;

  // For clients: cannot be written through.
  [[nodiscard]] BorrowedFd reader() const { return readers_.borrow(); }
  // Nobody believes it any more: the end of the daemon.
  void end();

  // What has left the board, and how long its body is.
  struct Gone {
    ObjectId object = 0;
    std::uint64_t bytes = 0;
  };
  // Small, in memory, in one piece, with little to say of it.
  [[nodiscard]] static bool may_show(const catalog::Record& record);
  [[nodiscard]] bool shows(ObjectId object) const { return where_.contains(object); }
  // One that may be shown and is not. Returns what made room for it.
  std::optional<Gone> show(const catalog::Record& record);
  // nullopt: it is not shown.
  std::optional<Gone> hide(ObjectId object);
  // It was asked for. Nothing, where it is not shown.
  void touch(ObjectId object);
  // Hides what was not touched since the last time, in the next `count` slots.
  void sweep(std::size_t count, const std::function<void(const Gone&)>& gone);

  [[nodiscard]] std::uint64_t hash_of(std::string_view key) const {
    return board::hash(seed_, key);
  }
  // A key of this hash is about to be known, or is known no more.
  void know(std::uint64_t hash) { claims::add(counter(hash)); }
  void forget(std::uint64_t hash) { claims::subtract(counter(hash)); }

  [[nodiscard]] std::size_t objects() const { return where_.size(); }
  [[nodiscard]] std::uint64_t bytes() const { return entries_.size() * board::kSlotBytes; }
  [[nodiscard]] std::uint64_t counters() const { return counters_; }

 private:
  struct Entry {          // of a slot
    ObjectId object = 0;  // 0: it shows nothing
    std::uint64_t bytes = 0;
    bool touched = false;
  };
  Board(Mapping mapping, UniqueFd readers, std::uint64_t sets, std::uint64_t counters,
        std::uint64_t seed);
  [[nodiscard]] board::Slot& slot(std::size_t at) const;
  [[nodiscard]] claims::Counter& counter(std::uint64_t hash) const;
  std::size_t choose(std::size_t set);
  Gone hide_slot(std::size_t at);

  Mapping mapping_;
  UniqueFd readers_;
  const std::uint64_t seed_;
  const std::uint64_t counters_;
  std::vector<Entry> entries_;
  std::vector<std::uint8_t> hands_;  // of each set: which of its slots is looked at next
  std::size_t swept_ = 0;            // the slot that sweep() goes on with
  FlatMap<std::uint32_t> where_;     // object -> its slot
};

}  // namespace om::store
