// Keys that somebody has claimed by the table (base/claims.h), and so fetches without having asked.
// We learn of it when somebody else asks for the key:
//
//   claimed   a word in the table. Nobody knows of it but who wrote it
//   wanted    somebody has asked. There is a put of its holder then, without room, that is waited
//             for or followed as any other (Put::is_claim)
//   over      reserved by its holder: the put becomes that of the reservation, with those who
//             follow it; put into a room: they get the object; dropped, refused, or its holder is
//             gone: the put has failed
//
// A key is counted before it names an object or a put of it is there, and until it names none and
// there is none any more (Board::know). Whoever claims a key looks whether it is counted after he
// has written his word, and we look for his word after we have counted it: one sees the other.
#include "base/assert.h"
#include "store/store_impl.h"

namespace om::store {

StoreImpl::Known::Known(Board* board, std::string_view key)
    : board_(board), hash_(board == nullptr ? 0 : board->hash_of(key)) {
  if (board_ != nullptr) board_->know(hash_);
}

StoreImpl::Known::~Known() {
  if (board_ != nullptr) board_->forget(hash_);
}

void StoreImpl::count_key(std::string_view key, bool is_there) {
  if (board_ == nullptr) return;
  const std::uint64_t hash = board_->hash_of(key);
  if (is_there)
    board_->know(hash);
  else
    board_->forget(hash);
}

Result<ClaimsAccess> StoreImpl::open_claims(HolderId holder) {
  if (claims_ == nullptr) return Error{Errc::kUnsupported, 0, "keys cannot be claimed"};
  if (!leases_->live(holder)) return Error{Errc::kNotFound, 0, "no such holder"};
  return claims_->give(holder);
}

StoreImpl::Put* StoreImpl::find_claim(HolderId holder, const std::string& key) {
  const auto writers = writers_.find(key);
  if (writers == writers_.end()) return nullptr;
  for (const PutId id : writers->second.puts)
    if (Put& put = *puts_.at(id); put.is_claim && put.holder == holder) return &put;
  return nullptr;
}

StoreImpl::Put* StoreImpl::put_of_claim(const std::string& key) {
  if (claims_ == nullptr) return nullptr;
  const HolderId owner = claims_->want(board_->hash_of(key));
  // One that is there already has been removed since somebody asked (first_put): who comes after
  // that writes anew. And of what anybody may have written there, no more is kept than of puts.
  if (owner == 0 || find_claim(owner, key) != nullptr ||
      holder_puts_[owner].size() >= config_.holder.puts)
    return nullptr;
  ++count_.claims_wanted;
  Put& put = make_put(owner, key);
  put.is_claim = true;
  // Who may claim writes in place: what is followed is the object to be.
  put.direct = true;
  return &put;
}

void StoreImpl::end_claim(HolderId holder, const std::string& key, ObjectId published) {
  if (claims_ == nullptr) return;
  if (Put* const put = find_claim(holder, key)) {
    if (const auto follow = follows_.find(put->follow); follow != follows_.end()) {
      follow->second.is_elsewhere = true;
      if (published != 0) follow->second.object_id = published;
    }
    OM_ASSERT(advance(*put, PutEvent::kAbort));
    end_put(*put, published != 0);
  }
  // Last: who claims the key from now on finds it counted, if there is anything.
  claims_->end(board_->hash_of(key), holder);
}

void StoreImpl::end_claims(HolderId holder, const std::vector<RoomBody>& bodies,
                           const std::vector<Result<Committed>>& answers) {
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    const RoomBody& body = bodies[i];
    if (!body.claimed || body.held_only) continue;
    ++count_.claims_put;
    end_claim(holder, body.put.key, answers[i] ? answers[i]->object_id : 0);
  }
}

void StoreImpl::unclaim(HolderId holder, const std::string& key) {
  ++count_.claims_dropped;
  end_claim(holder, key, 0);
}

}  // namespace om::store
