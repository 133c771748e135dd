// tee.h: what Varnish fetches goes into the store as well, while it streams.
//
// The filter `objmapper` is the last of the chain: it sees the body as it will be stored. VCL names
// it (beresp.filters), or the director adds it to the fetches that it let through. It hands what
// passes to a publication (publication.h), which writes it into a put.
//
// Published is what is whole, what the backend answered and VCL calls cacheable, and what has
// freshness left. Everything else drops the publication, which aborts the put: a failed or
// truncated fetch, pass, hit-for-miss, a body that only the end of the connection ends.
//
// The commit is sent when the object is there for all, and nobody waits for its answer.
#pragma once

#include <memory>

#include "abi/abi.h"
#include "director.h"
#include "publication.h"

namespace om::vmod::tee {

// The filter that VCL may name; to be added for each VCL.
extern const struct vfp kFilter;
// Adds it to this fetch, whose headers have just come; `share` is given up with the fetch. Not to
// one of a part, nor where the workspace is nearly used up.
void add(VRT_CTX, std::unique_ptr<Share> share);

// The director of this VCL that filters use which VCL added: the one that was made first.
void set_director(const struct vcl* vcl, Director* director);  // CLI thread
void forget(const struct vcl* vcl);                            // CLI thread

}  // namespace om::vmod::tee
