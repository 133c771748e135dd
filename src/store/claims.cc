#include "store/claims.h"

#include <utility>

#include "posix/file.h"
#include "posix/memfd.h"

namespace om::store {

Result<std::unique_ptr<Claims>> Claims::make() {
  auto file = OM_TRY(make_memfd("objmapper-claims", sizeof(claims::Table)));
  // Its peers can write what they like, but not make us fault on it.
  OM_TRY(seal_length(file.borrow()));
  auto mapping = OM_TRY(Mapping::of(file.borrow(), 0, sizeof(claims::Table), Access::kReadWrite));
  return std::unique_ptr<Claims>(new Claims(std::move(file), std::move(mapping)));
}

Result<ClaimsAccess> Claims::give(HolderId holder) {
  if (of_.count(holder) != 0) return Error{Errc::kExists, 0, "it has the table of claims"};
  if (of_.size() >= claims::kOwnerMax) return Error{Errc::kQuota, 0, "too many claim keys"};
  auto table = OM_TRY(duplicate(file_.borrow()));
  do {
    last_ = last_ % claims::kOwnerMax + 1;
  } while (owners_.count(last_) != 0);
  owners_.emplace(last_, holder);
  of_.emplace(holder, last_);
  return ClaimsAccess{std::move(table), static_cast<std::uint32_t>(last_)};
}

void Claims::close(HolderId holder) {
  const auto of = of_.find(holder);
  if (of == of_.end()) return;
  for (claims::Word& word : table().words) {
    std::uint64_t there = word.load(std::memory_order_relaxed);
    // A word that changes meanwhile is somebody else's, or that of one who is cut off: then it goes
    // when somebody asks (claims::want).
    if (claims::owner_of(there) == of->second)
      (void)word.compare_exchange_strong(there, 0, std::memory_order_seq_cst);
  }
  owners_.erase(of->second);
  of_.erase(of);
}

HolderId Claims::want(std::uint64_t hash) {
  const auto alive = [this](std::uint64_t owner) { return owners_.count(owner) != 0; };
  const std::uint64_t owner = claims::want(table().of(hash), hash, alive);
  return owner == 0 ? 0 : owners_.at(owner);
}

void Claims::end(std::uint64_t hash, HolderId holder) {
  if (const auto of = of_.find(holder); of != of_.end())
    claims::end(table().of(hash), claims::word_of(hash, of->second));
}

}  // namespace om::store
