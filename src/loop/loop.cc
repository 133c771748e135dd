#include "loop/loop.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <limits>

#include "base/assert.h"

namespace om {

namespace {

constexpr std::uint64_t kWakeToken = ~std::uint64_t{0};
constexpr std::size_t kEventsPerTurn = 128;

std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                                    std::chrono::nanoseconds(1));
}

std::uint64_t token(std::uint32_t slot, std::uint32_t generation) {
  return (std::uint64_t{generation} << 32) | slot;
}

}  // namespace

void Watch::want(std::uint32_t events) {
  if (loop_ != nullptr) loop_->want(slot_, fd_, events);
}
void Watch::reset() {
  if (loop_ != nullptr) std::exchange(loop_, nullptr)->forget(slot_, fd_);
}
void Timer::reset() {
  if (loop_ != nullptr) std::exchange(loop_, nullptr)->timers_.erase(key_);
}

Result<std::unique_ptr<Loop>> Loop::make() {
  auto epoll = UniqueFd::adopt(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return system_error("make an epoll descriptor");
  auto wake = UniqueFd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return system_error("make an eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeToken;
  if (::epoll_ctl(epoll.raw(), EPOLL_CTL_ADD, wake.raw(), &event) != 0)
    return system_error("watch the eventfd");
  return std::unique_ptr<Loop>(new Loop(std::move(epoll), std::move(wake)));
}

Loop::~Loop() = default;

Result<Watch> Loop::watch(BorrowedFd fd, std::uint32_t events, Ready ready) {
  std::uint32_t slot = 0;
  if (free_slots_.empty()) {
    slot = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    slot = free_slots_.back();
    free_slots_.pop_back();
  }
  epoll_event event{};
  event.events = events;
  event.data.u64 = token(slot, slots_[slot].generation);
  if (::epoll_ctl(epoll_.raw(), EPOLL_CTL_ADD, fd.raw(), &event) != 0) {
    free_slots_.push_back(slot);
    return system_error("watch a descriptor");
  }
  slots_[slot].ready = std::make_shared<Ready>(std::move(ready));
  return Watch(this, slot, fd.raw());
}

void Loop::want(std::uint32_t slot, int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = token(slot, slots_[slot].generation);
  // Can fail only for lack of kernel memory, or when we lost track of our own descriptor.
  OM_ASSERT(::epoll_ctl(epoll_.raw(), EPOLL_CTL_MOD, fd, &event) == 0);
}

void Loop::forget(std::uint32_t slot, int fd) {
  (void)::epoll_ctl(epoll_.raw(), EPOLL_CTL_DEL, fd, nullptr);
  ++slots_[slot].generation;
  slots_[slot].ready.reset();
  free_slots_.push_back(slot);
}

Timer Loop::after(std::chrono::nanoseconds delay, std::function<void()> call) {
  const auto ns = static_cast<std::uint64_t>(std::max<std::int64_t>(delay.count(), 0));
  const Timer::Key key{now_ns() + ns, timer_number_++};
  timers_.emplace(key, std::move(call));
  return {this, key};
}

void Loop::post(std::function<void()> call) {
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = posted_.empty();
    posted_.push_back(std::move(call));
  }
  const std::uint64_t one = 1;
  // A full counter wakes as well as one more.
  if (first) (void)!::write(wake_.raw(), &one, sizeof one);
}

void Loop::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  const std::uint64_t one = 1;
  (void)!::write(wake_.raw(), &one, sizeof one);
}

Result<void> Loop::run() {
  while (true) {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(stopping_, false)) return {};
    }
    OM_TRY(turn(std::chrono::nanoseconds(-1)));
  }
}

int Loop::wait_ms(std::chrono::nanoseconds wait) const {
  constexpr std::int64_t kMs = 1'000'000;
  constexpr std::int64_t kMax = std::int64_t{std::numeric_limits<int>::max()} * kMs;
  std::int64_t ns = wait.count() < 0 ? kMax : std::min(wait.count(), kMax);
  bool limited = wait.count() >= 0;
  if (!timers_.empty()) {
    const std::uint64_t now = now_ns();
    const std::uint64_t when = timers_.begin()->first.first;
    const std::uint64_t left = when > now ? when - now : 0;
    if (left < static_cast<std::uint64_t>(ns)) ns = static_cast<std::int64_t>(left);
    limited = true;
  }
  // Rounded up, so that a timer is due when we wake and not a moment later.
  return limited ? static_cast<int>((ns + kMs - 1) / kMs) : -1;
}

Result<void> Loop::turn(std::chrono::nanoseconds wait) {
  std::array<epoll_event, kEventsPerTurn> events;  // the kernel says how many it filled
  const int count =
      ::epoll_wait(epoll_.raw(), events.data(), static_cast<int>(events.size()), wait_ms(wait));
  if (count < 0 && errno != EINTR) return system_error("wait for events");
  bool woken = false;
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    if (event.data.u64 == kWakeToken) {
      woken = true;
      continue;
    }
    const auto index = static_cast<std::uint32_t>(event.data.u64);
    const auto generation = static_cast<std::uint32_t>(event.data.u64 >> 32);
    if (slots_[index].generation != generation || slots_[index].ready == nullptr) continue;
    // The handler may forget its own slot: it must outlive its call.
    const std::shared_ptr<Ready> ready = slots_[index].ready;
    (*ready)(event.events);
  }
  run_timers();
  if (woken) run_posted();
  return {};
}

void Loop::run_timers() {
  if (timers_.empty()) return;
  // Only what was due on entry: a timer that sets itself again with no delay must not keep us here.
  const Timer::Key end{now_ns() + 1, 0};
  const std::uint64_t numbers = timer_number_;
  for (auto it = timers_.begin(); it != timers_.end() && it->first < end;) {
    if (it->first.second >= numbers) {
      ++it;
      continue;
    }
    auto node = timers_.extract(it);
    node.mapped()();
    it = timers_.begin();
  }
}

void Loop::run_posted() {
  std::uint64_t count = 0;
  (void)!::read(wake_.raw(), &count, sizeof count);
  std::vector<std::function<void()>> posted;
  {
    const std::lock_guard lock(mutex_);
    posted.swap(posted_);
  }
  for (auto& call : posted) call();
}

}  // namespace om
