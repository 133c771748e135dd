// Who holds what: holders (one for each session), their leases, and the pins that follow from them.
//
// Each holder has a lease file, leases/<n>, and one open file description of it that the peer
// shares. A lease on object N is a read lock (OFD, posix/range_lock.h) on byte N, and on neighbours
// (lease_locks.h), through that description, so that the kernel knows it as long as either side
// keeps the description open:
//   live      the session is open; its leases are what it took and did not release
//   orphan    the session is over, or belonged to an earlier daemon; its locks, looked at through
//             another description, say what is still held. No lock left: file and holder go.
// A direct put pins its object's bytes the same way: a writer that was cut off may be writing yet.
// What an orphan of an earlier daemon has locked is known as ranges of ids; those that still have
// bytes are claimed by recovery.
//
// Leases come back by release(), or through the page that a holder shares with us
// (base/release_ring.h), which collect() looks at.
//
// An object that is pinned by anybody is not moved, recycled or unlinked; `unpinned` is called when
// its last pin has gone. Loop thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/flat_map.h"
#include "base/release_ring.h"
#include "base/result.h"
#include "posix/mapping.h"
#include "posix/range_lock.h"
#include "posix/unique_fd.h"
#include "store/lease_locks.h"
#include "store/store.h"

namespace om::store {

class LeaseBook {
 public:
  using Unpinned = std::function<void(ObjectId)>;
  struct Limits {
    std::size_t leases = 0;
    std::uint64_t leased_bytes = 0;
  };
  // `directory` holds the lease files; those that are there become orphans if they are locked.
  static Result<std::unique_ptr<LeaseBook>> open(UniqueFd directory, Limits limits,
                                                 Unpinned unpinned);
  // Recovery: this object has bytes still. Pins it if an earlier daemon's holder has locked it.
  void claim(ObjectId object);
  // Orphans that nothing was claimed for are forgotten.
  void end_recovery();

  Result<HolderId> open_holder(const PeerCredentials& peer);
  [[nodiscard]] BorrowedFd descriptor(HolderId holder) const;
  [[nodiscard]] bool live(HolderId holder) const { return holders_.count(holder) != 0; }
  void close_holder(HolderId id);
  // A descriptor of the page by which this holder gives leases back; it is made when first asked
  // for.
  Result<UniqueFd> release_page(HolderId id);
  // Takes what was given back there.
  void collect(HolderId id);
  // True: something was.
  bool collect_all();
  // Unlocks what has not been pinned for a while. From tick().
  void settle();

  Result<LeaseId> lease(HolderId id, ObjectId object, std::uint64_t bytes);
  // Leases on objects to come, from `first` on: `count`, or fewer where the limits say so, which
  // share `bytes`. Nobody is asked for one before use().
  Lent lend(HolderId id, ObjectId first, std::uint32_t count, std::uint64_t bytes);
  // The object of that one is there, and so long. One that was let go of is ignored.
  void use(HolderId id, LeaseId lease, std::uint64_t bytes);
  void release(HolderId id, LeaseId lease);
  // A direct put: as a lease, but without an id and outside the quota.
  Result<void> pin_put(HolderId id, ObjectId object);
  void unpin_put(HolderId id, ObjectId object);
  // Whether this holder has a lease on it.
  [[nodiscard]] bool holds(HolderId id, ObjectId object) const;
  [[nodiscard]] std::vector<ObjectId> objects_of(HolderId id) const;
  [[nodiscard]] std::optional<ObjectId> object_of(HolderId id, LeaseId lease) const;

  // A lease that its holder has taken by itself, and that somebody else pins (hazard_pages.h): it
  // counts here, is asked back and is overdue as any other, whatever the quota. It is the holder's
  // id for it, and ends by strike() alone.
  void note(HolderId id, LeaseId lease, ObjectId object, std::uint64_t bytes);
  void strike(HolderId id, LeaseId lease);

  // The store's own pins: bytes that the worker reads.
  void pin(ObjectId object) { ++pins_[object]; }
  void unpin(ObjectId object);
  [[nodiscard]] bool pinned(ObjectId object) const { return pins_.contains(object); }
  [[nodiscard]] std::uint32_t pins(ObjectId object) const {
    const auto* const found = pins_.find(object);
    return found == nullptr ? 0 : found->second;
  }
  [[nodiscard]] bool any_pins() const { return !pins_.empty(); }
  [[nodiscard]] std::size_t pinned_count() const { return pins_.size(); }

  // Looks at the orphans' locks.
  void probe();
  // Objects that live holders can be asked for, in order: leased by one that was not asked for them
  // yet, or no longer than `grace_ns` ago, and by no orphan, who cannot be asked.
  [[nodiscard]] std::vector<ObjectId> revocable(std::uint64_t now_ns, std::uint64_t grace_ns) const;
  // Every lease on the object of a live holder, each told once: for revocation.
  std::vector<std::pair<HolderId, LeaseId>> revoke(ObjectId object, std::uint64_t now_ns);
  // Revoked leases that are kept longer than `grace_ns` are overdue from now on: their holder gets
  // no other ones until it has let go of them. How many there are.
  std::size_t mark_overdue(std::uint64_t now_ns, std::uint64_t grace_ns);
  struct Overdue {
    HolderId holder = 0;
    LeaseId lease = 0;
    ObjectId object = 0;
  };
  // Overdue leases whose holders are to be told once more, some at a time: each once per grace.
  std::vector<Overdue> tell_again(std::uint64_t now_ns, std::uint64_t grace_ns);

  [[nodiscard]] std::size_t holders() const { return holders_.size(); }
  [[nodiscard]] std::size_t orphans() const { return orphans_.size(); }
  [[nodiscard]] std::size_t leases() const { return lease_count_; }

 private:
  struct Lease {
    ObjectId object = 0;
    std::uint64_t bytes = 0;
    std::uint64_t revoked_ns = 0;  // when it was asked back; 0: it was not
    std::uint64_t told_ns = 0;     // the last time
    bool overdue = false;
    bool unused = false;  // see lend()
    bool noted = false;   // pinned by somebody else
  };
  struct Holder {
    UniqueFd file;  // the description that the peer shares
    LeaseLocks locks;
    bool settling = false;  // had idle locks at the last settle()
    Mapping page;           // the release page, where there is one
    std::uint32_t taken = 0;
    pid_t pid = 0;
    FlatMap<Lease> leases;           // by id
    FlatMap<std::uint32_t> objects;  // leases and direct puts on each
    std::uint64_t leased_bytes = 0;
    std::size_t revoked = 0;  // of its leases
    std::size_t overdue = 0;
    std::size_t noted = 0;
  };
  struct Orphan {
    UniqueFd probe;  // a description of ours
    std::unordered_set<ObjectId> objects;
    std::vector<LockedRange> ranges;  // during recovery
  };

  LeaseBook(UniqueFd directory, Limits limits, Unpinned unpinned)
      : directory_(std::move(directory)), limits_(limits), unpinned_(std::move(unpinned)) {}
  Result<void> recover();
  Result<void> hold(Holder& holder, ObjectId object);
  void let_go(Holder& holder, ObjectId object);
  bool release(Holder& holder, LeaseId lease);
  void forget(Holder& holder, FlatMap<Lease>::Entry* entry);
  bool collect(Holder& holder);
  // Whether anything of it is left.
  bool probe_one(HolderId id, Orphan& orphan);

  UniqueFd directory_;
  Limits limits_;
  Unpinned unpinned_;
  std::unordered_map<HolderId, Holder> holders_;
  std::unordered_map<HolderId, Orphan> orphans_;
  FlatMap<std::uint32_t> pins_;  // by object
  HolderId next_holder_ = 1;
  LeaseId next_lease_ = 1;
  std::size_t lease_count_ = 0;
  std::vector<LockedRange> recovered_;  // all orphans' ranges, in order and merged
};

}  // namespace om::store
