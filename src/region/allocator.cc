#include "region/allocator.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/assert.h"
#include "base/units.h"

namespace om::region {

// Lies in the first granule of a free block; the size stands once more in its last 8 bytes.
struct Allocator::FreeHead {
  std::uint64_t bytes;
  std::uint64_t next;
  std::uint64_t previous;
};

namespace {

// Extents below this are no larger than records, and lie with them.
constexpr std::uint64_t kLargeBytes = 2048;
// How many blocks of the exact class are looked at before the next class up is taken.
constexpr int kSameClassTries = 8;

// Whole granules; what cannot be a size becomes one that nothing satisfies.
std::uint64_t whole(std::uint64_t bytes) {
  if (bytes > kRegionBytesMax) return kRegionBytesMax;
  return std::max(kGranule, round_up(bytes, kGranule));
}

}  // namespace

Allocator::Allocator(std::byte* base, std::uint64_t heap_begin, std::uint64_t heap_end)
    : base_(base), heap_begin_(heap_begin), heap_end_(heap_end) {
  OM_ASSERT(heap_begin % kGranule == 0 && heap_end % kGranule == 0);
  OM_ASSERT(heap_begin >= kGranule && heap_end > heap_begin && heap_end <= kRegionBytesMax);
}

Allocator::Class Allocator::class_of(std::uint64_t granules) {
  if (granules < kSteps) return {0, static_cast<unsigned>(granules)};
  const unsigned log = static_cast<unsigned>(std::bit_width(granules)) - 1;
  const auto step = static_cast<unsigned>((granules >> (log - kStepBits)) & (kSteps - 1));
  return {log - kStepBits + 1, step};
}

Allocator::FreeHead* Allocator::head(std::uint64_t offset) const {
  return reinterpret_cast<FreeHead*>(base_ + offset);
}

std::uint64_t& Allocator::tail(std::uint64_t offset, std::uint64_t bytes) const {
  return *reinterpret_cast<std::uint64_t*>(base_ + offset + bytes - sizeof(std::uint64_t));
}

bool Allocator::edge(std::uint64_t offset) const {
  const std::uint64_t granule = (offset - heap_begin_) / kGranule;
  return ((edges_[granule / 64] >> (granule % 64)) & 1) != 0;
}

void Allocator::set_edge(std::uint64_t offset, bool on) {
  const std::uint64_t granule = (offset - heap_begin_) / kGranule;
  const std::uint64_t bit = std::uint64_t{1} << (granule % 64);
  if (on) {
    edges_[granule / 64] |= bit;
  } else {
    edges_[granule / 64] &= ~bit;
  }
}

void Allocator::insert(std::uint64_t offset, std::uint64_t bytes) {
  const auto [level, step] = class_of(bytes / kGranule);
  const std::uint64_t next = lists_[level][step];
  *head(offset) = {bytes, next, 0};
  tail(offset, bytes) = bytes;
  if (next != 0) head(next)->previous = offset;
  lists_[level][step] = offset;
  levels_ |= std::uint64_t{1} << level;
  steps_[level] |= std::uint32_t{1} << step;
  set_edge(offset, true);
  set_edge(offset + bytes - kGranule, true);
}

void Allocator::remove(std::uint64_t offset, std::uint64_t bytes) {
  const FreeHead links = *head(offset);
  OM_ASSERT(links.bytes == bytes);  // else somebody wrote into memory that was free
  if (links.next != 0) head(links.next)->previous = links.previous;
  if (links.previous != 0) {
    head(links.previous)->next = links.next;
  } else {
    const auto [level, step] = class_of(bytes / kGranule);
    lists_[level][step] = links.next;
    if (links.next == 0) {
      steps_[level] &= ~(std::uint32_t{1} << step);
      if (steps_[level] == 0) levels_ &= ~(std::uint64_t{1} << level);
    }
  }
  set_edge(offset, false);
  set_edge(offset + bytes - kGranule, false);
}

Block Allocator::carve(Block from, std::uint64_t bytes, End end) {
  free_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  allocated_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  blocks_.fetch_add(1, std::memory_order_relaxed);
  if (from.bytes == bytes) return from;
  const std::uint64_t rest = from.bytes - bytes;
  if (end == End::kFront) {
    insert(from.offset + bytes, rest);
    return {from.offset, bytes};
  }
  insert(from.offset, rest);
  return {from.offset + rest, bytes};
}

std::optional<Block> Allocator::allocate_locked(std::uint64_t bytes, End end) {
  const std::uint64_t granules = bytes / kGranule;
  auto [level, step] = class_of(granules);
  // The class that the size lies in: its blocks may be too small, by less than a step.
  std::uint64_t at = lists_[level][step];
  for (int i = 0; at != 0 && i < kSameClassTries; ++i, at = head(at)->next) {
    const std::uint64_t size = head(at)->bytes;
    if (size >= bytes) {
      remove(at, size);
      return carve({at, size}, bytes, end);
    }
  }
  // Every block of a class further up is large enough.
  std::uint32_t steps = step + 1 < kSteps ? steps_[level] & (~std::uint32_t{0} << (step + 1)) : 0;
  if (steps == 0) {
    const std::uint64_t levels = levels_ & (~std::uint64_t{0} << (level + 1));
    if (levels == 0) return std::nullopt;
    level = static_cast<unsigned>(std::countr_zero(levels));
    steps = steps_[level];
  }
  const std::uint64_t offset = lists_[level][static_cast<unsigned>(std::countr_zero(steps))];
  const std::uint64_t size = head(offset)->bytes;
  remove(offset, size);
  return carve({offset, size}, bytes, end);
}

std::optional<Block> Allocator::take_largest_locked(std::uint64_t at_most) {
  if (levels_ == 0) return std::nullopt;
  const auto level = static_cast<unsigned>(std::bit_width(levels_)) - 1;
  const auto step = static_cast<unsigned>(std::bit_width(steps_[level])) - 1;
  const std::uint64_t offset = lists_[level][step];
  const std::uint64_t size = head(offset)->bytes;
  remove(offset, size);
  return carve({offset, size}, std::min(size, at_most), End::kBack);
}

void Allocator::free_locked(Block block) {
  OM_ASSERT(block.offset >= heap_begin_ && block.offset % kGranule == 0 &&
            block.bytes % kGranule == 0 && block.bytes > 0 && block.bytes <= heap_end_ &&
            block.offset <= heap_end_ - block.bytes);
  OM_ASSERT(!edge(block.offset) && !edge(block.offset + block.bytes - kGranule));  // freed twice
  free_bytes_.fetch_add(block.bytes, std::memory_order_relaxed);
  if (block.offset > heap_begin_ && edge(block.offset - kGranule)) {
    const std::uint64_t size = tail(block.offset - kGranule, kGranule);
    OM_ASSERT(size <= block.offset - heap_begin_);
    block.offset -= size;
    remove(block.offset, size);
    block.bytes += size;
  }
  const std::uint64_t end = block.offset + block.bytes;
  if (end < heap_end_ && edge(end)) {
    const std::uint64_t size = head(end)->bytes;
    remove(end, size);
    block.bytes += size;
  }
  insert(block.offset, block.bytes);
}

void Allocator::start_empty() {
  begin_rebuild();
  finish_rebuild();
}

void Allocator::begin_rebuild() {
  const std::lock_guard lock(mutex_);
  edges_.assign((heap_bytes() / kGranule + 63) / 64, 0);
  lists_ = {};
  steps_ = {};
  levels_ = 0;
  free_bytes_.store(0, std::memory_order_relaxed);
  blocks_.store(0, std::memory_order_relaxed);
}

// Calls fn(word, mask) for each word of the map that the range touches, until it says no.
template <class Fn>
bool Allocator::each_word(std::uint64_t offset, std::uint64_t bytes, Fn fn) {
  const std::uint64_t begin = (offset - heap_begin_) / kGranule;
  const std::uint64_t end = begin + bytes / kGranule;
  for (std::uint64_t at = begin; at < end;) {
    const std::uint64_t bit = at % 64;
    const std::uint64_t count = std::min(64 - bit, end - at);
    const std::uint64_t mask = (count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1)
                               << bit;
    if (!fn(edges_[at / 64], mask)) return false;
    at += count;
  }
  return true;
}

bool Allocator::claim(std::uint64_t offset, std::uint64_t bytes) {
  if (offset < heap_begin_ || offset > heap_end_ || bytes == 0 || bytes > heap_end_ - offset ||
      offset % kGranule != 0 || bytes % kGranule != 0) {
    return false;
  }
  if (!each_word(offset, bytes, [](const std::uint64_t& word, std::uint64_t mask) {
        return (word & mask) == 0;
      })) {
    return false;
  }
  blocks_.fetch_add(1, std::memory_order_relaxed);
  return each_word(offset, bytes, [](std::uint64_t& word, std::uint64_t mask) {
    word |= mask;
    return true;
  });
}

void Allocator::unclaim(std::uint64_t offset, std::uint64_t bytes) {
  blocks_.fetch_sub(1, std::memory_order_relaxed);
  (void)each_word(offset, bytes, [](std::uint64_t& word, std::uint64_t mask) {
    OM_ASSERT((word & mask) == mask);
    word &= ~mask;
    return true;
  });
}

void Allocator::finish_rebuild() {
  const std::lock_guard lock(mutex_);
  const std::vector<std::uint64_t> claimed = std::move(edges_);
  edges_.assign(claimed.size(), 0);
  const std::uint64_t granules = heap_bytes() / kGranule;
  // The next granule from `at` on whose bit is `value`.
  const auto find = [&](std::uint64_t at, bool value) {
    while (at < granules) {
      std::uint64_t word = value ? claimed[at / 64] : ~claimed[at / 64];
      word &= ~std::uint64_t{0} << (at % 64);
      if (word != 0) {
        return std::min(granules, at / 64 * 64 + static_cast<unsigned>(std::countr_zero(word)));
      }
      at = (at / 64 + 1) * 64;
    }
    return granules;
  };
  std::uint64_t free = 0;
  for (std::uint64_t begin = find(0, false); begin < granules;) {
    const std::uint64_t end = find(begin, true);
    insert(heap_begin_ + begin * kGranule, (end - begin) * kGranule);
    free += (end - begin) * kGranule;
    begin = find(end, false);
  }
  free_bytes_.store(free, std::memory_order_relaxed);
}

std::optional<Block> Allocator::allocate(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  return allocate_locked(whole(bytes), End::kFront);
}

bool Allocator::allocate_extents(std::uint64_t bytes, std::uint64_t extent_max,
                                 std::uint64_t smallest, std::vector<Extent>& out) {
  const std::uint64_t piece_max =
      std::max(kGranule, std::min(extent_max, kExtentBytesMax) & ~(kGranule - 1));
  std::uint64_t left = whole(bytes);
  const std::size_t before = out.size();
  out.reserve(before + left / piece_max + 1);
  const std::lock_guard lock(mutex_);
  if (left > free_bytes()) return false;
  while (left > 0) {
    const std::uint64_t wanted = std::min(left, piece_max);
    std::optional<Block> block =
        allocate_locked(wanted, wanted < kLargeBytes ? End::kFront : End::kBack);
    if (!block) block = take_largest_locked(wanted);
    if (block && (block->bytes >= std::min(left, smallest) || block->bytes == wanted) &&
        out.size() - before < kExtentsPerBodyMax) {
      out.push_back({block->offset, 0, static_cast<std::uint32_t>(block->bytes)});
      left -= block->bytes;
      continue;
    }
    if (block) {
      free_locked(*block);
      blocks_.fetch_sub(1, std::memory_order_relaxed);
    }
    for (std::size_t i = before; i < out.size(); ++i) free_locked({out[i].offset, out[i].capacity});
    blocks_.fetch_sub(out.size() - before, std::memory_order_relaxed);
    out.resize(before);
    return false;
  }
  return true;
}

Block Allocator::shrink(Block block, std::uint64_t bytes) {
  const std::uint64_t keep = whole(bytes);
  if (keep >= block.bytes) return block;
  const std::lock_guard lock(mutex_);
  free_locked({block.offset + keep, block.bytes - keep});
  return {block.offset, keep};
}

void Allocator::shrink(Extent& extent, std::uint64_t bytes) {
  const Block kept = shrink(Block{extent.offset, extent.capacity}, bytes);
  extent.capacity = static_cast<std::uint32_t>(kept.bytes);
}

void Allocator::free(Block block) {
  const std::lock_guard lock(mutex_);
  blocks_.fetch_sub(1, std::memory_order_relaxed);
  free_locked(block);
}

std::uint64_t Allocator::largest() const {
  const std::lock_guard lock(mutex_);
  if (levels_ == 0) return 0;
  const auto level = static_cast<unsigned>(std::bit_width(levels_)) - 1;
  const auto step = static_cast<unsigned>(std::bit_width(steps_[level])) - 1;
  return head(lists_[level][step])->bytes;
}

bool Allocator::check() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t total = 0;
  std::uint64_t edges = 0;
  for (unsigned level = 0; level < kLevels; ++level) {
    if (((levels_ >> level) & 1) != (steps_[level] != 0 ? 1U : 0U)) return false;
    for (unsigned step = 0; step < kSteps; ++step) {
      if (((steps_[level] >> step) & 1) != (lists_[level][step] != 0 ? 1U : 0U)) return false;
      std::uint64_t previous = 0;
      for (std::uint64_t at = lists_[level][step]; at != 0; at = head(at)->next) {
        const std::uint64_t size = head(at)->bytes;
        const auto place = class_of(size / kGranule);
        if (place.level != level || place.step != step) return false;
        if (at < heap_begin_ || size > heap_end_ - at || head(at)->previous != previous)
          return false;
        if (tail(at, size) != size || !edge(at) || !edge(at + size - kGranule)) return false;
        // Free neighbours would have been merged.
        if (at > heap_begin_ && edge(at - kGranule)) return false;
        if (at + size < heap_end_ && edge(at + size)) return false;
        total += size;
        edges += size == kGranule ? 1 : 2;
        previous = at;
      }
    }
  }
  std::uint64_t bits = 0;
  for (const std::uint64_t word : edges_) bits += static_cast<unsigned>(std::popcount(word));
  return total == free_bytes() && bits == edges;
}

}  // namespace om::region
