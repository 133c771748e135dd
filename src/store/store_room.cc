// Room ahead: memory that a trusted peer fills with body after body, so that puts are one message
// instead of two, and many of them one message together.
//
// A room is a direct put that is never committed: pinned and in the held log as a whole, so that a
// writer that is cut off may go on writing. Each body that is put is cut out of it; its bytes
// belong to an object from then on, which may go and make place for another while the room is
// there: after a crash, what of a room is no object's by then is held (store_open.cc).
//
// A writer that goes on using its bodies where they lie has leases lent with the room, on objects
// to come. A body that is put under the number of one stays where it is until that lease ends,
// published or not; before that, the room as a whole keeps it.
#include <algorithm>

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

Result<Reserved> StoreImpl::take_room(HolderId holder, const RoomWish& wish) {
  if (!leases_->live(holder)) return Error{Errc::kNotFound, 0, "no such holder"};
  if (holder_puts_[holder].size() >= config_.holder.puts)
    return Error{Errc::kQuota, 0,
                 "this peer has " + std::to_string(config_.holder.puts) + " puts under way"};
  const Error none{Errc::kUnsupported, 0, "there are no such rooms: reserve"};
  if (wish.at_least > kRoomMax) return none;
  // In whole bodies: what of a hole is too small for one is left to others.
  const std::uint64_t piece = Slots::rounded(wish.at_least);
  const std::uint64_t least = std::max(kRoomMin / piece, std::uint64_t{1}) * piece;
  std::uint64_t bytes =
      std::min({wish.bytes, kRoomMax, config_.memory_bytes / kRoomShare}) / piece * piece;
  if (bytes < least) return none;
  Error why{Errc::kBusy, 0, "rooms take all that they may have: reserve"};
  // A smaller one is better than none.
  for (;; bytes = std::max(bytes / 2 / piece * piece, least)) {
    if (room_bytes_ + bytes <= config_.memory_bytes / kRoomsShare) {
      auto room = begin_room(holder, bytes, piece, wish.leases);
      if (room || (room.error().code != Errc::kNoSpace && room.error().code != Errc::kBusy))
        return room;
      why = std::move(room).error();
    }
    if (bytes == least) return why;
  }
}

Result<Reserved> StoreImpl::begin_room(HolderId holder, std::uint64_t bytes, std::uint64_t piece,
                                       std::uint32_t leases) {
  auto owned = std::make_unique<Put>();
  Put& room = *owned;
  room.id = next_put_++;
  room.holder = holder;
  room.object_id = next_object_++;
  room.request.length = bytes;
  room.direct = true;
  room.is_room = true;
  room.piece = piece;
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
  room.lent = leases_->lend(holder, next_object_, std::min(leases, kLentMax), bytes);
  next_object_ += room.lent.count;
  return Reserved{room.id, std::move(given.segments), std::move(given.extents), room.lent};
}

void StoreImpl::end_room(Put& room) {
  OM_ASSERT(advance(room, PutEvent::kAbort));
  // Nothing was put under these numbers.
  for (std::uint32_t i = 0; i < room.lent.count; ++i)
    if ((room.lent_used >> i & 1U) == 0) leases_->release(room.holder, room.lent.lease + i);
  if (room.memory.empty()) leases_->unpin_put(room.holder, room.object_id);
  drop_room(room, false);
  end_put(room, false);
}

std::optional<ObjectId> StoreImpl::object_for(const Put& room, const RoomBody& body) {
  if (body.object == 0) return body.held_only ? std::nullopt : std::optional(next_object_++);
  const std::uint64_t i = body.object - room.lent.object;
  if (body.object < room.lent.object || i >= room.lent.count || (room.lent_used >> i & 1U) != 0)
    return std::nullopt;
  return body.object;
}

Result<void> StoreImpl::leave_body(Put& room, ObjectId object, const Extent& place) {
  if (!leases_->pinned(object)) {
    memory_->give_back({place});
    return {};
  }
  auto written = write_held(object, {place});
  if (written) {
    keep(object, {place});
    return {};
  }
  const std::uint64_t whole = Slots::rounded(place.length);
  room.memory.push_back({place.segment, place.offset, whole});
  room.charged += whole;
  room_bytes_ += whole;
  holder_put_bytes_[room.holder] += whole;
  return written;
}

Result<Extent> StoreImpl::cut_from_room(Put& room, const RoomBody& body) {
  if (!body.held_only) OM_TRY(check(body.put));
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
  // What is left of it is all that counts as room: the last body of one may be long in coming.
  uncharge(room, whole);
  room_bytes_ -= whole;
  return Extent{body.segment, body.offset, length};
}

std::shared_ptr<catalog::Record> StoreImpl::record_of(ObjectId object, RoomBody& body,
                                                      const Extent& place,
                                                      std::uint64_t created_ns) {
  auto made = std::make_shared<catalog::Record>();
  catalog::Record& record = *made;
  record.object_id = object;
  // Of a claim the key is needed once more (end_claims).
  record.key = body.claimed ? body.put.key : std::move(body.put.key);
  record.length = record.total_bytes = place.length;
  record.created_ns = created_ns;
  record.expires_ns = body.put.expires_ns;
  record.ephemeral = body.put.ephemeral;
  record.metadata = std::move(body.put.metadata);
  record.tags = std::move(body.put.tags);
  record.place.tier = catalog::kTierMemory;
  record.place.segment_kind = static_cast<std::uint8_t>(SegmentKind::kMemory);
  record.place.extents.push_back({place.segment, place.offset, place.length});
  return made;
}

// Nobody knew of these puts before, so nothing that was removed since they began can be among them,
// unless their writer says how far it has looked itself.
void StoreImpl::put_in_room(HolderId holder, PutId room_id, std::vector<RoomBody> bodies,
                            PutDone done) {
  std::vector<Result<Committed>> answers(bodies.size(), Error{Errc::kNotFound, 0, "no such room"});
  Put* const room = find_room(holder, room_id);
  if (room == nullptr) {
    end_claims(holder, bodies, answers);
    return done(std::move(answers));
  }
  // Those that are well; a key that comes twice waits for its own turn, and so does one of the same
  // hash.
  std::vector<std::size_t> which;
  std::vector<std::uint64_t> hashes;
  std::vector<catalog::Publication> publications;
  which.reserve(bodies.size());
  hashes.reserve(bodies.size());
  publications.reserve(bodies.size());
  const std::uint64_t now = birth_time();
  bool durable_gone = false;
  const auto refuse = [&](std::size_t i, ObjectId object, const Extent& place, const Error& why) {
    const auto left = leave_body(*room, object, place);
    answers[i] = left ? why : left.error();
  };
  const auto publish_these = [&] {
    if (publications.empty()) return;
    const auto published = catalog_->publish_all(publications);
    count_.published += published ? publications.size() : 0;
    for (std::size_t i = 0; i < publications.size(); ++i) {
      const auto& [said, replaced, replaced_durable] = publications[i];
      const catalog::Record& record = *said;
      if (!published) {
        const auto& place = record.place.extents.front();
        refuse(which[i], record.object_id, {place.segment, place.offset, record.length},
               published.error());
        continue;
      }
      memory_policy_->insert(record.object_id, record.length, hashes[i]);
      note_expiry(record);
      show(record);
      durable_gone = durable_gone || replaced_durable;
      if (replaced != nullptr) retire(*replaced);
      emit(EventKind::kPublished, record.key, record.object_id);
      wake_waiters(record.key);
      answers[which[i]] = Committed{record.object_id, record.created_ns};
    }
    which.clear();
    hashes.clear();
    publications.clear();
  };
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    RoomBody& body = bodies[i];
    const std::uint64_t hash = hash_key(body.put.key).low;
    if (std::find(hashes.begin(), hashes.end(), hash) != hashes.end()) publish_these();
    const auto object = object_for(*room, body);
    if (!object) {
      answers[i] = Error{Errc::kMalformed, 0, "no such object was lent with that room"};
      continue;
    }
    auto place = cut_from_room(*room, body);
    if (!place) {
      answers[i] = std::move(place).error();
      continue;
    }
    if (body.object != 0) {
      const std::uint64_t lent = body.object - room->lent.object;
      room->lent_used |= std::uint64_t{1} << lent;
      leases_->use(holder, room->lent.lease + lent, place->length);
    }
    if (body.held_only) {
      const auto left = leave_body(*room, *object, *place);
      answers[i] = left ? Result<Committed>(Committed{*object, 0}) : left.error();
      continue;
    }
    if (removal_log_->removed_since(body.removals_seen, body.put.key, body.put.tags)) {
      refuse(i, *object, *place,
             {Errc::kNotFound, 0, "it was removed for every cache since its writer looked"});
      continue;
    }
    // Rooms pin, but nothing that is published.
    if (leases_->pinned_count() > rooms_) {
      const auto old = catalog_->look(body.put.key);
      Result<void> written = old ? Result<void>() : Result<void>(old.error());
      if (old && *old != nullptr) written = write_down(**old);
      if (!written) {
        refuse(i, *object, *place, written.error());
        continue;
      }
    }
    which.push_back(i);
    hashes.push_back(hash);
    publications.push_back({record_of(*object, body, *place, now), nullptr, false});
  }
  publish_these();
  end_claims(holder, bodies, answers);
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
