#include "expiry_pace.h"

#include <atomic>
#include <condition_variable>
#include <mutex>

namespace om::vmod::adoption {

namespace {

// So much work lies in the inbox when it may go on, and so much is left when it waits again.
constexpr std::uint64_t kWorth = 4096;
constexpr std::uint64_t kLeft = 512;

std::atomic<bool> active{false};
std::mutex mutex;
std::condition_variable changed;
std::uint64_t told = 0;   // guarded by mutex; in steps of kWorth
std::uint64_t taken = 0;  // guarded by mutex

}  // namespace

ExpiryPace::ExpiryPace() {
  const std::lock_guard lock(mutex);
  told = 0;
  taken = 0;
  active.store(true, std::memory_order_release);
}

ExpiryPace::~ExpiryPace() {
  {
    const std::lock_guard lock(mutex);
    active.store(false, std::memory_order_release);
  }
  changed.notify_all();
}

void ExpiryPace::one_more() {
  if (++told_ % kWorth != 0) return;
  {
    const std::lock_guard lock(mutex);
    told = told_;
  }
  changed.notify_all();
}

void pace_expiry() noexcept {
  if (!active.load(std::memory_order_acquire)) return;
  std::unique_lock lock(mutex);
  ++taken;
  changed.wait(lock, [] { return !active.load() || taken + kLeft <= told; });
}

}  // namespace om::vmod::adoption
