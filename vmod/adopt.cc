// adopt.cc: a restarted cache takes back what survived it (VARNISH 7.1.1).
//
//   1  scan the region's records; decide which are alive            adopt_plan.cc
//      take the leases of bodies that lie in the daemon again        adopt_leases.cc
//   2  bring the bans back, with their times; pin the oldest        bans.cc
//   3  attach an objcore to each record, on a pool's worker         attach.cc
//   4  new bans go to this store's log                              bans.cc (join, before 3)
//
// All of it inside vcl_init of the first VCL, before clients are accepted; the CLI thread waits. It
// waits half of cli_timeout at most (adopt_within): what is not attached by then is dropped and
// counted.
#include "adopt.h"

#include <syslog.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>

#include "adopt_leases.h"
#include "attach.h"
#include "bans.h"
#include "storage.h"

namespace om::vmod::adoption {

using abi::varnish;

namespace {

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
  // Varnish orders bans by their times, and would look for the newest one in the wrong place.
  if (saved.newest >= bans::newest_time()) {
    drop_all(store, std::move(region),
             "its bans lie in the future: the clock of this machine was set back");
    return;
  }
  region::ScanReport scan = region->scan();
  const bans::Restored restored(saved);
  // Objects lose nothing when the log was empty: then none of them was tested against anything.
  Plan chosen = plan(scan, VTIM_real(), restored.oldest(), restored.lost_until());
  if (region->files() != nullptr) fit_to_disk(chosen, region->files()->capacity());
  const double half = (*varnish.cache_param)->cli_timeout / 2;
  const double within = store.config().adopt_within;
  const double time = within > 0 && within < half ? within : half;
  Leases leases;
  leases.take(store, *region, chosen, began + time / 2);
  std::vector<std::uint64_t> slots;
  slots.reserve(chosen.keep.size());
  for (const auto& candidate : chosen.keep) slots.push_back(candidate.slot);
  region->finish_scan(slots);
  std::vector<struct objcore*> cores(chosen.keep.size());
  bans::join(store, *region, &saved);
  store.take(std::move(region));

  const std::uint64_t adopted = attach(store, chosen, restored, leases, began + time, cores);
  leases.watch();

  const std::uint64_t damaged = sum(std::span(scan.dropped).subspan(1));
  const std::uint64_t dropped = damaged + sum(chosen.dropped);
  count(store.counters().c_adopted, adopted);
  count(store.counters().c_adopt_dropped, dropped);
  count(store.counters().c_adopt_damaged, damaged);
  store.update_gauges();
  std::string text = "adopted " + std::to_string(adopted) + " objects and " +
                     std::to_string(restored.count()) + " bans in " +
                     std::to_string(std::lround((VTIM_mono() - began) * 1000)) + " ms";
  if (restored.count() < saved.count)
    text += "; of " + std::to_string(saved.count - restored.count()) +
            " bans nobody knows what they match";
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
    std::string text;
    try {
      const auto written = region.write_snapshot();
      text = written ? std::to_string(*written) + " bodies in files will survive a reboot"
                     : "bodies in files will not survive a reboot: " + describe(written.error());
    } catch (const std::exception&) {
      text = "bodies in files will not survive a reboot: out of memory";
    }
    const std::lock_guard lock(state->mutex);
    state->text = std::move(text);
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

// Varnish 7.1.1 makes this thread when it begins to serve, and says nowhere else that it does.
bool serves_clients() {
  static std::atomic<bool> seen{false};
  if (seen.load(std::memory_order_relaxed)) return true;
  try {
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::ifstream file(task.path() / "comm");
      std::string name;
      if (!std::getline(file, name) || name != "cache-acceptor") continue;
      seen.store(true, std::memory_order_relaxed);
      return true;
    }
    return false;
  } catch (const std::exception&) {
    return true;  // it may
  }
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
  // The same where a later VCL is the first to name the store: purges have not been noted for it,
  // and Varnish has forgotten bans that no object was left to be tested against.
  if (serves_clients()) {
    drop_all(store, std::move(region),
             "the first VCL with this store was loaded while clients were served, removals since "
             "the start are not known");
    return;
  }
  adopt(store, std::move(region));
}

}  // namespace om::vmod::adoption
