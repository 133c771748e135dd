// extents.h: where a body lies, in the order of its bytes. Most bodies lie in one piece: that is
// kept in place, without an allocation.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

namespace om::catalog {

struct Extent {
  std::uint64_t segment = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool operator==(const Extent&) const = default;
};
static_assert(sizeof(Extent) == 24);

class Extents {
 public:
  Extents() = default;
  Extents(std::initializer_list<Extent> extents) {
    reserve(extents.size());
    for (const Extent& extent : extents) push_back(extent);
  }
  void reserve(std::size_t count) {
    if (count > 1) many_.reserve(count);
  }
  void push_back(const Extent& extent) {
    if (empty()) {
      one_ = extent;
      is_one_ = true;
      return;
    }
    if (is_one_) many_.push_back(one_);
    is_one_ = false;
    many_.push_back(extent);
  }
  [[nodiscard]] std::size_t size() const { return is_one_ ? 1 : many_.size(); }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] const Extent* begin() const { return is_one_ ? &one_ : many_.data(); }
  [[nodiscard]] const Extent* end() const { return begin() + size(); }
  [[nodiscard]] const Extent& front() const { return *begin(); }
  [[nodiscard]] const Extent& operator[](std::size_t i) const { return begin()[i]; }
  bool operator==(const Extents& other) const {
    return std::equal(begin(), end(), other.begin(), other.end());
  }

 private:
  Extent one_;
  bool is_one_ = false;
  std::vector<Extent> many_;  // empty, if it is one
};

}  // namespace om::catalog
