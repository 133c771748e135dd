#include "store/lease_locks.h"

#include <algorithm>
#include <vector>

#include "base/assert.h"
#include "posix/range_lock.h"

namespace om::store {

namespace {
// Bytes of a lease file are objects: no id is above this (off_t).
constexpr std::uint64_t kIdsEnd = std::uint64_t{1} << 62;
}  // namespace

Result<void> LeaseLocks::lock_block(BorrowedFd file, std::uint64_t block, unsigned shift) {
  const bool locked = OM_TRY(lock_range_shared(file, block << shift, std::uint64_t{1} << shift));
  if (!locked) return Error{Errc::kBusy, 0, "the lease file is locked by somebody else"};
  return {};
}

Result<void> LeaseLocks::add(BorrowedFd file, std::uint64_t object) {
  const auto known = blocks_.find(object >> shift_);
  if (known != blocks_.end()) {
    if (known->second++ == 0) --idle_;
    return {};
  }
  if (blocks_.size() >= kBlocksMax) {
    settle(file);
    if (blocks_.size() >= kBlocksMax) OM_TRY(coarsen(file));
    return add(file, object);
  }
  OM_TRY(lock_block(file, object >> shift_, shift_));
  blocks_.emplace(object >> shift_, 1);
  return {};
}

// Larger blocks, until they are half as many as may be. What is locked stays locked throughout.
Result<void> LeaseLocks::coarsen(BorrowedFd file) {
  unsigned shift = shift_;
  std::unordered_map<std::uint64_t, std::uint32_t> larger;
  do {
    ++shift;
    larger.clear();
    for (const auto& [block, pins] : blocks_) larger[block >> (shift - shift_)] += pins;
  } while (larger.size() > kBlocksMax / 2);
  for (const auto& [block, pins] : larger) OM_TRY(lock_block(file, block, shift));
  blocks_ = std::move(larger);
  shift_ = shift;
  return {};
}

void LeaseLocks::remove(BorrowedFd file, std::uint64_t object) {
  const auto known = blocks_.find(object >> shift_);
  OM_ASSERT(known != blocks_.end() && known->second > 0);
  if (--known->second > 0) return;
  if (++idle_ > kIdleMax) settle(file);
}

void LeaseLocks::settle(BorrowedFd file) {
  if (idle_ == 0) return;
  const std::size_t pinned = blocks_.size() - idle_;
  if (pinned < idle_) {
    // What lies between those that are pinned, at one go each.
    std::vector<std::uint64_t> kept;
    kept.reserve(pinned);
    for (const auto& [block, pins] : blocks_)
      if (pins > 0) kept.push_back(block);
    std::sort(kept.begin(), kept.end());
    std::uint64_t from = 0;
    for (const std::uint64_t block : kept) {
      const std::uint64_t begin = block << shift_;
      if (begin > from) (void)unlock_range(file, from, begin - from);
      from = begin + (std::uint64_t{1} << shift_);
    }
    (void)unlock_range(file, from, kIdsEnd - from);
  } else {
    for (const auto& [block, pins] : blocks_)
      if (pins == 0) (void)unlock_range(file, block << shift_, std::uint64_t{1} << shift_);
  }
  std::erase_if(blocks_, [](const auto& entry) { return entry.second == 0; });
  idle_ = 0;
  if (blocks_.empty()) shift_ = kShiftAtFirst;
}

}  // namespace om::store
