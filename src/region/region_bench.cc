// What the region costs: an allocation with its free, a publish with its retire, by 1 and by 4
// threads; the scan of an adoption per object. CPU time, so that a busy machine disturbs little.
#include <cstdio>
#include <ctime>
#include <random>
#include <thread>

#include "region/testing.h"

namespace om::region {
namespace {

using namespace testing;

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class Fn>
void report(const char* what, unsigned threads, std::uint64_t times, Fn fn) {
  const double before = cpu_seconds();
  std::vector<std::thread> all;
  for (unsigned i = 0; i < threads; ++i) all.emplace_back([&fn, i] { fn(i); });
  for (auto& thread : all) thread.join();
  std::printf("%-44s %u threads: %7.0f ns CPU each\n", what, threads,
              (cpu_seconds() - before) * 1e9 / static_cast<double>(times * threads));
}

void run() {
  constexpr std::uint64_t kSize = std::uint64_t{512} << 20;
  const UniqueFd file = make_region_file(kSize);
  auto region = open_region(file, kSize);
  (void)region->populate(0, kSize);
  constexpr std::uint64_t kTimes = 200'000;
  for (const unsigned threads : {1U, 4U}) {
    report("allocate and free, 64 B to 64 KiB, 1000 held", threads, kTimes, [&](unsigned seed) {
      std::mt19937_64 random(seed);
      std::vector<Block> held(1000);
      for (std::uint64_t i = 0; i < kTimes; ++i) {
        Block& block = held[random() % held.size()];
        if (block.bytes != 0) region->allocator().free(block);
        block =
            region->allocator().allocate(std::uint64_t{64} << (random() % 11)).value_or(Block{});
      }
      for (const Block& block : held) {
        if (block.bytes != 0) region->allocator().free(block);
      }
    });
    report("create, seal, publish, destroy", threads, kTimes, [&](unsigned seed) {
      for (std::uint64_t i = 0; i < kTimes; ++i) {
        Record* record = region->create({.digest = {},
                                         .vxid = seed,
                                         .url = "/a/url",
                                         .host = "example.org",
                                         .attribute_bytes = 300});
        OM_ASSERT(record != nullptr);
        region->seal(*record);
        OM_ASSERT(region->publish(*record));
        region->destroy(record);
      }
    });
  }
  constexpr std::uint64_t kObjects = 100'000;
  for (std::uint64_t id = 1; id <= kObjects; ++id) {
    OM_ASSERT(
        region->publish(*make_object(*region, {.id = id, .body = 2000, .with_checksum = false})));
  }
  region.reset();
  region = open_region(file, kSize);
  const double before = cpu_seconds();
  const ScanReport found = region->scan();
  const double scanned = cpu_seconds();
  region->finish_scan(slots_of(found));
  const double finished = cpu_seconds();
  std::printf("scan of %zu objects: %.0f ns each, finish_scan %.0f ns each (CPU)\n",
              found.candidates.size(), (scanned - before) * 1e9 / kObjects,
              (finished - scanned) * 1e9 / kObjects);
}

}  // namespace
}  // namespace om::region

int main() { om::region::run(); }
