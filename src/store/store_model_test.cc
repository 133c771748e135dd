// Random calls against std::map: what the store answers, or shows on its board, is what the model
// says, or a miss that eviction explains; never other bytes.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <vector>

#include "store/board_testing.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

class StoreModel : public testing::StoreFixture, public ::testing::WithParamInterface<unsigned> {};

TEST_P(StoreModel, NeverAnswersWithOtherBytes) {
  std::mt19937 random(GetParam());
  if (GetParam() % 2 == 0) with_disk(6 << 20);
  config.memory_bytes = 4 << 20;
  config.segment_bytes = 512 * 1024;
  config.board_bytes = 32 * 1024;  // fewer slots than there are keys
  open();
  using testing::BoardReader;
  auto reader = std::make_shared<BoardReader>(*store->open_board(me));
  struct ByBoard {
    std::shared_ptr<BoardReader> reader;  // of this life of the store, or of an earlier one
    BoardReader::Lease lease;
    std::string body;
  };
  std::vector<ByBoard> by_board;
  std::map<std::string, std::string> model;
  std::map<LeaseId, std::pair<Leased, std::string>> leases;
  std::vector<LeaseId> held;  // of what was put where it is used on
  for (unsigned step = 0; step < 250; ++step) {
    const std::string key = "k" + std::to_string(random() % 40);
    const auto what = static_cast<unsigned>(random() % 100);
    if (what < 12) {
      // Some bodies with one message, in a room of their own.
      const auto room = store->take_room(me, {128 * 1024, 0, static_cast<unsigned>(random() % 4)});
      if (!room) {
        ASSERT_TRUE(room.error().code == Errc::kNoSpace || room.error().code == Errc::kBusy)
            << describe(room.error());
        continue;
      }
      std::vector<RoomBody> bodies;
      std::vector<std::string> texts;
      const Extent& place = room->extents.front();
      std::uint64_t at = 0;
      for (unsigned i = 0; i <= random() % 4; ++i) {
        const auto body = body_of(1 + random() % 20000, step + i);
        if (at + body.size() > place.length) break;
        write(room->segments, {{place.segment, place.offset + at, body.size()}}, body);
        bodies.push_back({place.segment, place.offset + at,
                          request("k" + std::to_string(random() % 40), body.size())});
        texts.push_back(body);
        at += (body.size() + 63) / 64 * 64;
        if (i >= room->lent.count) continue;
        bodies.back().object = room->lent.object + i;
        held.push_back(room->lent.lease + i);
      }
      const auto done = put_in_room(me, room->put_id, bodies);
      for (std::size_t i = 0; i < bodies.size(); ++i) {
        ASSERT_TRUE(done[i]) << describe(done[i].error());
        model[bodies[i].put.key] = texts[i];
      }
      if (random() % 8 != 0) (void)store->abort(me, room->put_id);  // else it ends with a crash
    } else if (what < 45) {
      const auto body = body_of(random() % 4 == 0 ? random() % 600000 : random() % 3000, step);
      auto wanted = request(key, body.size());
      wanted.direct = random() % 2 == 0;
      wanted.disk = random() % 3 == 0;
      const auto done = put(wanted, body);
      if (done)
        model[key] = body;
      else
        ASSERT_EQ(done.error().code, Errc::kNoSpace) << describe(done.error());
    } else if (what < 62) {
      if (const auto lease = reader->take(key)) {
        ASSERT_TRUE(model.count(key) != 0) << key << " is shown";
        ASSERT_EQ(reader->read(*lease), model[key]) << key;
        if (by_board.size() < 8 && random() % 2 == 0)
          by_board.push_back({reader, *lease, model[key]});
        else
          reader->let_go(*lease);
      }
    } else if (what < 80) {
      auto leased = store->get(me, key);
      if (!leased) {
        ASSERT_EQ(leased.error().code, Errc::kQuota) << describe(leased.error());
      } else if (*leased) {
        ASSERT_TRUE(model.count(key) != 0) << key << " is back";
        ASSERT_EQ(read(me, **leased), model[key]) << key;
        reader->learn(*store, me, (*leased)->extents);
        if (leases.size() < 5 && random() % 2 == 0)
          leases.emplace((*leased)->lease_id, std::pair(**leased, model[key]));
        else
          store->release(me, (*leased)->lease_id);
      }
    } else if (what < 83) {
      // Still good: the object stays.
      auto mine = store->reserve(me, request(key, 0), nullptr);
      ASSERT_TRUE(mine) << describe(mine.error());
      const auto there = store->stat(key);
      ASSERT_TRUE(there);
      Amendment says;
      says.metadata = std::to_string(step);
      const auto done = refresh(me, std::get<Reserved>(*mine).put_id,
                                *there ? (*there)->object_id : 1, std::move(says));
      ASSERT_EQ(done.has_value(), there->has_value());
      if (done) {
        ASSERT_EQ((*store->stat(key))->metadata, std::to_string(step));
      }
    } else if (what < 88) {
      ASSERT_TRUE(store->remove(key));
      model.erase(key);
    } else if (what < 95) {
      if (!by_board.empty() && random() % 2 == 0) {
        by_board.front().reader->let_go(by_board.front().lease);
        by_board.erase(by_board.begin());
      } else if (!leases.empty()) {
        const auto entry = leases.begin();
        ASSERT_EQ(read(me, entry->second.first), entry->second.second);
        store->release(me, entry->first);
        leases.erase(entry);
      }
      while (held.size() > 3) {
        store->release(me, held.back());
        held.pop_back();
      }
    } else if (what < 98) {
      clock.now_ns += 500'000'000;
      store->tick();
    } else {
      leases.clear();
      held.clear();
      crash();
      ASSERT_FALSE(reader->is_alive());
      ASSERT_FALSE(reader->take(key));
      reader = std::make_shared<BoardReader>(*store->open_board(me));
    }
    ASSERT_LE(status("memory.segment_bytes"), config.memory_bytes);
    // The board says what the catalog says, and who reads by it has what he began to read.
    for (unsigned i = 0; i < 40; ++i) {
      const std::string shown = "k" + std::to_string(i);
      const auto seen = reader->find(shown);
      if (!seen) continue;
      const auto info = store->stat(shown);
      ASSERT_TRUE(info && *info) << shown;
      ASSERT_EQ(seen->object.object_id, (*info)->object_id) << shown;
      ASSERT_EQ(seen->object.revision, (*info)->revision) << shown;
      ASSERT_EQ(seen->text.metadata(), (*info)->metadata) << shown;
      ASSERT_EQ((*info)->tier, Tier::kMemory) << shown;
    }
    for (const ByBoard& one : by_board) ASSERT_EQ(one.reader->read(one.lease), one.body);
  }
  for (const ByBoard& one : by_board) one.reader->let_go(one.lease);
  for (const auto& [id, entry] : leases) store->release(me, id);
  for (const LeaseId lease : held) store->release(me, lease);
  store->close_holder(me);
  until([&] { return store->idle(); });
  EXPECT_EQ(status("held.bytes"), 0U);
  ASSERT_TRUE(store->remove_prefix("k"));
  EXPECT_EQ(status("memory.used_bytes"), 0U);
  EXPECT_EQ(status("puts"), 0U);
}

INSTANTIATE_TEST_SUITE_P(Seeds, StoreModel, ::testing::Range(0U, 6U));

}  // namespace
}  // namespace om::store
