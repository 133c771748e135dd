// attach.h: records of an earlier life become objects of Varnish (VARNISH 7.1.1).
#pragma once

#include <cstdint>
#include <span>

#include "adopt.h"
#include "adopt_leases.h"
#include "bans.h"
#include "storage.h"

namespace om::vmod::adoption {

// Attaches what is to be kept, on a pool's worker, while the caller waits; how many they are. What
// is not attached at `deadline` (VTIM_mono), or must not be, is destroyed and counted in the plan.
// `cores`: room for as many as are to be kept.
std::uint64_t attach(Store& store, Plan& plan, const bans::Restored& bans, const Leases& leases,
                     double deadline, std::span<struct objcore*> cores);

}  // namespace om::vmod::adoption
