#include "tee.h"

#include <poll.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "base/limits.h"
#include "lease_body.h"
#include "removal_index.h"
#include "storage.h"

namespace om::vmod::tee {

using abi::varnish;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

// Followers are told of so many bytes together, or of less after so long: each telling is a packet,
// and as a rule nobody follows.
constexpr std::uint64_t kAnnounceBytes = 1024 * 1024;
constexpr milliseconds kAnnounceInterval{10};
// What writing may take without anybody having to wait: the rest counts as waiting.
constexpr milliseconds kWriteFree{2};
constexpr std::uint64_t kWriteBytesPerMs = 100 * 1024;
// A response that has come up to here as a whole is handed on as a whole.
constexpr std::ptrdiff_t kAtOnceBytesMax = 64 * 1024;
// Room for a body of unknown length, each time at least.
constexpr std::uint64_t kRoomBytes = 256 * 1024;
// Where the daemon lends no more, or is full, so many leases go back for the next ones.
constexpr unsigned kGiveBack = 8;
constexpr unsigned kGiveBackMax = 32;
// A Vary index lives so long at least: it must be there for as long as its variants are, which have
// timers of their own and are refreshed.
constexpr std::uint64_t kIndexLifeNs = std::uint64_t{24} * 3600 * 1'000'000'000;
// Commits that were not answered yet.
constexpr std::size_t kCommitsMax = 256;

std::string_view text_of(const txt& t) {
  return t.b == nullptr ? std::string_view{}
                        : std::string_view(t.b, static_cast<std::size_t>(t.e - t.b));
}

bool equal_names(std::string_view a, std::string_view b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

// Fields that are about the connection or the message, or about us.
bool goes_along(std::string_view name) {
  for (const std::string_view never :
       {"age", "content-length", "transfer-encoding", "connection", "keep-alive", "trailer", "te",
        "upgrade", "proxy-connection", "proxy-authenticate", "x-objmapper-object",
        "x-objmapper-length"})
    if (equal_names(name, never)) return false;
  return true;
}

std::string_view value_of(std::string_view line) {
  std::string_view value = line.substr(std::min(line.find(':'), line.size() - 1) + 1);
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  return value;
}

void count_trouble(Director& director, const Error& why) {
  VSC_objmd& counters = director.counters();
  switch (why.code) {
    case Errc::kTimeout:
      count(counters.c_tee_late);
      director.link().report(false);
      break;
    case Errc::kNoSpace:
    case Errc::kQuota: count(counters.c_tee_full); break;
    default: count(counters.c_tee_failed); break;
  }
}

// --- commits

std::atomic<std::size_t> commits_under_way{0};

// Nobody waits for a commit: whoever reads the daemon's answers next finds out how it went.
bool may_commit(Director& director) {
  if (commits_under_way.fetch_add(1, std::memory_order_relaxed) < kCommitsMax) return true;
  commits_under_way.fetch_sub(1, std::memory_order_relaxed);
  count(director.counters().c_tee_late);
  return false;
}

// With what is still to be said of it.
void commit(Director& director, Writer writer, std::optional<Amendment> last, bool index) {
  if (!may_commit(director)) return;
  const std::uint64_t bytes = writer.written();
  const auto is_over = [&director, bytes, index](const Result<PutResult>& done) {
    commits_under_way.fetch_sub(1, std::memory_order_relaxed);
    VSC_objmd& counters = director.counters();
    if (!done) {
      count_trouble(director, done.error());
    } else if (!index) {
      count(counters.c_tee_published);
      count(counters.c_tee_bytes, bytes);
    }
  };
  std::move(writer).commit(std::move(last), is_over);
}

void refresh(Director& director, Writer writer, std::uint64_t object_id, const Amendment& says) {
  if (!may_commit(director)) return;
  const auto is_over = [&director](const Result<PutResult>& done) {
    commits_under_way.fetch_sub(1, std::memory_order_relaxed);
    if (!done) count_trouble(director, done.error());
  };
  std::move(writer).refresh(object_id, says, is_over);
}

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

// --- the response

std::optional<shared::Metadata> describe_response(const struct busyobj* bo, double began) {
  shared::Metadata metadata;
  const struct http* response = bo->beresp;
  metadata.status = response->status;
  metadata.reason = text_of(response->hd[HTTP_HDR_REASON]);
  for (unsigned i = HTTP_HDR_FIRST; i < response->nhd; ++i) {
    const std::string_view line = text_of(response->hd[i]);
    const std::string_view name = line.substr(0, line.find(':'));
    if (line.empty() || name.size() == line.size() || (response->hdf[i] & HDF_FILTER) != 0 ||
        !goes_along(name))
      continue;
    metadata.headers.emplace_back(line);
    if (!equal_names(name, "vary")) continue;
    const auto names = shared::parse_vary(value_of(line));
    if (!names) return std::nullopt;
    const auto fields = shared::select(*names, director::headers_of(bo->bereq));
    metadata.vary.insert(metadata.vary.end(), fields.begin(), fields.end());
  }
  const struct objcore* oc = bo->fetch_objcore;
  metadata.t_origin = oc->t_origin;
  metadata.ttl = static_cast<double>(oc->ttl);
  metadata.grace = static_cast<double>(oc->grace);
  metadata.keep = static_cast<double>(oc->keep);
  metadata.ban_time = began;
  return metadata;
}

// --- tags

std::optional<std::vector<std::string>> tags_of(const shared::Metadata& metadata) {
  std::vector<std::string> tags;
  for (const std::string_view line : metadata.headers) {
    const std::string_view name = line.substr(0, line.find(':'));
    if (!equal_names(name, "xkey") && !equal_names(name, "cache-tag") &&
        !equal_names(name, "surrogate-key"))
      continue;
    std::string_view rest = value_of(line);
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find_first_of(", \t"), rest.size());
      if (end > kTagBytesMax) return std::nullopt;
      if (end > 0) tags.emplace_back(rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  std::ranges::sort(tags);
  tags.erase(std::unique(tags.begin(), tags.end()), tags.end());
  if (tags.size() + 1 > kTagsMax) return std::nullopt;
  return tags;
}

// --- publication

Publication::Publication(std::unique_ptr<Share> share, shared::Metadata metadata,
                         std::vector<std::string> tags)
    : share_(std::move(share)), metadata_(std::move(metadata)), tags_(std::move(tags)) {}

milliseconds Publication::left() const {
  const auto all = share_->director->config().timeout;
  const auto spent = std::chrono::duration_cast<milliseconds>(spent_);
  return std::max(all - spent, milliseconds(0));
}

void Publication::let_go(const Error& why) {
  count_trouble(*share_->director, why);
  share_->writer = Writer();
}

template <class Call>
auto Publication::timed(Call call) {
  const auto begin = steady_clock::now();
  auto done = call();
  spent_ += steady_clock::now() - begin;
  return done;
}

std::optional<Amendment> Publication::amendment() {
  auto encoded = shared::encode(metadata_);
  if (!encoded) {
    count(share_->director->counters().c_tee_not_cacheable);
    share_->writer = Writer();
    return std::nullopt;
  }
  Amendment amendment;
  if (unsaid_) amendment.length = length_;
  amendment.metadata = *std::move(encoded);
  amendment.tags = tags_;
  amendment.expires_ns = shared::expires_ns(metadata_);
  return amendment;
}

bool Publication::amend() {
  const auto says = amendment();
  if (!says) return false;
  if (auto sent = share_->writer.amend(*says); !sent) {
    let_go(sent.error());
    return false;
  }
  unsaid_ = false;
  return true;
}

// Where there is Vary, the response lies under the key of its variant, and an index under the
// primary key. The variant is reserved first: who reads the index is to find it.
bool Publication::choose_key() {
  Share& share = *share_;
  const bool varies = !metadata_.vary.empty();
  const std::string key =
      varies ? shared::variant_key(share.primary, metadata_.vary) : share.primary;
  if (key.size() > kKeyBytesMax) return false;
  const bool needs_index = varies && !(share.indexed && key == share.key);
  Writer first;
  if (share.writer && key != share.key) {
    if (share.key == share.primary) first = std::move(share.writer);
    share.writer = Writer();
    share.replaces = {};
  }
  PutOptions options;
  const auto reserve = [&] {
    const auto ask = [&] { return share.client->reserve(options, left()); };
    auto reserved = timed(ask);
    const struct busyobj* bo = varnish.THR_GetBusyobj();
    if (!reserved && reserved.error().code == Errc::kNoSpace && bo != nullptr &&
        lease_body::give_back(bo->wrk, share.client.get(), kGiveBack, true))
      reserved = timed(ask);
    return reserved;
  };
  if (!share.writer) {
    options.key = key;
    auto reserved = reserve();
    if (!reserved) {
      let_go(reserved.error());
      return false;
    }
    share.writer = *std::move(reserved);
    share.key = key;
  }
  if (!needs_index) return true;
  if (!first) {
    options.key = share.primary;
    auto reserved = reserve();
    if (!reserved) {
      let_go(reserved.error());
      return false;
    }
    first = *std::move(reserved);
  }
  shared::Metadata index;
  index.kind = shared::Kind::kVaryIndex;
  index.status = 200;
  for (const shared::VaryField& field : metadata_.vary) index.vary.push_back({field.name, {}});
  index.t_origin = metadata_.t_origin;
  index.ttl = metadata_.ttl;
  index.grace = metadata_.grace;
  index.keep = metadata_.keep;
  index.ban_time = metadata_.ban_time;
  Amendment amendment;
  amendment.length = 0;
  if (auto encoded = shared::encode(index)) amendment.metadata = *std::move(encoded);
  amendment.tags = tags_;
  amendment.expires_ns = shared::expires_ns(index);
  if (amendment.expires_ns != 0)
    amendment.expires_ns = std::max(
        amendment.expires_ns, static_cast<std::uint64_t>(index.t_origin * 1e9) + kIndexLifeNs);
  if (!amendment.metadata.empty())
    commit(*share.director, std::move(first), std::move(amendment), true);
  return true;
}

bool Publication::begin(std::optional<std::uint64_t> length) {
  length_ = length;
  if (!choose_key()) return false;
  if (removed_meanwhile()) {
    count(share_->director->counters().c_tee_behind);
    share_->writer = Writer();
    return false;
  }
  announced_at_ = steady_clock::now();
  return true;
}

// The daemon refuses what was removed since it was reserved. But that may have been when the
// headers came, and the backend was asked before: the removals between are ours to know. Nobody
// follows before the headers are announced.
bool Publication::removed_meanwhile() const {
  const Share& share = *share_;
  if (share.stem.empty()) return false;
  return !share.director->removals().director_allowed() ||
         removal_index::removed_since(share.stem, tags_, share.began);
}

bool Publication::may_land() const {
  return live() && (!length_ || *length_ >= landing::kBytesMin);
}

std::optional<landing::Room> Publication::land(struct worker* wrk, std::uint64_t there) {
  if (!may_land() || written_ != there) return std::nullopt;
  Writer& writer = share_->writer;
  const auto hold = [&] {
    return timed([&] {
      writer.limit(std::max(left(), milliseconds(1)));
      return writer.hold(length_ ? *length_ - there : kRoomBytes);
    });
  };
  auto lease = hold();
  // Those that were used least go back, each time more.
  for (unsigned some = kGiveBack; !lease && some <= kGiveBackMax; some *= 2) {
    const Errc why = lease.error().code;
    if ((why != Errc::kQuota && why != Errc::kNoSpace) || left().count() == 0 ||
        !lease_body::give_back(wrk, share_->client.get(), some, why == Errc::kNoSpace))
      break;
    lease = hold();
  }
  if (!lease) {
    // Without a lease it is copied, as long as there is room.
    if (lease.error().code != Errc::kUnsupported && lease.error().code != Errc::kQuota)
      let_go(lease.error());
    return std::nullopt;
  }
  room_ = writer.map();
  if (room_.empty()) return std::nullopt;
  count(share_->director->counters().c_tee_landed);
  return landing::Room{share_->client,
                       *std::move(lease),
                       {room_, writer.pins()},
                       {share_->director->config().socket, share_->key, 0}};
}

landing::Memory Publication::more() {
  if (!live() || length_) return {};
  Writer& writer = share_->writer;
  const auto made = timed([&] {
    writer.limit(std::max(left(), milliseconds(1)));
    return writer.make_room(kRoomBytes);
  });
  if (!made) {
    let_go(made.error());
    return {};
  }
  if (auto memory = writer.map(); !memory.empty())
    room_ = memory;
  else
    return {};  // what comes now lies on disk
  return {room_, writer.pins()};
}

bool Publication::is_there(std::span<const std::byte> bytes) const {
  return std::ranges::any_of(room_, [&](const auto& memory) {
    return bytes.data() >= memory.data() && bytes.data() < memory.data() + memory.size();
  });
}

void Publication::write(std::span<const std::byte> bytes) {
  if (!live()) return;
  Writer& writer = share_->writer;
  const auto begin = steady_clock::now();
  writer.limit(std::max(left(), milliseconds(1)));
  Result<void> done;
  if (is_there(bytes)) {
    done = writer.advance(bytes.size());
  } else {
    // All of it at once, where that is known.
    if (length_) done = writer.make_room(std::max(*length_ - written_, bytes.size()));
    if (done) done = writer.write(bytes);
  }
  const auto now = steady_clock::now();
  const auto free = kWriteFree + milliseconds(bytes.size() / kWriteBytesPerMs);
  if (now - begin > free) spent_ += now - begin - free;
  if (!done) return let_go(done.error());
  written_ += bytes.size();
  if (left().count() == 0) {
    count(share_->director->counters().c_tee_late);
    share_->writer = Writer();
    return;
  }
  if (length_ && written_ == *length_) return;  // the commit says it
  if (written_ - announced_ >= kAnnounceBytes || now - announced_at_ >= kAnnounceInterval)
    announce();
}

void Publication::announce() {
  if (!has_unannounced()) return;
  if (unsaid_ && !amend()) return;
  announced_at_ = steady_clock::now();
  if (written_ == announced_) return;
  announced_ = written_;
  Writer& writer = share_->writer;
  if (auto told = writer.announce(); !told) let_go(told.error());
}

// By the rule of adoption: a daemon that began anew may have given its id once more.
bool Publication::refreshes(const std::optional<region::LentRef>& body) {
  const There& there = share_->replaces;
  refreshes_ = live() && body && there.object_id == body->object_id && share_->key == body->key &&
               there.length == body->length && there.created_ns <= body->created_by_ns;
  return refreshes_;
}

void Publication::finish() {
  if (!live()) return;
  std::optional<Amendment> last;
  if (refreshes_ || unsaid_ || metadata_.gzip_bits) {
    last = amendment();
    if (!last) return;
  }
  if (!share_->director->removals().director_allowed()) {
    // It may be one of what was removed.
    count(share_->director->counters().c_tee_behind);
    share_->writer = Writer();
    return;
  }
  if (refreshes_)
    refresh(*share_->director, std::move(share_->writer), share_->replaces.object_id, *last);
  else
    commit(*share_->director, std::move(share_->writer), std::move(last), false);
  share_->writer = Writer();
}

// --- the filter

namespace {

// In the filter entry's priv1, until the fetch is over.
struct Tee final : landing::Source {
  std::unique_ptr<Share> share;  // until init
  std::unique_ptr<Publication> publication;
  bool whole = false;                 // the end was seen
  struct vmod_priv* later = nullptr;  // that ends with the fetch's task
  struct vmod_priv* owner = nullptr;  // the same, of this; nullptr: the entry owns it
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
  share->client = director->link().client();
  if (share->client == nullptr) {
    count(director->counters().c_tee_down);
    return nullptr;
  }
  share->primary = shared::primary_key(*base, director::accepts_gzip(bo));
  share->began = bo->t_first;
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

// It came with the headers.
bool is_whole(const struct http_conn* htc) {
  return htc->body_status == BS_LENGTH && htc->pipeline_b != nullptr &&
         htc->content_length <= kAtOnceBytesMax &&
         htc->pipeline_e - htc->pipeline_b >= htc->content_length;
}

// False: nothing to be published.
bool open(VRT_CTX, struct vfp_ctx* vc, const struct vfp_entry* entry, Tee& tee) {
  struct busyobj* bo = ctx->bo;
  if (bo == nullptr || is_from_store(vc)) return false;
  if (tee.share == nullptr) tee.share = share_for(ctx);
  if (tee.share == nullptr) return false;
  VSC_objmd& counters = tee.share->director->counters();
  auto metadata = is_cacheable(bo) ? describe_response(bo, tee.share->began) : std::nullopt;
  auto tags = metadata ? tags_of(*metadata) : std::nullopt;
  if (!tags) {
    count(counters.c_tee_not_cacheable);
    tee.share = nullptr;
    return false;
  }
  tee.share->stem = removal_index::stem_of(bo);
  tags->push_back(shared::digest_tag(std::span(bo->digest)));
  tee.publication =
      std::make_unique<Publication>(std::move(tee.share), *std::move(metadata), *std::move(tags));
  if (!tee.publication->begin(length_of(bo))) {
    tee.publication.reset();
    return false;
  }
  tee.later = task_of(ctx);
  if (bo->htc->body_status == BS_NONE) {
    publish(std::move(tee.publication), tee.later);
    return false;
  }
  // Nothing is left to wait for: then client and fetch wake each other once, and headers and body
  // go out together.
  if (tee.later != nullptr && is_whole(bo->htc)) bo->do_stream = 0;
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
