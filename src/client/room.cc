// Room ahead: puts that cost one message, or one for many (protocol.md, ROOM and PUT).
//
// The pieces of rooms that nobody writes in are free_ahead_, the oldest first. When they are nearly
// used up by those who put at a rate, the next room is asked for, and its answer is read when it is
// needed: by one thread, and whoever else needs some of it waits as well. While one waits for a
// room that was not asked for before, others do without: they reserve.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <exception>
#include <utility>

#include "client/state.h"

namespace om::client {

namespace {

constexpr std::uint64_t kRoomMin = std::uint64_t{4} << 20;
constexpr std::uint64_t kRoomMax = std::uint64_t{16} << 20;
constexpr std::uint64_t kBodiesOfARoom = 16;
// Larger bodies are not worth it: further messages are lost in what they cost anyway. One that is
// held saves two of them.
constexpr std::uint64_t kBodyMax = std::uint64_t{2} << 20;
constexpr std::uint64_t kHeldBodyMax = std::uint64_t{4} << 20;
// More than bodies of one size need, for there are smaller ones.
constexpr std::uint32_t kLeasesWanted = 2 * kBodiesOfARoom;
// A connection that puts a thing or two reserves them one by one, and keeps nothing.
constexpr unsigned kPutsBefore = 4;  // of a connection
// So much is left of the last room, by division, when the next one is asked for.
constexpr std::uint64_t kNearlyUsedUp = 4;
// What is left of earlier rooms is good for smaller bodies. More pieces than that go back.
constexpr std::size_t kPiecesKept = 4;
constexpr std::chrono::milliseconds kAskAgain{1000};
constexpr std::chrono::milliseconds kAskAgainSoon{100};  // for those who can make room
// Whoever has used up a room by then gets twice as much the next time: to ask costs two wake-ups.
constexpr std::chrono::milliseconds kUsedUpSoon{100};

}  // namespace

Room::~Room() {
  if (left.load(std::memory_order_relaxed) == 0) return;
  try {
    connection.post(wire::Abort{id});
  } catch (const std::exception&) {
    connection.end_for_lack_of_memory();
  }
}

wire::Room Connection::room_wish(std::uint64_t whole) const {
  std::uint64_t bytes = std::clamp(kBodiesOfARoom * whole, kRoomMin, kRoomMax);
  // Of those who hold it is the leases that are used up.
  if (!holds_ && uses_up_soon(std::chrono::steady_clock::now()))
    bytes = std::clamp(2 * last_room_, bytes, kRoomMax);
  return {bytes, whole, holds_ ? kLeasesWanted : 0};
}

bool Connection::uses_up_soon(Deadline now) const { return now < room_came_at_ + kUsedUpSoon; }

bool Connection::is_good_for(const Ahead& piece, const AheadWish& wish) {
  return piece.length >= Room::rounded(wish.length) &&
         (!wish.held || piece.room->lent < piece.room->leases);
}

std::optional<Ahead> Connection::cut_ahead(const AheadWish& wish) {
  const std::uint64_t whole = Room::rounded(wish.length);
  const auto piece = std::find_if(free_ahead_.begin(), free_ahead_.end(),
                                  [&](const Ahead& one) { return is_good_for(one, wish); });
  if (piece == free_ahead_.end()) return std::nullopt;
  Ahead part{piece->room, piece->segment, piece->offset, wish.length};
  if (wish.held) {
    const std::uint32_t number = part.room->lent++;
    part.object_id = part.room->first_object + number;
    part.lease_id = part.room->first_lease + number;
  }
  piece->offset += whole;
  piece->length -= whole;
  if (piece->length == 0) free_ahead_.erase(piece);
  return part;
}

// Sent, and not waited for. Where it cannot be sent at once, whoever needs it asks.
void Connection::ask_for_next(const AheadWish& wish) {
  if (next_room_ != nullptr || asking_ || last_room_ == 0) return;
  std::uint64_t left = 0;
  for (const Ahead& one : free_ahead_)
    if (is_good_for(one, wish)) left += one.length;
  if (left >= last_room_ / kNearlyUsedUp) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < refused_at_ + kAskAgainSoon) return;
  if (!wish.at_once && !uses_up_soon(now)) return;
  auto asked = std::make_unique<Call<wire::RoomReply>>();
  const std::string packet = wire::encode_request(next_id(), room_wish(Room::rounded(wish.length)));
  // What is kept need not go before it, unless it is much of the room that one has.
  const auto submitted = keeps_more_than(last_room_ / 2)
                             ? submit(*asked, wire::Room::kType, packet, now)
                             : submit_now(*asked, wire::Room::kType, packet, now);
  if (!submitted) return;
  next_room_ = std::move(asked);
  next_lends_ = holds_;
}

Result<std::vector<Ahead>> Connection::pieces_of(const Call<wire::RoomReply>& came) {
  const wire::RoomReply& reply = came.reply;
  if (!OM_TRY(reservation_is_complete(reply.room_id, reply.extents, came.segments)))
    return Error{Errc::kSystem, EMFILE, "no room for the descriptors of a room"};
  const auto room = std::make_shared<Room>(*this, reply);
  for (const wire::Extent& extent : reply.extents) room->left += extent.length;
  std::vector<Ahead> pieces;
  for (const wire::Extent& extent : reply.extents) {
    SegmentRef segment = OM_TRY(this->segment(extent.segment, true, came.segments));
    OM_TRY(check(extent, *segment));
    pieces.push_back({room, std::move(segment), extent.offset, extent.length});
  }
  return pieces;
}

Result<std::vector<Ahead>> Connection::obtain_room(std::unique_lock<std::mutex>& lock,
                                                   std::unique_ptr<Call<wire::RoomReply>> asked,
                                                   std::uint64_t whole, Deadline deadline) {
  const wire::Room wish = room_wish(whole);
  const auto obtain = [&]() -> Result<std::vector<Ahead>> {
    if (asked == nullptr) {
      asked = std::make_unique<Call<wire::RoomReply>>();
      OM_TRY(call(wish, *asked, deadline));
    } else {
      OM_TRY(await(*asked, deadline));
    }
    return pieces_of(*asked);
  };
  asking_ = true;
  reading_next_ = asked != nullptr;
  lock.unlock();
  const auto asked_for = [&] {
    lock.lock();
    asking_ = false;
    room_came_.notify_all();
  };
  try {
    auto pieces = obtain();
    asked_for();
    return pieces;
  } catch (...) {
    if (!lock.owns_lock()) asked_for();
    throw;
  }
}

Result<std::optional<Ahead>> Connection::take_ahead(const AheadWish& wish) {
  if (!room_granted_ || wish.length == 0 || wish.length > (wish.held ? kHeldBodyMax : kBodyMax))
    return std::optional<Ahead>();
  const std::uint64_t whole = Room::rounded(wish.length);
  std::vector<Ahead> gone;  // without the lock: rooms may end with them
  std::unique_lock lock(ahead_mutex_);
  if (!wish.at_once && puts_ < kPutsBefore) {
    ++puts_;
    return std::optional<Ahead>();
  }
  holds_ = holds_ || wish.held;
  for (bool asked = false;;) {
    if (auto part = cut_ahead(wish)) {
      ask_for_next(wish);
      return part;
    }
    if (asking_) {
      const auto came = [this] { return !asking_ || !reading_next_; };
      if (!reading_next_ || !room_came_.wait_until(lock, wish.deadline, came))
        return std::optional<Ahead>();
      if (auto part = cut_ahead(wish)) {
        ask_for_next(wish);
        return part;
      }
      if (asking_ || next_room_ == nullptr) return std::optional<Ahead>();
    }
    auto next = std::move(next_room_);
    const bool lends = next == nullptr || next_lends_;
    const bool was_asked_for = next != nullptr;
    if (next == nullptr) {
      const auto pause = wish.at_once ? kAskAgainSoon : kAskAgain;
      if (asked) break;
      if (!wish.again && std::chrono::steady_clock::now() < refused_at_ + pause)
        return std::optional<Ahead>();
      asked = true;
    }
    auto pieces = obtain_room(lock, std::move(next), whole, wish.deadline);
    if (pieces && wish.held && lends && (pieces->empty() || pieces->front().room->leases == 0)) {
      gone = *std::move(pieces);
      pieces = Error{Errc::kQuota, 0, "the daemon lends no more leases"};
    }
    if (!pieces) {
      // Others may have more time for it.
      if (!was_asked_for || pieces.error().code != Errc::kTimeout)
        refused_at_ = std::chrono::steady_clock::now();
      return std::move(pieces).error();
    }
    while (free_ahead_.size() > kPiecesKept) {
      gone.push_back(std::move(free_ahead_.front()));
      free_ahead_.erase(free_ahead_.begin());
    }
    refused_at_ = {};
    room_came_at_ = std::chrono::steady_clock::now();
    last_room_ = 0;
    for (Ahead& piece : *pieces) {
      last_room_ += piece.length;
      free_ahead_.push_back(std::move(piece));
    }
  }
  refused_at_ = std::chrono::steady_clock::now();
  return std::optional<Ahead>();
}

void Connection::leave(const Ahead& ahead) {
  wire::PutBody body;
  body.segment = ahead.segment->id;
  body.offset = ahead.offset;
  body.length = ahead.length;
  body.flags = wire::kPutHeldOnly;
  body.object_id = ahead.object_id;
  wire::Put put;
  put.room_id = ahead.room->id;
  put.bodies.push_back(std::move(body));
  // The room's own end is posted as well, and so comes later.
  post(put);
  ahead.room->left -= Room::rounded(ahead.length);
}

Writer Connection::make_writer(const PutOptions& options, Ahead ahead) {
  auto state = std::make_unique<WriterState>();
  state->connection = shared_from_this();
  state->limit = timeout_;
  state->key_hash = hash_of(options.key);
  state->declared = options.length;
  state->places.push_back({ahead.segment, ahead.offset, ahead.length});
  state->room = ahead.length;
  wire::PutBody& body = state->put;
  body.segment = ahead.segment->id;
  body.offset = ahead.offset;
  body.length = ahead.length;
  body.key = options.key;
  body.flags = options.ephemeral ? wire::kReserveEphemeral : 0;
  body.expires_ns = options.expires_ns;
  body.metadata = options.metadata;
  body.tags = options.tags;
  body.removals_seen = options.removals_seen.value_or(wire::kAllRemovalsSeen);
  state->ahead = std::move(ahead);
  return Writer(std::move(state));
}

}  // namespace om::client
