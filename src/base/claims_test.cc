// Claims, by several threads at once: a key has one who fetches it, whether he has asked or not,
// and whoever waits is told when nothing comes of it.
#include "base/claims.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/board.h"

namespace om::claims {
namespace {

constexpr std::uint64_t kHash = 0x123456789abcdef0;
constexpr auto kAllLive = [](std::uint64_t owner) { return owner != 0; };

TEST(ClaimWord, SaysWhoseItIsAndOfWhatKey) {
  for (const std::uint64_t owner : {std::uint64_t{1}, std::uint64_t{77}, kOwnerMax}) {
    const std::uint64_t word = word_of(kHash, owner);
    EXPECT_NE(word, 0U);
    EXPECT_EQ(word & kWanted, 0U);
    EXPECT_EQ(owner_of(word), owner);
    EXPECT_EQ(owner_of(word | kWanted), owner);
    EXPECT_TRUE(is_about(word, kHash));
    EXPECT_TRUE(is_about(word | kWanted, kHash));
    EXPECT_FALSE(is_about(word, kHash ^ (std::uint64_t{1} << 16)));
    EXPECT_FALSE(is_about(word, kHash ^ (std::uint64_t{1} << 63)));
  }
  // As docs/protocol.md has it.
  EXPECT_EQ(word_of(0x9674c3a6be8b0733, 5), 0x9674c3a6be8b000aU);
  const auto table = std::make_unique<Table>();
  EXPECT_EQ(&table->of(0x9674c3a6be8b0733), &table->words[0x733]);
  EXPECT_EQ(counter_of(0x9674c3a6be8b0733, 65536), 0xc3a6U);
}

TEST(ClaimCounter, StaysWhereItCountsNoFurther) {
  Counter counter{0};
  subtract(counter);
  EXPECT_EQ(counter.load(), 0);
  add(counter);
  add(counter);
  subtract(counter);
  EXPECT_EQ(counter.load(), 1);
  for (int i = 0; i < 300; ++i) add(counter);
  EXPECT_EQ(counter.load(), kCountMax);
  subtract(counter);
  EXPECT_EQ(counter.load(), kCountMax);
}

TEST(Claim, IsHadWhereNobodyHasTheKey) {
  Word word{0};
  Counter known{0};
  const std::uint64_t mine = word_of(kHash, 3);
  known = 1;
  EXPECT_FALSE(claim(word, known, mine));
  known = 0;
  ASSERT_TRUE(claim(word, known, mine));
  EXPECT_EQ(word.load(), mine);
  EXPECT_FALSE(claim(word, known, mine));  // not twice, not by the same one either
  EXPECT_FALSE(claim(word, known, word_of(kHash, 4)));
  EXPECT_FALSE(unclaim(word, mine));
  EXPECT_EQ(word.load(), 0U);
  // Who comes to the daemon waits for it, and is to be told.
  ASSERT_TRUE(claim(word, known, mine));
  EXPECT_EQ(want(word, kHash, kAllLive), 3U);
  EXPECT_EQ(want(word, kHash, kAllLive), 3U);
  EXPECT_EQ(want(word, ~kHash, kAllLive), 0U);
  EXPECT_EQ(word.load(), mine | kWanted);
  EXPECT_TRUE(unclaim(word, mine));
  EXPECT_EQ(word.load(), 0U);
  EXPECT_EQ(want(word, kHash, kAllLive), 0U);
}

TEST(Claim, EndsByTheDaemonToo) {
  Word word{0};
  const std::uint64_t mine = word_of(kHash, 3);
  for (const std::uint64_t there : {mine, mine | kWanted}) {
    word = there;
    end(word, word_of(kHash, 4));
    EXPECT_EQ(word.load(), there);
    end(word, mine);
    EXPECT_EQ(word.load(), 0U);
  }
  // Another one's by now, or nobody's: what is not known is told.
  EXPECT_TRUE(unclaim(word, mine));
  word = word_of(kHash, 4);
  EXPECT_TRUE(unclaim(word, mine));
  EXPECT_EQ(word.load(), word_of(kHash, 4));
}

TEST(Claim, OfOneWhoIsGoneOrOfNobodyIsNone) {
  Word word{0};
  for (const std::uint64_t nonsense : {word_of(kHash, 3), word_of(~kHash, 3) | kWanted,
                                       word_of(kHash, 0), std::uint64_t{1}, ~std::uint64_t{0}}) {
    word = nonsense;
    EXPECT_EQ(want(word, kHash, [](std::uint64_t owner) { return owner == 4; }), 0U);
    EXPECT_EQ(word.load(), 0U) << nonsense;
  }
  word = word_of(~kHash, 4);
  EXPECT_EQ(want(word, kHash, [](std::uint64_t owner) { return owner == 4; }), 0U);
  EXPECT_EQ(word.load(), word_of(~kHash, 4));  // somebody's, of another key
}

// Two who claim and one who asks, all at once, over and over.
class Rounds {
 public:
  static constexpr std::uint64_t kRounds = 20'000;
  // What owner 1 and owner 2 do in each round.
  explicit Rounds(const std::function<void(std::uint64_t owner)>& act) {
    for (std::uint64_t owner = 1; owner <= 2; ++owner)
      threads_.emplace_back([this, owner, act] {
        for (std::uint64_t n = 1; n <= kRounds; ++n) {
          while (round_.load() < n) std::this_thread::yield();
          act(owner);
          answered_.fetch_add(1);
        }
      });
  }
  Rounds(const Rounds&) = delete;
  Rounds& operator=(const Rounds&) = delete;
  ~Rounds() {
    for (std::thread& thread : threads_) thread.join();
  }
  void begin(std::uint64_t n) { round_.store(n); }
  void end(std::uint64_t n) const {
    while (answered_.load() < 2 * n) std::this_thread::yield();
  }

 private:
  std::atomic<std::uint64_t> round_{0};
  std::atomic<std::uint64_t> answered_{0};
  std::vector<std::thread> threads_;
};

TEST(Claim, HasOneWhoFetchesWhoeverAsks) {
  Word word{0};
  Counter known{0};
  std::array<std::atomic<bool>, 3> has{};
  std::uint64_t wrong = 0;
  std::uint64_t asked_first = 0;
  Rounds rounds(
      [&](std::uint64_t owner) { has.at(owner) = claim(word, known, word_of(kHash, owner)); });
  for (std::uint64_t n = 1; n <= Rounds::kRounds; ++n) {
    rounds.begin(n);
    if (n % 3 == 0) std::this_thread::yield();
    add(known);
    const std::uint64_t owner = want(word, kHash, kAllLive);
    rounds.end(n);
    // The daemon lets its client fetch where it has found nobody.
    const int fetch = int{has[1].load()} + int{has[2].load()} + int{owner == 0};
    if (fetch != 1 || (owner != 0 && !has.at(owner).load())) ++wrong;
    if (owner == 0) ++asked_first;
    word = 0;
    known = 0;
  }
  EXPECT_EQ(wrong, 0U);
  RecordProperty("asked_first", static_cast<int>(asked_first));
}

TEST(Claim, ThatIsWantedNeverEndsUnheard) {
  Word word{0};
  Counter known{0};
  std::array<std::atomic<bool>, 3> told{};
  std::uint64_t wrong = 0;
  Rounds rounds([&](std::uint64_t owner) {
    const std::uint64_t mine = word_of(kHash, owner);
    told.at(owner) = claim(word, known, mine) && unclaim(word, mine);
  });
  for (std::uint64_t n = 1; n <= Rounds::kRounds; ++n) {
    rounds.begin(n);
    if (n % 3 == 0) std::this_thread::yield();
    add(known);
    const std::uint64_t owner = want(word, kHash, kAllLive);
    rounds.end(n);
    for (const std::uint64_t one : {1U, 2U})
      if (told.at(one).load() != (owner == one)) ++wrong;
    if (word.load() != 0) ++wrong;
    known = 0;
  }
  EXPECT_EQ(wrong, 0U);
}

}  // namespace
}  // namespace om::claims
