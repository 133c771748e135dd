// response.h: the response of a fetch as it lies in the store: what is said of it, and its tags.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "abi/abi.h"
#include "shared_object.h"

namespace om::vmod::tee {

// What VCL made of an object's life, in seconds. Varnish cuts it short where it finds no room for
// the object, and others may once the object is shown.
struct Timers {
  double t_origin = 0;
  double ttl = 0;
  double grace = 0;
  double keep = 0;
};
Timers timers_of(const struct objcore* oc);

// The response of this fetch as it is stored. nullopt: it cannot be shared (a Vary that names no
// headers).
std::optional<shared::Metadata> describe_response(const struct busyobj* bo, const Timers& timers,
                                                  double began);

// For purge_tag(): the words of the headers that other caches know tags by. nullopt: more than an
// object may have, so that a purge could miss it.
std::optional<std::vector<std::string>> tags_of(const shared::Metadata& metadata);

}  // namespace om::vmod::tee
