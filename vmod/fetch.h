// fetch.h: what a busy object has beside its record: the body as far as it has come.
//
// Made by allocobj, found through boc->stevedore_priv, gone with objbocdone, or with objfree when
// Varnish throws a busy object away. The fetching worker alone adds to it; readers that stream look
// at the pieces with boc->mtx held, as the worker does when it changes them.
#pragma once

#include <cstdint>
#include <vector>

#include "abi/abi.h"
#include "region/region.h"

namespace om::vmod {

struct Fetch {
  std::uint32_t magic = kMagic;
  static constexpr std::uint32_t kMagic = 0x6f6d6601;

  struct Piece {
    region::Extent extent{};  // length: bytes that are published to readers
    std::uint32_t limit = 0;  // of its length, while it is filled
    std::uint64_t begin = 0;  // of its first byte in the body
  };
  std::vector<Piece> pieces;
  std::uint64_t total = 0;    // bytes of all pieces
  bool length_known = false;  // the backend sent a Content-Length
  bool gzips = false;         // Varnish compresses what the backend sends
  bool settled = false;       // the record has the body: nothing here is ours to free

  static Fetch* of(const struct boc* boc) {
    auto* fetch = static_cast<Fetch*>(boc->stevedore_priv);
    return fetch != nullptr && fetch->magic == kMagic ? fetch : nullptr;
  }
};

}  // namespace om::vmod
