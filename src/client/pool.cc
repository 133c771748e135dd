// om::Pool: connections that come back.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <random>
#include <thread>

#include "client/deadline.h"
#include "objmapper/client.h"

namespace om {

using std::chrono::steady_clock;

namespace client {

namespace {

// Whatever was asked for: never without a pause, and in order.
Pool::Options sane(Pool::Options options) {
  constexpr std::chrono::milliseconds kLeast(1);
  options.backoff_min = std::clamp(options.backoff_min, kLeast, kWaitMax);
  options.backoff_max = std::clamp(options.backoff_max, options.backoff_min, kWaitMax);
  return options;
}

}  // namespace

struct PoolState {
  explicit PoolState(Pool::Options o) : options(sane(std::move(o))) {}
  const Pool::Options options;
  std::mutex mutex;
  std::vector<std::shared_ptr<Client>> slots;
  std::size_t next = 0;
  // After a failure: nobody tries before this.
  steady_clock::time_point not_before{};
  std::chrono::milliseconds backoff{0};
  std::optional<Error> last_failure;
  bool connecting = false;  // by one thread, without the lock
  std::minstd_rand random{std::random_device{}()};

  // Under the lock. Half to all of the doubled pause, so that many clients do not come at once.
  void failed(Error error) {
    last_failure = std::move(error);
    backoff = std::clamp(backoff * 2, options.backoff_min, options.backoff_max);
    std::uniform_int_distribution<std::int64_t> jitter((backoff.count() + 1) / 2, backoff.count());
    not_before = steady_clock::now() + std::chrono::milliseconds(jitter(random));
  }
};

}  // namespace client

Pool::Pool(Options options) : state_(std::make_unique<client::PoolState>(std::move(options))) {
  state_->slots.resize(std::max<std::size_t>(state_->options.connections, 1));
}
Pool::Pool(Pool&&) noexcept = default;
Pool& Pool::operator=(Pool&&) noexcept = default;
Pool::~Pool() = default;

Result<std::shared_ptr<Client>> Pool::client() {
  client::PoolState& s = *state_;
  std::unique_lock lock(s.mutex);
  const std::size_t mine = s.next++ % s.slots.size();
  if (s.slots[mine] != nullptr && !s.slots[mine]->closed()) return s.slots[mine];
  s.slots[mine] = nullptr;
  // While the daemon does not answer, or somebody is at it, another live connection serves as well.
  const auto any = [&]() -> std::shared_ptr<Client> {
    for (const auto& slot : s.slots)
      if (slot != nullptr && !slot->closed()) return slot;
    return nullptr;
  };
  if (s.connecting || steady_clock::now() < s.not_before) {
    if (auto other = any()) return other;
    if (s.last_failure && steady_clock::now() < s.not_before) return *s.last_failure;
  }
  s.connecting = true;
  lock.unlock();
  auto fresh = Client::connect(s.options.connect);
  lock.lock();
  s.connecting = false;
  if (!fresh) {
    s.failed(fresh.error());
    if (auto other = any()) return other;
    return std::move(fresh).error();
  }
  s.backoff = std::chrono::milliseconds(0);
  s.not_before = {};
  s.last_failure.reset();
  s.slots[mine] = std::make_shared<Client>(*std::move(fresh));
  return s.slots[mine];
}

Result<std::shared_ptr<Client>> Pool::wait_for_client(std::chrono::milliseconds wait) {
  const auto deadline = client::deadline_in(wait);
  while (true) {
    auto connected = client();
    if (connected || steady_clock::now() >= deadline) return connected;
    if (connected.error().code != Errc::kUnavailable && connected.error().code != Errc::kTimeout)
      return connected;  // waiting does not help
    steady_clock::time_point again;
    {
      const std::lock_guard lock(state_->mutex);
      again = state_->not_before;
    }
    std::this_thread::sleep_until(std::min(again, deadline));
  }
}

}  // namespace om
