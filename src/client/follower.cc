// om::Follower: reading what somebody else is still writing.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "client/state.h"
#include "posix/file.h"

namespace om {

namespace client {

namespace {

Error given_up() {
  return {Errc::kNotFound, 0, "its writer gave up or died: there is no such object"};
}

// Asks what is new, for at most so long.
Result<void> ask(FollowerState& state, std::chrono::milliseconds wait) {
  wire::Follow request;
  request.lease_id = state.lease_id;
  request.have_bytes = state.available;
  request.have_room = state.room;
  request.have_amended = state.amended;
  request.wait_ms =
      static_cast<std::uint32_t>(std::clamp<std::int64_t>(wait.count(), 0, 3600 * 1000));
  Call<wire::FollowReply> waiting;
  OM_TRY(state.connection->call(request, waiting, deadline_in(wait, state.limit)));
  wire::FollowReply& reply = waiting.reply;
  const auto ended = static_cast<wire::FollowState>(reply.state);
  if (ended == wire::FollowState::kAborted) {
    state.ended = ended;
    return {};
  }
  if (ended == wire::FollowState::kWriting && reply.amended > state.amended) {
    state.amended = reply.amended;
    state.info = to_info(std::move(reply.hit.info));
  }
  // What comes with an end may fail to get here (a descriptor that is asked for once more, and not
  // in time): then it is not the end yet, and the next one to ask is told all of it again.
  if (ended == wire::FollowState::kCommitted && reply.hit.status == 0) {
    state.lease = OM_TRY(state.connection->make_lease(std::move(reply.hit), waiting.segments));
    state.info = state.lease.info();
    state.available = reply.available;
    state.ended = ended;
    return {};
  }
  for (const wire::Extent& extent : reply.extents) {
    SegmentRef segment;
    for (const Place& place : state.places)
      if (place.segment->id == extent.segment) segment = place.segment;
    if (segment == nullptr || extent.offset + extent.length > segment->size())
      segment = OM_TRY(state.connection->segment(extent.segment, false, waiting.segments));
    OM_TRY(Connection::check(extent, *segment));
    state.places.push_back({std::move(segment), extent.offset, extent.length});
    state.room += extent.length;
  }
  if (reply.available > state.room)
    return Error{Errc::kMalformed, 0, "the daemon names bytes that it has not told the place of"};
  state.available = reply.available;
  state.ended = ended;
  return {};
}

Result<void> read_places(const FollowerState& state, std::uint64_t offset,
                         std::span<std::byte> into) {
  std::uint64_t begin = 0;
  for (const Place& place : state.places) {
    const std::uint64_t skip = offset - begin;  // >= 0: earlier places are behind us
    begin += place.length;
    if (skip >= place.length) continue;
    if (into.empty()) break;
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(place.length - skip, into.size()));
    const auto part = into.first(count);
    if (const auto memory = place.segment->map(place.offset + skip, count); !memory.empty())
      std::memcpy(part.data(), memory.data(), count);
    else
      OM_TRY(read_exactly(place.segment->file(), place.offset + skip, part));
    into = into.subspan(count);
    offset += count;
  }
  return {};
}

}  // namespace

Follower Connection::make_follower(wire::GetItem item) {
  auto state = std::make_unique<FollowerState>();
  state->connection = shared_from_this();
  state->limit = timeout_;
  state->lease_id = item.lease_id;
  state->info = to_info(std::move(item.info));
  return Follower(std::move(state));
}

}  // namespace client

Follower::Follower() noexcept = default;
Follower::Follower(std::unique_ptr<client::FollowerState> state) noexcept
    : state_(std::move(state)) {}
Follower::Follower(Follower&& other) noexcept = default;
Follower& Follower::operator=(Follower&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}
Follower::~Follower() {
  if (state_ != nullptr) state_->connection->release_one(state_->lease_id);
}

Follower::operator bool() const noexcept { return state_ != nullptr; }
const ObjectInfo& Follower::info() const { return state_->info; }
void Follower::limit(std::chrono::milliseconds limit) {
  state_->limit = std::min(limit, client::kWaitMax);
}
std::uint64_t Follower::available() const { return state_->available; }
bool Follower::committed() const { return state_->ended == wire::FollowState::kCommitted; }

Result<bool> Follower::amended(std::chrono::milliseconds wait) {
  client::FollowerState& s = *state_;
  const auto deadline = client::deadline_in(wait);
  for (bool asked = false;; asked = true) {
    if (s.ended == wire::FollowState::kAborted) return client::given_up();
    if (s.amended > 0 || s.lease) return true;
    if (s.ended == wire::FollowState::kCommitted)
      return Error{Errc::kNotFound, 0, "it was published, and is gone already"};
    const auto left = client::left_until(deadline);
    if (asked && left.count() == 0) return false;
    OM_TRY(client::ask(s, left));
  }
}

Result<std::size_t> Follower::read(std::uint64_t offset, std::span<std::byte> into,
                                   std::chrono::milliseconds wait) {
  client::FollowerState& s = *state_;
  const auto deadline = client::deadline_in(wait);
  if (into.empty()) return std::size_t{0};
  for (bool asked = false;; asked = true) {
    if (s.lease) return s.lease.read(std::min(offset, s.lease.size()), into);
    if (s.ended == wire::FollowState::kAborted) return client::given_up();
    if (offset < s.available) {
      const auto part = into.first(
          static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), s.available - offset)));
      OM_TRY(client::read_places(s, offset, part));
      return part.size();
    }
    if (s.ended == wire::FollowState::kCommitted) return std::size_t{0};
    const auto left = client::left_until(deadline);
    if (asked && left.count() == 0)
      return Error{Errc::kTimeout, 0, "nothing more was written within the time"};
    OM_TRY(client::ask(s, left));
  }
}

Result<Lease> Follower::lease(std::chrono::milliseconds wait) && {
  const Follower self(std::move(*this));  // lets go at the end
  client::FollowerState& s = *self.state_;
  const auto deadline = client::deadline_in(wait);
  while (s.ended == wire::FollowState::kWriting) {
    const auto left = client::left_until(deadline);
    OM_TRY(client::ask(s, left));
    if (s.ended == wire::FollowState::kWriting && left.count() == 0)
      return Error{Errc::kTimeout, 0, "it is still being written"};
  }
  if (s.ended == wire::FollowState::kAborted) return client::given_up();
  if (!s.lease) return Error{Errc::kNotFound, 0, "it was published, and is gone already"};
  return std::move(s.lease);
}

}  // namespace om
