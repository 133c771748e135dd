// director.h: a backend that looks in objmapper first.
//
//   gethdrs   nothing to be shared, or no daemon   -> the real backend, as if we were not there
//             a hit                                -> a response of ours (director_hit.h)
//             miss, any trouble                    -> the real backend
//
// Once the real backend has the fetch, Varnish talks to it directly (bo->director_resp), so that
// beresp.backend and everything else are as they would be without us. Health, probes and
// backend.list are the real backend's too.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "abi/abi.h"
#include "director_link.h"
#include "removal_link.h"
#include "shared_object.h"

extern "C" {
#include "VSC_objmd.h"
}

namespace om::vmod {

// What all VCLs that have a director of one name share; lives as long as the process.
class Director {
 public:
  struct Config {
    std::string name;
    std::string socket;
    std::chrono::milliseconds timeout{50};
  };
  explicit Director(Config config);
  Director(const Director&) = delete;
  Director& operator=(const Director&) = delete;

  [[nodiscard]] const Config& config() const { return config_; }
  DirectorLink& link() { return *link_; }
  VSC_objmd& counters() { return *counters_; }
  // What other caches removed.
  [[nodiscard]] const RemovalLink& removals() const { return removals_; }

 private:
  const Config config_;
  RemovalLink& removals_;
  VSC_objmd* counters_ = nullptr;
  struct vsc_seg* counters_segment_ = nullptr;
  std::unique_ptr<DirectorLink> link_;
};

// Made when there is none of that name and socket. CLI thread.
Director& director_for(Director::Config config);

namespace director {

// The methods; priv is a Backend.
extern const struct vdi_methods kMethods;

struct Backend {
  Director* director = nullptr;
  VCL_BACKEND real = nullptr;  // a reference; set in vcl_init
  // What may hand its bodies over (handoff.h), with what its keys begin with; references.
  struct Handoff {
    VCL_BACKEND backend = nullptr;
    std::string prefix;
  };
  std::vector<Handoff> handoffs{};
};

// Of a VCL: what its keys begin with. Any thread may read.
void set_uri_prefix(const struct vcl* vcl, std::string prefix);
std::string uri_prefix(const struct vcl* vcl);
void forget(const struct vcl* vcl);  // CLI thread

// What set_key() said for this fetch.
bool set_key(VRT_CTX, VCL_STRING key);
// The base of the keys (shared_object.h) of what this fetch brings: for whoever looks it up or
// publishes it. nullopt: longer than a key may be.
std::optional<std::string> base_key(VRT_CTX);
// As Varnish decides it.
bool accepts_gzip(const struct busyobj* bo);
// The headers of the backend request, for Vary.
shared::HeaderLookup headers_of(const struct http* request);
// Whether what this fetch brings may be shared at all: not a pass, a plain GET without a body,
// Range, or an earlier attempt that VCL did not like.
bool may_share(const struct busyobj* bo);

}  // namespace director
}  // namespace om::vmod
