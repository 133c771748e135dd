#include "region/allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <thread>

#include "base/units.h"

namespace om::region {
namespace {

// A heap in plain memory: the allocator does not care. Not touched before it touches it.
struct Heap {
  explicit Heap(std::uint64_t bytes)
      : size(bytes),
        memory(static_cast<std::byte*>(std::aligned_alloc(kPage, bytes))),
        allocator(memory, kPage, bytes) {
    allocator.start_empty();
  }
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;
  ~Heap() { std::free(memory); }
  std::uint64_t size;
  std::byte* memory;
  Allocator allocator;
};

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

TEST(Allocator, GivesWholeGranulesAndTakesThemBack) {
  Heap heap(kMiB);
  const std::uint64_t all = heap.allocator.free_bytes();
  EXPECT_EQ(all, kMiB - kPage);
  const auto block = heap.allocator.allocate(65);
  ASSERT_TRUE(block);
  EXPECT_EQ(block->bytes, 128U);
  EXPECT_EQ(heap.allocator.used_bytes(), 128U);
  heap.allocator.free(*block);
  EXPECT_EQ(heap.allocator.largest(), all);
  EXPECT_TRUE(heap.allocator.check());
}

TEST(Allocator, GivesTheWholeHeapAsOneBlock) {
  Heap heap(kMiB);
  const auto block = heap.allocator.allocate(kMiB - kPage);
  ASSERT_TRUE(block);
  EXPECT_FALSE(heap.allocator.allocate(1));
  EXPECT_EQ(heap.allocator.largest(), 0U);
  heap.allocator.free(*block);
  EXPECT_FALSE(heap.allocator.allocate(kMiB));
  EXPECT_FALSE(heap.allocator.allocate(~std::uint64_t{0}));
  EXPECT_TRUE(heap.allocator.check());
}

TEST(Allocator, AllocatedBlocksCarryNothing) {
  Heap heap(kMiB);
  std::uint64_t count = 0;
  while (heap.allocator.allocate(4096)) ++count;
  EXPECT_EQ(count, (kMiB - kPage) / 4096);
}

// Seeded random work against a model: no two blocks overlap, contents stay, sums agree.
class AllocatorModel : public testing::TestWithParam<std::uint64_t> {};

TEST_P(AllocatorModel, AgreesWithAfterEveryStep) {
  std::mt19937_64 random(GetParam());
  Heap heap(4 * kMiB);
  struct Mine {
    std::uint64_t bytes;
    std::uint8_t fill;
  };
  std::map<std::uint64_t, Mine> model;
  const auto put = [&](std::uint64_t offset, std::uint64_t bytes) {
    const auto after = model.lower_bound(offset);
    if (after != model.end()) {
      ASSERT_LE(offset + bytes, after->first);
    }
    if (after != model.begin()) {
      ASSERT_LE(std::prev(after)->first + std::prev(after)->second.bytes, offset);
    }
    const auto fill = static_cast<std::uint8_t>(random());
    std::memset(heap.memory + offset, fill, bytes);
    model[offset] = {bytes, fill};
  };
  const auto intact = [&](std::uint64_t offset, const Mine& mine) {
    return std::all_of(heap.memory + offset, heap.memory + offset + mine.bytes,
                       [&](std::byte byte) { return byte == std::byte{mine.fill}; });
  };
  for (int step = 0; step < 6000; ++step) {
    const std::uint64_t what = random() % 100;
    const std::uint64_t size = std::uint64_t{1} << (random() % 17);
    if (what < 45) {
      const std::uint64_t bytes = 1 + random() % size;
      if (const auto block = heap.allocator.allocate(bytes)) {
        ASSERT_GE(block->bytes, bytes);
        put(block->offset, block->bytes);
      } else {
        // Steps are 1/32 apart: what is refused is not there, or nearly not.
        ASSERT_LT(heap.allocator.largest(), bytes + bytes / 16 + 2 * kGranule);
      }
    } else if (what < 52) {
      std::vector<Extent> extents;
      const std::uint64_t bytes = 1 + random() % (8 * size);
      if (heap.allocator.allocate_extents(bytes, 65536, 512, extents)) {
        std::uint64_t total = 0;
        for (const Extent& extent : extents) {
          put(extent.offset, extent.capacity);
          total += extent.capacity;
        }
        ASSERT_EQ(total, round_up(bytes, kGranule));
      } else {
        ASSERT_TRUE(extents.empty());
      }
    } else if (!model.empty()) {
      auto victim = model.lower_bound(random() % heap.size);
      if (victim == model.end()) victim = model.begin();
      const auto [offset, mine] = *victim;
      ASSERT_TRUE(intact(offset, mine));
      if (what < 60) {
        const Block kept = heap.allocator.shrink({offset, mine.bytes}, 1 + random() % mine.bytes);
        victim->second.bytes = kept.bytes;
      } else {
        model.erase(victim);
        heap.allocator.free(Block{offset, mine.bytes});
      }
    }
    if (step % 97 == 0) {
      ASSERT_TRUE(heap.allocator.check());
    }
  }
  std::uint64_t used = 0;
  for (const auto& [offset, mine] : model) {
    ASSERT_TRUE(intact(offset, mine));
    used += mine.bytes;
  }
  EXPECT_EQ(heap.allocator.used_bytes(), used);

  // The same free space comes out of claims alone.
  Allocator again(heap.memory, kPage, heap.size);
  again.begin_rebuild();
  for (const auto& [offset, mine] : model) {
    ASSERT_TRUE(again.claim(offset, mine.bytes));
    ASSERT_FALSE(again.claim(offset, kGranule));
  }
  ASSERT_FALSE(again.claim(0, kGranule));
  ASSERT_FALSE(again.claim(heap.size - kGranule, 2 * kGranule));
  again.finish_rebuild();
  EXPECT_EQ(again.used_bytes(), used);
  EXPECT_TRUE(again.check());
  for (const auto& [offset, mine] : model) again.free(Block{offset, mine.bytes});
  EXPECT_EQ(again.largest(), heap.size - kPage);
}

INSTANTIATE_TEST_SUITE_P(Seeds, AllocatorModel, testing::Range<std::uint64_t>(1, 13));

// An LRU cache of records and bodies, as the VMOD uses the allocator.
class Cache {
 public:
  explicit Cache(Heap& heap) : heap_(heap) {}
  bool put(std::uint64_t body, std::uint64_t record) {
    Object object;
    object.body = body;
    // As Varnish: try, and nuke the oldest until it fits.
    for (;;) {
      const auto block = heap_.allocator.allocate(record);
      if (block) {
        object.record = *block;
        break;
      }
      if (!nuke()) return false;
    }
    while (!heap_.allocator.allocate_extents(body, kExtentBytesMax, kPage, object.extents)) {
      if (!nuke()) {
        heap_.allocator.free(object.record);
        return false;
      }
    }
    stored_ += body;
    objects_.push_back(std::move(object));
    return true;
  }
  bool nuke() {
    if (objects_.empty()) return false;
    for (const Extent& extent : objects_.front().extents) heap_.allocator.free(extent);
    heap_.allocator.free(objects_.front().record);
    stored_ -= objects_.front().body;
    objects_.pop_front();
    return true;
  }
  // Objects that were hit go to the back: the order of nuking is not that of allocation.
  void touch(std::mt19937_64& random) {
    if (objects_.size() < 2) return;
    const std::size_t i = random() % objects_.size();
    Object object = std::move(objects_[i]);
    objects_.erase(objects_.begin() + static_cast<std::ptrdiff_t>(i));
    objects_.push_back(std::move(object));
  }
  [[nodiscard]] std::uint64_t stored() const { return stored_; }

 private:
  struct Object {
    Block record;
    std::vector<Extent> extents;
    std::uint64_t body = 0;
  };
  Heap& heap_;
  std::deque<Object> objects_;
  std::uint64_t stored_ = 0;
};

// Issue 2: fill with 4 KiB, go over to 1 to 10 MiB, and back: usable capacity within 10 %.
TEST(AllocatorSizeMix, KeepsItsCapacityThroughAChangeAndBack) {
  constexpr std::uint64_t kHeap = 192 * kMiB;
  for (const bool touched : {false, true}) {
    SCOPED_TRACE(touched ? "hits shuffle the LRU list" : "plain LRU order");
    std::mt19937_64 random(7);
    Heap heap(kHeap);
    Cache cache(heap);
    const auto small = [&] {
      for (int i = 0; i < 90'000; ++i) {
        ASSERT_TRUE(cache.put(4096, 384 + random() % 8 * 64));
        if (touched && i % 50 == 0) cache.touch(random);
      }
    };
    const auto large = [&](double& lowest) {
      lowest = 1;
      for (int i = 0; i < 250; ++i) {
        ASSERT_TRUE(cache.put(kMiB + random() % (9 * kMiB), 448 + random() % 8 * 64));
        if (touched) cache.touch(random);
        lowest = std::min(lowest, static_cast<double>(cache.stored()) / kHeap);
      }
    };
    small();
    const auto first = static_cast<double>(cache.stored());
    double lowest_large = 0;
    large(lowest_large);
    small();
    const auto again = static_cast<double>(cache.stored());
    RecordProperty("small_share", std::to_string(first / kHeap));
    RecordProperty("large_share_lowest", std::to_string(lowest_large));
    RecordProperty("small_again", std::to_string(again / first));
    std::printf("size mix, %s: 4 KiB bodies fill %.3f; 1 to 10 MiB never below %.3f; back: %.3f\n",
                touched ? "touched" : "plain", first / kHeap, lowest_large, again / kHeap);
    EXPECT_GT(again, 0.9 * first);
    // A body of 10 MiB at a time comes and goes in 192 MiB: 5 % of it are on their way.
    EXPECT_GT(lowest_large, 0.9 * first / kHeap);
    EXPECT_TRUE(heap.allocator.check());
  }
}

TEST(AllocatorExtents, ABodyFitsIntoAHeapOfHoles) {
  Heap heap(16 * kMiB);
  std::vector<Block> blocks;
  while (const auto block = heap.allocator.allocate(4096)) blocks.push_back(*block);
  for (std::size_t i = 0; i < blocks.size(); i += 2) heap.allocator.free(blocks[i]);
  EXPECT_FALSE(heap.allocator.allocate(8192));
  std::vector<Extent> extents;
  EXPECT_FALSE(heap.allocator.allocate_extents(kMiB, kExtentBytesMax, 8192, extents));
  EXPECT_TRUE(extents.empty());
  ASSERT_TRUE(heap.allocator.allocate_extents(7 * kMiB, kExtentBytesMax, 4096, extents));
  EXPECT_EQ(extents.size(), 7 * kMiB / 4096);
  EXPECT_TRUE(heap.allocator.check());
}

TEST(AllocatorThreads, AreKeptApart) {
  Heap heap(16 * kMiB);
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&heap, seed] {
      std::mt19937_64 random(seed);
      std::vector<Block> mine;
      for (int i = 0; i < 10'000; ++i) {
        if (random() % 2 == 0) {
          if (const auto block = heap.allocator.allocate(1 + random() % 20'000)) {
            std::memset(heap.memory + block->offset, static_cast<int>(seed), block->bytes);
            mine.push_back(*block);
          }
        } else if (!mine.empty()) {
          std::swap(mine[random() % mine.size()], mine.back());
          EXPECT_EQ(heap.memory[mine.back().offset + mine.back().bytes - 1], std::byte(seed));
          heap.allocator.free(mine.back());
          mine.pop_back();
        }
      }
      for (const Block& block : mine) heap.allocator.free(block);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(heap.allocator.largest(), 16 * kMiB - kPage);
  EXPECT_TRUE(heap.allocator.check());
}

}  // namespace
}  // namespace om::region
