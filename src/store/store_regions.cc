// Regions: files that one owner allocates in by itself. <memory-dir>/regions/<escaped owner>, 0600,
// fallocated to their size; part of the memory tier's capacity. The daemon never maps them.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <span>

#include "base/units.h"
#include "posix/file.h"
#include "posix/range_lock.h"
#include "region/format.h"
#include "region/list.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::size_t kNameMax = 240;  // NAME_MAX less what we append

bool plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '_' || c == '.';
}

// A file name that says the owner, and can be turned back: other bytes as %xx, so is a first dot.
std::string escape(std::string_view owner) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string name;
  for (const char c : owner) {
    if (plain(c) && !(c == '.' && name.empty())) {
      name += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      name += '%';
      name += kDigits[byte >> 4];
      name += kDigits[byte & 15];
    }
  }
  return name;
}

std::optional<std::string> unescape(std::string_view name) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  std::string owner;
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] != '%') {
      owner += name[i];
      continue;
    }
    if (name.size() - i < 3 || digit(name[i + 1]) < 0 || digit(name[i + 2]) < 0)
      return std::nullopt;
    owner += static_cast<char>(digit(name[i + 1]) * 16 + digit(name[i + 2]));
    i += 2;
  }
  return escape(owner) == name ? std::optional(owner) : std::nullopt;
}

}  // namespace

Result<void> StoreImpl::recover_regions(bool rebooted) {
  regions_dir_ = OM_TRY(open_directory(config_.memory_dir + "/regions"));
  for (const auto& name : OM_TRY(list_directory(regions_dir_.borrow()))) {
    const auto owner = unescape(name);
    if (!owner || owner->empty()) {
      OM_TRY(remove_at(regions_dir_.borrow(), name));  // one that was being made
      continue;
    }
    const auto file = OM_TRY(open_at(regions_dir_.borrow(), name, O_RDWR));
    if (rebooted && !OM_TRY(range_is_locked(file.borrow(), 0, 1))) {
      OM_TRY(remove_at(regions_dir_.borrow(), name));
      continue;
    }
    Region region;
    region.id = next_region_++;
    region.memory_bytes = OM_TRY(file_size(file.borrow()));
    region.disk_bytes = disks_->region_bytes(name);
    memory_->count_region(region.memory_bytes);
    regions_.emplace(*owner, region);
  }
  return {};
}

// Free segments first, then those whose objects can go.
bool StoreImpl::free_memory_for_region(std::uint64_t bytes) {
  while (!memory_->shrink_for(bytes))
    if (!evict_from(*memory_policy_) && !leases_->collect_all()) return memory_->shrink_for(bytes);
  return true;
}

Result<RegionGrant> StoreImpl::open_region(std::string_view owner, std::uint64_t memory_bytes,
                                           std::uint64_t disk_bytes, std::uint32_t pid) {
  const std::string name = escape(owner);
  if (owner.empty() || owner.size() > kOwnerBytesMax || name.size() > kNameMax)
    return Error{Errc::kMalformed, 0, "an owner's name has 1 to 240 bytes as a file name"};
  memory_bytes = round_up(memory_bytes, kPage);
  if (memory_bytes == 0 || memory_bytes > (std::uint64_t{1} << 46))
    return Error{Errc::kMalformed, 0, "a region has memory"};

  auto known = regions_.find(std::string(owner));
  UniqueFd file;
  if (known != regions_.end()) {
    auto opened = open_at(regions_dir_.borrow(), name, O_RDWR);
    if (opened) {
      file = *std::move(opened);
      if (OM_TRY(range_is_locked(file.borrow(), 0, 1)))
        return Error{Errc::kBusy, 0, "the region of " + std::string(owner) + " is in use"};
    }
    if (file && memory_bytes < known->second.memory_bytes) {
      // Its user keeps what lies below the new end. Locked, so that nobody maps the rest meanwhile.
      if (!OM_TRY(lock_range_exclusive(file.borrow(), 0, 1)))
        return Error{Errc::kBusy, 0, "the region of " + std::string(owner) + " is in use"};
      OM_TRY(resize(file.borrow(), memory_bytes));
      OM_TRY(unlock_range(file.borrow(), 0, 1));
      memory_->return_region(known->second.memory_bytes - memory_bytes);
      known->second.memory_bytes = memory_bytes;
    }
    if (!file) {
      // Gone behind our back: another one.
      OM_TRY(remove_at(regions_dir_.borrow(), name));
      memory_->return_region(known->second.memory_bytes);
      disks_->drop_region(name);
      regions_.erase(known);
      known = regions_.end();
    }
  }
  const std::uint64_t had = known == regions_.end() ? 0 : known->second.memory_bytes;
  const std::uint64_t more = memory_bytes - had;
  const std::uint64_t share = config_.memory_bytes / 100 * config_.region_percent_max +
                              config_.memory_bytes % 100 * config_.region_percent_max / 100;
  if (more > 0) {
    const std::uint64_t others = memory_->region_bytes();
    if (more > share || others > share - more)
      return Error{Errc::kNoSpace, 0,
                   format_size(memory_bytes) + " for a region are not to be had: regions have " +
                       format_size(others) + " of " + format_size(share)};
    if (!memory_->promise_region(more) &&
        !(free_memory_for_region(more) && memory_->promise_region(more)))
      return Error{Errc::kNoSpace, 0,
                   format_size(memory_bytes) +
                       " for a region are not to be had: shared objects that are leased keep the "
                       "rest of " +
                       format_size(config_.memory_bytes)};
  }
  const bool fresh = known == regions_.end();
  const auto make = [&]() -> Result<void> {
    if (fresh) {
      // Under another name until it is whole: '%' alone is no escaped owner.
      const std::string temporary = "%" + name;
      OM_TRY(remove_at(regions_dir_.borrow(), temporary));
      file = OM_TRY(open_at(regions_dir_.borrow(), temporary, O_RDWR | O_CREAT | O_EXCL));
      auto sized = resize(file.borrow(), memory_bytes);
      if (sized) sized = allocate(file.borrow(), 0, memory_bytes);
      if (sized) sized = rename_at(regions_dir_.borrow(), temporary, name);
      if (!sized) (void)remove_at(regions_dir_.borrow(), temporary);
      return sized;
    }
    if (more == 0) return {};
    OM_TRY(allocate(file.borrow(), had, more));  // sets the length as well
    return {};
  };
  std::optional<UniqueFd> directory;
  auto made = make();
  if (made && disk_bytes > 0) {
    auto opened = disks_->region_directory(name, disk_bytes);
    if (opened)
      directory = *std::move(opened);
    else
      made = std::move(opened).error();
  }
  if (!made) {
    if (fresh) (void)remove_at(regions_dir_.borrow(), name);
    // A grown file that found no disk keeps its old promise; its tail is given back.
    if (!fresh && more > 0) (void)resize(file.borrow(), had);
    memory_->return_region(more);
    return std::move(made).error();
  }
  if (disk_bytes == 0) disks_->drop_region(name);
  Region& region = regions_[std::string(owner)];
  if (region.id == 0) region.id = next_region_++;
  region.memory_bytes = memory_bytes;
  region.disk_bytes = disk_bytes;
  region.pid = pid;
  RegionGrant grant;
  grant.region_id = region.id;
  grant.fresh = fresh;
  grant.memory = std::move(file);
  grant.memory_bytes = memory_bytes;
  grant.disk_bytes = disk_bytes;
  grant.directory = std::move(directory);
  return grant;
}

Result<std::vector<RegionInfo>> StoreImpl::list_regions() {
  std::vector<RegionInfo> all;
  for (const auto& [owner, region] : regions_) {
    bool held = false;
    if (const auto file = open_at(regions_dir_.borrow(), escape(owner), O_RDWR))
      held = OM_TRY(range_is_locked(file->borrow(), 0, 1));
    all.push_back({owner, region.memory_bytes, region.disk_bytes, held, region.pid});
  }
  // Of owners that have not come back since the memory went.
  for (const auto& name : disks_->region_names())
    if (const auto owner = unescape(name); owner && regions_.count(*owner) == 0)
      all.push_back({*owner, 0, disks_->region_bytes(name), false, 0});
  return all;
}

Result<void> StoreImpl::drop_region(std::string_view owner) {
  const auto found = regions_.find(std::string(owner));
  const std::string name = escape(owner);
  if (found == regions_.end() && disks_->region_bytes(name) > 0) {
    disks_->drop_region(name);
    return {};
  }
  if (found == regions_.end())
    return Error{Errc::kNotFound, 0, "there is no region of " + std::string(owner)};
  if (const auto file = open_at(regions_dir_.borrow(), name, O_RDWR))
    if (OM_TRY(range_is_locked(file->borrow(), 0, 1)))
      return Error{Errc::kBusy, 0, "the region of " + std::string(owner) + " is in use"};
  OM_TRY(remove_at(regions_dir_.borrow(), name));
  memory_->return_region(found->second.memory_bytes);
  disks_->drop_region(name);
  regions_.erase(found);
  return {};
}

Result<void> StoreImpl::drain_region(std::string_view owner, bool on) {
  if (regions_.count(std::string(owner)) == 0)
    return Error{Errc::kNotFound, 0, "there is no region of " + std::string(owner)};
  const UniqueFd file = OM_TRY(open_at(regions_dir_.borrow(), escape(owner), O_RDWR));
  // The one word that we write; its user looks at it before each new object.
  const std::uint64_t word = on ? 1 : 0;
  return write_exactly(file.borrow(), offsetof(region::RegionHeader, drain),
                       std::as_bytes(std::span(&word, 1)));
}

Result<ListPage> StoreImpl::list_region_objects(std::string_view prefix, std::string_view after,
                                                std::size_t limit) {
  if (limit == 0 || limit > 8192) limit = 1000;
  std::vector<ListItem> found;
  for (const auto& [owner, region] : regions_) {
    const auto file = open_at(regions_dir_.borrow(), escape(owner), O_RDONLY);
    if (!file) continue;
    const std::string stem = "varnish:" + owner + "/";
    const auto add = [&](const region::ListedObject& object) {
      std::string key = stem + std::to_string(object.vxid);
      if (key.compare(0, prefix.size(), prefix) != 0 || key <= after) return true;
      ListItem item;
      item.key = std::move(key);
      item.length = object.body_length;
      item.created_ns = static_cast<std::uint64_t>(std::max(0.0, object.timers.t_origin) * 1e9);
      item.url = std::string(object.host) + std::string(object.url);
      item.url.resize(std::min(item.url.size(), kKeyBytesMax));
      found.push_back(std::move(item));
      return true;
    };
    (void)region::list_objects(file->borrow(), add);  // one that is not formatted yet lists nothing
  }
  std::sort(found.begin(), found.end(),
            [](const ListItem& a, const ListItem& b) { return a.key < b.key; });
  ListPage page;
  page.more = found.size() > limit;
  if (page.more) found.resize(limit);
  page.items = std::move(found);
  return page;
}

}  // namespace om::store
