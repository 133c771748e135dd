// hot_records.h: decoded records that were looked at lately, so that a GET of what many want needs
// no walk through the index. Direct mapped by the key's hash: a record makes room for the next of
// its slot. Only records of the index are kept (what an overlay has comes from there first, and is
// not here), and a change of a key forgets it, so nothing here is older than the index. The owner's
// thread.
//
// 64 KiB, and at most about 2 MiB of records: those with long keys or metadata are not kept.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/checksum.h"
#include "store/catalog/record.h"

namespace om::catalog {

class HotRecords {
 public:
  using Ref = std::shared_ptr<const Record>;

  [[nodiscard]] Ref find(const KeyHash& hash, std::string_view key) const {
    const Ref& slot = slots_[hash.low % kSlots];
    return slot != nullptr && slot->key == key ? slot : nullptr;
  }
  void keep(const KeyHash& hash, const Ref& record) {
    if (is_short(*record)) slots_[hash.low % kSlots] = record;
  }
  // Worth keeping in memory.
  static bool is_short(const Record& record) {
    return record.key.size() + record.metadata.size() <= kTextBytesMax && record.tags.empty() &&
           record.place.extents.size() <= kExtentsKept;
  }
  void forget(const KeyHash& hash) { slots_[hash.low % kSlots].reset(); }

 private:
  static constexpr std::size_t kSlots = 4096;
  // A cached response with its headers has some 500.
  static constexpr std::size_t kTextBytesMax = 768;
  static constexpr std::size_t kExtentsKept = 4;
  std::array<Ref, kSlots> slots_;
};

}  // namespace om::catalog
