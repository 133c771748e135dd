#include "nested_fetch.h"

#include <new>
#include <utility>

#include "handoff.h"

namespace om::vmod {

using abi::varnish;

namespace {

// What a director's methods look at.
void fill(struct vrt_ctx& ctx, struct busyobj* bo, unsigned& handling) {
  std::memset(&ctx, 0, sizeof ctx);
  ctx.magic = VRT_CTX_MAGIC;
  ctx.vcl = bo->vcl;
  ctx.vsl = bo->vsl;
  ctx.http_bereq = bo->bereq;
  ctx.http_beresp = bo->beresp;
  ctx.bo = bo;
  ctx.sp = bo->sp;
  ctx.now = VTIM_real();
  ctx.ws = bo->ws;
  ctx.handling = &handling;
}

// An empty one with as many places as `like`, in one piece.
struct http* make_http(const struct http* like) {
  const std::size_t places = like->shd;
  auto* made =
      static_cast<struct http*>(std::calloc(1, sizeof(struct http) + places * (sizeof(txt) + 1)));
  if (made == nullptr) return nullptr;
  made->magic = HTTP_MAGIC;
  made->shd = like->shd;
  made->hd = reinterpret_cast<txt*>(made + 1);
  made->hdf = reinterpret_cast<unsigned char*>(made->hd + places);
  made->nhd = HTTP_HDR_FIRST;
  made->logtag = like->logtag;
  made->vsl = like->vsl;
  made->ws = like->ws;
  return made;
}

}  // namespace

void NestedFetch::swap() {
  std::swap(bo_->beresp, other_response_);
  std::swap(bo_->htc, other_connection_);
  std::swap(*bo_->vfc, other_chain_);
}

std::unique_ptr<NestedFetch> NestedFetch::open(struct busyobj* bo, VCL_BACKEND backend) {
  std::unique_ptr<NestedFetch> made(new (std::nothrow) NestedFetch(bo, backend));
  if (made == nullptr || !made->start()) return nullptr;
  return made;
}

bool NestedFetch::start() {
  response_.reset(make_http(bo_->beresp));
  if (response_ == nullptr) return false;
  // The answer has to be the whole response.
  http_Unset(bo_->bereq, H_If_None_Match);
  http_Unset(bo_->bereq, H_If_Modified_Since);
  handoff::unannounce(bo_);
  struct vfp_ctx* chain = bo_->vfc;
  struct worker* wrk = chain->wrk;
  struct objcore* oc = chain->oc;
  other_response_ = response_.get();
  swap();
  varnish.VFP_Setup(chain, wrk);
  chain->oc = oc;
  chain->resp = bo_->beresp;
  chain->req = bo_->bereq;
  struct vrt_ctx ctx;
  unsigned handling = 0;
  fill(ctx, bo_, handling);
  open_ = backend_->vdir->methods->gethdrs(&ctx, backend_) == 0 && bo_->htc != nullptr;
  if (open_) {
    const struct http_conn* connection = bo_->htc;
    if (connection->body_status == BS_NONE) {
      length_ = 0;
      ended_ = true;
    } else if (connection->body_status == BS_LENGTH && connection->content_length >= 0) {
      length_ = static_cast<std::uint64_t>(connection->content_length);
    }
    until_close_ = connection->body_status == BS_EOF;
    if (connection->body_status == BS_ERROR) bo_->htc->doclose = SC_RX_BODY;
  }
  swap();
  return open_;
}

enum vfp_status NestedFetch::pull(void* into, ssize_t* length) {
  if (ended_) {
    *length = 0;
    return VFP_END;
  }
  swap();
  const enum vfp_status status = VFP_Suck(bo_->vfc, into, length);
  if (status != VFP_OK) ended_ = status == VFP_END;
  swap();
  return status;
}

NestedFetch::~NestedFetch() {
  if (!open_) return;
  swap();
  if (!ended_ && bo_->htc != nullptr && bo_->htc->doclose == SC_NULL)
    bo_->htc->doclose = SC_RX_BODY;
  struct vrt_ctx ctx;
  unsigned handling = 0;
  fill(ctx, bo_, handling);
  if (bo_->htc != nullptr) backend_->vdir->methods->finish(&ctx, backend_);
  swap();
}

}  // namespace om::vmod
