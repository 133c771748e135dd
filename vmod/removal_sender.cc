// The sender of a link (removal_link.h): bans that are made here without the daemon are seen when
// Varnish makes them, and go to it in their order, until it has them. Those that it has already are
// made here too (commit_ban()), and must not go back to it.
#include <syslog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ban_expression.h"
#include "bans.h"
#include "base/ban_text.h"
#include "base/limits.h"
#include "region/ban_log.h"
#include "removal_link_impl.h"
#include "shared_bans.h"
#include "storage.h"

namespace om::vmod {

using abi::varnish;
using std::chrono::milliseconds;

namespace {

constexpr std::size_t kLocalBansMax = 10'000;
constexpr std::size_t kSpecHeader = 16;  // of Varnish's specs; without tests it is a placeholder

// Set while this thread makes a ban that the daemon has already.
thread_local bool ban_is_recorded = false;

// The daemon's text into Varnish's builder; empty, or why not. The builder is gone afterwards.
std::string build_ban(const std::string& canonical, bool commit) {
  const auto tests = parse_ban(canonical, BanQuotes::kCanonical);
  if (!tests) return tests.error().what;
  struct ban_proto* proto = varnish.BAN_Build();
  if (proto == nullptr) return "out of memory";
  for (const BanTest& test : *tests) {
    const char* error =
        varnish.BAN_AddTest(proto, test.field.c_str(), test.oper.c_str(), test.operand.c_str());
    if (error == nullptr) continue;
    std::string why = error;
    varnish.BAN_Abandon(proto);
    return why;
  }
  if (!commit) {
    varnish.BAN_Abandon(proto);
    return "";
  }
  const char* error = varnish.BAN_Commit(proto);
  if (error == nullptr) return "";
  std::string why = error;
  varnish.BAN_Abandon(proto);
  return why;
}

// Not that it does not answer, of which the receiver tells.
bool is_refusal(Errc code) {
  return code != Errc::kUnavailable && code != Errc::kTimeout && code != Errc::kBusy;
}

}  // namespace

std::string check_ban(const std::string& canonical) { return build_ban(canonical, false); }

std::string commit_ban(const std::string& canonical) {
  // Also where memory ends: what this thread bans later has to travel.
  struct Recorded {
    Recorded() { ban_is_recorded = true; }
    Recorded(const Recorded&) = delete;
    Recorded& operator=(const Recorded&) = delete;
    ~Recorded() { ban_is_recorded = false; }
  };
  const Recorded recorded;
  return build_ban(canonical, true);
}

void RemovalLink::Impl::run_sender() noexcept {
  pthread_setname_np(pthread_self(), "objmapper-bans");
  while (true) {
    try {
      send_local_bans();
    } catch (const std::exception& failure) {
      const std::string text = std::string("removals: sender starts over: ") + failure.what();
      if (refusal.is_news(text)) notice(LOG_ERR, nullptr, text);
      std::this_thread::sleep_for(kRemovalBackoffMax);
    }
  }
}

void RemovalLink::Impl::send_local_bans() {
  std::vector<LocalBan> taken;
  bool lost = false;
  {
    std::unique_lock lock(local_mutex);
    local_changed.wait(lock, [this] { return !local_bans.empty() || local_lost; });
    taken.swap(local_bans);
    lost = std::exchange(local_lost, false);
  }
  // First all of them count here, then they travel.
  std::vector<std::string> texts;
  for (const LocalBan& one : taken) {
    const auto tests = tests_of_spec(one.spec);
    texts.push_back(tests ? canonical_ban(*tests) : std::string(kEverything));
    // Varnish takes longer ones than travel.
    if (texts.back().size() > kKeyBytesMax) texts.back() = kEverything;
    link.bans_->add(one.time, texts.back());
  }
  if (lost) {
    link.bans_->raise_floor(VTIM_real());
    texts.emplace_back(kEverything);
  }
  {
    const std::lock_guard lock(local_mutex);
    double newest = local_lost ? newest_ban : 0.0;
    for (const LocalBan& one : local_bans) newest = std::max(newest, one.time);
    link.bans_->reset_unread(newest);
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    gauge(counters->g_unsent, texts.size() - i);
    send(texts[i]);
    if (i + 1 < texts.size()) continue;
    {
      const std::lock_guard lock(local_mutex);
      unsent_from = 0;
      for (const LocalBan& one : local_bans)
        if (unsent_from == 0 || one.time < unsent_from) unsent_from = one.time;
    }
    bans::note_sent();
  }
  gauge(counters->g_unsent, 0);
}

// Until the daemon has it: these have been answered to whoever made them.
void RemovalLink::Impl::send(const std::string& canonical) {
  milliseconds backoff = kRemovalBackoffMin;
  while (true) {
    RemovalRequest request;
    request.kind = RemovalKind::kBan;
    request.what = canonical;
    request.origin = name;
    request.token = new_token(OursState::kDone);
    request.wait = milliseconds(0);
    std::optional<Error> failure;
    if (auto client = pool.client(); !client)
      failure = client.error();
    else if (auto recorded = (*client)->remove_everywhere(request); !recorded)
      failure = recorded.error();
    if (!failure) {
      count(counters->c_recorded);
      if (refusal.is_over()) notice(LOG_NOTICE, nullptr, "removals: the daemon takes bans again");
      return;
    }
    count(counters->c_failed);
    // Recorded or not: if it comes as an event, it is applied once more, which does no harm.
    forget_token(request.token);
    if (failure->code == Errc::kMalformed) {
      notice(LOG_ERR, nullptr,
             "removals: the daemon does not take the ban " + canonical + ": " + describe(*failure));
      return;
    }
    const std::string text =
        "removals: the daemon takes no bans of this cache: " + describe(*failure);
    if (is_refusal(failure->code) && refusal.is_news(text)) notice(LOG_ERR, nullptr, text);
    std::this_thread::sleep_for(backoff);
    backoff = std::min(backoff * 2, kRemovalBackoffMax);
  }
}

void note_local_ban(std::span<const std::byte> spec) noexcept {
  if (spec.size() <= kSpecHeader) return;
  Registry& all = registry();
  const std::size_t links = all.count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < links; ++i) all.links[i]->note_ban(spec, ban_is_recorded);
}

void RemovalLink::note_ban(std::span<const std::byte> spec, bool recorded) noexcept {
  const double time = varnish.ban_time(reinterpret_cast<const std::uint8_t*>(spec.data()));
  if (recorded) {
    const std::lock_guard lock(impl_->local_mutex);
    impl_->newest_ban = std::max(impl_->newest_ban, time);
    return;
  }
  LocalBan ban;
  ban.time = time;
  try {
    ban.spec.assign(spec.begin(), spec.end());
  } catch (const std::exception&) {
    // Without its tests it stands for everything.
  }
  impl_->queue(std::move(ban));
}

void RemovalLink::Impl::queue(LocalBan ban) noexcept {
  {
    const std::lock_guard lock(local_mutex);
    link.bans_->set_unread(ban.time);
    newest_ban = std::max(newest_ban, ban.time);
    if (unsent_from == 0 || ban.time < unsent_from) unsent_from = ban.time;
    try {
      if (local_bans.size() < kLocalBansMax)
        local_bans.push_back(std::move(ban));
      else
        local_lost = true;
    } catch (const std::exception&) {
      local_lost = true;
    }
  }
  local_changed.notify_one();
}

double RemovalLink::bans_sent_until(const std::string& socket) noexcept {
  Registry& all = registry();
  const std::size_t links = all.count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < links; ++i) {
    Impl& impl = *all.links[i]->impl_;
    if (impl.socket != socket) continue;
    const std::lock_guard lock(impl.local_mutex);
    return impl.unsent_from == 0 ? impl.newest_ban : std::nextafter(impl.unsent_from, 0.);
  }
  return 0;
}

void RemovalLink::send_unsent(const std::string& socket) {
  Registry& all = registry();
  const std::size_t links = all.count.load(std::memory_order_acquire);
  for (std::size_t i = 0; i < links; ++i)
    if (all.links[i]->impl_->socket == socket) all.links[i]->impl_->send_unsent();
}

void RemovalLink::Impl::send_unsent() {
  bans::Unsent unsent = bans::take_unsent(socket);
  if (unsent.specs.empty() && !unsent.lost) return;
  notice(LOG_NOTICE, nullptr,
         "removals: " + std::to_string(unsent.specs.size()) +
             " bans that the other caches had not got before this varnishd ended are sent now" +
             (unsent.lost ? ", and one of everything for those that are not known any more" : ""));
  for (auto& spec : unsent.specs) {
    const double time = region::ban_spec_time(spec);
    queue({time, std::move(spec)});
  }
  if (unsent.lost) queue({VTIM_real(), {}});
}

}  // namespace om::vmod
