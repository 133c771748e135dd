#include "director_link.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>

namespace om::vmod {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {
constexpr milliseconds kBackoffMin{50};
constexpr milliseconds kBackoffMax{2000};
constexpr milliseconds kProbeMin{250};
constexpr milliseconds kProbeMax{4000};
// How late a revoked lease, or the end of the thread, may be noticed; a daemon that hangs up wakes
// it at once.
constexpr milliseconds kWatchInterval{100};
// How late commits that go together may be, and from how many in kWatchInterval on they do: with
// fewer, waking up for them costs more than they save. They begin to with so many publications in
// kBurstInterval, which is the same rate.
constexpr milliseconds kTogetherInterval{4};
constexpr std::size_t kManyCommits = 24;
constexpr milliseconds kBurstInterval{32};
constexpr std::size_t kBurst = 8;
constexpr std::size_t kPublicationsInARow = 16;
// Connecting is nobody's wait but the thread's.
constexpr milliseconds kConnectLimit{1000};
// A key that nobody has: the answer is what counts.
constexpr char kProbeKey[] = "objmapper:probe";
}  // namespace

bool Breaker::failed() {
  if (failures_.fetch_add(1, std::memory_order_relaxed) + 1 < kFailuresMax) return false;
  return !open_.exchange(true, std::memory_order_acq_rel);
}

bool Breaker::succeeded() {
  // Hits are many: no store when there is nothing to change.
  if (failures_.load(std::memory_order_relaxed) != 0) failures_.store(0, std::memory_order_relaxed);
  return open() && open_.exchange(false, std::memory_order_acq_rel);
}

DirectorLink::DirectorLink(Options options, Watcher watcher)
    : options_(std::move(options)), watcher_(std::move(watcher)) {
  for (std::size_t i = 0; i < std::max<std::size_t>(options_.connections, 1); ++i)
    lines_.push_back(std::make_unique<Line>());
  for (const auto& line : lines_)
    line->wake = UniqueFd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  for (const auto& line : lines_) line->thread = std::thread([this, &line = *line] { run(line); });
}

DirectorLink::~DirectorLink() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (const auto& line : lines_)
    if (line->thread.joinable()) line->thread.join();
}

std::shared_ptr<Client> DirectorLink::client() {
  if (breaker_.open()) return nullptr;
  const std::lock_guard lock(mutex_);
  return live_client(next_++);
}

std::shared_ptr<Client> DirectorLink::publisher() {
  if (breaker_.open()) return nullptr;
  const std::lock_guard lock(mutex_);
  return live_client(publications_++ / kPublicationsInARow);
}

// The threads wake up by themselves as long as there are many, but they have to be told that.
void DirectorLink::publishes(const Client& over) {
  const std::lock_guard lock(mutex_);
  const auto line =
      std::ranges::find_if(lines_, [&over](const auto& one) { return one->client.get() == &over; });
  if (line == lines_.end()) return;
  const auto now = steady_clock::now();
  if (now >= (*line)->burst_end) {
    (*line)->burst_end = now + kBurstInterval;
    (*line)->burst = 0;
  }
  if (++(*line)->burst == kBurst && !(*line)->many_commits && (*line)->wake)
    (void)::eventfd_write((*line)->wake.raw(), 1);
}

std::shared_ptr<Client> DirectorLink::live_client(std::size_t first) {
  for (std::size_t i = 0; i < lines_.size(); ++i) {
    const auto& client = lines_[(first + i) % lines_.size()]->client;
    if (client != nullptr && !client->closed()) return client;
  }
  return nullptr;
}

void DirectorLink::report(bool success) {
  if (success) {
    if (!breaker_.succeeded()) return;
  } else {
    if (!breaker_.failed()) return;
    watcher_.opened();
  }
  tell_if_changed();
  changed_.notify_all();
}

bool DirectorLink::up() const {
  if (breaker_.open()) return false;
  const std::lock_guard lock(mutex_);
  return std::ranges::any_of(
      lines_, [](const auto& line) { return line->client != nullptr && !line->client->closed(); });
}

bool DirectorLink::wait_up(milliseconds time) {
  const auto end = steady_clock::now() + time;
  while (!up()) {
    std::unique_lock lock(mutex_);
    if (steady_clock::now() >= end) return false;
    changed_.wait_for(lock, milliseconds(20));
  }
  return true;
}

void DirectorLink::tell_if_changed() {
  const bool now = up();
  {
    const std::lock_guard lock(mutex_);
    if (now == said_up_) return;
    said_up_ = now;
  }
  watcher_.changed(now);
}

void DirectorLink::run(Line& line) noexcept {
  while (true) {
    try {
      serve(line);
      return;
    } catch (const std::exception&) {  // out of memory, most likely
      if (!pause(kBackoffMax)) return;
    }
  }
}

void DirectorLink::serve(Line& line) {
  milliseconds backoff = kBackoffMin;
  while (true) {
    ConnectOptions options;
    options.socket = options_.socket;
    options.timeout = kConnectLimit;
    options.usual_wait = options_.timeout;
    options.name = options_.name;
    std::shared_ptr<Client> client;
    if (auto fresh = Client::connect(options); fresh) {
      client = std::make_shared<Client>(*std::move(fresh));
      // It answered HELLO: good enough to begin with.
      {
        const std::lock_guard lock(mutex_);
        line.client = client;
      }
      watcher_.connected();
      breaker_.succeeded();
      tell_if_changed();
      changed_.notify_all();
      backoff = kBackoffMin;
      (void)client->subscribe(kRevokedEvents);
      try {
        watch(line, client);
      } catch (const std::exception&) {  // out of memory: another one, once there is some
        client->close();
      }
      {
        const std::lock_guard lock(mutex_);
        line.client = nullptr;
        if (stopping_) return;
      }
      line.lost.add(client);
      tell_if_changed();
    }
    if (!pause(backoff)) return;
    backoff = std::min(backoff * 2, kBackoffMax);
  }
}

void DirectorLink::watch(Line& line, const std::shared_ptr<Client>& client) {
  milliseconds probe_pause = kProbeMin;
  while (!client->closed()) {
    if (breaker_.open()) {
      if (!pause(probe_pause)) return;
      if (probe(*client)) {
        probe_pause = kProbeMin;
        if (breaker_.succeeded()) {
          tell_if_changed();
          changed_.notify_all();
        }
      } else {
        probe_pause = std::min(probe_pause * 2, kProbeMax);
      }
      continue;
    }
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    const bool more = line.lost.renew(client, watcher_.renew);
    rest(line, *client, more ? milliseconds(0) : kWatchInterval);
    while (!client->closed()) {
      auto event = client->next_event(milliseconds(0));
      if (!event || !*event) break;
      if ((*event)->kind == Event::Kind::kRevoked) watcher_.revoked(client, (*event)->lease_id);
    }
  }
}

// Until the daemon hangs up, or so long. Commits are kept here alone: what else this thread does
// may take long.
void DirectorLink::rest(Line& line, Client& client, milliseconds time) {
  // Not for POLLIN: each reply to a request would wake us. Events lie with the replies, and are
  // found there a little later.
  std::array<struct pollfd, 2> fds{
      {{client.native_handle(), POLLRDHUP, 0}, {line.wake.raw(), POLLIN, 0}}};
  const milliseconds each = line.many_commits ? std::min(time, kTogetherInterval) : time;
  std::size_t commits = 0;
  milliseconds left = time;
  if (line.many_commits) client.defer(2 * time);
  do {
    if (poll(fds.data(), fds.size(), static_cast<int>(each.count())) != 0) break;
    commits += client.flush();
    left -= each;
  } while (left.count() > 0);
  client.defer(milliseconds(0));
  commits += client.flush();
  eventfd_t times = 0;
  if (fds[1].revents != 0 && ::eventfd_read(fds[1].fd, &times) == 0)
    line.many_commits = true;
  else if (time.count() > 0)
    line.many_commits = commits >= kManyCommits;
}

bool DirectorLink::probe(Client& client) {
  return client.get(kProbeKey, options_.timeout).has_value();
}

bool DirectorLink::pause(milliseconds time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [this] { return stopping_; });
}

}  // namespace om::vmod
