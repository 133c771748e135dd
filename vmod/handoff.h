// handoff.h: an origin on this machine that gives its body through the store.
//
//   request    X-Objmapper-Handoff: PREFIX   to a backend that was allowed: it may answer with the
//   key
//                                            of an object that begin so
//   response   X-Objmapper-Object: KEY       and no body: the object is the body, with the status
//   and
//                                            the headers of this response
//              X-Objmapper-Length: BYTES     where the origin knows it
//   request    X-Objmapper-Handoff: no       once more, when the object or a 304 was of no use: no
//                                            hand-off now
//
// The object may still be on its way in: then it is followed. The headers never reach VCL, whoever
// sent them; a backend that was not allowed, or names a key that is not its own, gets no object.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "abi/abi.h"
#include "director.h"

namespace om::vmod::handoff {

// Before the request to `real` goes out: says whether it may hand off.
void announce(struct busyobj* bo, const director::Backend& backend, VCL_BACKEND real);
// After its headers came. 0: there is a response (its own, or with the object as the body). Else as
// gethdrs.
int take(VRT_CTX, const director::Backend& backend, VCL_BACKEND real, VCL_BACKEND ours);

// The response that has come is of no use, and the request has to go out once more, now without a
// hand-off, where one was offered. As gethdrs.
int ask_once_more(VRT_CTX, Director& director, VCL_BACKEND real);

// The request says nothing of hand-off, whatever its client wrote into it.
void unannounce(struct busyobj* bo);

}  // namespace om::vmod::handoff
