// How somebody comes to be the one who fetches a key that nobody has, without a word to the daemon.
// Behind the slots of the board (base/board.h) are counters: how many keys that somebody has, or
// writes, have a hash like this one. And there is a table, which clients write to: who is about to
// write which key. docs/protocol.md, "Claims"; why there are never two of them, and nobody waits
// for one who is not there: docs/adr/0012-a-miss-without-a-message.md.
//
// Two sides that look, each after it has said something that the other one looks at:
//   client   writes its word, then looks at the counter again: nobody has the key, it is claimed
//   daemon   counts the key, then looks at its word
// so at least one of them sees the other. What is said so is seq_cst, and so is each look.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace om::claims {

using Word = std::atomic<std::uint64_t>;
using Counter = std::atomic<std::uint8_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == 8);
static_assert(Counter::is_always_lock_free && sizeof(Counter) == 1);

// --- the counters, written by the daemon's loop thread alone

// There it stays: what was not counted must not be taken off again. Keys like that are asked for.
inline constexpr std::uint8_t kCountMax = 255;

// Another part of the hash (board::hash) than the slots have. `counters` is a power of two.
constexpr std::size_t counter_of(std::uint64_t hash, std::uint64_t counters) {
  return static_cast<std::size_t>((hash >> 32) & (counters - 1));
}
inline void add(Counter& counter) {
  const std::uint8_t count = counter.load(std::memory_order_relaxed);
  if (count < kCountMax)
    counter.store(static_cast<std::uint8_t>(count + 1U), std::memory_order_seq_cst);
}
inline void subtract(Counter& counter) {
  const std::uint8_t count = counter.load(std::memory_order_relaxed);
  if (count > 0 && count < kCountMax)
    counter.store(static_cast<std::uint8_t>(count - 1U), std::memory_order_seq_cst);
}

// --- the table. A key has one place in it; where somebody else's key is, one asks the daemon.

inline constexpr std::size_t kWords = 8192;
inline constexpr std::uint64_t kWanted = 1;  // the daemon's: somebody waits for it
inline constexpr std::uint64_t kOwnerMax = (std::uint64_t{1} << 15) - 1;

struct Table {
  std::array<Word, kWords> words;  // 0: free
  [[nodiscard]] Word& of(std::uint64_t hash) { return words[hash % kWords]; }
  [[nodiscard]] const Word& of(std::uint64_t hash) const { return words[hash % kWords]; }
};
static_assert(sizeof(Table) == 65536);

// 48 bits of the hash, and whose it is: 1 to kOwnerMax.
constexpr std::uint64_t word_of(std::uint64_t hash, std::uint64_t owner) {
  return (hash & ~std::uint64_t{0xffff}) | owner << 1;
}
constexpr std::uint64_t owner_of(std::uint64_t word) { return (word >> 1) & kOwnerMax; }
constexpr bool is_about(std::uint64_t word, std::uint64_t hash) {
  return ((word ^ hash) >> 16) == 0;
}

// --- the client's side

// True: claimed, by `mine`. `known` counts keys like this one.
inline bool claim(Word& word, const Counter& known, std::uint64_t mine) {
  if (known.load(std::memory_order_relaxed) != 0) return false;
  std::uint64_t there = 0;
  if (!word.compare_exchange_strong(there, mine, std::memory_order_seq_cst)) return false;
  if (known.load(std::memory_order_seq_cst) == 0) return true;
  // Somebody has come to the daemon meanwhile. Where it has seen the word, it waits for us.
  there = mine;
  return !word.compare_exchange_strong(there, 0, std::memory_order_seq_cst) &&
         there == (mine | kWanted);
}
// It comes to nothing. True: the daemon is to be told, for somebody may wait.
inline bool unclaim(Word& word, std::uint64_t mine) {
  std::uint64_t there = mine;
  if (word.compare_exchange_strong(there, 0, std::memory_order_seq_cst)) return false;
  if (there == (mine | kWanted))
    (void)word.compare_exchange_strong(there, 0, std::memory_order_seq_cst);
  return true;
}

// --- the daemon's side. Of a key that has been counted.

// Whose claim it is, which is wanted from now on. 0: nobody's. Words of those who are gone go.
template <class IsAlive>
std::uint64_t want(Word& word, std::uint64_t hash, IsAlive is_alive) {
  constexpr int kTries = 16;  // whoever writes there on and on gets nothing by it
  std::uint64_t there = word.load(std::memory_order_seq_cst);
  for (int i = 0; i < kTries && there != 0; ++i) {
    const std::uint64_t owner = owner_of(there);
    const bool alive = is_alive(owner);
    if (alive && !is_about(there, hash)) return 0;
    const std::uint64_t next = alive ? there | kWanted : 0;
    if (next == there || word.compare_exchange_strong(there, next, std::memory_order_seq_cst))
      return alive ? owner : 0;
  }
  return 0;
}
// It is over, if it is there.
inline void end(Word& word, std::uint64_t mine) {
  for (std::uint64_t there : {mine, mine | kWanted})
    if (word.compare_exchange_strong(there, 0, std::memory_order_seq_cst)) return;
}

}  // namespace om::claims
