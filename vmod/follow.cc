#include "follow.h"

#include <algorithm>

#include "director_hit.h"
#include "storage.h"

namespace om::vmod::follow {

using abi::varnish;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

// So long the daemon is asked to wait in one go: a daemon that hangs is noticed soon after.
constexpr milliseconds kWaitSlice{100};
constexpr int kChangesMax = 3;

std::optional<std::string> field(const struct http* response, std::string_view name) {
  return director::headers_of(response)(name);
}

// Whether the backend's answer can be what the other cache got. Filters may have compressed that:
// then the lengths tell, and the bytes.
bool is_same_response(const struct http* response, const shared::Metadata& metadata) {
  if (response->status != metadata.status) return false;
  for (const std::string_view name : {"ETag", "Last-Modified", "Content-Encoding"}) {
    const auto now = field(response, name);
    const auto then = shared::header(metadata, name);
    if (now.has_value() != then.has_value() || (now && *now != *then)) return false;
  }
  return true;
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

Source::Step Source::next_followed(std::span<std::byte> into, std::size_t& got) {
  const auto end = steady_clock::now() + kStallLimit;
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
    if (now >= end) return Step::kSourceGone;
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

Source::Step Source::next(std::span<std::byte> into, std::size_t& got) {
  got = 0;
  if (follower_) return next_followed(into, got);
  if (fetch_ != nullptr) return next_fetched(into, got);
  if (!lease_) return Step::kSourceGone;
  const auto read = lease_.read(at_, into);
  if (!read) return Step::kFailed;
  got = *read;
  at_ += got;
  return got > 0 ? Step::kBytes : Step::kEnd;
}

bool Source::ask_backend(struct busyobj* bo, Writer writer) {
  VSLb(bo->vsl, SLT_Debug, "objmapper follow: the backend is asked, from byte %ju on",
       static_cast<std::uintmax_t>(passed_));
  if (origin_.backend == nullptr) return false;
  fetch_ = NestedFetch::open(bo, origin_.backend);
  if (fetch_ == nullptr) return false;
  if (fetch_->until_close() || !is_same_response(fetch_->response(), metadata_) ||
      (length_ && fetch_->length() && *length_ != *fetch_->length())) {
    fetch_.reset();
    return false;
  }
  if (writer) {
    auto share = std::make_unique<tee::Share>();
    share->director = origin_.director;
    share->client = origin_.client;
    share->primary = origin_.primary;
    share->key = origin_.key;
    share->writer = std::move(writer);
    share->indexed = true;
    share->began = metadata_.ban_time;
    publication_.emplace(std::move(share), metadata_, tags_);
    if (!publication_->begin(fetch_->length())) publication_.reset();
  }
  return true;
}

// What comes first from the new source has been passed on already: it has to be the same.
bool Source::skip_what_was_passed_on() {
  std::unique_ptr<XXH3_state_t, FreeHash> again(XXH3_createState());
  if (again == nullptr) return false;
  XXH3_64bits_reset(again.get());
  std::array<std::byte, 16384> buffer;
  while (at_ < passed_) {
    const auto room =
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), passed_ - at_));
    std::size_t got = 0;
    if (next(std::span(buffer).first(room), got) != Step::kBytes) return false;
    XXH3_64bits_update(again.get(), buffer.data(), got);
  }
  return XXH3_64bits_digest(again.get()) == hash();
}

bool Source::find_other_source(struct busyobj* bo) {
  VSC_objmd& counters = origin_.director->counters();
  const auto limit = origin_.director->config().timeout;
  follower_ = Follower();
  lease_ = Lease();
  fetch_.reset();
  publication_.reset();
  at_ = 0;
  count(counters.c_follow_changed);
  PutOptions options;
  options.key = origin_.key;
  if (const auto client = origin_.director->link().client(); client != nullptr) {
    origin_.client = client;
    auto reserved = client->reserve_or_follow(options, limit);
    if (reserved) {
      if (auto* lease = std::get_if<Lease>(&*reserved)) {
        lease_ = std::move(*lease);
        return !length_ || lease_.size() == *length_;
      }
      if (auto* writer = std::get_if<Writer>(&*reserved))
        return ask_backend(bo, std::move(*writer));
      follower_ = std::move(std::get<Follower>(*reserved));
      if (wait_for_headers(follower_, kHeadersLimit, limit) == Headers::kThere) {
        const std::uint64_t says = follower_.info().length;
        return !length_ || says == ~std::uint64_t{0} || says == *length_;
      }
      follower_ = Follower();
    }
  }
  return ask_backend(bo, Writer());
}

enum vfp_status Source::pull(struct busyobj* bo, std::span<std::byte> into, std::size_t& got,
                             std::string& why) {
  while (true) {
    switch (next(into, got)) {
      case Step::kBytes:
        XXH3_64bits_update(hash_.get(), into.data(), got);
        passed_ += got;
        count(origin_.director->counters().c_follow_bytes, got);
        return VFP_OK;
      case Step::kEnd:
        if (!length_ || passed_ == *length_) return VFP_END;
        why = "it ends early";
        return VFP_ERROR;
      case Step::kFailed: why = "it cannot be read"; return VFP_ERROR;
      case Step::kSourceGone: break;
    }
    // All of it is here: its writer was only not let publish it.
    if (length_ && passed_ == *length_) return VFP_END;
    // A backend that broke off is no reason to go on.
    if (fetch_ != nullptr || ++changes_ > kChangesMax || !find_other_source(bo)) {
      why = "its writer is gone, and the backend does not give the same once more";
      return VFP_ERROR;
    }
    if (!skip_what_was_passed_on()) {
      why = "what the backend gives now begins in another way than what was passed on";
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
