// The end of a put, however it came: published, failed, given up, or with the holder that wrote it.
// Its room goes back, those who waited for the key are woken, and its holder is charged no more.
#include <utility>

#include "base/assert.h"
#include "store/store_impl.h"

namespace om::store {

void StoreImpl::fail_put(Put& put, Error error) {
  ++count_.aborted;
  if (error.code == Errc::kNoSpace) ++count_.no_space;
  (void)advance(put, PutEvent::kFailed);
  drop_room(put, false);
  auto done = std::move(put.done);
  end_put(put, false);
  if (done) done(std::move(error));
}

// Gives back all room. A writer that may be at it still (its holder is gone, but not provably dead)
// keeps a direct put's bytes from being used again.
void StoreImpl::drop_room(Put& put, bool holder_gone) {
  std::vector<Extent> room = std::exchange(put.memory, {});
  if (put.file) {
    room.push_back({put.file_id, 0, put.file_room});
    put.file.reset();
  }
  if (room.empty()) return;
  const bool is_pinned = put.direct;
  if (is_pinned && holder_gone) {
    return keep(put.object_id, room);
  }
  if (is_pinned) leases_->unpin_put(put.holder, put.object_id);
  if (is_pinned && leases_->pinned(put.object_id)) return keep(put.object_id, room);
  free_place(room);
}

void StoreImpl::end_put(Put& put, bool published) {
  end_follow(put, published);
  for (auto& file : put.staging) staging_->give_back(put.holder, std::move(file));
  if (const auto bytes = holder_put_bytes_.find(put.holder); bytes != holder_put_bytes_.end())
    bytes->second -= put.charged;
  if (const auto puts = holder_puts_.find(put.holder); puts != holder_puts_.end())
    puts->second.erase(put.id);
  if (put.is_room) {
    room_bytes_ -= put.charged;
    --rooms_;
    puts_.erase(put.id);
    return;
  }
  const auto writers = writers_.find(put.request.key);
  OM_ASSERT(writers != writers_.end());
  std::erase(writers->second.puts, put.id);
  const bool last = writers->second.puts.empty();
  if (last || published) wake_waiters(put.request.key);
  if (last) {
    writers_.erase(writers);
    count_key(put.request.key, false);
  }
  puts_.erase(put.id);
}

void StoreImpl::wake_waiters(const std::string& key) {
  if (const auto writers = writers_.find(key); writers != writers_.end())
    wake(std::exchange(writers->second.waiters, {}));
}

// Later: what they do may change what the caller has in hand.
void StoreImpl::wake(const std::vector<WaitToken>& tokens) {
  for (const WaitToken token : tokens)
    worker_->post([this, token] {
      const auto waiting = waits_.find(token);
      if (waiting == waits_.end()) return;
      const auto answer = std::move(waiting->second.wake);
      waits_.erase(waiting);
      if (answer) answer();
    });
}

void StoreImpl::cancel_wait(WaitToken token) {
  const auto waiting = waits_.find(token);
  if (waiting == waits_.end()) return;
  if (const auto writers = writers_.find(waiting->second.key); writers != writers_.end())
    std::erase(writers->second.waiters, token);
  waits_.erase(waiting);
}

Result<void> StoreImpl::abort(HolderId holder, PutId id) {
  if (Put* const room = find_room(holder, id)) {
    end_room(*room);
    return {};
  }
  Put* const put = find_put(holder, id);
  if (put == nullptr) return Error{Errc::kNotFound, 0, "no such put"};
  if (!advance(*put, PutEvent::kAbort))
    return Error{Errc::kMalformed, 0, "the put is committed already"};
  ++count_.aborted;
  drop_room(*put, false);
  end_put(*put, false);
  return {};
}

// --- holders

Result<HolderId> StoreImpl::open_holder(const PeerCredentials& peer) {
  return leases_->open_holder(peer);
}

void StoreImpl::close_holder(HolderId holder) {
  std::vector<WaitToken> waits;
  for (const auto& [token, waiter] : waits_)
    if (waiter.holder == holder) waits.push_back(token);
  for (const WaitToken token : waits) cancel_wait(token);
  if (claims_ != nullptr) claims_->close(holder);
  if (const auto puts = holder_puts_.find(holder); puts != holder_puts_.end()) {
    const std::vector<PutId> ids(puts->second.begin(), puts->second.end());
    for (const PutId id : ids) {
      Put& put = *puts_.at(id);
      put.done = nullptr;
      OM_ASSERT(advance(put, PutEvent::kHolderGone));
      if (put.state == PutState::kCopying) continue;  // it said all that it had to say
      if (!put.is_room) ++count_.aborted;
      drop_room(put, true);
      end_put(put, false);
    }
  }
  pages_->close(holder);
  leases_->close_holder(holder);
  staging_->forget(holder);
  holder_puts_.erase(holder);
  holder_put_bytes_.erase(holder);
  seen_.erase(holder);
}

}  // namespace om::store
