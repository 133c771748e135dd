// Puts, from the reservation on: who writes, where, and how much more. What is written is published
// by store_commit.cc, or goes by store_put_end.cc. The states are those of put_state.h.
#include <fcntl.h>

#include <algorithm>

#include "base/assert.h"
#include "base/units.h"
#include "posix/file.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

// What a put of unknown length gets at first, and at least with each extension.
constexpr std::uint64_t kRoomAtFirst = 256 * 1024;
constexpr std::uint64_t kLengthMax = std::uint64_t{1} << 46;

}  // namespace

Result<void> StoreImpl::check(const ReserveRequest& request) {
  if (request.key.empty() || request.key.size() > kKeyBytesMax ||
      request.key.find('\0') != std::string::npos)
    return Error{Errc::kMalformed, 0, "a key has 1 to 8192 bytes, none of them NUL"};
  if (request.metadata.size() > kMetadataBytesMax)
    return Error{Errc::kMalformed, 0, "metadata is longer than 64 KiB"};
  if (request.tags.size() > kTagsMax)
    return Error{Errc::kMalformed, 0, "an object has 64 tags at most"};
  for (const auto& tag : request.tags)
    if (tag.empty() || tag.size() > kTagBytesMax)
      return Error{Errc::kMalformed, 0, "a tag has 1 to 255 bytes"};
  if (request.length && *request.length > kLengthMax)
    return Error{Errc::kMalformed, 0, "the length is beyond all measure"};
  return {};
}

bool StoreImpl::advance(Put& put, PutEvent event) {
  const auto to = next(put.state, event);
  if (to) put.state = *to;
  return to.has_value();
}

bool StoreImpl::is_removed(const Put& put) const {
  return removal_log_->removed_since(put.removals_seen, put.request.key, put.request.tags);
}

StoreImpl::Put* StoreImpl::find_put(HolderId holder, PutId id) {
  const auto found = puts_.find(id);
  return found == puts_.end() || found->second->holder != holder || found->second->is_room ||
                 found->second->is_claim
             ? nullptr
             : found->second.get();
}

// The one to wait for or to follow. What began before a removal of it is nothing for those who come
// after: they write anew.
StoreImpl::Put* StoreImpl::first_put(const std::string& key) {
  const auto writers = writers_.find(key);
  if (writers == writers_.end()) return nullptr;
  for (const PutId id : writers->second.puts)
    if (Put& put = *puts_.at(id); !is_removed(put)) return &put;
  return nullptr;
}

Result<Reservation> StoreImpl::reserve(HolderId holder, ReserveRequest request,
                                       std::function<void()> wake) {
  if (!request.claimed) return reserve_or_get(holder, std::move(request), std::move(wake));
  // Whatever the answer is, it is the end of the claim.
  ++count_.claims_reserved;
  const std::string key = request.key;
  auto answer = reserve_or_get(holder, std::move(request), nullptr);
  end_claim(holder, key, 0);
  return answer;
}

Result<Reservation> StoreImpl::reserve_or_get(HolderId holder, ReserveRequest request,
                                              std::function<void()> wake) {
  if (!leases_->live(holder)) return Error{Errc::kNotFound, 0, "no such holder"};
  OM_TRY(check(request));
  if (!request.or_get) return Reservation(OM_TRY(begin_put(holder, std::move(request))));
  auto there =
      OM_TRY(get_other_than(holder, request.key, request.stale_object, request.stale_revision));
  if (there) return Reservation(*std::move(there));
  const Known known(board_.get(), request.key);  // until there is a put
  Put* first = first_put(request.key);
  if (first == nullptr) first = put_of_claim(request.key);
  if (first == nullptr) return Reservation(OM_TRY(begin_put(holder, std::move(request))));
  if (request.follow) return Reservation(OM_TRY(begin_follow(holder, *first)));
  const WaitToken token = next_wait_++;
  writers_.at(request.key).waiters.push_back(token);
  waits_.emplace(token, Waiter{holder, request.key, std::move(wake)});
  return Reservation(Waiting{token});
}

StoreImpl::Put& StoreImpl::make_put(HolderId holder, const std::string& key) {
  auto owned = std::make_unique<Put>();
  Put& put = *owned;
  put.id = next_put_++;
  put.holder = holder;
  put.object_id = next_object_++;
  put.request.key = key;
  put.removals_seen = removal_log_->head();
  // What is put was asked for before now, and may be followed from now on.
  (void)birth_time();
  const auto [writers, is_first] = writers_.try_emplace(key);
  if (is_first) count_key(key, true);
  writers->second.puts.push_back(put.id);
  holder_puts_[holder].insert(put.id);
  puts_.emplace(put.id, std::move(owned));
  return put;
}

Result<Reserved> StoreImpl::begin_put(HolderId holder, ReserveRequest request) {
  Put* const claim = request.claimed ? find_claim(holder, request.key) : nullptr;
  if (claim == nullptr && holder_puts_[holder].size() >= config_.holder.puts)
    return Error{Errc::kQuota, 0,
                 "this peer has " + std::to_string(config_.holder.puts) + " puts under way"};
  Put& put = claim != nullptr ? *claim : make_put(holder, request.key);
  put.is_claim = false;
  put.request = std::move(request);
  put.direct = put.request.direct;
  const std::uint64_t first = put.request.length.value_or(kRoomAtFirst);
  Extension given;
  auto placed = charge(put, first);
  if (placed) placed = place_put(put, first, given);
  if (!placed) {
    if (placed.error().code == Errc::kNoSpace) ++count_.no_space;
    drop_room(put, false);
    OM_ASSERT(advance(put, PutEvent::kFailed));
    end_put(put, false);
    return std::move(placed).error();
  }
  OM_ASSERT(advance(put, PutEvent::kHandedOut));
  return Reserved{put.id, std::move(given.segments), std::move(given.extents)};
}

Result<void> StoreImpl::charge(Put& put, std::uint64_t bytes) {
  const std::uint64_t limit = config_.holder.put_bytes != 0
                                  ? config_.holder.put_bytes
                                  : config_.memory_bytes + disks_->capacity();
  auto& used = holder_put_bytes_[put.holder];
  if (bytes > limit || used > limit - bytes)
    return Error{Errc::kQuota, 0,
                 "this peer's puts take " + format_size(used) + ", " + format_size(bytes) +
                     " more are beyond its limit"};
  used += bytes;
  put.charged += bytes;
  return {};
}

void StoreImpl::uncharge(Put& put, std::uint64_t bytes) {
  holder_put_bytes_.at(put.holder) -= bytes;
  put.charged -= bytes;
}

bool StoreImpl::wants_disk(const ReserveRequest& request, std::uint64_t length) const {
  if (request.ephemeral || !disks_->any()) return false;
  return request.disk || length > config_.memory_object_bytes_max;
}

// Finds room for a new put and tells its writer where to write.
Result<void> StoreImpl::place_put(Put& put, std::uint64_t length, Extension& given) {
  const bool known = put.request.length.has_value();
  put.to_disk = wants_disk(put.request, known ? length : 0);
  if (!known && !put.direct) return give_staging(put, length, given);
  if (known && length == 0) return {};
  if (!put.to_disk) {
    // Where there is a disk, what memory has no room for goes there, and memory is made room in by
    // and by; where there is none, older objects make room.
    const bool elsewhere = disks_->any() && !put.request.ephemeral;
    if (put.direct) {
      auto placed = give_memory(put, length, given);
      if (placed || placed.error().code != Errc::kNoSpace || !elsewhere) return placed;
    } else {
      auto extents = OM_TRY(take_memory(length, !elsewhere));
      if (extents) {
        put.memory = std::move(*extents);
        return give_staging(put, length, given);
      }
      if (!elsewhere) return Error{Errc::kNoSpace, 0, "the memory tier is full"};
    }
    put.to_disk = true;
  }
  const bool file = length >= config_.file_threshold || !known;
  if (!make_disk_room(length)) return Error{Errc::kNoSpace, 0, "the disk tier is full"};
  if (put.direct && file) return give_file(put, length, given);
  return give_staging(put, length, given);
}

Result<void> StoreImpl::give_staging(Put& put, std::uint64_t length, Extension& given) {
  put.direct = false;
  auto staging = OM_TRY(staging_->take(put.holder, length));
  auto copy = duplicate(staging.file.borrow());
  if (!copy) {
    staging_->give_back(put.holder, std::move(staging));
    return std::move(copy).error();
  }
  given.segments.push_back({staging.id, SegmentKind::kStaging, staging.size, *std::move(copy)});
  given.extents.push_back({staging.id, 0, length});
  put.written.push_back(given.extents.back());
  put.staging.push_back(std::move(staging));
  put.room += length;
  return {};
}

// `place` is all that the put's writer may write to from now on: pinned, and written down before it
// learns of it. What fails leaves no trace.
Result<void> StoreImpl::pin_place(const Put& put, const std::vector<Extent>& place) {
  const bool first = put.memory.empty() && !put.file;
  if (first) OM_TRY(leases_->pin_put(put.holder, put.object_id));
  auto written = write_held(put.object_id, place);
  if (!written && first) leases_->unpin_put(put.holder, put.object_id);
  return written;
}

// When this or give_file() fails, the put is as it was: it may go on, and room that its writer
// never learned of would be a hole in the middle of the body. So the put gets it last.
Result<void> StoreImpl::give_memory(Put& put, std::uint64_t length, Extension& given) {
  const bool elsewhere = disks_->any() && !put.request.ephemeral;
  const auto extents = OM_TRY(take_memory(length, !elsewhere, !put.is_room, put.piece));
  if (!extents) return Error{Errc::kNoSpace, 0, "the memory tier is full"};
  std::vector<WritableSegment> segments;
  const auto prepare = [&]() -> Result<void> {
    for (const auto& extent : *extents) {
      const bool told = std::any_of(segments.begin(), segments.end(),
                                    [&](const auto& s) { return s.id == extent.segment; });
      if (!told) segments.push_back(OM_TRY(memory_->writer(extent.segment)));
    }
    auto place = put.memory;
    place.insert(place.end(), extents->begin(), extents->end());
    return pin_place(put, place);
  };
  if (auto prepared = prepare(); !prepared) {
    memory_->give_back(*extents);
    return prepared;
  }
  for (auto& segment : segments) given.segments.push_back(std::move(segment));
  for (const auto& extent : *extents) {
    put.memory.push_back(extent);
    put.written.push_back(extent);
    given.extents.push_back(extent);
  }
  put.room += length;
  return {};
}

Result<void> StoreImpl::give_file(Put& put, std::uint64_t length, Extension& given) {
  const std::uint64_t end = put.room + length;
  const bool fresh = !put.file;
  DiskTier::NewFile made;
  if (fresh) {
    made = OM_TRY(disks_->create_file(put.object_id, end));
  } else if (end > put.file_room) {
    // Bytes lie in the file where they lie in the body: should the rest fail, the next extension
    // finds this room and uses it.
    OM_TRY(disks_->grow_file(put.file_id, put.file.borrow(), put.file_room, end));
    put.file_room = end;
  }
  const SegmentId id = fresh ? made.id : put.file_id;
  const std::uint64_t size = fresh ? end : put.file_room;
  const auto prepare = [&]() -> Result<UniqueFd> {
    // A description of its own: its flags are the writer's to change.
    auto theirs = OM_TRY(reopen(fresh ? made.file.borrow() : put.file.borrow(), O_RDWR));
    auto place = put.memory;
    place.push_back({id, 0, size});
    OM_TRY(pin_place(put, place));
    return theirs;
  };
  auto theirs = prepare();
  if (!theirs) {
    if (fresh) disks_->free({{id, 0, size}});
    return std::move(theirs).error();
  }
  if (fresh) {
    put.file_id = id;
    put.file = std::move(made.file);
    put.file_room = size;
  }
  given.segments.push_back({id, SegmentKind::kFile, size, *std::move(theirs)});
  given.extents.push_back({id, put.room, length});
  put.written.push_back(given.extents.back());
  put.room = end;
  return {};
}

Result<Extension> StoreImpl::extend(HolderId holder, PutId id, std::uint64_t more) {
  Put* const put = find_put(holder, id);
  if (put == nullptr) return Error{Errc::kNotFound, 0, "no such put"};
  if (put->request.length)
    return Error{Errc::kMalformed, 0, "a put of known length has all its room"};
  if (!advance(*put, PutEvent::kExtend))
    return Error{Errc::kMalformed, 0, "the put is committed already"};
  more = std::max(more, kRoomAtFirst);
  if (more > kLengthMax || put->room > kLengthMax - more)
    return Error{Errc::kMalformed, 0, "the length is beyond all measure"};
  OM_TRY(charge(*put, more));
  Extension given;
  Result<void> placed;
  if (!put->direct) {
    placed = give_staging(*put, more, given);
  } else {
    const bool disk = disks_->any() && !put->request.ephemeral;
    const bool beyond = put->room + more > config_.memory_object_bytes_max;
    if (!put->file && !(disk && beyond)) placed = give_memory(*put, more, given);
    if (put->file || (disk && beyond) ||
        (!placed && placed.error().code == Errc::kNoSpace && disk)) {
      placed = Result<void>();
      if (!make_disk_room(put->room + more))
        placed = Error{Errc::kNoSpace, 0, "the disk tier is full"};
      else
        placed = give_file(*put, more, given);
    }
  }
  if (!placed) {
    uncharge(*put, more);
    if (placed.error().code == Errc::kNoSpace) ++count_.no_space;
    return std::move(placed).error();
  }
  return given;
}

// The object is published under the id that the put has already, with its bytes where they are: so
// this lease is one on the object, once there is one.
Result<Held> StoreImpl::hold(HolderId holder, PutId id, std::uint64_t more) {
  Put* const put = find_put(holder, id);
  if (put == nullptr) return Error{Errc::kNotFound, 0, "no such put"};
  if (put->state != PutState::kWriting)
    return Error{Errc::kMalformed, 0, "the put is committed already"};
  if (more > kLengthMax) return Error{Errc::kMalformed, 0, "the length is beyond all measure"};
  const bool disk = disks_->any() && !put->request.ephemeral;
  const std::uint64_t room = put->room + more;
  if (!put->direct || put->file || room == 0 ||
      (disk && !put->request.length && room > config_.memory_object_bytes_max))
    return Error{Errc::kUnsupported, 0, "its bytes will not stay where they are written"};
  Held held;
  held.object_id = put->object_id;
  if (more > 0) held.room = OM_TRY(extend(holder, id, more));
  if (put->file) return held;
  if (auto lease = leases_->lease(holder, put->object_id, put->room)) held.lease_id = *lease;
  return held;
}

}  // namespace om::store
