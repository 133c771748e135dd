// The daemon's board as one connection sees it, with the connection's hazard page (base/board.h):
// finds objects and holds them without a word to the daemon. Which words of the page are used is
// known here and not in the page, so that nothing that stands there is believed. Any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "base/board.h"
#include "base/claims.h"
#include "posix/mapping.h"
#include "posix/unique_fd.h"

namespace om::client {

class Board {
 public:
  // nullptr: they are not what they are to be.
  static std::unique_ptr<Board> of(const UniqueFd& board_file, UniqueFd page_file);
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;
  ~Board() = default;

  // Where the key is shown, and what is said there: to be believed once it is held. nullptr: it is
  // not shown.
  const board::Slot* find(std::string_view key, std::uint64_t hash, board::Seen& seen) const;
  // A lease on it, in this word of the page. nullopt: there is none, ask the daemon.
  std::optional<std::size_t> hold(const board::Slot& slot, const board::Seen& seen);
  void let_go(std::size_t word);
  // Whether that word holds this object.
  [[nodiscard]] bool holds(std::size_t word, std::uint64_t object) const;

  [[nodiscard]] std::uint64_t hash_of(std::string_view key) const {
    return board::hash(seed_, key);
  }
  // How many keys like this one somebody has, or writes. nullptr: it does not say.
  [[nodiscard]] const claims::Counter* known(std::uint64_t hash) const;
  // Whether the daemon that it is of is there. Ordered after what was seq_cst before.
  [[nodiscard]] bool is_alive() const {
    return header().alive.load(std::memory_order_seq_cst) == 1;
  }

 private:
  Board(Mapping shown, Mapping words, UniqueFd page_file, std::uint64_t counters);
  [[nodiscard]] const board::Header& header() const {
    return *reinterpret_cast<const board::Header*>(board_.data());
  }
  [[nodiscard]] board::HazardPage& page() const {
    return *reinterpret_cast<board::HazardPage*>(page_.data());
  }

  const Mapping board_;
  const Mapping page_;
  // Open for as long as words may be set: by its lock the daemon knows that somebody has them.
  const UniqueFd page_file_;
  const std::uint64_t sets_;
  const std::uint64_t seed_;
  const std::uint64_t counters_;        // 0: there are none
  std::atomic<std::uint64_t> used_{0};  // words, a bit each
};

}  // namespace om::client
