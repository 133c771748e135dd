// overlay.h: changes that are in the journal and not yet in the index. Keeps keys and places in the
// journal: about 250 bytes a change, and as much again for a short record that is kept with it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "store/catalog/journal.h"
#include "store/catalog/record.h"

namespace om::catalog {

struct OverlayEntry {
  KeyHash hash;
  std::uint64_t object_id = 0;
  std::uint64_t sequence = 0;
  Journal::File* file = nullptr;  // stays while an entry names it: see Catalog::Impl::group_sync
  std::uint64_t payload_offset = 0;
  std::uint32_t payload_bytes = 0;
  // What the payload says, where that is short: for those who look before the index has it.
  std::shared_ptr<const Record> record;
  bool live = false;  // else: removed
  bool tagged = false;
  bool survives_boot = false;
  // Without this change's journal record, a power loss could bring an earlier object of this key
  // back.
  bool hides_durable = false;
};

class Overlay {
 public:
  struct Hasher {
    using is_transparent = void;
    std::size_t operator()(std::string_view key) const {
      return std::hash<std::string_view>()(key);
    }
  };
  using Map = std::unordered_map<std::string, OverlayEntry, Hasher, std::equal_to<>>;

  [[nodiscard]] const OverlayEntry* find(std::string_view key) const {
    if (map_.empty()) return nullptr;
    const auto found = map_.find(key);
    return found == map_.end() ? nullptr : &found->second;
  }
  // The key of a live object.
  [[nodiscard]] const std::string* key_of(std::uint64_t object_id) const {
    const auto found = ids_.find(object_id);
    return found == ids_.end() ? nullptr : found->second;
  }
  void put(std::string_view key, const OverlayEntry& entry) {
    const auto [at, fresh] = map_.try_emplace(std::string(key));
    if (!fresh && at->second.live) ids_.erase(at->second.object_id);
    at->second = entry;
    if (entry.live) ids_[entry.object_id] = &at->first;
  }
  [[nodiscard]] const Map& entries() const { return map_; }
  [[nodiscard]] std::size_t size() const { return map_.size(); }
  [[nodiscard]] bool empty() const { return map_.empty(); }
  void swap(Overlay& other) noexcept {
    map_.swap(other.map_);
    ids_.swap(other.ids_);
  }
  void clear() {
    Map().swap(map_);  // the buckets too
    std::unordered_map<std::uint64_t, const std::string*>().swap(ids_);
  }

 private:
  Map map_;
  std::unordered_map<std::uint64_t, const std::string*> ids_;
};

}  // namespace om::catalog
