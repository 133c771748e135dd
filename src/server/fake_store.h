// A store for tests of the server: objects in memfds, commits that are done when the test says so
// or at once, failures on demand. Keeps the rules of store/store.h, nothing of its durability.
#pragma once

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <deque>
#include <map>
#include <set>

#include "posix/file.h"
#include "posix/memfd.h"
#include "store/store.h"

namespace om::server {

class FakeStore final : public store::Store {
 public:
  explicit FakeStore(const Clock& clock) : clock_(clock) {
    wake_ = UniqueFd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    lease_file_ = *make_memfd("leases", 0);
  }

  // What tests set and see.
  std::optional<Error> fail_get;
  std::vector<store::Extent> more_extents;  // of each object, behind its own
  bool has_board = false;
  bool has_claims = false;
  std::vector<std::string> unclaimed;   // keys
  store::ReserveRequest asked_for_put;  // last
  bool hold_commits = false;
  std::optional<Error> fail_record;
  bool hold_syncs = false;
  bool hold_regions = false;
  bool hold_lists = false;    // of regions
  store::Unwanted last_list;  // the same
  std::optional<Error> fail_sync;
  bool durable_objects = false;
  std::deque<std::function<void()>> held;
  std::set<store::HolderId> holders;
  std::map<store::LeaseId, store::ObjectId> leases;
  std::optional<store::Reserved> room;  // that there is to give
  store::RoomWish asked_for_room;
  std::vector<store::RoomBody> in_room;  // what was put last

  void run_later(std::function<void()> call) {
    later_.push_back(std::move(call));
    const std::uint64_t one = 1;
    (void)!::write(wake_.raw(), &one, sizeof one);
  }

  Result<store::HolderId> open_holder(const PeerCredentials& /*peer*/) override {
    holders.insert(++next_);
    return next_;
  }
  BorrowedFd lease_descriptor(store::HolderId /*holder*/) override { return lease_file_.borrow(); }
  Result<UniqueFd> release_page(store::HolderId /*holder*/) override {
    return Error{Errc::kUnsupported, 0, "no page here"};
  }
  void collect(store::HolderId /*holder*/) override {}
  Result<store::BoardAccess> open_board(store::HolderId /*holder*/) override {
    if (!has_board) return Error{Errc::kUnsupported, 0, "no board here"};
    store::BoardAccess access;
    access.board = OM_TRY(make_memfd("board", 8192));
    access.page = OM_TRY(make_memfd("page", 4096));
    return access;
  }
  Result<store::ClaimsAccess> open_claims(store::HolderId /*holder*/) override {
    if (!has_claims) return Error{Errc::kUnsupported, 0, "no claims here"};
    return store::ClaimsAccess{OM_TRY(make_memfd("claims", 65536)), 17};
  }
  void close_holder(store::HolderId holder) override {
    holders.erase(holder);
    std::erase_if(waits_, [&](const auto& wait) { return wait.second.holder == holder; });
    for (auto it = puts_.begin(); it != puts_.end();)
      if (it->second.holder == holder)
        it = end_put(it);
      else
        ++it;
  }
  Result<std::optional<store::Leased>> get(store::HolderId /*holder*/,
                                           std::string_view key) override {
    if (fail_get) return *fail_get;
    const auto it = objects_.find(std::string(key));
    if (it == objects_.end()) return std::optional<store::Leased>();
    leases[++next_] = it->second.info.object_id;
    const std::uint64_t id = it->second.info.object_id;
    store::Leased leased{next_, it->second.info, {{id, 0, it->second.info.length}}};
    leased.extents.insert(leased.extents.end(), more_extents.begin(), more_extents.end());
    return std::optional(std::move(leased));
  }
  void release(store::HolderId /*holder*/, store::LeaseId lease) override { leases.erase(lease); }
  Result<store::SegmentView> segment(store::HolderId /*holder*/, store::SegmentId id) override {
    for (const auto& [lease, object] : leases)
      if (object == id)
        return store::SegmentView{id, store::SegmentKind::kFile, *file_size(files_[id].borrow()),
                                  files_[id].borrow()};
    return Error{Errc::kNotFound, 0, "no such segment"};
  }
  Result<store::Reservation> reserve(store::HolderId holder, store::ReserveRequest request,
                                     std::function<void()> wake) override {
    asked_for_put = request;
    if (request.or_get) {
      if (auto hit = get(holder, request.key); hit && *hit) return store::Reservation(**hit);
      for (const auto& [id, put] : puts_)
        if (put.request.key == request.key) {
          waits_[++next_] = {holder, request.key, std::move(wake)};
          return store::Reservation(store::Waiting{next_});
        }
    }
    const std::uint64_t length = request.length.value_or(4096);
    const store::PutId id = ++next_;
    UniqueFd file = OM_TRY(make_memfd("put", length));
    store::Reserved reserved{id, {}, {{id, 0, length}}};
    reserved.segments.push_back(
        {id, store::SegmentKind::kStaging, length, OM_TRY(duplicate(file.borrow()))});
    files_[id] = std::move(file);
    puts_[id] = {holder, std::move(request), length};
    return store::Reservation(std::move(reserved));
  }
  void cancel_wait(store::WaitToken token) override { waits_.erase(token); }
  void unclaim(store::HolderId /*holder*/, const std::string& key) override {
    unclaimed.push_back(key);
  }
  Result<store::FollowAnswer> follow(store::HolderId /*holder*/, store::LeaseId /*lease*/,
                                     store::Followed::Known /*known*/, bool /*may_wait*/,
                                     std::function<void()> /*wake*/) override {
    return Error{Errc::kNotFound, 0, "nobody follows here"};
  }
  Result<store::Reserved> take_room(store::HolderId /*holder*/,
                                    const store::RoomWish& wish) override {
    asked_for_room = wish;
    if (!room) return Error{Errc::kNoSpace, 0, "no room to spare"};
    return store::Reserved{room->put_id, {}, room->extents, room->lent};
  }
  void put_in_room(store::HolderId /*holder*/, store::PutId /*room*/,
                   std::vector<store::RoomBody> bodies, store::PutDone done) override {
    done(std::vector<Result<store::Committed>>(bodies.size(),
                                               Error{Errc::kNotFound, 0, "no such room"}));
    in_room = std::move(bodies);
  }
  void progress(store::HolderId /*holder*/, store::PutId /*put*/,
                std::uint64_t /*bytes*/) override {}
  void amend(store::HolderId /*holder*/, store::PutId /*put*/,
             store::Amendment /*amendment*/) override {}
  Result<store::Extension> extend(store::HolderId holder, store::PutId put,
                                  std::uint64_t more) override {
    const auto it = puts_.find(put);
    if (it == puts_.end() || it->second.holder != holder) return no_put();
    if (it->second.request.length) return Error{Errc::kMalformed, 0, "its length was declared"};
    const std::uint64_t from = it->second.room;
    it->second.room += more;
    OM_TRY(resize(files_[put].borrow(), it->second.room));
    return store::Extension{{}, {{put, from, more}}};
  }
  Result<store::Held> hold(store::HolderId /*holder*/, store::PutId /*put*/,
                           std::uint64_t /*more*/) override {
    return Error{Errc::kUnsupported, 0, "bytes are copied here"};
  }
  void commit(store::HolderId holder, store::PutId put, std::uint64_t length,
              store::CommitDone done) override {
    const auto it = puts_.find(put);
    if (it == puts_.end() || it->second.holder != holder) return done(no_put());
    if (length > it->second.room ||
        (it->second.request.length && *it->second.request.length != length)) {
      end_put(it);
      return done(Error{Errc::kMalformed, 0, "not the declared length"});
    }
    auto publish = [this, put, length, done = std::move(done)] {
      const auto at = puts_.find(put);
      if (at == puts_.end()) return;
      const store::ReserveRequest request = at->second.request;
      store::ObjectInfo info;
      info.object_id = put;
      info.length = info.total_bytes = length;
      info.created_ns = clock_.real_ns();
      info.expires_ns = request.expires_ns;
      info.ephemeral = request.ephemeral;
      info.metadata = request.metadata;
      info.tags = request.tags;
      objects_[request.key] = {info};
      if (listener_) listener_({store::EventKind::kPublished, request.key, put, 0, 0});
      end_put(at);
      done(store::Committed{put, info.created_ns});
    };
    if (hold_commits)
      held.emplace_back(publish);
    else
      publish();
  }
  void refresh(store::HolderId holder, store::PutId put, store::ObjectId object,
               store::Amendment says, store::CommitDone done) override {
    const auto it = puts_.find(put);
    if (it == puts_.end() || it->second.holder != holder) return done(no_put());
    const auto there = objects_.find(it->second.request.key);
    end_put(it);
    if (there == objects_.end() || there->second.info.object_id != object)
      return done(Error{Errc::kNotFound, 0, "not there any more"});
    there->second.info.metadata = std::move(says.metadata);
    ++there->second.info.revision;
    done(store::Committed{object, there->second.info.created_ns});
  }
  Result<void> abort(store::HolderId holder, store::PutId put) override {
    const auto it = puts_.find(put);
    if (it == puts_.end() || it->second.holder != holder) return no_put();
    end_put(it);
    return {};
  }
  Result<store::Removed> remove(std::string_view key) override {
    return erase_where([&](const std::string& k, const Object&) { return k == key; });
  }
  Result<store::Removed> remove_prefix(std::string_view prefix) override {
    return erase_where([&](const std::string& k, const Object&) { return k.starts_with(prefix); });
  }
  Result<store::Removed> remove_tag(std::string_view tag) override {
    return erase_where([&](const std::string&, const Object& object) {
      return std::find(object.info.tags.begin(), object.info.tags.end(), tag) !=
             object.info.tags.end();
    });
  }
  Result<std::optional<store::ObjectInfo>> stat(std::string_view key) override {
    const auto it = objects_.find(std::string(key));
    if (it == objects_.end()) return std::optional<store::ObjectInfo>();
    return std::optional(it->second.info);
  }
  Result<store::ListPage> list(std::string_view prefix, std::string_view after,
                               std::size_t limit) override {
    store::ListPage page;
    for (const auto& [key, object] : objects_) {
      if (key <= after || !key.starts_with(prefix)) continue;
      if (page.items.size() == limit) {
        page.more = true;
        break;
      }
      page.items.push_back(
          {key, object.info.length, object.info.created_ns, 0, store::Tier::kMemory, ""});
    }
    return page;
  }
  void list_region_objects(std::string_view /*prefix*/, std::string_view /*after*/,
                           std::size_t /*limit*/, store::Unwanted unwanted,
                           store::ListDone done) override {
    last_list = std::move(unwanted);
    auto answer = [done = std::move(done)] { done(store::ListPage{}); };
    if (!hold_lists) return answer();
    held.emplace_back(std::move(answer));
  }
  std::vector<store::StatusItem> status() override {
    return {{"objects.count", objects_.size(), ""}, {"memory.pages", 0, "4k"}};
  }
  std::vector<std::string> take_troubles() override { return {}; }
  Result<std::uint64_t> revoke(std::string_view key) override {
    std::uint64_t asked = 0;
    for (const auto& [lease, object] : leases)
      if (listener_)
        listener_({store::EventKind::kRevoked, key, object, lease, *holders.begin()}), ++asked;
    return asked;
  }
  void open_region(std::string_view owner, std::uint64_t memory_bytes, std::uint64_t /*disk_bytes*/,
                   std::uint32_t pid, store::RegionDone done) override {
    auto open = [this, name = std::string(owner), memory_bytes, pid, done = std::move(done)] {
      const bool fresh = !regions_.contains(name);
      regions_[name] = {name, memory_bytes, 0, false, pid};
      auto memory = make_memfd("region", memory_bytes);
      if (!memory) return done(std::move(memory).error());
      done(store::RegionGrant{++next_, fresh, *std::move(memory), memory_bytes, 0, std::nullopt});
    };
    if (hold_regions)
      held.push_back(std::move(open));
    else
      open();
  }
  Result<std::vector<store::RegionInfo>> list_regions() override {
    std::vector<store::RegionInfo> list;
    for (const auto& [owner, info] : regions_) list.push_back(info);
    return list;
  }
  void drop_region(std::string_view owner, std::function<void(Result<void>)> done) override {
    if (regions_.erase(std::string(owner)) == 0)
      return done(Error{Errc::kNotFound, 0, "no such region"});
    done({});
  }
  Result<void> drain_region(std::string_view owner, bool /*on*/) override {
    if (regions_.count(std::string(owner)) == 0) return Error{Errc::kNotFound, 0, "no such region"};
    return {};
  }
  void set_listener(store::Listener listener) override { listener_ = std::move(listener); }
  BorrowedFd wakeup_fd() override { return wake_.borrow(); }
  void on_wakeup() override {
    std::uint64_t count = 0;
    (void)!::read(wake_.raw(), &count, sizeof count);
    auto calls = std::exchange(later_, {});
    for (auto& call : calls) call();
  }
  store::RemovalLog& removals() override { return *removals_; }
  Result<store::Recorded> record(store::Removal removal) override {
    if (fail_record) return *fail_record;
    const store::Removal* const entry = OM_TRY(removals_->append(std::move(removal)));
    return store::Recorded{entry->sequence, entry->time_ns, 0};
  }
  void sync_removals(std::function<void(Result<void>)> done) override {
    if (hold_syncs)
      held.push_back([done = std::move(done)] { done({}); });
    else
      done(fail_sync ? Result<void>(*fail_sync) : Result<void>());
  }
  void tick() override {}
  bool idle() override { return later_.empty(); }
  Result<void> shutdown() override { return {}; }

 private:
  struct Object {
    store::ObjectInfo info;
  };
  struct Put {
    store::HolderId holder = 0;
    store::ReserveRequest request;
    std::uint64_t room = 0;
  };
  struct Wait {
    store::HolderId holder = 0;
    std::string key;
    std::function<void()> wake;
  };
  static Error no_put() { return {Errc::kNotFound, 0, "no such put"}; }
  std::map<store::PutId, Put>::iterator end_put(std::map<store::PutId, Put>::iterator it) {
    for (auto wait = waits_.begin(); wait != waits_.end();) {
      if (wait->second.key == it->second.request.key) {
        run_later(std::move(wait->second.wake));
        wait = waits_.erase(wait);
      } else {
        ++wait;
      }
    }
    return puts_.erase(it);
  }
  template <class Match>
  Result<store::Removed> erase_where(Match match) {
    std::uint64_t count = 0;
    for (auto it = objects_.begin(); it != objects_.end();) {
      if (!match(it->first, it->second)) {
        ++it;
        continue;
      }
      if (listener_)
        listener_({store::EventKind::kRemoved, it->first, it->second.info.object_id, 0, 0});
      it = objects_.erase(it);
      ++count;
    }
    return store::Removed{count, durable_objects};
  }

  const Clock& clock_;
  UniqueFd wake_;
  UniqueFd lease_file_;
  std::uint64_t next_ = 0;
  std::map<std::string, Object> objects_;
  std::map<store::ObjectId, UniqueFd> files_;
  std::map<store::PutId, Put> puts_;
  std::map<store::WaitToken, Wait> waits_;
  std::map<std::string, store::RegionInfo> regions_;
  std::deque<std::function<void()>> later_;
  store::Listener listener_;
  std::unique_ptr<store::RemovalLog> removals_ = *store::RemovalLog::open(nullptr, {}, clock_);
};

}  // namespace om::server
