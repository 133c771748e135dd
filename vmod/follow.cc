#include "follow.h"

#include <algorithm>
#include <array>

#include "director_hit.h"
#include "removal_index.h"
#include "storage.h"

namespace om::vmod::follow {

using abi::varnish;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

// So long the daemon is asked to wait in one go: a daemon that hangs is noticed soon after.
constexpr milliseconds kWaitSlice{100};
// So often in a row another source is looked for, without a byte from the last one.
constexpr int kChangesMax = 3;
// By these two responses are known to have the same bytes, next to their status.
constexpr std::array<std::string_view, 3> kSameFields{"ETag", "Last-Modified", "Content-Encoding"};

std::optional<std::string> field(const struct http* response, std::string_view name) {
  return director::headers_of(response)(name);
}

// Only then another answer of the backend can be known to be the same as an earlier one: the
// headers of that are out, and its first bytes may be.
bool has_validator(const shared::Metadata& metadata) {
  return shared::header(metadata, "ETag") || shared::header(metadata, "Last-Modified");
}

// Whether the backend's answer is what the other cache got.
bool is_same_response(const struct http* response, const shared::Metadata& metadata) {
  if (response->status != metadata.status || !has_validator(metadata)) return false;
  if (field(response, "X-Objmapper-Object")) return false;  // its body is somewhere else
  for (const std::string_view name : kSameFields) {
    const auto now = field(response, name);
    const auto then = shared::header(metadata, name);
    if (now.has_value() != then.has_value() || (now && *now != *then)) return false;
  }
  return true;
}

// The same of what lies in the store, or is on its way there. Without validators it has to come
// from the same answer of the backend.
bool is_same_object(const shared::Metadata& one, const shared::Metadata& other) {
  if (one.kind != other.kind || one.status != other.status) return false;
  for (const std::string_view name : kSameFields)
    if (shared::header(one, name) != shared::header(other, name)) return false;
  return has_validator(one) || one.t_origin == other.t_origin;
}

// Whether a list of directives has this one, with an argument or without.
bool has_directive(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    std::string_view one = list.substr(0, list.find(','));
    list.remove_prefix(std::min(one.size() + 1, list.size()));
    one = one.substr(0, one.find('='));
    while (!one.empty() && (one.front() == ' ' || one.front() == '\t')) one.remove_prefix(1);
    while (!one.empty() && (one.back() == ' ' || one.back() == '\t')) one.remove_suffix(1);
    if (one.size() == name.size() && strncasecmp(one.data(), name.data(), name.size()) == 0)
      return true;
  }
  return false;
}

// The names of Vary that matter here: filters of Varnish add Accept-Encoding by themselves.
std::vector<std::string> sorted_names(std::vector<std::string> names) {
  std::erase(names, "accept-encoding");
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

// The backend's answer to us is for us alone when it says so, whatever it said of the first one.
// No VCL looks at it.
bool may_publish(const struct http* response, const shared::Metadata& metadata) {
  if (field(response, "Set-Cookie")) return false;
  if (const auto control = field(response, "Cache-Control"))
    for (const std::string_view never : {"private", "no-store", "no-cache"})
      if (has_directive(*control, never)) return false;
  const auto vary = shared::parse_vary(field(response, "Vary").value_or(""));
  if (!vary) return false;
  std::vector<std::string> known;
  for (const shared::VaryField& one : metadata.vary) known.push_back(one.name);
  return sorted_names(*vary) == sorted_names(std::move(known));
}

// As long as Varnish itself would wait for the next bytes of a backend: that is whom the writer
// waits for.
milliseconds stall_limit(const struct busyobj* bo) {
  double seconds = bo->between_bytes_timeout;
  if (seconds <= 0) seconds = (*varnish.cache_param)->between_bytes_timeout;
  return milliseconds(static_cast<std::int64_t>(std::clamp(seconds, 0.1, 86400.0) * 1000));
}

}  // namespace

Headers wait_for_headers(Follower& follower, milliseconds limit, milliseconds answer_limit) {
  follower.limit(answer_limit);
  const auto end = steady_clock::now() + limit;
  while (true) {
    const auto left = std::chrono::ceil<milliseconds>(end - steady_clock::now());
    if (left.count() <= 0) return Headers::kLate;
    const auto there = follower.amended(std::min(left, kWaitSlice));
    if (!there) return there.error().code == Errc::kNotFound ? Headers::kGone : Headers::kNoAnswer;
    if (*there) return Headers::kThere;
  }
}

Source::Source(Origin origin, Follower follower, shared::Metadata metadata,
               std::vector<std::string> tags, std::optional<std::uint64_t> length)
    : origin_(std::move(origin)),
      metadata_(std::move(metadata)),
      tags_(std::move(tags)),
      length_(length),
      follower_(std::move(follower)),
      hash_(XXH3_createState()) {
  VCL_BACKEND backend = std::exchange(origin_.backend, nullptr);
  VRT_Assign_Backend(&origin_.backend, backend);
  if (hash_ == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(hash_.get());
}

Source::~Source() {
  fetch_.reset();
  VRT_Assign_Backend(&origin_.backend, nullptr);
}

std::uint64_t Source::hash() const { return XXH3_64bits_digest(hash_.get()); }

// Nothing new, as long as the daemon says so, means that the writer is still there, and that its
// backend pauses. That may take its time.
Source::Step Source::next_followed(const struct busyobj* bo, std::span<std::byte> into,
                                   std::size_t& got) {
  const auto end = steady_clock::now() + stall_limit(bo);
  const auto limit = origin_.director->config().timeout;
  follower_.limit(limit);
  while (true) {
    const auto begin = steady_clock::now();
    const auto read = follower_.read(at_, into, kWaitSlice);
    if (read && *read > 0) {
      got = *read;
      at_ += got;
      return Step::kBytes;
    }
    if (read) return Step::kEnd;
    const auto now = steady_clock::now();
    // The daemon answered that there is nothing new; else it would have had `limit` more.
    const bool answered = read.error().code == Errc::kTimeout && now - begin < kWaitSlice + limit;
    if (!answered) {
      if (read.error().code == Errc::kTimeout) origin_.director->link().report(false);
      return Step::kSourceGone;
    }
    if (now >= end) return Step::kStalled;
  }
}

Source::Step Source::next_fetched(std::span<std::byte> into, std::size_t& got) {
  if (publication_) publication_->announce();
  ssize_t count = static_cast<ssize_t>(into.size());
  const enum vfp_status status = fetch_->pull(into.data(), &count);
  if (status == VFP_ERROR) {
    publication_.reset();
    return Step::kSourceGone;
  }
  got = static_cast<std::size_t>(count);
  at_ += got;
  if (publication_ && got > 0) publication_->write(into.first(got));
  if (status == VFP_OK) return Step::kBytes;
  if (publication_) {
    publication_->finish();
    publication_.reset();
  }
  return got > 0 ? Step::kBytes : Step::kEnd;
}

Source::Step Source::next(const struct busyobj* bo, std::span<std::byte> into, std::size_t& got) {
  got = 0;
  if (follower_) return next_followed(bo, into, got);
  if (fetch_ != nullptr) return next_fetched(into, got);
  if (!lease_) return Step::kSourceGone;
  const auto read = lease_.read(at_, into);
  if (!read) return Step::kFailed;
  got = *read;
  at_ += got;
  return got > 0 ? Step::kBytes : Step::kEnd;
}

bool Source::ask_backend(struct busyobj* bo, Writer writer) {
  if (origin_.backend == nullptr || !has_validator(metadata_)) return false;
  VSLb(bo->vsl, SLT_Debug, "objmapper follow: the backend is asked, from byte %ju on",
       static_cast<std::uintmax_t>(passed_));
  fetch_ = NestedFetch::open(bo, origin_.backend);
  if (fetch_ == nullptr) return false;
  if (fetch_->until_close() || !is_same_response(fetch_->response(), metadata_) ||
      (length_ && fetch_->length() && *length_ != *fetch_->length())) {
    fetch_.reset();
    return false;
  }
  if (writer && may_publish(fetch_->response(), metadata_)) {
    auto share = std::make_unique<tee::Share>();
    share->director = origin_.director;
    share->client = origin_.client;
    share->primary = origin_.primary;
    share->key = origin_.key;
    share->writer = std::move(writer);
    share->indexed = true;
    // Its headers are those of then.
    share->began = metadata_.ban_time;
    share->stem = removal_index::stem_of(bo);
    publication_.emplace(std::move(share), metadata_, tags_);
    if (!publication_->begin(fetch_->length())) publication_.reset();
  }
  return true;
}

// What comes first from a new source has been passed on already: it has to be the same.
Source::Step Source::catch_up(const struct busyobj* bo) {
  if (at_ == passed_) return Step::kBytes;
  std::unique_ptr<XXH3_state_t, FreeHash> again(XXH3_createState());
  if (again == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(again.get());
  std::array<std::byte, 16384> buffer;
  while (at_ < passed_) {
    const auto room =
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), passed_ - at_));
    std::size_t got = 0;
    const Step step = next(bo, std::span(buffer).first(room), got);
    if (step == Step::kEnd) return Step::kDiffers;
    if (step != Step::kBytes) return step;
    XXH3_64bits_update(again.get(), buffer.data(), got);
  }
  return XXH3_64bits_digest(again.get()) == hash() ? Step::kBytes : Step::kDiffers;
}

// The key may name something else by now, or still: what was stale when the writer began.
bool Source::is_followed(const ObjectInfo& info) const {
  if (length_ && info.length != ~std::uint64_t{0} && info.length != *length_) return false;
  if (origin_.handed_off) return true;
  if (info.offset != 0 || (info.total_bytes != 0 && info.total_bytes != info.length)) return false;
  const auto says = shared::decode(info.metadata);
  return says && is_same_object(*says, metadata_);
}

bool Source::find_other_source(struct busyobj* bo, bool in_the_store) {
  const auto limit = origin_.director->config().timeout;
  follower_ = Follower();
  lease_ = Lease();
  fetch_.reset();
  publication_.reset();
  at_ = 0;
  count(origin_.director->counters().c_follow_changed);
  Writer writer;
  const auto client = in_the_store ? origin_.director->link().client() : nullptr;
  if (client != nullptr) {
    origin_.client = client;
    PutOptions options;
    options.key = origin_.key;
    options.stale_object_id = origin_.replaces.object_id;
    options.stale_revision = origin_.replaces.revision;
    auto reserved = client->reserve_or_follow(options, limit);
    if (reserved) {
      if (auto* lease = std::get_if<Lease>(&*reserved)) {
        if (is_followed(lease->info())) {
          lease_ = std::move(*lease);
          return true;
        }
      } else if (auto* ours = std::get_if<Writer>(&*reserved)) {
        writer = std::move(*ours);
      } else {
        Follower& follower = std::get<Follower>(*reserved);
        if (wait_for_headers(follower, kHeadersLimit, limit) == Headers::kThere &&
            is_followed(follower.info())) {
          follower_ = std::move(follower);
          return true;
        }
      }
    }
  }
  return ask_backend(bo, std::move(writer));
}

enum vfp_status Source::pull(struct busyobj* bo, std::span<std::byte> into, std::size_t& got,
                             std::string& why) {
  while (true) {
    got = 0;
    Step step = catch_up(bo);
    if (step == Step::kBytes) step = next(bo, into, got);
    switch (step) {
      case Step::kBytes:
        XXH3_64bits_update(hash_.get(), into.data(), got);
        passed_ += got;
        if (got > 0) changes_ = 0;
        count(origin_.director->counters().c_follow_bytes, got);
        return VFP_OK;
      case Step::kEnd:
        if (!length_ || passed_ == *length_) return VFP_END;
        why = "it ends early";
        return VFP_ERROR;
      case Step::kFailed: why = "it cannot be read"; return VFP_ERROR;
      case Step::kDiffers:
        if (fetch_ == nullptr) break;
        why = "what the backend gives now begins in another way than what was passed on";
        return VFP_ERROR;
      case Step::kStalled:
      case Step::kSourceGone: break;
    }
    // All of it is here: its writer was only not let publish it.
    if (length_ && passed_ == *length_) return VFP_END;
    // A backend that broke off is no reason to go on. Who stalls still has the place in the store,
    // and who differs would be found there again.
    if (fetch_ != nullptr || ++changes_ > kChangesMax ||
        !find_other_source(bo, step == Step::kSourceGone)) {
      why = "its writer is gone, and the same is not to be had once more";
      return VFP_ERROR;
    }
  }
}

namespace {

enum vfp_status pull(struct vfp_ctx* vc, struct vfp_entry* entry, void* into,
                     ssize_t* length) noexcept {
  auto* hit = static_cast<director::Hit*>(entry->priv1);
  struct busyobj* bo = varnish.THR_GetBusyobj();
  const auto room = static_cast<std::size_t>(*length);
  *length = 0;
  try {
    std::size_t got = 0;
    std::string why;
    const enum vfp_status status =
        hit->source->pull(bo, std::span(static_cast<std::byte*>(into), room), got, why);
    if (status == VFP_ERROR) {
      count(hit->director->counters().c_follow_failed);
      return VFP_Error(vc, "objmapper: a followed body: %s", why.c_str());
    }
    *length = static_cast<ssize_t>(got);
    return status;
  } catch (const std::exception&) {
    return VFP_Error(vc, "objmapper: out of memory");
  }
}

}  // namespace

const struct vfp kFilter = {
    .name = "objmapper_follow",
    .init = nullptr,
    .pull = pull,
    .fini = nullptr,
    .priv1 = nullptr,
};

}  // namespace om::vmod::follow
