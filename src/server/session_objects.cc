// A session's requests for the bytes of objects: GET and RELEASE, RESERVE to COMMIT, STAT,
// DESCRIBE.
#include <algorithm>
#include <type_traits>

#include "base/limits.h"
#include "posix/file.h"
#include "server/session.h"

namespace om::server {

namespace {

// What a peer may have met before we forget about it; then a descriptor travels once more, which is
// never wrong. A file of its own for each large object would make this grow without end.
constexpr std::size_t kSegmentsRemembered = 4096;
constexpr std::size_t kWaitsMax = kRepliesQueuedMax;
constexpr std::uint32_t kWaitMsMax = 3600 * 1000;

std::optional<Error> key_error(const std::string& key) {
  if (key.empty()) return Error{Errc::kMalformed, 0, "a key has at least one byte"};
  if (key.find('\0') != std::string::npos)
    return Error{Errc::kMalformed, 0, "a key has no NUL byte"};
  return std::nullopt;
}

wire::ObjectInfo to_wire(store::ObjectInfo info) {
  return {info.object_id,
          info.length,
          info.total_bytes,
          info.offset,
          info.created_ns,
          info.expires_ns,
          static_cast<std::uint8_t>(info.ephemeral ? 1 : 0),
          static_cast<std::uint8_t>(info.tier),
          info.revision,
          std::move(info.metadata),
          std::move(info.tags)};
}

// Neighbours become one: the peer's list is as short as it can be.
std::vector<wire::Extent> to_wire(const std::vector<store::Extent>& extents) {
  std::vector<wire::Extent> merged;
  merged.reserve(extents.size());
  for (const store::Extent& extent : extents) {
    if (!merged.empty() && merged.back().segment == extent.segment &&
        merged.back().offset + merged.back().length == extent.offset)
      merged.back().length += extent.length;
    else
      merged.push_back({extent.segment, extent.offset, extent.length});
  }
  return merged;
}

constexpr std::size_t kSegmentBytes = 8 + 8 + 3;
constexpr std::size_t kExtentBytes = 3 * 8;
constexpr std::size_t kItemBytes = 4 + 8 + 6 * 8 + 2 + 4 + 4 + 4 + 4;  // with nothing in its lists
// For the items of a reply: what a full set of segments and the fields around them leave.
constexpr std::size_t kReplyRoom =
    kPacketBytesMax - wire::Header::kBytes - 64 - kFdsPerMessageMax * kSegmentBytes;

std::size_t encoded_bytes(const wire::GetItem& item) {
  std::size_t bytes = kItemBytes + item.info.metadata.size() + item.extents.size() * kExtentBytes;
  for (const std::string& tag : item.info.tags) bytes += 4 + tag.size();
  return bytes;
}

wire::GetItem item_with(Errc status) {
  wire::GetItem item;
  item.status = static_cast<std::uint32_t>(status);
  return item;
}

}  // namespace

std::size_t Session::descriptor_budget() {
  const std::size_t mine = outbox_.descriptors() + descriptors_expected_;
  const std::size_t own = mine >= kFdsInFlightMax ? 0 : kFdsInFlightMax - mine;
  const std::size_t all = shared_.totals.descriptors.value();
  const std::size_t others =
      all >= shared_.limits.descriptors_max ? 0 : shared_.limits.descriptors_max - all;
  return std::min({own, others, kFdsPerMessageMax});
}

std::optional<Error> Session::add_segment(store::SegmentId id, SegmentsOut& out) {
  if (known_.contains(id)) return std::nullopt;
  if (out.descriptors.size() >= descriptor_budget())
    return Error{Errc::kBusy, 0, "too many descriptors for one packet: ask again"};
  auto view = shared_.store.segment(*holder_, id);
  if (!view) return view.error();
  auto descriptor = duplicate(view->descriptor);
  if (!descriptor) return Error{Errc::kBusy, descriptor.error().sys_errno, "no descriptor left"};
  if (known_.size() >= kSegmentsRemembered) known_.clear();
  known_.insert(id);
  out.segments.push_back({id, view->size_bytes, static_cast<std::uint8_t>(view->kind), 0, 1});
  out.descriptors.push_back(*std::move(descriptor));
  return std::nullopt;
}

void Session::forget(const SegmentsOut& out) {
  for (const wire::Segment& segment : out.segments)
    if (segment.with_descriptor != 0) known_.erase(segment.id);
}

wire::GetItem Session::take(store::Leased leased, SegmentsOut& out, std::size_t& bytes_left) {
  wire::GetItem item;
  item.lease_id = leased.lease_id;
  item.extents = to_wire(leased.extents);
  item.info = to_wire(std::move(leased.info));
  std::vector<store::SegmentId> fresh;
  for (const wire::Extent& extent : item.extents)
    if (!known_.contains(extent.segment) &&
        std::find(fresh.begin(), fresh.end(), extent.segment) == fresh.end())
      fresh.push_back(extent.segment);
  const std::size_t bytes = encoded_bytes(item);
  std::optional<Errc> refused;
  if (bytes > bytes_left) refused = Errc::kBusy;
  // One packet never has room for it, not even alone.
  if (bytes > kReplyRoom - kItemBytes || fresh.size() > kFdsPerMessageMax ||
      item.extents.size() > 4096)
    refused = Errc::kUnsupported;
  for (const store::SegmentId id : fresh) {
    if (refused) break;
    if (const auto error = add_segment(id, out)) refused = error->code;
  }
  if (refused) {
    shared_.store.release(*holder_, leased.lease_id);
    return item_with(*refused);
  }
  bytes_left -= bytes;
  shared_.statistics.get_bytes += item.info.length;
  return item;
}

void Session::get(std::uint64_t id, const wire::Get& request) {
  constexpr auto kType = wire::Type::kGet;
  if (request.keys.empty()) return refuse(kType, id, {Errc::kMalformed, 0, "GET names no key"});
  for (const std::string& key : request.keys)
    if (const auto error = key_error(key)) return refuse(kType, id, *error);
  wire::GetReply message;
  SegmentsOut out;
  message.items.reserve(request.keys.size());
  std::size_t left = kReplyRoom - request.keys.size() * kItemBytes;
  for (const std::string& key : request.keys) {
    auto leased = shared_.store.get(*holder_, key);
    if (!leased) {
      message.items.push_back(item_with(leased.error().code));
    } else if (!*leased) {
      ++shared_.statistics.get_misses;
      message.items.push_back(item_with(Errc::kNotFound));
    } else {
      ++shared_.statistics.get_hits;
      left += kItemBytes;
      const std::size_t before = left;
      message.items.push_back(take(**std::move(leased), out, left));
      if (left == before) left -= kItemBytes;
    }
  }
  message.segments = std::move(out.segments);
  reply(kType, id, message, std::move(out.descriptors));
}

void Session::release(std::uint64_t /*id*/, const wire::Release& request) {
  for (const std::uint64_t lease : request.leases) shared_.store.release(*holder_, lease);
}

// --- PUT
// ---------------------------------------------------------------------------------------------

void Session::reserve(std::uint64_t id, wire::Reserve request) {
  constexpr auto kType = wire::Type::kReserve;
  constexpr std::uint32_t kFlags = wire::kReserveEphemeral | wire::kReserveOrGet |
                                   wire::kReserveDirect | wire::kReserveDisk |
                                   wire::kReserveFollow | wire::kReserveClaimed;
  if (const auto error = key_error(request.key)) return refuse(kType, id, *error);
  if ((request.flags & ~kFlags) != 0)
    return refuse(kType, id, {Errc::kUnsupported, 0, "this daemon knows no such flag"});
  if ((request.flags & wire::kReserveEphemeral) != 0 && (request.flags & wire::kReserveDisk) != 0)
    return refuse(kType, id, {Errc::kMalformed, 0, "an ephemeral object never goes to disk"});
  if ((request.flags & wire::kReserveFollow) != 0 && (request.flags & wire::kReserveOrGet) == 0)
    return refuse(kType, id, {Errc::kMalformed, 0, "following goes with or_get"});
  if ((request.flags & wire::kReserveClaimed) != 0 && (request.flags & wire::kReserveOrGet) != 0)
    return refuse(kType, id, {Errc::kMalformed, 0, "who has claimed it asks for nothing else"});
  if ((request.flags & wire::kReserveOrGet) != 0 && !rights_.read)
    return refuse(kType, id, {Errc::kDenied, 0, "only readers may reserve or get"});
  for (const std::string& tag : request.tags)
    if (tag.empty()) return refuse(kType, id, {Errc::kMalformed, 0, "a tag has at least one byte"});
  reserve_now(id, std::move(request), 0);
}

// `wait_key`: the wait that this goes on with, or 0.
void Session::reserve_now(std::uint64_t id, wire::Reserve request, std::uint64_t wait_key) {
  constexpr auto kType = wire::Type::kReserve;
  const std::uint64_t key = wait_key != 0 ? wait_key : ++wait_number_;
  store::ReserveRequest wanted;
  wanted.key = request.key;
  if (request.length != wire::kUnknownLength) wanted.length = request.length;
  wanted.expires_ns = request.expires_ns;
  wanted.metadata = request.metadata;
  wanted.tags = request.tags;
  wanted.ephemeral = (request.flags & wire::kReserveEphemeral) != 0;
  wanted.direct = (request.flags & wire::kReserveDirect) != 0 && rights_.direct;
  wanted.or_get = (request.flags & wire::kReserveOrGet) != 0;
  wanted.disk = (request.flags & wire::kReserveDisk) != 0;
  wanted.follow = (request.flags & wire::kReserveFollow) != 0;
  wanted.claimed = (request.flags & wire::kReserveClaimed) != 0;
  wanted.stale_object = request.stale_object_id;
  wanted.stale_revision = request.stale_revision;
  auto answer = shared_.store.reserve(*holder_, std::move(wanted), [weak = weak_from_this(), key] {
    const auto self = weak.lock();
    if (!self || self->closed_) return;
    const auto wait = self->waits_.find(key);
    if (wait == self->waits_.end()) return;
    self->reserve_now(wait->second.request_id, wire::Reserve(wait->second.request), key);
  });
  if (answer && std::holds_alternative<store::Waiting>(*answer)) {
    const store::WaitToken token = std::get<store::Waiting>(*answer).token;
    if (wait_key != 0) {
      waits_.at(key).token = token;
      return;
    }
    if (request.wait_ms == 0 || waits_.size() >= kWaitsMax) {
      shared_.store.cancel_wait(token);
      return request.wait_ms == 0
                 ? refuse(kType, id, {Errc::kBusy, 0, "somebody else is writing this key"})
                 : refuse(kType, id, {Errc::kQuota, 0, "too many reservations that wait"});
    }
    Wait& wait = waits_[key];
    wait.request_id = id;
    wait.token = token;
    wait.timer = shared_.loop.after(
        std::chrono::milliseconds(std::min(request.wait_ms, kWaitMsMax)), [this, key] {
          auto node = waits_.extract(key);
          shared_.store.cancel_wait(node.mapped().token);
          ++shared_.statistics.waits_timed_out;
          refuse(kType, node.mapped().request_id,
                 {Errc::kTimeout, 0, "somebody else is still writing this key"});
        });
    wait.request = std::move(request);
    return;
  }
  if (wait_key != 0) waits_.erase(wait_key);
  if (!answer) return refuse(kType, id, answer.error());
  if (auto* leased = std::get_if<store::Leased>(&*answer)) return hit(id, std::move(*leased));
  if (auto* other = std::get_if<store::Following>(&*answer))
    return following(id, std::move(*other));
  wire::ReserveReply message;
  message.put_id = std::get<store::Reserved>(*answer).put_id;
  reserved(kType, id, std::get<store::Reserved>(std::move(*answer)), std::move(message));
}

void Session::hit(std::uint64_t id, store::Leased leased) {
  wire::ReserveReply message;
  message.outcome = static_cast<std::uint8_t>(wire::ReserveOutcome::kHit);
  SegmentsOut out;
  std::size_t left = kReplyRoom;
  message.hit = take(std::move(leased), out, left);
  if (message.hit.status != 0) {
    forget(out);
    return refuse(wire::Type::kReserve, id,
                  {static_cast<Errc>(message.hit.status), 0,
                   "the object is there, but its descriptors cannot be sent now"});
  }
  ++shared_.statistics.get_hits;
  message.segments = std::move(out.segments);
  reply(wire::Type::kReserve, id, message, std::move(out.descriptors));
}

void Session::following(std::uint64_t id, store::Following following) {
  wire::ReserveReply message;
  message.outcome = static_cast<std::uint8_t>(wire::ReserveOutcome::kFollowing);
  message.hit.lease_id = following.lease_id;
  message.hit.info = to_wire(std::move(following.info));
  reply(wire::Type::kReserve, id, message);
}

void Session::follow(std::uint64_t id, wire::Follow request) {
  constexpr auto kType = wire::Type::kFollow;
  const std::uint64_t key = ++wait_number_;
  const bool may_wait = request.wait_ms != 0 && follow_waits_.size() < kWaitsMax;
  const auto ask = [this, request](bool wait, std::function<void()> wake) {
    return shared_.store.follow(*holder_, request.lease_id,
                                {request.have_bytes, request.have_room, request.have_amended}, wait,
                                std::move(wake));
  };
  const auto say = [this, id](Result<store::FollowAnswer> answer) {
    if (!answer) return refuse(kType, id, answer.error());
    followed(id, std::get<store::Followed>(std::move(*answer)));
  };
  auto answer = ask(may_wait, [weak = weak_from_this(), key, ask, say] {
    const auto self = weak.lock();
    if (!self || self->closed_ || self->follow_waits_.erase(key) == 0) return;
    say(ask(false, nullptr));
  });
  if (!answer || std::holds_alternative<store::Followed>(*answer)) return say(std::move(answer));
  FollowWait& wait = follow_waits_[key];
  wait.token = std::get<store::Waiting>(*answer).token;
  wait.timer = shared_.loop.after(std::chrono::milliseconds(std::min(request.wait_ms, kWaitMsMax)),
                                  [this, key, ask, say] {
                                    const auto node = follow_waits_.extract(key);
                                    shared_.store.cancel_wait(node.mapped().token);
                                    say(ask(false, nullptr));
                                  });
}

void Session::followed(std::uint64_t id, store::Followed answer) {
  constexpr auto kType = wire::Type::kFollow;
  wire::FollowReply message;
  message.state = static_cast<std::uint8_t>(answer.state);
  message.available = answer.available;
  message.amended = answer.amended;
  message.extents = to_wire(answer.extents);
  SegmentsOut out;
  std::size_t left = kReplyRoom;
  std::optional<Error> refused;
  for (std::size_t i = 0; i < message.extents.size() && !refused; ++i) {
    const store::SegmentId segment = message.extents[i].segment;
    const bool told = std::any_of(out.segments.begin(), out.segments.end(),
                                  [&](const auto& s) { return s.id == segment; });
    if (told) continue;
    if (!known_.contains(segment)) {
      refused = add_segment(segment, out);
    } else if (const auto view = shared_.store.segment(*holder_, segment); view) {
      // It may have grown.
      out.segments.push_back(
          {segment, view->size_bytes, static_cast<std::uint8_t>(view->kind), 0, 0});
    }
  }
  const std::size_t bytes =
      message.extents.size() * kExtentBytes + out.segments.size() * kSegmentBytes + kItemBytes;
  if (!refused && (bytes > left || message.extents.size() > 4096))
    refused = Error{Errc::kUnsupported, 0, "the body is in too many pieces for one packet"};
  message.hit = item_with(Errc::kNotFound);
  if (answer.info) message.hit.info = to_wire(*std::move(answer.info));
  if (!refused && bytes + encoded_bytes(message.hit) > left + kItemBytes)
    refused = Error{Errc::kUnsupported, 0, "the body is in too many pieces for one packet"};
  if (answer.published) {
    if (refused) {
      shared_.store.release(*holder_, answer.published->lease_id);
    } else {
      left -= bytes;
      message.hit = take(*std::move(answer.published), out, left);
      // There are no other bytes to read: as if it were not there.
      if (answer.is_elsewhere && message.hit.status != 0) {
        message.state = static_cast<std::uint8_t>(wire::FollowState::kAborted);
        message.available = 0;
      }
    }
  }
  if (refused) {
    forget(out);
    return refuse(kType, id, *refused);
  }
  message.segments = std::move(out.segments);
  reply(kType, id, message, std::move(out.descriptors));
}

void Session::progress(std::uint64_t /*id*/, wire::Progress request) {
  shared_.store.progress(*holder_, request.put_id, request.bytes);
}

void Session::amend(std::uint64_t /*id*/, wire::Amend request) {
  store::Amendment amendment;
  if (request.length != wire::kUnknownLength) amendment.length = request.length;
  amendment.expires_ns = request.expires_ns;
  amendment.metadata = std::move(request.metadata);
  amendment.tags = std::move(request.tags);
  shared_.store.amend(*holder_, request.put_id, std::move(amendment));
}

void Session::add_writable(std::vector<store::WritableSegment> segments, SegmentsOut& out) {
  for (store::WritableSegment& segment : segments) {
    // Recycled staging: the peer has this descriptor from an earlier put.
    const bool send =
        static_cast<bool>(segment.descriptor) && !known_writable_.contains(segment.id);
    out.segments.push_back({segment.id, segment.size_bytes, static_cast<std::uint8_t>(segment.kind),
                            1, static_cast<std::uint8_t>(send ? 1 : 0)});
    if (!send) continue;
    if (known_writable_.size() >= kSegmentsRemembered) known_writable_.clear();
    known_writable_.insert(segment.id);
    out.descriptors.push_back(std::move(segment.descriptor));
  }
}

template <class T>
void Session::reserved(wire::Type type, std::uint64_t id, store::Reserved reserved, T message) {
  message.extents = to_wire(reserved.extents);
  const std::size_t bytes = message.extents.size() * kExtentBytes +
                            reserved.segments.size() * kSegmentBytes + 2 * kItemBytes;
  const bool fits = bytes <= kPacketBytesMax && message.extents.size() <= 4096;
  if (!fits || reserved.segments.size() > descriptor_budget()) {
    (void)shared_.store.abort(*holder_, reserved.put_id);
    return fits
               ? refuse(type, id, {Errc::kBusy, 0, "too many descriptors under way: ask again"})
               : refuse(type, id,
                        {Errc::kNoSpace, 0, "the free space is in too many pieces for one packet"});
  }
  SegmentsOut out;
  add_writable(std::move(reserved.segments), out);
  message.segments = std::move(out.segments);
  reply(type, id, message, std::move(out.descriptors));
}

template <class T>
void Session::reply_with_room(std::uint64_t id, store::PutId put, store::Extension room,
                              T message) {
  constexpr auto kType =
      std::is_same_v<T, wire::HoldReply> ? wire::Type::kHold : wire::Type::kExtend;
  message.extents = to_wire(room.extents);
  SegmentsOut out;
  const bool fits =
      room.segments.size() <= descriptor_budget() && message.extents.size() <= 4096 &&
      message.extents.size() * kExtentBytes + room.segments.size() * kSegmentBytes + 64 <=
          kPacketBytesMax;
  if (!fits) {
    // The peer cannot learn of room that it already has: the put is of no use to it any more.
    (void)shared_.store.abort(*holder_, put);
    if constexpr (kType == wire::Type::kHold) shared_.store.release(*holder_, message.lease_id);
    return refuse(kType, id,
                  {Errc::kNoSpace, 0, "the answer does not fit one packet: the put is aborted"});
  }
  add_writable(std::move(room.segments), out);
  message.segments = std::move(out.segments);
  reply(kType, id, message, std::move(out.descriptors));
}

void Session::extend(std::uint64_t id, wire::Extend request) {
  auto extension = shared_.store.extend(*holder_, request.put_id, request.more_bytes);
  if (!extension) return refuse(wire::Type::kExtend, id, extension.error());
  reply_with_room(id, request.put_id, *std::move(extension), wire::ExtendReply{});
}

void Session::hold(std::uint64_t id, wire::Hold request) {
  auto held = shared_.store.hold(*holder_, request.put_id, request.more_bytes);
  if (!held) return refuse(wire::Type::kHold, id, held.error());
  wire::HoldReply message;
  message.lease_id = held->lease_id;
  message.object_id = held->object_id;
  reply_with_room(id, request.put_id, std::move(held->room), std::move(message));
}

void Session::commit(std::uint64_t id, wire::Commit request) {
  shared_.store.commit(
      *holder_, request.put_id, request.length,
      [weak = weak_from_this(), id, length = request.length](Result<store::Committed> done) {
        const auto self = weak.lock();
        if (!self || self->closed_) return;
        if (!done) return self->refuse(wire::Type::kCommit, id, done.error());
        self->shared_.statistics.put_bytes += length;
        self->reply(wire::Type::kCommit, id, wire::CommitReply{done->object_id, done->created_ns});
      });
}

void Session::refresh(std::uint64_t id, wire::Refresh request) {
  store::Amendment says;
  says.expires_ns = request.expires_ns;
  says.metadata = std::move(request.metadata);
  says.tags = std::move(request.tags);
  shared_.store.refresh(
      *holder_, request.put_id, request.object_id, std::move(says),
      [weak = weak_from_this(), id](Result<store::Committed> done) {
        const auto self = weak.lock();
        if (!self || self->closed_) return;
        constexpr auto kType = wire::Type::kRefresh;
        if (!done) return self->refuse(kType, id, done.error());
        self->reply(kType, id, wire::CommitReply{done->object_id, done->created_ns});
      });
}

void Session::unclaim(std::uint64_t /*id*/, const wire::Unclaim& request) {
  shared_.store.unclaim(*holder_, request.key);
}

void Session::room(std::uint64_t id, wire::Room request) {
  constexpr auto kType = wire::Type::kRoom;
  if (!rights_.direct)
    return refuse(kType, id, {Errc::kDenied, 0, "only who writes in place gets room ahead"});
  auto room = shared_.store.take_room(*holder_, {request.bytes, request.at_least, request.leases});
  if (!room) return refuse(kType, id, room.error());
  wire::RoomReply message;
  message.room_id = room->put_id;
  message.first_object = room->lent.object;
  message.first_lease = room->lent.lease;
  message.leases = room->lent.count;
  reserved(kType, id, *std::move(room), std::move(message));
}

void Session::put(std::uint64_t id, wire::Put request) {
  constexpr auto kType = wire::Type::kPut;
  if (request.bodies.empty()) return refuse(kType, id, {Errc::kMalformed, 0, "PUT names no body"});
  std::vector<store::RoomBody> bodies;
  bodies.reserve(request.bodies.size());
  std::vector<std::uint64_t> lengths;
  lengths.reserve(request.bodies.size());
  for (wire::PutBody& body : request.bodies) {
    if ((body.flags & ~(wire::kReserveEphemeral | wire::kPutHeldOnly | wire::kReserveClaimed)) != 0)
      return refuse(kType, id, {Errc::kUnsupported, 0, "this daemon knows no such flag"});
    const bool held_only = (body.flags & wire::kPutHeldOnly) != 0;
    lengths.push_back(held_only ? 0 : body.length);
    store::RoomBody& one = bodies.emplace_back();
    one.segment = body.segment;
    one.offset = body.offset;
    one.put.key = std::move(body.key);
    one.put.length = body.length;
    one.put.expires_ns = body.expires_ns;
    one.put.metadata = std::move(body.metadata);
    one.put.tags = std::move(body.tags);
    one.put.ephemeral = (body.flags & wire::kReserveEphemeral) != 0;
    one.object = body.object_id;
    one.held_only = held_only;
    one.claimed = (body.flags & wire::kReserveClaimed) != 0;
    one.removals_seen = body.removals_seen;
  }
  shared_.store.put_in_room(
      *holder_, request.room_id, std::move(bodies),
      [weak = weak_from_this(), id,
       lengths = std::move(lengths)](std::vector<Result<store::Committed>> done) {
        const auto self = weak.lock();
        if (!self || self->closed_) return;
        wire::PutReply message;
        message.items.reserve(done.size());
        for (std::size_t i = 0; i < done.size(); ++i) {
          if (done[i]) {
            self->shared_.statistics.put_bytes += lengths[i];
            message.items.push_back({0, done[i]->object_id, done[i]->created_ns});
          } else {
            message.items.push_back({static_cast<std::uint32_t>(done[i].error().code), 0, 0});
          }
        }
        self->reply(kType, id, message);
      });
}

void Session::abort(std::uint64_t id, const wire::Abort& request) {
  if (auto aborted = shared_.store.abort(*holder_, request.put_id); !aborted)
    return refuse(wire::Type::kAbort, id, aborted.error());
  reply(wire::Type::kAbort, id, wire::Empty{});
}

// --- looking
// ---------------------------------------------------------------------------------------------

void Session::stat(std::uint64_t id, const wire::Stat& request) {
  constexpr auto kType = wire::Type::kStat;
  if (const auto error = key_error(request.key)) return refuse(kType, id, *error);
  auto info = shared_.store.stat(request.key);
  if (!info) return refuse(kType, id, info.error());
  if (!*info) return refuse(kType, id, {Errc::kNotFound, 0, "no such object"});
  reply(kType, id, wire::StatReply{to_wire(**std::move(info))});
}

void Session::describe(std::uint64_t id, const wire::Describe& request) {
  constexpr auto kType = wire::Type::kDescribe;
  wire::GetReply message;
  SegmentsOut out;
  Error why{Errc::kNotFound, 0, "no lease of this connection is in any of these segments"};
  for (const std::uint64_t segment : request.segments) {
    // What the peer has lost to write to comes again with its next put.
    known_writable_.erase(segment);
    known_.erase(segment);
    if (auto error = add_segment(segment, out); error && error->code != Errc::kNotFound)
      why = *std::move(error);
  }
  if (out.segments.empty()) return refuse(kType, id, why);
  message.segments = std::move(out.segments);
  reply(kType, id, message, std::move(out.descriptors));
}

}  // namespace om::server
