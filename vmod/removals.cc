#include "removals.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>

#include "bans.h"
#include "expiry_pace.h"
#include "fetch.h"

namespace om::vmod {

using abi::varnish;

namespace {

double fresh_until(const region::Timers& t) { return t.t_origin + static_cast<double>(t.ttl); }
double kept_until(const region::Timers& t) {
  return fresh_until(t) + static_cast<double>(t.grace) + static_cast<double>(t.keep);
}

// Events that say how an object has changed: into the words of its record, for the next life.
// Called on any thread, with the objhead locked or not: memory only.
void on_event(struct worker* /*wrk*/, void* /*priv*/, struct objcore* oc, unsigned event) noexcept {
  if ((event & OEV_TTLCHG) != 0) adoption::pace_expiry();
  Store* store = Store::of(oc);
  if (store == nullptr || oc->stobj->priv == nullptr) return;
  region::Record& record = record_of(oc);
  if ((event & OEV_EXPIRE) != 0) {
    store->region()->mark_removed(record);
    return;
  }
  // One that is being attached has all this from its record.
  if ((event & OEV_INSERT) != 0 && oc->boc != nullptr && Fetch::of(oc->boc) == nullptr) return;
  if ((event & (OEV_INSERT | OEV_TTLCHG)) != 0) {
    // The expiry thread also says so when it takes in an object with the times that it came with.
    const region::Timers now{oc->t_origin, oc->ttl, oc->grace, oc->keep};
    if (const region::Timers before = timers(record); before != now) {
      set_timers(record, now);
      if (fresh_until(now) < fresh_until(before) || kept_until(now) < kept_until(before))
        store->region()->leave_snapshot(record);
    }
  }
  if ((event & (OEV_INSERT | OEV_BANCHG)) != 0) {
    // It only ever grows: what was tested once need not be tested again.
    const double tested = bans::tested_until(oc);
    if (tested > region::load_double(record.ban_time))
      region::store_double(record.ban_time, tested);
  }
}

bool same_variant(const region::Record& one, const region::Record& other) {
  const auto a = variable(one, region::Variable::kVary);
  const auto b = variable(other, region::Variable::kVary);
  return std::ranges::equal(a, b);
}

using Digest = std::array<std::uint8_t, 32>;
std::mutex purged_mutex;
std::set<Digest> purged;              // guarded by purged_mutex
std::atomic<bool> any_purged{false};  // most adoptions see no purge: no lock to learn that
int adoptions = 0;

}  // namespace

namespace removals {

void subscribe() {
  static bool done = false;
  if (done) return;
  done = true;
  (void)varnish.ObjSubscribeEvents(on_event, nullptr,
                                   OEV_INSERT | OEV_BANCHG | OEV_TTLCHG | OEV_EXPIRE);
}

bool is_going(const struct objcore& oc, double now) {
  return (oc.flags & OC_F_DYING) != 0 ||
         kept_until({oc.t_origin, oc.ttl, oc.grace, oc.keep}) <= now;
}

void begin_adoption() {
  const std::lock_guard lock(purged_mutex);
  ++adoptions;
}

bool purged_meanwhile(const std::uint8_t* digest) {
  // Whoever notes a digest looks through its objhead after that, with the lock under which the
  // caller has linked the object: either this is seen here, or the object there.
  if (!any_purged.load(std::memory_order_acquire)) return false;
  Digest key;
  std::copy_n(digest, key.size(), key.begin());
  const std::lock_guard lock(purged_mutex);
  return purged.contains(key);
}

void end_adoption() {
  const std::lock_guard lock(purged_mutex);
  if (--adoptions != 0) return;
  purged.clear();
  any_purged.store(false, std::memory_order_release);
}

void purge(struct worker* wrk, const std::uint8_t* digest) {
  {
    Digest key;
    std::copy_n(digest, key.size(), key.begin());
    const std::lock_guard lock(purged_mutex);
    if (adoptions > 0) {
      purged.insert(key);
      any_purged.store(true, std::memory_order_release);
    }
  }
  // A busy objcore of our own is the way to the objhead. Whoever is not in its list any more has
  // had its EXPIRE event: the expiry thread sends it before it gives up its reference.
  struct req request {};
  struct http http {};
  request.magic = REQ_MAGIC;
  request.wrk = wrk;
  http.magic = HTTP_MAGIC;
  request.http = &http;
  request.hash_always_miss = 1;
  std::memcpy(request.digest, digest, sizeof request.digest);
  struct objcore* hit = nullptr;
  struct objcore* busy = nullptr;
  (void)varnish.HSH_Lookup(&request, &hit, &busy);
  struct objhead* head = busy->objhead;
  const double now = VTIM_real();
  Lck_Lock(&head->mtx);
  struct objcore* oc = nullptr;
  VTAILQ_FOREACH(oc, &head->objcs, hsh_list) {
    if ((oc->flags & OC_F_BUSY) != 0) continue;
    if (Store* store = Store::of(oc); store != nullptr && oc->stobj->priv != nullptr)
      store->region()->mark_removed(record_of(oc));
    // Where this purge is a request's, Varnish has purged before it asked VCL. But what was being
    // fetched then, and has got here since, is as old: recording the purge for other caches takes
    // its time.
    if (is_going(*oc, now)) continue;
    // As a lookup does it that meets a banned one: with the lock held, no reference is needed.
    oc->flags |= OC_F_DYING;
    varnish.EXP_Remove(oc);
  }
  Lck_Unlock(&head->mtx);
  (void)varnish.HSH_DerefObjCore(wrk, &busy, 1);
}

}  // namespace removals

namespace adoption {

void freed(Store& /*store*/, struct objcore* /*oc*/, region::Record& /*record*/) {}

// The older ones of the same variant stay in Varnish until they expire, behind this one; they are
// not to come back in front of it.
void published(Store& store, struct objcore* oc, region::Record& record) {
  (void)store;
  struct objhead* head = oc->objhead;
  if (head == nullptr) return;
  Lck_Lock(&head->mtx);
  struct objcore* other = nullptr;
  VTAILQ_FOREACH(other, &head->objcs, hsh_list) {
    if (other == oc || (other->flags & OC_F_BUSY) != 0) continue;
    Store* owner = Store::of(other);
    if (owner == nullptr || other->stobj->priv == nullptr) continue;
    region::Record& theirs = record_of(other);
    if (other->t_origin <= oc->t_origin && same_variant(record, theirs))
      owner->region()->mark_removed(theirs);
  }
  Lck_Unlock(&head->mtx);
}

void start_process() {
  bans::listen();
  removals::subscribe();
}

}  // namespace adoption
}  // namespace om::vmod
