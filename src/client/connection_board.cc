// What needs no message: a GET of what the daemon shows, and the claim of a key that nobody has.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "client/state.h"

namespace om::client {

std::optional<Lease> Connection::get_by_board(const std::string& key, std::uint64_t stale,
                                              std::uint32_t stale_revision) {
  if (board_ == nullptr || is_broken_.load(std::memory_order_acquire)) return std::nullopt;
  const std::uint64_t hash = board_->hash_of(key);
  if (is_unanswered(hash)) return std::nullopt;
  board::Seen seen;
  const board::Slot* const slot = board_->find(key, hash, seen);
  if (slot == nullptr) return std::nullopt;
  // Until it is held all of this may be torn; if it is, it is not held.
  const board::Shown& object = seen.object;
  if (object.object_id == stale && object.revision == stale_revision) return std::nullopt;
  if (object.expires_ns != 0 && object.expires_ns <= SystemClock().real_ns()) return std::nullopt;
  SegmentRef segment = cache_.find(object.segment, false);
  if (segment == nullptr || !check({object.segment, object.offset, object.length}, *segment) ||
      segment->map(object.offset, object.length).empty())
    return std::nullopt;
  auto tags = seen.text.tags();
  if (!tags) return std::nullopt;
  auto state = std::make_unique<LeaseState>();
  state->info = {object.object_id,  object.length,
                 object.length,     0,
                 object.created_ns, object.expires_ns,
                 object.ephemeral,  false,
                 object.revision,   std::string(seen.text.metadata()),
                 *std::move(tags)};
  state->slices.push_back({segment->file().raw(), object.offset, object.length});
  state->segments.push_back(std::move(segment));
  state->connection = shared_from_this();
  const auto word = board_->hold(*slot, seen);
  if (!word) return std::nullopt;
  state->word = word;
  state->lease_id = board::kLeases + *word;
  return Lease(std::move(state));
}

std::optional<Claim> Connection::claim(const std::string& key) {
  if (board_ == nullptr || claims_ == nullptr || is_broken_.load(std::memory_order_acquire))
    return std::nullopt;
  const std::uint64_t hash = board_->hash_of(key);
  if (is_unanswered(hash)) return std::nullopt;
  const claims::Counter* const known = board_->known(hash);
  // As a rule somebody has it.
  if (known == nullptr || known->load(std::memory_order_relaxed) != 0) return std::nullopt;
  // First what may fail for want of memory: from the claim on there is somebody to end it.
  auto state = std::make_unique<ClaimState>();
  state->connection = shared_from_this();
  state->key = key;
  state->hash = hash;
  if (!claims_->claim(hash, *known)) return std::nullopt;
  state->is_over = false;
  // Of a daemon that has gone nobody learns of it, and another one does not know what is there.
  if (!board_->is_alive()) return std::nullopt;
  return Claim(std::move(state));
}

std::uint64_t Connection::hash_of(const std::string& key) const {
  return board_ == nullptr ? 0 : board_->hash_of(key);
}

// Where memory ends before it is called, that key goes on being asked for by message.
std::function<void(Result<PutResult>)> Connection::until_answered(
    std::uint64_t key_hash, std::function<void(Result<PutResult>)> done) {
  if (board_ == nullptr) return done;
  std::function<void(Result<PutResult>)> counted =
      [this, key_hash, done = std::move(done)](Result<PutResult> answer) {
        answered(key_hash);
        done(std::move(answer));
      };
  const std::lock_guard lock(unanswered_mutex_);
  ++unanswered_[key_hash];
  has_unanswered_.store(true, std::memory_order_relaxed);
  return counted;
}

// Whoever sees this sees on the board what was there when the answer came, or what is newer.
void Connection::answered(std::uint64_t key_hash) {
  const std::lock_guard lock(unanswered_mutex_);
  const auto found = unanswered_.find(key_hash);
  if (--found->second == 0) unanswered_.erase(found);
  has_unanswered_.store(!unanswered_.empty(), std::memory_order_release);
}

bool Connection::is_unanswered(std::uint64_t key_hash) {
  if (!has_unanswered_.load(std::memory_order_acquire)) return false;
  const std::lock_guard lock(unanswered_mutex_);
  return unanswered_.count(key_hash) != 0;
}

bool Connection::is_wanted(const ClaimState& claim) const { return claims_->is_wanted(claim.hash); }

void Connection::unclaim(std::uint64_t hash, const std::string& key) {
  if (claims_->unclaim(hash)) post(wire::Unclaim{key});
}

}  // namespace om::client
