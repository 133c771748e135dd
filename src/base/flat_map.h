// A map from numbers to small values in one array, for what is put in and taken out with every
// request: no allocation but to grow. Open addressing with linear probing, at most three quarters
// full; what is taken out leaves no mark. Pointers into it are good until the next insertion or
// removal. The key ~0 is nobody's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/assert.h"

namespace om {

template <class Value>
class FlatMap {
 public:
  struct Entry {
    std::uint64_t first = kNobody;
    Value second{};
  };

  // Null: not there.
  [[nodiscard]] Entry* find(std::uint64_t key) {
    return const_cast<Entry*>(std::as_const(*this).find(key));
  }
  [[nodiscard]] const Entry* find(std::uint64_t key) const {
    if (size_ == 0) return nullptr;
    for (std::size_t at = home(key); entries_[at].first != kNobody; at = next(at))
      if (entries_[at].first == key) return &entries_[at];
    return nullptr;
  }
  // A value-initialized one where there was none.
  Value& operator[](std::uint64_t key) {
    if (Entry* const found = find(key)) return found->second;
    OM_ASSERT(key != kNobody);
    if ((size_ + 1) * 4 > entries_.size() * 3) grow();
    ++size_;
    return place(key).second;
  }
  void erase(Entry* entry) {
    auto hole = static_cast<std::size_t>(entry - entries_.data());
    for (std::size_t at = next(hole); entries_[at].first != kNobody; at = next(at)) {
      // Whether the hole lies between where it would be at best and where it is.
      if (((at - home(entries_[at].first)) & mask()) < ((at - hole) & mask())) continue;
      entries_[hole] = std::move(entries_[at]);
      hole = at;
    }
    entries_[hole] = Entry{};
    --size_;
  }
  [[nodiscard]] bool contains(std::uint64_t key) const { return find(key) != nullptr; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  // Every entry, in no order; `each(key, value)` must not change what is in.
  template <class Each>
  void for_each(Each each) {
    for (Entry& entry : entries_)
      if (entry.first != kNobody) each(entry.first, entry.second);
  }
  template <class Each>
  void for_each(Each each) const {
    for (const Entry& entry : entries_)
      if (entry.first != kNobody) each(entry.first, entry.second);
  }

 private:
  static constexpr std::uint64_t kNobody = ~std::uint64_t{0};
  static constexpr std::size_t kAtFirst = 16;
  [[nodiscard]] std::size_t mask() const { return entries_.size() - 1; }
  [[nodiscard]] std::size_t next(std::size_t at) const { return (at + 1) & mask(); }
  // Numbers that follow each other are spread (Fibonacci hashing).
  [[nodiscard]] std::size_t home(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15U) >> 32) & mask();
  }
  Entry& place(std::uint64_t key) {
    std::size_t at = home(key);
    while (entries_[at].first != kNobody) at = next(at);
    entries_[at].first = key;
    return entries_[at];
  }
  void grow() {
    std::vector<Entry> old(entries_.empty() ? kAtFirst : entries_.size() * 2);
    old.swap(entries_);
    for (Entry& entry : old)
      if (entry.first != kNobody) place(entry.first).second = std::move(entry.second);
  }

  std::vector<Entry> entries_;
  std::size_t size_ = 0;
};

}  // namespace om
