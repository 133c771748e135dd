// scan.cc: what of a region is whole, found out before it is used again.
//
// Records are checked by several threads, each a page of the index at a time: that is reading all
// records once, a matter of memory and not of locks. What a record occupies is claimed in the
// allocator's map by one thread at a time, some hundred records together, which are then still in
// its cache. The threads are gone when scan() returns.
#include <signal.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <system_error>
#include <thread>

#include "base/assert.h"
#include "base/checksum.h"
#include "base/prefetch.h"
#include "base/units.h"
#include "region/region.h"
#include "region/slots.h"

namespace om::region {

namespace {

constexpr std::size_t kClaimedTogether = 128;
// So many slots are worth a thread: some milliseconds of work.
constexpr std::uint64_t kSlotsPerThread = 32'768;
constexpr unsigned kThreadsMax = 4;
// Records that are on their way into the cache while one is checked, and how much of each.
constexpr std::uint64_t kAhead = 4;
constexpr std::size_t kAheadBytes = 640;

// Calls fn(offset, bytes) for each block that the record has to itself, and fn for its body's too.
template <class Own, class Body>
void for_each_block(const Record& record, const std::byte* base, Own own, Body body) {
  own(record.self, std::uint64_t{record.record_bytes});
  if (record.extents_block != 0) {
    own(record.extents_block, extents_block_bytes(record.extent_count));
  }
  if (record.esi_offset != 0) own(record.esi_offset, round_up(record.esi_length, kGranule));
  for (const Extent& extent : extents(record, base)) {
    body(extent.offset, std::uint64_t{extent.capacity});
  }
}

// Calls `work` on this thread and on some more, and returns when all calls have.
template <class Work>
void on_threads(unsigned count, Work work) {
  std::mutex mutex;
  std::exception_ptr failure;
  const auto guarded = [&] {
    try {
      work();
    } catch (...) {
      const std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  };
  {
    // Signals are for the threads of whoever uses us.
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    std::vector<std::jthread> others;
    try {
      while (others.size() + 1 < count) others.emplace_back(guarded);
    } catch (const std::system_error&) {  // fewer will do
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, nullptr);
    guarded();
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

// What the threads of one scan share.
struct Region::Scan {
  std::uint64_t crashed = 0;
  std::atomic<std::size_t> next_page{0};
  std::mutex mutex;  // for all below, for rejected_ and for the allocator's map
  ScanReport report;
  // A claim that fails is either a body that is shared, or an overlap.
  std::vector<ScanReport::Candidate> second_look;
  std::vector<Range> conflicts;
};

Drop Region::check_candidate(std::uint64_t slot, std::uint64_t offset) const {
  const std::uint64_t heap_begin = header()->heap_offset;
  const std::uint64_t heap_end = size();
  if (offset < heap_begin || offset >= heap_end) return Drop::kBadPointer;
  if (const Drop drop = check_record({pointer(offset), heap_end - offset}, offset, region_id(),
                                     heap_begin, heap_end);
      drop != Drop::kNone) {
    return drop;
  }
  const auto& record = *reinterpret_cast<const Record*>(pointer(offset));
  // Of two slots that point here, one is wrong.
  if (record.slot.load() != slot + 1) return Drop::kBadRecord;
  const Timers times = timers(record);
  if (!std::isfinite(times.t_origin) || !std::isfinite(times.ttl) || !std::isfinite(times.grace) ||
      !std::isfinite(times.keep) || !std::isfinite(load_double(record.ban_time))) {
    return Drop::kBadRecord;
  }
  const auto inside = [&](std::uint64_t at, std::uint64_t bytes) {
    return at >= heap_begin && at % kGranule == 0 && at <= heap_end && bytes <= heap_end - at;
  };
  if (record.extents_block != 0) {
    if (!inside(record.extents_block, extents_block_bytes(record.extent_count))) {
      return Drop::kBadExtents;
    }
    const auto& block = *reinterpret_cast<const ExtentsBlock*>(pointer(record.extents_block));
    const std::size_t bytes = sizeof(ExtentsBlock) + record.extent_count * sizeof(Extent);
    if (block.record != offset || block.count != record.extent_count ||
        block.checksum != extents_block_checksum({pointer(record.extents_block), bytes})) {
      return Drop::kBadChecksum;
    }
  }
  if (const Drop drop = check_extents(record, extents(record, base()), heap_begin, heap_end);
      drop != Drop::kNone) {
    return drop;
  }
  if (const auto file = file_of(record); file && (files_ == nullptr || !files_->check(*file)))
    return Drop::kBadFile;
  if (record.esi_offset != 0) {
    if (record.esi_length == 0 || !inside(record.esi_offset, record.esi_length)) {
      return Drop::kBadRecord;
    }
    if (record.esi_checksum != checksum({pointer(record.esi_offset), record.esi_length})) {
      return Drop::kBadChecksum;
    }
  }
  return Drop::kNone;
}

// Takes pages of the index until there are none left.
void Region::scan_pages(Scan& scan) {
  struct Looked {
    std::uint64_t slot;
    std::uint64_t offset;
    Drop why;
  };
  std::array<Looked, kClaimedTogether> looked;
  std::size_t count = 0;
  const auto claim = [&] {
    const std::lock_guard lock(scan.mutex);
    scan.report.slots_in_use += count;
    for (const Looked& one : std::span(looked).first(count)) {
      if (one.why != Drop::kNone) {
        ++scan.report.dropped[static_cast<std::size_t>(one.why)];
        rejected_.push_back(one.slot);
        continue;
      }
      auto* record = reinterpret_cast<Record*>(pointer(one.offset));
      bool body_taken = false;
      for_each_block(
          *record, base(),
          [&](std::uint64_t at, std::uint64_t bytes) {
            if (!allocator_->claim(at, bytes)) scan.conflicts.push_back({at, at + bytes});
          },
          [&](std::uint64_t at, std::uint64_t bytes) {
            body_taken = body_taken || !allocator_->claim(at, bytes);
          });
      // In the order of the claims: who shares a body comes behind the one who claimed it.
      scan.report.candidates.push_back({one.slot, record});
      if (body_taken) scan.second_look.push_back({one.slot, record});
    }
    count = 0;
  };

  const std::uint64_t per_page = slots_per_page(*header());
  for (std::size_t number = 0; (number = scan.next_page.fetch_add(1)) < pages_.size();) {
    IndexPage* page = pages_[number];
    for (std::uint64_t i = 0; i < per_page; ++i) {
      const std::uint64_t word = slots_of(page)[i].load(std::memory_order_acquire);
      if (word == 0) continue;
      if (i + kAhead < per_page) {
        const std::uint64_t next =
            decode_pointer(slots_of(page)[i + kAhead].load(std::memory_order_relaxed));
        if (next != 0 && next < size()) prefetch(pointer(next), kAheadBytes);
      }
      const std::uint64_t slot = page->first + i;
      const std::uint64_t offset = decode_pointer(word);
      const Drop why = slot + 1 == scan.crashed ? Drop::kCrashedAt
                       : offset == 0            ? Drop::kBadPointer
                                                : check_candidate(slot, offset);
      looked[count++] = {slot, offset, why};
      if (count == looked.size()) claim();
    }
  }
  claim();
}

ScanReport Region::scan(unsigned threads) {
  pages_.clear();
  rejected_.clear();
  shared_.clear();
  allocator_->begin_rebuild();

  Scan scan;
  const RegionHeader& header = *this->header();
  scan.crashed = header.adopting.load();
  const std::uint64_t per_page = slots_per_page(header);
  const Word* link = &header.index_root;
  while (const std::uint64_t word = link->load(std::memory_order_acquire)) {
    const std::uint64_t offset = decode_pointer(word);
    // claim() also says whether the page lies inside the heap; a list that bites its own tail ends
    // at a page that is claimed already.
    if (offset == 0 || !allocator_->claim(offset, header.index_page_bytes)) break;
    auto* page = reinterpret_cast<IndexPage*>(pointer(offset));
    if (page->magic != kIndexMagic || page->checksum != index_page_checksum(*page) ||
        page->self != offset || page->bytes != header.index_page_bytes ||
        page->region_id != header.region_id || page->first != pages_.size() * per_page) {
      break;
    }
    pages_.push_back(page);
    link = &page->next;
  }
  ScanReport& report = scan.report;
  report.index_damaged = link->load() != 0;

  const std::uint64_t slots = pages_.size() * per_page;
  report.candidates.reserve(slots);
  if (threads == 0) {
    const unsigned cores = std::max(1U, std::min(std::thread::hardware_concurrency(), kThreadsMax));
    threads = static_cast<unsigned>(std::min<std::uint64_t>(cores, 1 + slots / kSlotsPerThread));
  }
  on_threads(threads, [&] { scan_pages(scan); });

  auto& conflicts = scan.conflicts;
  claims_hold_ = !report.index_damaged && scan.second_look.empty() && conflicts.empty();
  if (!scan.second_look.empty()) find_shared(report, scan.second_look, conflicts);
  if (!conflicts.empty()) {
    // Which of them tells the truth cannot be known: none is believed.
    merge(conflicts);
    std::erase_if(report.candidates, [&](const ScanReport::Candidate& candidate) {
      bool bad = false;
      const auto look = [&](std::uint64_t at, std::uint64_t bytes) {
        bad = bad || touches(conflicts, at, bytes);
      };
      for_each_block(*candidate.record, base(), look, look);
      if (bad) {
        ++report.dropped[static_cast<std::size_t>(Drop::kOverlap)];
        rejected_.push_back(candidate.slot);
      }
      return bad;
    });
  }
  candidates_ = report.candidates;
  return std::move(report);
}

// Sorted, without overlaps.
void Region::merge(std::vector<Range>& ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  std::size_t kept = 0;
  for (const Range& range : ranges) {
    if (kept > 0 && range.begin < ranges[kept - 1].end) {
      ranges[kept - 1].end = std::max(ranges[kept - 1].end, range.end);
    } else {
      ranges[kept++] = range;
    }
  }
  ranges.resize(kept);
}

bool Region::touches(const std::vector<Range>& ranges, std::uint64_t offset, std::uint64_t bytes) {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), offset,
                       [](std::uint64_t at, const Range& range) { return at < range.end; });
  return after != ranges.end() && after->begin < offset + bytes;
}

// Records whose bodies were claimed already: shared when another record names exactly the same
// extents, else in conflict.
void Region::find_shared(const ScanReport& report,
                         const std::vector<ScanReport::Candidate>& second_look,
                         std::vector<Range>& conflicts_out) {
  std::unordered_map<std::uint64_t, const Record*> first_claimant;
  for (const auto& candidate : second_look) {
    first_claimant[body(*candidate.record).front().offset] = nullptr;
  }
  for (const auto& candidate : report.candidates) {
    const auto list = body(*candidate.record);
    if (list.empty()) continue;
    const auto found = first_claimant.find(list.front().offset);
    if (found != first_claimant.end() && found->second == nullptr) {
      found->second = candidate.record;
    }
  }
  for (const auto& candidate : second_look) {
    const auto list = body(*candidate.record);
    const Record* first = first_claimant[list.front().offset];
    const auto theirs = body(*first);
    if (first != candidate.record && std::ranges::equal(list, theirs)) {
      shared_[list.front().offset] = 0;  // counted by finish_scan
      continue;
    }
    for (const Extent& extent : list) {
      conflicts_out.push_back({extent.offset, extent.offset + extent.capacity});
    }
  }
}

// Claims what the kept ones occupy, from the begin on; how many they are.
std::uint64_t Region::claim_kept(const std::vector<bool>& keep) {
  std::vector<std::uint64_t> kept_files;
  allocator_->begin_rebuild();
  for (const IndexPage* page : pages_) OM_ASSERT(allocator_->claim(page->self, page->bytes));
  std::uint64_t count = 0;
  for (const auto& candidate : candidates_) {
    if (!keep[candidate.slot]) continue;
    ++count;
    const auto list = body(*candidate.record);
    if (const auto file = file_of(*candidate.record)) {
      // check() found both to be this very file.
      if (shared_[body_key(*candidate.record)]++ == 0) {
        kept_files.push_back(file->number);
        files_->keep(*file);
      }
    }
    const auto shared = list.empty() ? shared_.end() : shared_.find(list.front().offset);
    const bool again = shared != shared_.end() && shared->second++ > 0;
    const auto claim = [&](std::uint64_t at, std::uint64_t bytes) {
      OM_ASSERT(allocator_->claim(at, bytes));
    };
    for_each_block(*candidate.record, base(), claim, [&](std::uint64_t at, std::uint64_t bytes) {
      if (!again) claim(at, bytes);
    });
  }
  std::erase_if(shared_, [](const auto& entry) { return entry.second < 2; });
  if (files_ != nullptr) {
    std::ranges::sort(kept_files);
    files_->remove_others(std::move(kept_files));
  }
  return count;
}

void Region::finish_scan(std::span<const std::uint64_t> kept) {
  RegionHeader* header = this->header();
  const std::uint64_t per_page = slots_per_page(*header);
  std::vector<bool> keep(pages_.size() * per_page, false);
  for (const std::uint64_t slot : kept) {
    if (slot < keep.size()) keep[slot] = true;
  }
  // What goes is unlinked first, then the links of free blocks are written over it.
  for (const std::uint64_t slot : rejected_) slot_word(slot).store(0, std::memory_order_release);
  for (const auto& candidate : candidates_) {
    if (!keep[candidate.slot]) slot_word(candidate.slot).store(0, std::memory_order_release);
  }
  (pages_.empty() ? header->index_root : pages_.back()->next).store(0, std::memory_order_release);
  header->adopting.store(0, std::memory_order_release);

  if (claims_hold_ && files_ == nullptr) {
    // Everything belongs to one record each, and scan() has claimed it: the others give theirs
    // back, and no record that stays is looked at again.
    std::uint64_t count = candidates_.size();
    const auto unclaim = [&](std::uint64_t at, std::uint64_t bytes) {
      allocator_->unclaim(at, bytes);
    };
    for (const auto& candidate : candidates_) {
      if (keep[candidate.slot]) continue;
      --count;
      for_each_block(*candidate.record, base(), unclaim, unclaim);
    }
    published_.store(count);
  } else {
    published_.store(claim_kept(keep));
  }
  allocator_->finish_rebuild();
  shared_count_.store(shared_.size());

  free_slots_.clear();
  free_slots_.reserve(keep.size());
  for (std::size_t number = pages_.size(); number-- > 0;) {
    for (std::uint64_t i = per_page; i-- > 0;) {
      if (slots_of(pages_[number])[i].load() == 0) free_slots_.push_back(pages_[number]->first + i);
    }
  }
  candidates_ = {};
  rejected_ = {};
}

}  // namespace om::region
