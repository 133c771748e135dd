// slots.h: the slots of an index page (format.h).
#pragma once

#include "region/format.h"

namespace om::region {

inline std::uint64_t slots_per_page(const RegionHeader& header) {
  return (header.index_page_bytes - sizeof(IndexPage)) / sizeof(Word);
}

inline Word* slots_of(IndexPage* page) { return reinterpret_cast<Word*>(page + 1); }

}  // namespace om::region
