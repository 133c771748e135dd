// overlay.h: changes that are in the journal and not yet in the index. Keeps keys and places in the
// journal: about 250 bytes a change, and as much again for a short record that is kept with it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/checksum.h"
#include "base/flat_map.h"
#include "store/catalog/journal.h"
#include "store/catalog/record.h"

namespace om::catalog {

// A key with its hash, which is computed once for all that a change looks at.
struct HashedKey {
  KeyHash hash;
  std::string_view text;
  bool operator==(const HashedKey&) const = default;
};

struct OverlayEntry {
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
  struct Key {
    KeyHash hash;
    std::string text;
    [[nodiscard]] HashedKey view() const { return {hash, text}; }
  };
  struct Hasher {
    using is_transparent = void;
    std::size_t operator()(const HashedKey& key) const noexcept { return key.hash.low; }
    std::size_t operator()(const Key& key) const noexcept { return key.hash.low; }
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(const HashedKey& a, const Key& b) const noexcept { return a == b.view(); }
    bool operator()(const Key& a, const Key& b) const noexcept { return a.view() == b.view(); }
  };
  using Map = std::unordered_map<Key, OverlayEntry, Hasher, Equal>;

  [[nodiscard]] const OverlayEntry* find(const HashedKey& key) const {
    const auto found = map_.find(key);
    return found == map_.end() ? nullptr : &found->second;
  }
  // The key of a live object.
  [[nodiscard]] const Key* key_of(std::uint64_t object_id) const {
    const auto* const found = ids_.find(object_id);
    return found == nullptr ? nullptr : found->second;
  }
  void put(const HashedKey& key, OverlayEntry entry) {
    auto at = map_.find(key);
    if (at == map_.end())
      at = map_.try_emplace(Key{key.hash, std::string(key.text)}).first;
    else if (auto* const id = at->second.live ? ids_.find(at->second.object_id) : nullptr)
      ids_.erase(id);
    if (entry.live) ids_[entry.object_id] = &at->first;
    at->second = std::move(entry);
  }
  [[nodiscard]] const Map& entries() const { return map_; }
  [[nodiscard]] std::size_t size() const { return map_.size(); }
  [[nodiscard]] bool empty() const { return map_.empty(); }
  void swap(Overlay& other) noexcept {
    map_.swap(other.map_);
    std::swap(ids_, other.ids_);
  }
  void clear() {
    Map().swap(map_);  // the buckets too
    ids_ = FlatMap<const Key*>();
  }

 private:
  Map map_;
  FlatMap<const Key*> ids_;
};

}  // namespace om::catalog
