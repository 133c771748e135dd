// Committing: the bytes of a put get to their final place, where they are not there already, and
// the catalog learns of the object. Direct puts are trimmed; what lies in staging is copied, small
// bodies at once, others by the worker. Until the record is published nobody but followers has seen
// anything.
#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "base/assert.h"
#include "base/checksum.h"
#include "posix/file.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

// Bodies up to this are copied between memory files on the spot: a worker's round trip is longer.
constexpr std::uint64_t kCopyInlineMax = 256 * 1024;

}  // namespace

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
  record.created_ns = birth_time();
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
  if (!on_disk) show(record);
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

}  // namespace om::store
