#include "store/lease_book.h"

#include <fcntl.h>

#include <algorithm>
#include <charconv>

#include "base/assert.h"
#include "posix/file.h"
#include "posix/memfd.h"
#include "posix/range_lock.h"

namespace om::store {

namespace {

// Bytes of a lease file are objects: no id is above this (off_t).
constexpr std::uint64_t kAllObjects = std::uint64_t{1} << 62;

// More than a holder's locks are in (LeaseLocks::kBlocksMax), which the kernel may have merged.
constexpr std::size_t kRangesMax = 1024;

constexpr std::size_t kToldAtOnceMax = 64;

// What other descriptions have locked, the first `max` ranges in order.
Result<std::vector<LockedRange>> locked_ranges(BorrowedFd file, std::size_t max) {
  std::vector<LockedRange> ranges;
  std::uint64_t from = 0;
  while (from < kAllObjects && ranges.size() < max) {
    const auto range = OM_TRY(first_locked(file, from, kAllObjects - from));
    if (!range) break;
    ranges.push_back(*range);
    from = std::min(range->offset + range->length, kAllObjects);
  }
  return ranges;
}

// `ranges` in order.
bool in_one_of(const std::vector<LockedRange>& ranges, ObjectId object) {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), object,
                       [](ObjectId id, const LockedRange& range) { return id < range.offset; });
  return after != ranges.begin() && object - std::prev(after)->offset < std::prev(after)->length;
}

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
    Orphan orphan{OM_TRY(open_at(directory_.borrow(), name, O_RDWR)), {}, {}};
    orphan.ranges = OM_TRY(locked_ranges(orphan.probe.borrow(), kRangesMax + 1));
    // A peer may lock what it likes. As many ranges as we make ourselves are kept apart; what is
    // beyond counts as locked altogether.
    if (orphan.ranges.size() > kRangesMax) {
      orphan.ranges.pop_back();
      orphan.ranges.back().length = kAllObjects - orphan.ranges.back().offset;
    }
    if (orphan.ranges.empty()) {
      OM_TRY(remove_at(directory_.borrow(), name));
      continue;
    }
    recovered_.insert(recovered_.end(), orphan.ranges.begin(), orphan.ranges.end());
    orphans_.emplace(*id, std::move(orphan));
  }
  const auto before = [](const LockedRange& a, const LockedRange& b) {
    return a.offset < b.offset;
  };
  std::sort(recovered_.begin(), recovered_.end(), before);
  std::vector<LockedRange> merged;
  for (const LockedRange& range : recovered_) {
    if (merged.empty() || range.offset > merged.back().offset + merged.back().length)
      merged.push_back(range);
    else
      merged.back().length =
          std::max(merged.back().offset + merged.back().length, range.offset + range.length) -
          merged.back().offset;
  }
  recovered_ = std::move(merged);
  return {};
}

void LeaseBook::claim(ObjectId object) {
  if (!in_one_of(recovered_, object)) return;
  for (auto& [id, orphan] : orphans_)
    if (in_one_of(orphan.ranges, object) && orphan.objects.insert(object).second) ++pins_[object];
}

void LeaseBook::end_recovery() {
  recovered_.clear();
  for (auto entry = orphans_.begin(); entry != orphans_.end();) {
    entry->second.ranges.clear();
    if (!entry->second.objects.empty()) {
      ++entry;
      continue;
    }
    (void)remove_at(directory_.borrow(), std::to_string(entry->first));
    entry = orphans_.erase(entry);
  }
}

Result<HolderId> LeaseBook::open_holder(const PeerCredentials& peer) {
  const HolderId id = next_holder_++;
  const std::string name = std::to_string(id);
  (void)OM_TRY(open_at(directory_.borrow(), name, O_RDWR | O_CREAT | O_EXCL));
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

Result<UniqueFd> LeaseBook::release_page(HolderId id) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return Error{Errc::kNotFound, 0, "no such holder"};
  if (found->second.page) return Error{Errc::kExists, 0, "the page was handed out before"};
  UniqueFd page = OM_TRY(make_memfd("objmapper-releases", kReleaseRingBytes));
  // So its peer can write what it likes, but not make us fault on it.
  OM_TRY(seal_length(page.borrow()));
  found->second.page = OM_TRY(Mapping::of(page.borrow(), 0, kReleaseRingBytes, Access::kReadWrite));
  return page;
}

bool LeaseBook::collect(Holder& holder) {
  if (!holder.page) return false;
  bool any = false;
  reinterpret_cast<ReleaseRing*>(holder.page.data())->take(holder.taken, [&](LeaseId lease) {
    any = release(holder, lease) || any;
  });
  return any;
}

void LeaseBook::collect(HolderId id) {
  if (const auto found = holders_.find(id); found != holders_.end()) (void)collect(found->second);
}

bool LeaseBook::collect_all() {
  bool any = false;
  for (auto& [id, holder] : holders_) any = collect(holder) || any;
  return any;
}

void LeaseBook::settle() {
  for (auto& [id, holder] : holders_) {
    if (holder.settling) holder.locks.settle(holder.file.borrow());
    holder.settling = holder.locks.idle() > 0;
  }
}

Result<void> LeaseBook::hold(Holder& holder, ObjectId object) {
  if (auto* const known = holder.objects.find(object)) {
    ++known->second;
    return {};
  }
  OM_TRY(holder.locks.add(holder.file.borrow(), object));
  holder.objects[object] = 1;
  ++pins_[object];
  return {};
}

void LeaseBook::let_go(Holder& holder, ObjectId object) {
  auto* const found = holder.objects.find(object);
  OM_ASSERT(found != nullptr);
  if (--found->second > 0) return;
  holder.objects.erase(found);
  holder.locks.remove(holder.file.borrow(), object);
  unpin(object);
}

void LeaseBook::unpin(ObjectId object) {
  auto* const found = pins_.find(object);
  OM_ASSERT(found != nullptr);
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
  if (holder.overdue > 0)
    return Error{Errc::kQuota, 0,
                 "this peer was asked to give leases back and keeps " +
                     std::to_string(holder.overdue) + ": first let go of those"};
  // One lease is always allowed, so that no object is too large for every reader.
  if (holder.leased_bytes > 0 &&
      (bytes > limits_.leased_bytes || holder.leased_bytes > limits_.leased_bytes - bytes))
    return Error{Errc::kQuota, 0, "this peer's leases pin as many bytes as one peer may"};
  OM_TRY(hold(holder, object));
  const LeaseId lease = next_lease_++;
  holder.leases[lease] = {object, bytes};
  holder.leased_bytes += bytes;
  ++lease_count_;
  return lease;
}

Lent LeaseBook::lend(HolderId id, ObjectId first, std::uint32_t count, std::uint64_t bytes) {
  Lent lent{first, next_lease_, 0};
  const auto found = holders_.find(id);
  if (found == holders_.end() || found->second.overdue > 0 || count == 0) return lent;
  Holder& holder = found->second;
  const std::uint64_t each = bytes / count;
  std::uint64_t most = limits_.leases - std::min(limits_.leases, holder.leases.size());
  if (each > 0)
    most = std::min(
        most, (limits_.leased_bytes - std::min(limits_.leased_bytes, holder.leased_bytes)) / each);
  for (; lent.count < count && lent.count < most; ++lent.count) {
    const ObjectId object = first + lent.count;
    if (!hold(holder, object)) break;
    holder.leases[next_lease_++] = {object, each, 0, 0, false, true};
    holder.leased_bytes += each;
    ++lease_count_;
  }
  return lent;
}

void LeaseBook::use(HolderId id, LeaseId lease, std::uint64_t bytes) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  auto* const entry = found->second.leases.find(lease);
  if (entry == nullptr) return;
  found->second.leased_bytes += bytes - entry->second.bytes;
  entry->second.bytes = bytes;
  entry->second.unused = false;
}

void LeaseBook::release(HolderId id, LeaseId lease) {
  if (const auto found = holders_.find(id); found != holders_.end())
    (void)release(found->second, lease);
}

bool LeaseBook::release(Holder& holder, LeaseId lease) {
  auto* const entry = holder.leases.find(lease);
  if (entry == nullptr || entry->second.noted) return false;
  const ObjectId object = entry->second.object;
  forget(holder, entry);
  let_go(holder, object);
  return true;
}

void LeaseBook::forget(Holder& holder, FlatMap<Lease>::Entry* entry) {
  holder.leased_bytes -= entry->second.bytes;
  if (entry->second.revoked_ns != 0) --holder.revoked;
  if (entry->second.overdue) --holder.overdue;
  if (entry->second.noted) --holder.noted;
  holder.leases.erase(entry);
  --lease_count_;
}

void LeaseBook::note(HolderId id, LeaseId lease, ObjectId object, std::uint64_t bytes) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  Holder& holder = found->second;
  Lease entry;
  entry.object = object;
  entry.bytes = bytes;
  entry.noted = true;
  OM_ASSERT(!holder.leases.contains(lease));
  holder.leases[lease] = entry;
  holder.leased_bytes += bytes;
  ++holder.noted;
  ++lease_count_;
}

void LeaseBook::strike(HolderId id, LeaseId lease) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  if (auto* const entry = found->second.leases.find(lease)) forget(found->second, entry);
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
  return found != holders_.end() && found->second.objects.contains(object);
}

std::optional<ObjectId> LeaseBook::object_of(HolderId id, LeaseId lease) const {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return std::nullopt;
  const auto* const entry = found->second.leases.find(lease);
  return entry == nullptr ? std::nullopt : std::optional(entry->second.object);
}

std::vector<ObjectId> LeaseBook::objects_of(HolderId id) const {
  std::vector<ObjectId> objects;
  const auto found = holders_.find(id);
  if (found != holders_.end())
    found->second.objects.for_each(
        [&](ObjectId object, std::uint32_t /*count*/) { objects.push_back(object); });
  return objects;
}

void LeaseBook::close_holder(HolderId id) {
  const auto found = holders_.find(id);
  if (found == holders_.end()) return;
  (void)collect(found->second);
  Holder holder = std::move(found->second);
  holders_.erase(found);
  lease_count_ -= holder.leases.size();
  Orphan orphan;
  holder.objects.for_each(
      [&](ObjectId object, std::uint32_t /*count*/) { orphan.objects.insert(object); });
  // Without a probe we cannot know, and keep everything until the next start.
  if (auto probe = open_at(directory_.borrow(), std::to_string(id), O_RDWR))
    orphan.probe = *std::move(probe);
  holder.file.reset();
  if (probe_one(id, orphan)) orphans_.emplace(id, std::move(orphan));
}

bool LeaseBook::probe_one(HolderId id, Orphan& orphan) {
  if (!orphan.objects.empty() && !orphan.probe) return true;
  std::vector<ObjectId> gone;
  if (!orphan.objects.empty()) {
    // Locks are few (lease_locks.h) where objects may be many, and most stay locked: a system call
    // for each range, and one for each object that lies in none of them. That one decides: ranges
    // of several descriptions, or of very many, may not all have been seen.
    const auto ranges = locked_ranges(orphan.probe.borrow(), kRangesMax);
    if (!ranges) return true;
    for (const ObjectId object : orphan.objects) {
      if (in_one_of(*ranges, object)) continue;
      const auto locked =
          ranges->empty() ? Result<bool>(false) : range_is_locked(orphan.probe.borrow(), object, 1);
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

std::vector<ObjectId> LeaseBook::revocable(std::uint64_t now_ns, std::uint64_t grace_ns) const {
  std::vector<ObjectId> objects;
  for (const auto& [id, holder] : holders_)
    holder.leases.for_each([&](LeaseId /*id*/, const Lease& entry) {
      if (!entry.unused && (entry.revoked_ns == 0 || now_ns - entry.revoked_ns <= grace_ns))
        objects.push_back(entry.object);
    });
  std::sort(objects.begin(), objects.end());
  objects.erase(std::unique(objects.begin(), objects.end()), objects.end());
  // They would stay where they are all the same.
  const auto has_an_orphan = [this](ObjectId object) {
    return std::ranges::any_of(
        orphans_, [object](const auto& one) { return one.second.objects.contains(object); });
  };
  if (!orphans_.empty()) std::erase_if(objects, has_an_orphan);
  return objects;
}

std::vector<std::pair<HolderId, LeaseId>> LeaseBook::revoke(ObjectId object, std::uint64_t now_ns) {
  std::vector<std::pair<HolderId, LeaseId>> told;
  for (auto& [id, holder] : holders_) {
    if (holder.noted == 0 && !holder.objects.contains(object)) continue;
    holder.leases.for_each([&, holder_id = id, &of = holder](LeaseId lease, Lease& entry) {
      if (entry.object != object || entry.revoked_ns != 0 || entry.unused) return;
      entry.revoked_ns = entry.told_ns = now_ns;
      ++of.revoked;
      told.emplace_back(holder_id, lease);
    });
  }
  return told;
}

std::size_t LeaseBook::mark_overdue(std::uint64_t now_ns, std::uint64_t grace_ns) {
  std::size_t count = 0;
  for (auto& [id, holder] : holders_) {
    if (holder.revoked > holder.overdue)
      holder.leases.for_each([&, &of = holder](LeaseId /*id*/, Lease& entry) {
        if (entry.revoked_ns == 0 || entry.overdue || now_ns - entry.revoked_ns <= grace_ns) return;
        entry.overdue = true;
        ++of.overdue;
      });
    count += holder.overdue;
  }
  return count;
}

std::vector<LeaseBook::Overdue> LeaseBook::tell_again(std::uint64_t now_ns,
                                                      std::uint64_t grace_ns) {
  std::vector<Overdue> told;
  for (auto& [id, holder] : holders_) {
    if (holder.overdue == 0) continue;
    holder.leases.for_each([&, holder_id = id](LeaseId lease, Lease& entry) {
      if (!entry.overdue || now_ns - entry.told_ns <= grace_ns || told.size() == kToldAtOnceMax)
        return;
      entry.told_ns = now_ns;
      told.push_back({holder_id, lease, entry.object});
    });
  }
  return told;
}

}  // namespace om::store
