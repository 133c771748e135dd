// testing.h: what tests of regions share: a region's file, and objects whose bytes tell what they
// must be.
#pragma once

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/assert.h"
#include "posix/file.h"
#include "posix/memfd.h"
#include "region/region.h"

namespace om::region::testing {

// The file, as the daemon holds it: each opening below is a description of its own.
inline UniqueFd make_region_file(std::uint64_t bytes) {
  auto file = make_memfd("region-test", bytes);
  OM_ASSERT(file.has_value());
  return *std::move(file);
}

inline Result<std::unique_ptr<Region>> try_open(const UniqueFd& file, std::uint64_t bytes,
                                                bool fresh = false,
                                                std::string_view owner = "test/s0") {
  return Region::open(OM_TRY(reopen(file.borrow(), O_RDWR)), bytes, owner, fresh);
}

inline std::unique_ptr<Region> open_region(const UniqueFd& file, std::uint64_t bytes,
                                           bool fresh = false) {
  auto region = try_open(file, bytes, fresh);
  OM_ASSERT(region.has_value());
  return *std::move(region);
}

// Byte i of the body of object `id`.
inline std::byte body_byte(std::uint64_t id, std::uint64_t i) {
  return static_cast<std::byte>((id * 0x9e3779b97f4a7c15ULL >> 32) + i * 31);
}

struct ObjectPlan {
  std::uint64_t id = 0;
  std::uint64_t body = 1000;
  std::uint64_t extent_max = kExtentBytesMax;
  std::uint32_t esi = 0;
  bool with_checksum = true;
};

inline std::string url_of(std::uint64_t id) { return "/object/" + std::to_string(id); }

// An object up to and including seal(); nullptr: no space.
inline Record* make_object(Region& region, const ObjectPlan& plan) {
  RecordPlan record_plan;
  record_plan.vxid = plan.id;
  std::memcpy(record_plan.digest.data(), &plan.id, sizeof plan.id);
  const std::string url = url_of(plan.id);
  record_plan.url = url;
  record_plan.host = "example.org";
  record_plan.attribute_bytes = 40;
  Record* record = region.create(record_plan);
  if (record == nullptr) return nullptr;
  std::vector<Extent> extents;
  if (plan.body > 0 &&
      !region.allocator().allocate_extents(plan.body, plan.extent_max, 64, extents)) {
    region.destroy(record);
    return nullptr;
  }
  std::uint64_t done = 0;
  for (Extent& extent : extents) {
    extent.length =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(extent.capacity, plan.body - done));
    for (std::uint32_t i = 0; i < extent.length; ++i) {
      region.pointer(extent.offset)[i] = body_byte(plan.id, done + i);
    }
    done += extent.length;
  }
  std::optional<std::uint64_t> sum;
  if (plan.with_checksum) sum = region.body_checksum(extents);
  if (!region.attach_body(*record, extents, sum)) {
    for (const Extent& extent : extents) region.allocator().free(extent);
    region.destroy(record);
    return nullptr;
  }
  if (plan.esi > 0) {
    std::byte* esi = region.attach_esi(*record, plan.esi);
    if (esi == nullptr) {
      region.destroy(record);
      return nullptr;
    }
    std::memset(esi, static_cast<int>(plan.id), plan.esi);
  }
  std::memcpy(set_variable(*record, Variable::kHeaders, 24), &plan.id, sizeof plan.id);
  set_timers(*record, {1000.0 + static_cast<double>(plan.id), 120, 10, 5});
  store_double(record->ban_time, static_cast<double>(plan.id));
  region.seal(*record);
  return record;
}

// The id, when attributes and body are those of one object through and through.
inline std::optional<std::uint64_t> read_object(const Region& region, const Record& record) {
  const std::uint64_t id = record.vxid;
  std::uint64_t headers = 0;
  if (variable(record, Variable::kHeaders).size() != 24) return std::nullopt;
  std::memcpy(&headers, variable(record, Variable::kHeaders).data(), sizeof headers);
  if (headers != id || url(record) != url_of(id)) return std::nullopt;
  std::uint64_t done = 0;
  for (const Extent& extent : region.body(record)) {
    for (std::uint32_t i = 0; i < extent.length; ++i) {
      if (region.pointer(extent.offset)[i] != body_byte(id, done + i)) return std::nullopt;
    }
    done += extent.length;
  }
  for (const std::byte byte : region.esi(record)) {
    if (byte != static_cast<std::byte>(id)) return std::nullopt;
  }
  if (done != record.body_length) return std::nullopt;
  return id;
}

inline std::vector<std::uint64_t> slots_of(const ScanReport& report) {
  std::vector<std::uint64_t> slots;
  for (const auto& candidate : report.candidates) slots.push_back(candidate.slot);
  return slots;
}

inline std::uint64_t total_dropped(const ScanReport& report) {
  std::uint64_t sum = 0;
  for (const std::uint64_t count : report.dropped) sum += count;
  return sum;
}

}  // namespace om::region::testing
