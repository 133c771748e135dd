// director_vmod.cc: directors as VCL sees them. Objects come and go on the CLI thread.
#include <cmath>
#include <new>
#include <string>

#include "director.h"
#include "tee.h"

extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include "vcc_objmapper_if.h"
#pragma GCC diagnostic pop
}

namespace ours = om::vmod::director;

// What a VCL holds.
struct vmod_objmapper_director {
  unsigned magic;
#define VMOD_OBJMAPPER_DIRECTOR_MAGIC 0x6f6d6401
  om::vmod::Director* shared;  // nullptr: this varnishd is not one that we know
  VCL_BACKEND backend;         // ours
  ours::Backend* state;        // of `backend`, which owns it
};

extern "C" {

VCL_VOID vmod_director__init(VRT_CTX, struct vmod_objmapper_director** handle, const char* vcl_name,
                             VCL_STRING socket, VCL_DURATION timeout) {
  if (socket == nullptr || *socket != '/') {
    VRT_fail(ctx, "objmapper.director %s: socket must be the absolute path of objmapperd's socket",
             vcl_name);
    return;
  }
  if (!(timeout >= 0.001 && timeout <= 60)) {
    VRT_fail(ctx, "objmapper.director %s: timeout must be between 1ms and 60s", vcl_name);
    return;
  }
  if (const std::string& mismatch = om::abi::check(); !mismatch.empty()) {
    VRT_fail(ctx, "objmapper.director %s: cannot work inside this varnishd: %s", vcl_name,
             mismatch.c_str());
    return;
  }
  try {
    // First of all: what is made here stays, and what has a link receives its removals.
    if (const om::vmod::RemovalLink* other = om::vmod::RemovalLink::of(ctx->vcl);
        other != nullptr && other->socket() != socket) {
      VRT_fail(ctx,
               "objmapper.director %s: another director of this VCL asks another objmapperd; a "
               "purge would reach the objects of one of them only",
               vcl_name);
      return;
    }
    om::vmod::Director::Config config;
    config.name = vcl_name;
    config.socket = socket;
    config.timeout = std::chrono::milliseconds(std::lround(timeout * 1000));
    om::vmod::Director& shared = om::vmod::director_for(std::move(config));
    om::vmod::RemovalLink::use(ctx->vcl, om::vmod::RemovalLink::to(socket));
    // So that the first requests find it up; a VCL loads without it as well.
    (void)shared.link().wait_up(std::chrono::milliseconds(500));
    auto state = std::make_unique<ours::Backend>();
    state->director = &shared;
    *handle = new vmod_objmapper_director{VMOD_OBJMAPPER_DIRECTOR_MAGIC, &shared, nullptr, nullptr};
    (*handle)->backend = VRT_AddDirector(ctx, &ours::kMethods, state.get(), "%s", vcl_name);
    if ((*handle)->backend == nullptr) {
      VRT_fail(ctx, "objmapper.director %s: Varnish takes no directors now", vcl_name);
      return;
    }
    (*handle)->state = state.release();
    om::vmod::tee::set_director(ctx->vcl, &shared);
  } catch (const std::exception& failure) {
    VRT_fail(ctx, "objmapper.director %s: %s", vcl_name, failure.what());
  }
}

VCL_VOID vmod_director__fini(struct vmod_objmapper_director** handle) {
  if (*handle == nullptr) return;
  if ((*handle)->backend != nullptr) VRT_DelDirector(&(*handle)->backend);
  delete *handle;
  *handle = nullptr;
}

VCL_VOID vmod_director_set_backend(VRT_CTX, struct vmod_objmapper_director* handle,
                                   VCL_BACKEND backend) {
  if (ctx->method != VCL_MET_INIT) {
    VRT_fail(ctx, "objmapper: .set_backend() is for vcl_init");
    return;
  }
  if (backend == handle->backend) {
    VRT_fail(ctx, "objmapper: .set_backend() of a director with itself");
    return;
  }
  VRT_Assign_Backend(&handle->state->real, backend);
}

VCL_VOID vmod_director_allow_handoff(VRT_CTX, struct vmod_objmapper_director* handle,
                                     VCL_BACKEND backend, VCL_STRING prefix) {
  if (ctx->method != VCL_MET_INIT) {
    VRT_fail(ctx, "objmapper: .allow_handoff() is for vcl_init");
    return;
  }
  if (backend == nullptr || prefix == nullptr || *prefix == '\0') {
    VRT_fail(ctx, "objmapper: .allow_handoff() wants a backend, and what its keys begin with");
    return;
  }
  try {
    auto& made = handle->state->handoffs.emplace_back();
    made.prefix = prefix;
    VRT_Assign_Backend(&made.backend, backend);
  } catch (const std::exception& failure) {
    VRT_fail(ctx, "objmapper: .allow_handoff(): %s", failure.what());
  }
}

VCL_BACKEND vmod_director_backend(VRT_CTX, struct vmod_objmapper_director* handle) {
  (void)ctx;
  return handle->backend;
}

VCL_VOID vmod_director_set_key(VRT_CTX, struct vmod_objmapper_director* /*handle*/,
                               VCL_STRING key) {
  if (ctx->method != VCL_MET_BACKEND_FETCH) {
    VRT_fail(ctx, "objmapper: .set_key() is for vcl_backend_fetch");
    return;
  }
  try {
    if (!ours::set_key(ctx, key)) VRT_fail(ctx, "objmapper: .set_key(): out of workspace");
  } catch (const std::exception& failure) {
    VRT_fail(ctx, "objmapper: .set_key(): %s", failure.what());
  }
}

VCL_BOOL vmod_director_is_up(VRT_CTX, struct vmod_objmapper_director* handle) {
  (void)ctx;
  return handle->shared->link().up() ? 1 : 0;
}

VCL_VOID vmod_set_uri_prefix(VRT_CTX, VCL_STRING prefix) {
  if (ctx->method != VCL_MET_INIT) {
    VRT_fail(ctx, "objmapper.set_uri_prefix() is for vcl_init");
    return;
  }
  try {
    ours::set_uri_prefix(ctx->vcl, prefix == nullptr ? "" : prefix);
    om::vmod::RemovalLink::prefix_is_set(ctx->vcl);
  } catch (const std::exception& failure) {
    VRT_fail(ctx, "objmapper.set_uri_prefix(): %s", failure.what());
  }
}

}  // extern "C"
