#include "handoff.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <variant>

namespace origin {
namespace {

// What is not whole by then is answered nevertheless, and followed. What is, is better taken over
// whole: a cache that follows has to copy.
constexpr std::chrono::milliseconds kWholeWithin{50};
constexpr std::size_t kPiece = std::size_t{256} << 10;
// Followers are told at these distances, or after this time: each telling is a packet.
constexpr std::uint64_t kAnnounceBytes = std::uint64_t{1} << 20;
constexpr std::chrono::milliseconds kAnnounceAfter{20};
// The cache takes the object over at once and holds it from then on; what nobody has come for goes.
constexpr std::chrono::minutes kLife{5};
// Longer keys would not fit the header of an answer.
constexpr std::size_t kKeyMax = 2048;

om::Pool::Options pool_options(const std::string& socket) {
  om::Pool::Options options;
  options.connect.socket = socket;
  options.connect.name = "example origin";
  return options;
}

}  // namespace

Fillers::Fillers(std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) threads_.emplace_back([this] { run(); });
}

Fillers::~Fillers() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool Fillers::try_run(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  if (busy_ == threads_.size()) return false;
  ++busy_;
  work_.push_back(std::move(work));
  changed_.notify_one();
  return true;
}

void Fillers::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ends_ || !work_.empty(); });
    if (work_.empty()) return;
    {
      const std::function<void()> work = std::move(work_.front());
      work_.pop_front();
      lock.unlock();
      work();
    }
    lock.lock();
    --busy_;
  }
}

// A body on its way into objmapper. Dropped before commit() it is aborted.
struct Handoff::Filling {
  om::Writer writer;
  std::shared_ptr<const Body> body;
  Segments& segments;
  std::uint64_t daemon_epoch;
  std::vector<std::byte> buffer{};
  std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();

  // False: that was the end of it.
  om::Result<bool> write_piece() {
    const auto places = writer.slices();
    if (!places.empty()) {
      const om::Slice& place = places.front();
      const auto mapped = segments.find(place.fd, place.offset + place.length, daemon_epoch);
      if (mapped != nullptr) {
        auto got = body->read(
            writer.written(),
            mapped->bytes().subspan(place.offset, std::min<std::uint64_t>(place.length, kPiece)),
            since);
        if (!got) return got.error();
        if (*got == 0) return false;
        if (auto advanced = writer.advance(*got); !advanced) return advanced.error();
        return true;
      }
    }
    // Also at its declared end, where there must be nothing more.
    buffer.resize(kPiece);
    auto got = body->read(writer.written(), buffer, since);
    if (!got) return got.error();
    if (*got == 0) return false;
    auto written = writer.write(std::span(buffer).first(*got));
    if (!written) return written.error();
    return true;
  }

  // True: all is written. False: time is up.
  om::Result<bool> write_until(std::chrono::steady_clock::time_point end) {
    while (true) {
      auto more = write_piece();
      if (!more) return more.error();
      if (!*more) return true;
      if (std::chrono::steady_clock::now() >= end) return false;
    }
  }

  // The rest, for those that follow.
  om::Result<void> write_and_announce() {
    while (true) {
      const std::uint64_t announced = writer.written();
      if (auto told = writer.announce(); !told) return told;
      const auto next = std::chrono::steady_clock::now() + kAnnounceAfter;
      while (writer.written() - announced < kAnnounceBytes &&
             std::chrono::steady_clock::now() < next) {
        auto more = write_piece();
        if (!more) return more.error();
        if (!*more) return commit();
      }
    }
  }

  om::Result<void> commit() {
    auto done = std::move(writer).commit();
    if (!done) return done.error();
    return {};
  }
};

Handoff::Handoff(Options options, Counters& counters)
    : options_(std::move(options)),
      counters_(counters),
      pool_(pool_options(options_.socket)),
      fillers_(options_.prefix.empty() ? 0 : options_.fillers) {}

std::optional<Handoff::Handed> Handoff::hand_over(const std::string& allowed,
                                                  const std::string& target,
                                                  const Resource& resource) {
  if (options_.prefix.empty() || !allowed.starts_with(options_.prefix)) return std::nullopt;
  const std::string key = allowed + target + "#" + resource.etag;
  if (key.size() > kKeyMax) return std::nullopt;
  auto handed = try_to(key, resource);
  if (!handed) {
    ++counters_.not_possible;
    return std::nullopt;
  }
  return *std::move(handed);
}

om::Result<Handoff::Handed> Handoff::try_to(const std::string& key, const Resource& resource) {
  om::PutOptions put;
  put.key = key;
  put.length = resource.length;
  put.expires_ns = om::expires_in(kLife);
  put.ephemeral = true;  // after a reboot nobody comes for it
  std::uint64_t daemon_epoch = 0;
  auto found = pool_.run([&put, &daemon_epoch](om::Client& client) {
    daemon_epoch = client.daemon().epoch;
    return client.reserve_or_follow(put);
  });
  if (!found) return found.error();
  Handed handed{key, resource.length};
  auto* writer = std::get_if<om::Writer>(&*found);
  if (writer == nullptr) {
    ++counters_.reused;
    if (const auto* lease = std::get_if<om::Lease>(&*found)) handed.length = lease->size();
    return handed;
  }

  const auto filling = std::make_shared<Filling>(
      Filling{std::move(*writer), resource.body, segments_, daemon_epoch});
  auto whole = filling->write_until(filling->since + kWholeWithin);
  if (!whole) return whole.error();
  if (!*whole) {
    if (auto told = filling->writer.announce(); !told) return told.error();
    const bool runs = fillers_.try_run([this, filling] {
      if (!filling->write_and_announce()) ++counters_.failed_midway;
    });
    if (runs) {
      ++counters_.handed_over;
      ++counters_.followed;
      return handed;
    }
    whole = filling->write_until(std::chrono::steady_clock::time_point::max());
    if (!whole) return whole.error();
  }
  handed.length = filling->writer.written();
  if (auto done = filling->commit(); !done) return done.error();
  ++counters_.handed_over;
  return handed;
}

}  // namespace origin
