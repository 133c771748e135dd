#include "adopt_leases.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "lost_clients.h"

namespace om::vmod::adoption {

using std::chrono::milliseconds;

namespace {

// Keys that are asked for together: the time limit is looked at between them.
constexpr std::size_t kTogether = 64;
// What the daemon lends one connection is a part of its memory only.
constexpr std::size_t kConnectionsMax = 4;
constexpr milliseconds kAnswerLimit{1000};
// How late an end of the last lease may be noticed; what the daemon asks back wakes at once.
constexpr int kWatchMs = 500;
// Between attempts to connect again.
constexpr milliseconds kBackoffMin{50};
constexpr milliseconds kBackoffMax{2000};

// nullptr: not to be had.
std::shared_ptr<Client> connect_to(const ConnectOptions& options) {
  auto fresh = Client::connect(options);
  if (!fresh || !fresh->daemon().may_read || !fresh->subscribe(kRevokedEvents)) return nullptr;
  return std::make_shared<Client>(*std::move(fresh));
}

void take_events(const std::shared_ptr<Client>& client, int wait_ms) {
  struct pollfd fd = {client->native_handle(), POLLIN | POLLRDHUP, 0};
  (void)poll(&fd, 1, wait_ms);
  while (!client->closed()) {
    auto event = client->next_event(milliseconds(0));
    if (!event || !*event) break;
    if ((*event)->kind == Event::Kind::kRevoked)
      lease_body::is_short(client.get(), (*event)->lease_id);
    (void)lease_body::revoked(client.get(), (*event)->lease_id);
  }
}

// Until nobody has a lease of it any more, over any connection.
void watch_client(const ConnectOptions& options, std::shared_ptr<Client> client) {
  LostClients lost;
  milliseconds backoff = kBackoffMin;
  // Ours is the last reference: nobody has a lease of it.
  while (lost.any() || (client != nullptr && client.use_count() > 1)) {
    if (client == nullptr) client = connect_to(options);
    if (client == nullptr) {
      std::this_thread::sleep_for(backoff);
      backoff = std::min(backoff * 2, kBackoffMax);
      continue;
    }
    backoff = kBackoffMin;
    const bool more = lost.renew(client, lease_body::renew);
    take_events(client, more ? 0 : kWatchMs);
    if (client->closed()) lost.add(std::exchange(client, nullptr));
  }
}

}  // namespace

// One key, with the records that name an object under it.
struct Leases::Asked {
  std::string key;
  std::vector<const region::Record*> records;
  std::vector<region::LentRef> refs;
  bool answered = false;  // those that got no lease mean an object that is gone
};

bool Leases::connect(Store& store) {
  if (clients_.size() == kConnectionsMax) return false;
  options_.socket = store.config().socket;
  options_.timeout = kAnswerLimit;
  options_.name = "vmod_objmapper leases " + store.config().owner;
  auto fresh = connect_to(options_);
  if (fresh == nullptr) return false;
  clients_.push_back(std::move(fresh));
  return true;
}

void Leases::got(Store& store, const std::shared_ptr<Client>& client, Asked& asked, Lease lease) {
  const ObjectInfo& info = lease.info();
  std::vector<const region::Record*> means;
  std::optional<std::uint64_t> checksum;
  for (std::size_t i = 0; i < asked.records.size(); ++i) {
    const region::LentRef& ref = asked.refs[i];
    if (info.object_id != ref.object_id || info.length != ref.length || info.offset != 0 ||
        info.total_bytes != info.length || info.created_ns > ref.created_by_ns)
      continue;
    means.push_back(asked.records[i]);
    if ((asked.records[i]->flags & region::kHasBodyChecksum) != 0)
      checksum = asked.records[i]->body_checksum;
  }
  if (means.empty()) return;
  const std::uint64_t created_ns = info.created_ns;
  const auto held = lease_body::take(client, std::move(lease),
                                     {store.config().socket, asked.key, created_ns}, checksum);
  if (held == nullptr) {
    asked.answered = false;
    return;
  }
  for (const region::Record* record : means) held_.emplace(record, held);
}

void Leases::take_one(Store& store, Asked& asked) {
  while (!given_up_) {
    auto lease = clients_.back()->get(asked.key, kAnswerLimit);
    if (lease) {
      asked.answered = true;
      if (*lease) got(store, clients_.back(), asked, *std::move(*lease));
      return;
    }
    const Errc why = lease.error().code;
    if (why == Errc::kQuota)
      given_up_ = VTIM_mono() > until_ || !connect(store);
    else if (why == Errc::kTimeout || why == Errc::kUnavailable)
      given_up_ = true;
    else
      return;  // this one alone
  }
}

void Leases::take_batch(Store& store, std::vector<Asked>& asked, std::size_t begin,
                        std::size_t end) {
  std::vector<std::string> keys;
  keys.reserve(end - begin);
  for (std::size_t i = begin; i < end; ++i) keys.push_back(asked[i].key);
  const std::shared_ptr<Client> client = clients_.back();
  auto leases = client->get_many(keys, kAnswerLimit);
  if (!leases) {
    const Errc why = leases.error().code;
    given_up_ = why == Errc::kTimeout || why == Errc::kUnavailable;
    for (std::size_t i = begin; i < end && !given_up_; ++i) {
      // Each may take as long as all of them together; the CLI waits.
      if (VTIM_mono() > until_) return;
      take_one(store, asked[i]);
    }
    return;
  }
  for (std::size_t i = begin; i < end; ++i) {
    asked[i].answered = true;
    auto& lease = (*leases)[i - begin];
    if (lease) got(store, client, asked[i], *std::move(lease));
  }
}

void Leases::take(Store& store, const region::Region& region, Plan& plan, double until) {
  if (plan.lent.empty()) return;
  until_ = until;
  std::vector<bool> is_lent(plan.keep.size());
  for (const std::size_t place : plan.lent) is_lent[place] = true;
  std::vector<Asked> asked;
  std::unordered_map<std::string_view, std::size_t> by_key;  // into the region
  std::uint64_t leases = 0;
  std::uint64_t record_bytes = 0;
  for (std::size_t at = plan.by_use.size(); at-- > 0;) {
    const std::size_t place = plan.by_use[at];
    if (!is_lent[place]) continue;
    if (!lease_body::has_room(region, leases, record_bytes)) break;
    const region::Record* record = plan.keep[place].record;
    const auto ref = region.lent(*record);
    ++leases;
    record_bytes += lease_body::record_bytes(*record);
    const auto [known, is_new] = by_key.try_emplace(ref->key, asked.size());
    if (is_new) asked.push_back({std::string(ref->key), {}, {}});
    asked[known->second].records.push_back(record);
    asked[known->second].refs.push_back(*ref);
  }
  given_up_ = VTIM_mono() > until_ || !connect(store);
  for (std::size_t begin = 0; begin < asked.size() && !given_up_; begin += kTogether) {
    if (VTIM_mono() > until_) break;
    // Descriptors are had one by one.
    if (!lease_body::has_room(region, 0, 0)) break;
    take_batch(store, asked, begin, std::min(begin + kTogether, asked.size()));
  }

  std::unordered_map<const region::Record*, bool> answered;
  for (const Asked& one : asked)
    for (const region::Record* record : one.records) answered.emplace(record, one.answered);
  std::vector<bool> stays(plan.keep.size(), true);
  for (const std::size_t place : plan.lent) {
    const region::Record* record = plan.keep[place].record;
    if (held_.contains(record)) continue;
    stays[place] = false;
    const auto found = answered.find(record);
    const bool gone = found != answered.end() && found->second;
    ++plan.dropped[static_cast<std::size_t>(gone ? Reason::kLentGone : Reason::kNoLease)];
  }
  keep_only(plan, stays);
}

void Leases::watch() {
  held_.clear();
  for (std::shared_ptr<Client>& client : clients_) {
    // Signals are varnishd's business.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread([options = options_, client]() mutable {
        pthread_setname_np(pthread_self(), "objmapper-lease");
        try {
          watch_client(options, std::move(client));
        } catch (const std::exception&) {
          // Out of memory. Leases that are not given back cost this connection others, no more.
        }
      }).detach();
    } catch (const std::exception&) {  // no thread: the same
    }
    client = nullptr;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  clients_.clear();
}

}  // namespace om::vmod::adoption
