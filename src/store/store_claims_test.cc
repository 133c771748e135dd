// Keys that are claimed by the table: who asks for one waits for who has claimed it, or follows,
// and goes on whatever becomes of it. And the counters, by which everybody sees what is there.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/board.h"
#include "base/claims.h"
#include "posix/file.h"
#include "posix/mapping.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

// A peer that claims keys, as docs/protocol.md says.
class Claimant {
 public:
  Claimant(Store& store, HolderId holder) : holder_(holder) {
    const auto access = store.open_board(holder);
    const auto claims = store.open_claims(holder);
    EXPECT_TRUE(access && claims);
    owner_ = claims->owner;
    board_ =
        *Mapping::of(access->board.borrow(), 0,
                     static_cast<std::size_t>(*file_size(access->board.borrow())), Access::kRead);
    table_ = *Mapping::of(claims->table.borrow(), 0, sizeof(claims::Table), Access::kReadWrite);
  }
  [[nodiscard]] HolderId holder() const { return holder_; }
  [[nodiscard]] std::uint64_t owner() const { return owner_; }
  [[nodiscard]] std::uint64_t hash(const std::string& key) const {
    return board::hash(header().seed.load(), key);
  }
  [[nodiscard]] const claims::Counter& counter(const std::string& key) const {
    return reinterpret_cast<const claims::Counter*>(
        board_.data() + board::kHeaderBytes +
        header().sets.load() *
            board::kSetBytes)[claims::counter_of(hash(key), header().counters.load())];
  }
  [[nodiscard]] int known(const std::string& key) const { return counter(key).load(); }
  [[nodiscard]] claims::Table& table() const {
    return *reinterpret_cast<claims::Table*>(table_.data());
  }
  [[nodiscard]] claims::Word& word(const std::string& key) const { return table().of(hash(key)); }
  [[nodiscard]] std::uint64_t mine(const std::string& key) const {
    return claims::word_of(hash(key), owner_);
  }
  bool claim(const std::string& key) { return claims::claim(word(key), counter(key), mine(key)); }
  // Tells the store where that is needed.
  void unclaim(Store& store, const std::string& key) {
    if (claims::unclaim(word(key), mine(key))) store.unclaim(holder_, key);
  }
  [[nodiscard]] std::uint64_t size() const { return board_.size(); }

 private:
  [[nodiscard]] const board::Header& header() const {
    return *reinterpret_cast<const board::Header*>(board_.data());
  }
  HolderId holder_;
  std::uint64_t owner_ = 0;
  Mapping board_;
  Mapping table_;
};

class ClaimsStore : public testing::StoreFixture {
 protected:
  ClaimsStore() {
    config.memory_bytes = 16 << 20;
    config.board_bytes = 64 * 1024;
  }
  void open_all() {
    open();
    x.emplace(*store, *store->open_holder({}));
  }
  Reservation ask(HolderId holder, const std::string& key, bool follow = true,
                  std::function<void()> wake = nullptr) {
    auto wanted = request(key, std::nullopt);
    wanted.or_get = true;
    wanted.follow = follow;
    auto answer = store->reserve(holder, wanted, std::move(wake));
    EXPECT_TRUE(answer) << describe(answer.error());
    return answer ? *std::move(answer) : Reservation(Waiting{});
  }
  bool follows(const std::string& key) {
    auto answer = ask(me, key);
    const auto* const following = std::get_if<Following>(&answer);
    if (following != nullptr) lease = following->lease_id;
    return following != nullptr;
  }
  Followed followed(Followed::Known known = {}) {
    auto answer = store->follow(me, lease, known, false, nullptr);
    EXPECT_TRUE(answer) << describe(answer.error());
    return answer ? std::get<Followed>(*std::move(answer)) : Followed{};
  }
  // By who has claimed it.
  std::vector<Result<Committed>> put_claimed(const std::string& key, const std::string& body,
                                             std::uint64_t removals_seen = ~std::uint64_t{0}) {
    const auto room = *store->take_room(x->holder(), {200'000});
    auto one = into(room, 0, key, body);
    one.claimed = true;
    one.removals_seen = removals_seen;
    auto done = put_in_room(x->holder(), room.put_id, {one});
    EXPECT_TRUE(store->abort(x->holder(), room.put_id));
    return done;
  }
  Result<Reservation> reserve_claimed(ReserveRequest wanted) {
    wanted.claimed = wanted.direct = true;
    return store->reserve(x->holder(), std::move(wanted), nullptr);
  }
  // Who asks now is the one to write, and nothing of it is left.
  void is_free(const std::string& key) {
    auto answer = ask(me, key);
    auto* const reserved = std::get_if<Reserved>(&answer);
    ASSERT_NE(reserved, nullptr) << key;
    ASSERT_TRUE(store->abort(me, reserved->put_id));
    EXPECT_EQ(x->word(key).load(), 0U) << key;
    EXPECT_EQ(x->known(key), 0) << key;
  }
  void purge(const std::string& what) {
    Removal removal;
    removal.kind = RemovalKind::kPurge;
    removal.what = what;
    ASSERT_TRUE(store->record(removal));
  }

  std::optional<Claimant> x;
  LeaseId lease = 0;
};

TEST_F(ClaimsStore, TheCountersTellOfAllThatIsThereOrOnItsWay) {
  with_disk();
  open_all();
  EXPECT_EQ(x->size(), 4096U + 64 * 1024 + 32768);
  EXPECT_EQ(x->known("k"), 0);
  auto reserved = store->reserve(me, request("k", 3), nullptr);
  ASSERT_TRUE(reserved);
  EXPECT_EQ(x->known("k"), 1);
  EXPECT_FALSE(x->claim("k"));
  const auto again = store->reserve(me, request("k", 3), nullptr);
  ASSERT_TRUE(again);
  EXPECT_EQ(x->known("k"), 1);
  ASSERT_TRUE(store->abort(me, std::get<Reserved>(*again).put_id));
  auto& writing = std::get<Reserved>(*reserved);
  write(writing.segments, writing.extents, "abc");
  ASSERT_TRUE(commit(me, writing.put_id, 3));
  EXPECT_EQ(x->known("k"), 1);
  ASSERT_TRUE(put("k", "another"));
  EXPECT_EQ(x->known("k"), 1);
  ASSERT_TRUE(store->remove("k"));
  EXPECT_EQ(x->known("k"), 0);
  // What is refused leaves nothing.
  EXPECT_FALSE(store->reserve(me, request("large", std::uint64_t{1} << 40), nullptr));
  EXPECT_EQ(x->known("large"), 0);
  auto disk = request("disk", 5000);
  disk.disk = true;
  ASSERT_TRUE(put(disk, body_of(5000, 1)));
  auto brief = request("brief", 3);
  brief.expires_ns = clock.real_ns() + 1000;
  ASSERT_TRUE(put(brief, "abc"));
  ASSERT_TRUE(put("p/1", "abc"));
  ASSERT_TRUE(put("p/2", "abc"));
  for (const char* key : {"disk", "brief", "p/1", "p/2"}) EXPECT_EQ(x->known(key), 1) << key;
  crash();
  x.emplace(*store, *store->open_holder({}));
  for (const char* key : {"disk", "brief", "p/1", "p/2"}) EXPECT_EQ(x->known(key), 1) << key;
  EXPECT_EQ(store->remove_prefix("p/")->count, 2U);
  clock.now_ns += 1'000'000'000;
  store->tick();
  for (const char* key : {"brief", "p/1", "p/2"}) EXPECT_EQ(x->known(key), 0) << key;
  EXPECT_EQ(x->known("disk"), 1);
  EXPECT_TRUE(x->claim("p/1"));
}

TEST_F(ClaimsStore, WhoAsksFollowsAndHasItWhenItIsPut) {
  open_all();
  ASSERT_TRUE(x->claim("k"));
  EXPECT_EQ(status("puts"), 0U);
  ASSERT_TRUE(follows("k"));
  EXPECT_EQ(x->word("k").load(), x->mine("k") | claims::kWanted);
  EXPECT_EQ(x->known("k"), 1);
  EXPECT_EQ(status("claims.wanted"), 1U);
  Followed told = followed();
  EXPECT_EQ(told.state, FollowedState::kWriting);
  EXPECT_EQ(told.available, 0U);
  EXPECT_TRUE(told.extents.empty());
  bool woken = false;
  ASSERT_TRUE(store->follow(me, lease, {}, true, [&] { woken = true; }));
  bool waiter_woken = false;
  const auto waits = ask(me, "k", false, [&] { waiter_woken = true; });
  ASSERT_TRUE(std::holds_alternative<Waiting>(waits));
  ASSERT_TRUE(put_claimed("k", "the body").front());
  until([&] { return woken && waiter_woken; });
  told = followed();
  EXPECT_EQ(told.state, FollowedState::kCommitted);
  EXPECT_EQ(told.available, 8U);
  EXPECT_TRUE(told.is_elsewhere);
  EXPECT_TRUE(told.extents.empty());
  ASSERT_TRUE(told.published);
  EXPECT_EQ(read(me, *told.published), "the body");
  EXPECT_EQ(x->word("k").load(), 0U);
  EXPECT_EQ(x->known("k"), 1);
  EXPECT_FALSE(x->claim("k"));
  // Gone again, it is as if nothing had come.
  store->release(me, told.published->lease_id);
  ASSERT_TRUE(store->remove("k"));
  EXPECT_EQ(followed().state, FollowedState::kAborted);
  store->release(me, lease);
  EXPECT_EQ(status("leases"), 0U);
  EXPECT_EQ(status("puts"), 0U);
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("claims.put"), 1U);
  is_free("k");
}

TEST_F(ClaimsStore, WhoReservesWhatHeHasClaimedIsFollowed) {
  open_all();
  // Where he writes in place, and where not.
  for (const bool direct : {true, false}) {
    ASSERT_TRUE(x->claim("k"));
    ASSERT_TRUE(follows("k"));
    auto wanted = request("k", std::nullopt);
    wanted.claimed = true;
    wanted.direct = direct;
    auto reserved = store->reserve(x->holder(), wanted, nullptr);
    ASSERT_TRUE(reserved && std::holds_alternative<Reserved>(*reserved));
    EXPECT_EQ(x->word("k").load(), 0U);
    EXPECT_EQ(x->known("k"), 1);
    auto& yours = std::get<Reserved>(*reserved);
    const std::string body = body_of(100'000, 7);
    write(yours.segments, yours.extents, body);
    store->progress(x->holder(), yours.put_id, 60'000);
    Followed told = followed();
    EXPECT_EQ(told.state, FollowedState::kWriting);
    EXPECT_EQ(told.available, 60'000U);
    EXPECT_FALSE(told.is_elsewhere);
    std::string seen;
    for (const Extent& extent : told.extents) {
      const auto view = store->segment(me, extent.segment);
      ASSERT_TRUE(view) << describe(view.error());
      std::string part(extent.length, '\0');
      ASSERT_TRUE(
          read_exactly(view->descriptor, extent.offset, std::as_writable_bytes(std::span(part))));
      seen += part;
    }
    EXPECT_EQ(seen.substr(0, 60'000), body.substr(0, 60'000));
    ASSERT_TRUE(commit(x->holder(), yours.put_id, body.size()));
    told = followed();
    EXPECT_EQ(told.state, FollowedState::kCommitted);
    ASSERT_TRUE(told.published);
    EXPECT_EQ(read(me, *told.published), body);
    store->release(me, told.published->lease_id);
    store->release(me, lease);
    ASSERT_TRUE(store->remove("k"));
    EXPECT_EQ(status("leases"), 0U);
    EXPECT_EQ(status("memory.used_bytes"), 0U);
  }
  EXPECT_EQ(status("claims.reserved"), 2U);
  // Nobody waits: a put as any other.
  ASSERT_TRUE(x->claim("k"));
  auto reserved = reserve_claimed(request("k", 3));
  ASSERT_TRUE(reserved);
  EXPECT_EQ(x->word("k").load(), 0U);
  EXPECT_TRUE(follows("k"));
  ASSERT_TRUE(store->abort(x->holder(), std::get<Reserved>(*reserved).put_id));
  EXPECT_EQ(followed().state, FollowedState::kAborted);
  is_free("k");
}

TEST_F(ClaimsStore, WhatIsRefusedEndsTheClaimAllTheSame) {
  config.holder.put_bytes = 1 << 20;
  open_all();
  const auto claimed_and_wanted = [&] {
    ASSERT_TRUE(x->claim("k"));
    ASSERT_TRUE(follows("k"));
  };
  claimed_and_wanted();
  EXPECT_EQ(reserve_claimed(request("k", 2 << 20)).error().code, Errc::kQuota);
  EXPECT_EQ(followed().state, FollowedState::kAborted);
  is_free("k");
  claimed_and_wanted();
  auto wrong = request("k", 3);
  wrong.tags = {""};
  EXPECT_EQ(reserve_claimed(wrong).error().code, Errc::kMalformed);
  EXPECT_EQ(followed().state, FollowedState::kAborted);
  is_free("k");
  // A put that its writer has not compared with all removals.
  claimed_and_wanted();
  const std::uint64_t seen = store->removals().head();
  purge("k");
  EXPECT_EQ(put_claimed("k", "old", seen).front().error().code, Errc::kNotFound);
  EXPECT_EQ(followed().state, FollowedState::kAborted);
  EXPECT_EQ(get("k"), std::nullopt);
  is_free("k");
  // And one into a room that is none.
  claimed_and_wanted();
  const auto room = *store->take_room(x->holder(), {200'000});
  auto body = into(room, 0, "k", "abc");
  body.claimed = true;
  EXPECT_EQ(put_in_room(x->holder(), room.put_id + 100, {body}).front().error().code,
            Errc::kNotFound);
  EXPECT_EQ(followed().state, FollowedState::kAborted);
  is_free("k");
}

TEST_F(ClaimsStore, ThoseThatCannotBeRecordedAreRefusedTogetherAndLeaveNothing) {
  open_all();
  const auto room = *store->take_room(x->holder(), {300'000});
  // Each with a word and a counter of its own: where they lie is drawn anew in each run.
  std::vector<std::string> keys;
  for (int i = 0; keys.size() < 3; ++i) {
    const std::string key = "k" + std::to_string(i);
    if (std::none_of(keys.begin(), keys.end(), [&](const std::string& other) {
          return &x->word(other) == &x->word(key) || &x->counter(other) == &x->counter(key);
        }))
      keys.push_back(key);
  }
  const auto put_all = [&](std::uint64_t from) {
    std::vector<RoomBody> bodies;
    for (const std::string& key : keys) {
      EXPECT_TRUE(x->claim(key)) << key;
      bodies.push_back(into(room, from + 64 * bodies.size(), key, "the body of " + key));
      bodies.back().claimed = true;
    }
    return bodies;
  };
  auto bodies = put_all(0);
  ASSERT_TRUE(follows(keys[0]));
  bool woken = false;
  ASSERT_TRUE(std::holds_alternative<Waiting>(ask(me, keys[2], false, [&woken] { woken = true; })));
  const std::uint64_t used = status("memory.used_bytes");
  {
    const testing::NoWrites journal_fails;
    for (const auto& done : put_in_room(x->holder(), room.put_id, bodies)) EXPECT_FALSE(done);
  }
  until([&] { return woken; });
  EXPECT_EQ(followed().state, FollowedState::kAborted);
  store->release(me, lease);
  for (const std::string& key : keys) {
    EXPECT_EQ(get(key), std::nullopt);
    is_free(key);
  }
  EXPECT_EQ(status("objects"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), used - 3 * 64);
  // With space they come.
  bodies = put_all(1024);
  for (const auto& done : put_in_room(x->holder(), room.put_id, bodies)) EXPECT_TRUE(done);
  for (const std::string& key : keys) {
    EXPECT_EQ(get(key), "the body of " + key);
    ASSERT_TRUE(store->remove(key));
    is_free(key);
  }
  ASSERT_TRUE(store->abort(x->holder(), room.put_id));
  EXPECT_EQ(status("puts"), 0U);
  EXPECT_EQ(status("leases"), 0U);
  // What the board has shown is looked for first.
  clock.now_ns += 1'000'000'000;
  until([&] { return status("memory.used_bytes") == 0; });
}

TEST_F(ClaimsStore, WhatIsDroppedIsForTheNextOne) {
  open_all();
  ASSERT_TRUE(x->claim("k"));
  x->unclaim(*store, "k");
  EXPECT_EQ(status("claims.dropped"), 0U);
  is_free("k");
  ASSERT_TRUE(x->claim("k"));
  ASSERT_TRUE(follows("k"));
  bool woken = false;
  (void)ask(me, "k", false, [&] { woken = true; });
  x->unclaim(*store, "k");
  until([&] { return woken; });
  EXPECT_EQ(status("claims.dropped"), 1U);
  EXPECT_EQ(followed().state, FollowedState::kAborted);
  is_free("k");
  // What is told of no claim is nothing.
  store->unclaim(x->holder(), "k");
  store->unclaim(x->holder(), "");
  store->unclaim(12345, "k");
}

TEST_F(ClaimsStore, WhatSomebodyHadClaimedWhoIsGoneIsForTheNextOne) {
  open_all();
  for (const bool wanted : {false, true}) {
    ASSERT_TRUE(x->claim("k"));
    ASSERT_TRUE(x->claim("l"));
    if (wanted) {
      ASSERT_TRUE(follows("k"));
    }
    store->close_holder(x->holder());
    for (const char* key : {"k", "l"}) EXPECT_EQ(x->word(key).load(), 0U) << key;
    if (wanted) {
      EXPECT_EQ(followed().state, FollowedState::kAborted);
    }
    is_free("k");
    is_free("l");
    // Cut off, and it has not noticed yet.
    ASSERT_TRUE(x->claim("k"));
    is_free("k");
    const std::uint64_t before = x->owner();
    x.emplace(*store, *store->open_holder({}));
    EXPECT_EQ(x->owner(), before + 1);
  }
  EXPECT_EQ(store->open_claims(x->holder()).error().code, Errc::kExists);
  EXPECT_EQ(store->open_claims(12345).error().code, Errc::kNotFound);
  EXPECT_EQ(status("claims.holders"), 1U);
}

TEST_F(ClaimsStore, AnotherThreadOfWhoHasClaimedItFollowsAsWell) {
  open_all();
  ASSERT_TRUE(x->claim("k"));
  const auto answer = ask(x->holder(), "k");
  ASSERT_TRUE(std::holds_alternative<Following>(answer));
  ASSERT_TRUE(put_claimed("k", "abc").front());
  EXPECT_EQ(get("k"), "abc");
}

TEST_F(ClaimsStore, WhoComesAfterAPurgeDoesNotWaitForWhatBeganBefore) {
  open_all();
  ASSERT_TRUE(x->claim("cdn://h/a#1"));
  ASSERT_TRUE(follows("cdn://h/a#1"));
  const LeaseId before = lease;
  const std::uint64_t seen = store->removals().head();
  purge("cdn://h/a");
  auto answer = ask(me, "cdn://h/a#1");
  ASSERT_TRUE(std::holds_alternative<Reserved>(answer));
  ASSERT_TRUE(follows("cdn://h/a#1"));  // the new one
  EXPECT_EQ(put_claimed("cdn://h/a#1", "old", seen).front().error().code, Errc::kNotFound);
  auto& writing = std::get<Reserved>(answer);
  write(writing.segments, writing.extents, "new");
  ASSERT_TRUE(commit(me, writing.put_id, 3));
  const Followed told = followed();
  EXPECT_EQ(told.state, FollowedState::kCommitted);
  lease = before;
  EXPECT_EQ(followed().state, FollowedState::kAborted);
  EXPECT_EQ(get("cdn://h/a#1"), "new");
  // A reservation of what was claimed before it is refused at its end.
  ASSERT_TRUE(x->claim("cdn://h/b#1"));
  ASSERT_TRUE(follows("cdn://h/b#1"));
  purge("cdn://h/b");
  auto reserved = reserve_claimed(request("cdn://h/b#1", 3));
  ASSERT_TRUE(reserved && std::holds_alternative<Reserved>(*reserved));
  auto& old = std::get<Reserved>(*reserved);
  write(old.segments, old.extents, "old");
  EXPECT_FALSE(commit(x->holder(), old.put_id, 3));
  EXPECT_EQ(get("cdn://h/b#1"), std::nullopt);
}

TEST_F(ClaimsStore, NonsenseInTheTableIsNobodysClaim) {
  config.holder.puts = 3;
  open_all();
  std::mt19937_64 random(1);
  for (int round = 0; round < 20; ++round) {
    for (claims::Word& word : x->table().words) word = random();
    for (int i = 0; i < 50; ++i) {
      const std::string key = "k" + std::to_string(i);
      // Of that key, but of nobody: then it is as any other.
      x->word(key) = claims::word_of(x->hash(key), 20'000 + random() % 1000) | random() % 2;
      ASSERT_TRUE(put(key, "abc")) << key;
      EXPECT_EQ(get(key), "abc");
      ASSERT_TRUE(store->remove(key));
      is_free(key);
    }
  }
  // Said in another one's name: who asks waits for him, as far as he may have puts; then one
  // writes.
  for (claims::Word& word : x->table().words) word = 0;
  std::size_t waits = 0;
  for (int i = 0; i < 10; ++i) {
    const std::string key = "k" + std::to_string(i);
    x->word(key) = x->mine(key);
    auto answer = ask(me, key);
    if (auto* const reserved = std::get_if<Reserved>(&answer)) {
      ASSERT_TRUE(store->abort(me, reserved->put_id));
    } else {
      ++waits;
    }
  }
  EXPECT_EQ(waits, 3U);
  store->close_holder(x->holder());
  EXPECT_EQ(status("puts"), 0U);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(x->known("k" + std::to_string(i)), 0);
}

TEST_F(ClaimsStore, ThePutOfAClaimIsNobodysToTouch) {
  open_all();
  ASSERT_TRUE(x->claim("k"));
  ASSERT_TRUE(follows("k"));
  const auto other = store->reserve(me, request("other", 3), nullptr);
  ASSERT_TRUE(other);
  const PutId claim = std::get<Reserved>(*other).put_id - 1;
  EXPECT_EQ(store->abort(x->holder(), claim).error().code, Errc::kNotFound);
  EXPECT_EQ(store->extend(x->holder(), claim, 10).error().code, Errc::kNotFound);
  EXPECT_EQ(store->hold(x->holder(), claim, 10).error().code, Errc::kNotFound);
  EXPECT_EQ(commit(x->holder(), claim, 0).error().code, Errc::kNotFound);
  store->progress(x->holder(), claim, 0);
  store->amend(x->holder(), claim, {});
  EXPECT_EQ(followed().state, FollowedState::kWriting);
}

TEST_F(ClaimsStore, WithoutABoardThereIsNoTable) {
  config.board_bytes = 0;
  open();
  EXPECT_EQ(store->open_claims(me).error().code, Errc::kUnsupported);
  store->unclaim(me, "k");
  ASSERT_TRUE(put("k", "abc"));
  EXPECT_EQ(status("claims.holders"), 0U);
  EXPECT_EQ(status("board.counters"), 0U);
}

}  // namespace
}  // namespace om::store
