#include "publication.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <utility>

#include "base/limits.h"
#include "lease_body.h"
#include "removal_index.h"
#include "storage.h"

namespace om::vmod::tee {

using abi::varnish;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

// Followers are told of so many bytes together, or of less after kAnnounceInterval: each telling is
// a packet, and as a rule nobody follows.
constexpr std::uint64_t kAnnounceBytes = 1024 * 1024;
// What writing may take without anybody having to wait: the rest counts as waiting.
constexpr milliseconds kWriteFree{2};
constexpr std::uint64_t kWriteBytesPerMs = 100 * 1024;
// Room for a body of unknown length, each time at least.
constexpr std::uint64_t kRoomBytes = 256 * 1024;
// Where the daemon lends no more, or is full, so many leases go back for the next ones.
constexpr unsigned kGiveBack = 8;
constexpr unsigned kGiveBackMax = 32;
// For a room, which is for so many bodies like this one at most.
constexpr unsigned kGiveBackForRoom = 16;
// A Vary index lives so long at least: it must be there for as long as its variants are, which have
// timers of their own and are refreshed.
constexpr std::uint64_t kIndexLifeNs = std::uint64_t{24} * 3600 * 1'000'000'000;
// Commits that were not answered yet.
constexpr std::size_t kCommitsMax = 256;
// From so many on, who commits looks for answers himself. As a rule somebody else reads them, while
// he waits for one of his own; with room ahead hardly anybody waits for any.
constexpr std::size_t kCommitsLook = 64;

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

enum class What { kBody, kBodyAhead, kIndex };

// With what is still to be said of it.
void commit(Director& director, Writer writer, std::optional<Amendment> last, What what) {
  if (!may_commit(director)) return;
  const std::uint64_t bytes = writer.written();
  const auto is_over = [&director, bytes, what](const Result<PutResult>& done) {
    commits_under_way.fetch_sub(1, std::memory_order_relaxed);
    VSC_objmd& counters = director.counters();
    // It may be all that the daemon is asked, where misses are no messages.
    if (done) director.link().report(true);
    if (!done) {
      count_trouble(director, done.error());
    } else if (what != What::kIndex) {
      if (what == What::kBodyAhead) count(counters.c_tee_ahead);
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

}  // namespace

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
  if (unsaid_ && !ahead_) amendment.length = length_;
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
    const auto ask = [&] {
      if (!share.claim || options.key != share.primary)
        return share.client->reserve(options, left());
      // Those who wait for what was claimed follow from now on.
      Claim claim = *std::exchange(share.claim, std::nullopt);
      return share.client->reserve(options, std::move(claim), left());
    };
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
    commit(*share.director, std::move(first), std::move(amendment), What::kIndex);
  return true;
}

bool Publication::take_ahead() {
  Share& share = *share_;
  if ((!share.ahead && !share.claim) || !length_ || *length_ == 0 || !metadata_.vary.empty())
    return false;
  if (share.claim && (*length_ >= kFollowedBytesMin || share.claim->wanted())) return false;
  // What is removed up to here is for removed_meanwhile() to find, and the rest for the daemon.
  const auto seen = share.director->removals().applied(share.client->daemon().epoch);
  if (!seen) return false;
  PutOptions options;
  options.key = share.primary;
  options.length = length_;
  options.held = *length_ >= landing::kBytesMin;
  options.removals_seen = seen;
  const auto ask = [&](bool again) {
    return timed([&] { return share.client->reserve_ahead(options, left(), again); });
  };
  auto writer = ask(false);
  // The daemon asks nobody to make room for room: those that are used least here go back.
  const struct busyobj* bo = varnish.THR_GetBusyobj();
  for (unsigned some = kGiveBackForRoom;
       !writer && bo != nullptr && some <= kGiveBackMax && left().count() > 0; some *= 2) {
    const Errc why = writer.error().code;
    if ((why != Errc::kNoSpace && why != Errc::kQuota) ||
        !lease_body::give_back(bo->wrk, share.client.get(), some, why == Errc::kNoSpace))
      break;
    writer = ask(true);
  }
  if (!writer || !*writer) return false;
  share.writer = **std::move(writer);
  share.key = share.primary;
  if (share.claim) share.writer.take(*std::exchange(share.claim, std::nullopt));
  return true;
}

bool Publication::begin(std::optional<std::uint64_t> length) {
  length_ = length;
  ahead_ = take_ahead();
  if (!ahead_ && !choose_key()) return false;
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
  return !share.director->removals().applied(share.client->daemon().epoch) ||
         share.began > VTIM_real() || removal_index::removed_since(share.stem, tags_, share.began);
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
  // The daemon dates what it removes later than all puts that it knows of; of one that is put ahead
  // it hears now. A ban of since the clock was set back is about it, too.
  if (ahead_) metadata_.ban_time -= removal_index::set_back();
  std::optional<Amendment> last;
  if (refreshes_ || unsaid_ || metadata_.gzip_bits) {
    last = amendment();
    if (!last) return;
  }
  // Or by more than is remembered: then such a ban may seem to be older.
  const bool began_later = ahead_ && share_->began > VTIM_real();
  if (began_later || !share_->director->removals().applied(share_->client->daemon().epoch)) {
    // It may be one of what was removed.
    count(share_->director->counters().c_tee_behind);
    share_->writer = Writer();
    return;
  }
  if (refreshes_) {
    refresh(*share_->director, std::move(share_->writer), share_->replaces.object_id, *last);
  } else {
    if (ahead_ && *length_ <= kTogetherBytesMax)
      share_->director->link().publishes(*share_->client);
    commit(*share_->director, std::move(share_->writer), std::move(last),
           ahead_ ? What::kBodyAhead : What::kBody);
  }
  share_->writer = Writer();
  if (commits_under_way.load(std::memory_order_relaxed) >= kCommitsLook) share_->client->look();
}

}  // namespace om::vmod::tee
