// Where bytes lie: the segments that replies name, with the descriptors that came with them, came
// earlier, or are asked for once more; and the leases that are made of them.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "client/errors.h"
#include "client/state.h"

namespace om::client {

Result<std::vector<SegmentRef>> Connection::adopt_segments(
    const std::vector<wire::Segment>& segments, std::vector<UniqueFd>& descriptors) {
  std::vector<SegmentRef> adopted;
  std::size_t next = 0;
  for (const wire::Segment& description : segments) {
    if (description.with_descriptor == 0) {
      if (SegmentRef known = cache_.find(description.id, description.writable != 0))
        known->set_size(description.size_bytes);
      continue;
    }
    if (next >= descriptors.size()) break;
    auto segment = std::make_shared<Segment>(description, std::move(descriptors[next++]));
    cache_.insert(segment);
    adopted.push_back(std::move(segment));
  }
  descriptors.erase(descriptors.begin(), descriptors.begin() + static_cast<std::ptrdiff_t>(next));
  return adopted;
}

Result<SegmentRef> Connection::segment(std::uint64_t id, bool writable,
                                       const std::vector<SegmentRef>& first,
                                       std::optional<Deadline> deadline) {
  for (const SegmentRef& candidate : first)
    if (candidate->id == id && candidate->writable == writable) return candidate;
  if (SegmentRef known = cache_.find(id, writable)) return known;
  if (writable)
    return Error{Errc::kMalformed, 0, "the daemon names a segment that it has not passed"};
  // Of many that are missing, each would be asked for.
  if (deadline && std::chrono::steady_clock::now() >= *deadline) return out_of_time();
  Call<wire::GetReply> waiting;
  OM_TRY(call(wire::Describe{{id}}, waiting, deadline.value_or(deadline_in(timeout_))));
  for (const SegmentRef& candidate : waiting.segments)
    if (candidate->id == id && !candidate->writable) return candidate;
  return no_room();
}

void Connection::know(std::uint64_t id, std::vector<SegmentRef>& with_reply) {
  constexpr std::size_t kMost = 8;  // more are not found sooner than in the cache
  if (with_reply.size() >= kMost) return;
  for (const SegmentRef& segment : with_reply)
    if (segment->id == id && !segment->writable) return;
  if (SegmentRef known = cache_.find(id, false)) with_reply.push_back(std::move(known));
}

Result<bool> Connection::reservation_is_complete(std::uint64_t put_id,
                                                 const std::vector<wire::Extent>& extents,
                                                 const std::vector<SegmentRef>& with_reply) {
  for (const wire::Extent& extent : extents) {
    const bool came = std::any_of(with_reply.begin(), with_reply.end(), [&](const SegmentRef& s) {
      return s->id == extent.segment && s->writable;
    });
    if (came || cache_.find(extent.segment, true) != nullptr) continue;
    post(wire::Abort{put_id});
    Call<wire::GetReply> waiting;
    // Whatever the answer: it makes the daemon forget that we have the descriptor.
    auto described = call(wire::Describe{{extent.segment}}, waiting);
    if (!described && described.error().code != Errc::kNotFound)
      return std::move(described).error();
    return false;
  }
  return true;
}

Result<void> Connection::check(const wire::Extent& extent, const Segment& segment) {
  if (extent.offset > segment.size() || extent.length > segment.size() - extent.offset)
    return Error{Errc::kMalformed, 0, "the daemon names bytes outside a segment"};
  return {};
}

Result<Lease> Connection::make_lease(wire::GetItem item, const std::vector<SegmentRef>& with_reply,
                                     std::optional<Deadline> deadline) {
  auto state = std::make_unique<LeaseState>();
  state->connection = shared_from_this();
  state->lease_id = item.lease_id;
  state->info = to_info(std::move(item.info));
  Lease lease(std::move(state));  // from here on given back by itself
  LeaseState& s = *lease.state_;
  std::uint64_t length = 0;
  s.slices.reserve(item.extents.size());
  s.segments.reserve(item.extents.size());
  for (const wire::Extent& extent : item.extents) {
    SegmentRef segment = OM_TRY(this->segment(extent.segment, false, with_reply, deadline));
    OM_TRY(check(extent, *segment));
    s.slices.push_back({segment->file().raw(), extent.offset, extent.length});
    s.segments.push_back(std::move(segment));
    length += extent.length;
  }
  if (length != s.info.length)
    return Error{Errc::kMalformed, 0, "the extents of an object are not as long as it is"};
  return lease;
}

}  // namespace om::client
