#include "handoff.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <variant>

namespace origin {
namespace {

// From here on it pays to answer before all is written.
constexpr std::uint64_t kFollowFrom = std::uint64_t{4} << 20;
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
  std::vector<std::byte> buffer = std::vector<std::byte>(kPiece);
  std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();

  // False: that was the end of it.
  om::Result<bool> write_piece() {
    auto got = body->read(writer.written(), buffer, since);
    if (!got) return got.error();
    if (*got == 0) return false;
    auto written = writer.write(std::span(buffer).first(*got));
    if (!written) return written.error();
    return true;
  }

  // How long it has become.
  om::Result<std::uint64_t> write_rest(bool announces) {
    std::uint64_t announced = writer.written();
    auto last = std::chrono::steady_clock::now();
    while (true) {
      auto more = write_piece();
      if (!more) return more.error();
      if (!*more) break;
      if (!announces) continue;
      const auto now = std::chrono::steady_clock::now();
      if (writer.written() - announced < kAnnounceBytes && now - last < kAnnounceAfter) continue;
      if (auto told = writer.announce(); !told) return told.error();
      announced = writer.written();
      last = now;
    }
    const std::uint64_t length = writer.written();
    auto done = std::move(writer).commit();
    if (!done) return done.error();
    return length;
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
  auto found = pool_.run([&put](om::Client& client) { return client.reserve_or_follow(put); });
  if (!found) return found.error();
  Handed handed{key, resource.length};
  auto* writer = std::get_if<om::Writer>(&*found);
  if (writer == nullptr) {
    ++counters_.reused;
    if (const auto* lease = std::get_if<om::Lease>(&*found)) handed.length = lease->size();
    return handed;
  }

  auto filling = std::make_shared<Filling>();
  filling->writer = std::move(*writer);
  filling->body = resource.body;
  if (resource.slow || resource.length.value_or(kFollowFrom) >= kFollowFrom) {
    // An origin that cannot even begin still has the chance to say so by its status.
    if (auto begun = filling->write_piece(); !begun) return begun.error();
    if (auto told = filling->writer.announce(); !told) return told.error();
    const bool runs = fillers_.try_run([this, filling] {
      if (!filling->write_rest(true)) ++counters_.failed_midway;
    });
    if (runs) {
      ++counters_.handed_over;
      ++counters_.followed;
      return handed;
    }
  }
  auto done = filling->write_rest(false);
  if (!done) return done.error();
  handed.length = *done;
  ++counters_.handed_over;
  return handed;
}

}  // namespace origin
