// purge.cc: objmapper.purge(), .ban(), .purge_tag() and .damaged(), as VCL calls them.
//
// In a VCL that shares objects with other caches (it has a director) the daemon is asked first:
// when it has recorded the removal and told the others, it is done here too. Where it cannot, the
// request fails (503) and says so.
#include <memory>
#include <new>
#include <optional>
#include <string>

#include "base/ban_text.h"
#include "base/limits.h"
#include "director.h"
#include "methods.h"
#include "removal_index.h"
#include "removal_link.h"
#include "removals.h"
#include "shared_object.h"

extern "C" {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include "vcc_objmapper_if.h"
#pragma GCC diagnostic pop
}

namespace {

using om::RemovalKind;
using om::vmod::RemovalLink;

// Why a removal of the request at hand was not recorded. After VRT_fail() Varnish rolls the request
// back and runs vcl_synth on the same thread: what hangs on the request is gone by then.
struct Refused {
  std::uint32_t request = 0;
  std::string why;
};
thread_local Refused refused;

// nullopt: VCL has failed.
std::optional<RemovalLink::Ours> record(VRT_CTX, const char* function, RemovalLink& link,
                                        RemovalKind kind, std::string what, std::string tag) {
  auto recorded = link.record(kind, std::move(what), std::move(tag));
  if (!recorded) {
    const std::string why =
        "objmapperd cannot record it for all caches: " + describe(recorded.error());
    if (ctx->req != nullptr) refused = {VXID(ctx->req->vsl->wid), why};
    VRT_fail(ctx, "objmapper.%s(): %s", function, why.c_str());
    return std::nullopt;
  }
  return *std::move(recorded);
}

void purge_everywhere(VRT_CTX) {
  const struct req* req = ctx->req;
  std::optional<RemovalLink::Ours> ours;
  if (RemovalLink* link = RemovalLink::of(ctx->vcl); link != nullptr) {
    namespace shared = om::vmod::shared;
    const char* host = nullptr;
    (void)http_GetHdr(req->http, H_Host, &host);
    const txt& url = req->http->hd[HTTP_HDR_URL];
    const std::string stem =
        shared::purge_stem(om::vmod::director::uri_prefix(ctx->vcl), host == nullptr ? "" : host,
                           {url.b, static_cast<std::size_t>(url.e - url.b)});
    const std::string tag = shared::digest_tag(std::span(req->digest));
    // However long the URL is: its digest may be that of others, and of what has a key by VCL.
    ours = record(ctx, "purge", *link, RemovalKind::kPurge, stem, tag);
    if (!ours) return;
    // Not before: a fetch that begins until then may still have the shared object. It is either in
    // its place when the objects of this digest go, or finds this when it gets there. It may be of
    // another URL of this digest, or of another digest of this URL.
    om::vmod::removal_index::note_purge(stem);
    (void)om::vmod::removal_index::purge_tag(tag, false);
  }
  om::vmod::removals::purge(req->wrk, req->digest);
  if (ours) om::vmod::removal_index::settle();
}

// Empty: done.
std::string ban_everywhere(VRT_CTX, RemovalLink& link, const char* expression) {
  const auto tests = om::parse_ban(expression == nullptr ? "" : expression, om::BanQuotes::kPlain);
  if (!tests) return tests.error().what;
  const std::string text = om::canonical_ban(*tests);
  if (std::string error = om::vmod::check_ban(text); !error.empty()) return error;
  if (text.size() > om::kKeyBytesMax) return "longer than 8192 bytes";
  const auto ours = record(ctx, "ban", link, RemovalKind::kBan, text, "");
  if (!ours) return "";
  std::string error = om::vmod::commit_ban(text);
  om::vmod::removal_index::settle();
  return error;
}

}  // namespace

extern "C" {

VCL_VOID vmod_purge(VRT_CTX) {
  if (ctx->method != VCL_MET_PURGE || ctx->req == nullptr) {
    VRT_fail(ctx, "objmapper.purge() is for vcl_purge");
    return;
  }
  if (!om::abi::check().empty()) return;  // then there is no record of ours either
  try {
    purge_everywhere(ctx);
  } catch (const std::exception& failure) {
    VRT_fail(ctx, "objmapper.purge(): cannot be recorded: %s", failure.what());
  }
}

VCL_VOID vmod_ban(VRT_CTX, VCL_STRING expression) {
  RemovalLink* link = om::abi::check().empty() ? RemovalLink::of(ctx->vcl) : nullptr;
  if (link == nullptr) {
    // Recorded by the listener before it is effective (bans.h).
    if (const char* error = VRT_ban_string(ctx, expression); error != nullptr)
      VRT_fail(ctx, "objmapper.ban(): %s", error);
    return;
  }
  try {
    if (const std::string error = ban_everywhere(ctx, *link, expression); !error.empty())
      VRT_fail(ctx, "objmapper.ban(): %s", error.c_str());
  } catch (const std::exception& failure) {
    VRT_fail(ctx, "objmapper.ban(): %s", failure.what());
  }
}

VCL_VOID vmod_purge_tag(VRT_CTX, VCL_STRING tag, VCL_BOOL soft) {
  if (tag == nullptr || *tag == '\0' || std::strlen(tag) > om::kTagBytesMax) {
    VRT_fail(ctx, "objmapper.purge_tag(): a tag has 1 to 255 bytes");
    return;
  }
  if (const std::string& mismatch = om::abi::check(); !mismatch.empty()) {
    VRT_fail(ctx, "objmapper.purge_tag(): cannot work inside this varnishd: %s", mismatch.c_str());
    return;
  }
  try {
    std::optional<RemovalLink::Ours> ours;
    if (RemovalLink* link = RemovalLink::of(ctx->vcl); link != nullptr) {
      ours = record(ctx, "purge_tag", *link, soft ? RemovalKind::kTagSoft : RemovalKind::kTag, tag,
                    "");
      if (!ours) return;
    }
    (void)om::vmod::removal_index::purge_tag(tag, soft != 0);
    om::vmod::removal_index::settle();
  } catch (const std::exception& failure) {
    VRT_fail(ctx, "objmapper.purge_tag(): %s", failure.what());
  }
}

VCL_STRING vmod_removal_error(VRT_CTX) {
  if (ctx->req == nullptr || refused.why.empty() || refused.request != VXID(ctx->req->vsl->wid))
    return nullptr;
  return static_cast<const char*>(WS_Copy(ctx->ws, refused.why.c_str(), -1));
}

VCL_BOOL vmod_damaged(VRT_CTX) { return om::vmod::was_refused(ctx->req) ? 1 : 0; }
}
