// A session's requests that are not about the bytes of objects: HELLO, removal, looking, regions,
// events. Objects are in session_objects.cc.
#include <unistd.h>

#include <algorithm>

#include "base/limits.h"
#include "posix/file.h"
#include "server/session.h"
#include "server/status.h"

namespace om::server {

void Session::hello(std::uint64_t id, const wire::Hello& request) {
  constexpr auto kType = wire::Type::kHello;
  if (holder_) return malformed(kType, id, "HELLO comes once");
  if (request.magic != wire::kMagic) return malformed(kType, id, "not the objmapper protocol");
  if (request.version_min > wire::kVersion || request.version_max < wire::kVersion) {
    refuse(
        kType, id,
        {Errc::kUnsupported, 0,
         "this daemon speaks version " + std::to_string(wire::kVersion) + " of the protocol, not " +
             std::to_string(request.version_min) + " to " + std::to_string(request.version_max)});
    return close();
  }
  auto holder = shared_.store.open_holder(peer_);
  if (!holder) {
    refuse(kType, id, {Errc::kUnavailable, holder.error().sys_errno, holder.error().what});
    return close();
  }
  holder_ = *holder;
  name_ = request.name;
  wire::HelloReply message;
  message.daemon_epoch = shared_.epoch;
  message.may_read = rights_.read ? 1 : 0;
  message.may_write = rights_.write ? 1 : 0;
  message.may_admin = rights_.admin ? 1 : 0;
  message.version_text = OM_VERSION;
  std::vector<UniqueFd> descriptors;
  auto lease_file = duplicate(shared_.store.lease_descriptor(*holder_));
  if (!lease_file) {
    refuse(kType, id, {Errc::kUnavailable, lease_file.error().sys_errno, "no descriptor left"});
    return close();
  }
  descriptors.push_back(*std::move(lease_file));
  message.with_lease_file = 1;
  if ((request.features & wire::kFeatureReleasePage) != 0) {
    // Without it the client sends RELEASE.
    if (auto page = shared_.store.release_page(*holder_)) {
      descriptors.push_back(*std::move(page));
      message.features |= wire::kFeatureReleasePage;
    }
  }
  // The hazard page is a file of ours that its peer can write to, and enlarge: those alone get one
  // who may write to such files anyway.
  if ((request.features & wire::kFeatureBoard) != 0 && rights_.read && rights_.direct) {
    // Without it each GET is a message.
    if (auto access = shared_.store.open_board(*holder_)) {
      descriptors.push_back(std::move(access->board));
      descriptors.push_back(std::move(access->page));
      message.features |= wire::kFeatureBoard;
    }
  }
  // By the board one sees that there is nothing to be had: so they go together.
  if ((message.features & wire::kFeatureBoard) != 0 &&
      (request.features & wire::kFeatureClaims) != 0 && rights_.write) {
    // Without it each miss is a message.
    if (auto access = shared_.store.open_claims(*holder_)) {
      descriptors.push_back(std::move(access->table));
      message.owner = access->owner;
      message.features |= wire::kFeatureClaims;
    }
  }
  // Direct writing is what it is about.
  if (rights_.direct) message.features |= request.features & wire::kFeatureRoom;
  reply(kType, id, message, std::move(descriptors));
}

void Session::remove(std::uint64_t id, const wire::Delete& request) {
  constexpr auto kType = wire::Type::kDelete;
  if (request.what.find('\0') != std::string::npos)
    return refuse(kType, id, {Errc::kMalformed, 0, "a NUL byte in a key or tag"});
  const auto answer = [&](const Result<store::Removed>& removed, bool zero_is_an_answer) {
    if (!removed) return refuse(kType, id, removed.error());
    const bool absent = removed->count == 0 && !zero_is_an_answer;
    const auto say = [weak = weak_from_this(), id, absent,
                      count = removed->count](const Result<void>& synced) {
      const auto self = weak.lock();
      if (!self || self->closed_) return;
      if (!synced) return self->refuse(wire::Type::kDelete, id, synced.error());
      if (absent)
        return self->refuse(wire::Type::kDelete, id, {Errc::kNotFound, 0, "no such object"});
      self->reply(wire::Type::kDelete, id, wire::DeleteReply{count});
    };
    // Nobody waits for the disk but who asked for this.
    if (removed->durable) return shared_.store.sync_removals(say);
    say({});
  };
  switch (static_cast<wire::DeleteBy>(request.by)) {
    case wire::DeleteBy::kKey: return answer(shared_.store.remove(request.what), false);
    case wire::DeleteBy::kPrefix: return answer(shared_.store.remove_prefix(request.what), true);
    case wire::DeleteBy::kTag: return answer(shared_.store.remove_tag(request.what), true);
  }
  refuse(kType, id, {Errc::kMalformed, 0, "removal is by key (0), prefix (1) or tag (2)"});
}

void Session::list(std::uint64_t id, const wire::List& request) {
  constexpr auto kType = wire::Type::kList;
  constexpr std::size_t kPageMax = 1000;
  const std::size_t limit =
      request.limit == 0 ? kPageMax : std::min<std::size_t>(request.limit, kPageMax);
  if ((request.flags & wire::kListRegions) == 0)
    return listed(id, shared_.store.list(request.prefix, request.after, limit));
  constexpr std::size_t kListsMax = 4;  // others want some, too
  if (lists_under_way_ >= kListsMax)
    return refuse(kType, id, {Errc::kBusy, 0, "too many lists of regions: ask again"});
  ++lists_under_way_;
  shared_.store.list_region_objects(request.prefix, request.after, limit, has_gone_,
                                    [weak = weak_from_this(), id](Result<store::ListPage> page) {
                                      const auto self = weak.lock();
                                      if (!self) return;
                                      --self->lists_under_way_;
                                      if (!self->closed_) self->listed(id, std::move(page));
                                    });
}

void Session::listed(std::uint64_t id, Result<store::ListPage> page) {
  constexpr auto kType = wire::Type::kList;
  if (!page) return refuse(kType, id, page.error());
  wire::ListReply message;
  message.more = page->more ? 1 : 0;
  std::size_t left = kPacketBytesMax - wire::Header::kBytes - 5;
  for (store::ListItem& item : page->items) {
    if (item.url.size() > kKeyBytesMax) item.url.resize(kKeyBytesMax);
    const std::size_t bytes = 4 + item.key.size() + 3 * 8 + 1 + 4 + item.url.size();
    if (bytes > left) {
      message.more = 1;
      break;
    }
    left -= bytes;
    message.entries.push_back({std::move(item.key), item.length, item.created_ns, item.expires_ns,
                               static_cast<std::uint8_t>(item.tier), std::move(item.url)});
  }
  reply(kType, id, message);
}

void Session::region(std::uint64_t id, const wire::RegionOpen& request) {
  constexpr auto kType = wire::Type::kRegion;
  if (request.owner.empty() || request.owner.find('\0') != std::string::npos)
    return refuse(kType, id, {Errc::kMalformed, 0, "an owner is a text without NUL bytes"});
  constexpr std::size_t kMost = 2;
  if (descriptor_budget() < kMost)
    return refuse(kType, id, {Errc::kBusy, 0, "too many descriptors under way: ask again"});
  // From now on, as others may be asked for before these come. A region that is there by then
  // cannot be refused any more.
  account_->descriptors.add(kMost);
  descriptors_expected_ += kMost;
  shared_.store.open_region(request.owner, request.memory_bytes, request.disk_bytes,
                            static_cast<std::uint32_t>(peer_.pid),
                            [weak = weak_from_this(), account = std::weak_ptr(account_),
                             id](Result<store::RegionGrant> grant) {
                              if (const auto counted = account.lock())
                                counted->descriptors.subtract(kMost);
                              const auto self = weak.lock();
                              if (!self) return;
                              self->descriptors_expected_ -= kMost;
                              if (self->closed_) return;
                              if (!grant) return self->refuse(kType, id, grant.error());
                              self->region_opened(id, *std::move(grant));
                            });
}

void Session::region_opened(std::uint64_t id, store::RegionGrant opened) {
  store::RegionGrant* const grant = &opened;
  wire::RegionReply message;
  message.region_id = grant->region_id;
  message.fresh = grant->fresh ? 1 : 0;
  message.memory = {grant->region_id, grant->memory_bytes,
                    static_cast<std::uint8_t>(wire::SegmentKind::kRegion), 1, 1};
  message.disk_bytes = grant->disk_bytes;
  std::vector<UniqueFd> descriptors;
  descriptors.push_back(std::move(grant->memory));
  if (grant->directory) {
    message.with_directory = 1;
    descriptors.push_back(*std::move(grant->directory));
  }
  reply(wire::Type::kRegion, id, message, std::move(descriptors));
}

void Session::region_list(std::uint64_t id, wire::RegionListRequest /*request*/) {
  constexpr auto kType = wire::Type::kRegionList;
  auto regions = shared_.store.list_regions();
  if (!regions) return refuse(kType, id, regions.error());
  wire::RegionListReply message;
  std::size_t left = kPacketBytesMax - wire::Header::kBytes - 4;
  for (store::RegionInfo& region : *regions) {
    const std::size_t bytes = 4 + region.owner.size() + 8 + 8 + 1 + 4;
    if (bytes > left || message.regions.size() == 1024) break;
    left -= bytes;
    message.regions.push_back({std::move(region.owner), region.memory_bytes, region.disk_bytes,
                               static_cast<std::uint8_t>(region.held ? 1 : 0), region.pid});
  }
  reply(kType, id, message);
}

void Session::region_drop(std::uint64_t id, const wire::RegionDrop& request) {
  constexpr auto kType = wire::Type::kRegionDrop;
  shared_.store.drop_region(request.owner,
                            [weak = weak_from_this(), id](const Result<void>& dropped) {
                              const auto self = weak.lock();
                              if (!self || self->closed_) return;
                              if (!dropped) return self->refuse(kType, id, dropped.error());
                              self->reply(kType, id, wire::Empty{});
                            });
}

void Session::region_drain(std::uint64_t id, const wire::RegionDrain& request) {
  constexpr auto kType = wire::Type::kRegionDrain;
  if (auto done = shared_.store.drain_region(request.owner, request.on != 0); !done)
    return refuse(kType, id, done.error());
  reply(kType, id, wire::Empty{});
}

void Session::status(std::uint64_t id, wire::StatusRequest /*request*/) {
  wire::StatusReply message;
  std::size_t left = kPacketBytesMax - wire::Header::kBytes - 4;
  for (store::StatusItem& item : status_items(shared_)) {
    if (item.name.size() > 255) item.name.resize(255);
    if (item.text.size() > 4096) item.text.resize(4096);
    const std::size_t bytes = 4 + item.name.size() + 8 + 4 + item.text.size();
    if (bytes > left || message.items.size() == 1024) break;
    left -= bytes;
    message.items.push_back({std::move(item.name), item.number, std::move(item.text)});
  }
  reply(wire::Type::kStatus, id, message);
}

void Session::subscribe(std::uint64_t id, wire::Subscribe request) {
  constexpr auto kType = wire::Type::kSubscribe;
  constexpr std::uint32_t kAll = wire::kEventPublished | wire::kEventRemoved | wire::kEventRevoked;
  if ((request.events & ~(kAll | wire::kEventLost)) != 0)
    return refuse(kType, id, {Errc::kUnsupported, 0, "this daemon knows no such event"});
  const std::uint32_t events = request.events & kAll;
  if (events_ == 0 && events != 0) ++shared_.subscribers;
  if (events_ != 0 && events == 0) --shared_.subscribers;
  events_ = events;
  events_lost_ = false;
  events_prefix_ = std::move(request.prefix);
  reply(kType, id, wire::Empty{});
}

}  // namespace om::server
