// Room ahead: puts that cost one message, or one for many (protocol.md, ROOM and PUT).
#include <algorithm>
#include <chrono>

#include "client/state.h"

namespace om::client {

namespace {

constexpr std::uint64_t kRoomWanted = std::uint64_t{4} << 20;
// Larger bodies are not worth it: the second message is lost in what they cost anyway.
constexpr std::uint64_t kBodyMax = std::uint64_t{2} << 20;
// A connection that puts a thing or two reserves them one by one, and keeps nothing.
constexpr unsigned kPutsBefore = 4;  // of a connection
constexpr std::chrono::seconds kAskAgain{1};

}  // namespace

Room::~Room() {
  if (left.load(std::memory_order_relaxed) > 0) connection.post(wire::Abort{id});
}

std::optional<Ahead> Connection::take_ahead(std::uint64_t length) {
  if (!room_granted_ || length == 0 || length > kBodyMax) return std::nullopt;
  const std::uint64_t whole = Room::rounded(length);
  const std::lock_guard lock(ahead_mutex_);
  if (puts_ < kPutsBefore) {
    ++puts_;
    return std::nullopt;
  }
  for (bool asked = false;; asked = true) {
    while (!free_ahead_.empty()) {
      Ahead& first = free_ahead_.back();
      if (first.length < whole) {
        free_ahead_.pop_back();
        continue;
      }
      Ahead part{first.room, first.segment, first.offset, length};
      first.offset += whole;
      first.length -= whole;
      if (first.length == 0) free_ahead_.pop_back();
      return part;
    }
    const auto now = std::chrono::steady_clock::now();
    if (asked || now < no_room_until_) return std::nullopt;
    no_room_until_ = now + kAskAgain;  // unless all goes well
    Call<wire::ReserveReply> waiting;
    if (!call(wire::Room{std::max(kRoomWanted, 8 * whole)}, waiting)) return std::nullopt;
    const auto complete = reservation_is_complete(waiting.reply, waiting.segments);
    if (!complete || !*complete) return std::nullopt;
    const auto room = std::make_shared<Room>(*this, waiting.reply.put_id);
    for (const wire::Extent& extent : waiting.reply.extents) room->left += extent.length;
    for (const wire::Extent& extent : waiting.reply.extents) {
      const auto segment = this->segment(extent.segment, true, waiting.segments);
      if (!segment || !check(extent, **segment)) return std::nullopt;
      free_ahead_.push_back({room, *segment, extent.offset, extent.length});
    }
    // What is too small for this body is still good for another one.
    const bool fits = std::any_of(free_ahead_.begin(), free_ahead_.end(),
                                  [&](const Ahead& a) { return a.length >= whole; });
    if (!fits) return std::nullopt;
    no_room_until_ = {};
  }
}

Writer Connection::make_writer(const PutOptions& options, Ahead ahead) {
  auto state = std::make_unique<WriterState>();
  state->connection = shared_from_this();
  state->limit = timeout_;
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
  state->ahead = std::move(ahead);
  return Writer(std::move(state));
}

}  // namespace om::client
