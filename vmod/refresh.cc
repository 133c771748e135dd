#include "refresh.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "director_hit.h"
#include "handoff.h"
#include "removal_index.h"
#include "response.h"
#include "storage.h"

namespace om::vmod::refresh {

namespace {

// Its address names it among the things that VMODs keep with a task.
constexpr char kTaskId = 0;

struct Task {
  std::unique_ptr<tee::Share> share;
  // Where the fields of the response lie: whatever else becomes of the fetch (an error of VCL's
  // making, another attempt) has its own.
  const char* begin = nullptr;
  const char* end = nullptr;
};

bool is_same_response(const struct http* response, const Task& task) {
  for (unsigned i = HTTP_HDR_FIRST; i < response->nhd; ++i)
    if (response->hd[i].b >= task.begin && response->hd[i].b < task.end) return true;
  return false;
}

int write_part(void* priv, unsigned /*flush*/, const void* bytes, ssize_t length) noexcept {
  auto& publication = *static_cast<tee::Publication*>(priv);
  try {
    if (length > 0)
      publication.write({static_cast<const std::byte*>(bytes), static_cast<std::size_t>(length)});
  } catch (const std::exception&) {
    return 1;
  }
  return publication.live() ? 0 : 1;
}

std::optional<std::array<std::uint8_t, 32>> gzip_bits_of(struct worker* wrk, struct objcore* oc) {
  if (ObjCheckFlag(wrk, oc, OF_GZIPED) == 0) return std::nullopt;
  ssize_t length = 0;
  const void* bits = ObjGetAttr(wrk, oc, OA_GZIPBITS, &length);
  std::array<std::uint8_t, 32> copy{};
  if (bits == nullptr || length != static_cast<ssize_t>(copy.size())) return std::nullopt;
  std::memcpy(copy.data(), bits, copy.size());
  return copy;
}

// The shared object that holds the body, as the object's record names it.
std::optional<region::LentRef> lent_body_of(const struct objcore* oc) {
  const Store* const store = Store::of(oc);
  if (store == nullptr) return std::nullopt;
  const region::Record& record = record_of(oc);
  if ((record.flags & region::kBodyLent) == 0) return std::nullopt;
  return store->region()->lent(record);
}

void publish(struct busyobj* bo, Task& task) {
  std::unique_ptr<tee::Share> share = std::move(task.share);
  struct objcore* oc = bo->fetch_objcore;
  if (bo->uncacheable != 0 || oc->boc == nullptr || oc->boc->state != BOS_FINISHED ||
      !is_same_response(bo->beresp, task) ||
      (oc->flags & (OC_F_PRIVATE | OC_F_HFM | OC_F_HFP | OC_F_FAILED | OC_F_DYING)) != 0 ||
      oc->t_origin + static_cast<double>(oc->ttl) <= VTIM_real())
    return;
  Director& director = *share->director;
  auto metadata = tee::describe_response(bo, tee::timers_of(bo->fetch_objcore), share->began);
  auto tags = metadata ? tee::tags_of(*metadata) : std::nullopt;
  if (!tags) {
    count(director.counters().c_tee_not_cacheable);
    return;
  }
  tags->push_back(shared::digest_tag(std::span(bo->digest)));
  share->stem = removal_index::stem_of(bo);
  tee::Publication publication(std::move(share), *std::move(metadata), *std::move(tags));
  if (!publication.begin(ObjGetLen(bo->wrk, oc))) return;
  if (!publication.refreshes(lent_body_of(oc)) &&
      (ObjIterate(bo->wrk, oc, &publication, write_part, 0) != 0 || !publication.live()))
    return;
  publication.set_gzip_bits(gzip_bits_of(bo->wrk, oc));
  publication.finish();
  count(director.counters().c_refreshed);
}

// The task of the fetch ends; its object is whole by then, and still held.
void task_ends(VRT_CTX, void* priv) noexcept {
  const std::unique_ptr<Task> task(static_cast<Task*>(priv));
  if (task == nullptr || ctx->bo == nullptr) return;
  try {
    publish(ctx->bo, *task);
  } catch (const std::exception&) {
    // Out of memory: it is published by the next fetch.
  }
}

constexpr struct vmod_priv_methods kTaskMethods = {
    .magic = VMOD_PRIV_METHODS_MAGIC,
    .type = "objmapper.refresh",
    .fini = task_ends,
};

std::string_view name_of(std::string_view line) { return line.substr(0, line.find(':')); }

std::string_view without_weakness(std::string_view tag) {
  return tag.starts_with("W/") ? tag.substr(2) : tag;
}

// The 304's own fields, and those of the stored response that it does not have (RFC 9111, 4.3.4).
// False: it is about another response, or there is no room.
bool merge(struct busyobj* bo, const shared::Metadata& metadata) {
  struct http* response = bo->beresp;
  const auto stored = shared::header(metadata, "ETag");
  const auto fields = director::headers_of(response);
  if (const auto tag = fields("ETag"); tag && stored) {
    if (without_weakness(*tag) != without_weakness(*stored)) return false;
    http_Unset(response, H_ETag);  // ours may be weaker: what is stored may be compressed
  }
  http_Unset(response, H_Content_Encoding);
  http_Unset(response, H_Content_Length);
  std::vector<std::string_view> lines;
  std::size_t bytes = metadata.reason.size() + 1;
  for (const std::string& line : metadata.headers) {
    if (fields(name_of(line))) continue;
    lines.push_back(line);
    bytes += line.size() + 1;
  }
  // With room for what the body needs, and VCL may want to add.
  const auto room = static_cast<std::size_t>(bo->ws->e - bo->ws->f);
  if (response->nhd + lines.size() + 16 > response->shd || bo->ws->r != nullptr ||
      room < bytes + 8192)
    return false;
  const auto keep = [bo](std::string_view text) {
    auto* place =
        static_cast<char*>(WS_Copy(bo->ws, text.data(), static_cast<int>(text.size()) + 1));
    place[text.size()] = '\0';
    return place;
  };
  for (const std::string_view line : lines) http_SetHeader(response, keep(line));
  response->status = metadata.status;
  const auto set = [response](unsigned field, const char* text) {
    response->hd[field] = {text, text + std::strlen(text)};
  };
  set(HTTP_HDR_STATUS, keep(std::to_string(metadata.status)));
  set(HTTP_HDR_REASON, keep(metadata.reason));
  return true;
}

}  // namespace

void add(VRT_CTX, std::unique_ptr<tee::Share> share) {
  struct vmod_priv* priv = VRT_priv_task(ctx, &kTaskId);
  if (priv == nullptr) return;
  auto task = std::make_unique<Task>();
  task->share = std::move(share);
  const struct http* response = ctx->bo->beresp;
  for (unsigned i = HTTP_HDR_FIRST; i < response->nhd; ++i) {
    if (task->begin == nullptr || response->hd[i].b < task->begin) task->begin = response->hd[i].b;
    task->end = std::max(task->end, response->hd[i].e);
  }
  delete static_cast<Task*>(priv->priv);  // of an attempt before
  priv->methods = &kTaskMethods;
  priv->priv = task.release();
}

bool make_conditional(struct busyobj* bo, const Stale& stale) {
  if (stale.metadata.status != 200) return false;
  if (http_GetHdr(bo->bereq, H_If_None_Match, nullptr) != 0 ||
      http_GetHdr(bo->bereq, H_If_Modified_Since, nullptr) != 0)
    return false;
  const auto tag = shared::header(stale.metadata, "ETag");
  const auto date = shared::header(stale.metadata, "Last-Modified");
  if (tag)
    http_PrintfHeader(bo->bereq, "If-None-Match: %.*s", static_cast<int>(tag->size()), tag->data());
  if (date)
    http_PrintfHeader(bo->bereq, "If-Modified-Since: %.*s", static_cast<int>(date->size()),
                      date->data());
  return tag || date;
}

void make_unconditional(struct busyobj* bo) {
  http_Unset(bo->bereq, H_If_None_Match);
  http_Unset(bo->bereq, H_If_Modified_Since);
}

int take(VRT_CTX, VCL_BACKEND real, VCL_BACKEND ours, Stale stale,
         std::unique_ptr<tee::Share>& share) {
  struct busyobj* bo = ctx->bo;
  if (bo->beresp->status != 304) return 0;
  if (merge(bo, stale.metadata)) {
    auto hit = std::make_unique<director::Hit>();
    hit->director = share->director;
    hit->client = share->client;
    hit->lease = std::move(stale.lease);
    hit->key = std::move(stale.key);
    hit->metadata = std::move(stale.metadata);
    hit->handed_off = true;  // its timers are the backend's
    if (director::respond_with_body(ctx, real, ours, hit)) {
      count(share->director->counters().c_revalidated);
      refresh::add(ctx, std::move(share));
      return 0;
    }
  }
  return handoff::ask_once_more(ctx, *share->director, real);
}

}  // namespace om::vmod::refresh
