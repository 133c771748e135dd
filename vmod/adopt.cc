// adopt.cc: a restarted cache takes back what survived it (VARNISH 7.1.1).
//
//   1  scan the region's records; decide which are alive            adopt_plan.cc
//   2  bring the bans back, with their times; pin the oldest        bans.cc
//   3  attach an objcore to each record, on a pool's worker         here
//   4  new bans go to this store's log                              bans.cc (join, before 3)
//
// All of it inside vcl_init of the first VCL, before clients are accepted; the CLI thread waits. It
// waits half of cli_timeout at most (adopt_within): what is not attached by then is dropped and
// counted.
#include "adopt.h"

#include <syslog.h>

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "bans.h"
#include "removals.h"
#include "storage.h"

namespace om::vmod::adoption {

using abi::varnish;

namespace {

struct Work {
  Store* store = nullptr;
  Plan* plan = nullptr;
  const bans::Restored* bans = nullptr;
  double deadline = 0;
  std::uint64_t adopted = 0;
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
};

// A busy objcore for the digest, linked in its objhead.
struct objcore* busy_objcore(struct worker* wrk, const std::uint8_t* digest) {
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
  return busy;
}

// What HSH_Unbusy does, but with a ban and a place in the list of its own age.
bool attach(struct worker* wrk, Store& store, const bans::Restored& bans, region::Record& record) {
  struct objcore* oc = busy_objcore(wrk, record.digest.data());
  attach_record(wrk, store, oc, record);
  if (store.config().verify == Verify::kOnRead) verify_before_use(oc);
  if (!bans.attach(oc, region::load_double(record.ban_time))) {
    oc->flags |= OC_F_FAILED;
    varnish.ObjSetState(wrk, oc, BOS_FAILED);
    varnish.HSH_DerefBoc(wrk, oc);
    (void)varnish.HSH_DerefObjCore(wrk, &oc, 0);
    return false;
  }
  varnish.ObjSetState(wrk, oc, BOS_FINISHED);
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
  Lck_Unlock(&head->mtx);
  varnish.EXP_Insert(wrk, oc);
  const bool purged = removals::purged_meanwhile(record.digest.data());
  if (purged) {
    store.region()->mark_removed(record);
    varnish.HSH_Kill(oc);
  }
  varnish.HSH_DerefBoc(wrk, oc);
  (void)varnish.HSH_DerefObjCore(wrk, &oc, -1);
  return !purged;
}

bool body_checks_out(Store& store, const region::Record& record) {
  if ((record.flags & region::kHasBodyChecksum) == 0) return true;
  count(store.counters().c_verified);
  if (store.region()->verify_body(record)) return true;
  count(store.counters().c_verify_failed);
  return false;
}

void attach_all(struct worker* wrk, Work& work) {
  region::Region& region = *work.store->region();
  std::size_t at = 0;
  const Verify verify = work.store->config().verify;
  for (; at < work.plan->keep.size(); ++at) {
    // Reading bodies takes its time, one by one.
    if (((at & 255) == 0 || verify == Verify::kOnAdopt) && VTIM_mono() > work.deadline) break;
    const auto& [slot, record] = work.plan->keep[at];
    region.set_adopting(slot);
    if (verify == Verify::kOnAdopt && !body_checks_out(*work.store, *record)) {
      ++work.plan->dropped[static_cast<std::size_t>(Reason::kDamaged)];
      region.destroy(record);
      continue;
    }
    if (attach(wrk, *work.store, *work.bans, *record))
      ++work.adopted;
    else
      ++work.plan->dropped[static_cast<std::size_t>(Reason::kPurged)];
  }
  region.clear_adopting();
  for (; at < work.plan->keep.size(); ++at) {
    ++work.plan->dropped[static_cast<std::size_t>(Reason::kTooLate)];
    region.destroy(work.plan->keep[at].record);
  }
}

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
  attach_all(wrk, work);
  if (lent) {
    varnish.VSL_Flush(log, 0);
    wrk->vsl = nullptr;
  }
  // Notified with the lock held: the one who waits owns the condition, and goes.
  const std::lock_guard lock(work.mutex);
  work.done = true;
  work.finished.notify_one();
}

void run_on_worker(Work& work) {
  struct pool_task one {};
  one.func = task;
  one.priv = &work;
  if (varnish.Pool_Task_Any(&one, TASK_QUEUE_BO) != 0) {
    for (const auto& candidate : work.plan->keep) {
      ++work.plan->dropped[static_cast<std::size_t>(Reason::kTooLate)];
      work.store->region()->destroy(candidate.record);
    }
    return;
  }
  std::unique_lock lock(work.mutex);
  work.finished.wait(lock, [&] { return work.done; });
}

std::string describe_scan(const region::ScanReport& scan) {
  std::string text;
  for (std::size_t reason = 1; reason < scan.dropped.size(); ++reason) {
    if (scan.dropped[reason] == 0) continue;
    text += (text.empty() ? "" : ", ") + std::to_string(scan.dropped[reason]) + " " +
            region::to_string(static_cast<region::Drop>(reason));
  }
  if (scan.index_damaged) text += (text.empty() ? "" : ", ") + std::string("index damaged");
  return text;
}

std::uint64_t sum(std::span<const std::uint64_t> numbers) {
  std::uint64_t total = 0;
  for (const std::uint64_t number : numbers) total += number;
  return total;
}

void drop_all(Store& store, std::unique_ptr<region::Region> region, const char* why) {
  const region::BanLog::Loaded saved = region->bans().load();
  const region::ScanReport scan = region->scan();
  region->finish_scan({});
  region->clear_adopting();
  count(store.counters().c_adopt_dropped, scan.slots_in_use);
  if (scan.slots_in_use > 0)
    notice(LOG_WARNING, &store,
           "starts empty, " + std::to_string(scan.slots_in_use) + " objects dropped: " + why);
  bans::join(store, *region, &saved);
  store.take(std::move(region));
}

void adopt(Store& store, std::unique_ptr<region::Region> region) {
  const double began = VTIM_mono();
  const region::BanLog::Loaded saved = region->bans().load();
  region::ScanReport scan = region->scan();
  const bans::Restored restored(saved);
  // Objects lose nothing when the log was empty: then none of them was tested against anything.
  Plan chosen = plan(scan, VTIM_real(), restored.oldest(), saved.lost_until);
  if (region->files() != nullptr) fit_to_disk(chosen, region->files()->capacity());
  std::vector<std::uint64_t> slots;
  slots.reserve(chosen.keep.size());
  for (const auto& candidate : chosen.keep) slots.push_back(candidate.slot);
  region->finish_scan(slots);
  bans::join(store, *region, &saved);
  store.take(std::move(region));

  Work work;
  work.store = &store;
  work.plan = &chosen;
  work.bans = &restored;
  const double half = (*varnish.cache_param)->cli_timeout / 2;
  const double within = store.config().adopt_within;
  work.deadline = began + (within > 0 && within < half ? within : half);
  removals::begin_adoption();
  if (!chosen.keep.empty()) run_on_worker(work);
  removals::end_adoption();

  const std::uint64_t damaged = sum(std::span(scan.dropped).subspan(1));
  const std::uint64_t dropped = damaged + sum(chosen.dropped);
  count(store.counters().c_adopted, work.adopted);
  count(store.counters().c_adopt_dropped, dropped);
  count(store.counters().c_adopt_damaged, damaged);
  store.update_gauges();
  std::string text = "adopted " + std::to_string(work.adopted) + " objects and " +
                     std::to_string(saved.count) + " bans in " +
                     std::to_string(std::lround((VTIM_mono() - began) * 1000)) + " ms";
  if (dropped > 0) {
    const std::string ours = describe_reasons(chosen.dropped);
    const std::string records = describe_scan(scan);
    text += "; dropped: " + ours + (ours.empty() || records.empty() ? "" : ", ") + records;
  }
  notice(LOG_NOTICE, &store, text);
}

}  // namespace

void ended(Store& store) {
  region::Region& region = *store.region();
  region.mark_clean();
  if (region.files() == nullptr) return;
  // Varnish waits cli_timeout for its child to end, and kills it then. Whoever stops it waits as
  // well: a disk that is slow costs the objects a reboot, not the operator his patience.
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::string text;
    bool done = false;
  };
  auto* state = new State;  // a thread that is late still has it when the process ends
  std::thread writer([state, &region] {
    auto written = region.write_snapshot();
    const std::lock_guard lock(state->mutex);
    state->text = written
                      ? std::to_string(*written) + " bodies in files will survive a reboot"
                      : "bodies in files will not survive a reboot: " + describe(written.error());
    state->done = true;
    state->changed.notify_one();
  });
  writer.detach();
  std::unique_lock lock(state->mutex);
  // For all stores together.
  static const double deadline =
      VTIM_mono() + std::min<double>((*varnish.cache_param)->cli_timeout / 3, 10.);
  const std::chrono::duration<double> limit(std::max(0., deadline - VTIM_mono()));
  if (state->changed.wait_for(lock, limit, [state] { return state->done; })) {
    notice(LOG_NOTICE, &store, state->text);
    return;
  }
  lock.unlock();
  region.withdraw_snapshot();
  notice(LOG_WARNING, &store,
         "bodies in files will not survive a reboot: the disk is too slow to sync them now");
}

void prepare(Store& store, std::unique_ptr<region::Region> region, bool on_cli) {
  if (region->formatted()) {
    if (region->format_reason() != "new")
      notice(LOG_WARNING, &store, "starts empty: " + region->format_reason());
    bans::join(store, *region, nullptr);
    store.take(std::move(region));
    return;
  }
  // Bans can be brought back on the CLI thread alone, and what was removed since this varnishd
  // started would not be known.
  if (!on_cli) {
    drop_all(store, std::move(region),
             "the daemon answered after the VCL was loaded, removals since then are not known");
    return;
  }
  adopt(store, std::move(region));
}

}  // namespace om::vmod::adoption
