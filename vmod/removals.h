// removals.h: what was removed stays removed, also in the records that a restart finds.
//
// Three ways in: objmapper.purge(), which has retired the records of all variants when it returns,
// here or in another cache of the machine (removal_receiver.cc); events of Varnish (expired,
// evicted, banned, purged: always before the objcore leaves its objhead); a new object that takes
// the place of an older one.
#pragma once

#include <array>
#include <cstdint>

#include "storage.h"

namespace om::vmod::removals {

// Subscribes to Varnish's events. CLI thread, once per process.
void subscribe();

// All objects of this digest, those of Varnish's own stores as well; their records say so when it
// returns. On a worker that holds no lock; fetches under way are not seen to (removal_index.h).
void purge(struct worker* wrk, const std::uint8_t* digest);

// Whether it is on its way out at that time: killed, purged (which Varnish does by its times) or
// expired. Any thread that holds a reference, or its objhead's mutex.
bool is_going(const struct objcore& oc, double now);

// While objects of an earlier life are being attached, a purge may come for one that is not there
// yet: purges are noted from begin on, and attach asks for its digest after it has linked the
// object.
void begin_adoption();
bool purged_meanwhile(const std::uint8_t* digest);
void end_adoption();

}  // namespace om::vmod::removals
