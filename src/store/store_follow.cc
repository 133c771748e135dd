// Readers that follow a put while it is written.
//
// A follower has a lease on what the put writes into: on the object's own id where the final place
// is written to (direct), on an id of its own where it is staging. So the bytes stay where they are
// until it lets go, whether the put is published, aborted or orphaned. How far it may read is the
// writer's word (progress); commit holds it to that word, as far as the length goes. A writer that
// changes what it has announced deceives its followers: only what is published is fixed.
#include <fcntl.h>

#include <algorithm>

#include "posix/file.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

// The extents of a body without its first `skip` bytes, up to `length`.
std::vector<Extent> part_of(const std::vector<Extent>& extents, std::uint64_t skip,
                            std::uint64_t length) {
  std::vector<Extent> part;
  std::uint64_t begin = 0;
  for (const Extent& extent : extents) {
    const std::uint64_t end = std::min(begin + extent.length, length);
    const std::uint64_t from = std::max(begin, skip);
    if (from < end) part.push_back({extent.segment, extent.offset + (from - begin), end - from});
    begin += extent.length;
  }
  return part;
}

}  // namespace

Result<Following> StoreImpl::begin_follow(HolderId holder, Put& put) {
  const bool fresh = put.follow == 0;
  const ObjectId pin = !fresh ? put.follow : put.direct ? put.object_id : next_object_++;
  const LeaseId lease_id = OM_TRY(leases_->lease(holder, pin, put.room));
  put.was_followed = true;
  put.follow = pin;
  if (fresh) {
    Follow& follow = follows_[pin];
    follow.put = put.id;
    follow.object_id = put.object_id;
  }
  return Following{lease_id, info_of(put)};
}

ObjectInfo StoreImpl::info_of(const Put& put) {
  ObjectInfo info;
  info.object_id = put.object_id;
  const auto& declared = put.amended_length ? put.amended_length : put.request.length;
  info.length = declared.value_or(~std::uint64_t{0});
  info.total_bytes = info.length;
  info.expires_ns = put.request.expires_ns;
  info.ephemeral = put.request.ephemeral;
  info.tier = put.to_disk ? Tier::kDisk : Tier::kMemory;
  info.metadata = put.request.metadata;
  info.tags = put.request.tags;
  return info;
}

Result<FollowAnswer> StoreImpl::follow(HolderId holder, LeaseId lease_id, Followed::Known known,
                                       bool may_wait, std::function<void()> wake) {
  const auto pin = leases_->object_of(holder, lease_id);
  const auto found = pin ? follows_.find(*pin) : follows_.end();
  if (found == follows_.end()) return Error{Errc::kNotFound, 0, "no lease on a put"};
  Follow& follow = found->second;
  Followed answer;
  answer.state = follow.state;
  if (follow.state == FollowedState::kWriting) {
    const Put& put = *puts_.at(follow.put);
    if (put.announced <= known.bytes && put.amended <= known.amended && may_wait) {
      // Those that have given up waiting are in the list still.
      std::erase_if(follow.waiters, [&](WaitToken token) { return waits_.count(token) == 0; });
      const WaitToken token = next_wait_++;
      follow.waiters.push_back(token);
      waits_.emplace(token, Waiter{holder, "", std::move(wake)});
      return FollowAnswer(Waiting{token});
    }
    answer.available = put.announced;
    answer.amended = put.amended;
    if (put.amended > known.amended) answer.info = info_of(put);
    answer.extents = part_of(put.written, known.room, put.room);
  } else {
    answer.available = follow.available;
    answer.extents = part_of(follow.extents, known.room, follow.available);
  }
  auto& seen = seen_[holder];
  for (const Extent& extent : answer.extents)
    if (kind_of(extent.segment) == SegmentKind::kMemory)
      seen.insert(extent.segment);
    else if (kind_of(extent.segment) == SegmentKind::kStaging)
      followed_staging_[extent.segment] = *pin;
  if (follow.state == FollowedState::kCommitted) {
    const auto record = catalog_->find_object(follow.object_id);
    if (record && *record && reachable((*record)->place))
      if (auto leased = lease(holder, **record)) answer.published = *std::move(leased);
    if (follow.is_elsewhere) {
      answer.is_elsewhere = true;
      if (answer.published)
        answer.available = answer.published->info.length;
      else
        answer.state = FollowedState::kAborted;
    }
  }
  return FollowAnswer(std::move(answer));
}

void StoreImpl::progress(HolderId holder, PutId id, std::uint64_t bytes) {
  Put* const put = find_put(holder, id);
  if (put == nullptr || put->state != PutState::kWriting || bytes > put->room) return;
  announce(*put, bytes);
}

void StoreImpl::amend(HolderId holder, PutId id, Amendment amendment) {
  Put* const put = find_put(holder, id);
  if (put == nullptr || put->state != PutState::kWriting) return;
  // Whoever knows the length of what it follows may have promised it to others.
  if (put->request.length || put->amended_length)
    if (amendment.length) return;
  for (const auto& tag : amendment.tags)
    if (tag.empty()) return;
  if (amendment.length) put->amended_length = amendment.length;
  put->request.expires_ns = amendment.expires_ns;
  put->request.metadata = std::move(amendment.metadata);
  put->request.tags = std::move(amendment.tags);
  ++put->amended;
  const auto follow = follows_.find(put->follow);
  if (follow == follows_.end()) return;
  // Removed by a tag that nobody knew of until now: who came after that must not have it, and who
  // came before has seen nothing of it yet.
  if (put->amended == 1 && is_removed(*put)) follow->second.state = FollowedState::kAborted;
  wake_followers(follow->second);
}

void StoreImpl::announce(Put& put, std::uint64_t bytes) {
  if (bytes <= put.announced) return;
  put.announced = bytes;
  if (const auto follow = follows_.find(put.follow); follow != follows_.end())
    wake_followers(follow->second);
}

void StoreImpl::wake_followers(Follow& follow) { wake(std::exchange(follow.waiters, {})); }

void StoreImpl::end_follow(Put& put, bool published) {
  if (!put.was_followed) return;
  auto staging = std::exchange(put.staging, {});
  const auto found = follows_.find(put.follow);
  if (found == follows_.end()) {
    for (auto& file : staging) staging_->discard(std::move(file));
    return;
  }
  Follow& follow = found->second;
  follow.state = published ? FollowedState::kCommitted : FollowedState::kAborted;
  follow.available = published ? put.length : put.announced;
  follow.extents = std::move(put.written);
  follow.staging = std::move(staging);
  wake_followers(follow);
}

// The last follower has let go.
void StoreImpl::forget_follow(ObjectId pin) {
  const auto found = follows_.find(pin);
  if (found == follows_.end()) return;
  Follow& follow = found->second;
  if (const auto put = puts_.find(follow.put); put != puts_.end()) put->second->follow = 0;
  for (auto& file : follow.staging) staging_->discard(std::move(file));
  std::erase_if(followed_staging_, [&](const auto& entry) { return entry.second == pin; });
  follows_.erase(found);
}

Result<SegmentView> StoreImpl::staging_view(HolderId holder, SegmentId id) {
  const Error unknown{Errc::kNotFound, 0, "no lease of yours lies in this segment"};
  const auto pin = followed_staging_.find(id);
  if (pin == followed_staging_.end() || !leases_->holds(holder, pin->second)) return unknown;
  Follow& follow = follows_.at(pin->second);
  const auto put = puts_.find(follow.put);
  const auto& files = put != puts_.end() ? put->second->staging : follow.staging;
  for (const StagingFile& file : files) {
    if (file.id != id) continue;
    UniqueFd& reader = follow.readers[id];
    // All followers share this description; they cannot write through it.
    if (!reader) reader = OM_TRY(reopen(file.file.borrow(), O_RDONLY));
    return SegmentView{id, SegmentKind::kStaging, file.size, reader.borrow()};
  }
  return unknown;
}

}  // namespace om::store
