// redirect.h: making a store the default, without VCL edits.
//
// Varnish asks the storages of -s in turn for each object that names none. Each of them (but
// Transient) gets our allocobj in place of its own; ours looks up whether the VCL of the request
// has a default store, and passes on to the replaced one when it has none or the store does not
// take the object. Pointer stores only, made once; Varnish looks at nothing but oc->stobj
// afterwards.
#pragma once

#include "storage.h"

namespace om::vmod::redirect {

// From now on objects fetched with this VCL go to the store. CLI thread.
void set_default(const struct vcl* vcl, Store& store);
// And with every VCL that has none of its own. CLI thread.
void set_default_for_all(Store& store);
// The store that objects which this VCL fetches go to, by either of these, or nullptr. Any thread.
Store* default_of(const struct vcl* vcl);
// The VCL is gone. CLI thread.
void forget(const struct vcl* vcl);
// Puts our allocobj in place; once. CLI thread.
void install();
// The object goes to a storage of -s, picked as Varnish picks; for one that the store refused.
int allocate_elsewhere(struct worker* wrk, struct objcore* oc, unsigned wsl);

}  // namespace om::vmod::redirect
