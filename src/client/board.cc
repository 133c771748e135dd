#include "client/board.h"

#include <bit>
#include <utility>

#include "posix/file.h"

namespace om::client {

std::unique_ptr<Board> Board::of(const UniqueFd& board_file, UniqueFd page_file) {
  const auto bytes = file_size(board_file.borrow());
  const auto page_bytes = file_size(page_file.borrow());
  if (!bytes || *bytes < board::kHeaderBytes || !page_bytes ||
      *page_bytes < sizeof(board::HazardPage))
    return nullptr;
  auto shown = Mapping::of(board_file.borrow(), 0, static_cast<std::size_t>(*bytes), Access::kRead);
  auto words = Mapping::of(page_file.borrow(), 0, sizeof(board::HazardPage), Access::kReadWrite);
  if (!shown || !words) return nullptr;
  const auto* const header = reinterpret_cast<const board::Header*>(shown->data());
  if (header->magic.load(std::memory_order_acquire) != board::kMagic) return nullptr;
  const std::uint64_t sets = header->sets.load(std::memory_order_relaxed);
  if (!std::has_single_bit(sets) || sets > (*bytes - board::kHeaderBytes) / board::kSetBytes)
    return nullptr;
  // A daemon from before there were any has a 0 there.
  std::uint64_t counters = header->counters.load(std::memory_order_relaxed);
  if (!std::has_single_bit(counters) ||
      counters > *bytes - board::kHeaderBytes - sets * board::kSetBytes)
    counters = 0;
  return std::unique_ptr<Board>(
      new Board(*std::move(shown), *std::move(words), std::move(page_file), counters));
}

Board::Board(Mapping shown, Mapping words, UniqueFd page_file, std::uint64_t counters)
    : board_(std::move(shown)),
      page_(std::move(words)),
      page_file_(std::move(page_file)),
      sets_(header().sets.load(std::memory_order_relaxed)),
      seed_(header().seed.load(std::memory_order_relaxed)),
      counters_(counters) {}

const claims::Counter* Board::known(std::uint64_t hash) const {
  if (counters_ == 0) return nullptr;
  return reinterpret_cast<const claims::Counter*>(board_.data() + board::kHeaderBytes +
                                                  sets_ * board::kSetBytes) +
         claims::counter_of(hash, counters_);
}

const board::Slot* Board::find(std::string_view key, std::uint64_t hash, board::Seen& seen) const {
  const auto* const set =
      reinterpret_cast<const board::Slot*>(board_.data() + board::kHeaderBytes) +
      (hash & (sets_ - 1)) * board::kWays;
  for (const board::Slot* slot = set; slot != set + board::kWays; ++slot)
    if (slot->look(hash, key, seen)) return slot;
  return nullptr;
}

std::optional<std::size_t> Board::hold(const board::Slot& slot, const board::Seen& seen) {
  std::uint64_t used = used_.load(std::memory_order_relaxed);
  std::size_t word = 0;
  do {
    word = static_cast<std::size_t>(std::countr_one(used));
    if (word == board::kHazards) return std::nullopt;
  } while (!used_.compare_exchange_weak(used, used | (std::uint64_t{1} << word),
                                        std::memory_order_acquire, std::memory_order_relaxed));
  // First said, then looked: whoever takes the object off the board, or comes after the daemon,
  // does it the other way round. One of us sees the other (store/hazard_pages.h). All of these are
  // seq_cst, and nothing else would do.
  page().objects[word].store(seen.object.object_id, std::memory_order_seq_cst);
  if (!slot.is_unchanged(seen) || !is_alive()) {
    let_go(word);
    return std::nullopt;
  }
  // So that the daemon hears of it, some time.
  const std::uint64_t number = page().gets.fetch_add(1, std::memory_order_relaxed);
  page().touched[number % board::kTouches].store(seen.object.object_id, std::memory_order_relaxed);
  return word;
}

void Board::let_go(std::size_t word) {
  // What was read was read before.
  page().objects[word].store(0, std::memory_order_release);
  used_.fetch_and(~(std::uint64_t{1} << word), std::memory_order_release);
}

bool Board::holds(std::size_t word, std::uint64_t object) const {
  return word < board::kHazards && page().objects[word].load(std::memory_order_relaxed) == object;
}

}  // namespace om::client
