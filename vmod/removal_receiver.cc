// The receiver of a link (removal_link.h): joins the daemon under this varnishd's name, applies
// what it missed and then what comes, in order, and acknowledges it. What the daemon says of our
// own removals waits until the request that asked for them has applied them.
#include <poll.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bans.h"
#include "base/ban_text.h"
#include "director.h"
#include "removal_index.h"
#include "removal_link_impl.h"
#include "removals.h"
#include "shared_bans.h"
#include "shared_object.h"
#include "storage.h"

namespace om::vmod {

using abi::varnish;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr milliseconds kLookInterval{250};
// A request that recorded a removal applies it right after; one that died is not waited for.
constexpr std::chrono::seconds kOursMax{2};
// A cache that missed more drops everything instead of applying them one by one.
constexpr std::uint64_t kCatchUpMax = 2000;
// Removals that are applied and not acknowledged before the child serves; of what was dropped
// altogether none is.
constexpr std::uint64_t kUnservedMax = 128;
constexpr std::size_t kUnmatchedMax = 10'000;

}  // namespace

void RemovalLink::Impl::run_receiver(struct worker* wrk) noexcept {
  worker = wrk;
  milliseconds backoff = kRemovalBackoffMin;
  while (true) {
    const auto begun = steady_clock::now();
    try {
      receive();
    } catch (const std::exception& failure) {
      say_once(std::string("starts over: ") + failure.what());
    }
    page.store(nullptr);
    gauge(counters->g_current, 0);
    start_is_over();
    // Also where there is no daemon: bans that are held are never dropped.
    look_whether_it_serves();
    if (steady_clock::now() - begun > kRemovalBackoffMax) backoff = kRemovalBackoffMin;
    std::this_thread::sleep_for(backoff);
    backoff = std::min(backoff * 2, kRemovalBackoffMax);
  }
}

void RemovalLink::Impl::receive() {
  ConnectOptions options;
  options.socket = socket;
  options.name = "vmod_objmapper cache " + name;
  auto client = Client::connect(options);
  if (!client) {
    say_once("no daemon at " + socket + " (" + describe(client.error()) + ")");
    return;
  }
  // Not what was applied and deliberately not acknowledged: twice does no harm.
  auto joined =
      client->join(name, dropped && !serves ? 0 : log_id, serves ? applied.load() : acknowledged);
  if (!joined) {
    say_once("the daemon does not let this cache join: " + describe(joined.error()));
    return;
  }
  begin(*joined);
  page.store(std::make_shared<const RemovalHead>(std::move(joined->page)));
  serve(*client);
}

void RemovalLink::Impl::begin(const Joined& joined) {
  const bool another_log = log_id != 0 && log_id != joined.log_id;
  link.bans_->raise_floor(another_log ? VTIM_real() : seconds(joined.floor_ns));
  bool everything = joined.gap || another_log;
  if (joined.head - std::min(joined.head, joined.applied) > kCatchUpMax) everything = true;
  if (everything) {
    count(counters->c_dropped_all);
    const std::string text =
        "removals: this cache missed too many, or some that are not known any more: everything "
        "that it has is banned";
    if (missed.is_news(text)) notice(LOG_WARNING, nullptr, text);
    // Also what is on its way, and would be newer than that ban.
    removal_index::note_everything();
    link.bans_->raise_floor_here(VTIM_real());
    must_ban(kEverything);
    removal_index::settle();
  }
  dropped = everything;
  unfinished.clear();
  log_id = joined.log_id;
  seen = acknowledged = joined.from - 1;
  applied.store(seen, std::memory_order_release);
  applied_before = everything ? joined.head : joined.applied;
}

void RemovalLink::Impl::look_whether_it_serves() {
  if (!serves && (serves = adoption::serves_clients())) bans::let_go();
}

void RemovalLink::Impl::serve(Client& client) {
  while (!client.closed()) {
    look_whether_it_serves();
    while (true) {
      auto removal = client.next_removal(milliseconds(0));
      if (!removal) return;
      if (!*removal) break;
      take(**std::move(removal));
    }
    finish_ours(client);
    // Not before: what fails at each start would be told each time.
    if (trouble.is_over()) notice(LOG_NOTICE, nullptr, "removals: daemon is back");
    (void)missed.is_over();
    const bool current = director_is_current();
    gauge(counters->g_current, current ? 1 : 0);
    // Who has dropped everything has missed nothing; the daemon sends the rest when we serve.
    if (current || dropped) start_is_over();
    struct pollfd fds[2] = {{client.native_handle(), POLLIN | POLLRDHUP, 0},
                            {wake_receiver_fd, POLLIN, 0}};
    (void)::poll(fds, 2,
                 unfinished.empty() && serves ? static_cast<int>(kLookInterval.count()) : 20);
    if (fds[1].revents != 0) {
      std::uint64_t ignored = 0;
      (void)!::read(wake_receiver_fd, &ignored, sizeof ignored);
    }
  }
}

bool RemovalLink::Impl::director_is_current() const {
  const auto now = page.load();
  return now != nullptr && now->head() == applied.load(std::memory_order_acquire);
}

void RemovalLink::Impl::take(Removal removal) {
  seen = removal.sequence;
  if (removal.kind == RemovalKind::kBan) link.bans_->add(seconds(removal.time_ns), removal.what);
  if (seen <= applied_before) return;
  bool wait = false;
  bool echo = false;
  if (removal.origin == name) {
    const std::lock_guard lock(ours_mutex);
    if (const auto found = ours.find(removal.token); found != ours.end()) {
      echo = true;
      wait = found->second == OursState::kWaiting;
      if (!wait) ours.erase(found);
    }
  }
  if (wait) {
    unfinished.push_back({seen, std::move(removal), steady_clock::now()});
    return;
  }
  if (echo) {
    count(counters->c_echoes);
    return;
  }
  apply(removal);
}

// Lets those of ours go that are done, and acknowledges what is applied without a gap.
void RemovalLink::Impl::finish_ours(Client& client) {
  while (!unfinished.empty()) {
    const Unfinished& first = unfinished.front();
    bool known = false;
    bool done = false;
    {
      const std::lock_guard lock(ours_mutex);
      const auto found = ours.find(first.removal.token);
      known = found != ours.end();
      done = known && found->second == OursState::kDone;
      if (done) ours.erase(found);
    }
    if (known && !done && steady_clock::now() - first.since < kOursMax) break;
    if (done)
      count(counters->c_echoes);
    else
      apply(first.removal);  // the request that asked for it did not get so far
    if (!done) forget_token(first.removal.token);
    unfinished.pop_front();
  }
  const std::uint64_t upto = unfinished.empty() ? seen : unfinished.front().sequence - 1;
  if (upto == acknowledged && !dropped) return;
  applied.store(upto, std::memory_order_release);
  // A store of a later VCL may not have its objects back yet: if this process ends now, its next
  // life is to be told again. But the daemon sends no more than some at a time. After a gap that
  // does not matter: all has been dropped, and the next life would not be told to drop it.
  if (!serves && (dropped || upto - acknowledged < kUnservedMax)) return;
  if (!client.acknowledge(upto)) return;
  acknowledged = upto;
  dropped = false;
}

bool RemovalLink::Impl::ban_here(const std::string& canonical) {
  const std::string error = commit_ban(canonical);
  if (error.empty()) return true;
  // A ban that Varnish does not take may be about anything.
  count(counters->c_not_understood);
  notice(LOG_ERR, nullptr, "removals: cannot ban " + canonical + ": " + error);
  return commit_ban(kEverything).empty();
}

// Varnish refuses bans while it ends: what it did not take must not be acknowledged, so that its
// next life is told again.
void RemovalLink::Impl::must_ban(const std::string& canonical) {
  if (!ban_here(canonical)) throw std::runtime_error("Varnish takes no bans");
}

void RemovalLink::Impl::apply(const Removal& removal) {
  count(counters->c_applied);
  switch (removal.kind) {
    case RemovalKind::kPurge: apply_purge(removal); break;
    case RemovalKind::kBan: must_ban(removal.what); break;
    case RemovalKind::kTag: (void)removal_index::purge_tag(removal.what, false); break;
    case RemovalKind::kTagSoft: (void)removal_index::purge_tag(removal.what, true); break;
  }
  removal_index::settle();
}

// The bans for a purge: all digests of that host and URL, whatever went into vcl_hash. Empty: no
// VCL of ours has keys that begin so. Varnish compares them with the request that looks up, so they
// say nothing of another URL that has the digest of this one.
std::vector<std::string> RemovalLink::Impl::bans_of_purge(const std::string& stem) const {
  std::vector<std::string> prefixes;
  {
    const std::shared_lock lock(registry().mutex);
    for (const auto& [vcl, used] : registry().of_vcl) {
      if (used != &link) continue;
      std::string prefix = shared::base_key(director::uri_prefix(vcl), "", "", {});
      prefix.resize(prefix.rfind('#'));
      prefixes.push_back(std::move(prefix));
    }
  }
  std::ranges::sort(prefixes);
  prefixes.erase(std::unique(prefixes.begin(), prefixes.end()), prefixes.end());
  std::vector<std::string> bans;
  for (const std::string& prefix : prefixes) {
    if (!stem.starts_with(prefix)) continue;
    const std::string rest = stem.substr(prefix.size());
    const std::size_t slash = rest.find('/');
    std::vector<BanTest> tests;
    if (slash == std::string::npos) {
      // No path: "*", or a URL that is none. There are few of them.
      tests.push_back({"req.url", "!~", "^/"});
    } else {
      if (slash > 0) tests.push_back({"req.http.host", "==", rest.substr(0, slash)});
      tests.push_back({"req.url", "==", rest.substr(slash)});
    }
    bans.push_back(canonical_ban(tests));
  }
  return bans;
}

void RemovalLink::Impl::apply_purge(const Removal& removal) {
  // Notes first: what is not in its place yet finds them when it gets there.
  removal_index::note_purge(removal.what);
  if (!removal.tag.empty()) (void)removal_index::purge_tag(removal.tag, false);
  std::vector<std::string> bans;
  {
    const std::lock_guard lock(unmatched_mutex);
    bans = bans_of_purge(removal.what);
    if (bans.empty()) {
      if (unmatched.size() < kUnmatchedMax)
        unmatched.push_back(removal.what);
      else
        unmatched_lost = true;
    }
  }
  for (const std::string& ban : bans) must_ban(ban);
  // All URLs of its digest, whatever prefix they have: as the daemon does it.
  if (const auto digest = shared::digest_of_tag(removal.tag)) {
    removals::purge(worker, digest->data());
    varnish.Pool_Sumstat(worker);  // no pool does it for this one
  }
}

void RemovalLink::Impl::match_again() {
  std::vector<std::string> bans;
  {
    const std::lock_guard lock(unmatched_mutex);
    std::vector<std::string> still;
    for (std::string& stem : unmatched) {
      const std::vector<std::string> found = bans_of_purge(stem);
      bans.insert(bans.end(), found.begin(), found.end());
      if (found.empty()) still.push_back(std::move(stem));
    }
    unmatched = std::move(still);
    if (std::exchange(unmatched_lost, false)) bans.emplace_back(kEverything);
  }
  for (const std::string& ban : bans) (void)ban_here(ban);
}

}  // namespace om::vmod
