#include "fetch.h"

#include <algorithm>

#include "base/assert.h"
#include "base/limits.h"
#include "landing.h"
#include "methods.h"

namespace om::vmod {

using abi::varnish;

namespace {

// While nothing was evicted a piece below Varnish's own usual chunk is not worth its bookkeeping;
// when we evict to make room, we take what that gave.
constexpr std::uint64_t kPieceBytesMin = 16 * 1024;
constexpr std::uint64_t kPieceBytesMinEvicting = 4 * 1024;

// A body whose list found no place in the region: the object does not survive.
class HeapBody final : public AttachedBody {
 public:
  HeapBody(region::Region& region, std::vector<region::Extent> list)
      : region_(region), list_(std::move(list)) {}
  ~HeapBody() override {
    for (const region::Extent& extent : list_) region_.allocator().free(extent);
  }
  [[nodiscard]] Place place() const override { return Place::kMemory; }
  [[nodiscard]] std::optional<BodyView> view() const override {
    return view_extents(region_, list_);
  }

 private:
  region::Region& region_;
  std::vector<region::Extent> list_;
};

// From the end of a free block that bodies use.
std::optional<region::Extent> allocate_single(region::Allocator& allocator, std::uint64_t bytes) {
  std::vector<region::Extent> one;
  if (!allocator.allocate_extents(bytes, kExtentBytesMax, bytes, one)) return std::nullopt;
  return one.front();
}

std::uint64_t& nuked(Store& store, Place place) {
  switch (place) {
    case Place::kFile: return store.counters().c_disk_nuked;
    case Place::kLease: return store.counters().c_lease_nuked;
    case Place::kMemory: break;
  }
  return store.counters().c_nuked;
}

bool nuke_one(struct worker* wrk, Store& store, Place place) {
  const int limit = wrk->strangelove;
  if (varnish.LRU_NukeOne(wrk, store.stv(place)->lru) != 0) {
    count(nuked(store, place));
    return true;
  }
  // A list with nothing in it that may go is not what the limit is for.
  if (limit > 0) wrk->strangelove = limit;
  return false;
}

bool has_landed(const Fetch& fetch) { return fetch.landed != nullptr && !fetch.landed->left; }

// Gives back what the last piece does not use. Readers look at lengths only, which do not change.
void trim_pieces(region::Region& region, Fetch& fetch) {
  if (fetch.pieces.empty()) return;
  region::Extent& last = fetch.pieces.back().extent;
  if (last.length == 0) {
    region.allocator().free(last);
    fetch.pieces.pop_back();
  } else {
    region.allocator().shrink(last, last.length);
    // It is full now: more may still come (a 304 trims after each piece that it copies).
    fetch.pieces.back().limit = last.length;
  }
}

}  // namespace

bool nuke(struct worker* wrk, Store& store, Place place) {
  if (wrk->vsl == nullptr) return false;  // it is logged there
  if (nuke_one(wrk, store, place)) return true;
  // A body in the daemon is had again without asking its origin; one on disk is not.
  if (place == Place::kMemory && wrk->strangelove > 0 &&
      (nuke_one(wrk, store, Place::kLease) || nuke_one(wrk, store, Place::kFile)))
    return true;
  count(store.counters().c_nuke_limited);
  return false;
}

// `want` bytes if they can be had at once, else the largest there is down to the smallest that is
// of use, else evict.
std::optional<region::Extent> allocate_piece(struct worker* wrk, Store& store, std::uint64_t want) {
  region::Allocator& allocator = store.region()->allocator();
  std::uint64_t smallest = std::min(want, kPieceBytesMin);
  while (true) {
    if (auto extent = allocate_single(allocator, want)) return extent;
    const std::uint64_t largest = std::min(allocator.largest(), want);
    if (largest >= smallest)
      if (auto extent = allocate_single(allocator, largest)) return extent;
    if (!nuke(wrk, store, Place::kMemory)) return std::nullopt;
    smallest = std::min(want, kPieceBytesMinEvicting);
  }
}

bool first_piece(struct worker* wrk, Store& store, struct objcore* oc, Fetch& fetch) {
  region::Allocator& allocator = store.region()->allocator();
  std::vector<region::Extent> found;
  std::uint64_t left = std::min(fetch.expected, kExtentBytesMax);
  while (left > 0) {
    const auto extent = allocate_piece(wrk, store, left);
    if (!extent) break;
    found.push_back(*extent);
    left -= std::min<std::uint64_t>(left, extent->capacity);
  }
  const std::size_t kept = left > 0 ? 0 : std::min<std::size_t>(found.size(), 1);
  // The others are taken again when it is their turn.
  for (std::size_t i = kept; i < found.size(); ++i) allocator.free(found[i]);
  if (kept > 0) {
    Lck_Lock(&oc->boc->mtx);
    fetch.pieces.push_back({found.front(), found.front().capacity, 0});
    Lck_Unlock(&oc->boc->mtx);
  }
  return left == 0;
}

bool more_space(struct worker* wrk, Store& store, struct objcore* oc, Fetch& fetch,
                std::uint64_t want, std::span<std::byte>& space) {
  if (fetch.landed != nullptr || landing::expected(oc))
    if (const auto landed = landing::space(wrk, store, oc, fetch)) {
      space = *landed;
      if (fetch.gzips) space = space.first(std::min<std::size_t>(space.size(), want));
      return !space.empty();
    }
  region::Region& region = *store.region();
  const bool full =
      fetch.pieces.empty() || fetch.pieces.back().extent.length == fetch.pieces.back().limit;
  if (fetch.file == nullptr && full && fetch.file_from != 0 && !landing::expected(oc) &&
      std::max(fetch.total, fetch.expected) >= fetch.file_from)
    (void)disk::start(wrk, store, oc, fetch);
  if (fetch.file != nullptr) {
    if (disk::more_space(wrk, store, oc, fetch, want, space)) return true;
    if (fetch.file != nullptr) return false;
  }
  if (fetch.pieces.empty() || fetch.pieces.back().extent.length == fetch.pieces.back().limit) {
    count(store.counters().c_req);
    // Nobody knows how much is to come: as much again as there is, but not far beyond the length
    // from which on it belongs into a file.
    if (!fetch.length_known && !fetch.gzips) want = std::max(want, fetch.total);
    if (fetch.file_from > fetch.total) want = std::min(want, fetch.file_from - fetch.total);
    want = std::min(want, kExtentBytesMax);
    const auto extent = allocate_piece(wrk, store, want);
    if (!extent) return false;
    Fetch::Piece piece;
    piece.extent = *extent;
    piece.begin = fetch.total;
    // Varnish's gzip notes the wrong bits for ESI to cut at, and panics there (upstream's r01109),
    // when it stores blocks (level 0) into more room than it asked for. So exactly that.
    piece.limit = fetch.gzips ? std::min(static_cast<std::uint32_t>(want), extent->capacity)
                              : extent->capacity;
    Lck_Lock(&oc->boc->mtx);
    fetch.pieces.push_back(piece);
    Lck_Unlock(&oc->boc->mtx);
  }
  const Fetch::Piece& last = fetch.pieces.back();
  space = {region.pointer(last.extent.offset + last.extent.length),
           last.limit - last.extent.length};
  return true;
}

void extend(Fetch& fetch, std::uint64_t length) {
  if (fetch.file != nullptr)
    fetch.file->filled += length;
  else if (!has_landed(fetch)) {
    region::Extent& last = fetch.pieces.back().extent;
    last.length += static_cast<std::uint32_t>(length);
    OM_ASSERT(last.length <= last.capacity);  // else it is in somebody else's memory
  }
  fetch.total += length;
}

void trim(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch) {
  if (fetch.settled) return;
  if (fetch.file != nullptr) {
    // What the disk does not take any more moves to memory, or stays in the buffer.
    if (!disk::flush(wrk, store, oc, fetch, true))
      (void)disk::move_to_memory(wrk, store, oc, fetch);
    if (fetch.file != nullptr) return;
  }
  if (oc->boc != nullptr) Lck_Lock(&oc->boc->mtx);
  trim_pieces(*store.region(), fetch);
  if (oc->boc != nullptr) Lck_Unlock(&oc->boc->mtx);
}

void settle(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch, bool lasts) {
  if (fetch.settled) return;
  if (fetch.file != nullptr) {
    disk::settle(wrk, store, oc, fetch, lasts);
    return;
  }
  if (has_landed(fetch)) {
    landing::settle(oc, fetch);
    return;
  }
  region::Region& region = *store.region();
  region::Record& record = record_of(oc);
  std::vector<region::Extent> list;
  list.reserve(fetch.pieces.size());
  for (const Fetch::Piece& piece : fetch.pieces)
    if (piece.extent.length > 0) list.push_back(piece.extent);
  if (fetch.file_from > 0 && !list.empty()) count(store.counters().c_disk_small);
  std::optional<std::uint64_t> checksum;
  if (lasts && fetch.checksum) checksum = region.body_checksum(list);
  bool attached = region.attach_body(record, list, checksum);
  while (!attached && nuke(wrk, store, Place::kMemory))
    attached = region.attach_body(record, list, checksum);
  if (!attached) vmod::attach_body(oc, std::make_unique<HeapBody>(region, std::move(list)));
  fetch.settled = true;
}

void give_up(region::Region& region, Fetch& fetch) {
  for (const region::Extent& extent : fetch.left_behind) region.allocator().free(extent);
  fetch.left_behind.clear();
  if (fetch.settled) return;
  for (const Fetch::Piece& piece : fetch.pieces) region.allocator().free(piece.extent);
  fetch.pieces.clear();
  if (fetch.file != nullptr && fetch.file->writer != nullptr)
    region.files()->discard(*fetch.file->writer);
  fetch.file.reset();
}

StreamedBytes streamed_bytes(const Fetch& fetch, const region::Region& region, std::uint64_t at,
                             std::uint64_t there) {
  StreamedBytes bytes;
  if (has_landed(fetch)) {
    // Kept by the fetch, then by the object.
    const auto memory = landing::bytes(fetch, at, there);
    bytes.memory = memory.data();
    bytes.length = memory.size();
    return bytes;
  }
  if (const Fetch::File* file = fetch.file.get(); file != nullptr) {
    if (at < file->written) {
      bytes.file = file->file;
      bytes.offset = at;
      bytes.length = std::min(file->written, there) - at;
    } else {
      bytes.memory = file->buffer->at + (at - file->written);
      bytes.length = there - at;
      bytes.passing = true;
      bytes.keep = file->buffer;
    }
    return bytes;
  }
  const auto after = std::ranges::upper_bound(fetch.pieces, at, {}, &Fetch::Piece::begin);
  const Fetch::Piece& piece = *std::prev(after);
  const std::uint64_t skip = at - piece.begin;
  bytes.memory = region.pointer(piece.extent.offset + skip);
  bytes.length = std::min<std::uint64_t>(piece.extent.length - skip, there - at);
  // It may move to a file, and then leave this memory with the boc.
  bytes.passing = fetch.file_from != 0;
  return bytes;
}

}  // namespace om::vmod
