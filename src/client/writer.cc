// om::Writer: filling what was reserved, asking for more, publishing.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>

#include "client/state.h"
#include "posix/file.h"

namespace om {

namespace client {

namespace {

// Room that is asked for beyond what is needed at once: as much as there was, within these.
constexpr std::uint64_t kGrowMin = std::uint64_t{256} << 10;
constexpr std::uint64_t kGrowMax = std::uint64_t{32} << 20;

Result<void> add_places(WriterState& state, const std::vector<wire::Extent>& extents,
                        const std::vector<SegmentRef>& with_reply) {
  for (const wire::Extent& extent : extents) {
    // A later extent may lie in a segment that an earlier one brought.
    SegmentRef segment;
    for (const Place& place : state.places)
      if (place.segment->id == extent.segment) segment = place.segment;
    for (const SegmentRef& fresh : with_reply)
      if (fresh->id == extent.segment && fresh->writable) segment = fresh;
    if (segment == nullptr)
      segment = OM_TRY(state.connection->segment(extent.segment, true, with_reply));
    OM_TRY(Connection::check(extent, *segment));
    state.places.push_back({std::move(segment), extent.offset, extent.length});
    state.room += extent.length;
  }
  return {};
}

Result<void> extend(WriterState& state, std::uint64_t bytes) {
  Call<wire::ExtendReply> waiting;
  OM_TRY(
      state.connection->call(wire::Extend{state.put_id, bytes}, waiting, deadline_in(state.limit)));
  const std::uint64_t before = state.room;
  OM_TRY(add_places(state, waiting.reply.extents, waiting.segments));
  if (state.room == before)
    return Error{Errc::kNoSpace, 0, "the daemon gave no more room for this object"};
  return {};
}

Result<void> check(const Amendment& amendment, const WriterState& state) {
  if (amendment.length && state.length())
    return Error{Errc::kMalformed, 0, "its length was declared already"};
  if (amendment.length && *amendment.length < state.written)
    return Error{Errc::kMalformed, 0, "more was written than the length says"};
  return check_notes(amendment.metadata, amendment.tags);
}

wire::Amend to_wire(const Amendment& amendment, std::uint64_t put_id) {
  return {put_id, amendment.length.value_or(wire::kUnknownLength), amendment.expires_ns,
          amendment.metadata, amendment.tags};
}

std::function<void(Result<wire::CommitReply>)> answer_to(
    std::function<void(Result<PutResult>)> done) {
  return [done = std::move(done)](Result<wire::CommitReply> answer) {
    done(answer ? Result<PutResult>(PutResult{answer->object_id, answer->created_ns})
                : Result<PutResult>(std::move(answer).error()));
  };
}

// Of a put that is not sent yet: it is said along with it.
void say(const Amendment& amendment, wire::PutBody& put) {
  put.metadata = amendment.metadata;
  put.tags = amendment.tags;
  put.expires_ns = amendment.expires_ns;
}

std::function<void(Result<wire::PutReply>)> answer_to_one(
    std::function<void(Result<PutResult>)> done) {
  return [done = std::move(done)](Result<wire::PutReply> answer) {
    if (!answer) return done(std::move(answer).error());
    if (answer->items.size() != 1)
      return done(Error{Errc::kMalformed, 0, "the daemon answered for another number of bodies"});
    done(result_of(answer->items.front()));
  };
}

// The first `length` bytes of what is written, for their lease.
void add_slices(const WriterState& state, std::uint64_t length, LeaseState& lease) {
  for (const Place& place : state.places) {
    const std::uint64_t part = std::min(place.length, length);
    if (part == 0) break;
    lease.slices.push_back({place.segment->file().raw(), place.offset, part});
    lease.segments.push_back(place.segment);
    length -= part;
  }
}

}  // namespace

void give_up(std::unique_ptr<WriterState> state) noexcept {
  if (state == nullptr) return;
  try {
    if (!state->ahead)
      state->connection->post(wire::Abort{state->put_id});
    else if (state->held())
      state->connection->leave(*state->ahead);
  } catch (const std::exception&) {
    // Its room must not end before the daemon has heard of what is held in it.
    state->connection->end_for_lack_of_memory();
  }
}

Result<Writer> Connection::make_writer(const PutOptions& options, const wire::ReserveReply& reply,
                                       const std::vector<SegmentRef>& with_reply) {
  auto state = std::make_unique<WriterState>();
  state->connection = shared_from_this();
  state->limit = timeout_;
  state->put_id = reply.put_id;
  state->key_hash = hash_of(options.key);
  state->declared = options.length;
  Writer writer(std::move(state));  // from here on aborted by itself
  OM_TRY(add_places(*writer.state_, reply.extents, with_reply));
  if (options.length && writer.state_->room < *options.length)
    return Error{Errc::kMalformed, 0, "the daemon gave less room than was asked for"};
  return writer;
}

}  // namespace client

Writer::Writer() noexcept = default;
Writer::Writer(std::unique_ptr<client::WriterState> state) noexcept : state_(std::move(state)) {}
Writer::Writer(Writer&& other) noexcept = default;
Writer& Writer::operator=(Writer&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}
Writer::~Writer() { client::give_up(std::move(state_)); }

Writer::operator bool() const noexcept { return state_ != nullptr; }
void Writer::limit(std::chrono::milliseconds limit) {
  state_->limit = std::min(limit, client::kWaitMax);
}
std::uint64_t Writer::written() const { return state_->written; }

void Writer::take(Claim claim) {
  client::WriterState& s = *state_;
  if (!s.ahead || claim.state_ == nullptr || claim.state_->connection != s.connection ||
      claim.state_->key != s.put.key)
    return;
  s.put.flags |= wire::kReserveClaimed;
  s.claim = std::move(claim.state_);
}

Result<void> Writer::make_room(std::uint64_t bytes) {
  client::WriterState& s = *state_;
  const std::uint64_t left = s.room - s.written;
  if (bytes <= left) return {};
  const std::uint64_t needed = bytes - left;
  if (const auto length = s.length(); length && (s.declared || bytes > *length - s.written))
    return Error{
        Errc::kMalformed, 0,
        "the body is longer than the " + std::to_string(*length) + " bytes that were declared"};
  // All that is to come, where that is known; else as much again as there was.
  const std::uint64_t wanted =
      s.amended ? std::max(needed, *s.amended - s.room)
                : std::max(needed, std::clamp(s.room, client::kGrowMin, client::kGrowMax));
  auto extended = client::extend(s, wanted);
  // Nearly full: what is needed may fit where what would be convenient does not.
  if (!extended && extended.error().code == Errc::kNoSpace && wanted > needed)
    extended = client::extend(s, needed);
  if (extended && s.room - s.written < bytes) return make_room(bytes);
  return extended;
}

Result<Lease> Writer::hold(std::uint64_t bytes) {
  client::WriterState& s = *state_;
  const std::uint64_t left = s.room - s.written;
  const std::uint64_t length = s.written + bytes;
  if (s.ahead) {
    if (s.ahead->object_id == 0 || s.held())
      return Error{Errc::kUnsupported, 0, "no lease was lent for this body"};
    if (bytes > left)
      return Error{Errc::kMalformed, 0, "the body is longer than the bytes that were declared"};
    auto lent = std::make_unique<client::LeaseState>();
    lent->connection = s.connection;
    lent->lease_id = s.ahead->lease_id;
    lent->info.object_id = s.ahead->object_id;
    lent->info.length = lent->info.total_bytes = length;
    client::add_slices(s, length, *lent);
    s.put.object_id = s.ahead->object_id;
    return Lease(std::move(lent));
  }
  client::Call<wire::HoldReply> waiting;
  OM_TRY(s.connection->call(wire::Hold{s.put_id, bytes > left ? bytes - left : 0}, waiting,
                            client::deadline_in(s.limit)));
  auto held = std::make_unique<client::LeaseState>();
  held->connection = s.connection;
  held->lease_id = waiting.reply.lease_id;
  held->info.object_id = waiting.reply.object_id;
  held->info.length = held->info.total_bytes = length;
  std::optional<Lease> lease;  // from here on given back by itself
  if (waiting.reply.lease_id != 0) lease.emplace(Lease(std::move(held)));
  OM_TRY(client::add_places(s, waiting.reply.extents, waiting.segments));
  if (!lease) {
    const bool memory = std::all_of(s.places.begin(), s.places.end(), [](const auto& place) {
      return place.segment->kind == wire::SegmentKind::kMemory;
    });
    return Error{memory ? Errc::kQuota : Errc::kUnsupported, 0,
                 "the daemon gives no lease on this put"};
  }
  if (s.room < length)
    return Error{Errc::kMalformed, 0, "the daemon gave less room than was asked for"};
  client::add_slices(s, length, *lease->state_);
  return *std::move(lease);
}

Result<void> Writer::write(std::span<const std::byte> bytes) {
  client::WriterState& s = *state_;
  if (const auto length = s.length(); length && bytes.size() > *length - s.written)
    return Error{
        Errc::kMalformed, 0,
        "the body is longer than the " + std::to_string(*length) + " bytes that were declared"};
  OM_TRY(make_room(bytes.size()));
  while (!bytes.empty()) {
    const client::Place& place = s.places[s.place];
    if (s.used == place.length) {
      ++s.place;
      s.used = 0;
      continue;
    }
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(place.length - s.used, bytes.size()));
    // Shared memory was faulted long ago: copying beats pwrite(2) by far.
    if (const auto memory = place.segment->map(place.offset + s.used, count); !memory.empty())
      std::memcpy(memory.data(), bytes.data(), count);
    else
      OM_TRY(write_exactly(place.segment->file(), place.offset + s.used, bytes.first(count)));
    s.used += count;
    s.written += count;
    bytes = bytes.subspan(count);
  }
  return {};
}

std::vector<Slice> Writer::slices() const {
  const client::WriterState& s = *state_;
  std::vector<Slice> slices;
  std::uint64_t limit = std::min(s.length().value_or(s.room), s.room) - s.written;
  for (std::size_t i = s.place; i < s.places.size() && limit > 0; ++i) {
    const client::Place& place = s.places[i];
    const std::uint64_t used = i == s.place ? s.used : 0;
    const std::uint64_t length = std::min(place.length - used, limit);
    if (length == 0) continue;
    slices.push_back({place.segment->file().raw(), place.offset + used, length});
    limit -= length;
  }
  return slices;
}

std::vector<std::span<std::byte>> Writer::map() const {
  std::vector<std::span<std::byte>> memory;
  const client::WriterState& s = *state_;
  std::uint64_t limit = std::min(s.length().value_or(s.room), s.room);
  for (const client::Place& place : s.places) {
    const std::uint64_t length = std::min(place.length, limit);
    if (length == 0) break;
    const auto part = place.segment->map(place.offset, length);
    if (part.empty()) return {};
    memory.push_back(part);
    limit -= length;
  }
  return memory;
}

std::vector<std::shared_ptr<const void>> Writer::pins() const {
  std::vector<std::shared_ptr<const void>> pins;
  for (const client::Place& place : state_->places) {
    if (place.segment->map(place.offset, place.length).empty()) continue;
    std::shared_ptr<const void> mapping = place.segment->mapping();
    if (std::find(pins.begin(), pins.end(), mapping) == pins.end())
      pins.push_back(std::move(mapping));
  }
  return pins;
}

Result<void> Writer::advance(std::uint64_t bytes) {
  client::WriterState& s = *state_;
  if (bytes > std::min(s.length().value_or(s.room), s.room) - s.written)
    return Error{Errc::kMalformed, 0, "more bytes than there was room for"};
  s.written += bytes;
  while (bytes > 0) {
    const std::uint64_t here = std::min(s.places[s.place].length - s.used, bytes);
    s.used += here;
    bytes -= here;
    if (bytes > 0) {
      ++s.place;
      s.used = 0;
    }
  }
  return {};
}

Result<void> Writer::announce() {
  if (state_->ahead) return {};  // nobody can follow
  // One way: where it cannot be sent now, the next one says as much.
  (void)state_->connection->post(wire::Progress{state_->put_id, state_->written}, client::kAtOnce);
  if (state_->connection->closed())
    return Error{Errc::kUnavailable, 0, "the daemon has closed the connection"};
  return {};
}

Result<void> Writer::amend(const Amendment& amendment) {
  client::WriterState& s = *state_;
  OM_TRY(client::check(amendment, s));
  if (s.ahead) {
    client::say(amendment, s.put);
    return {};
  }
  if (!s.connection->post(client::to_wire(amendment, s.put_id), client::deadline_in(s.limit)))
    return Error{Errc::kUnavailable, 0, "the daemon does not take it now"};
  if (amendment.length) s.amended = amendment.length;
  return {};
}

Result<PutResult> Writer::commit() && {
  std::vector<Writer> one;
  one.push_back(std::move(*this));
  return std::move(om::commit(std::move(one)).front());
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): `done` is kept, and may be called here too
void Writer::commit(std::optional<Amendment> last, std::function<void(Result<PutResult>)> done) && {
  client::WriterState& s = *state_;
  std::string amend;
  if (last) {
    auto checked = client::check(*last, s);
    if (!checked) return done(std::move(checked).error());
    if (s.ahead)
      client::say(*last, s.put);
    else
      amend = s.connection->encode(client::to_wire(*last, s.put_id));
    if (last->length) s.amended = last->length;
  }
  const auto length = s.length();
  if (length && s.written != *length) return done(std::move(*this).commit());
  done = s.connection->until_answered(s.key_hash, std::move(done));
  if (s.ahead) {
    if (s.connection->keep(s, done)) {
      state_.reset();
      return;
    }
    wire::Put put;
    put.room_id = s.ahead->room->id;
    put.bodies.push_back(std::move(s.put));
    auto sent = s.connection->call_later<wire::Put, wire::PutReply>(
        put, client::answer_to_one(done), client::deadline_in(s.limit));
    s.put = std::move(put.bodies.front());
    if (!sent) return done(std::move(sent).error());  // and given up
    s.is_sent();
    s.ahead->room->left -= client::Room::rounded(s.ahead->length);
    state_.reset();
    return;
  }
  auto sent = s.connection->call_later<wire::Commit, wire::CommitReply>(
      wire::Commit{s.put_id, s.written}, client::answer_to(done), client::deadline_in(s.limit),
      amend);
  if (!sent) return done(std::move(sent).error());  // and aborted
  state_.reset();
}

void Writer::refresh(std::uint64_t object_id, const Amendment& says,
                     // NOLINTNEXTLINE(performance-unnecessary-value-param): as above
                     std::function<void(Result<PutResult>)> done) && {
  client::WriterState& s = *state_;
  if (s.ahead)
    return done(Error{Errc::kUnsupported, 0, "the daemon does not know of this put yet"});
  if (auto checked = client::check_notes(says.metadata, says.tags); !checked)
    return done(std::move(checked).error());
  done = s.connection->until_answered(s.key_hash, std::move(done));
  auto sent = s.connection->call_later<wire::Refresh, wire::CommitReply>(
      wire::Refresh{s.put_id, object_id, says.expires_ns, says.metadata, says.tags},
      client::answer_to(done), client::deadline_in(s.limit));
  if (!sent) return done(std::move(sent).error());  // and aborted
  state_.reset();
}

Result<void> Writer::abort() && {
  auto state = std::move(state_);
  if (state->ahead) {
    client::give_up(std::move(state));
    return {};
  }
  client::Call<wire::Empty> waiting;
  return state->connection->call(wire::Abort{state->put_id}, waiting);
}

std::uint64_t expires_in(std::chrono::nanoseconds ttl) {
  using std::chrono::nanoseconds;
  const auto now =
      std::chrono::duration_cast<nanoseconds>(std::chrono::system_clock::now().time_since_epoch());
  // A time that does not fit is far away, and not the past.
  const nanoseconds when = ttl > nanoseconds::max() - now ? nanoseconds::max() : now + ttl;
  return static_cast<std::uint64_t>(std::max<std::int64_t>(when.count(), 1));
}

}  // namespace om
