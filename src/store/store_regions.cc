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
#include "store/region_listing.h"
#include "store/store_impl.h"

namespace om::store {

namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::size_t kNameMax = 240;  // NAME_MAX less what we append
// Set aside, or given back, at one go: some 20 ms.
constexpr std::uint64_t kRegionPiece = std::uint64_t{32} << 20;
// Objects that make room in one turn of the loop.
constexpr int kEvictedPerTurn = 64;
// Of what regions hold, at a time.
constexpr std::size_t kListsMax = 64;

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

// --- opening: what is asked for is checked, promised, set aside piece by piece on the worker's
// thread (nothing else waits for more than a piece), and handed out.

void StoreImpl::open_region(std::string_view owner, std::uint64_t memory_bytes,
                            std::uint64_t disk_bytes, std::uint32_t pid, RegionDone done) {
  auto begun = begin_region(owner, memory_bytes, disk_bytes, pid);
  if (!begun) return done(std::move(begun).error());
  (*begun)->done = std::move(done);
  regions_at_work_.insert((*begun)->owner);
  make_room_for(*begun);
}

Result<StoreImpl::RegionWorkRef> StoreImpl::begin_region(std::string_view owner,
                                                         std::uint64_t memory_bytes,
                                                         std::uint64_t disk_bytes,
                                                         std::uint32_t pid) {
  auto work = std::make_shared<RegionWork>();
  work->owner = owner;
  work->name = escape(owner);
  // '%' alone is no escaped owner.
  work->temporary = "%" + work->name;
  if (owner.empty() || owner.size() > kOwnerBytesMax || work->name.size() > kNameMax)
    return Error{Errc::kMalformed, 0, "an owner's name has 1 to 240 bytes as a file name"};
  if (memory_bytes == 0 || memory_bytes > (std::uint64_t{1} << 46))
    return Error{Errc::kMalformed, 0, "a region has memory"};
  work->memory_bytes = round_up(memory_bytes, kPage);
  work->disk_bytes = disk_bytes;
  work->pid = pid;
  const Error busy{Errc::kBusy, 0, "the region of " + work->owner + " is in use"};
  if (regions_at_work_.count(work->owner) != 0) return busy;

  auto known = regions_.find(work->owner);
  if (known != regions_.end()) {
    auto opened = open_at(regions_dir_.borrow(), work->name, O_RDWR);
    if (opened) {
      work->file = *std::move(opened);
      if (OM_TRY(range_is_locked(work->file.borrow(), 0, 1))) return busy;
      // Its user keeps what lies below the new end. Locked, so that nobody maps the rest meanwhile.
      if (!OM_TRY(lock_range_exclusive(work->file.borrow(), 0, 1))) return busy;
      work->locked = true;
    } else {
      // Gone behind our back: another one.
      OM_TRY(remove_at(regions_dir_.borrow(), work->name));
      memory_->return_region(known->second.memory_bytes);
      disks_->drop_region(work->name);
      regions_.erase(known);
      known = regions_.end();
    }
  }
  work->fresh = known == regions_.end();
  work->had = work->fresh ? 0 : known->second.memory_bytes;
  work->at = work->had;
  if (work->memory_bytes > work->had) {
    const std::uint64_t more = work->memory_bytes - work->had;
    const std::uint64_t share = config_.memory_bytes / 100 * config_.region_percent_max +
                                config_.memory_bytes % 100 * config_.region_percent_max / 100;
    const std::uint64_t others = memory_->region_bytes();
    if (more > share || others > share - more)
      return Error{Errc::kNoSpace, 0,
                   format_size(work->memory_bytes) +
                       " for a region are not to be had: regions have " + format_size(others) +
                       " of " + format_size(share)};
  }
  return work;
}

// Free segments first, then those whose objects can go; a part of it in each turn of the loop.
void StoreImpl::make_room_for(const RegionWorkRef& work) {
  const std::uint64_t more = work->memory_bytes > work->had ? work->memory_bytes - work->had : 0;
  for (int i = 0; i < kEvictedPerTurn; ++i) {
    if (more == 0 || memory_->promise_region(more)) {
      if (work->fresh) {
        (void)remove_at(regions_dir_.borrow(), work->temporary);
        auto made = open_at(regions_dir_.borrow(), work->temporary, O_RDWR | O_CREAT | O_EXCL);
        if (made)
          work->file = *std::move(made);
        else
          work->result = std::move(made).error();
      }
      return work->result ? resize_region(work) : finish_region(work);
    }
    if (memory_->shrink_for(more)) continue;
    if (evict_from(*memory_policy_) || collect_all()) continue;
    if (memory_->shrink_for(more)) continue;
    return end_region_work(
        work, Error{Errc::kNoSpace, 0,
                    format_size(work->memory_bytes) +
                        " for a region are not to be had: shared objects that are leased keep the "
                        "rest of " +
                        format_size(config_.memory_bytes)});
  }
  worker_->post([this, work] { make_room_for(work); });
}

// The next piece of the file, there or away.
void StoreImpl::resize_region(const RegionWorkRef& work) {
  if (!work->result || work->at == work->memory_bytes) return finish_region(work);
  worker_->run(
      [work] {
        if (work->at < work->memory_bytes) {
          const std::uint64_t piece = std::min(kRegionPiece, work->memory_bytes - work->at);
          work->result = allocate(work->file.borrow(), work->at, piece);
          work->at += piece;
        } else {
          work->at -= std::min(kRegionPiece, work->at - work->memory_bytes);
          work->result = resize(work->file.borrow(), work->at);
        }
      },
      [this, work] { resize_region(work); });
}

void StoreImpl::finish_region(const RegionWorkRef& work) {
  const std::uint64_t more = work->memory_bytes > work->had ? work->memory_bytes - work->had : 0;
  if (work->result && work->fresh)
    work->result = rename_at(regions_dir_.borrow(), work->temporary, work->name);
  const bool renamed = work->result && work->fresh;
  std::optional<UniqueFd> directory;
  if (work->result && work->disk_bytes > 0) {
    auto opened = disks_->region_directory(work->name, work->disk_bytes);
    if (opened)
      directory = *std::move(opened);
    else
      work->result = std::move(opened).error();
  }
  if (!work->result) {
    if (work->fresh) (void)remove_at(regions_dir_.borrow(), renamed ? work->name : work->temporary);
    // A grown file that found no disk keeps its old promise; its tail is given back.
    if (!work->fresh && more > 0) (void)resize(work->file.borrow(), work->had);
    memory_->return_region(more);
    return end_region_work(work, std::move(work->result).error());
  }
  if (work->disk_bytes == 0) disks_->drop_region(work->name);
  if (work->memory_bytes < work->had) memory_->return_region(work->had - work->memory_bytes);
  Region& region = regions_[work->owner];
  if (region.id == 0) region.id = next_region_++;
  region.memory_bytes = work->memory_bytes;
  region.disk_bytes = work->disk_bytes;
  region.pid = work->pid;
  RegionGrant grant;
  grant.region_id = region.id;
  grant.fresh = work->fresh;
  grant.memory_bytes = work->memory_bytes;
  grant.disk_bytes = work->disk_bytes;
  grant.directory = std::move(directory);
  if (work->locked) (void)unlock_range(work->file.borrow(), 0, 1);
  work->locked = false;
  grant.memory = std::move(work->file);
  end_region_work(work, std::move(grant));
}

void StoreImpl::end_region_work(const RegionWorkRef& work, Result<RegionGrant> answer) {
  regions_at_work_.erase(work->owner);
  work->file.reset();  // and its lock
  work->done(std::move(answer));
}

// Unlinking a large file at once would hold up whatever waits for the worker: piece by piece.
void StoreImpl::empty_file(UniqueFd file, const std::string& name, std::uint64_t size,
                           std::function<void()> then) {
  const std::uint64_t left = size - std::min(size, kRegionPiece);
  auto held = std::make_shared<UniqueFd>(std::move(file));
  worker_->run([held, left] { (void)resize(held->borrow(), left); },
               [this, held, name, left, then = std::move(then)]() mutable {
                 if (left > 0) return empty_file(std::move(*held), name, left, std::move(then));
                 (void)remove_at(regions_dir_.borrow(), name);
                 then();
               });
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

void StoreImpl::drop_region(std::string_view owner, std::function<void(Result<void>)> done) {
  const auto found = regions_.find(std::string(owner));
  const std::string name = escape(owner);
  const Error busy{Errc::kBusy, 0, "the region of " + std::string(owner) + " is in use"};
  if (regions_at_work_.count(std::string(owner)) != 0) return done(busy);
  if (found == regions_.end() && disks_->region_bytes(name) > 0) {
    disks_->drop_region(name);
    return done({});
  }
  if (found == regions_.end())
    return done(Error{Errc::kNotFound, 0, "there is no region of " + std::string(owner)});
  auto file = open_at(regions_dir_.borrow(), name, O_RDWR);
  const std::string gone = "%gone." + std::to_string(found->second.id);
  if (file) {
    // The lock is held until the file is gone, so that no client gets at it any more.
    const auto locked = lock_range_exclusive(file->borrow(), 0, 1);
    if (!locked) return done(locked.error());
    if (!*locked) return done(busy);
    if (auto renamed = rename_at(regions_dir_.borrow(), name, gone); !renamed)
      return done(std::move(renamed));
  }
  const std::uint64_t bytes = found->second.memory_bytes;
  disks_->drop_region(name);
  regions_.erase(found);
  const auto end = [this, bytes, done = std::move(done)] {
    memory_->return_region(bytes);
    done({});
  };
  if (!file) return end();
  empty_file(*std::move(file), gone, bytes, end);
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

void StoreImpl::list_region_objects(std::string_view prefix, std::string_view after,
                                    std::size_t limit, Unwanted unwanted, ListDone done) {
  if (lists_under_way_ >= kListsMax)
    return done(Error{Errc::kBusy, 0, "too many lists of regions are under way: ask again"});
  if (list_worker_ == nullptr) {
    auto started = worker_->start_beside();
    if (!started) return done(std::move(started).error());
    list_worker_ = *std::move(started);
  }
  if (limit == 0 || limit > 8192) limit = 1000;
  const auto listing = std::make_shared<RegionListing>(prefix, after, limit);
  for (const auto& [owner, region] : regions_) listing->add_region(owner, escape(owner));
  const auto is_unwanted = [unwanted = std::move(unwanted)] {
    return unwanted != nullptr && unwanted->load(std::memory_order_relaxed);
  };
  ++lists_under_way_;
  list_worker_->run(
      [this, listing, is_unwanted, directory = regions_dir_.borrow()] {
        listing->read(directory, [this, &is_unwanted] {
          return lists_end_.load(std::memory_order_relaxed) || is_unwanted();
        });
      },
      [this, listing, is_unwanted, done = std::move(done)] {
        --lists_under_way_;
        if (is_unwanted()) return done(Error{Errc::kUnavailable, 0, "nobody wants it any more"});
        done(listing->take_page());
      });
}

void StoreImpl::end_lists() {
  lists_end_.store(true, std::memory_order_relaxed);
  list_worker_.reset();
}

}  // namespace om::store
