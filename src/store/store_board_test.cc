// GETs by the board: what is shown, what takes it off, and that the bytes under a reader stay as
// they are whatever becomes of the object, of its session and of the daemon.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "store/board_testing.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

using testing::BoardReader;

class BoardStore : public testing::StoreFixture {
 protected:
  BoardStore() { config.board_bytes = 64 * 1024; }
  void open_all() {
    open();
    peer.emplace(open_reader(me));
  }
  BoardReader open_reader(HolderId holder) {
    auto access = store->open_board(holder);
    EXPECT_TRUE(access) << describe(access.error());
    return BoardReader(*std::move(access));
  }
  // By message: from then on the reader knows where it lies.
  void meet(BoardReader& reader, HolderId holder, const std::string& key) {
    const auto leased = store->get(holder, key);
    ASSERT_TRUE(leased && *leased) << key;
    reader.learn(*store, holder, (*leased)->extents);
    store->release(holder, (*leased)->lease_id);
  }
  void put_shown(const ReserveRequest& wanted, const std::string& body) {
    ASSERT_TRUE(put(wanted, body));
    meet(*peer, me, wanted.key);
    ASSERT_TRUE(peer->shows(wanted.key)) << wanted.key;
  }
  void put_shown(const std::string& key, const std::string& body) {
    put_shown(request(key, body.size()), body);
  }
  BoardReader::Lease take(const std::string& key) {
    const auto lease = peer->take(key);
    EXPECT_TRUE(lease) << key;
    return lease ? *lease : BoardReader::Lease{};
  }
  void pass_time() {
    clock.now_ns += 1'000'000'000;
    store->tick();
  }
  // So much that whatever is free has other bytes in it.
  void fill() {
    for (unsigned i = 0; i < 40; ++i) {
      const auto done = put("fill" + std::to_string(i), body_of(250'000, 1000 + i));
      ASSERT_TRUE(done || done.error().code == Errc::kNoSpace) << describe(done.error());
    }
  }

  std::optional<BoardReader> peer;
};

TEST_F(BoardStore, ShowsWhatIsSmallAndInMemoryAndNothingElse) {
  with_disk();
  open_all();
  const auto put_one = [&](ReserveRequest wanted) {
    const std::string body = body_of(*wanted.length, 1);
    ASSERT_TRUE(put(std::move(wanted), body));
  };
  auto said = request("small", 5000);
  said.metadata = "said of it";
  said.tags = {"red", "blue"};
  said.ephemeral = true;
  put_one(said);
  put_one(request("largest", 65535));
  put_one(request("too large", 65536));
  put_one(request("empty", 0));
  auto disk = request("on disk", 5000);
  disk.disk = true;
  put_one(disk);
  auto much = request("says much", 5000);
  much.metadata = std::string(940, 'm');
  put_one(much);
  const auto small = peer->find("small");
  ASSERT_TRUE(small);
  EXPECT_EQ(small->text.metadata(), "said of it");
  EXPECT_EQ(small->text.tags(), said.tags);
  EXPECT_EQ(small->object.length, 5000U);
  EXPECT_TRUE(small->object.ephemeral);
  const auto info = store->stat("small");
  ASSERT_TRUE(info && *info);
  EXPECT_EQ(small->object.object_id, (*info)->object_id);
  EXPECT_EQ(small->object.created_ns, (*info)->created_ns);
  EXPECT_TRUE(peer->shows("largest"));
  for (const char* key : {"too large", "empty", "on disk", "says much", "none"}) {
    EXPECT_FALSE(peer->shows(key)) << key;
    ASSERT_TRUE(store->get(me, key)) << key;
    EXPECT_FALSE(peer->shows(key)) << key;
  }
  meet(*peer, me, "small");
  EXPECT_EQ(peer->read(take("small")), body_of(5000, 1));
}

TEST_F(BoardStore, WhereNobodyHasItNothingIsShown) {
  open();
  ASSERT_TRUE(put("a", "x"));
  EXPECT_EQ(get("a"), "x");
  EXPECT_EQ(status("board.objects"), 0U);
  peer.emplace(open_reader(me));
  EXPECT_EQ(store->open_board(me).error().code, Errc::kExists);
  EXPECT_EQ(get("a"), "x");
  EXPECT_EQ(status("board.objects"), 1U);
  config.board_bytes = 0;
  open();
  EXPECT_EQ(store->open_board(me).error().code, Errc::kUnsupported);
  EXPECT_EQ(get("a"), "x");
}

TEST_F(BoardStore, CannotBeWrittenThrough) {
  open();
  const auto access = store->open_board(me);
  ASSERT_TRUE(access);
  EXPECT_EQ(::pwrite(access->board.raw(), "x", 1, 0), -1);
  EXPECT_EQ(errno, EBADF);
  EXPECT_NE(::ftruncate(access->board.raw(), 0), 0);
  struct stat status {};
  ASSERT_EQ(::fstat(access->board.raw(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST_F(BoardStore, PagesAreAsManyAsItsSizeAllows) {
  open();
  std::vector<BoardAccess> given;
  for (;;) {
    auto access = store->open_board(*store->open_holder({}));
    if (!access) {
      EXPECT_EQ(access.error().code, Errc::kQuota);
      break;
    }
    given.push_back(*std::move(access));
    ASSERT_LE(given.size(), 16U);
  }
  EXPECT_EQ(given.size(), 16U);  // of 4 KiB each, beside 64 KiB of slots
}

TEST_F(BoardStore, WhatIsAskedForStaysOnAndOthersMakeRoom) {
  config.board_bytes = board::kSetBytes;  // four slots
  open_all();
  put_shown("first", "x");
  ASSERT_TRUE(store->remove("first"));
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(put("k" + std::to_string(i), "x"));
  for (const char* key : {"k0", "k2"}) peer->let_go(take(key));
  store->tick();
  EXPECT_EQ(status("board.gets"), 2U);
  EXPECT_EQ(status("hits"), 3U);  // one of them by message
  for (const char* key : {"k4", "k5"}) ASSERT_TRUE(put(key, "x"));
  for (const char* key : {"k0", "k2", "k4", "k5"}) EXPECT_TRUE(peer->shows(key)) << key;
  EXPECT_EQ(status("board.objects"), 4U);
}

// --- every change takes it off, before anybody learns of it; its bytes stay for who reads them

TEST_F(BoardStore, WhoeverChangesAnObjectLeavesItsBytesToWhoReadsThem) {
  struct Change {
    const char* name;
    bool gone;  // and not only said anew
    std::function<void()> run;
  };
  const std::vector<Change> changes{
      {"removed", true, [&] { EXPECT_EQ(store->remove("k")->count, 1U); }},
      {"removed by prefix", true, [&] { EXPECT_GE(store->remove_prefix("k")->count, 1U); }},
      {"removed by tag", true, [&] { EXPECT_EQ(store->remove_tag("tag")->count, 1U); }},
      {"purged everywhere", true,
       [&] {
         Removal removal;
         removal.kind = RemovalKind::kPurge;
         removal.what = "k";
         ASSERT_TRUE(store->record(std::move(removal)));
       }},
      {"removed everywhere by tag", true,
       [&] {
         Removal removal;
         removal.kind = RemovalKind::kTag;
         removal.what = "tag";
         ASSERT_TRUE(store->record(std::move(removal)));
       }},
      {"replaced", true, [&] { ASSERT_TRUE(put("k", body_of(300, 8))); }},
      {"replaced in place", true,
       [&] {
         auto wanted = request("k", 300);
         wanted.direct = true;
         ASSERT_TRUE(put(wanted, body_of(300, 8)));
       }},
      {"replaced from a room", true,
       [&] {
         const auto room = store->take_room(me, {128 * 1024});
         ASSERT_TRUE(room) << describe(room.error());
         ASSERT_TRUE(put_in_room(me, room->put_id, {into(*room, 0, "k", body_of(300, 8))})[0]);
         ASSERT_TRUE(store->abort(me, room->put_id));
       }},
      {"expired", true,
       [&] {
         clock.now_ns += 2'000'000'000;
         store->tick();
       }},
      {"found to be expired", true,
       [&] {
         clock.now_ns += 2'000'000'000;
         EXPECT_FALSE(*store->get(me, "k"));
       }},
      {"refreshed", false,
       [&] {
         auto mine = store->reserve(me, request("k", 0), nullptr);
         ASSERT_TRUE(mine);
         Amendment says;
         says.metadata = "new";
         ASSERT_TRUE(
             refresh(me, std::get<Reserved>(*mine).put_id, (*store->stat("k"))->object_id, says));
       }},
  };
  const auto body = body_of(50'000, 3);
  for (const Change& change : changes) {
    SCOPED_TRACE(change.name);
    open_all();
    ASSERT_TRUE(store->remove_prefix(""));
    auto wanted = request("k", body.size());
    wanted.tags = {"tag"};
    wanted.expires_ns = clock.real_ns() + 1'000'000'000;
    put_shown(wanted, body);
    const auto lease = take("k");
    change.run();
    if (const auto shown = peer->find("k")) {
      // It may be another one by now.
      EXPECT_NE(shown->object.object_id, lease.object.object_id);
      EXPECT_EQ(shown->object.length, 300U);
    }
    EXPECT_EQ(status("held.bytes"), change.gone ? body.size() : 0U);
    EXPECT_EQ(status("board.pins"), change.gone ? 1U : 0U);
    fill();
    EXPECT_EQ(peer->read(lease), body);
    if (!change.gone) {
      // What is read is not evicted either; and it is shown again, as it is now.
      meet(*peer, me, "k");
      const auto shown = peer->find("k");
      ASSERT_TRUE(shown);
      EXPECT_EQ(shown->object.object_id, lease.object.object_id);
      EXPECT_EQ(shown->object.revision, 1U);
      EXPECT_EQ(shown->text.metadata(), "new");
      EXPECT_EQ(store->remove("k")->count, 1U);
      EXPECT_EQ(status("held.bytes"), body.size());
      fill();
      EXPECT_EQ(peer->read(lease), body);
    }
    EXPECT_GT(status("leases"), 0U);
    peer->let_go(lease);
    store->tick();
    EXPECT_EQ(status("held.bytes"), 0U);
    EXPECT_EQ(status("leases"), 0U);
  }
}

TEST_F(BoardStore, WhatIsReadIsNotEvictedUntilItIsNot) {
  open_all();
  const auto body = body_of(50'000, 3);
  put_shown("k", body);
  const auto lease = take("k");
  for (int i = 0; i < 3; ++i) fill();
  EXPECT_GT(status("evicted.memory"), 0U);
  EXPECT_EQ(peer->read(lease), body);
  // Somebody wants it all.
  EXPECT_EQ(open_region("a/b", config.memory_bytes, 0, 1).error().code, Errc::kNoSpace);
  EXPECT_EQ(peer->read(lease), body);
  EXPECT_TRUE(*store->stat("k"));
  EXPECT_EQ(status("objects"), 1U);
  EXPECT_EQ(status("held.bytes"), 0U);
  peer->let_go(lease);
  const auto region = open_region("a/b", config.memory_bytes, 0, 1);
  EXPECT_TRUE(region) << describe(region.error());
  EXPECT_FALSE(*store->stat("k"));
}

TEST_F(BoardStore, WhatIsReadIsNotMovedToDisk) {
  with_disk();
  config.board_bytes = 1 << 20;
  open_all();
  put_shown("first", "x");
  const auto key = [](unsigned i) { return "s" + std::to_string(i); };
  for (unsigned i = 0; i < 20; ++i) ASSERT_TRUE(put(key(i), body_of(60'000, i)));
  const auto lease = take(key(3));
  for (unsigned i = 0; i < 60; ++i) ASSERT_TRUE(put("l" + std::to_string(i), body_of(200'000, i)));
  until([&] { return status("demoted") > 0 && store->idle(); });
  EXPECT_EQ(peer->read(lease), body_of(60'000, 3));
  EXPECT_EQ((*store->stat(key(3)))->tier, Tier::kMemory);
  unsigned moved = 0;
  for (unsigned i = 0; i < 20; ++i) {
    const auto there = store->stat(key(i));
    ASSERT_TRUE(there && *there);
    if ((*there)->tier == Tier::kMemory) continue;
    ++moved;
    EXPECT_FALSE(peer->shows(key(i)));
    EXPECT_EQ(get(key(i)), body_of(60'000, i));
    EXPECT_FALSE(peer->shows(key(i)));
  }
  EXPECT_GT(moved, 0U);
}

// Where its removal cannot be written down it stays, and so does what is read.
TEST_F(BoardStore, WhatCannotBeWrittenDownIsNotRemoved) {
  std::atomic<bool> full{false};
  config.disk_fault = [&](const char* operation, const std::string&) {
    return full && std::string_view(operation) == "held" ? ENOSPC : 0;
  };
  open_all();
  put_shown("k", body_of(5000, 1));
  const auto lease = take("k");
  full = true;
  EXPECT_EQ(store->remove("k").error().code, Errc::kNoSpace);
  EXPECT_EQ(put("k", "other").error().code, Errc::kNoSpace);
  full = false;
  EXPECT_EQ(get("k"), body_of(5000, 1));
  EXPECT_EQ(store->remove("k")->count, 1U);
  fill();
  EXPECT_EQ(peer->read(lease), body_of(5000, 1));
}

// The look for one of two that a message replaces finds who reads the other one, too.
TEST_F(BoardStore, WhatOneMessageReplacesStaysForItsReadersAlsoOverARestart) {
  config.board_bytes = board::kSetBytes;  // four slots
  open_all();
  put_shown("k", body_of(5000, 1));
  const auto lease = take("k");
  // Others take its place, and nobody looks who reads it.
  std::string other;
  for (int i = 0; i < 20 && peer->shows("k"); ++i) {
    other = "other" + std::to_string(i);
    ASSERT_TRUE(put(other, "x"));
  }
  ASSERT_FALSE(peer->shows("k"));
  ASSERT_TRUE(peer->shows(other));
  const auto room = store->take_room(me, {128 * 1024});
  ASSERT_TRUE(room) << describe(room.error());
  const auto done =
      put_in_room(me, room->put_id,
                  {into(*room, 0, other, body_of(300, 8)), into(*room, 320, "k", body_of(300, 9))});
  ASSERT_TRUE(done.size() == 2 && done[0] && done[1]);
  ASSERT_TRUE(store->abort(me, room->put_id));
  EXPECT_EQ(status("held.bytes"), 5000U);
  crash();
  EXPECT_EQ(status("held.bytes"), 5000U);
  fill();
  EXPECT_EQ(peer->read(lease), body_of(5000, 1));
}

// --- pages

TEST_F(BoardStore, APageThatMakesNoSenseHarmsItsOwnerAlone) {
  open_all();
  put_shown("a", body_of(5000, 1));
  put_shown("b", body_of(6000, 2));
  const auto lost = take("b");
  std::mt19937_64 random(1);
  for (auto& word : peer->page().objects)
    if (word != lost.object.object_id) word = random();
  peer->page().gets = random();
  for (auto& word : peer->page().touched) word = random();
  store->tick();
  peer->page().gets = 3;
  store->tick();
  EXPECT_EQ(store->remove("a")->count, 1U);
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("board.pins"), 0U);
  // Short, it names nothing, or half a word.
  for (const off_t length : {off_t{4}, off_t{0}, off_t{1 << 20}}) {
    ASSERT_EQ(::ftruncate(peer->page_file().raw(), length), 0);
    pass_time();
    EXPECT_EQ(status("board.pins"), 0U);
  }
  EXPECT_EQ(store->remove("b")->count, 1U);
  EXPECT_EQ(status("held.bytes"), 0U);
  fill();
  EXPECT_TRUE(put("c", "x"));
}

TEST_F(BoardStore, WhoWasNeverToldWhereAnythingLiesReadsNothing) {
  open_all();
  put_shown("k", body_of(5000, 1));
  const auto stranger = *store->open_holder({});
  auto reader = open_reader(stranger);
  reader.page().objects[0] = peer->find("k")->object.object_id;
  EXPECT_EQ(store->remove("k")->count, 1U);
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("board.pages"), 2U);
  store->close_holder(stranger);
  EXPECT_EQ(status("board.pages"), 1U);
}

TEST_F(BoardStore, WordsCountForAsLongAsSomebodyHasThePage) {
  open_all();
  put_shown("a", body_of(5000, 1));
  put_shown("b", body_of(6000, 2));
  const auto other = *store->open_holder({});
  auto reader = open_reader(other);
  meet(reader, other, "a");
  const auto a = reader.take("a");
  ASSERT_TRUE(a);
  EXPECT_EQ(store->remove("a")->count, 1U);
  EXPECT_EQ(status("leases"), 1U);
  store->close_holder(other);
  EXPECT_EQ(status("leases"), 0U);
  // Its session is over, which it does not know yet.
  const auto b = reader.take("b");
  ASSERT_TRUE(b);
  EXPECT_EQ(store->remove("b")->count, 1U);
  pass_time();
  EXPECT_EQ(status("held.bytes"), 11'000U);
  fill();
  EXPECT_EQ(reader.read(*a), body_of(5000, 1));
  EXPECT_EQ(reader.read(*b), body_of(6000, 2));
  reader.let_go(*a);
  pass_time();
  EXPECT_EQ(status("held.bytes"), 6000U);
  EXPECT_EQ(status("board.pages"), 2U);
  reader.die();
  pass_time();
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("board.pages"), 1U);
}

TEST_F(BoardStore, LeasesByItAreAskedBackAndOverdueAsOthers) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  config.board_bytes = 1 << 20;
  config.revoke_grace_ns = 1000;
  open_all();
  std::vector<std::pair<LeaseId, ObjectId>> asked;
  store->set_listener([&](const Event& event) {
    if (event.kind != EventKind::kRevoked) return;
    EXPECT_EQ(event.holder, me);
    asked.emplace_back(event.lease_id, event.object_id);
  });
  std::vector<BoardReader::Lease> leases;
  for (unsigned i = 0; i < 60; ++i) {
    const std::string key = "k" + std::to_string(i);
    put_shown(key, body_of(65'000, i));
    leases.push_back(take(key));
  }
  EXPECT_EQ(store->reserve(me, request("more", 1'000'000), nullptr).error().code, Errc::kNoSpace);
  const auto wanted = asked;
  ASSERT_FALSE(wanted.empty());
  for (const auto& [lease, object] : wanted) {
    ASSERT_GE(lease, board::kLeases);
    EXPECT_EQ(leases.at(lease - board::kLeases).object.object_id, object);
    store->release(me, lease);  // means nothing
  }
  // Some were not asked about, and are shown still: nobody has looked for their readers.
  std::uint64_t shown = 0;
  for (unsigned i = 0; i < 60; ++i) shown += peer->shows("k" + std::to_string(i)) ? 1U : 0U;
  EXPECT_EQ(status("leases") + shown, 60U);
  EXPECT_GE(status("leases"), wanted.size());
  clock.now_ns += 1001;
  store->tick();
  EXPECT_EQ(status("leases.overdue"), wanted.size());
  EXPECT_EQ(asked.size(), 2 * wanted.size());  // once more
  EXPECT_EQ(store->get(me, "k0").error().code, Errc::kQuota);
  for (unsigned i = 0; i < 60; ++i) EXPECT_EQ(peer->read(leases[i]), body_of(65'000, i)) << i;
  for (const auto& [lease, object] : wanted) peer->let_go(leases.at(lease - board::kLeases));
  const auto reserved = store->reserve(me, request("more", 1'000'000), nullptr);
  EXPECT_TRUE(reserved) << describe(reserved.error());
  EXPECT_EQ(status("leases.overdue"), 0U);
}

// --- the daemon goes

TEST_F(BoardStore, AReaderGoesOnReadingOverRestarts) {
  open_all();
  put_shown("a", body_of(5000, 1));
  put_shown("b", body_of(6000, 2));
  put_shown("c", body_of(7000, 3));
  const auto a = take("a");
  const auto b = take("b");
  EXPECT_EQ(store->remove("b")->count, 1U);
  for (int i = 0; i < 2; ++i) {
    crash();
    EXPECT_FALSE(peer->is_alive());
    EXPECT_EQ(status("held.bytes"), 6000U);
    // Nobody begins to read by what the earlier one has shown.
    EXPECT_TRUE(i > 0 || *store->stat("c"));
    EXPECT_TRUE(peer->shows("c"));
    EXPECT_FALSE(peer->take("c"));
    fill();
    EXPECT_EQ(peer->read(a), body_of(5000, 1));
    EXPECT_EQ(peer->read(b), body_of(6000, 2));
  }
  EXPECT_TRUE(*store->stat("a"));
  EXPECT_EQ(store->remove("a")->count, 1U);
  EXPECT_EQ(status("held.bytes"), 11'000U);
  ASSERT_TRUE(store->shutdown());
  open();
  EXPECT_EQ(status("held.bytes"), 11'000U);
  fill();
  EXPECT_EQ(peer->read(a), body_of(5000, 1));
  peer->let_go(b);
  store->tick();
  EXPECT_EQ(status("held.bytes"), 5000U);
  peer->die();
  pass_time();
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("board.pages"), 0U);
}

TEST_F(BoardStore, WhatADeadReaderNamedIsFreeAfterARestart) {
  open_all();
  put_shown("a", body_of(5000, 1));
  put_shown("b", body_of(6000, 2));
  (void)take("a");
  (void)take("b");
  EXPECT_EQ(store->remove("b")->count, 1U);
  EXPECT_EQ(status("held.bytes"), 6000U);
  peer->die();
  crash();
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("board.pages"), 0U);
  EXPECT_EQ(store->remove("a")->count, 1U);
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(BoardStore, ADaemonThatEndsIsBelievedNoMore) {
  open_all();
  put_shown("a", "x");
  EXPECT_TRUE(peer->is_alive());
  ASSERT_TRUE(store->shutdown());
  EXPECT_FALSE(peer->is_alive());
  EXPECT_FALSE(peer->take("a"));
}

}  // namespace
}  // namespace om::store
