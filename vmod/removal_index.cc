#include "removal_index.h"

#include <strings.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "bans.h"
#include "director.h"
#include "fetch_clock.h"
#include "removal_link.h"
#include "removals.h"
#include "shared_bans.h"
#include "shared_object.h"
#include "storage.h"

namespace om::vmod::removal_index {

using abi::varnish;

namespace {

constexpr std::size_t kRecentMax = 65536;
constexpr std::size_t kTagsOfOneMax = 8192;
constexpr double kLongAgo = std::numeric_limits<double>::lowest();

double monotonic() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(time).count();
}

// What was removed lately, by name, with its time (monotonic()). Bounded: what has gone counts as
// removed, for fetches that are older than it.
class Recent {
 public:
  void note(const std::string& name, double time) {
    if (auto known = by_name_.find(name); known != by_name_.end()) {
      by_time_.erase({known->second, name});
      known->second = time;
    } else {
      by_name_.emplace(name, time);
    }
    by_time_.emplace(std::pair(time, name), true);
    if (by_name_.size() <= kRecentMax) return;
    const auto oldest = by_time_.begin();
    floor_ = std::max(floor_, oldest->first.first);
    by_name_.erase(oldest->first.second);
    by_time_.erase(oldest);
  }
  void forget(double until) { floor_ = std::max(floor_, until); }
  [[nodiscard]] bool has(const std::string& name, double since) const {
    if (since <= floor_) return true;
    const auto found = by_name_.find(name);
    return found != by_name_.end() && found->second >= since;
  }

 private:
  std::unordered_map<std::string, double> by_name_;
  std::map<std::pair<double, std::string>, bool> by_time_;
  double floor_ = -HUGE_VAL;
};

// Fetches between before_use() and their event: a moment each.
class Uses {
 public:
  void enter() {
    const std::lock_guard lock(mutex_);
    leave_locked();  // of one that never had its event
    mine = ++last_;
    open_.insert(mine);
  }
  void leave() {
    if (mine == 0) return;
    const std::lock_guard lock(mutex_);
    leave_locked();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    const std::uint64_t upto = last_;
    ++waiting_;
    (void)left_.wait_for(lock, kSettle, [&] { return open_.empty() || *open_.begin() > upto; });
    --waiting_;
  }

 private:
  void leave_locked() {
    open_.erase(mine);
    mine = 0;
    if (waiting_ > 0) left_.notify_all();
  }
  static constexpr std::chrono::milliseconds kSettle{100};
  static thread_local std::uint64_t mine;
  std::mutex mutex_;
  std::condition_variable left_;
  std::set<std::uint64_t> open_;
  std::uint64_t last_ = 0;
  unsigned waiting_ = 0;
};
thread_local std::uint64_t Uses::mine = 0;
Uses& uses() {
  static auto* one = new Uses;  // never destroyed: threads use it
  return *one;
}

struct Index {
  std::mutex mutex;
  std::unordered_map<std::string, std::unordered_set<struct objcore*>> by_tag;
  std::unordered_map<struct objcore*, std::vector<std::string>> by_object;
  std::atomic<std::size_t> objects{0};
  FetchClock clock;
  Recent purges;
  Recent tags;
  std::atomic<double> newest{0};  // of both; 0: nothing
  std::atomic<std::uint64_t> killed{0};
  std::vector<RemovalLink*> links;  // filled on the CLI thread before VCL that uses it runs
  std::atomic<std::size_t> link_count{0};
};
Index& index() {
  static auto* one = new Index;  // never destroyed: threads use it
  return *one;
}

bool separator(char c) { return c == ' ' || c == '\t' || c == ','; }

void split(std::string_view value, std::vector<std::string>& tags) {
  while (!value.empty()) {
    while (!value.empty() && separator(value.front())) value.remove_prefix(1);
    std::size_t length = 0;
    while (length < value.size() && !separator(value[length])) ++length;
    // Whoever asks takes this as a reason not to keep the object.
    if (tags.size() == kTagsOfOneMax) throw std::length_error("an object of too many tags");
    if (length > 0) tags.emplace_back(value.substr(0, length));
    value.remove_prefix(length);
  }
}

std::vector<std::string> tags_of(struct worker* wrk, struct objcore* oc) {
  std::vector<std::string> tags;
  const char* line = nullptr;
  HTTP_FOREACH_PACK(wrk, oc, line) {
    // Every object of a restart comes by here, with all its headers.
    if (const int first = *line | 0x20; first != 'x' && first != 'c' && first != 's') continue;
    for (const std::string_view name : {"xkey:", "cache-tag:", "surrogate-key:"})
      if (strncasecmp(line, name.data(), name.size()) == 0) split(line + name.size(), tags);
  }
  std::ranges::sort(tags);
  tags.erase(std::unique(tags.begin(), tags.end()), tags.end());
  return tags;
}

// Under the lock. Returns the time by which what is removed now is known.
double look_at_clocks(Index& all) {
  // Of several, those that were read with the least time between them.
  double least = HUGE_VAL;
  double real = 0;
  double with = 0;
  for (int i = 0; i < 3; ++i) {
    const double before = monotonic();
    const double now = VTIM_real();
    const double took = monotonic() - before;
    if (took >= least) continue;
    least = took;
    real = now;
    with = before;
  }
  all.clock.look(real, with);
  return monotonic();
}

// Whoever compares the begin of a fetch, first.
void see_whether_clock_was_set(Index& all) {
  const double before = monotonic();
  if (all.clock.is_settled(VTIM_real(), before)) return;
  const std::lock_guard lock(all.mutex);
  (void)look_at_clocks(all);
}

// Under the lock.
void noted(Index& all, double time) {
  all.newest.store(std::max(all.newest.load(), time), std::memory_order_release);
}

bool tag_is_purged(const std::vector<std::string>& tags, double since) {
  Index& all = index();
  const std::lock_guard lock(all.mutex);
  return std::ranges::any_of(tags,
                             [&](const std::string& tag) { return all.tags.has(tag, since); });
}

// Of the last lookup on this thread that found something: its fetch goes on here.
struct SharedFetch {
  unsigned vxid = 0;
  const SharedBans* bans = nullptr;
  double ban_time = 0;
};
thread_local SharedFetch shared_fetch;

bool overtaken(struct worker* wrk, struct objcore* oc, const struct busyobj* bo,
               const std::vector<std::string>& tags) {
  const double since = bo->t_first;
  // The clock was set back meanwhile: nobody knows what was removed since then.
  if (since > VTIM_real()) return true;
  Index& all = index();
  see_whether_clock_was_set(all);
  const double newest = all.newest.load(std::memory_order_acquire);
  if (newest >= all.clock.earliest(since)) {
    std::vector<std::string> names = tags;
    names.push_back(shared::digest_tag(std::span(bo->digest)));
    if (removed_since(stem_of(bo), names, since)) return true;
  }
  // A 304 brings what Varnish had before this fetch began. In this order: the lurker kills that,
  // and then takes away the tests of the ban for which it did.
  if (bo->was_304 != 0 && bo->stale_oc != nullptr &&
      (bans::untested_matches(wrk, *bo->stale_oc, oc, bo->bereq0) ||
       removals::is_going(*bo->stale_oc, VTIM_real())))
    return true;
  using enum SharedBans::FetchedBy;
  const std::size_t count = all.link_count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < count; ++i)
    if (all.links[i]->bans().banned_since(since - all.clock.set_back(), kUs, bo->bereq0, wrk, oc))
      return true;
  const SharedFetch& shared = shared_fetch;
  return shared.bans != nullptr && shared.vxid == bo->vsl->wid &&
         shared.bans->banned_since(shared.ban_time, kAnother, bo->bereq0, wrk, oc);
}

const struct busyobj* fetch_of(const struct objcore* oc) {
  const struct busyobj* bo = varnish.THR_GetBusyobj();
  return bo != nullptr && bo->fetch_objcore == oc && bo->bereq0 != nullptr ? bo : nullptr;
}

void on_event(struct worker* wrk, void* /*priv*/, struct objcore* oc, unsigned event) noexcept {
  Index& all = index();
  if ((event & OEV_EXPIRE) != 0) {
    if (all.objects.load(std::memory_order_relaxed) == 0) return;
    const std::lock_guard lock(all.mutex);
    const auto found = all.by_object.find(oc);
    if (found == all.by_object.end()) return;
    for (const std::string& tag : found->second) {
      const auto tagged = all.by_tag.find(tag);
      if (tagged == all.by_tag.end()) continue;  // there was no memory to enter it
      tagged->second.erase(oc);
      if (tagged->second.empty()) all.by_tag.erase(tagged);
    }
    all.by_object.erase(found);
    all.objects.store(all.by_object.size(), std::memory_order_relaxed);
    return;
  }
  bool kill = false;
  try {
    std::vector<std::string> tags = tags_of(wrk, oc);
    if (!tags.empty()) {
      const std::lock_guard lock(all.mutex);
      // First what the object is taken out by when it goes: memory may end in the middle.
      all.by_object[oc] = tags;
      all.objects.store(all.by_object.size(), std::memory_order_relaxed);
      for (const std::string& tag : tags) all.by_tag[tag].insert(oc);
    }
    if (const struct busyobj* bo = fetch_of(oc); bo != nullptr)
      // Also what before_use() hid by what it knew then.
      kill = overtaken(wrk, oc, bo, tags) || (oc->flags & OC_F_DYING) != 0;
    else if (all.newest.load(std::memory_order_acquire) > 0) {
      // Of an earlier life: removed before it was back, whatever its own time says.
      tags.push_back(shared::digest_tag(std::span(oc->objhead->digest)));
      kill = tag_is_purged(tags, kLongAgo);
    }
  } catch (const std::exception&) {
    kill = true;  // out of memory, or too many: what cannot be found by its tag must not stay
  }
  if (!kill) return uses().leave();
  all.killed.fetch_add(1, std::memory_order_relaxed);
  if (Store* store = Store::of(oc); store != nullptr && oc->stobj->priv != nullptr)
    store->region()->mark_removed(record_of(oc));
  varnish.HSH_Kill(oc);
  uses().leave();
}

}  // namespace

void settle() { uses().wait(); }

void subscribe() {
  static bool done = false;
  if (done) return;
  done = true;
  (void)varnish.ObjSubscribeEvents(on_event, nullptr, OEV_INSERT | OEV_EXPIRE);
}

std::uint64_t purge_tag(const std::string& tag, bool soft) {
  Index& all = index();
  const double now = VTIM_real();
  const std::lock_guard lock(all.mutex);
  // First the note, for those that come in from now on.
  const double time = look_at_clocks(all);
  all.tags.note(tag, time);
  noted(all, time);
  const auto found = all.by_tag.find(tag);
  if (found == all.by_tag.end()) return 0;
  for (struct objcore* oc : found->second) {
    Store* store = Store::of(oc);
    region::Record* record =
        store != nullptr && oc->stobj->priv != nullptr ? &record_of(oc) : nullptr;
    if (!soft) {
      if (record != nullptr) store->region()->mark_removed(*record);
      varnish.HSH_Kill(oc);
      continue;
    }
    if (oc->t_origin + oc->ttl <= now) continue;
    varnish.EXP_Rearm(oc, now, 0, NAN, NAN);
    if (record == nullptr) continue;
    set_timers(*record, {oc->t_origin, oc->ttl, oc->grace, oc->keep});
    store->region()->leave_snapshot(*record);
  }
  return found->second.size();
}

void note_purge(const std::string& stem) {
  Index& all = index();
  const std::lock_guard lock(all.mutex);
  const double time = look_at_clocks(all);
  all.purges.note(stem, time);
  noted(all, time);
}

void note_everything() {
  Index& all = index();
  const std::lock_guard lock(all.mutex);
  const double time = look_at_clocks(all);
  all.purges.forget(time);
  all.tags.forget(time);
  noted(all, time);
}

void watch(RemovalLink& link) {
  Index& all = index();
  static const bool reserved = (all.links.reserve(64), true);
  (void)reserved;
  if (all.links.size() == all.links.capacity()) return;
  all.links.push_back(&link);
  all.link_count.store(all.links.size(), std::memory_order_release);
}

std::string stem_of(const struct busyobj* bo) {
  const char* host = nullptr;
  (void)http_GetHdr(bo->bereq0, H_Host, &host);
  const txt& url = bo->bereq0->hd[HTTP_HDR_URL];
  return shared::purge_stem(director::uri_prefix(bo->vcl), host == nullptr ? "" : host,
                            {url.b, static_cast<std::size_t>(url.e - url.b)});
}

bool removed_since(std::string_view stem, const std::vector<std::string>& tags, double since) {
  Index& all = index();
  see_whether_clock_was_set(all);
  const double newest = all.newest.load(std::memory_order_acquire);
  const double began = all.clock.earliest(since);
  if (newest < began) return false;
  const std::lock_guard lock(all.mutex);
  if (all.purges.has(std::string(stem), began)) return true;
  return std::ranges::any_of(tags,
                             [&](const std::string& tag) { return all.tags.has(tag, began); });
}

double set_back() {
  Index& all = index();
  see_whether_clock_was_set(all);
  return all.clock.set_back();
}

void brings_shared(const struct busyobj* bo, const SharedBans& bans, double ban_time) noexcept {
  shared_fetch = {bo->vsl->wid, &bans, ban_time};
}

void before_use(struct worker* wrk, struct objcore* oc) noexcept {
  const struct busyobj* bo = fetch_of(oc);
  if (bo == nullptr || (oc->flags & OC_F_PRIVATE) != 0) return;
  bool removed = true;  // out of memory: it may be
  try {
    // First: what is noted from now on is waited for.
    uses().enter();
    removed = overtaken(wrk, oc, bo, tags_of(wrk, oc));
  } catch (const std::exception&) {
  }
  if (!removed) return;
  // Lookups pass over it. All else is done by the event that follows, as for any other.
  Lck_Lock(&oc->objhead->mtx);
  oc->flags |= OC_F_DYING;
  Lck_Unlock(&oc->objhead->mtx);
}

std::uint64_t killed() { return index().killed.load(std::memory_order_relaxed); }

}  // namespace om::vmod::removal_index
