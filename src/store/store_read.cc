// Looking objects up, and leasing them.
#include <algorithm>

#include "store/store_impl.h"

namespace om::store {

ObjectInfo StoreImpl::info_of(const catalog::Record& record) {
  ObjectInfo info;
  info.object_id = record.object_id;
  info.length = record.length;
  info.total_bytes = record.total_bytes;
  info.offset = record.offset;
  info.created_ns = record.created_ns;
  info.expires_ns = record.expires_ns;
  info.ephemeral = record.ephemeral;
  info.tier = static_cast<Tier>(record.place.tier);
  info.revision = record.revision;
  info.metadata = record.metadata;
  info.tags = record.tags;
  return info;
}

bool StoreImpl::reachable(const catalog::Place& place) const {
  return place.tier == catalog::kTierMemory ||
         std::all_of(place.extents.begin(), place.extents.end(),
                     [&](const auto& extent) { return disks_->readable(extent.segment); });
}

// What a peer may see under this key: expired objects are removed on the way.
Result<std::optional<catalog::Record>> StoreImpl::look_up(std::string_view key) {
  auto record = OM_TRY(catalog_->find(key));
  if (!record || !reachable(record->place)) return std::optional<catalog::Record>();
  if (record->expires_ns != 0 && record->expires_ns <= clock_.real_ns()) {
    bool durable = false;
    if (OM_TRY(remove_object(key, durable))) ++count_.expired;
    return std::optional<catalog::Record>();
  }
  return record;
}

Result<Leased> StoreImpl::lease(HolderId holder, const catalog::Record& record) {
  // A lease on disk weighs by its share of the disk tier, one in memory by its bytes.
  std::uint64_t weight = record.length;
  if (record.place.tier == catalog::kTierDisk && config_.holder.leased_bytes == 0)
    weight = static_cast<std::uint64_t>(
        static_cast<double>(record.length) * static_cast<double>(config_.memory_bytes) /
        static_cast<double>(std::max<std::uint64_t>(disks_->capacity(), 1)));
  Leased leased;
  leased.lease_id = OM_TRY(leases_->lease(holder, record.object_id, weight));
  leased.info = info_of(record);
  leased.extents.reserve(record.place.extents.size());
  for (const auto& extent : record.place.extents) {
    leased.extents.push_back({extent.segment, extent.offset, extent.length});
    if (kind_of(extent.segment) == SegmentKind::kFile) continue;
    // Nearly always what the same holder has just seen.
    if (last_seen_ == std::pair(holder, extent.segment)) continue;
    last_seen_ = {holder, extent.segment};
    seen_[holder].insert(extent.segment);
  }
  const bool in_memory = record.place.tier == catalog::kTierMemory;
  auto& policy = in_memory ? *memory_policy_ : *disk_policy_;
  policy.touch(record.object_id);
  if (in_memory) show(record);
  return leased;
}

Result<std::optional<Leased>> StoreImpl::get(HolderId holder, std::string_view key) {
  auto leased = OM_TRY(get_other_than(holder, key, 0, 0));
  if (!leased) ++count_.misses;
  return leased;
}

Result<std::optional<Leased>> StoreImpl::get_other_than(HolderId holder, std::string_view key,
                                                        ObjectId stale, std::uint32_t revision) {
  // As look_up(), without a copy of the record where all is well.
  auto seen = OM_TRY(catalog_->look(key));
  std::optional<catalog::Record> copy;
  const catalog::Record* record = nullptr;
  if (seen != nullptr && reachable(seen->place) &&
      (seen->expires_ns == 0 || seen->expires_ns > clock_.real_ns())) {
    record = &*seen;
  } else if (seen != nullptr) {
    copy = OM_TRY(look_up(key));
    if (copy) record = &*copy;
  }
  if (record == nullptr || (record->object_id == stale && record->revision == revision))
    return std::optional<Leased>();
  auto leased = OM_TRY(lease(holder, *record));
  ++count_.hits;
  return std::optional<Leased>(std::move(leased));
}

Result<SegmentView> StoreImpl::segment(HolderId holder, SegmentId id) {
  const Error unknown{Errc::kNotFound, 0, "no lease of yours lies in this segment"};
  if (kind_of(id) == SegmentKind::kFile) {
    if (!leases_->holds(holder, number_of(id))) return unknown;
    return disks_->reader(id);
  }
  if (kind_of(id) == SegmentKind::kStaging) return staging_view(holder, id);
  const auto seen = seen_.find(holder);
  if (seen == seen_.end() || seen->second.count(id) == 0) return unknown;
  if (kind_of(id) == SegmentKind::kMemory) {
    pages_->may_read(holder);
    return memory_->reader(id);
  }
  if (kind_of(id) == SegmentKind::kPack) return disks_->reader(id);
  return unknown;
}

Result<std::optional<ObjectInfo>> StoreImpl::stat(std::string_view key) {
  const auto record = OM_TRY(look_up(key));
  if (!record) return std::optional<ObjectInfo>();
  return std::optional<ObjectInfo>(info_of(*record));
}

Result<ListPage> StoreImpl::list(std::string_view prefix, std::string_view after,
                                 std::size_t limit) {
  if (limit == 0 || limit > 8192) limit = 1000;
  const std::uint64_t now = clock_.real_ns();
  ListPage page;
  const auto add = [&](const catalog::Record& record) {
    if (!reachable(record.place) || (record.expires_ns != 0 && record.expires_ns <= now))
      return true;
    if (page.items.size() == limit) {
      page.more = true;
      return false;
    }
    page.items.push_back({record.key, record.length, record.created_ns, record.expires_ns,
                          static_cast<Tier>(record.place.tier), ""});
    return true;
  };
  OM_TRY(catalog_->list(prefix, after, ~std::size_t{0}, add));
  return page;
}

Result<std::uint64_t> StoreImpl::revoke(std::string_view key) {
  const auto record = OM_TRY(catalog_->find(key));
  if (!record) return std::uint64_t{0};
  std::uint64_t asked = 0;
  for (const auto& [holder, lease_id] : leases_->revoke(record->object_id, clock_.monotonic_ns())) {
    emit(EventKind::kRevoked, key, record->object_id, lease_id, holder);
    ++count_.revoked;
    ++asked;
  }
  return asked;
}

}  // namespace om::store
