// methods.h: what Varnish calls for our objects (abi: struct obj_methods).
#pragma once

#include <span>

#include "body.h"
#include "fetch.h"
#include "storage.h"

namespace om::vmod {

extern const struct obj_methods kMethods;

// Why a store did not take an object.
enum class Refusal { kNone, kNoRegion, kDrained, kTooLarge, kNoSpace };
// Makes `oc` an object of the store, or leaves it alone. Evicts, within wrk->strangelove.
Refusal allocate_object(struct worker* wrk, Store& store, struct objcore* oc, unsigned wsl);

// The file of a body could not be read: that object goes, and nothing else.
void disk_read_failed(Store& store, struct objcore* oc, int error);

// verify.cc: what the lowest bits of an adopted object's priv2 say until its body has been compared
// (verify = on_read). The others are the address of an AttachedBody, or 0.
inline constexpr std::uintptr_t kUnverified = 1;
inline constexpr std::uintptr_t kDamaged = 3;
inline constexpr std::uintptr_t kVerifyMask = 3;
static_assert(alignof(AttachedBody) > kVerifyMask);
// True: the body may be handed on. False: it is not what was stored; the object has been removed.
bool body_is_good(struct objcore* oc);
// Before a request is answered with it (objtouch). What it finds damaged gets headers that Varnish
// refuses, and so the request goes to vcl_synth with nothing sent.
void check_before_delivery(struct objcore* oc);
// The headers for the delivery of this thread that is being refused; empty otherwise.
std::span<const std::byte> refused_headers(const struct objcore* oc);
// Whether this thread is about to ask the origin if the object is still good, and its body is not:
// then Varnish is not to know that there is something to revalidate.
bool refused_as_template(struct objcore* oc);
// The request was refused so, and not restarted since.
bool was_refused(const struct req* req);

// iterator.cc
int iterate(struct worker* wrk, struct objcore* oc, void* priv, objiterate_f* func,
            int final) noexcept;

}  // namespace om::vmod
