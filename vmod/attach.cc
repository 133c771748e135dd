// attach.cc: an object core for each record, made by Varnish's own functions.
//
// Three passes, so that each finds most of what it needs in the cache and the TLB of the core that
// it runs on; memory that is met by chance costs more than all else:
//
//   by digest     into Varnish's tree, the ban list and the expiry thread's inbox; neighbours in
//                 the tree come one after the other
//   by last use   into the LRU list, which touches the object core alone
//   by digest     gives back the reference that has kept the object core, in the order in which
//                 they and their heads were allocated
//
// An expiry thread with an empty inbox would be woken for every object, which costs more than all
// the rest: it is kept behind (expiry_pace.h).
#include "attach.h"

#include <condition_variable>
#include <mutex>
#include <optional>

#include "base/prefetch.h"
#include "expiry_pace.h"
#include "removals.h"

namespace om::vmod::adoption {

using abi::varnish;

namespace {

// Records and object cores that are on their way into the cache.
constexpr std::size_t kRecordsAhead = 3;
constexpr std::size_t kRecordBytesAhead = 640;
constexpr std::size_t kCoresAhead = 12;

class Attacher {
 public:
  Attacher(struct worker* wrk, Store& store, Plan& plan, const bans::Restored& bans,
           const Leases& leases, std::span<struct objcore*> cores)
      : wrk_(wrk),
        store_(store),
        region_(*store.region()),
        plan_(plan),
        bans_(bans),
        leases_(leases),
        cores_(cores) {
    request_.magic = REQ_MAGIC;
    request_.wrk = wrk;
    http_.magic = HTTP_MAGIC;
    request_.http = &http_;
    request_.hash_always_miss = 1;
  }

  std::uint64_t run(double deadline);

 private:
  struct objcore* busy_objcore(const std::uint8_t* digest);
  struct objcore* make(region::Record& record);
  [[nodiscard]] bool body_checks_out(const region::Record& record);
  std::uint64_t by_digest(double deadline);
  void by_last_use();
  void let_go();
  void drop(std::size_t place, Reason reason) {
    ++plan_.dropped[static_cast<std::size_t>(reason)];
    region_.destroy(plan_.keep[place].record);
  }

  struct worker* wrk_;
  Store& store_;
  region::Region& region_;
  Plan& plan_;
  const bans::Restored& bans_;
  const Leases& leases_;
  struct req request_ {};
  struct http http_ {};
  std::span<struct objcore*> cores_;  // as plan_.keep; nullptr: dropped
};

// A busy objcore for the digest, linked in its objhead.
struct objcore* Attacher::busy_objcore(const std::uint8_t* digest) {
  std::memcpy(request_.digest, digest, sizeof request_.digest);
  struct objcore* hit = nullptr;
  struct objcore* busy = nullptr;
  (void)varnish.HSH_Lookup(&request_, &hit, &busy);
  return busy;
}

// What HSH_Unbusy does, but with a ban and a place in the list of its own age. With a reference for
// the caller, and not in the LRU list; nullptr: it is gone.
struct objcore* Attacher::make(region::Record& record) {
  struct objcore* oc = busy_objcore(record.digest.data());
  attach_record(wrk_, store_, oc, record);
  if ((record.flags & region::kBodyLent) != 0)
    attach_body(oc, lease_body::body_of(oc, leases_.of(record)));
  if (store_.config().verify == Verify::kOnRead) verify_before_use(oc);
  if (!bans_.attach(oc, region::load_double(record.ban_time))) {
    oc->flags |= OC_F_FAILED;
    varnish.ObjSetState(wrk_, oc, BOS_FAILED);
    varnish.HSH_DerefBoc(wrk_, oc);
    varnish.LRU_Add(oc, VTIM_real());  // objfree takes it out
    (void)varnish.HSH_DerefObjCore(wrk_, &oc, 0);
    return nullptr;
  }
  varnish.ObjSetState(wrk_, oc, BOS_FINISHED);
  struct objhead* head = oc->objhead;
  Lck_Lock(&head->mtx);
  varnish.EXP_RefNewObjcore(oc);
  VTAILQ_REMOVE(&head->objcs, oc, hsh_list);
  // Lookup takes the first that fits: newest first, as they came in their first life.
  struct objcore* other = nullptr;
  VTAILQ_FOREACH(other, &head->objcs, hsh_list)
  if ((other->flags & OC_F_BUSY) == 0 && other->t_origin <= oc->t_origin) break;
  if (other != nullptr)
    VTAILQ_INSERT_BEFORE(other, oc, hsh_list);
  else
    VTAILQ_INSERT_TAIL(&head->objcs, oc, hsh_list);
  oc->flags = static_cast<std::uint8_t>(oc->flags & ~OC_F_BUSY);
  // Requests that another VCL sent here while it was busy: giving back a reference wakes them.
  struct objcore* waited_for = VTAILQ_EMPTY(&head->waitinglist) ? nullptr : oc;
  if (waited_for != nullptr) oc->refcnt++;
  Lck_Unlock(&head->mtx);
  varnish.EXP_Insert(wrk_, oc);
  const bool purged = removals::purged_meanwhile(record.digest.data());
  if (purged) {
    region_.mark_removed(record);
    varnish.HSH_Kill(oc);
  }
  varnish.HSH_DerefBoc(wrk_, oc);
  if (waited_for != nullptr) (void)varnish.HSH_DerefObjCore(wrk_, &waited_for, -1);
  if (!purged) return oc;
  varnish.LRU_Add(oc, VTIM_real());
  (void)varnish.HSH_DerefObjCore(wrk_, &oc, -1);
  return nullptr;
}

bool Attacher::body_checks_out(const region::Record& record) {
  if ((record.flags & region::kHasBodyChecksum) == 0) return true;
  count(store_.counters().c_verified);
  const bool lent = (record.flags & region::kBodyLent) != 0;
  if (lent ? lease_body::is_what_was_stored(store_, *leases_.of(record), record)
           : region_.verify_body(record))
    return true;
  count(store_.counters().c_verify_failed);
  return false;
}

std::uint64_t Attacher::by_digest(double deadline) {
  std::uint64_t attached = 0;
  std::size_t at = 0;
  const Verify verify = store_.config().verify;
  // Reading bodies is slow enough: then it need not wait.
  std::optional<ExpiryPace> pace;
  if (verify != Verify::kOnAdopt) pace.emplace();
  for (; at < plan_.keep.size(); ++at) {
    // Reading bodies takes its time, one by one.
    if (((at & 255) == 0 || verify == Verify::kOnAdopt) && VTIM_mono() > deadline) break;
    // The page first, which has to be looked up as well.
    if (at + 2 * kRecordsAhead < plan_.keep.size())
      prefetch(plan_.keep[at + 2 * kRecordsAhead].record, 1);
    if (at + kRecordsAhead < plan_.keep.size())
      prefetch(plan_.keep[at + kRecordsAhead].record, kRecordBytesAhead);
    const auto& [slot, record] = plan_.keep[at];
    region_.set_adopting(slot);
    if (verify == Verify::kOnAdopt && !body_checks_out(*record)) {
      drop(at, Reason::kDamaged);
      continue;
    }
    cores_[at] = make(*record);
    if (cores_[at] == nullptr)
      ++plan_.dropped[static_cast<std::size_t>(Reason::kPurged)];
    else
      ++attached;
    if (pace) pace->one_more();
  }
  region_.clear_adopting();
  for (; at < plan_.keep.size(); ++at) drop(at, Reason::kTooLate);
  return attached;
}

void Attacher::by_last_use() {
  const double now = VTIM_real();
  const auto& order = plan_.by_use;
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (i + 2 * kCoresAhead < order.size()) {
      prefetch(&cores_[order[i + 2 * kCoresAhead]], 1);
      prefetch(&plan_.keep[order[i + 2 * kCoresAhead]], 1);
    }
    if (i + kCoresAhead < order.size())
      prefetch(cores_[order[i + kCoresAhead]], sizeof(struct objcore));
    struct objcore* oc = cores_[order[i]];
    if (oc == nullptr) continue;
    region_.set_adopting(plan_.keep[order[i]].slot);
    varnish.LRU_Add(oc, now);
  }
}

void Attacher::let_go() {
  for (std::size_t at = 0; at < cores_.size(); ++at) {
    struct objcore* oc = cores_[at];
    if (oc == nullptr) continue;
    region_.set_adopting(plan_.keep[at].slot);
    (void)varnish.HSH_DerefObjCore(wrk_, &oc, -1);
  }
}

std::uint64_t Attacher::run(double deadline) {
  const std::uint64_t attached = by_digest(deadline);
  by_last_use();
  let_go();
  region_.clear_adopting();
  return attached;
}

struct Work {
  Store* store = nullptr;
  Plan* plan = nullptr;
  const bans::Restored* bans = nullptr;
  const Leases* leases = nullptr;
  std::span<struct objcore*> cores;
  double deadline = 0;
  std::uint64_t attached = 0;
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
};

void task(struct worker* wrk, void* priv) noexcept {
  auto& work = *static_cast<Work*>(priv);
  // A worker between requests has no log buffer, and what it calls may want to write to it.
  struct vsl_log log[1];
  char buffer[2048];
  const bool lent = wrk->vsl == nullptr;
  if (lent) {
    varnish.VSL_Setup(log, buffer, sizeof buffer);
    wrk->vsl = log;
  }
  work.attached = Attacher(wrk, *work.store, *work.plan, *work.bans, *work.leases, work.cores)
                      .run(work.deadline);
  if (lent) {
    varnish.VSL_Flush(log, 0);
    wrk->vsl = nullptr;
  }
  // Notified with the lock held: the one who waits owns the condition, and goes.
  const std::lock_guard lock(work.mutex);
  work.done = true;
  work.finished.notify_one();
}

}  // namespace

std::uint64_t attach(Store& store, Plan& plan, const bans::Restored& bans, const Leases& leases,
                     double deadline, std::span<struct objcore*> cores) {
  if (plan.keep.empty()) return 0;
  Work work;
  work.store = &store;
  work.plan = &plan;
  work.bans = &bans;
  work.leases = &leases;
  work.cores = cores;
  work.deadline = deadline;
  struct pool_task one {};
  one.func = task;
  one.priv = &work;
  removals::begin_adoption();
  if (varnish.Pool_Task_Any(&one, TASK_QUEUE_BO) == 0) {
    std::unique_lock lock(work.mutex);
    work.finished.wait(lock, [&] { return work.done; });
  } else {
    for (const auto& candidate : plan.keep) {
      ++plan.dropped[static_cast<std::size_t>(Reason::kTooLate)];
      store.region()->destroy(candidate.record);
    }
  }
  removals::end_adoption();
  return work.attached;
}

}  // namespace om::vmod::adoption
