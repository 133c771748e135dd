// The Store itself: puts it together. Split by what callers do: store_open.cc (start, recovery,
// end), store_read.cc, store_board.cc, store_claims.cc, store_write.cc (puts: room),
// store_commit.cc, store_put_end.cc, store_follow.cc, store_refresh.cc, store_room.cc,
// store_remove.cc, store_regions.cc, store_expiry.cc, store_upkeep.cc (tick).
//
// What an object's bytes go through:
//   charged     in a Put: taken from a tier, named by nobody
//   published   named by the catalog's record, and by its tier's eviction policy
//   held        removed or cut off while pinned: named by held_ and the held log
//   free        given back to the tier: when nobody pins the object (LeaseBook), never before
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/flat_map.h"
#include "store/board.h"
#include "store/catalog/catalog.h"
#include "store/claims.h"
#include "store/disk_tier.h"
#include "store/eviction/policy.h"
#include "store/hazard_pages.h"
#include "store/held_log.h"
#include "store/lease_book.h"
#include "store/memory_tier.h"
#include "store/put_state.h"
#include "store/segment_id.h"
#include "store/staging.h"
#include "store/store.h"
#include "store/worker.h"

namespace om::store {

class StoreImpl final : public Store {
 public:
  StoreImpl(Config config, const Clock& clock) : config_(std::move(config)), clock_(clock) {}
  ~StoreImpl() override;
  Result<void> start();

  Result<HolderId> open_holder(const PeerCredentials& peer) override;
  BorrowedFd lease_descriptor(HolderId holder) override { return leases_->descriptor(holder); }
  Result<UniqueFd> release_page(HolderId holder) override { return leases_->release_page(holder); }
  void collect(HolderId holder) override { leases_->collect(holder); }
  Result<BoardAccess> open_board(HolderId holder) override;
  Result<ClaimsAccess> open_claims(HolderId holder) override;
  void close_holder(HolderId holder) override;
  Result<std::optional<Leased>> get(HolderId holder, std::string_view key) override;
  void release(HolderId holder, LeaseId lease) override { leases_->release(holder, lease); }
  Result<SegmentView> segment(HolderId holder, SegmentId id) override;
  Result<Reservation> reserve(HolderId holder, ReserveRequest request,
                              std::function<void()> wake) override;
  void cancel_wait(WaitToken token) override;
  void unclaim(HolderId holder, const std::string& key) override;
  Result<FollowAnswer> follow(HolderId holder, LeaseId lease, Followed::Known known, bool may_wait,
                              std::function<void()> wake) override;
  void progress(HolderId holder, PutId id, std::uint64_t bytes) override;
  void amend(HolderId holder, PutId id, Amendment amendment) override;
  Result<Extension> extend(HolderId holder, PutId id, std::uint64_t more) override;
  Result<Held> hold(HolderId holder, PutId id, std::uint64_t more) override;
  void commit(HolderId holder, PutId id, std::uint64_t length, CommitDone done) override;
  void refresh(HolderId holder, PutId id, ObjectId object, Amendment says,
               CommitDone done) override;
  Result<void> abort(HolderId holder, PutId id) override;
  Result<Reserved> take_room(HolderId holder, const RoomWish& wish) override;
  void put_in_room(HolderId holder, PutId room, std::vector<RoomBody> bodies,
                   PutDone done) override;
  Result<Removed> remove(std::string_view key) override;
  Result<Removed> remove_prefix(std::string_view prefix) override;
  Result<Removed> remove_tag(std::string_view tag) override;
  RemovalLog& removals() override { return *removal_log_; }
  Result<Recorded> record(Removal removal) override;
  void sync_removals(std::function<void(Result<void>)> done) override;
  Result<std::optional<ObjectInfo>> stat(std::string_view key) override;
  Result<ListPage> list(std::string_view prefix, std::string_view after,
                        std::size_t limit) override;
  void list_region_objects(std::string_view prefix, std::string_view after, std::size_t limit,
                           Unwanted unwanted, ListDone done) override;
  std::vector<StatusItem> status() override;
  std::vector<std::string> take_troubles() override;
  Result<std::uint64_t> revoke(std::string_view key) override;
  void open_region(std::string_view owner, std::uint64_t memory_bytes, std::uint64_t disk_bytes,
                   std::uint32_t pid, RegionDone done) override;
  Result<std::vector<RegionInfo>> list_regions() override;
  void drop_region(std::string_view owner, std::function<void(Result<void>)> done) override;
  Result<void> drain_region(std::string_view owner, bool on) override;
  void set_listener(Listener listener) override { listener_ = std::move(listener); }
  BorrowedFd wakeup_fd() override { return worker_->wakeup_fd(); }
  void on_wakeup() override {
    worker_->clear_wakeup();
    worker_->deliver();
    removal_worker_->deliver();
    if (list_worker_ != nullptr) list_worker_->deliver();
  }
  void tick() override;
  bool idle() override {
    return worker_->pending() == 0 && removal_worker_->pending() == 0 &&
           (list_worker_ == nullptr || list_worker_->pending() == 0);
  }
  Result<void> shutdown() override;

 private:
  struct Put {
    PutId id = 0;
    HolderId holder = 0;
    PutState state = PutState::kReserved;
    ReserveRequest request;
    ObjectId object_id = 0;
    std::uint64_t room = 0;       // bytes that the writer was given a place for
    std::uint64_t length = 0;     // once committed
    std::vector<Extent> written;  // where the writer writes
    // The final place, as far as it is known: memory slots, or a disk file.
    std::vector<Extent> memory;
    SegmentId file_id = 0;
    UniqueFd file;
    std::uint64_t file_room = 0;
    std::vector<StagingFile> staging;  // of a put that is not direct
    std::uint64_t charged = 0;         // to its holder
    bool direct = false;               // `written` is the final place
    bool to_disk = false;
    bool is_claim = false;                  // its holder knows nothing of it yet (store_claims.cc)
    bool is_room = false;                   // room ahead: `memory` is what is left of it
    std::uint64_t piece = Slots::kGranule;  // each extent in memory is a multiple of it
    Lent lent;                              // with it
    std::uint64_t lent_used = 0;            // of those, a bit each: put
    ObjectId follow = 0;                    // what followers pin (follows_); 0: there are none
    std::uint64_t removals_seen = 0;        // head of the removal log when it began
    bool was_followed = false;              // then its staging files are not used again
    std::uint64_t announced = 0;            // bytes that followers may read
    std::uint32_t amended = 0;              // how often
    std::optional<std::uint64_t> amended_length;
    CommitDone done;
  };
  struct Waiter {
    HolderId holder = 0;
    std::string key;
    std::function<void()> wake;
  };
  struct Writers {            // of one key
    std::vector<PutId> puts;  // the one that began first comes first
    std::vector<WaitToken> waiters;
  };
  // A put that is or was followed. Known for as long as somebody pins its bytes.
  struct Follow {
    PutId put = 0;
    FollowedState state = FollowedState::kWriting;
    bool is_elsewhere = false;  // what was published: nothing of it lies in the put
    ObjectId object_id = 0;
    std::uint64_t available = 0;                      // at the end
    std::vector<Extent> extents;                      // at the end
    std::vector<StagingFile> staging;                 // at the end
    std::unordered_map<SegmentId, UniqueFd> readers;  // of staging files, O_RDONLY
    std::vector<WaitToken> waiters;
  };
  struct Region {
    std::uint64_t id = 0;
    std::uint64_t memory_bytes = 0;
    std::uint64_t disk_bytes = 0;
    std::uint32_t pid = 0;
  };
  // A region's file on its way to another size.
  struct RegionWork {
    std::string owner;
    std::string name;       // of its file
    std::string temporary;  // as long as it is not whole, or no more
    std::uint64_t memory_bytes = 0;
    std::uint64_t disk_bytes = 0;
    std::uint32_t pid = 0;
    std::uint64_t had = 0;
    bool fresh = false;
    bool locked = false;
    UniqueFd file;
    std::uint64_t at = 0;  // how far it is
    Result<void> result;
    RegionDone done;
  };
  using RegionWorkRef = std::shared_ptr<RegionWork>;
  struct Source {  // bytes for the worker to copy from
    UniqueFd file;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
  };
  struct Target {
    UniqueFd file;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
  };
  struct Copy {
    std::vector<Source> from;
    std::vector<Target> to;
    std::uint16_t disk = 0;  // written to; 0: memory
    std::string path;        // of that disk
    std::function<int(const char*, const std::string&)> fault;
    Result<void> result;
    bool source_failed = false;  // when `result` is an error: it could not be read
  };
  struct Dirty {  // a disk file that the next group sync has to put on disk
    std::vector<ObjectId> objects;
    UniqueFd file;      // none: too many, then the whole file system is synced
    bool gone = false;  // unlinked since: `file` is its directory
  };
  using Expiry = std::pair<std::uint64_t, ObjectId>;  // when to look at which object
  struct DirtyFailure {
    std::uint16_t disk = 0;
    std::vector<ObjectId> objects;
    Error error;
  };

  // store_open.cc
  Result<void> open_removals();
  Result<void> cut_memory();
  Result<void> recover_objects();
  Result<void> recover_held();
  void claim(ObjectId object);
  Result<void> recover_regions(bool rebooted);

  // store_read.cc
  Result<std::optional<catalog::Record>> look_up(std::string_view key);
  // A lease on what is there under the key, unless that is `stale` (0: whatever it is) in the same
  // revision.
  Result<std::optional<Leased>> get_other_than(HolderId holder, std::string_view key,
                                               ObjectId stale, std::uint32_t revision);
  Result<Leased> lease(HolderId holder, const catalog::Record& record);
  [[nodiscard]] bool reachable(const catalog::Place& place) const;
  static ObjectInfo info_of(const catalog::Record& record);

  // store_board.cc
  void make_board();
  // Of the memory tier, as it is in the catalog now: clients are to find it by themselves.
  void show(const catalog::Record& record);
  // Nobody takes a lease on it by the board from now on.
  void hide(ObjectId object);
  // For who reads what is hidden: pins it.
  void look();
  // The catalog's, before each change (catalog::Options::before_change).
  Result<void> about_to_change(const catalog::Record& record, bool stays);
  // From here on who reads it has it pinned.
  void take_off_board(ObjectId object);
  // Not to be moved or to make room now.
  bool is_in_use(ObjectId object);
  // Somebody may read it, or begin to, and no pin says so.
  [[nodiscard]] bool may_be_read_by_board(ObjectId object) const;
  // What readers have let go of without a word. True: something was.
  bool collect_all();
  // What was got by the board was asked for, too.
  void take_touches();

  // store_claims.cc
  // While one of these is there, nobody begins to claim the key.
  class Known {
   public:
    Known(Board* board, std::string_view key);
    Known(const Known&) = delete;
    Known& operator=(const Known&) = delete;
    ~Known();

   private:
    Board* const board_;
    const std::uint64_t hash_;
  };
  void count_key(std::string_view key, bool is_there);
  // What somebody has claimed, as a put, for others to wait for. The key is known (Known).
  Put* put_of_claim(const std::string& key);
  Put* find_claim(HolderId holder, const std::string& key);
  // Whatever came of it: `published` is the object, 0: nothing.
  void end_claim(HolderId holder, const std::string& key, ObjectId published);
  void end_claims(HolderId holder, const std::vector<RoomBody>& bodies,
                  const std::vector<Result<Committed>>& answers);

  // store_write.cc
  static Result<void> check(const ReserveRequest& request);
  static bool advance(Put& put, PutEvent event);
  // For every cache, since it began.
  [[nodiscard]] bool is_removed(const Put& put) const;
  Put* find_put(HolderId holder, PutId id);
  // The time now, as that of a put or an object: removals from now on are later.
  std::uint64_t birth_time() {
    const std::uint64_t now = clock_.real_ns();
    removal_log_->not_before(now);
    return now;
  }
  Put* first_put(const std::string& key);
  Result<Reservation> reserve_or_get(HolderId holder, ReserveRequest request,
                                     std::function<void()> wake);
  // Of a key that is known from now on.
  Put& make_put(HolderId holder, const std::string& key);
  Result<Reserved> begin_put(HolderId holder, ReserveRequest request);
  Result<void> charge(Put& put, std::uint64_t bytes);
  void uncharge(Put& put, std::uint64_t bytes);
  [[nodiscard]] bool wants_disk(const ReserveRequest& request, std::uint64_t length) const;
  Result<void> place_put(Put& put, std::uint64_t length, Extension& given);
  Result<void> give_staging(Put& put, std::uint64_t length, Extension& given);
  Result<void> pin_place(const Put& put, const std::vector<Extent>& place);
  Result<void> give_memory(Put& put, std::uint64_t length, Extension& given);
  Result<void> give_file(Put& put, std::uint64_t length, Extension& given);

  // store_commit.cc
  void trim_memory(std::vector<Extent>& extents, std::uint64_t length);
  Result<void> finish_direct(Put& put);
  Result<void> spill(Put& put);
  Result<Source> source_of(const Extent& extent);
  Result<void> add_targets(Copy& copy, const std::vector<Extent>& place);
  static void run_copy(Copy& copy);
  Result<void> start_copy(Put& put);
  void copied(PutId id, const Copy& copy, std::vector<Extent> place, bool on_disk);
  void publish(Put& put, std::vector<Extent> place, bool on_disk);
  // `synced`: after power loss what this replaced must not be back.
  void answer_commit(CommitDone done, Committed committed, bool synced);

  // store_put_end.cc
  void fail_put(Put& put, Error error);
  void drop_room(Put& put, bool holder_gone);
  void end_put(Put& put, bool published);
  void wake_waiters(const std::string& key);
  void wake(const std::vector<WaitToken>& tokens);

  // store_refresh.cc
  Result<catalog::Record> say_anew(const Put& put, ObjectId object);

  // store_follow.cc
  Result<Following> begin_follow(HolderId holder, Put& put);
  static ObjectInfo info_of(const Put& put);
  void announce(Put& put, std::uint64_t bytes);
  void end_follow(Put& put, bool published);
  void forget_follow(ObjectId pin);
  void wake_followers(Follow& follow);
  Result<SegmentView> staging_view(HolderId holder, SegmentId id);

  // store_room.cc
  static constexpr std::uint32_t kLentMax = 64;  // with one room
  Put* find_room(HolderId holder, PutId id);
  Result<Reserved> begin_room(HolderId holder, std::uint64_t bytes, std::uint64_t piece,
                              std::uint32_t leases);
  void end_room(Put& room);
  // Takes the body's bytes out of the room.
  Result<Extent> cut_from_room(Put& room, const RoomBody& body);
  // The number of a body that is about to be put. nullopt: not one that may be used.
  std::optional<ObjectId> object_for(const Put& room, const RoomBody& body);
  // Bytes of a body that is not published go, or stay for as long as its writer holds it. An error:
  // that could not be written down, and they are the room's again.
  Result<void> leave_body(Put& room, ObjectId object, const Extent& place);
  static std::shared_ptr<catalog::Record> record_of(ObjectId object, RoomBody& body,
                                                    const Extent& place, std::uint64_t created_ns);

  // store_remove.cc
  // The record has left the catalog (or its old place): its bytes go, now or when unpinned.
  void retire(const catalog::Record& record);
  // Before a record goes: what it names is written down if somebody pins it.
  Result<void> write_down(const catalog::Record& record);
  Result<void> write_held(ObjectId object, const std::vector<Extent>& extents);
  void free_place(std::vector<Extent> extents);
  // Nobody names these bytes any more, but somebody pins the object.
  void keep(ObjectId object, const std::vector<Extent>& extents);
  void unpinned(ObjectId object);
  // Objects whose records the catalog has just given, with one write: all go, or none.
  Result<void> remove_records(std::vector<catalog::Record>& records, bool& durable);
  Result<bool> remove_object(std::string_view key, bool& durable);
  Result<std::uint64_t> remove_each(const std::vector<std::string>& keys, bool& durable);
  Result<std::uint64_t> remove_keys(const std::string& prefix, bool& durable);
  // may_ask: where all is leased, readers are asked to let go. `piece`: as with Slots::take();
  // kBusy where enough is free, but not in such.
  Result<std::optional<std::vector<Extent>>> take_memory(std::uint64_t length, bool may_evict,
                                                         bool may_ask = true,
                                                         std::uint64_t piece = Slots::kGranule);
  bool make_disk_room(std::uint64_t length);
  bool evict_disk();
  // Objects go together until these have `wanted` bytes, or are many: one at least. False: none
  // could.
  bool evict_from(eviction::Policy& policy, std::uint64_t wanted = 0);
  void ask_back(Tier tier, std::uint64_t needed);
  void ask_again(std::uint64_t now_ns);
  void emit(EventKind kind, std::string_view key, ObjectId object, LeaseId lease = 0,
            HolderId holder = 0);

  // store_expiry.cc
  void expire();
  void note_expiry(const catalog::Record& record);
  void note_expiry_again(std::uint64_t before_ns, const catalog::Record& record);
  void push_expiry(Expiry expiry);
  void push_expiry_again(Expiry expiry);
  bool was_outdated(const Expiry& expiry);
  bool was_kept(const Expiry& expiry);
  void forget_expiry(ObjectId object);
  void sift_expiries();

  // store_upkeep.cc
  void start_sync();
  Result<void> sync_bodies(std::vector<DirtyFailure>& failed);
  Result<void> still_works(std::uint16_t disk) const;
  void body_sync_failed(const std::vector<DirtyFailure>& failed);
  void demote();
  bool drop_from_memory(const catalog::Record& record);
  std::optional<catalog::Record> movable(SegmentId pack, ObjectId object);
  void compact();
  void probe_disks();
  void count_catalog();
  void relocate(catalog::Record record, bool from_pack);
  void mark_dirty(ObjectId object, SegmentId segment);
  void file_gone(SegmentId segment);

  // store_regions.cc
  void end_lists();
  Result<RegionWorkRef> begin_region(std::string_view owner, std::uint64_t memory_bytes,
                                     std::uint64_t disk_bytes, std::uint32_t pid);
  void make_room_for(const RegionWorkRef& work);
  void resize_region(const RegionWorkRef& work);
  void finish_region(const RegionWorkRef& work);
  void end_region_work(const RegionWorkRef& work, Result<RegionGrant> answer);
  void empty_file(UniqueFd file, const std::string& name, std::uint64_t size,
                  std::function<void()> then);

  Config config_;
  const Clock& clock_;
  UniqueFd memory_dir_;
  UniqueFd state_dir_;
  UniqueFd regions_dir_;
  std::unique_ptr<catalog::Catalog> catalog_;
  std::unique_ptr<MemoryTier> memory_;
  std::unique_ptr<DiskTier> disks_;
  std::unique_ptr<LeaseBook> leases_;
  std::unique_ptr<HazardPages> pages_;
  std::unique_ptr<Board> board_;    // null: GETs are messages
  std::unique_ptr<Claims> claims_;  // null: and so is each miss
  FlatMap<std::uint64_t> hidden_;   // taken off it, and not looked for yet: how long they are
  std::unique_ptr<Staging> staging_;
  std::unique_ptr<eviction::Policy> memory_policy_;
  std::unique_ptr<eviction::Policy> disk_policy_;
  std::optional<HeldLog> held_log_;
  HeldLog::Entries held_;  // bytes that no record names, by the object that pins them
  std::uint64_t held_bytes_ = 0;

  std::unordered_map<PutId, std::unique_ptr<Put>> puts_;
  std::unordered_map<std::string, Writers> writers_;
  std::unordered_map<WaitToken, Waiter> waits_;
  std::unordered_map<ObjectId, Follow> follows_;              // by what followers pin
  std::unordered_map<SegmentId, ObjectId> followed_staging_;  // whose file that is
  std::unordered_map<HolderId, std::unordered_set<PutId>> holder_puts_;
  std::unordered_map<HolderId, std::uint64_t> holder_put_bytes_;
  std::uint64_t room_bytes_ = 0;  // that were given out as room ahead
  std::size_t rooms_ = 0;
  std::unordered_map<HolderId, std::unordered_set<SegmentId>> seen_;
  std::pair<HolderId, SegmentId> last_seen_;  // is in seen_
  std::map<std::string, Region> regions_;     // by owner
  std::unordered_set<std::string> regions_at_work_;
  std::size_t lists_under_way_ = 0;  // of what is in them
  std::atomic<bool> lists_end_{false};

  std::vector<Expiry> expiries_;      // a heap, see store_expiry.cc
  std::vector<Expiry> sifting_;       // on the way back into expiries_, by and by
  std::uint64_t stale_expiries_ = 0;  // about so many
  std::uint64_t sifts_ = 0;           // begun
  // Of objects that have entries which mean nothing beside the one that counts.
  struct Outdated {
    std::uint64_t counts_ns = 0;  // the time that does; 0: none
    std::uint64_t entries = 0;    // that do not
    std::uint64_t sift = 0;       // since which one of that time is in expiries_
  };
  std::unordered_map<ObjectId, Outdated> outdated_;
  std::unordered_set<ObjectId> relocating_;
  // Places in packs that were left by a move: free after the next group sync.
  std::vector<std::vector<Extent>> after_sync_;
  bool dead_packs_wait_ = false;  // for the first group sync
  // The worker's during a group sync.
  std::vector<std::pair<std::uint16_t, UniqueFd>> sync_directories_;

  std::mutex dirty_mutex_;
  std::unordered_map<SegmentId, Dirty> dirty_;    // guarded by dirty_mutex_
  std::unordered_map<SegmentId, Dirty> syncing_;  // the same; what a group sync has yet to sync

  Listener listener_;
  ObjectId ask_from_ = 0;                // where ask_back() goes on; 0: from the oldest
  std::size_t leases_gone_through_ = 0;  // by ask_back(), since the last tick
  std::uint64_t unpins_ = 0;             // how often a last pin went
  struct Stuck {
    std::uint64_t changes = 0;  // what had happened then
    unsigned times = 0;         // since the last tick
  };
  Stuck memory_stuck_, disk_stuck_;  // nothing could be evicted
  ObjectId next_object_ = 1;
  PutId next_put_ = 1;
  WaitToken next_wait_ = 1;
  std::uint64_t next_region_ = 1;
  bool sync_running_ = false;
  bool sync_fails_ = false;  // the last one did
  bool probe_running_ = false;
  std::uint64_t last_probe_ns_ = 0;
  std::uint64_t last_lease_probe_ns_ = 0;
  std::uint64_t last_applied_save_ns_ = 0;
  std::vector<std::string> troubles_;  // not told yet; disks have theirs

  struct Counters {
    std::uint64_t hits = 0, misses = 0, published = 0, refreshed = 0, removed = 0, expired = 0;
    std::uint64_t evicted_memory = 0, evicted_disk = 0, demoted = 0, compacted = 0;
    std::uint64_t aborted = 0, revoked = 0, no_space = 0, sync_failures = 0;
    std::uint64_t claims_wanted = 0, claims_reserved = 0, claims_put = 0, claims_dropped = 0;
  } count_;

  std::unique_ptr<RemovalLog> removal_log_;
  std::vector<std::function<void(Result<void>)>> removal_syncs_;  // wait for the next sync
  bool removal_sync_runs_ = false;

  std::unique_ptr<Worker> worker_;          // last: its thread ends before what its jobs use
  std::unique_ptr<Worker> removal_worker_;  // syncs the removal log
  std::unique_ptr<Worker> list_worker_;     // reads regions; since somebody asked for that
};

}  // namespace om::store
