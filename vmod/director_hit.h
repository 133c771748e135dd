// director_hit.h: a shared object as the response to a backend fetch.
//
// Made by gethdrs when there is a lease on a fresh object; bo->htc->priv owns it until finish().
// The body comes through a fetch filter at the bottom of the chain: taken over as it lies in the
// daemon when nothing above would change it and the object goes to a store of ours (lease_body.h),
// copied once otherwise.
//
// Timers: Varnish computes them from our headers (Age says how old it is), then VCL may set what it
// likes; at the end the object does not live longer here than where it came from.
#pragma once

#include <memory>

#include "abi/abi.h"
#include "director.h"
#include "follow.h"

namespace om::vmod::director {

struct Hit {
  std::uint32_t magic = kMagic;
  static constexpr std::uint32_t kMagic = 0x6f6d6901;
  Director* director = nullptr;
  std::shared_ptr<Client> client;  // whose lease it is
  Lease lease;
  std::string key;                         // of the leased object
  std::unique_ptr<follow::Source> source;  // instead of a lease: while another cache fetches it
  shared::Metadata metadata;
  bool not_modified = false;  // the answer to a conditional request, without a body
  bool skipped_test = false;  // of gzip
  bool handed_off = false;    // the backend's own response, with another body
  std::uint64_t taken = 0;    // bytes that went up the chain

  static Hit* of(const struct busyobj* bo);
};

// Fills bo->beresp and bo->htc. False: it does not fit; nothing was changed.
bool respond(struct busyobj* bo, std::unique_ptr<Hit> hit);
// The same for a response of `real` that is in bo->beresp already: the hit is its body. The
// connection in bo->htc goes back to `real` and is replaced, and the response is from `ours` now,
// which finishes it. False: it does not fit; nothing was changed, and `hit` is still there.
bool respond_with_body(VRT_CTX, VCL_BACKEND real, VCL_BACKEND ours, std::unique_ptr<Hit>& hit);
// The fetch is over, one way or the other.
void finish(struct busyobj* bo);

}  // namespace om::vmod::director
