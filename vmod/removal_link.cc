#include "removal_link.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "ban_expression.h"
#include "bans.h"
#include "director.h"
#include "removal_index.h"
#include "shared_bans.h"
#include "shared_object.h"
#include "storage.h"

extern "C" {
#include "VSC_objmr.h"
}

namespace om::vmod {

using abi::varnish;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr milliseconds kRemovalBackoffMin{20};
constexpr milliseconds kRemovalBackoffMax{1000};
constexpr milliseconds kLookInterval{250};
// objmapper.purge() and its like: the caches have so long, and the daemon so long in addition.
constexpr milliseconds kWaitForCaches{150};
constexpr milliseconds kWaitForDaemon{100};
constexpr milliseconds kWaitAtStart{1000};
// A request that recorded a removal applies it right after; one that died is not waited for.
constexpr std::chrono::seconds kOursMax{2};
// A cache that missed more drops everything instead of applying them one by one.
constexpr std::uint64_t kCatchUpMax = 2000;
// Removals that are applied and not acknowledged before the child serves.
constexpr std::uint64_t kUnservedMax = 128;
constexpr std::size_t kOursCountMax = 65'536;
constexpr std::size_t kUnmatchedMax = 10'000;
constexpr std::size_t kLocalBansMax = 10'000;
constexpr char kEverything[] = "obj.status != 0";
constexpr std::size_t kSpecHeader = 16;  // of Varnish's specs; without tests it is a placeholder

// Set while this thread makes a ban that the daemon has already.
thread_local bool ban_is_recorded = false;

double seconds(std::uint64_t ns) { return static_cast<double>(ns) * 1e-9; }

struct LocalBan {
  double time = 0;
  std::vector<std::byte> spec;
};

struct Registry {
  std::shared_mutex mutex;
  std::map<const struct vcl*, RemovalLink*> of_vcl;  // guarded by mutex
  // Made on the CLI thread, read without a lock: an array that does not move, then its count.
  std::array<RemovalLink*, 64> links{};
  std::atomic<std::size_t> count{0};
};
Registry& registry() {
  static auto* one = new Registry;  // never destroyed: threads use it
  return *one;
}

template <class Run>
std::thread thread_of(Run run) {
  // Signals are varnishd's business.
  sigset_t every;
  sigset_t before;
  sigfillset(&every);
  pthread_sigmask(SIG_SETMASK, &every, &before);
  std::thread thread(std::move(run));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

// The daemon's text into Varnish's builder; empty, or why not. The builder is gone afterwards.
std::string build_ban(const std::string& canonical, bool commit) {
  const auto tests = parse_ban(canonical, BanQuotes::kCanonical);
  if (!tests) return tests.error().what;
  struct ban_proto* proto = varnish.BAN_Build();
  if (proto == nullptr) return "out of memory";
  for (const BanTest& test : *tests) {
    const char* error =
        varnish.BAN_AddTest(proto, test.field.c_str(), test.oper.c_str(), test.operand.c_str());
    if (error == nullptr) continue;
    std::string why = error;
    varnish.BAN_Abandon(proto);
    return why;
  }
  if (!commit) {
    varnish.BAN_Abandon(proto);
    return "";
  }
  const char* error = varnish.BAN_Commit(proto);
  if (error == nullptr) return "";
  std::string why = error;
  varnish.BAN_Abandon(proto);
  return why;
}

}  // namespace

std::string check_ban(const std::string& canonical) { return build_ban(canonical, false); }

std::string commit_ban(const std::string& canonical) {
  ban_is_recorded = true;
  std::string error = build_ban(canonical, true);
  ban_is_recorded = false;
  return error;
}

struct RemovalLink::Impl {
  explicit Impl(RemovalLink& owner, const std::string& path)
      : link(owner), socket(path), name(instance_name()), pool(pool_options(path, name)) {
    counters = VSC_objmr_New(nullptr, &counters_segment, "%s", counter_name(path).c_str());
    std::random_device device;
    next_token = (std::uint64_t{device()} << 32 | device()) | 1;
  }

  static Pool::Options pool_options(const std::string& path, const std::string& who) {
    Pool::Options options;
    options.connect.socket = path;
    options.connect.timeout = kWaitForDaemon;
    options.connect.name = "vmod_objmapper removals of " + who;
    options.backoff_max = milliseconds(200);
    return options;
  }
  static std::string counter_name(const std::string& path) {
    std::string text = path == kDefaultSocket ? std::string("removals") : "removals" + path;
    std::ranges::replace(text, '/', '_');
    return text;
  }

  RemovalLink& link;
  const std::string socket;
  const std::string name;
  Pool pool;  // for requests that record; the receiver has a connection of its own
  VSC_objmr* counters = nullptr;
  struct vsc_seg* counters_segment = nullptr;
  std::thread receiver;
  std::thread sender;
  int wake_receiver_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

  // --- what director_allowed() looks at
  std::atomic<std::shared_ptr<const RemovalHead>> page{nullptr};  // while joined
  std::atomic<std::uint64_t> applied{0};

  // --- the receiver's own
  std::uint64_t log_id = 0;
  std::uint64_t seen = 0;  // the last removal that came
  std::uint64_t acknowledged = 0;
  std::uint64_t applied_before = 0;  // at JOIN: up to here bans are only noted
  bool serves = false;  // the child has started: no objects of an earlier life come any more
  std::string said;

  // --- our own removals, by token
  enum class OursState { kWaiting, kDone };
  std::mutex ours_mutex;
  std::map<std::uint64_t, OursState> ours;  // guarded by ours_mutex
  std::uint64_t next_token = 1;             // guarded by ours_mutex
  struct Unfinished {
    std::uint64_t sequence = 0;
    Removal removal;
    steady_clock::time_point since;
  };
  std::deque<Unfinished> unfinished;  // the receiver's; in order

  // --- purges of keys that no VCL has, as far as we know: one that is loaded later may, and
  // objects of
  // --- one that was there before may lie in the cache
  std::mutex unmatched_mutex;
  std::vector<std::string> unmatched;  // guarded by unmatched_mutex
  bool unmatched_lost = false;         // guarded by unmatched_mutex

  // --- bans that the daemon does not have yet
  std::mutex local_mutex;
  std::condition_variable local_changed;
  std::vector<LocalBan> local_bans;  // guarded by local_mutex
  bool local_lost = false;           // guarded by local_mutex
  double unsent_from = 0;            // guarded by local_mutex; time of the oldest, or 0
  double newest_ban = 0;             // guarded by local_mutex; of all

  // --- whoever waits for the start
  std::mutex start_mutex;
  std::condition_variable start_changed;
  bool started = false;  // current, or found out that it cannot be

  std::uint64_t new_token(OursState state) {
    const std::lock_guard lock(ours_mutex);
    // Tokens whose removals never came back: of a log that has gone on without us.
    while (ours.size() > kOursCountMax) ours.erase(ours.begin());
    const std::uint64_t token = next_token;
    next_token += 2;
    ours.emplace(token, state);
    return token;
  }
  void forget_token(std::uint64_t token) {
    const std::lock_guard lock(ours_mutex);
    ours.erase(token);
  }
  void wake_receiver() const {
    const std::uint64_t one = 1;
    (void)!::write(wake_receiver_fd, &one, sizeof one);
  }
  void say_once(const std::string& text) {
    if (text == said) return;
    said = text;
    notice(LOG_WARNING, nullptr, "removals: " + text);
  }
  void start_is_over() {
    {
      const std::lock_guard lock(start_mutex);
      started = true;
    }
    start_changed.notify_all();
  }

  void run_receiver() noexcept;
  void receive();
  void begin(const Joined& joined);
  void serve(Client& client);
  void take(Removal removal);
  void apply(const Removal& removal);
  void apply_purge(const Removal& removal);
  [[nodiscard]] std::vector<std::string> bans_of_purge(const std::string& stem) const;
  void match_again();
  void finish_ours(Client& client);
  void look_whether_it_serves();
  // False: Varnish takes no ban at all.
  bool ban_here(const std::string& canonical);
  void must_ban(const std::string& canonical);
  [[nodiscard]] bool director_is_current() const;
  void run_sender() noexcept;
  void send_local_bans();
  void send(const std::string& canonical);
  void queue(LocalBan ban) noexcept;
  void send_unsent();
};

// --- receiver

void RemovalLink::Impl::run_receiver() noexcept {
  pthread_setname_np(pthread_self(), "objmapper-remov");
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
  auto joined = client->join(name, log_id, applied.load());
  if (!joined) {
    say_once("the daemon does not let this cache join: " + describe(joined.error()));
    return;
  }
  if (!said.empty()) notice(LOG_NOTICE, nullptr, "removals: daemon is back");
  said.clear();
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
    notice(LOG_WARNING, nullptr,
           "removals: this cache missed too many, or some that are not known any more: everything "
           "that it has is banned");
    must_ban(kEverything);
  }
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
    const bool current = director_is_current();
    gauge(counters->g_current, current ? 1 : 0);
    if (current) start_is_over();
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
  if (upto == acknowledged) return;
  applied.store(upto, std::memory_order_release);
  // A store of a later VCL may not have its objects back yet: if this process ends now, its next
  // life is to be told again. But the daemon sends no more than some at a time.
  if (!serves && upto - acknowledged < kUnservedMax) return;
  if (client.acknowledge(upto)) acknowledged = upto;
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
// VCL of ours has keys that begin so.
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
  removal_index::note_purge(removal.what);
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

// --- sender

void RemovalLink::Impl::run_sender() noexcept {
  pthread_setname_np(pthread_self(), "objmapper-bans");
  while (true) {
    try {
      send_local_bans();
    } catch (const std::exception& failure) {
      notice(LOG_ERR, nullptr, std::string("removals: sender starts over: ") + failure.what());
      std::this_thread::sleep_for(kRemovalBackoffMax);
    }
  }
}

void RemovalLink::Impl::send_local_bans() {
  std::vector<LocalBan> taken;
  bool lost = false;
  {
    std::unique_lock lock(local_mutex);
    local_changed.wait(lock, [this] { return !local_bans.empty() || local_lost; });
    taken.swap(local_bans);
    lost = std::exchange(local_lost, false);
  }
  // First all of them count here, then they travel.
  std::vector<std::string> texts;
  for (const LocalBan& one : taken) {
    const auto tests = tests_of_spec(one.spec);
    texts.push_back(tests ? canonical_ban(*tests) : std::string(kEverything));
    link.bans_->add(one.time, texts.back());
  }
  if (lost) {
    link.bans_->raise_floor(VTIM_real());
    texts.emplace_back(kEverything);
  }
  // Those of an earlier life may have come behind newer ones.
  double newest = 0;
  for (const LocalBan& one : taken) newest = std::max(newest, one.time);
  if (!taken.empty()) link.bans_->clear_unread(newest);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    gauge(counters->g_unsent, texts.size() - i);
    send(texts[i]);
    if (i + 1 < texts.size()) continue;
    {
      const std::lock_guard lock(local_mutex);
      unsent_from = 0;
      for (const LocalBan& one : local_bans)
        if (unsent_from == 0 || one.time < unsent_from) unsent_from = one.time;
    }
    bans::note_sent();
  }
  gauge(counters->g_unsent, 0);
}

// Until the daemon has it: these have been answered to whoever made them.
void RemovalLink::Impl::send(const std::string& canonical) {
  milliseconds backoff = kRemovalBackoffMin;
  while (true) {
    RemovalRequest request;
    request.kind = RemovalKind::kBan;
    request.what = canonical;
    request.origin = name;
    request.token = new_token(OursState::kDone);
    request.wait = milliseconds(0);
    std::optional<Error> failure;
    if (auto client = pool.client(); !client)
      failure = client.error();
    else if (auto recorded = (*client)->remove_everywhere(request); !recorded)
      failure = recorded.error();
    if (!failure) {
      count(counters->c_recorded);
      return;
    }
    count(counters->c_failed);
    // Recorded or not: if it comes as an event, it is applied once more, which does no harm.
    forget_token(request.token);
    if (failure->code == Errc::kMalformed || failure->code == Errc::kDenied) {
      notice(LOG_ERR, nullptr,
             "removals: the daemon does not take the ban " + canonical + ": " + describe(*failure));
      if (failure->code == Errc::kMalformed) return;
    }
    std::this_thread::sleep_for(backoff);
    backoff = std::min(backoff * 2, kRemovalBackoffMax);
  }
}

void note_local_ban(std::span<const std::byte> spec) noexcept {
  if (spec.size() <= kSpecHeader) return;
  Registry& all = registry();
  const std::size_t links = all.count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < links; ++i) all.links[i]->note_ban(spec, ban_is_recorded);
}

void RemovalLink::note_ban(std::span<const std::byte> spec, bool recorded) noexcept {
  const double time = varnish.ban_time(reinterpret_cast<const std::uint8_t*>(spec.data()));
  if (recorded) {
    const std::lock_guard lock(impl_->local_mutex);
    impl_->newest_ban = std::max(impl_->newest_ban, time);
    return;
  }
  LocalBan ban;
  ban.time = time;
  try {
    ban.spec.assign(spec.begin(), spec.end());
  } catch (const std::exception&) {
    // Without its tests it stands for everything.
  }
  impl_->queue(std::move(ban));
}

void RemovalLink::Impl::queue(LocalBan ban) noexcept {
  link.bans_->set_unread(ban.time);
  {
    const std::lock_guard lock(local_mutex);
    newest_ban = std::max(newest_ban, ban.time);
    if (unsent_from == 0 || ban.time < unsent_from) unsent_from = ban.time;
    try {
      if (local_bans.size() < kLocalBansMax)
        local_bans.push_back(std::move(ban));
      else
        local_lost = true;
    } catch (const std::exception&) {
      local_lost = true;
    }
  }
  local_changed.notify_one();
}

double RemovalLink::bans_sent_until(const std::string& socket) noexcept {
  Registry& all = registry();
  const std::size_t links = all.count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < links; ++i) {
    Impl& impl = *all.links[i]->impl_;
    if (impl.socket != socket) continue;
    const std::lock_guard lock(impl.local_mutex);
    return impl.unsent_from == 0 ? impl.newest_ban : std::nextafter(impl.unsent_from, 0.);
  }
  return 0;
}

void RemovalLink::send_unsent(const std::string& socket) {
  Registry& all = registry();
  const std::size_t links = all.count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < links; ++i)
    if (all.links[i]->impl_->socket == socket) all.links[i]->impl_->send_unsent();
}

void RemovalLink::Impl::send_unsent() {
  bans::Unsent unsent = bans::take_unsent(socket);
  if (unsent.specs.empty() && !unsent.lost) return;
  notice(LOG_NOTICE, nullptr,
         "removals: " + std::to_string(unsent.specs.size()) +
             " bans that the other caches had not got before this varnishd ended are sent now" +
             (unsent.lost ? ", and one of everything for those that are not known any more" : ""));
  for (auto& spec : unsent.specs) {
    const double time = region::ban_spec_time(spec);
    queue({time, std::move(spec)});
  }
  if (unsent.lost) queue({VTIM_real(), {}});
}

// --- the link

RemovalLink::RemovalLink(const std::string& socket)
    : bans_(std::make_unique<SharedBans>()), impl_(std::make_unique<Impl>(*this, socket)) {}
RemovalLink::~RemovalLink() = default;

RemovalLink& RemovalLink::to(const std::string& socket) {
  Registry& all = registry();
  for (std::size_t i = 0; i < all.count.load(); ++i)
    if (all.links[i]->impl_->socket == socket) return *all.links[i];
  removal_index::subscribe();
  bans::listen();
  auto* link = new RemovalLink(socket);
  link->impl_->send_unsent();
  // What this varnishd banned before there was a link stays here.
  link->impl_->newest_ban = VTIM_real();
  if (all.count.load() < all.links.size()) {
    all.links[all.count.load()] = link;
    all.count.fetch_add(1, std::memory_order_release);
  }
  removal_index::watch(*link);
  Impl& impl = *link->impl_;
  bans::note_sent();
  impl.sender = thread_of([&impl] { impl.run_sender(); });
  return *link;
}

void RemovalLink::start() {
  Registry& all = registry();
  if (all.count.load() > 0 && !adoption::serves_clients()) bans::hold_all();
  for (std::size_t i = 0; i < all.count.load(); ++i) {
    Impl& impl = *all.links[i]->impl_;
    if (impl.receiver.joinable()) continue;
    impl.receiver = thread_of([&impl] { impl.run_receiver(); });
    std::unique_lock lock(impl.start_mutex);
    impl.start_changed.wait_for(lock, kWaitAtStart, [&impl] { return impl.started; });
  }
}

void RemovalLink::use(const struct vcl* vcl, RemovalLink& link) {
  {
    const std::unique_lock lock(registry().mutex);
    registry().of_vcl[vcl] = &link;
  }
  link.impl_->match_again();
}

void RemovalLink::prefix_is_set(const struct vcl* vcl) {
  if (RemovalLink* link = of(vcl); link != nullptr) link->impl_->match_again();
}

void RemovalLink::forget(const struct vcl* vcl) {
  const std::unique_lock lock(registry().mutex);
  registry().of_vcl.erase(vcl);
}

RemovalLink* RemovalLink::of(const struct vcl* vcl) {
  const std::shared_lock lock(registry().mutex);
  const auto found = registry().of_vcl.find(vcl);
  return found == registry().of_vcl.end() ? nullptr : found->second;
}

bool RemovalLink::director_allowed() const noexcept { return impl_->director_is_current(); }

Result<RemovalLink::Ours> RemovalLink::record(RemovalKind kind, std::string what, std::string tag) {
  Impl& impl = *impl_;
  RemovalRequest request;
  request.kind = kind;
  request.what = std::move(what);
  request.tag = std::move(tag);
  request.origin = impl.name;
  request.wait = kWaitForCaches;
  const auto ask = [&]() -> Result<RemovalDone> {
    const auto client = OM_TRY(impl.pool.wait_for_client(kWaitForDaemon));
    return client->remove_everywhere(request);
  };
  request.token = impl.new_token(Impl::OursState::kWaiting);
  auto done = ask();
  if (!done && done.error().code == Errc::kUnavailable) {
    // A daemon that was restarted since: its first connection is the one to find out.
    impl.forget_token(request.token);
    request.token = impl.new_token(Impl::OursState::kWaiting);
    done = ask();
  }
  if (!done) {
    count(impl.counters->c_failed);
    impl.forget_token(request.token);
    impl.wake_receiver();
    return std::move(done).error();
  }
  count(impl.counters->c_recorded);
  if (done->unapplied > 0) count(impl.counters->c_unapplied, done->unapplied);
  if (kind == RemovalKind::kBan) bans_->add(seconds(done->time_ns), request.what);
  return Ours(*this, request.token);
}

RemovalLink::Ours::~Ours() {
  if (link_ == nullptr) return;
  Impl& impl = *link_->impl_;
  {
    const std::lock_guard lock(impl.ours_mutex);
    const auto found = impl.ours.find(token_);
    if (found != impl.ours.end()) found->second = Impl::OursState::kDone;
  }
  impl.wake_receiver();
}

}  // namespace om::vmod
