#include "client/claims.h"

#include "posix/file.h"

namespace om::client {

std::unique_ptr<Claims> Claims::of(const UniqueFd& file, std::uint64_t owner) {
  const auto bytes = file_size(file.borrow());
  if (!bytes || *bytes < sizeof(claims::Table) || owner == 0 || owner > claims::kOwnerMax)
    return nullptr;
  auto mapping = Mapping::of(file.borrow(), 0, sizeof(claims::Table), Access::kReadWrite);
  if (!mapping) return nullptr;
  return std::unique_ptr<Claims>(new Claims(*std::move(mapping), owner));
}

bool Claims::claim(std::uint64_t hash, const claims::Counter& known) {
  return claims::claim(table().of(hash), known, claims::word_of(hash, owner_));
}

bool Claims::unclaim(std::uint64_t hash) {
  return claims::unclaim(table().of(hash), claims::word_of(hash, owner_));
}

bool Claims::is_wanted(std::uint64_t hash) const {
  return table().of(hash).load(std::memory_order_acquire) != claims::word_of(hash, owner_);
}

}  // namespace om::client
