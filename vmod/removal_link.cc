#include "removal_link.h"

#include <signal.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <thread>
#include <utility>

#include "bans.h"
#include "removal_index.h"
#include "removal_link_impl.h"
#include "shared_bans.h"
#include "storage.h"

namespace om::vmod {

using std::chrono::milliseconds;

namespace {

constexpr milliseconds kWaitAtStart{1000};

// For threads that begin while it lives: signals are varnishd's business.
class NoSignals {
 public:
  NoSignals() {
    sigset_t every;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before_);
  }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

}  // namespace

Registry& registry() {
  static auto* one = new Registry;  // never destroyed: threads use it
  return *one;
}

RemovalLink::RemovalLink(const std::string& socket)
    : bans_(std::make_unique<SharedBans>()), impl_(std::make_unique<Impl>(*this, socket)) {}
RemovalLink::~RemovalLink() = default;

RemovalLink& RemovalLink::to(const std::string& socket) {
  Registry& all = registry();
  for (std::size_t i = 0; i < all.count.load(); ++i)
    if (all.links[i]->impl_->socket == socket) return *all.links[i];
  removal_index::subscribe();
  bans::listen();
  auto* link = new RemovalLink(socket);
  link->impl_->send_unsent();
  // What this varnishd banned before there was a link stays here.
  link->impl_->newest_ban = VTIM_real();
  if (all.count.load() < all.links.size()) {
    all.links[all.count.load()] = link;
    all.count.fetch_add(1, std::memory_order_release);
  }
  removal_index::watch(*link);
  Impl& impl = *link->impl_;
  bans::note_sent();
  const NoSignals none;
  impl.sender = std::thread([&impl] { impl.run_sender(); });
  return *link;
}

void RemovalLink::start() {
  Registry& all = registry();
  if (all.count.load() > 0 && !adoption::serves_clients()) bans::hold_all();
  for (std::size_t i = 0; i < all.count.load(); ++i) {
    Impl& impl = *all.links[i]->impl_;
    if (impl.receives) continue;
    impl.receives = true;
    {
      const NoSignals none;
      pthread_t thread{};
      WRK_BgThread(
          &thread, "objmapper-remov",
          [](struct worker* wrk, void* priv) -> void* {
            static_cast<Impl*>(priv)->run_receiver(wrk);
            return nullptr;
          },
          &impl);
    }
    std::unique_lock lock(impl.start_mutex);
    impl.start_changed.wait_for(lock, kWaitAtStart, [&impl] { return impl.started; });
  }
}

void RemovalLink::use(const struct vcl* vcl, RemovalLink& link) {
  {
    const std::unique_lock lock(registry().mutex);
    registry().of_vcl[vcl] = &link;
  }
  link.impl_->match_again();
}

void RemovalLink::prefix_is_set(const struct vcl* vcl) {
  if (RemovalLink* link = of(vcl); link != nullptr) link->impl_->match_again();
}

void RemovalLink::forget(const struct vcl* vcl) {
  const std::unique_lock lock(registry().mutex);
  registry().of_vcl.erase(vcl);
}

RemovalLink* RemovalLink::of(const struct vcl* vcl) {
  const std::shared_lock lock(registry().mutex);
  const auto found = registry().of_vcl.find(vcl);
  return found == registry().of_vcl.end() ? nullptr : found->second;
}

const std::string& RemovalLink::socket() const noexcept { return impl_->socket; }

std::optional<std::uint64_t> RemovalLink::applied(std::uint64_t daemon_epoch) const noexcept {
  const auto page = impl_->page.load();
  if (page == nullptr || page->daemon_epoch() != daemon_epoch) return std::nullopt;
  const std::uint64_t last = impl_->applied.load(std::memory_order_acquire);
  if (page->head() != last) return std::nullopt;
  return last;
}

Result<RemovalLink::Ours> RemovalLink::record(RemovalKind kind, std::string what, std::string tag) {
  Impl& impl = *impl_;
  RemovalRequest request;
  request.kind = kind;
  request.what = std::move(what);
  request.tag = std::move(tag);
  request.origin = impl.name;
  request.wait = kWaitForCaches;
  const auto ask = [&]() -> Result<RemovalDone> {
    const auto client = OM_TRY(impl.pool.wait_for_client(kWaitForDaemon));
    return client->remove_everywhere(request);
  };
  request.token = impl.new_token(Impl::OursState::kWaiting);
  auto done = ask();
  if (!done && done.error().code == Errc::kUnavailable) {
    // A daemon that was restarted since: its first connection is the one to find out.
    impl.forget_token(request.token);
    request.token = impl.new_token(Impl::OursState::kWaiting);
    done = ask();
  }
  if (!done) {
    count(impl.counters->c_failed);
    impl.forget_token(request.token);
    impl.wake_receiver();
    return std::move(done).error();
  }
  count(impl.counters->c_recorded);
  if (done->unapplied > 0) count(impl.counters->c_unapplied, done->unapplied);
  if (kind == RemovalKind::kBan) bans_->add(seconds(done->time_ns), request.what);
  return Ours(*this, request.token);
}

RemovalLink::Ours::~Ours() {
  if (link_ == nullptr) return;
  Impl& impl = *link_->impl_;
  {
    const std::lock_guard lock(impl.ours_mutex);
    const auto found = impl.ours.find(token_);
    if (found != impl.ours.end()) found->second = Impl::OursState::kDone;
  }
  impl.wake_receiver();
}

}  // namespace om::vmod
