// purge.cc: objmapper.purge(), .ban() and .damaged(), as VCL calls them.
#include <memory>
#include <new>

#include "methods.h"
#include "removals.h"

extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include "vcc_objmapper_if.h"
#pragma GCC diagnostic pop

VCL_VOID vmod_purge(VRT_CTX) {
  if (ctx->method != VCL_MET_PURGE || ctx->req == nullptr) {
    VRT_fail(ctx, "objmapper.purge() is for vcl_purge");
    return;
  }
  if (!om::abi::check().empty()) return;  // then there is no record of ours either
  try {
    om::vmod::removals::purge(ctx->req->wrk, ctx->req->digest);
  } catch (const std::exception& failure) {
    VRT_fail(ctx, "objmapper.purge(): cannot be recorded: %s", failure.what());
  }
}

VCL_VOID vmod_ban(VRT_CTX, VCL_STRING expression) {
  // Recorded by the listener before it is effective (bans.h).
  if (const char* error = VRT_ban_string(ctx, expression); error != nullptr)
    VRT_fail(ctx, "objmapper.ban(): %s", error);
}
VCL_BOOL vmod_damaged(VRT_CTX) { return om::vmod::was_refused(ctx->req) ? 1 : 0; }
}
