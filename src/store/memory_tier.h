// The memory tier's files: segments for shared objects, and the capacity that segments and regions
// share. Segments are tmpfs files, <memory-dir>/segments/<number>, fallocated when they are made (a
// hole on a full tmpfs is SIGBUS to its readers) and faulted once, in the background, without
// changing a byte (MADV_POPULATE_WRITE), so that writers may be at work meanwhile.
// They survive the daemon and are recycled; one goes only when it is free altogether and a region
// wants its space. Loop thread, but for the jobs that it gives to the worker.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"
#include "store/slots.h"
#include "store/store.h"
#include "store/worker.h"

namespace om::store {

class MemoryTier {
 public:
  struct Options {
    std::uint64_t capacity = 0;
    std::uint64_t segment_bytes = 0;
    bool background_faulting = true;
  };
  // `fresh`: what lies there is of no use (another boot, no catalog) and is removed.
  static Result<std::unique_ptr<MemoryTier>> open(UniqueFd directory, Options options, bool fresh,
                                                  Worker& worker);

  // nullopt: no room without eviction. Makes another segment where capacity allows it. `piece`: as
  // with Slots::take().
  std::optional<std::vector<Extent>> take(std::uint64_t length,
                                          std::uint64_t piece = Slots::kGranule);
  bool take_exactly(const Extent& extent) { return slots_.take_exactly(extent); }
  std::vector<Extent> take_free_of(const Extent& extent) { return slots_.take_free_of(extent); }
  void give_back(const std::vector<Extent>& extents);
  void give_back(const Extent& extent) { slots_.give_back(extent); }
  // Makes a segment ahead of need. From tick().
  void prepare();

  [[nodiscard]] bool has(SegmentId id) const { return segments_.count(id) != 0; }
  Result<SegmentView> reader(SegmentId id) const;
  Result<WritableSegment> writer(SegmentId id) const;
  // For our own reads and writes.
  Result<BorrowedFd> own(SegmentId id) const;

  // Regions: bytes that are promised to them. False: not to be had.
  bool promise_region(std::uint64_t bytes);
  void return_region(std::uint64_t bytes) { region_bytes_ -= bytes; }
  // Of an earlier life: counted even if it is too much by now.
  void count_region(std::uint64_t bytes) { region_bytes_ += bytes; }
  // Where `bytes` more could not be promised, removes a segment that is free. False: there is none.
  bool shrink_for(std::uint64_t bytes);
  [[nodiscard]] std::vector<SegmentId> segments() const;
  [[nodiscard]] bool over_capacity() const {
    return segment_total() + region_bytes_ > options_.capacity;
  }
  // At the start, before anything was taken: removes segments until what is left keeps to the
  // capacity, but for those in `keep`. True: some were.
  bool cut_to_capacity(const std::unordered_set<SegmentId>& keep);

  [[nodiscard]] std::uint64_t capacity() const { return options_.capacity; }
  [[nodiscard]] std::uint64_t segment_total() const { return slots_.total_bytes() + growing_; }
  [[nodiscard]] std::uint64_t used() const { return slots_.total_bytes() - slots_.free_bytes(); }
  [[nodiscard]] std::uint64_t free_bytes() const { return slots_.free_bytes(); }
  [[nodiscard]] std::uint64_t region_bytes() const { return region_bytes_; }
  // What objects can have at most.
  [[nodiscard]] std::uint64_t object_capacity() const;
  [[nodiscard]] std::uint64_t faulted() const { return faulted_->load(); }
  // Of what was faulted since the start, what lies on huge pages, as far as the kernel tells.
  [[nodiscard]] std::uint64_t huge() const { return huge_->load(); }
  // Which pages this tier has, for people (posix/huge_pages.h).
  [[nodiscard]] std::string pages() const;
  [[nodiscard]] std::size_t segment_count() const { return segments_.size(); }

 private:
  struct Segment {
    std::string name;
    std::uint64_t size = 0;
    UniqueFd own;
    UniqueFd readers;  // O_RDONLY
    UniqueFd writers;  // O_RDWR: another description than ours, whose flags a peer can change
  };
  MemoryTier(UniqueFd directory, Options options, Worker& worker)
      : directory_(std::move(directory)), options_(options), worker_(worker) {}
  Result<void> recover(bool fresh);
  Result<SegmentId> adopt(std::uint64_t number, std::uint64_t size);
  // Bytes of the next segment; 0: capacity is used up.
  [[nodiscard]] std::uint64_t next_size() const;
  bool grow();
  void fault(SegmentId id);

  UniqueFd directory_;
  Options options_;
  Worker& worker_;
  Slots slots_;
  std::map<SegmentId, Segment> segments_;
  std::uint64_t next_number_ = 1;
  std::uint64_t growing_ = 0;  // of the segment that the worker is making
  std::uint64_t region_bytes_ = 0;
  bool file_system_full_ = false;  // until the next tick
  std::shared_ptr<std::atomic<std::uint64_t>> huge_ =
      std::make_shared<std::atomic<std::uint64_t>>(0);
  std::shared_ptr<std::atomic<std::uint64_t>> faulted_ =
      std::make_shared<std::atomic<std::uint64_t>>(0);
};

}  // namespace om::store
