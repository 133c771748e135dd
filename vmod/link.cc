#include "link.h"

#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <syslog.h>

#include <algorithm>
#include <exception>

#include "storage.h"

namespace om::vmod {

using std::chrono::milliseconds;

namespace {
constexpr milliseconds kLinkBackoffMin{50};
constexpr milliseconds kLinkBackoffMax{2000};
// How soon a daemon is missed that stopped without hanging up does not matter: nobody waits for it.
constexpr milliseconds kLinkWatch{500};

// Filling a tmpfs file with pages takes about a quarter of a second for a GiB; on a busy machine
// more. At most half of Varnish's own cli_timeout.
milliseconds grant_limit(const StoreConfig& config) {
  const auto gibibytes = static_cast<milliseconds::rep>(config.memory_bytes >> 30);
  return std::min(milliseconds(2000) + milliseconds(1000) * gibibytes, milliseconds(30000));
}

}  // namespace

Link::~Link() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Link::FirstGrant Link::first_grant() {
  std::unique_lock lock(mutex_);
  cli_waits_ = true;
  // Signals are varnishd's business.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  changed_.wait_for(lock, grant_limit(store_.config()), [this] { return answered_; });
  cli_waits_ = false;
  answered_ = false;
  return std::move(grant_);
}

void Link::run() noexcept {
  pthread_setname_np(pthread_self(), "objmapper-link");
  while (true) {
    try {
      search_and_watch();
      return;
    } catch (const std::exception& failure) {
      say_once(std::string("the daemon's thread starts over: ") + failure.what());
      if (!pause(kLinkBackoffMax)) return;
    }
  }
}

void Link::search_and_watch() {
  milliseconds backoff = kLinkBackoffMin;
  bool connected_before = false;
  while (true) {
    ConnectOptions options;
    options.socket = store_.config().socket;
    options.name = "vmod_objmapper " + store_.config().owner;
    if (!have_region_) options.timeout = grant_limit(store_.config());
    auto client = Client::connect(options);
    if (!client) {
      count(store_.counters().c_connect_failed);
      say_once("no daemon at " + options.socket + " (" + describe(client.error()) +
               (have_region_ ? "); what the store has stays in use"
                             : "); objects go to Varnish's own storage"));
    } else if (have_region_ || ask_for_region(*client)) {
      count(store_.counters().c_connects);
      gauge(store_.counters().g_daemon_up, 1);
      said_.clear();
      notice(LOG_NOTICE, &store_, connected_before ? "daemon is back" : "daemon reached");
      connected_before = true;
      backoff = kLinkBackoffMin;
      watch(*client);
      gauge(store_.counters().g_daemon_up, 0);
      {
        const std::lock_guard lock(mutex_);
        if (stopping_) return;
      }
      count(store_.counters().c_disconnects);
      notice(LOG_WARNING, &store_, "daemon is gone; what the store has stays in use");
    } else {
      count(store_.counters().c_connect_failed);
    }
    if (!pause(backoff)) return;
    backoff = std::min(backoff * 2, kLinkBackoffMax);
  }
}

void Link::use_disk(region::Region& region, UniqueFd directory, std::uint64_t bytes) {
  region::BodyFiles::Options options;
  options.capacity = bytes;
  // Sockets, and whatever else this process opens, come first.
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0)
    options.descriptors_max = std::clamp<std::size_t>(limit.rlim_cur / 8, 16, 16384);
  std::string failure = "the daemon gave no directory";
  if (directory) {
    auto files = region::BodyFiles::open(std::move(directory), options);
    if (files) {
      region.use_files(*std::move(files));
      return;
    }
    failure = describe(files.error());
  }
  notice(LOG_WARNING, &store_, "no disk: " + failure + "; all bodies go to memory");
}

bool Link::ask_for_region(Client& client) {
  const StoreConfig& config = store_.config();
  auto granted = client.open_region({config.owner, config.memory_bytes, config.disk_bytes});
  std::unique_ptr<region::Region> region;
  std::string failure;
  bool refused = false;
  if (!granted) {
    const Error& error = granted.error();
    failure = describe(error);
    refused = error.code == Errc::kNoSpace || error.code == Errc::kQuota ||
              error.code == Errc::kDenied || error.code == Errc::kMalformed ||
              error.code == Errc::kUnsupported;
  } else {
    auto opened = region::Region::open(UniqueFd::adopt(granted->memory.release()),
                                       granted->memory_bytes, config.owner, granted->fresh);
    if (opened) {
      region = *std::move(opened);
      if (config.disk_bytes > 0)
        use_disk(*region, UniqueFd::adopt(granted->directory.release()), granted->disk_bytes);
    } else
      failure = describe(opened.error());
  }
  std::unique_lock lock(mutex_);
  if (!region) {
    if (refused && cli_waits_ && !answered_) {
      grant_.refusal = failure;
      answered_ = true;
      lock.unlock();
      changed_.notify_all();
      return false;
    }
    lock.unlock();
    say_once("no region from the daemon: " + failure + "; objects go to Varnish's own storage");
    return false;
  }
  have_region_ = true;
  if (cli_waits_) {
    grant_.region = std::move(region);
    answered_ = true;
    lock.unlock();
    changed_.notify_all();
    return true;
  }
  lock.unlock();
  adoption::prepare(store_, std::move(region), false);
  notice(LOG_NOTICE, &store_, "region taken up, the store is in use");
  return true;
}

void Link::watch(Client& client) {
  while (!client.closed()) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    struct pollfd fd = {client.native_handle(), POLLIN | POLLRDHUP, 0};
    (void)poll(&fd, 1, static_cast<int>(kLinkWatch.count()));
    store_.update_gauges();  // of what nobody's request changes: files being removed
    if ((fd.revents & POLLIN) != 0 && !client.closed()) (void)client.next_event(milliseconds(0));
  }
}

bool Link::pause(milliseconds time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [this] { return stopping_; });
}

void Link::say_once(std::string text) {
  if (text == said_) return;
  said_ = std::move(text);
  notice(LOG_WARNING, &store_, said_);
}

}  // namespace om::vmod
