// What needs no message: a GET of what the daemon shows, and the claim of a key that nobody has.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "client/state.h"

namespace om::client {

std::optional<Lease> Connection::get_by_board(const std::string& key, std::uint64_t stale,
                                              std::uint32_t stale_revision) {
  if (board_ == nullptr || is_broken_.load(std::memory_order_acquire)) return std::nullopt;
  board::Seen seen;
  const board::Slot* const slot = board_->find(key, seen);
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

bool Connection::is_wanted(const ClaimState& claim) const { return claims_->is_wanted(claim.hash); }

void Connection::unclaim(std::uint64_t hash, const std::string& key) {
  if (claims_->unclaim(hash)) post(wire::Unclaim{key});
}

}  // namespace om::client
