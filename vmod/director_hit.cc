#include "director_hit.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "base/assert.h"
#include "lease_body.h"
#include "storage.h"

namespace om::vmod::director {

using abi::varnish;

namespace {

// Smaller ones are better off in the region: they survive a restart there, and pin nothing.
constexpr std::uint64_t kTakeOverBytesMin = 64 * 1024;

// Fields that are about the connection or the message, not the response.
bool goes_along(std::string_view line) {
  const std::string_view name = line.substr(0, line.find(':'));
  for (const std::string_view never :
       {"age", "content-length", "transfer-encoding", "connection", "keep-alive", "trailer", "te",
        "upgrade", "proxy-connection"})
    if (name.size() == never.size() && strncasecmp(name.data(), never.data(), never.size()) == 0)
      return false;
  return true;
}

// Texts of the response in workspace that was had in one piece.
class Texts {
 public:
  Texts(char* at, std::size_t bytes) : at_(at), end_(at + bytes) {}
  txt add(std::string_view text) {
    OM_ASSERT(static_cast<std::size_t>(end_ - at_) > text.size());
    const txt made = {at_, at_ + text.size()};
    std::memcpy(at_, text.data(), text.size());
    at_[text.size()] = '\0';
    at_ += text.size() + 1;
    return made;
  }

 private:
  char* at_;
  char* end_;
};

bool has_body(std::uint16_t status) { return status >= 200 && status != 204 && status != 304; }

// --- the filter at the bottom of the fetch

// What would be above it, would find nothing to do: gzip that was tested when it was published.
bool skip_test_of_gzip(struct vfp_ctx* vc, struct vfp_entry* ours, Hit& hit) {
  struct vfp_entry* above = VTAILQ_FIRST(&vc->vfp);
  if (above == ours) return true;
  if (!hit.metadata.gzip_bits || VTAILQ_NEXT(above, list) != ours ||
      std::string_view(above->vfp->name) != "testgunzip")
    return false;
  VTAILQ_REMOVE(&vc->vfp, above, list);
  vc->vfp_nxt = ours;
  vc->obj_flags |= OF_GZIPED;
  hit.skipped_test = true;
  varnish.RFC2616_Vary_AE(vc->resp);
  return true;
}

enum vfp_status init(VRT_CTX, struct vfp_ctx* vc, struct vfp_entry* entry) noexcept {
  auto* hit = static_cast<Hit*>(entry->priv1);
  struct busyobj* bo = ctx->bo;
  if (bo == nullptr || bo->uncacheable != 0) return VFP_OK;
  if (hit->lease.size() < kTakeOverBytesMin) {
    // Copied before anybody could be woken: headers and body go out together.
    bo->do_stream = 0;
    return VFP_OK;
  }
  if (!lease_body::may_take_over(bo) || !skip_test_of_gzip(vc, entry, *hit)) return VFP_OK;
  // All of it is there at once: there is nothing to stream, and no reader before it is attached.
  bo->do_stream = 0;
  lease_body::expect(vc->oc);
  return VFP_OK;
}

// What the test would have found out.
void set_gzip_bits(struct vfp_ctx* vc, const Hit& hit) {
  if (hit.skipped_test)
    (void)varnish.ObjSetAttr(vc->wrk, vc->oc, OA_GZIPBITS, 32, hit.metadata.gzip_bits->data());
}

bool take_over(struct vfp_ctx* vc, Hit& hit) {
  const std::uint64_t length = hit.lease.size();
  if (!lease_body::attach(vc->oc, hit.client, hit.lease,
                          {hit.director->config().socket, hit.key, 0}))
    return false;
  varnish.ObjExtend(vc->wrk, vc->oc, static_cast<ssize_t>(length), 0);
  hit.taken = length;
  count(hit.director->counters().c_taken_over);
  count(hit.director->counters().c_hit_bytes, length);
  return true;
}

enum vfp_status pull(struct vfp_ctx* vc, struct vfp_entry* entry, void* into,
                     ssize_t* length) noexcept {
  auto* hit = static_cast<Hit*>(entry->priv1);
  const auto room = static_cast<std::size_t>(*length);
  *length = 0;
  try {
    if (hit->taken == 0) set_gzip_bits(vc, *hit);
    if (lease_body::expected(vc->oc)) {
      const bool taken = take_over(vc, *hit);
      lease_body::expect(nullptr);
      if (taken) {
        entry->bytes_out += hit->taken;
        return VFP_END;
      }
      // The few bytes of room that we were given are no place for a body: give none, get more.
      return VFP_OK;
    }
    const auto got = hit->lease.read(hit->taken, std::span(static_cast<std::byte*>(into), room));
    if (!got || *got == 0) {
      count(hit->director->counters().c_body_failed);
      if (!lease_body::remove_shared(*hit->client, hit->key, hit->lease.info().object_id))
        count(hit->director->counters().c_failed);
      return VFP_Error(vc, "objmapper: the body cannot be read: %s",
                       got ? "it ends early" : describe(got.error()).c_str());
    }
    hit->taken += *got;
    *length = static_cast<ssize_t>(*got);
    count(hit->director->counters().c_hit_bytes, *got);
    return hit->taken == hit->lease.size() ? VFP_END : VFP_OK;
  } catch (const std::exception&) {
    return VFP_Error(vc, "objmapper: out of memory");
  }
}

void fini(struct vfp_ctx* vc, struct vfp_entry* /*entry*/) noexcept {
  if (lease_body::expected(vc->oc)) lease_body::expect(nullptr);
}

constexpr struct vfp kFilter = {
    .name = "objmapper_lease",
    .init = init,
    .pull = pull,
    .fini = fini,
    .priv1 = nullptr,
};

}  // namespace

Hit* Hit::of(const struct busyobj* bo) {
  if (bo->htc == nullptr) return nullptr;
  auto* hit = static_cast<Hit*>(bo->htc->priv);
  return hit != nullptr && hit->magic == kMagic ? hit : nullptr;
}

namespace {

std::optional<std::uint64_t> length_of(const Hit& hit) {
  return hit.source != nullptr ? hit.source->length() : hit.lease.size();
}

// As much workspace as `bytes` and a connection take. Asking for more than there is would mark the
// workspace as overflown, and fail the fetch.
bool has_room(const struct busyobj* bo, std::size_t bytes) {
  const auto room = static_cast<std::size_t>(bo->ws->e - bo->ws->f);
  return bo->ws->r == nullptr && room >= bytes + sizeof(struct http_conn) + 64 + 4096;
}

// Pushes the filter that brings the body, and makes the connection that Varnish asks for. The
// caller has looked for room.
bool connect_body(struct busyobj* bo, struct http_conn* htc, std::unique_ptr<Hit> hit,
                  bool with_body) {
  if (with_body) {
    struct vfp_entry* entry =
        varnish.VFP_Push(bo->vfc, hit->source != nullptr ? &follow::kFilter : &kFilter);
    if (entry == nullptr) return false;  // cannot be: there was room
    entry->priv1 = hit.get();
  }
  const auto length = length_of(*hit);
  std::memset(htc, 0, sizeof *htc);
  htc->magic = OM_HTTP_CONN_MAGIC;
  htc->doclose = SC_NULL;
  htc->body_status = !with_body ? BS_NONE : length ? BS_LENGTH : BS_EOF;
  htc->content_length = !with_body ? 0 : length ? static_cast<ssize_t>(*length) : -1;
  htc->priv = hit.release();
  bo->htc = htc;
  return true;
}

}  // namespace

bool respond_with_body(VRT_CTX, VCL_BACKEND real, VCL_BACKEND ours, std::unique_ptr<Hit>& hit) {
  struct busyobj* bo = ctx->bo;
  const auto length = length_of(*hit);
  if (!has_room(bo, 64) || bo->beresp->nhd + 2 > bo->beresp->shd) return false;
  auto* htc = static_cast<struct http_conn*>(WS_Alloc(bo->ws, sizeof(struct http_conn)));
  if (htc == nullptr) return false;
  http_Unset(bo->beresp, H_Content_Length);
  http_Unset(bo->beresp, H_Transfer_Encoding);
  if (length)
    http_PrintfHeader(bo->beresp, "Content-Length: %ju", static_cast<std::uintmax_t>(*length));
  const bool with_body = has_body(bo->beresp->status) && length != std::uint64_t{0};
  struct http_conn* connection = bo->htc;
  if (!connect_body(bo, htc, std::move(hit), with_body)) return false;
  struct http_conn* made = bo->htc;
  bo->htc = connection;
  real->vdir->methods->finish(ctx, real);
  bo->htc = made;
  VRT_Assign_Backend(&bo->director_resp, ours);
  return true;
}

bool respond(struct busyobj* bo, std::unique_ptr<Hit> hit) {
  const shared::Metadata& metadata = hit->metadata;
  const std::uint16_t status = hit->not_modified ? 304 : metadata.status;
  const auto length = length_of(*hit);
  const bool with_body = has_body(status) && length != std::uint64_t{0};
  const double age = std::max(0.0, VTIM_real() - metadata.t_origin);

  std::vector<std::string_view> lines;
  lines.reserve(metadata.headers.size() + 2);
  for (const std::string& line : metadata.headers)
    if (goes_along(line)) lines.push_back(line);
  const std::string age_line = "Age: " + std::to_string(static_cast<std::uint64_t>(age));
  lines.push_back(age_line);
  const std::string length_line = "Content-Length: " + std::to_string(length.value_or(0));
  if (has_body(status) && length) lines.push_back(length_line);
  const std::string status_text = std::to_string(status);
  const std::string_view reason =
      hit->not_modified ? std::string_view("Not Modified") : std::string_view(metadata.reason);

  struct http* response = bo->beresp;
  // And as many headers as VCL may want to add.
  if (HTTP_HDR_FIRST + lines.size() + 16 > response->shd) return false;
  std::size_t bytes = sizeof "HTTP/1.1" + status_text.size() + 1 + reason.size() + 1;
  for (const std::string_view line : lines) bytes += line.size() + 1;
  if (!has_room(bo, bytes)) return false;
  const uintptr_t before = WS_Snapshot(bo->ws);
  auto* htc = static_cast<struct http_conn*>(WS_Alloc(bo->ws, sizeof(struct http_conn)));
  auto* place = static_cast<char*>(WS_Alloc(bo->ws, static_cast<unsigned>(bytes)));
  if (htc == nullptr || place == nullptr) {
    WS_Reset(bo->ws, before);
    return false;
  }
  Texts texts(place, bytes);
  // Not through http_SetH(): Varnish logs the whole response by itself.
  const auto set = [&](unsigned n, std::string_view text) {
    response->hd[n] = texts.add(text);
    response->hdf[n] = 0;
  };
  set(HTTP_HDR_PROTO, "HTTP/1.1");
  set(HTTP_HDR_STATUS, status_text);
  set(HTTP_HDR_REASON, reason);
  response->status = status;
  response->protover = 11;
  response->nhd = HTTP_HDR_FIRST;
  for (const std::string_view line : lines) set(response->nhd++, line);

  if (hit->not_modified) count(hit->director->counters().c_hit_304);
  return connect_body(bo, htc, std::move(hit), with_body);
}

void finish(struct busyobj* bo) {
  std::unique_ptr<Hit> hit(Hit::of(bo));
  bo->htc = nullptr;
  if (hit == nullptr || bo->uncacheable != 0 || hit->handed_off) return;
  struct objcore* oc = bo->fetch_objcore;
  const double limit = hit->metadata.t_origin + hit->metadata.ttl;
  const double planned = oc->t_origin + static_cast<double>(oc->ttl);
  if ((oc->flags & OC_F_BUSY) != 0) {
    // Nobody looks at it yet. Age has whole seconds, and we know better.
    oc->t_origin = hit->metadata.t_origin;
    oc->ttl = static_cast<float>(std::min(limit, planned) - oc->t_origin);
  } else if (planned > limit) {
    varnish.EXP_Rearm(oc, limit, 0, NAN, NAN);
  }
}

}  // namespace om::vmod::director
