#include "store/lease_book.h"

#include <fcntl.h>

#include <algorithm>
#include <charconv>

#include "base/assert.h"
#include "posix/file.h"
#include "posix/range_lock.h"

namespace om::store {

namespace {

// Bytes of a lease file are objects: no id is above this (off_t).
constexpr std::uint64_t kAllObjects = std::uint64_t{1} << 62;

std::optional<HolderId> number_from(const std::string& name) {
  HolderId id = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return id;
}

}  // namespace

Result<std::unique_ptr<LeaseBook>> LeaseBook::open(UniqueFd directory, Limits limits,
                                                   Unpinned unpinned) {
  std::unique_ptr<LeaseBook> book(new LeaseBook(std::move(directory), limits, std::move(unpinned)));
  OM_TRY(book->recover());
  return book;
}

Result<void> LeaseBook::recover() {
  for (const auto& name : OM_TRY(list_directory(directory_.borrow()))) {
    const auto id = number_from(name);
    if (!id) continue;
    next_holder_ = std::max(next_holder_, *id + 1);
    Orphan orphan{OM_TRY(open_at(directory_.borrow(), name, O_RDWR)), {}};
    std::uint64_t from = 0;
    while (const auto range =
               OM_TRY(first_locked(orphan.probe.borrow(), from, kAllObjects - from))) {
      // A peer may lock what it likes; ids that nobody gave out cost a set entry each, so bounded.
      const std::uint64_t end = std::min(range->offset + range->length, kAllObjects);
      for (ObjectId object = range->offset;
           object < end && orphan.objects.size() < 2 * kLeasesPerPeerMax; ++object) {
        if (orphan.objects.insert(object).second) ++pins_[object];
        highest_object_ = std::max(highest_object_, object);
      }
      from = end;
      if (from >= kAllObjects || orphan.objects.size() >= 2 * kLeasesPerPeerMax) break;
    }
    if (orphan.objects.empty())
      OM_TRY(remove_at(directory_.borrow(), name));
    else
      orphans_.emplace(*id, std::move(orphan));
  }
  return {};
}

Result<HolderId> LeaseBook::open_holder(const PeerCredentials& peer) {
  const HolderId id = next_holder_++;
  const std::string name = std::to_string(id);
  OM_TRY(open_at(directory_.borrow(), name, O_RDWR | O_CREAT | O_EXCL));
  // Read-only: its peer can take shared locks for itself, and cannot write into our file system.
  auto file = open_at(directory_.borrow(), name, O_RDONLY);
  if (!file) {
    (void)remove_at(directory_.borrow(), name);
    return std::move(file).error();
  }
  Holder holder;
  holder.file = *std::move(file);
  holder.pid = peer.pid;
  holders_.emplace(id, std::move(holder));
  return id;
}

BorrowedFd LeaseBook::descriptor(HolderId holder) const {
  const auto found = holders_.find(holder);
  return found == holders_.end() ? BorrowedFd(-1) : found->second.file.borrow();
}

Result<void> LeaseBook::hold(Holder& holder, ObjectId object) {
  auto& count = holder.objects[object];
  if (count == 0) {
    auto locked = lock_range_shared(holder.file.borrow(), object, 1);
    if (!locked || !*locked) {
      holder.objects.erase(object);
      if (!locked) return std::move(locked).error();
      return Error{Errc::kBusy, 0, "the lease file is locked by somebody else"};
    }
    ++pins_[object];
  }
  ++count;
  return {};
}

void LeaseBook::let_go(Holder& holder, ObjectId object) {
  const auto found = holder.objects.find(object);
  OM_ASSERT(found != holder.objects.end());
  if (--found->second > 0) return;
  holder.objects.erase(found);
  (void)unlock_range(holder.file.borrow(), object, 1);
  unpin(object);
}

void LeaseBook::unpin(ObjectId object) {
  const auto found = pins_.find(object);
  OM_ASSERT(found != pins_.end());
  if (--found->second > 0) return;
  pins_.erase(found);
  unpinned_(object);
}

Result<LeaseId> LeaseBook::lease(HolderId id, ObjectId object, std::uint64_t bytes) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return Error{Errc::kNotFound, 0, "no such holder"};
  Holder& holder = found->second;
  if (holder.leases.size() >= limits_.leases)
    return Error{Errc::kQuota, 0, "this peer holds " + std::to_string(limits_.leases) + " leases"};
  // One lease is always allowed, so that no object is too large for every reader.
  if (holder.leased_bytes > 0 &&
      (bytes > limits_.leased_bytes || holder.leased_bytes > limits_.leased_bytes - bytes))
    return Error{Errc::kQuota, 0, "this peer's leases pin as many bytes as one peer may"};
  OM_TRY(hold(holder, object));
  const LeaseId lease = next_lease_++;
  holder.leases.emplace(lease, Lease{object, bytes, 0});
  holder.leased_bytes += bytes;
  ++lease_count_;
  return lease;
}

void LeaseBook::release(HolderId id, LeaseId lease) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  Holder& holder = found->second;
  const auto entry = holder.leases.find(lease);
  if (entry == holder.leases.end()) return;
  const ObjectId object = entry->second.object;
  holder.leased_bytes -= entry->second.bytes;
  holder.leases.erase(entry);
  --lease_count_;
  let_go(holder, object);
}

Result<void> LeaseBook::pin_put(HolderId id, ObjectId object) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return Error{Errc::kNotFound, 0, "no such holder"};
  return hold(found->second, object);
}

void LeaseBook::unpin_put(HolderId id, ObjectId object) {
  const auto found = holders_.find(id);
  if (found != holders_.end()) let_go(found->second, object);
}

bool LeaseBook::holds(HolderId id, ObjectId object) const {
  const auto found = holders_.find(id);
  return found != holders_.end() && found->second.objects.count(object) != 0;
}

std::optional<ObjectId> LeaseBook::object_of(HolderId id, LeaseId lease) const {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return std::nullopt;
  const auto entry = found->second.leases.find(lease);
  return entry == found->second.leases.end() ? std::nullopt : std::optional(entry->second.object);
}

std::vector<ObjectId> LeaseBook::objects_of(HolderId id) const {
  std::vector<ObjectId> objects;
  const auto found = holders_.find(id);
  if (found != holders_.end())
    for (const auto& [object, count] : found->second.objects) objects.push_back(object);
  return objects;
}

std::vector<ObjectId> LeaseBook::pinned_objects() const {
  std::vector<ObjectId> objects;
  objects.reserve(pins_.size());
  for (const auto& [object, count] : pins_) objects.push_back(object);
  return objects;
}

void LeaseBook::close_holder(HolderId id) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  Holder holder = std::move(found->second);
  holders_.erase(found);
  lease_count_ -= holder.leases.size();
  Orphan orphan;
  for (const auto& [object, count] : holder.objects) orphan.objects.insert(object);
  // Without a probe we cannot know, and keep everything until the next start.
  if (auto probe = open_at(directory_.borrow(), std::to_string(id), O_RDWR))
    orphan.probe = *std::move(probe);
  holder.file.reset();
  if (probe_one(id, orphan)) orphans_.emplace(id, std::move(orphan));
}

bool LeaseBook::probe_one(HolderId id, Orphan& orphan) {
  if (!orphan.objects.empty() && !orphan.probe) return true;
  std::vector<ObjectId> gone;
  bool any = false;
  if (!orphan.objects.empty()) {
    const auto locked = range_is_locked(orphan.probe.borrow(), 0, kAllObjects);
    any = !locked || *locked;
  }
  if (!any) {
    gone.assign(orphan.objects.begin(), orphan.objects.end());
  } else {
    for (const ObjectId object : orphan.objects) {
      const auto locked = range_is_locked(orphan.probe.borrow(), object, 1);
      if (locked && !*locked) gone.push_back(object);
    }
  }
  for (const ObjectId object : gone) {
    orphan.objects.erase(object);
    unpin(object);
  }
  if (!orphan.objects.empty()) return true;
  (void)remove_at(directory_.borrow(), std::to_string(id));
  return false;
}

void LeaseBook::probe() {
  for (auto entry = orphans_.begin(); entry != orphans_.end();)
    entry = probe_one(entry->first, entry->second) ? std::next(entry) : orphans_.erase(entry);
}

std::vector<std::pair<HolderId, LeaseId>> LeaseBook::revoke(ObjectId object, std::uint64_t now_ns) {
  std::vector<std::pair<HolderId, LeaseId>> told;
  for (auto& [id, holder] : holders_) {
    if (holder.objects.count(object) == 0) continue;
    for (auto& [lease, entry] : holder.leases) {
      if (entry.object != object || entry.revoked_ns != 0) continue;
      entry.revoked_ns = now_ns;
      told.emplace_back(id, lease);
    }
  }
  return told;
}

std::size_t LeaseBook::overdue(std::uint64_t now_ns, std::uint64_t grace_ns) const {
  std::size_t count = 0;
  for (const auto& [id, holder] : holders_)
    for (const auto& [lease, entry] : holder.leases)
      if (entry.revoked_ns != 0 && now_ns - entry.revoked_ns > grace_ns) ++count;
  return count;
}

}  // namespace om::store
