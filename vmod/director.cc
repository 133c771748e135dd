#include "director.h"

#include <syslog.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <new>
#include <shared_mutex>

#include "base/limits.h"
#include "director_hit.h"
#include "follow.h"
#include "handoff.h"
#include "lease_body.h"
#include "refresh.h"
#include "removal_index.h"
#include "shared_bans.h"
#include "storage.h"
#include "tee.h"

namespace om::vmod {

using abi::varnish;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

Director::Director(Config config)
    : config_(std::move(config)), removals_(RemovalLink::to(config_.socket)) {
  counters_ = VSC_objmd_New(nullptr, &counters_segment_, "%s", config_.name.c_str());
  DirectorLink::Options options;
  options.socket = config_.socket;
  options.timeout = config_.timeout;
  options.name = "vmod_objmapper director " + config_.name;
  DirectorLink::Watcher watcher;
  watcher.connected = [this] { count(counters_->c_connects); };
  watcher.opened = [this] { count(counters_->c_breaker_opened); };
  watcher.changed = [this](bool up) {
    gauge(counters_->g_up, up ? 1 : 0);
    notice(up ? LOG_NOTICE : LOG_WARNING, nullptr,
           "director " + config_.name +
               (up ? ": looks in " : ": asks backends only, no answers from ") + config_.socket);
  };
  watcher.revoked = [this](const std::shared_ptr<Client>& client, std::uint64_t lease) {
    lease_body::is_short(client.get(), lease);
    if (lease_body::revoked(client.get(), lease)) count(counters_->c_revoked);
  };
  watcher.renew = lease_body::renew;
  link_ = std::make_unique<DirectorLink>(std::move(options), std::move(watcher));
}

namespace {

// By name, socket and time limit. Never destroyed: threads use them.
std::vector<std::unique_ptr<Director>>& directors() {
  static auto* all = new std::vector<std::unique_ptr<Director>>;
  return *all;
}

}  // namespace

Director& director_for(Director::Config config) {
  for (const auto& one : directors())
    if (one->config().name == config.name && one->config().socket == config.socket &&
        one->config().timeout == config.timeout)
      return *one;
  return *directors().emplace_back(std::make_unique<Director>(std::move(config)));
}

namespace director {

namespace {

// What is known of each VCL.
struct Prefixes {
  std::shared_mutex mutex;
  std::map<const struct vcl*, std::string> of;
};
Prefixes& prefixes() {
  static auto* all = new Prefixes;
  return *all;
}

std::string_view text_of(const txt& t) {
  return t.b == nullptr ? std::string_view{}
                        : std::string_view(t.b, static_cast<std::size_t>(t.e - t.b));
}

bool equal_names(std::string_view a, std::string_view b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

// Its address names the key among the things that VMODs keep with a task.
constexpr char kKeyId = 0;
constexpr struct vmod_priv_methods kKeyMethods = {
    .magic = VMOD_PRIV_METHODS_MAGIC,
    .type = "objmapper.set_key",
    .fini = [](VRT_CTX, void* key) { (void)ctx, delete static_cast<std::string*>(key); },
};

// Leases that are given back in one go, at most.
constexpr unsigned kGiveBackMax = 32;
constexpr unsigned kGiveBackForRoom = 8;

using Answer = std::variant<std::monostate, Lease, Writer, Follower>;

// Asks, within the director's time limit. Nothing: no such object, or no answer (counted). Where we
// may write (and may_fetch), who asks first has to fetch, and the others follow.
// The object `stale`, which is published, is of no use in that revision: then one replaces it, and
// the others follow.
Answer ask(Director& director, struct worker* wrk, Client& client, const std::string& key,
           const tee::There& stale, milliseconds within, bool may_fetch) {
  const auto end = steady_clock::now() + within;
  const auto left = [&] {
    const auto time = std::chrono::duration_cast<milliseconds>(end - steady_clock::now());
    return std::max(time, milliseconds(1));
  };
  const auto failed = [&](const Error& error) -> Answer {
    switch (error.code) {
      case Errc::kTimeout:
        count(director.counters().c_timeout);
        director.link().report(false);
        break;
      // These are answers, of a daemon that is well.
      case Errc::kQuota:
      case Errc::kBusy:
      case Errc::kNoSpace: count(director.counters().c_failed); break;
      default:
        count(director.counters().c_failed);
        director.link().report(false);
        break;
    }
    return {};
  };
  const auto get = [&]() -> Answer {
    auto there = client.get(key, left());
    // Where we have borrowed all that one may, the least recently used go back, each time more.
    for (unsigned some = 1; !there && there.error().code == Errc::kQuota && some <= kGiveBackMax &&
                            steady_clock::now() < end;
         some *= 2) {
      if (!lease_body::give_back(wrk, &client, some)) break;
      there = client.get(key, left());
    }
    if (!there) return failed(there.error());
    // What is found without asking says nothing of a daemon that may hang.
    if (!*there || (*there)->asked()) director.link().report(true);
    if (!*there) return {};
    return Answer(*std::move(*there));
  };
  if (!may_fetch || !client.daemon().may_write || !client.daemon().may_read) return get();
  PutOptions options;
  options.key = key;
  options.stale_object_id = stale.object_id;
  options.stale_revision = stale.revision;
  auto answer = client.reserve_or_follow(options, left());
  // What we hold of the daemon's memory, and use least, makes room for what is asked for now.
  if (!answer && answer.error().code == Errc::kNoSpace &&
      lease_body::give_back(wrk, &client, kGiveBackForRoom, true))
    answer = client.reserve_or_follow(options, left());
  // No room to write is no reason not to read.
  if (!answer && (answer.error().code == Errc::kNoSpace || answer.error().code == Errc::kQuota))
    return get();
  if (!answer) return failed(answer.error());
  const auto* const lease = std::get_if<Lease>(&*answer);
  if (lease == nullptr || lease->asked()) director.link().report(true);
  return std::visit([](auto& one) { return Answer(std::move(one)); }, *answer);
}

bool is_banned(Director& director, const struct busyobj* bo, const shared::Metadata& metadata) {
  SharedCandidate candidate;
  candidate.ban_time = metadata.ban_time;
  candidate.status = metadata.status;
  candidate.headers = metadata.headers;
  candidate.t_origin = metadata.t_origin;
  candidate.ttl = metadata.ttl;
  candidate.grace = metadata.grace;
  candidate.keep = metadata.keep;
  return director.removals().bans().maybe_banned(bo->bereq0, candidate);
}

// Why what was found is of no use, as the counter of that; nullptr: it is.
std::uint64_t* why_useless(Director& director, const struct busyobj* bo, const ObjectInfo& info,
                           const shared::Metadata& metadata, double now) {
  VSC_objmd& counters = director.counters();
  if (info.offset != 0 || (info.total_bytes != 0 && info.total_bytes != info.length) ||
      !shared::matches(metadata, headers_of(bo->bereq)))
    return &counters.c_miss_unusable;
  if (shared::remaining(metadata, now) <= 0 || metadata.t_origin > now + 1)
    return &counters.c_miss_expired;
  // Never back in time.
  if (bo->stale_oc != nullptr && bo->stale_oc->t_origin > metadata.t_origin + 1)
    return &counters.c_miss_older;
  if (is_banned(director, bo, metadata)) return &counters.c_miss_banned;
  return nullptr;
}

bool is_conditional_and_good(const struct busyobj* bo, const shared::Metadata& metadata) {
  if (bo->stale_oc == nullptr || !ObjCheckFlag(bo->wrk, bo->stale_oc, OF_IMSCAND)) return false;
  const char* tags = nullptr;
  const char* since = nullptr;
  (void)http_GetHdr(bo->bereq, H_If_None_Match, &tags);
  (void)http_GetHdr(bo->bereq, H_If_Modified_Since, &since);
  const auto view = [](const char* text) {
    return text == nullptr ? std::nullopt : std::optional<std::string_view>(text);
  };
  return shared::not_modified(metadata, view(tags), view(since), [](std::string_view date) {
    return VTIM_parse(std::string(date).c_str());
  });
}

// How a lookup ended: a response, or the backend is to be asked, perhaps with the right (and the
// others' hope) to publish what it says.
struct Found {
  std::unique_ptr<Hit> hit;
  std::unique_ptr<tee::Share> share;
  // With a share: what is there, and may still be good.
  std::optional<refresh::Stale> stale{};
};

// What is followed, as the response. nullptr: it is of no use.
std::unique_ptr<follow::Source> source_of(Director& director, const std::shared_ptr<Client>& client,
                                          const std::string& primary, const std::string& key,
                                          VCL_BACKEND backend, const tee::There& replaces,
                                          Follower follower, const shared::Metadata& metadata) {
  follow::Source::Origin origin;
  origin.director = &director;
  origin.client = client;
  origin.primary = primary;
  origin.key = key;
  origin.backend = backend;
  origin.replaces = replaces;
  const ObjectInfo info = follower.info();
  return std::make_unique<follow::Source>(
      std::move(origin), std::move(follower), metadata, info.tags,
      info.length == ~std::uint64_t{0} ? std::nullopt : std::optional(info.length));
}

Found look_up(VRT_CTX, Director& director, VCL_BACKEND real) {
  struct busyobj* bo = ctx->bo;
  VSC_objmd& counters = director.counters();
  std::optional<std::string> base;
  if (may_share(bo)) base = base_key(ctx);
  if (!base) {
    count(counters.c_skipped);
    return {};
  }
  const auto client = director.link().client();
  if (client == nullptr) {
    count(counters.c_not_asked);
    return {};
  }
  count(counters.c_lookup);
  auto begin = steady_clock::now();
  const auto waited_until = begin + follow::kHeadersLimit;
  auto share = std::make_unique<tee::Share>();
  share->director = &director;
  share->client = client;
  share->primary = shared::primary_key(*base, accepts_gzip(bo));
  share->began = VTIM_real();
  share->key = share->primary;
  std::optional<refresh::Stale> expired;
  const auto miss = [&](std::uint64_t& counter) {
    count(counter);
    // In VCL's name this fetch will say what is there instead.
    return Found{nullptr, std::move(share), std::move(expired)};
  };
  int lost_writers = 0;
  tee::There& stale = share->replaces;  // what was found, and why it is of no use
  std::uint64_t* why_stale = &counters.c_miss;
  for (int step = 0;;) {
    const auto spent = std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin);
    if (spent >= director.config().timeout) {
      count(counters.c_timeout);
      return {};
    }
    // Nobody has it, and nobody is fetching it: then there is nothing to be asked.
    if (step == 0 && stale.object_id == 0 && bo->is_hitmiss == 0) {
      share->claim = client->claim(share->key);
      if (share->claim) {
        count(counters.c_miss_claimed);
        return miss(counters.c_miss);
      }
    }
    const std::uint64_t failures = counters.c_timeout + counters.c_failed;
    auto answer = ask(director, bo->wrk, *client, share->key, stale,
                      director.config().timeout - spent, bo->is_hitmiss == 0);
    if (std::holds_alternative<std::monostate>(answer)) {
      if (failures == counters.c_timeout + counters.c_failed) count(counters.c_miss);
      return {};
    }
    if (auto* writer = std::get_if<Writer>(&answer)) {
      share->writer = std::move(*writer);
      return miss(*why_stale);
    }
    ObjectInfo info;
    if (auto* follower = std::get_if<Follower>(&answer)) {
      // The time limit is for the daemon; a backend may take longer.
      const auto left =
          std::chrono::duration_cast<milliseconds>(waited_until - steady_clock::now());
      const auto headers = follow::wait_for_headers(*follower, left, director.config().timeout);
      begin = steady_clock::now();
      if (headers == follow::Headers::kGone && ++lost_writers < 2) continue;
      if (headers != follow::Headers::kThere) {
        count(counters.c_follow_late);
        if (headers == follow::Headers::kNoAnswer) director.link().report(false);
        return {};
      }
      info = follower->info();
      if (follower->committed()) {
        auto lease = std::move(*follower).lease(milliseconds(0));
        if (!lease) return {};
        answer = *std::move(lease);
      }
    } else {
      info = std::get<Lease>(answer).info();
    }
    auto metadata = shared::decode(info.metadata);
    const bool index = metadata && metadata->kind == shared::Kind::kVaryIndex;
    if (index && step == 0) {
      share->key = shared::variant_key(share->primary,
                                       shared::select(metadata->vary, headers_of(bo->bereq)));
      share->indexed = true;
      stale = {};
      expired.reset();  // it lay under the primary key, and says nothing of this variant
      ++step;
      continue;
    }
    // In this order: what is removed meanwhile is seen by one of the two.
    if (!director.removals().applied(client->daemon().epoch)) {
      count(counters.c_miss_behind);
      return {};
    }
    if (std::uint64_t* const why = metadata && !index
                                       ? why_useless(director, bo, info, *metadata, VTIM_real())
                                       : &counters.c_miss_unusable;
        why != nullptr) {
      // What is being written is not waited for; and who asks the daemon for something else than
      // that gets what lies there now, which may have been of no use before: back and forth.
      if (std::holds_alternative<Follower>(answer)) return miss(*why);
      const tee::There found{info.object_id, info.revision, info.created_ns, info.length};
      if (stale == found || bo->is_hitmiss != 0) return miss(*why);
      stale = found;
      why_stale = why;
      auto* const lease = std::get_if<Lease>(&answer);
      if (why == &counters.c_miss_expired && lease != nullptr && bo->stale_oc == nullptr &&
          !is_banned(director, bo, *metadata))
        expired = refresh::Stale{std::move(*lease), *std::move(metadata), share->key};
      continue;
    }
    auto hit = std::make_unique<Hit>();
    hit->director = &director;
    hit->client = client;
    hit->metadata = *std::move(metadata);
    if (auto* follower = std::get_if<Follower>(&answer)) {
      hit->source = source_of(director, client, share->primary, share->key, real, stale,
                              std::move(*follower), hit->metadata);
      count(counters.c_follow);
    } else {
      hit->lease = std::move(std::get<Lease>(answer));
      hit->key = share->key;
      hit->not_modified = is_conditional_and_good(bo, hit->metadata);
    }
    return {std::move(hit), nullptr, {}};
  }
}

VCL_BACKEND real_backend(VRT_CTX, const Backend& backend) {
  return backend.real == nullptr ? nullptr : VRT_DirectorResolve(ctx, backend.real);
}

Backend& backend_of(VCL_BACKEND dir) {
  CHECK_OBJ_NOTNULL(dir, DIRECTOR_MAGIC);
  return *static_cast<Backend*>(dir->priv);
}

int gethdrs(VRT_CTX, VCL_BACKEND dir) noexcept {
  Backend& backend = backend_of(dir);
  struct busyobj* bo = ctx->bo;
  Director& director = *backend.director;
  VCL_BACKEND real = real_backend(ctx, backend);
  try {
    Found found = look_up(ctx, director, real);
    if (found.hit != nullptr) {
      const bool follows = found.hit->source != nullptr;
      const double ban_time = found.hit->metadata.ban_time;
      if (respond(bo, std::move(found.hit))) {
        removal_index::brings_shared(bo, director.removals().bans(), ban_time);
        if (!follows) count(director.counters().c_hit);
        return 0;
      }
      count(director.counters().c_miss_unusable);
    }
    if (real == nullptr) {
      VSLb(bo->vsl, SLT_FetchError, "Director %s has no backend", dir->vcl_name);
      return -1;
    }
    handoff::announce(bo, backend, real);
    VRT_Assign_Backend(&bo->director_resp, real);
    // It may come from the board, which answers while a ban is being written down (ADR 11); the
    // right to publish has come since, by a message.
    if (found.stale && (!director.removals().applied(found.share->client->daemon().epoch) ||
                        is_banned(director, bo, found.stale->metadata)))
      found.stale.reset();
    const bool conditional = found.stale && refresh::make_conditional(bo, *found.stale);
    int answer = real->vdir->methods->gethdrs(ctx, real);
    if (conditional) refresh::make_unconditional(bo);
    if (answer == 0) answer = handoff::take(ctx, backend, real, dir);
    if (answer == 0 && conditional && Hit::of(bo) == nullptr)
      answer = refresh::take(ctx, real, dir, *std::move(found.stale), found.share);
    // What was handed off lies in the store already.
    if (answer == 0 && found.share != nullptr && Hit::of(bo) == nullptr) {
      if (bo->beresp->status == 304)
        refresh::add(ctx, std::move(found.share));
      else
        tee::add(ctx, std::move(found.share));
    }
    return answer;
  } catch (const std::exception&) {  // out of memory; the backend may still be asked
    count(director.counters().c_failed);
  }
  if (real == nullptr) return -1;
  if (bo->htc != nullptr) {
    // A response had come, and something of it may have been changed already. Who says -1 leaves no
    // connection behind.
    bo->htc->doclose = SC_RX_BODY;
    if (Hit::of(bo) != nullptr)
      finish(bo);
    else
      real->vdir->methods->finish(ctx, real);
    bo->htc = nullptr;
    return -1;
  }
  VRT_Assign_Backend(&bo->director_resp, real);
  return real->vdir->methods->gethdrs(ctx, real);
}

void vdi_finish(VRT_CTX, VCL_BACKEND /*dir*/) noexcept { finish(ctx->bo); }

stream_close_t http1pipe(VRT_CTX, VCL_BACKEND dir) noexcept {
  VCL_BACKEND real = real_backend(ctx, backend_of(dir));
  if (real == nullptr || real->vdir->methods->http1pipe == nullptr) {
    VSLb(ctx->bo->vsl, SLT_VCL_Error, "Backend does not support pipe");
    return SC_TX_ERROR;
  }
  VRT_Assign_Backend(&ctx->bo->director_resp, real);
  return real->vdir->methods->http1pipe(ctx, real);
}

VCL_BOOL healthy(VRT_CTX, VCL_BACKEND dir, VCL_TIME* changed) noexcept {
  return VRT_Healthy(ctx, backend_of(dir).real, changed);
}

void list(VRT_CTX, VCL_BACKEND dir, struct vsb* out, int probes, int json) noexcept {
  VCL_BACKEND real = backend_of(dir).real;
  if (real != nullptr && real->vdir->methods->list != nullptr) {
    real->vdir->methods->list(ctx, real, out, probes, json);
    return;
  }
  const char* state = VRT_Healthy(ctx, real, nullptr) != 0 ? "healthy" : "sick";
  if (json != 0 && probes != 0)
    VSB_cat(out, "{},\n");
  else if (json != 0)
    VSB_printf(out, "[0, 0, \"%s\"]", state);
  else if (probes == 0)
    VSB_printf(out, "0/0\t%s", state);
}

void panic(VCL_BACKEND dir, struct vsb* out) noexcept {
  VCL_BACKEND real = backend_of(dir).real;
  VSB_printf(out, "real = %s,\n", real == nullptr ? "(none)" : real->vcl_name);
}

void destroy(VCL_BACKEND dir) noexcept {
  Backend* backend = &backend_of(dir);
  VRT_Assign_Backend(&backend->real, nullptr);
  for (auto& handoff : backend->handoffs) VRT_Assign_Backend(&handoff.backend, nullptr);
  delete backend;
}

}  // namespace

const struct vdi_methods kMethods = {
    .magic = VDI_METHODS_MAGIC,
    .type = "objmapper",
    .http1pipe = http1pipe,
    .healthy = healthy,
    .resolve = nullptr,
    .gethdrs = gethdrs,
    .getip = nullptr,
    .finish = vdi_finish,
    .event = nullptr,
    .destroy = destroy,
    .panic = panic,
    .list = list,
};

void set_uri_prefix(const struct vcl* vcl, std::string prefix) {
  const std::lock_guard lock(prefixes().mutex);
  prefixes().of[vcl] = std::move(prefix);
}

std::string uri_prefix(const struct vcl* vcl) {
  const std::shared_lock lock(prefixes().mutex);
  const auto found = prefixes().of.find(vcl);
  return found == prefixes().of.end() ? std::string() : found->second;
}

void forget(const struct vcl* vcl) {
  const std::lock_guard lock(prefixes().mutex);
  prefixes().of.erase(vcl);
}

bool set_key(VRT_CTX, VCL_STRING key) {
  struct vmod_priv* priv = VRT_priv_task(ctx, &kKeyId);
  if (priv == nullptr) return false;
  if (priv->priv == nullptr) {
    priv->priv = new std::string;
    priv->methods = &kKeyMethods;
  }
  *static_cast<std::string*>(priv->priv) = key == nullptr ? "" : key;
  return true;
}

std::optional<std::string> base_key(VRT_CTX) {
  const struct busyobj* bo = ctx->bo;
  std::string base;
  if (const struct vmod_priv* priv = VRT_priv_task_get(ctx, &kKeyId);
      priv != nullptr && priv->priv != nullptr)
    base = *static_cast<const std::string*>(priv->priv);
  if (base.empty()) {
    // As the client's request has them: what purges it knows these, not what VCL made of them for
    // the backend.
    const struct http* request = bo->bereq0 != nullptr ? bo->bereq0 : bo->bereq;
    const char* host = nullptr;
    (void)http_GetHdr(request, H_Host, &host);
    base = shared::base_key(uri_prefix(bo->vcl), host == nullptr ? "" : host,
                            text_of(request->hd[HTTP_HDR_URL]), std::span(bo->digest));
  }
  // With room for what is appended to it.
  if (base.size() + 64 > kKeyBytesMax) return std::nullopt;
  return base;
}

bool accepts_gzip(const struct busyobj* bo) { return RFC2616_Req_Gzip(bo->bereq) != 0; }

shared::HeaderLookup headers_of(const struct http* request) {
  return [request](std::string_view name) -> std::optional<std::string> {
    std::optional<std::string> value;
    for (unsigned i = HTTP_HDR_FIRST; i < request->nhd; ++i) {
      const std::string_view line = text_of(request->hd[i]);
      const std::size_t colon = line.find(':');
      if (colon == std::string_view::npos || !equal_names(line.substr(0, colon), name)) continue;
      std::string_view text = line.substr(colon + 1);
      while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
      if (value)
        value->append(", ").append(text);
      else
        value = text;
    }
    return value;
  };
}

bool may_share(const struct busyobj* bo) {
  if (bo->uncacheable != 0 || bo->retries > 0) return false;
  if (bo->req != nullptr || bo->bereq_body != nullptr) return false;
  if (text_of(bo->bereq->hd[HTTP_HDR_METHOD]) != "GET") return false;
  return http_GetHdr(bo->bereq, H_Range, nullptr) == 0;
}

}  // namespace director
}  // namespace om::vmod
