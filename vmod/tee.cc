#include "tee.h"

#include <poll.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string_view>
#include <utility>

#include "landing.h"
#include "lease_body.h"
#include "removal_index.h"
#include "response.h"
#include "shared_object.h"
#include "storage.h"

namespace om::vmod::tee {

using abi::varnish;

namespace {

// --- the director of a VCL

struct OfVcl {
  std::shared_mutex mutex;
  std::map<const struct vcl*, Director*> director;
};
OfVcl& of_vcl() {
  static auto* all = new OfVcl;
  return *all;
}

}  // namespace

void set_director(const struct vcl* vcl, Director* director) {
  const std::lock_guard lock(of_vcl().mutex);
  of_vcl().director.emplace(vcl, director);
}

void forget(const struct vcl* vcl) {
  const std::lock_guard lock(of_vcl().mutex);
  of_vcl().director.erase(vcl);
}

// --- the filter

namespace {

// In the filter entry's priv1, until the fetch is over.
struct Tee final : landing::Source {
  std::unique_ptr<Share> share;  // until the publication begins: in init, or with the first bytes
  std::unique_ptr<Publication> publication;
  Timers timers;                        // of the object, in init
  std::optional<std::uint64_t> length;  // of the body, where no filter changes it
  bool whole = false;                   // the end was seen
  struct vmod_priv* later = nullptr;    // that ends with the fetch's task
  struct vmod_priv* owner = nullptr;    // the same, of this; nullptr: the entry owns it
  std::optional<landing::Room> land(struct worker* wrk, std::uint64_t there) override {
    return publication ? publication->land(wrk, there) : std::nullopt;
  }
  landing::Memory more() override { return publication ? publication->more() : landing::Memory(); }
};

bool is_from_store(const struct vfp_ctx* vc) {
  const struct vfp_entry* entry = nullptr;
  VTAILQ_FOREACH(entry, &vc->vfp, list) {
    const std::string_view name = entry->vfp->name;
    if (name == "objmapper_lease" || name == "objmapper_follow") return true;
  }
  return false;
}

// Only where no filter changes the length.
std::optional<std::uint64_t> length_of(const struct busyobj* bo) {
  if (bo->htc->body_status == BS_NONE) return 0;
  if (bo->htc->body_status != BS_LENGTH || bo->htc->content_length < 0) return std::nullopt;
  const struct vfp_entry* entry = nullptr;
  VTAILQ_FOREACH(entry, &bo->vfc->vfp, list) {
    const std::string_view name = entry->vfp->name;
    if (!name.starts_with("objmapper") && name != "testgunzip" && !name.starts_with("V1F_"))
      return std::nullopt;
  }
  return static_cast<std::uint64_t>(bo->htc->content_length);
}

bool is_cacheable(const struct busyobj* bo) {
  const struct objcore* oc = bo->fetch_objcore;
  if (bo->uncacheable != 0 || (oc->flags & (OC_F_PRIVATE | OC_F_HFM | OC_F_HFP)) != 0) return false;
  if (bo->beresp->status == 206 || bo->beresp->status == 304) return false;
  // Nobody knows whether all of it came.
  if (bo->htc->body_status == BS_EOF || bo->htc->body_status == BS_ERROR) return false;
  return oc->t_origin + static_cast<double>(oc->ttl) > VTIM_real();
}

// A filter that VCL named, in a fetch that no director of ours looked up.
std::unique_ptr<Share> share_for(VRT_CTX) {
  struct busyobj* bo = ctx->bo;
  Director* director = nullptr;
  {
    const std::shared_lock lock(of_vcl().mutex);
    const auto found = of_vcl().director.find(bo->vcl);
    if (found != of_vcl().director.end()) director = found->second;
  }
  if (director == nullptr || !director::may_share(bo)) return nullptr;
  auto base = director::base_key(ctx);
  if (!base) return nullptr;
  auto share = std::make_unique<Share>();
  share->director = director;
  // What goes together goes one way; for others there is more room on two.
  const bool together = bo->htc != nullptr && bo->htc->content_length >= 0 &&
                        static_cast<std::uint64_t>(bo->htc->content_length) <= kTogetherBytesMax;
  share->client = together ? director->link().publisher() : director->link().client();
  if (share->client == nullptr) {
    count(director->counters().c_tee_down);
    return nullptr;
  }
  share->primary = shared::primary_key(*base, director::accepts_gzip(bo));
  share->ahead = true;
  // Not in the future, if the clock was set back meanwhile: later bans are about it, too.
  share->began = std::min(bo->t_first, VTIM_real());
  return share;
}

// Once the object is there for all, and its client has been woken.
void published_later(VRT_CTX, void* priv) noexcept {
  const std::unique_ptr<Publication> publication(static_cast<Publication*>(priv));
  const struct busyobj* bo = ctx->bo;
  if (bo == nullptr || bo->fetch_objcore == nullptr) return;
  const struct objcore* oc = bo->fetch_objcore;
  if (oc->boc == nullptr || oc->boc->state != BOS_FINISHED || bo->uncacheable != 0 ||
      (oc->flags & (OC_F_PRIVATE | OC_F_HFM | OC_F_HFP | OC_F_FAILED)) != 0)
    return;
  try {
    publication->finish();
  } catch (const std::exception&) {
    // Out of memory: it is aborted.
  }
}

// Its address names the publication among the things that VMODs keep with a task.
constexpr char kPublicationId = 0;
constexpr struct vmod_priv_methods kPublicationMethods = {
    .magic = VMOD_PRIV_METHODS_MAGIC,
    .type = "objmapper.tee",
    .fini = published_later,
};

// What we need of the workspace, and as much again as Varnish may need after us. A filter that
// cannot be pushed marks the fetch as failed, which Varnish asserts not to be at that time.
bool has_workspace(const struct ws* ws) { return ws->r == nullptr && ws->e - ws->f >= 4096; }

// nullptr: no workspace for it.
struct vmod_priv* task_of(VRT_CTX) {
  return has_workspace(ctx->bo->ws) ? VRT_priv_task(ctx, &kPublicationId) : nullptr;
}

// The fetch's task ends, and no filter was closed: as Varnish does when it refuses a response.
void never_closed(VRT_CTX, void* priv) noexcept {
  if (ctx->bo != nullptr) landing::forget(ctx->bo->fetch_objcore);
  delete static_cast<Tee*>(priv);
}

constexpr char kTeeId = 0;
constexpr struct vmod_priv_methods kTeeMethods = {
    .magic = VMOD_PRIV_METHODS_MAGIC,
    .type = "objmapper.tee.filter",
    .fini = never_closed,
};

// Out of the entry: its time is over.
std::unique_ptr<Tee> take(struct vfp_entry* entry) {
  std::unique_ptr<Tee> tee(static_cast<Tee*>(entry->priv1));
  entry->priv1 = nullptr;
  if (tee != nullptr && tee->owner != nullptr) tee->owner->priv = nullptr;
  return tee;
}

// The body is whole.
void publish(std::unique_ptr<Publication> publication, struct vmod_priv* later) {
  if (later == nullptr || later->priv != nullptr) return publication->finish();
  later->methods = &kPublicationMethods;
  later->priv = publication.release();
}

// False: nothing is published.
bool begin(const struct busyobj* bo, Tee& tee) {
  std::unique_ptr<Share> share = std::move(tee.share);
  // Varnish may have refused it since: a Vary that it does not understand.
  auto metadata = bo != nullptr && bo->uncacheable == 0
                      ? describe_response(bo, tee.timers, share->began)
                      : std::nullopt;
  auto tags = metadata ? tags_of(*metadata) : std::nullopt;
  if (!tags) {
    count(share->director->counters().c_tee_not_cacheable);
    return false;
  }
  share->stem = removal_index::stem_of(bo);
  tags->push_back(shared::digest_tag(std::span(bo->digest)));
  tee.publication =
      std::make_unique<Publication>(std::move(share), *std::move(metadata), *std::move(tags));
  if (tee.publication->begin(tee.length)) return true;
  tee.publication.reset();
  return false;
}

// False: nothing to be published.
bool open(VRT_CTX, struct vfp_ctx* vc, const struct vfp_entry* entry, Tee& tee) {
  struct busyobj* bo = ctx->bo;
  if (bo == nullptr || is_from_store(vc)) return false;
  if (tee.share == nullptr) tee.share = share_for(ctx);
  if (tee.share == nullptr) return false;
  if (!is_cacheable(bo)) {
    count(tee.share->director->counters().c_tee_not_cacheable);
    tee.share = nullptr;
    return false;
  }
  tee.timers = timers_of(bo->fetch_objcore);
  tee.later = task_of(ctx);
  tee.length = length_of(bo);
  // A body that cannot land begins with its first bytes: by then the client has its headers.
  if (tee.length && *tee.length != 0 && *tee.length < landing::kBytesMin) return true;
  if (!begin(bo, tee)) return false;
  if (bo->htc->body_status == BS_NONE) {
    publish(std::move(tee.publication), tee.later);
    return false;
  }
  // Nothing may come after us that would change what has been received.
  if (entry == VTAILQ_FIRST(&vc->vfp) && tee.publication->may_land() &&
      lease_body::may_take_over(bo))
    landing::expect(vc->oc, &tee);
  return true;
}

enum vfp_status init(VRT_CTX, struct vfp_ctx* vc, struct vfp_entry* entry) noexcept {
  try {
    if (entry->priv1 == nullptr) entry->priv1 = new Tee;
    Tee& tee = *static_cast<Tee*>(entry->priv1);
    if (open(ctx, vc, entry, tee)) return VFP_OK;
  } catch (const std::exception&) {
    // Out of memory: the fetch goes on without us.
  }
  landing::forget(vc->oc);
  (void)take(entry);
  return VFP_NULL;
}

// The backend has sent nothing, nor does it within the time that followers wait for bytes.
bool has_to_wait() {
  const struct busyobj* bo = varnish.THR_GetBusyobj();
  if (bo == nullptr || bo->htc == nullptr || bo->htc->rfd == nullptr ||
      bo->htc->pipeline_b != nullptr)
    return false;
  struct pollfd look = {*bo->htc->rfd, POLLIN, 0};
  return ::poll(&look, 1, static_cast<int>(kAnnounceInterval.count())) == 0;
}

std::optional<std::array<std::uint8_t, 32>> gzip_bits_of(struct vfp_ctx* vc) {
  if ((vc->obj_flags & OF_GZIPED) == 0) return std::nullopt;
  ssize_t length = 0;
  const void* bits = ObjGetAttr(vc->wrk, vc->oc, OA_GZIPBITS, &length);
  std::array<std::uint8_t, 32> copy{};
  if (bits == nullptr || length != static_cast<ssize_t>(copy.size())) return std::nullopt;
  std::memcpy(copy.data(), bits, copy.size());
  return copy;
}

enum vfp_status pull(struct vfp_ctx* vc, struct vfp_entry* entry, void* into,
                     ssize_t* length) noexcept {
  auto& tee = *static_cast<Tee*>(entry->priv1);
  try {
    if (tee.share != nullptr) (void)begin(varnish.THR_GetBusyobj(), tee);
    if (tee.publication && tee.publication->has_unannounced() && has_to_wait())
      tee.publication->announce();
  } catch (const std::exception&) {
    tee.publication.reset();
  }
  const enum vfp_status status = VFP_Suck(vc, into, length);
  try {
    if (!tee.publication) return status;
    if (status == VFP_ERROR) {
      tee.publication.reset();
      return status;
    }
    if (*length > 0)
      tee.publication->write(
          {static_cast<const std::byte*>(into), static_cast<std::size_t>(*length)});
    if (!tee.publication->live()) {
      tee.publication.reset();
    } else if (status == VFP_END) {
      tee.publication->set_gzip_bits(gzip_bits_of(vc));
      tee.whole = true;
    }
  } catch (const std::exception&) {
    tee.publication.reset();
  }
  return status;
}

void fini(struct vfp_ctx* vc, struct vfp_entry* entry) noexcept {
  landing::forget(vc->oc);
  const std::unique_ptr<Tee> tee = take(entry);
  if (tee == nullptr || tee->publication == nullptr || !tee->whole || vc->failed != 0) return;
  try {
    publish(std::move(tee->publication), tee->later);
  } catch (const std::exception&) {
    // Out of memory: it is aborted.
  }
}

// At the bottom of the chain, and bypassed: when the chain is complete, it puts the filter on top,
// where VCL has not done so.
enum vfp_status starter_init(VRT_CTX, struct vfp_ctx* vc, struct vfp_entry* entry) noexcept {
  (void)ctx;
  struct vfp_entry* top = VTAILQ_FIRST(&vc->vfp);
  if (top->vfp != &kFilter) {
    top = has_workspace(vc->resp->ws) ? varnish.VFP_Push(vc, &kFilter) : nullptr;
    if (top == nullptr) {
      const std::unique_ptr<Tee> tee = take(entry);
      if (tee != nullptr && tee->share != nullptr)
        count(tee->share->director->counters().c_tee_failed);
      return VFP_NULL;
    }
  }
  top->priv1 = entry->priv1;
  entry->priv1 = nullptr;
  return VFP_NULL;
}

constexpr struct vfp kStarter = {
    .name = "objmapper_start",
    .init = starter_init,
    .pull = pull,
    .fini = fini,
    .priv1 = nullptr,
};

}  // namespace

const struct vfp kFilter = {
    .name = "objmapper",
    .init = init,
    .pull = pull,
    .fini = fini,
    .priv1 = nullptr,
};

void add(VRT_CTX, std::unique_ptr<Share> share) {
  struct busyobj* bo = ctx->bo;
  VSC_objmd& counters = share->director->counters();
  // A part, or what Varnish takes for one that nobody has asked for, and refuses.
  if (bo->beresp->status == 206 || http_GetHdr(bo->beresp, H_Content_Range, nullptr) != 0) {
    count(counters.c_tee_not_cacheable);
    return;
  }
  auto tee = std::make_unique<Tee>();
  tee->share = std::move(share);
  struct vmod_priv* owner = has_workspace(bo->ws) ? VRT_priv_task(ctx, &kTeeId) : nullptr;
  struct vfp_entry* entry = owner != nullptr ? varnish.VFP_Push(bo->vfc, &kStarter) : nullptr;
  if (entry == nullptr) {
    count(counters.c_tee_failed);
    return;
  }
  delete static_cast<Tee*>(owner->priv);  // of an attempt before
  tee->owner = owner;
  owner->methods = &kTeeMethods;
  owner->priv = entry->priv1 = tee.release();
}

}  // namespace om::vmod::tee
