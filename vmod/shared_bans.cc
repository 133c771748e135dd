#include "shared_bans.h"

#include <strings.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "ban_expression.h"

extern "C" {
#include "vre.h"
}

namespace om::vmod {

namespace {

// Each costs about half a KiB. Beyond, the oldest go, and objects of before count as banned.
constexpr std::size_t kBansMax = 65536;

class VrePattern final : public Pattern {
 public:
  explicit VrePattern(vre_t* code) : code_(code) {}
  VrePattern(const VrePattern&) = delete;
  VrePattern& operator=(const VrePattern&) = delete;
  ~VrePattern() override { VRE_free(&code_); }
  // What takes too long to decide is a match for ~ and, by the caller's negation, none for !~: the
  // limits are those of Varnish's own bans, none.
  [[nodiscard]] bool matches(std::string_view text) const override {
    // A length of nothing means: up to the NUL.
    return VRE_match(code_, text.empty() ? "" : text.data(), text.size(), 0, nullptr) >= 0;
  }

 private:
  vre_t* code_;
};

std::unique_ptr<Pattern> compile(const std::string& text) {
  int error = 0;
  int at = 0;
  vre_t* code = VRE_compile(text.c_str(), 0, &error, &at, 1);
  return code == nullptr ? nullptr : std::make_unique<VrePattern>(code);
}

std::string_view value_of(const char* begin, const char* end) {
  while (begin < end && (*begin == ' ' || *begin == '\t')) ++begin;
  return {begin, static_cast<std::size_t>(end - begin)};
}

std::optional<std::string_view> find_header(const struct http* http, std::string_view name) {
  for (unsigned i = HTTP_HDR_FIRST; i < http->nhd; ++i) {
    const txt& field = http->hd[i];
    if (field.b == nullptr || static_cast<std::size_t>(field.e - field.b) <= name.size()) continue;
    if (field.b[name.size()] == ':' && strncasecmp(field.b, name.data(), name.size()) == 0)
      return value_of(field.b + name.size() + 1, field.e);
  }
  return std::nullopt;
}

std::optional<std::string_view> find_header(std::span<const std::string> headers,
                                            std::string_view name) {
  for (const std::string& line : headers)
    if (line.size() > name.size() && line[name.size()] == ':' &&
        strncasecmp(line.data(), name.data(), name.size()) == 0)
      return value_of(line.data() + name.size() + 1, line.data() + line.size());
  return std::nullopt;
}

}  // namespace

struct SharedBans::Impl {
  struct Ban {
    double time;
    mutable double here;  // guarded by mutex; the same for this cache's own fetches
    std::string text;
    BanExpression expression;
  };
  mutable std::shared_mutex mutex;
  std::vector<std::shared_ptr<const Ban>> bans;    // guarded by mutex; oldest first
  std::unordered_map<std::string, double> newest;  // guarded by mutex; time by text
  std::atomic<double> floor{0};                    // what is older may have been banned unseen
  std::atomic<double> floor_here{0};               // as Ban::here
  std::atomic<double> unread{0};                   // newest ban that is not in `bans` yet

  bool any_matches(double since, const BanSubject& subject, bool is_own_fetch) const {
    for (const std::atomic<double>* const limit : {is_own_fetch ? &floor_here : &floor, &unread})
      if (const double time = limit->load(std::memory_order_acquire); time > 0 && since <= time)
        return true;
    const std::shared_lock lock(mutex);
    for (auto it = bans.rbegin(); it != bans.rend() && (*it)->time >= since; ++it)
      if ((!is_own_fetch || (*it)->here >= since) && (*it)->expression.may_match(subject))
        return true;
    return false;
  }
  void raise_floors(double time, double here) {
    raise(floor, time);
    raise(floor_here, here);
  }
  static void raise(std::atomic<double>& limit, double time) {
    double before = limit.load();
    while (before < time && !limit.compare_exchange_weak(before, time)) {
    }
  }
};

SharedBans::SharedBans() : impl_(std::make_unique<Impl>()) {}
SharedBans::~SharedBans() = default;

bool SharedBans::maybe_banned(const struct http* request, const SharedCandidate& object) const {
  if (object.ban_time > VTIM_real()) return true;
  BanSubject subject;
  const txt& url = request->hd[HTTP_HDR_URL];
  subject.url = {url.b, static_cast<std::size_t>(url.e - url.b)};
  subject.request_header = [&](std::string_view name) { return find_header(request, name); };
  subject.status = object.status;
  subject.object_header = [&](std::string_view name) { return find_header(object.headers, name); };
  return impl_->any_matches(object.ban_time, subject, false);
}

bool SharedBans::banned_since(double since, FetchedBy by, const struct http* request,
                              struct worker* wrk, struct objcore* oc) const {
  const bool is_own_fetch = by == FetchedBy::kUs;
  if (!is_own_fetch && since > VTIM_real()) return true;
  const std::atomic<double>& floor = is_own_fetch ? impl_->floor_here : impl_->floor;
  {
    const std::shared_lock lock(impl_->mutex);
    if ((impl_->bans.empty() || impl_->bans.back()->time < since) &&
        since > floor.load(std::memory_order_acquire) &&
        since > impl_->unread.load(std::memory_order_acquire))
      return false;
  }
  BanSubject subject;
  const txt& url = request->hd[HTTP_HDR_URL];
  subject.url = {url.b, static_cast<std::size_t>(url.e - url.b)};
  subject.request_header = [&](std::string_view name) { return find_header(request, name); };
  const char* status = HTTP_GetHdrPack(wrk, oc, "\010:status:");
  subject.status = status == nullptr ? 0 : static_cast<unsigned>(std::strtoul(status, nullptr, 10));
  subject.headers_are_final = true;
  std::string name_of_header;
  subject.object_header = [&](std::string_view name) -> std::optional<std::string_view> {
    if (name.size() > 125) return std::nullopt;
    name_of_header = static_cast<char>(name.size() + 1);
    name_of_header += name;
    name_of_header += ':';
    const char* value = HTTP_GetHdrPack(wrk, oc, name_of_header.c_str());
    if (value == nullptr) return std::nullopt;
    return std::string_view(value);
  };
  return impl_->any_matches(since, subject, is_own_fetch);
}

void SharedBans::add(double time, const std::string& canonical) {
  auto tests = parse_ban(canonical, BanQuotes::kCanonical);
  // One that we cannot read may be about anything.
  if (!tests) return raise_floor(time);
  auto ban = std::make_shared<const Impl::Ban>(Impl::Ban{
      time, std::min(time, VTIM_real()), canonical, BanExpression(*std::move(tests), compile)});
  const std::unique_lock lock(impl_->mutex);
  const auto by_time = [](const auto& one, double at) { return one->time < at; };
  if (const auto known = impl_->newest.find(canonical); known != impl_->newest.end()) {
    auto it = std::lower_bound(impl_->bans.begin(), impl_->bans.end(), known->second, by_time);
    while (it != impl_->bans.end() && (*it)->text != canonical) ++it;
    if (known->second >= time) {
      // Dated already, in the future it may be.
      if (it != impl_->bans.end()) (*it)->here = std::max((*it)->here, ban->here);
      return;
    }
    if (it != impl_->bans.end()) impl_->bans.erase(it);
  }
  impl_->newest[canonical] = time;
  impl_->bans.insert(std::lower_bound(impl_->bans.begin(), impl_->bans.end(), time, by_time), ban);
  if (impl_->bans.size() <= kBansMax) return;
  const auto& oldest = impl_->bans.front();
  impl_->newest.erase(oldest->text);
  impl_->raise_floors(oldest->time, oldest->here);
  impl_->bans.erase(impl_->bans.begin());
}

void SharedBans::raise_floor(double time) {
  impl_->raise_floors(time, std::min(time, VTIM_real()));
}

void SharedBans::raise_floor_here(double time) { Impl::raise(impl_->floor_here, time); }

void SharedBans::set_unread(double time) noexcept { Impl::raise(impl_->unread, time); }

void SharedBans::reset_unread(double time) noexcept { impl_->unread.store(time); }

std::size_t SharedBans::size() const {
  const std::shared_lock lock(impl_->mutex);
  return impl_->bans.size();
}

}  // namespace om::vmod
