// refresh.h: what has expired, and the backend says is still good (304), is published anew, with
// its new headers and timers.
//
// Varnish asks so when it has the object itself; when only objmapper has it, we ask with the
// validators that are stored there, and a 304 becomes the response, with the shared body. Either
// way no filter of ours sees the body as it is stored. So it is published when the fetch is over
// and its clients are served, by its worker; within the time that publishing may take at all
// (publication.h). Where the body lies in the very object that was stale, that object stays and
// gets the new headers and timers, so that those who hold it go on holding what is shared; else the
// body comes from the cache.
#pragma once

#include <memory>

#include "abi/abi.h"
#include "director.h"
#include "publication.h"

namespace om::vmod::refresh {

// The headers of this fetch have just come, and are a 304, or were one. `share` is given up with
// the fetch when nothing comes of it.
void add(VRT_CTX, std::unique_ptr<tee::Share> share);

// A shared object that has expired, and nothing else is wrong with it.
struct Stale {
  Lease lease;
  shared::Metadata metadata;
  std::string key;  // that it lies under
};
// The backend shall only say whether it is still good. False: it has no validators, or the request
// has some already.
bool make_conditional(struct busyobj* bo, const Stale& stale);
// The request is as it was before.
void make_unconditional(struct busyobj* bo);
// After that: a 304 of `real` becomes a whole response of `ours`, or the backend is asked once
// more. As gethdrs: 0, or -1.
int take(VRT_CTX, VCL_BACKEND real, VCL_BACKEND ours, Stale stale,
         std::unique_ptr<tee::Share>& share);

}  // namespace om::vmod::refresh
