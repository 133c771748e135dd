#include "handoff.h"

#include <algorithm>

#include "director_hit.h"
#include "follow.h"
#include "storage.h"

namespace om::vmod::handoff {

using abi::varnish;

namespace {

// As Varnish wants names of headers: with their length and a colon.
constexpr char kMay[] = "\024X-Objmapper-Handoff:";
constexpr char kObject[] = "\023X-Objmapper-Object:";
constexpr char kLength[] = "\023X-Objmapper-Length:";
static_assert(sizeof kMay == 0x14 + 2 && sizeof kObject == 0x13 + 2 && sizeof kLength == 0x13 + 2);

const std::string* prefix_for(const director::Backend& backend, VCL_BACKEND real) {
  for (const auto& allowed : backend.handoffs)
    // Where VCL named a director, all that is behind it counts.
    if (allowed.backend == real || allowed.backend == backend.real) return &allowed.prefix;
  return nullptr;
}

struct Named {
  std::string key;
  std::optional<std::uint64_t> length;
};

// Takes the headers out of the response. nullopt: there were none.
std::optional<Named> strip(struct http* response) {
  const char* value = nullptr;
  std::optional<Named> named;
  if (http_GetHdr(response, kObject, &value) != 0 && value != nullptr) {
    named.emplace();
    named->key = value;
    if (http_GetHdr(response, kLength, &value) != 0 && value != nullptr && *value != '\0') {
      char* end = nullptr;
      const auto length = std::strtoull(value, &end, 10);
      if (*end == '\0') named->length = length;
    }
  }
  http_Unset(response, kObject);
  http_Unset(response, kLength);
  return named;
}

// A lease on the object, or a follower of the put that brings it.
std::unique_ptr<director::Hit> find(Director& director, const Named& named) {
  const auto client = director.link().client();
  if (client == nullptr) return nullptr;
  const auto limit = director.config().timeout;
  auto hit = std::make_unique<director::Hit>();
  hit->director = &director;
  hit->client = client;
  hit->handed_off = true;
  hit->key = named.key;
  auto lease = client->get(named.key, limit);
  if (!lease) {
    if (lease.error().code == Errc::kTimeout) director.link().report(false);
    return nullptr;
  }
  if (*lease) {
    hit->lease = *std::move(*lease);
    if (named.length && hit->lease.size() != *named.length) return nullptr;
    return hit;
  }
  PutOptions options;
  options.key = named.key;
  auto reserved = client->reserve_or_follow(options, limit);
  if (!reserved) return nullptr;
  if (auto* there = std::get_if<Lease>(&*reserved)) {
    hit->lease = std::move(*there);
    if (named.length && hit->lease.size() != *named.length) return nullptr;
    return hit;
  }
  auto* follower = std::get_if<Follower>(&*reserved);
  if (follower == nullptr) return nullptr;  // ours to write: it is gone
  std::optional<std::uint64_t> length = named.length;
  if (const auto says = follower->info().length; says != ~std::uint64_t{0}) {
    if (length && *length != says) return nullptr;
    length = says;
  }
  follow::Source::Origin origin;
  origin.director = &director;
  origin.client = client;
  origin.key = named.key;
  origin.handed_off = true;
  // No backend: what comes next from the same origin may be another body.
  hit->source =
      std::make_unique<follow::Source>(std::move(origin), std::move(*follower), shared::Metadata(),
                                       std::vector<std::string>(), length);
  return hit;
}

// As before the request was sent.
void forget_response(VRT_CTX, VCL_BACKEND real) {
  struct busyobj* bo = ctx->bo;
  bo->htc->doclose = bo->htc->body_status == BS_NONE ? bo->htc->doclose : SC_RX_BODY;
  real->vdir->methods->finish(ctx, real);
  bo->htc = nullptr;
  varnish.HTTP_Setup(bo->beresp, bo->ws, bo->vsl, SLT_BerespMethod);
  struct objcore* oc = bo->vfc->oc;
  varnish.VFP_Setup(bo->vfc, bo->wrk);
  bo->vfc->oc = oc;
  bo->vfc->resp = bo->beresp;
  bo->vfc->req = bo->bereq;
}

// The second request, of which the backend was told that it must not hand off.
int ask_forbidding(VRT_CTX, Director& director, VCL_BACKEND real) {
  struct busyobj* bo = ctx->bo;
  http_Unset(bo->bereq, kMay);
  http_SetHeader(bo->bereq, "X-Objmapper-Handoff: no");
  const int answer = real->vdir->methods->gethdrs(ctx, real);
  if (answer != 0 || !strip(bo->beresp)) return answer;
  // It was told not to. Without the body there is no response.
  VSLb(bo->vsl, SLT_FetchError, "objmapper hand-off: %s hands off though it was told not to",
       real->vcl_name);
  count(director.counters().c_handoff_denied);
  forget_response(ctx, real);
  return -1;
}

}  // namespace

int ask_once_more(VRT_CTX, Director& director, VCL_BACKEND real) {
  forget_response(ctx, real);
  if (http_GetHdr(ctx->bo->bereq, kMay, nullptr) != 0) return ask_forbidding(ctx, director, real);
  const int answer = real->vdir->methods->gethdrs(ctx, real);
  if (answer == 0) (void)strip(ctx->bo->beresp);
  return answer;
}

void unannounce(struct busyobj* bo) { http_Unset(bo->bereq, kMay); }

void announce(struct busyobj* bo, const director::Backend& backend, VCL_BACKEND real) {
  http_Unset(bo->bereq, kMay);
  if (backend.handoffs.empty()) return;
  const std::string* prefix = prefix_for(backend, real);
  if (prefix == nullptr || !backend.director->link().up()) return;
  const txt& method = bo->bereq->hd[HTTP_HDR_METHOD];
  if (std::string_view(method.b, static_cast<std::size_t>(method.e - method.b)) != "GET" ||
      http_GetHdr(bo->bereq, H_Range, nullptr) != 0)
    return;
  http_PrintfHeader(bo->bereq, "X-Objmapper-Handoff: %s", prefix->c_str());
}

int take(VRT_CTX, const director::Backend& backend, VCL_BACKEND real, VCL_BACKEND ours) {
  struct busyobj* bo = ctx->bo;
  VSC_objmd& counters = backend.director->counters();
  const auto named = strip(bo->beresp);
  if (!named || bo->beresp->status == 304) return 0;  // a 304 has no body to give
  const std::string* prefix = prefix_for(backend, real);
  if (prefix == nullptr || !named->key.starts_with(*prefix)) {
    VSLb(bo->vsl, SLT_Error, "objmapper hand-off: %s may not name that object", real->vcl_name);
    count(counters.c_handoff_denied);
    return 0;  // what it says is what it gives
  }
  std::unique_ptr<director::Hit> hit;
  if (bo->htc->body_status == BS_NONE) {
    hit = find(*backend.director, *named);
  } else {
    // Two bodies, or an empty one that nobody has said to be empty: neither is to be trusted.
    VSLb(bo->vsl, SLT_Error, "objmapper hand-off: %s hands off without Content-Length: 0",
         real->vcl_name);
    count(counters.c_handoff_denied);
  }
  if (hit != nullptr && director::respond_with_body(ctx, real, ours, hit)) {
    count(counters.c_handoff);
    return 0;
  }
  count(counters.c_handoff_gone);
  forget_response(ctx, real);
  return ask_forbidding(ctx, *backend.director, real);
}

}  // namespace om::vmod::handoff
