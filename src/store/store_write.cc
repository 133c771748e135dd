// Puts: room, commit, publication. The states are those of put_state.h.
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
// Bodies up to this are copied between memory files on the spot: a worker's round trip is longer.
constexpr std::uint64_t kCopyInlineMax = 256 * 1024;
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
  return found == puts_.end() || found->second->holder != holder || found->second->is_room
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

// --- reserving

Result<Reservation> StoreImpl::reserve(HolderId holder, ReserveRequest request,
                                       std::function<void()> wake) {
  if (!leases_->live(holder)) return Error{Errc::kNotFound, 0, "no such holder"};
  OM_TRY(check(request));
  if (request.or_get) {
    auto there =
        OM_TRY(get_other_than(holder, request.key, request.stale_object, request.stale_revision));
    if (there) return Reservation(*std::move(there));
    if (Put* const first = first_put(request.key); first != nullptr) {
      if (request.follow) return Reservation(OM_TRY(begin_follow(holder, *first)));
      const WaitToken token = next_wait_++;
      writers_.at(request.key).waiters.push_back(token);
      waits_.emplace(token, Waiter{holder, request.key, std::move(wake)});
      return Reservation(Waiting{token});
    }
  }
  return Reservation(OM_TRY(begin_put(holder, std::move(request))));
}

Result<Reserved> StoreImpl::begin_put(HolderId holder, ReserveRequest request) {
  if (holder_puts_[holder].size() >= config_.holder.puts)
    return Error{Errc::kQuota, 0,
                 "this peer has " + std::to_string(config_.holder.puts) + " puts under way"};
  auto owned = std::make_unique<Put>();
  Put& put = *owned;
  put.id = next_put_++;
  put.holder = holder;
  put.object_id = next_object_++;
  put.request = std::move(request);
  put.direct = put.request.direct;
  put.removals_seen = removal_log_->head();
  const std::uint64_t first = put.request.length.value_or(kRoomAtFirst);
  OM_TRY(charge(put, first));
  holder_puts_[holder].insert(put.id);
  writers_[put.request.key].puts.push_back(put.id);
  puts_.emplace(put.id, std::move(owned));

  Extension given;
  auto placed = place_put(put, first, given);
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
  const auto extents = OM_TRY(take_memory(length, !elsewhere));
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

// --- committing

void StoreImpl::commit(HolderId holder, PutId id, std::uint64_t length, CommitDone done) {
  Put* const put = find_put(holder, id);
  if (put == nullptr) return done(Error{Errc::kNotFound, 0, "no such put"});
  if (put->state != PutState::kWriting)
    return done(Error{Errc::kMalformed, 0, "the put is committed already"});
  put->done = std::move(done);
  put->length = length;
  const auto& declared = put->amended_length ? put->amended_length : put->request.length;
  if (declared && *declared != length)
    return fail_put(*put, {Errc::kMalformed, 0,
                           "the body has " + std::to_string(length) + " bytes, not the declared " +
                               std::to_string(*declared)});
  if (length > put->room)
    return fail_put(*put, {Errc::kMalformed, 0, "the body is longer than the room for it"});
  if (length < put->announced)
    return fail_put(*put, {Errc::kMalformed, 0, "the body is shorter than was announced"});
  announce(*put, length);
  auto begun = put->direct ? finish_direct(*put) : start_copy(*put);
  if (!begun) fail_put(*put, std::move(begun).error());
}

// Gives back what lies beyond `length`.
void StoreImpl::trim_memory(std::vector<Extent>& extents, std::uint64_t length) {
  std::vector<Extent> kept;
  for (const auto& extent : extents) {
    const std::uint64_t part = std::min(extent.length, length);
    length -= part;
    if (part == 0) {
      memory_->give_back({extent});
      continue;
    }
    kept.push_back({extent.segment, extent.offset, part});
    const std::uint64_t used = Slots::rounded(part);
    const std::uint64_t whole = Slots::rounded(extent.length);
    if (used < whole) memory_->give_back({{extent.segment, extent.offset + used, whole - used}});
  }
  extents = std::move(kept);
}

Result<void> StoreImpl::finish_direct(Put& put) {
  std::uint64_t in_memory = 0;
  for (const auto& extent : put.memory) in_memory += extent.length;
  if (put.file && put.length > in_memory) {
    if (put.file_room > put.length) {
      OM_TRY(disks_->trim_file(put.file_id, put.file.borrow(), put.file_room, put.length));
      put.file_room = put.length;
    }
    if (!put.memory.empty()) return spill(put);
    OM_ASSERT(advance(put, PutEvent::kCommit));
    publish(put, {{put.file_id, 0, put.length}}, true);
    return {};
  }
  if (put.file) {
    disks_->free({{put.file_id, 0, put.file_room}});
    put.file.reset();
  }
  trim_memory(put.memory, put.length);
  OM_ASSERT(advance(put, PutEvent::kCommit));
  auto place = std::exchange(put.memory, {});
  publish(put, std::move(place), false);
  return {};
}

// A direct put of unknown length that outgrew memory: its beginning goes into the file as well.
Result<void> StoreImpl::spill(Put& put) {
  auto copy = std::make_shared<Copy>();
  std::uint64_t at = 0;
  for (const auto& extent : put.memory) {
    copy->from.push_back(OM_TRY(source_of(extent)));
    copy->to.push_back({OM_TRY(duplicate(put.file.borrow())), at, extent.length});
    at += extent.length;
  }
  copy->disk = disk_of(put.file_id);
  copy->path = disks_->path_of(copy->disk);
  copy->fault = config_.disk_fault;
  OM_ASSERT(advance(put, PutEvent::kCommitCopy));
  worker_->run(
      [copy] { run_copy(*copy); },
      [this, copy, id = put.id, place = std::vector<Extent>{{put.file_id, 0, put.length}}] {
        copied(id, *copy, place, true);
      });
  return {};
}

Result<StoreImpl::Source> StoreImpl::source_of(const Extent& extent) {
  Source source;
  source.offset = extent.offset;
  source.length = extent.length;
  if (kind_of(extent.segment) == SegmentKind::kMemory)
    source.file = OM_TRY(duplicate(OM_TRY(memory_->own(extent.segment))));
  else
    source.file = OM_TRY(disks_->open_for_copy(extent.segment));
  return source;
}

Result<void> StoreImpl::add_targets(Copy& copy, const std::vector<Extent>& place) {
  for (const auto& extent : place)
    copy.to.push_back(
        {OM_TRY(duplicate(OM_TRY(memory_->own(extent.segment)))), extent.offset, extent.length});
  return {};
}

// Sources into targets, end to end. Runs on either thread, touches the copy alone.
void StoreImpl::run_copy(Copy& copy) {
  if (copy.disk != 0 && copy.fault)
    if (const int reason = copy.fault("write", copy.path); reason != 0) {
      copy.result = Error{reason == ENOSPC ? Errc::kNoSpace : Errc::kSystem, reason, "write"};
      return;
    }
  auto target = copy.to.begin();
  std::uint64_t filled = 0;
  for (const auto& source : copy.from) {
    std::uint64_t done = 0;
    while (done < source.length) {
      if (target == copy.to.end()) return;
      const std::uint64_t part = std::min(source.length - done, target->length - filled);
      copy.result = copy_bytes(source.file.borrow(), source.offset + done, target->file.borrow(),
                               target->offset + filled, part, &copy.source_failed);
      if (!copy.result) return;
      done += part;
      filled += part;
      if (filled == target->length) {
        ++target;
        filled = 0;
      }
    }
  }
}

// From staging into the final place; that may be known since the reservation, or be chosen now.
Result<void> StoreImpl::start_copy(Put& put) {
  auto copy = std::make_shared<Copy>();
  std::uint64_t left = put.length;
  for (std::size_t i = 0; i < put.staging.size() && left > 0; ++i) {
    const std::uint64_t part = std::min(left, put.written[i].length);
    copy->from.push_back({OM_TRY(duplicate(put.staging[i].file.borrow())), 0, part});
    left -= part;
  }
  OM_ASSERT(left == 0);
  bool on_disk = put.to_disk;
  std::vector<Extent> place;
  if (put.length == 0) {
    on_disk = disks_->any() && !put.request.ephemeral;
  } else if (!put.memory.empty()) {
    place = std::exchange(put.memory, {});
    on_disk = false;
  } else {
    on_disk = on_disk || wants_disk(put.request, put.length);
    if (!on_disk) {
      const bool elsewhere = disks_->any() && !put.request.ephemeral;
      auto extents = OM_TRY(take_memory(put.length, !elsewhere));
      if (extents)
        place = std::move(*extents);
      else if (elsewhere)
        on_disk = true;
      else
        return Error{Errc::kNoSpace, 0, "the memory tier is full"};
    }
    if (on_disk) {
      if (!make_disk_room(put.length)) return Error{Errc::kNoSpace, 0, "the disk tier is full"};
      if (put.length >= config_.file_threshold) {
        auto made = OM_TRY(disks_->create_file(put.object_id, put.length));
        place = {{made.id, 0, put.length}};
        copy->to.push_back({std::move(made.file), 0, put.length});
      } else {
        auto slot = OM_TRY(disks_->take_pack(put.object_id, put.length));
        place = {slot.extent};
        copy->to.push_back({std::move(slot.file), slot.extent.offset, put.length});
      }
      copy->disk = disk_of(place.front().segment);
      copy->path = disks_->path_of(copy->disk);
      copy->fault = config_.disk_fault;
    }
  }
  if (!on_disk) {
    if (auto added = add_targets(*copy, place); !added) {
      free_place(place);
      return added;
    }
  }
  if (put.state == PutState::kWriting) OM_ASSERT(advance(put, PutEvent::kCommitCopy));
  if (!on_disk && put.length <= kCopyInlineMax) {
    run_copy(*copy);
    copied(put.id, *copy, std::move(place), false);
    return {};
  }
  worker_->run([copy] { run_copy(*copy); },
               [this, copy, id = put.id, place, on_disk] { copied(id, *copy, place, on_disk); });
  return {};
}

void StoreImpl::copied(PutId id, const Copy& copy, std::vector<Extent> place, bool on_disk) {
  const auto found = puts_.find(id);
  OM_ASSERT(found != puts_.end());  // a put that is being copied waits for its copy
  Put& put = *found->second;
  if (!copy.result) {
    const Error& error = copy.result.error();
    if (put.file && !place.empty() && place.front().segment == put.file_id)
      place.clear();  // a spill: the put frees its file itself
    free_place(place);
    // A peer that shortened its staging file is kCorrupt; the disk is at fault otherwise.
    if (copy.disk != 0 && error.code != Errc::kCorrupt) {
      disks_->report_failure(copy.disk, error);
      if (!put.direct && disks_->any()) {
        if (auto again = start_copy(put); !again) fail_put(put, std::move(again).error());
        return;
      }
    }
    return fail_put(put, error.code == Errc::kCorrupt
                             ? Error{Errc::kMalformed, 0, "the body is shorter than was said"}
                             : error);
  }
  OM_ASSERT(advance(put, PutEvent::kCopied));
  publish(put, std::move(place), on_disk);
}

// The put's bytes lie in `place`, which is not among its own room any more (but for a direct file).
void StoreImpl::publish(Put& put, std::vector<Extent> place, bool on_disk) {
  catalog::Record record;
  record.object_id = put.object_id;
  record.key = put.request.key;
  record.length = put.length;
  record.total_bytes = put.length;
  record.created_ns = clock_.real_ns();
  record.expires_ns = put.request.expires_ns;
  record.ephemeral = put.request.ephemeral;
  record.metadata = std::move(put.request.metadata);
  record.tags = std::move(put.request.tags);
  record.place.tier = on_disk ? catalog::kTierDisk : catalog::kTierMemory;
  record.place.segment_kind = static_cast<std::uint8_t>(
      place.empty() ? SegmentKind::kMemory : kind_of(place.front().segment));
  for (const auto& extent : place)
    record.place.extents.push_back({extent.segment, extent.offset, extent.length});

  Result<std::optional<catalog::Record>> replaced = std::optional<catalog::Record>();
  Result<void> written;
  if (leases_->any_pins()) {
    auto old = catalog_->find(record.key);
    if (!old)
      written = std::move(old).error();
    else if (*old)
      written = write_down(**old);
  }
  if (written && removal_log_->removed_since(put.removals_seen, record.key, record.tags))
    written =
        Error{Errc::kNotFound, 0, "it was removed for every cache while it was being written"};
  // Before the record: a group sync that sees the record on its thread must see the body too.
  if (on_disk && !place.empty()) mark_dirty(record.object_id, place.front().segment);
  if (written)
    replaced = catalog_->publish(record);
  else
    replaced = std::move(written).error();
  auto done = std::move(put.done);
  if (!replaced) {
    if (put.direct && !on_disk)
      put.memory = std::move(place);  // drop_room() knows of its pin
    else if (!put.file)
      free_place(place);
    drop_room(put, false);
    end_put(put, false);
    if (done) done(std::move(replaced).error());
    return;
  }
  const Committed committed{record.object_id, record.created_ns};
  if (put.direct) {
    if (put.room > 0) leases_->unpin_put(put.holder, put.object_id);
    const auto left = std::exchange(put.memory, {});
    if (on_disk && !left.empty()) {
      // Followers read there.
      if (leases_->pinned(put.object_id))
        keep(put.object_id, left);
      else
        memory_->give_back(left);
    }
    put.file.reset();
  }
  auto& policy = on_disk ? *disk_policy_ : *memory_policy_;
  policy.insert(record.object_id, record.length, hash_key(record.key).low);
  note_expiry(record);
  ++count_.published;
  const bool durable_gone = *replaced && (*replaced)->durable;
  if (*replaced) retire(**replaced);
  emit(EventKind::kPublished, record.key, record.object_id);
  end_put(put, true);
  // A replacement is a removal too: after power loss the old object must not be back.
  answer_commit(std::move(done), committed, durable_gone);
}

void StoreImpl::answer_commit(CommitDone done, Committed committed, bool synced) {
  if (!done) return;
  if (!synced) return done(committed);
  sync_removals([committed, done = std::move(done)](const Result<void>& result) {
    if (result)
      done(committed);
    else
      done(result.error());
  });
}

// --- the end of a put

void StoreImpl::fail_put(Put& put, Error error) {
  ++count_.aborted;
  if (error.code == Errc::kNoSpace) ++count_.no_space;
  (void)advance(put, PutEvent::kFailed);
  drop_room(put, false);
  auto done = std::move(put.done);
  end_put(put, false);
  if (done) done(std::move(error));
}

// Gives back all room. A writer that may be at it still (its holder is gone, but not provably dead)
// keeps a direct put's bytes from being used again.
void StoreImpl::drop_room(Put& put, bool holder_gone) {
  std::vector<Extent> room = std::exchange(put.memory, {});
  if (put.file) {
    room.push_back({put.file_id, 0, put.file_room});
    put.file.reset();
  }
  if (room.empty()) return;
  const bool is_pinned = put.direct;
  if (is_pinned && holder_gone) {
    return keep(put.object_id, room);
  }
  if (is_pinned) leases_->unpin_put(put.holder, put.object_id);
  if (is_pinned && leases_->pinned(put.object_id)) return keep(put.object_id, room);
  free_place(room);
}

void StoreImpl::end_put(Put& put, bool published) {
  end_follow(put, published);
  for (auto& file : put.staging) staging_->give_back(put.holder, std::move(file));
  if (const auto bytes = holder_put_bytes_.find(put.holder); bytes != holder_put_bytes_.end())
    bytes->second -= put.charged;
  if (const auto puts = holder_puts_.find(put.holder); puts != holder_puts_.end())
    puts->second.erase(put.id);
  if (put.is_room) {
    room_bytes_ -= put.charged;
    --rooms_;
    puts_.erase(put.id);
    return;
  }
  const auto writers = writers_.find(put.request.key);
  OM_ASSERT(writers != writers_.end());
  std::erase(writers->second.puts, put.id);
  const bool last = writers->second.puts.empty();
  if (last || published) wake_waiters(put.request.key);
  if (last) writers_.erase(writers);
  puts_.erase(put.id);
}

void StoreImpl::wake_waiters(const std::string& key) {
  if (const auto writers = writers_.find(key); writers != writers_.end())
    wake(std::exchange(writers->second.waiters, {}));
}

// Later: what they do may change what the caller has in hand.
void StoreImpl::wake(const std::vector<WaitToken>& tokens) {
  for (const WaitToken token : tokens)
    worker_->post([this, token] {
      const auto waiting = waits_.find(token);
      if (waiting == waits_.end()) return;
      const auto answer = std::move(waiting->second.wake);
      waits_.erase(waiting);
      if (answer) answer();
    });
}

void StoreImpl::cancel_wait(WaitToken token) {
  const auto waiting = waits_.find(token);
  if (waiting == waits_.end()) return;
  if (const auto writers = writers_.find(waiting->second.key); writers != writers_.end())
    std::erase(writers->second.waiters, token);
  waits_.erase(waiting);
}

Result<void> StoreImpl::abort(HolderId holder, PutId id) {
  if (Put* const room = find_room(holder, id)) {
    end_room(*room);
    return {};
  }
  Put* const put = find_put(holder, id);
  if (put == nullptr) return Error{Errc::kNotFound, 0, "no such put"};
  if (!advance(*put, PutEvent::kAbort))
    return Error{Errc::kMalformed, 0, "the put is committed already"};
  ++count_.aborted;
  drop_room(*put, false);
  end_put(*put, false);
  return {};
}

// --- holders

Result<HolderId> StoreImpl::open_holder(const PeerCredentials& peer) {
  return leases_->open_holder(peer);
}

void StoreImpl::close_holder(HolderId holder) {
  std::vector<WaitToken> waits;
  for (const auto& [token, waiter] : waits_)
    if (waiter.holder == holder) waits.push_back(token);
  for (const WaitToken token : waits) cancel_wait(token);
  if (const auto puts = holder_puts_.find(holder); puts != holder_puts_.end()) {
    const std::vector<PutId> ids(puts->second.begin(), puts->second.end());
    for (const PutId id : ids) {
      Put& put = *puts_.at(id);
      put.done = nullptr;
      OM_ASSERT(advance(put, PutEvent::kHolderGone));
      if (put.state == PutState::kCopying) continue;  // it said all that it had to say
      if (!put.is_room) ++count_.aborted;
      drop_room(put, true);
      end_put(put, false);
    }
  }
  leases_->close_holder(holder);
  staging_->forget(holder);
  holder_puts_.erase(holder);
  holder_put_bytes_.erase(holder);
  seen_.erase(holder);
}

}  // namespace om::store
