// What comes unasked: events and removals. They are kept until somebody wants them, who reads for
// others as well meanwhile.
#include <chrono>
#include <cstddef>
#include <exception>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include "client/connection.h"

namespace om::client {

namespace {

constexpr std::size_t kEventsQueuedMax = 65536;

}  // namespace

void Connection::deliver_event(std::span<const std::byte> packet) {
  auto event = wire::decode_body<wire::Event>(packet);
  if (!event)
    return break_off({Errc::kMalformed, 0, "the daemon sent nonsense: " + event.error().what});
  // By now the word may be the lease on another object, which nobody wants back.
  if (event->event == wire::kEventRevoked && event->lease_id >= board::kLeases &&
      (board_ == nullptr || !board_->holds(event->lease_id - board::kLeases, event->object_id)))
    return;
  const std::lock_guard lock(mutex_);
  if (events_.size() >= kEventsQueuedMax) {
    events_.pop_front();
    events_missed_ = true;
  }
  events_.push_back({static_cast<Event::Kind>(event->event), std::move(event->key),
                     event->object_id, event->lease_id});
  if (event_waiters_ > 0) event_wake_.notify_one();
}

void Connection::deliver_removal(std::span<const std::byte> packet) {
  auto removal = wire::decode_body<wire::Removal>(packet);
  if (!removal)
    return break_off({Errc::kMalformed, 0, "the daemon sent nonsense: " + removal.error().what});
  std::unique_lock lock(mutex_);
  // The daemon sends a few hundred beyond what was acknowledged, no more.
  if (removals_.size() >= kEventsQueuedMax) {
    lock.unlock();
    return break_off({Errc::kMalformed, 0, "the daemon sent more removals than it may"});
  }
  removals_.push_back({removal->sequence, removal->time_ns, static_cast<RemovalKind>(removal->kind),
                       std::move(removal->what), std::move(removal->tag),
                       std::move(removal->origin), removal->token});
  if (event_waiters_ > 0) event_wake_.notify_all();
}

void Connection::end_subscription() noexcept {
  if (!subscribed_.exchange(false)) return;
  try {
    post(wire::Subscribe{});
  } catch (const std::exception&) {
    end_for_lack_of_memory();
  }
}

template <class T, class Take>
Result<std::optional<T>> Connection::next(Deadline deadline, Take take) {
  std::unique_lock lock(mutex_);
  while (true) {
    if (std::optional<T> found = take()) return found;
    if (broken_) return *broken_;
    // At least one look at the socket, also with no time left.
    const bool last = std::chrono::steady_clock::now() >= deadline;
    bool more = false;
    if (!reading_) {
      reading_ = true;
      lock.unlock();
      more = read_one(deadline);  // answers that nobody waits for are read here, all of them
      lock.lock();
      reading_ = false;
      pass_role_on();
    } else {
      ++event_waiters_;
      event_wake_.wait_until(lock, deadline);
      --event_waiters_;
    }
    if (last && !more) return take();
  }
}

Result<std::optional<Event>> Connection::next_event(Deadline deadline) {
  return next<Event>(deadline, [this]() -> std::optional<Event> {
    if (std::exchange(events_missed_, false)) return Event{};
    if (events_.empty()) return std::nullopt;
    std::optional<Event> event(std::move(events_.front()));
    events_.pop_front();
    return event;
  });
}

void Connection::look() {
  constexpr int kMost = 256;  // packets: those who put go on
  std::unique_lock lock(mutex_);
  if (reading_ || broken_) return;
  reading_ = true;
  lock.unlock();
  for (int i = 0; i < kMost && !is_broken_.load(std::memory_order_acquire); ++i)
    if (!read_one(std::chrono::steady_clock::now())) break;
  lock.lock();
  reading_ = false;
  pass_role_on();
}

Result<std::optional<Removal>> Connection::next_removal(Deadline deadline) {
  return next<Removal>(deadline, [this]() -> std::optional<Removal> {
    if (removals_.empty()) return std::nullopt;
    std::optional<Removal> removal(std::move(removals_.front()));
    removals_.pop_front();
    return removal;
  });
}

}  // namespace om::client
