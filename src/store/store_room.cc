// Room ahead: memory that a trusted peer fills with body after body, so that puts are one message
// instead of two, and many of them one message together.
//
// A room is a direct put that is never committed: pinned and in the held log as a whole, so that a
// writer that is cut off may go on writing. Each body that is put is cut out of it; its bytes
// belong to an object from then on, which may go and make place for another while the room is
// there: after a crash, what of a room is no object's by then is held (store_open.cc).
#include <algorithm>
#include <unordered_set>

#include "base/assert.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

constexpr std::uint64_t kRoomMin = std::uint64_t{128} << 10;  // less saves nothing
constexpr std::uint64_t kRoomMax = std::uint64_t{16} << 20;
// Of the tier: one room, and all together, since a peer that falls idle keeps its own.
constexpr std::uint64_t kRoomShare = 32;
constexpr std::uint64_t kRoomsShare = 8;

}  // namespace

StoreImpl::Put* StoreImpl::find_room(HolderId holder, PutId id) {
  const auto found = puts_.find(id);
  return found == puts_.end() || found->second->holder != holder || !found->second->is_room
             ? nullptr
             : found->second.get();
}

Result<Reserved> StoreImpl::take_room(HolderId holder, std::uint64_t bytes) {
  if (!leases_->live(holder)) return Error{Errc::kNotFound, 0, "no such holder"};
  if (holder_puts_[holder].size() >= config_.holder.puts)
    return Error{Errc::kQuota, 0,
                 "this peer has " + std::to_string(config_.holder.puts) + " puts under way"};
  bytes = std::min({bytes, kRoomMax, config_.memory_bytes / kRoomShare}) / Slots::kGranule *
          Slots::kGranule;
  if (bytes < kRoomMin || room_bytes_ + bytes > config_.memory_bytes / kRoomsShare)
    return Error{Errc::kNoSpace, 0, "there is no room to spare: reserve"};
  auto owned = std::make_unique<Put>();
  Put& room = *owned;
  room.id = next_put_++;
  room.holder = holder;
  room.object_id = next_object_++;
  room.request.length = bytes;
  room.direct = true;
  room.is_room = true;
  OM_TRY(charge(room, bytes));
  room_bytes_ += bytes;
  ++rooms_;
  holder_puts_[holder].insert(room.id);
  puts_.emplace(room.id, std::move(owned));
  Extension given;
  if (auto placed = give_memory(room, bytes, given); !placed) {
    drop_room(room, false);
    OM_ASSERT(advance(room, PutEvent::kFailed));
    end_put(room, false);
    return std::move(placed).error();
  }
  OM_ASSERT(advance(room, PutEvent::kHandedOut));
  return Reserved{room.id, std::move(given.segments), std::move(given.extents)};
}

void StoreImpl::end_room(Put& room) {
  OM_ASSERT(advance(room, PutEvent::kAbort));
  if (room.memory.empty()) leases_->unpin_put(room.holder, room.object_id);
  drop_room(room, false);
  end_put(room, false);
}

Result<Extent> StoreImpl::cut_from_room(Put& room, const RoomBody& body) {
  OM_TRY(check(body.put));
  const std::uint64_t length = body.put.length.value_or(0);
  const std::uint64_t whole = Slots::rounded(length);
  const auto extent = std::find_if(room.memory.begin(), room.memory.end(), [&](const Extent& e) {
    return e.segment == body.segment && body.offset >= e.offset &&
           body.offset - e.offset < e.length && whole <= e.length - (body.offset - e.offset);
  });
  if (length == 0 || body.offset % Slots::kGranule != 0 || extent == room.memory.end())
    return Error{Errc::kMalformed, 0, "these bytes are not in that room"};
  const std::uint64_t before = body.offset - extent->offset;
  const Extent after{body.segment, body.offset + whole, extent->length - before - whole};
  extent->length = before;
  if (before == 0 && after.length > 0)
    *extent = after;
  else if (before == 0)
    room.memory.erase(extent);
  else if (after.length > 0)
    room.memory.push_back(after);
  return Extent{body.segment, body.offset, length};
}

catalog::Record StoreImpl::record_of(ObjectId object, const RoomBody& body, const Extent& place,
                                     std::uint64_t created_ns) {
  catalog::Record record;
  record.object_id = object;
  record.key = body.put.key;
  record.length = record.total_bytes = place.length;
  record.created_ns = created_ns;
  record.expires_ns = body.put.expires_ns;
  record.ephemeral = body.put.ephemeral;
  record.metadata = body.put.metadata;
  record.tags = body.put.tags;
  record.place.tier = catalog::kTierMemory;
  record.place.segment_kind = static_cast<std::uint8_t>(SegmentKind::kMemory);
  record.place.extents.push_back({place.segment, place.offset, place.length});
  return record;
}

// Nobody knew of these puts before, so nothing that was removed since they began can be among them.
void StoreImpl::put_in_room(HolderId holder, PutId room_id, std::vector<RoomBody> bodies,
                            PutDone done) {
  std::vector<Result<Committed>> answers(bodies.size(), Error{Errc::kNotFound, 0, "no such room"});
  Put* const room = find_room(holder, room_id);
  if (room == nullptr) return done(std::move(answers));
  // Those that are well; a key that comes twice waits for its own turn.
  std::vector<std::size_t> which;
  std::vector<catalog::Record> records;
  const std::uint64_t now = birth_time();
  bool durable_gone = false;
  const auto publish_these = [&] {
    if (records.empty()) return;
    auto replaced = catalog_->publish_all(records);
    count_.published += replaced ? records.size() : 0;
    for (std::size_t i = 0; i < records.size(); ++i) {
      const catalog::Record& record = records[i];
      Result<Committed>& answer = answers[which[i]];
      if (!replaced) {
        memory_->give_back({{record.place.extents.front().segment,
                             record.place.extents.front().offset, record.length}});
        answer = replaced.error();
        continue;
      }
      memory_policy_->insert(record.object_id, record.length, hash_key(record.key).low);
      note_expiry(record);
      show(record);
      if (const auto& old = (*replaced)[i]) {
        durable_gone = durable_gone || old->durable;
        retire(*old);
      }
      emit(EventKind::kPublished, record.key, record.object_id);
      wake_waiters(record.key);
      answer = Committed{record.object_id, record.created_ns};
    }
    which.clear();
    records.clear();
  };
  std::unordered_set<std::string_view> keys;
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    if (bodies.size() > 1 && !keys.insert(bodies[i].put.key).second) {
      publish_these();
      keys.clear();
      keys.insert(bodies[i].put.key);
    }
    auto place = cut_from_room(*room, bodies[i]);
    if (!place) {
      answers[i] = std::move(place).error();
      continue;
    }
    // Rooms pin, but nothing that is published.
    if (leases_->pinned_count() > rooms_) {
      const auto old = catalog_->look(bodies[i].put.key);
      Result<void> written = old ? Result<void>() : Result<void>(old.error());
      if (old && *old != nullptr) written = write_down(**old);
      if (!written) {
        memory_->give_back({*place});
        answers[i] = std::move(written).error();
        continue;
      }
    }
    which.push_back(i);
    records.push_back(record_of(next_object_++, bodies[i], *place, now));
  }
  publish_these();
  if (room->memory.empty()) end_room(*room);
  if (!durable_gone) return done(std::move(answers));
  // A replacement is a removal too: after power loss the old object must not be back.
  sync_removals(
      [answers = std::move(answers), done = std::move(done)](const Result<void>& result) mutable {
        if (!result)
          for (auto& answer : answers)
            if (answer) answer = result.error();
        done(std::move(answers));
      });
}

}  // namespace om::store
