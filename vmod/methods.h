// methods.h: what Varnish calls for our objects (abi: struct obj_methods).
#pragma once

#include <span>

#include "fetch.h"
#include "storage.h"

namespace om::vmod {

extern const struct obj_methods kMethods;

// Why a store did not take an object.
enum class Refusal { kNone, kNoRegion, kDrained, kTooLarge, kNoSpace };
// Makes `oc` an object of the store, or leaves it alone. Evicts, within wrk->strangelove.
Refusal allocate_object(struct worker* wrk, Store& store, struct objcore* oc, unsigned wsl);

// The body of an object that is not being fetched any more.
std::span<const region::Extent> body_of(const struct objcore* oc, const region::Region& region);

// iterator.cc
int iterate(struct worker* wrk, struct objcore* oc, void* priv, objiterate_f* func, int final);

}  // namespace om::vmod
