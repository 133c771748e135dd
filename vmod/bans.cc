#include "bans.h"

#include <syslog.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "ban_expression.h"
#include "equal_bans.h"
#include "removal_link.h"

namespace om::vmod::bans {

using abi::varnish;

namespace {

constexpr std::size_t kSpecHeader = 16;  // of Varnish's specs; the tests follow
constexpr char kListenerName[] = "objmapper_bans";
constexpr char kListenerVclName[] = "storage.objmapper_bans";

struct Log {
  Store* store;
  region::BanLog* log;
};
// Guarded by ban_mtx. Reserved beforehand, so that nothing is allocated under it.
std::vector<Log>& logs() {
  static auto* all = new std::vector<Log>;
  return *all;
}

// By socket. Guarded by ban_mtx.
std::map<std::string, Unsent>& unsent() {
  static auto* all = new std::map<std::string, Unsent>;
  return *all;
}

// With ban_mtx held.
void mark_sent() {
  for (const Log& one : logs())
    if (const double until = RemovalLink::bans_sent_until(one.store->config().socket); until > 0)
      one.log->mark_sent(until);
}

EqualBans& equal_bans() {
  static auto* all = new EqualBans;
  return *all;
}

void lost(const Log& log) { count(log.store->counters().c_ban_errors); }

// With ban_mtx held, as all of Varnish's calls.
int baninfo(const struct stevedore* /*stv*/, enum baninfo event, const uint8_t* spec,
            unsigned length) noexcept {
  int full = 0;
  const auto bytes = std::as_bytes(std::span(spec, length));
  const auto kind = event == BI_NEW ? region::BanEvent::kNew : region::BanEvent::kDrop;
  for (const Log& one : logs())
    if (!one.log->append(kind, bytes)) full = 1;
  if (event == BI_NEW) {
    note_local_ban(bytes);
    mark_sent();
    equal_bans().made(*varnish.ban_head, VTIM_real(), VTIM_mono(),
                      (*varnish.cache_param)->ban_dups != 0 ? varnish.ban_mark_completed : nullptr);
  } else {
    equal_bans().dropped(spec);
  }
  return full;  // then Varnish exports everything, which also leaves out what was dropped
}

void banexport(const struct stevedore* /*stv*/, const uint8_t* specs, unsigned length) noexcept {
  for (const Log& one : logs())
    if (!one.log->replace(std::as_bytes(std::span(specs, length)))) lost(one);
}

// The child ends in order: no bans come any more, no new connections, nothing expires. Connections
// that are open go on.
void close(const struct stevedore* /*stv*/, int pass) noexcept {
  if (pass != 0) return;
  for (const Log& one : logs()) adoption::ended(*one.store);
}

VCL_BYTES no_bytes(const struct stevedore* /*stv*/) noexcept { return 0; }
VCL_BOOL never(const struct stevedore* /*stv*/) noexcept { return 0; }

std::vector<std::byte> current_list() {
  std::vector<std::byte> all;
  const struct ban* ban = nullptr;
  VTAILQ_FOREACH_REVERSE(ban, varnish.ban_head, banhead_s, list) {
    const auto* spec = reinterpret_cast<const std::byte*>(ban->spec);
    all.insert(all.end(), spec, spec + varnish.ban_len(ban->spec));
  }
  return all;
}

}  // namespace

void listen() {
  static struct stevedore listener {};
  if (listener.magic != 0) return;
  listener.name = kListenerName;
  listener.allocobj = fallback_allocobj;
  listener.close = close;
  listener.baninfo = baninfo;
  listener.banexport = banexport;
  listener.var_free_space = no_bytes;
  listener.var_used_space = no_bytes;
  listener.var_happy = never;
  listener.ident = kListenerName;
  listener.vclname = kListenerVclName;
  listener.magic = OM_STEVEDORE_MAGIC;
  // Others walk the list without a lock: everything is in place before the one store that links it,
  // and it is never taken out.
  Lck_Lock(varnish.ban_mtx);
  struct stevedore* last = *varnish.stv_transient;
  VTAILQ_INSERT_BEFORE(last, &listener, list);
  Lck_Unlock(varnish.ban_mtx);
}

void join(Store& store, region::Region& region, const region::BanLog::Loaded* saved) {
  const Log log{&store, &region.bans()};
  const std::string& socket = store.config().socket;
  Unsent found;
  // 0: there was nobody to send them to.
  if (const double sent = log.log->sent_until(); saved != nullptr && sent > 0) {
    found.lost = saved->lost_until > sent;
    std::span<const std::byte> rest(saved->specs);
    for (std::size_t n = 0; (n = region::ban_spec_bytes(rest)) != 0; rest = rest.subspan(n)) {
      if (region::ban_spec_time(rest) <= sent) continue;
      // One that has been tested against all objects here has lost its tests.
      if (n <= kSpecHeader)
        found.lost = true;
      else
        found.specs.emplace_back(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(n));
    }
  }
  // Before this log hears of what has been sent.
  Lck_Lock(varnish.ban_mtx);
  Unsent& of_socket = unsent()[socket];
  of_socket.lost = of_socket.lost || found.lost;
  for (auto& spec : found.specs) of_socket.specs.push_back(std::move(spec));
  Lck_Unlock(varnish.ban_mtx);
  RemovalLink::send_unsent(socket);
  Lck_Lock(varnish.ban_mtx);
  const std::vector<std::byte> all = current_list();
  const bool whole = log.log->replace(all);
  logs().push_back(log);
  mark_sent();
  Lck_Unlock(varnish.ban_mtx);
  if (whole) return;
  lost(log);
  notice(LOG_WARNING, &store,
         "more bans than its log holds: the next restart drops what they may "
         "have matched");
}

void note_sent() {
  Lck_Lock(varnish.ban_mtx);
  mark_sent();
  Lck_Unlock(varnish.ban_mtx);
}

Unsent take_unsent(const std::string& socket) {
  Unsent taken;
  Lck_Lock(varnish.ban_mtx);
  if (const auto found = unsent().find(socket); found != unsent().end())
    taken = std::exchange(found->second, {});
  Lck_Unlock(varnish.ban_mtx);
  return taken;
}

namespace {

// BAN_Reload ends the process where bans did not come in the order of their times: two at once may
// not, nor those before and after the clock was set back.
bool in_order() {
  bool rises = true;
  Lck_Lock(varnish.ban_mtx);
  double newer = std::numeric_limits<double>::infinity();
  const struct ban* ban = nullptr;
  VTAILQ_FOREACH(ban, varnish.ban_head, list) {
    const double time = varnish.ban_time(ban->spec);
    rises = rises && time < newer;
    newer = time;
  }
  Lck_Unlock(varnish.ban_mtx);
  return rises;
}

// As BAN_AddTest does it. Empty: does not compile.
std::string export_pattern(const std::string& text) {
  int error = 0;
  int at = 0;
  vre_t* code = VRE_compile(text.c_str(), 0, &error, &at, 0);
  if (code == nullptr) return "";
  std::size_t bytes = 0;
  vre_t* packed = VRE_export(code, &bytes);
  VRE_free(&code);
  if (packed == nullptr) return "";
  std::string exported(reinterpret_cast<const char*>(packed), bytes);
  VRE_free(&packed);
  return exported;
}

}  // namespace

Restored::Restored(const region::BanLog::Loaded& saved)
    : count_(saved.count), lost_until_(saved.lost_until) {
  std::vector<std::byte> specs;
  specs.reserve(saved.specs.size());
  std::span<const std::byte> rest(saved.specs);
  for (std::size_t n = 0; (n = region::ban_spec_bytes(rest)) != 0; rest = rest.subspan(n)) {
    auto spec = renew_spec(rest.first(n), export_pattern);
    if (!spec) {
      // Who was tested against it keeps its place behind it.
      --count_;
      lost_until_ = std::max(lost_until_, region::ban_spec_time(rest));
      spec = completed_spec(rest.first(n));
    }
    specs.insert(specs.end(), spec->begin(), spec->end());
  }
  const double wanted = specs.empty() ? 0. : region::ban_spec_time(specs);
  places_.reserve(saved.count + 64);
  // The lurker may drop the oldest between the two steps: again, then.
  for (int tries = 0; places_.empty(); ++tries) {
    if (!specs.empty() && !in_order()) {
      specs.clear();
      count_ = 0;
      lost_until_ = std::numeric_limits<double>::infinity();
    }
    if (!specs.empty())
      varnish.BAN_Reload(reinterpret_cast<const uint8_t*>(specs.data()),
                         static_cast<unsigned>(specs.size()));
    Lck_Lock(varnish.ban_mtx);
    struct ban* last = VTAILQ_LAST(varnish.ban_head, banhead_s);
    if (specs.empty() || varnish.ban_time(last->spec) <= wanted || tries == 1000) {
      last->refcount++;
      struct ban* ban = nullptr;
      VTAILQ_FOREACH_REVERSE(ban, varnish.ban_head, banhead_s, list)
      places_.push_back({varnish.ban_time(ban->spec), ban});
    }
    Lck_Unlock(varnish.ban_mtx);
  }
}

Restored::~Restored() {
  Lck_Lock(varnish.ban_mtx);
  places_.front().ban->refcount--;
  Lck_Unlock(varnish.ban_mtx);
}

bool Restored::attach(struct objcore* oc, double time) const {
  const auto after = std::ranges::upper_bound(places_, time, {}, &Place::time);
  if (after == places_.begin()) return false;
  struct ban* ban = std::prev(after)->ban;
  Lck_Lock(varnish.ban_mtx);
  ban->refcount++;
  VTAILQ_INSERT_TAIL(&ban->objcore, oc, ban_list);
  oc->ban = ban;
  Lck_Unlock(varnish.ban_mtx);
  return true;
}

namespace {
struct ban* held = nullptr;  // guarded by ban_mtx
}

// Varnish drops bans from the old end only, and stops at one that is referenced.
void hold_all() {
  Lck_Lock(varnish.ban_mtx);
  if (held == nullptr) {
    held = VTAILQ_LAST(varnish.ban_head, banhead_s);
    held->refcount++;
  }
  Lck_Unlock(varnish.ban_mtx);
}

void let_go() {
  Lck_Lock(varnish.ban_mtx);
  if (struct ban* const ban = std::exchange(held, nullptr)) ban->refcount--;
  Lck_Unlock(varnish.ban_mtx);
}

double newest_time() {
  Lck_Lock(varnish.ban_mtx);
  const struct ban* newest = VTAILQ_FIRST(varnish.ban_head);
  const double time = newest == nullptr ? 0. : varnish.ban_time(newest->spec);
  Lck_Unlock(varnish.ban_mtx);
  return time;
}

double tested_until(const struct objcore* oc) {
  // The ban may be merged into another and freed by the lurker while we look.
  Lck_Lock(varnish.ban_mtx);
  const double time = oc->ban == nullptr ? 0. : varnish.BAN_Time(oc->ban);
  Lck_Unlock(varnish.ban_mtx);
  return time;
}

bool untested_matches(struct worker* wrk, const struct objcore& tested, struct objcore* oc,
                      const struct http* request) {
  Lck_Lock(varnish.ban_mtx);
  const struct ban* const newest = VTAILQ_FIRST(varnish.ban_head);
  struct ban* const last = tested.ban;
  if (last != nullptr && last != newest) last->refcount++;
  Lck_Unlock(varnish.ban_mtx);
  if (last == nullptr) return true;
  if (last == newest) return false;
  bool matches = false;
  // As BAN_CheckObject: what is newer than one that is referenced stays, and is only ever marked.
  unsigned tests = 0;
  for (const struct ban* ban = newest; ban != last && !matches; ban = VTAILQ_NEXT(ban, list))
    matches = (ban->flags & OM_BAN_FLAG_COMPLETED) == 0 &&
              varnish.ban_evaluate(wrk, ban->spec, oc, request, &tests) != 0;
  Lck_Lock(varnish.ban_mtx);
  last->refcount--;
  Lck_Unlock(varnish.ban_mtx);
  return matches;
}

}  // namespace om::vmod::bans
