// removal_link_impl.h: what is behind a RemovalLink, and who touches what of it.
//
// What others call is in removal_link.cc, with all links of the process. Each of the two threads
// has a file: removal_receiver.cc, what other caches removed; removal_sender.cc, bans that are made
// here. removal_link.h says what they do.
#pragma once

#include <sys/eventfd.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "objmapper/client.h"
#include "removal_link.h"
#include "say_once.h"
#include "storage.h"

extern "C" {
#include "VSC_objmr.h"
}

namespace om::vmod {

inline constexpr std::chrono::milliseconds kRemovalBackoffMin{20};
inline constexpr std::chrono::milliseconds kRemovalBackoffMax{1000};
// objmapper.purge() and its like: the caches have so long, and the daemon so long in addition.
inline constexpr std::chrono::milliseconds kWaitForCaches{150};
inline constexpr std::chrono::milliseconds kWaitForDaemon{100};
inline constexpr std::size_t kOursCountMax = 65'536;
// The ban of all that there is.
inline constexpr char kEverything[] = "obj.status != 0";

inline double seconds(std::uint64_t ns) { return static_cast<double>(ns) * 1e-9; }

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
Registry& registry();

// In the order in which one reads it.
struct RemovalLink::Impl {  // NOLINT(clang-analyzer-optin.performance.Padding)
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
    options.backoff_max = std::chrono::milliseconds(200);
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
  bool receives = false;  // the receiver was started: on the CLI thread
  std::thread sender;
  int wake_receiver_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

  // --- what RemovalLink::applied() looks at
  std::atomic<std::shared_ptr<const RemovalHead>> page{nullptr};  // while joined
  std::atomic<std::uint64_t> applied{0};

  // --- the receiver's own
  struct worker* worker = nullptr;
  std::uint64_t log_id = 0;
  std::uint64_t seen = 0;  // the last removal that came
  std::uint64_t acknowledged = 0;
  std::uint64_t applied_before = 0;  // at JOIN: up to here bans are only noted
  bool dropped = false;  // everything, and the daemon has not been told: it would have to be again
  bool serves = false;   // the child has started: no objects of an earlier life come any more
  SayOnce trouble;
  SayOnce missed;

  // --- our own removals, by token
  enum class OursState { kWaiting, kDone };
  std::mutex ours_mutex;
  std::map<std::uint64_t, OursState> ours;  // guarded by ours_mutex
  std::uint64_t next_token = 1;             // guarded by ours_mutex
  struct Unfinished {
    std::uint64_t sequence = 0;
    Removal removal;
    std::chrono::steady_clock::time_point since;
  };
  std::deque<Unfinished> unfinished;  // the receiver's; in order

  // --- purges of keys that no VCL has, as far as we know: one that is loaded later may, and
  // objects of one that was there before may lie in the cache
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
  SayOnce refusal;                   // the sender's own

  // --- whoever waits for the start
  std::mutex start_mutex;
  std::condition_variable start_changed;
  bool started = false;  // current, has dropped everything, or found out that it cannot be

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
  // The receiver.
  void say_once(const std::string& text) {
    if (trouble.is_news(text)) notice(LOG_WARNING, nullptr, "removals: " + text);
  }
  void start_is_over() {
    {
      const std::lock_guard lock(start_mutex);
      started = true;
    }
    start_changed.notify_all();
  }

  // removal_receiver.cc
  void run_receiver(struct worker* wrk) noexcept;
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

  // removal_sender.cc
  void run_sender() noexcept;
  void send_local_bans();
  void send(const std::string& canonical);
  void queue(LocalBan ban) noexcept;
  void send_unsent();
};

}  // namespace om::vmod
