// The board's slots and words, by several threads at once: what is believed is whole, and who takes
// a lease is seen by who takes its object off the board.
#include "base/board.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace om::board {
namespace {

TEST(BoardHash, IsWhatTheProtocolSays) {
  EXPECT_EQ(hash(0, ""), 0U);
  EXPECT_EQ(hash(0, "a"), 0xffde1b4163a5fcc0U);
  EXPECT_EQ(hash(1, "http://a/x"), 0x9674c3a6be8b0733U);
  EXPECT_EQ(hash(0x0123456789abcdefU, "12345678"), 0x0c602bf8d171ee50U);
}

TEST(BoardText, ComesBackAsItWentIn) {
  const std::vector<std::string> tags{"t", "", std::string(255, 'x')};
  ASSERT_EQ(text_bytes("key", "meta", tags), 3U + 4U + 3U + 256U);
  Text text;
  text.fill("key", "meta", tags);
  EXPECT_EQ(text.used(), text_bytes("key", "meta", tags));
  EXPECT_EQ(text.key(), "key");
  EXPECT_EQ(text.metadata(), "meta");
  EXPECT_EQ(text.tags(), tags);
  // Torn, it is nothing, or at least harmless.
  ++text.tag_count;
  EXPECT_EQ(text.tags(), std::nullopt);
  text.bytes[7] = '\xff';
  text.tags_bytes = 9;
  EXPECT_EQ(text.tags(), std::nullopt);
}

// All that is said of object `n` follows from n.
Shown object_of(std::uint64_t n) {
  Shown object;
  object.object_id = n;
  object.segment = n * 3;
  object.offset = n * 5;
  object.length = n * 7;
  object.created_ns = n * 11;
  object.expires_ns = n * 13;
  object.revision = static_cast<std::uint32_t>(n);
  object.ephemeral = n % 2 != 0;
  return object;
}
std::string metadata_of(std::uint64_t n) { return std::string(n % 500, static_cast<char>(n)); }
std::vector<std::string> tags_of(std::uint64_t n) {
  return std::vector<std::string>(n % 3, "tag " + std::to_string(n));
}
void show(Slot& slot, std::uint64_t n) {
  Text text;
  text.fill("key", metadata_of(n), tags_of(n));
  slot.show(17, object_of(n), text);
}
bool is_whole(const Seen& seen) {
  const std::uint64_t n = seen.object.object_id;
  const Shown want = object_of(n);
  const Shown& object = seen.object;
  return object.segment == want.segment && object.offset == want.offset &&
         object.length == want.length && object.created_ns == want.created_ns &&
         object.expires_ns == want.expires_ns && object.revision == want.revision &&
         object.ephemeral == want.ephemeral && seen.text.metadata() == metadata_of(n) &&
         seen.text.tags() == tags_of(n);
}

TEST(BoardSlot, ShowsWhatItWasGivenUntilItIsHidden) {
  const auto slot = std::make_unique<Slot>();
  Seen seen;
  EXPECT_FALSE(slot->look(17, "key", seen));
  show(*slot, 4);
  EXPECT_FALSE(slot->look(18, "key", seen));
  EXPECT_FALSE(slot->look(17, "kex", seen));
  EXPECT_FALSE(slot->look(17, "keys", seen));
  ASSERT_TRUE(slot->look(17, "key", seen));
  EXPECT_TRUE(slot->is_unchanged(seen));
  EXPECT_TRUE(is_whole(seen));
  slot->hide();
  EXPECT_FALSE(slot->is_unchanged(seen));
  show(*slot, 4);
  EXPECT_FALSE(slot->is_unchanged(seen));  // the same again is not the same
}

TEST(BoardSlot, NothingTornIsEverBelieved) {
  const auto slot = std::make_unique<Slot>();
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> torn{0};
  std::atomic<std::uint64_t> believed{0};
  std::vector<std::thread> readers;
  readers.reserve(2);
  for (int i = 0; i < 2; ++i)
    readers.emplace_back([&] {
      Seen seen;
      for (bool last = false; !last;) {
        last = over.load();  // then it is shown, and looked at once more
        if (!slot->look(17, "key", seen) || !slot->is_unchanged(seen)) continue;
        ++believed;
        if (!is_whole(seen)) ++torn;
      }
    });
  for (std::uint64_t n = 1; n <= 20'000; ++n) {
    show(*slot, n);
    if (n % 64 == 0) std::this_thread::yield();
    slot->hide();
  }
  show(*slot, 20'001);
  over.store(true);
  for (std::thread& reader : readers) reader.join();
  EXPECT_GE(believed.load(), 2U);
  EXPECT_EQ(torn.load(), 0U);
}

// The two looks that safety stands on: the reader's at the sequence after it has said what it
// reads, and the writer's at what is read after it has taken it off the board. The daemon has a
// fence and a pread(2) for the latter.
TEST(BoardSlot, WhoBelievesItHasBeenSeen) {
  const auto slot = std::make_unique<Slot>();
  Word hazard{0};
  std::atomic<std::uint64_t> round{0};
  std::atomic<std::uint64_t> answered{0};
  std::atomic<bool> took{false};
  constexpr std::uint64_t kRounds = 20'000;
  std::thread reader([&] {
    Seen seen;
    for (std::uint64_t n = 1; n <= kRounds; ++n) {
      while (round.load() < n) std::this_thread::yield();
      bool has = false;
      if (slot->look(17, "key", seen)) {
        hazard.store(seen.object.object_id, std::memory_order_seq_cst);
        has = slot->is_unchanged(seen);
      }
      took.store(has);
      answered.store(n);
    }
  });
  std::uint64_t unseen = 0;
  for (std::uint64_t n = 1; n <= kRounds; ++n) {
    hazard.store(0);
    show(*slot, n);
    round.store(n);
    if (n % 3 == 0) std::this_thread::yield();
    slot->hide();
    const bool seen = hazard.load(std::memory_order_seq_cst) == n;
    while (answered.load() < n) std::this_thread::yield();
    if (took.load() && !seen) ++unseen;
  }
  reader.join();
  EXPECT_EQ(unseen, 0U);
}

}  // namespace
}  // namespace om::board
