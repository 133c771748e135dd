// One thread, one epoll(7) descriptor: readiness, timers, work from other threads, signals.
//
// Everything but post() and stop() is for the thread that runs the loop. A handler may forget any
// descriptor, its own too, cancel any timer and destroy whatever owns them: an event that was
// already fetched for something forgotten is not delivered, even when the number of its descriptor
// is in use again.
#pragma once

#include <sys/epoll.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om {

class Loop;

// Interest in a descriptor. Ends with this object; the descriptor must live as long.
class [[nodiscard]] Watch {
 public:
  Watch() = default;
  Watch(Watch&& other) noexcept
      : loop_(std::exchange(other.loop_, nullptr)), slot_(other.slot_), fd_(other.fd_) {}
  Watch& operator=(Watch&& other) noexcept {
    std::swap(loop_, other.loop_);
    std::swap(slot_, other.slot_);
    std::swap(fd_, other.fd_);
    return *this;
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch() { reset(); }
  explicit operator bool() const noexcept { return loop_ != nullptr; }
  // Other events from now on (EPOLLIN | EPOLLOUT ...; 0: none but EPOLLHUP and EPOLLERR).
  void want(std::uint32_t events);
  void reset();

 private:
  friend class Loop;
  Watch(Loop* loop, std::uint32_t slot, int fd) : loop_(loop), slot_(slot), fd_(fd) {}
  Loop* loop_ = nullptr;
  std::uint32_t slot_ = 0;
  int fd_ = -1;
};

// A call in the future. Does not happen once this object is gone.
class [[nodiscard]] Timer {
 public:
  Timer() = default;
  Timer(Timer&& other) noexcept
      : loop_(std::exchange(other.loop_, nullptr)), key_(std::exchange(other.key_, {})) {}
  Timer& operator=(Timer&& other) noexcept {
    std::swap(loop_, other.loop_);
    std::swap(key_, other.key_);
    return *this;
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() { reset(); }
  void reset();

 private:
  friend class Loop;
  using Key = std::pair<std::uint64_t, std::uint64_t>;  // when (CLOCK_MONOTONIC, ns), and which
  Timer(Loop* loop, Key key) : loop_(loop), key_(key) {}
  Loop* loop_ = nullptr;
  Key key_;
};

class Loop {
 public:
  static Result<std::unique_ptr<Loop>> make();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop();

  using Ready = std::function<void(std::uint32_t events)>;
  Result<Watch> watch(BorrowedFd fd, std::uint32_t events, Ready ready);
  Timer after(std::chrono::nanoseconds delay, std::function<void()> call);
  // Does `call` on the loop's thread, soon, in order. From any thread.
  void post(std::function<void()> call);
  // Makes run() return, once the handlers of this turn are done. From any thread.
  void stop();

  // Until stop(). Returns an error only when epoll itself fails.
  Result<void> run();
  // One turn: waits at most `wait` (negative: without limit) and handles what is ready.
  Result<void> turn(std::chrono::nanoseconds wait);

 private:
  friend class Watch;
  friend class Timer;
  struct Slot {
    std::uint32_t generation = 0;
    std::shared_ptr<Ready> ready;  // null: the slot is free
  };
  explicit Loop(UniqueFd epoll, UniqueFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
  void want(std::uint32_t slot, int fd, std::uint32_t events);
  void forget(std::uint32_t slot, int fd);
  void run_timers();
  void run_posted();
  [[nodiscard]] int wait_ms(std::chrono::nanoseconds wait) const;

  UniqueFd epoll_;
  UniqueFd wake_;  // eventfd
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::map<Timer::Key, std::function<void()>> timers_;
  std::uint64_t timer_number_ = 0;
  std::mutex mutex_;  // posted_ and stopping_
  std::vector<std::function<void()>> posted_;
  bool stopping_ = false;
};

}  // namespace om
