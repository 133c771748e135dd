// The running varnishd, checked against the one that varnish_7_1_1.h describes. Nothing of the
// private layouts is touched before check() has said yes.
#pragma once

#include <string>
#include <type_traits>

#include "abi/varnish_7_1_1.h"

namespace om::abi {

// Addresses in the executable, found by name when the process starts to use us: an executable
// without one of them is a mismatch that we can talk about, not an unresolved symbol.
struct Varnish {
#define OM_ABI_MEMBER(name, type) std::type_identity_t<type> name = nullptr;
  OM_ABI_SYMBOLS(OM_ABI_MEMBER)
#undef OM_ABI_MEMBER
};

// Valid only after check() returned "".
extern Varnish varnish;

// Empty, or why the storage cannot work inside this varnishd, in a sentence for the operator. Looks
// once; later calls repeat the answer. Touches memory only to read magic numbers.
const std::string& check();

inline void n_object_increment(struct worker* wrk) {
  reinterpret_cast<std::uint64_t*>(wrk->stats)[OM_WORKER_STAT_N_OBJECT]++;
}
inline void n_object_decrement(struct worker* wrk) {
  reinterpret_cast<std::uint64_t*>(wrk->stats)[OM_WORKER_STAT_N_OBJECT]--;
}

}  // namespace om::abi
