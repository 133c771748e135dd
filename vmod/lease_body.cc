#include "lease_body.h"

#include <sys/resource.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <limits>
#include <list>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "errands.h"
#include "fetch.h"
#include "redirect.h"
#include "storage.h"

namespace om::vmod::lease_body {

using abi::varnish;

namespace {

thread_local const struct objcore* expected_object = nullptr;
thread_local std::array<std::uint8_t, 64> scrap;

// Of a store: leases, and what of its memory their records may take. The daemon lends more than
// that to the two connections of a director.
constexpr std::uint64_t kLeasesMax = kLeasesPerPeerMax;
constexpr std::uint64_t kRecordsShare = 8;  // of the region, divided by

// Each body on disk holds a descriptor. A quarter of what the process may have is theirs at most.
std::atomic<std::uint64_t> files_held{0};
std::uint64_t files_max() {
  static const std::uint64_t max = [] {
    struct rlimit limit = {};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return std::uint64_t{256};
    return static_cast<std::uint64_t>(limit.rlim_cur) / 4;
  }();
  return max;
}

// So many go at a time: a fetch is not to wait for all that is too much.
constexpr unsigned kOverBudgetMax = 4;

// Objects that hold leases, to be found when one is asked back, or has to be taken again. Never
// destroyed: threads use it.
struct Holders {
  struct Holder {
    struct objcore* oc;
    std::shared_ptr<const Held> held;
    bool asked_back;
  };
  std::mutex mutex;
  std::multimap<std::pair<const Client*, std::uint64_t>, Holder> of;
  std::map<const Client*, std::size_t> asked_back;  // of those, how many are still held

  // It is not, any more. Under the lock.
  void not_held(const Client* client, const Holder& holder) {
    if (!holder.asked_back) return;
    if (const auto left = asked_back.find(client); --left->second == 0) asked_back.erase(left);
  }
};
Holders& holders() {
  static auto* all = new Holders;
  return *all;
}

// A landed body is published when its record is: soon after.
constexpr std::uint64_t kPublishedWithinNs = 60'000'000'000;
// For all that the daemon is asked, while a client waits.
constexpr std::chrono::milliseconds kRemoveLimit{50};

}  // namespace

// What is not removed, whoever takes it next finds out.
bool remove_shared(Client& client, const std::string& key, std::uint64_t object_id) noexcept {
  if (key.empty()) return true;  // nobody else can find it
  const auto end = std::chrono::steady_clock::now() + kRemoveLimit;
  try {
    const auto there = client.stat(key, kRemoveLimit);
    if (!there) return false;
    if (!*there || (*there)->object_id != object_id) return true;
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    return client.remove(key, std::max(left, std::chrono::milliseconds(1))).has_value();
  } catch (const std::exception&) {
    return false;  // out of memory
  }
}

// Where the bytes are. To be read as long as this is held; right as long as they are leased.
struct Where {
  Where(const Lease& lease, std::vector<std::span<const std::byte>> mapped, Pins kept)
      : memory(std::move(mapped)), pins_(std::move(kept)) {
    for (auto& pin : lease.pins()) pins_.push_back(std::move(pin));
    if (!lease.info().on_disk) return;
    files_ = lease.slices();
    files_held.fetch_add(files_.size());
  }
  Where(const Where&) = delete;
  Where& operator=(const Where&) = delete;
  ~Where() { files_held.fetch_sub(files_.size()); }
  [[nodiscard]] BodyView view() const {
    BodyView view;
    for (const auto& part : memory) view.add(part.data(), part.size());
    for (const Slice& slice : files_) view.add(BorrowedFd(slice.fd), slice.offset, slice.length);
    return view;
  }
  const std::vector<std::span<const std::byte>> memory;

 private:
  std::vector<Slice> files_;
  Pins pins_;
};

// A lease on them.
struct Loan {
  Loan(std::shared_ptr<Client> owner, Lease ours, std::shared_ptr<const Where> there)
      : client(std::move(owner)), lease(std::move(ours)), where(std::move(there)) {}
  const std::shared_ptr<Client> client;
  const Lease lease;
  const std::shared_ptr<const Where> where;

  // The body's: the lease on what was received in place may be on more room.
  [[nodiscard]] std::uint64_t length() const {
    return where->memory.empty() ? lease.size() : where->view().length();
  }
};

namespace {

std::shared_ptr<const Loan> make_loan(std::shared_ptr<Client> client, Lease lease,
                                      std::vector<std::span<const std::byte>> memory, Pins pins) {
  auto where = std::make_shared<const Where>(lease, std::move(memory), std::move(pins));
  return std::make_shared<const Loan>(std::move(client), std::move(lease), std::move(where));
}

// nullptr: its bytes cannot be reached. The lease stays the caller's then.
std::shared_ptr<const Loan> loan_of(std::shared_ptr<Client> client, Lease& lease) {
  std::vector<std::span<const std::byte>> memory;
  if (!lease.info().on_disk) {
    auto mapped = lease.map();
    if (!mapped) return nullptr;
    memory = *std::move(mapped);
  }
  return make_loan(std::move(client), std::move(lease), std::move(memory), Pins());
}

}  // namespace

// Memory of the daemon's that a store borrows.
class Borrowed {
 public:
  Borrowed(LeaseBudget& budget, std::uint64_t bytes) : budget_(budget), bytes_(bytes) {
    budget_.lent(bytes_);
  }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  ~Borrowed() { budget_.came_back(bytes_); }

 private:
  LeaseBudget& budget_;
  const std::uint64_t bytes_;
};

// What objects hold together: one lease, of one that was taken over and of those that a 304 made of
// it. It is replaced by another on the same bytes when its connection has ended (renew()): who
// reads then goes on where he is, and is protected by the new one, as he has a reference on the
// object.
class Held {
 public:
  Held(std::shared_ptr<const Loan> loan, Name called,
       std::optional<std::uint64_t> sum = std::nullopt)
      : name(std::move(called)), loan_(std::move(loan)), checksum_(sum) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() = default;
  [[nodiscard]] std::shared_ptr<const Loan> loan() const {
    const std::lock_guard lock(loan_mutex_);
    return loan_;
  }
  // Returns the one before. The lock of the holders is held: they are found by it.
  std::shared_ptr<const Loan> replace(std::shared_ptr<const Loan> loan) const {
    const std::lock_guard lock(loan_mutex_);
    return std::exchange(loan_, std::move(loan));
  }
  // Of the first store that has an object with it. Bodies in files take none of the memory.
  void count_in(LeaseBudget& budget, std::uint64_t bytes) const {
    const std::lock_guard lock(loan_mutex_);
    if (!borrowed_ && !loan_->lease.info().on_disk) borrowed_.emplace(budget, bytes);
  }
  [[nodiscard]] BodyView view() const {
    std::shared_ptr<const Where> where = loan()->where;
    BodyView view = where->view();
    view.hold(std::move(where));
    return view;
  }
  // Of the body, computed once. nullopt: it cannot be read.
  [[nodiscard]] std::optional<std::uint64_t> checksum() const {
    const std::lock_guard lock(checksum_mutex_);
    if (!checksum_) checksum_ = checksum_of(view());
    return checksum_;
  }
  // The object was published by then. Said once: a later one of the same number is another.
  [[nodiscard]] std::uint64_t created_by_ns() const {
    const auto soon = static_cast<std::uint64_t>(VTIM_real() * 1e9) + kPublishedWithinNs;
    std::uint64_t by = 0;
    return created_by_ns_.compare_exchange_strong(by, soon) ? soon : by;
  }
  // What the daemon has under the key, after the connection of our lease ended at `ended_ns`.
  [[nodiscard]] bool is_the_same(const ObjectInfo& there, std::uint64_t ended_ns) const {
    const auto loan = this->loan();
    const ObjectInfo& ours = loan->lease.info();
    std::uint64_t by = created_by_ns_.load();
    // What was received in place, and published since: its time is not known so well.
    if (name.created_ns == 0) by = by != 0 ? std::min(by, ended_ns) : ended_ns;
    return there.object_id == ours.object_id && there.length == loan->length() &&
           there.offset == 0 && there.total_bytes == there.length && there.created_ns <= by;
  }
  [[nodiscard]] std::uint64_t object_id() const { return loan()->lease.info().object_id; }
  void remove_object(Store& store) const noexcept {
    const auto loan = this->loan();
    if (!remove_shared(*loan->client, name.key, loan->lease.info().object_id))
      count(store.counters().c_remove_failed);
  }
  const Name name;

 private:
  mutable std::mutex loan_mutex_;
  mutable std::shared_ptr<const Loan> loan_;
  mutable std::optional<Borrowed> borrowed_;
  mutable std::atomic<std::uint64_t> created_by_ns_{name.created_ns};  // 0: not named yet
  mutable std::mutex checksum_mutex_;
  mutable std::optional<std::uint64_t> checksum_;
};

std::uint64_t record_bytes(const region::Record& record) {
  const bool lent = (record.flags & region::kBodyLent) != 0;
  return record.record_bytes + (lent ? region::extents_block_bytes(record.extent_count) : 0);
}

namespace {

class LeaseBody final : public AttachedBody {
 public:
  LeaseBody(struct objcore* oc, std::shared_ptr<const Held> held)
      : oc_(oc),
        store_(*Store::of(oc)),
        record_bytes_(record_bytes(record_of(oc))),
        held_(std::move(held)),
        bytes_(held_->loan()->length()) {
    held_->count_in(store_.lent().budget, bytes_);
    {
      const std::lock_guard lock(holders().mutex);
      holders().of.emplace(key(), Holders::Holder{oc_, held_, false});
    }
    // After what may fail: nobody would give these back.
    store_.lent().leases.fetch_add(1);
    store_.lent().record_bytes.fetch_add(record_bytes_);
    count(store_.counters().g_leases);
    count(store_.counters().g_lease_bytes, bytes_);
  }
  ~LeaseBody() override {
    store_.lent().leases.fetch_sub(1);
    store_.lent().record_bytes.fetch_sub(record_bytes_);
    uncount(store_.counters().g_leases);
    uncount(store_.counters().g_lease_bytes, bytes_);
    Holders& all = holders();
    const std::lock_guard lock(all.mutex);
    const auto [first, last] = all.of.equal_range(key());
    const auto ours =
        std::find_if(first, last, [this](const auto& one) { return one.second.oc == oc_; });
    if (ours == last) return;
    all.not_held(ours->first.first, ours->second);
    all.of.erase(ours);
  }
  [[nodiscard]] Place place() const override { return Place::kLease; }
  [[nodiscard]] std::optional<BodyView> view() const override { return held_->view(); }
  bool name(struct worker* wrk, region::Record& record) override {
    const Name& name = held_->name;
    // The region is that daemon's, and so says which one is meant.
    if (name.key.empty() || name.key.size() > kKeyBytesMax ||
        name.socket != store_.config().socket || held_->object_id() == 0)
      return false;
    region::LentRef ref;
    ref.key = name.key;
    ref.object_id = held_->object_id();
    ref.length = bytes_;
    ref.created_by_ns = held_->created_by_ns();
    std::optional<std::uint64_t> sum;
    if (store_.config().verify != Verify::kNone) sum = held_->checksum();
    while (!store_.region()->attach_lent(record, ref, sum))
      if (!nuke(wrk, store_, Place::kMemory)) return false;
    const std::uint64_t more = record_bytes(record) - record_bytes_;
    record_bytes_ += more;
    store_.lent().record_bytes.fetch_add(more);
    return true;
  }
  void remove_source() const override { held_->remove_object(store_); }
  [[nodiscard]] std::unique_ptr<AttachedBody> share(struct objcore* target) const override {
    return std::make_unique<LeaseBody>(target, held_);
  }

 private:
  // Under the holders' lock: the lease may be replaced.
  [[nodiscard]] std::pair<const Client*, std::uint64_t> key() const {
    const auto loan = held_->loan();
    return {loan->client.get(), loan->lease.id()};
  }
  struct objcore* const oc_;
  Store& store_;
  std::uint64_t record_bytes_;
  const std::shared_ptr<const Held> held_;
  const std::uint64_t bytes_;
};

// An object on its way out, with a reference that only a worker can give back.
struct Removal {
  struct pool_task task {};
  struct objcore* oc = nullptr;
};
using Removals = Errands<Removal>;

// For a worker, and then for it to be through.
constexpr std::chrono::milliseconds kRemovalLimit{1000};
std::atomic<bool> told_late{false};

bool is_busy(struct objcore* oc) {
  Lck_Lock(&oc->objhead->mtx);
  const bool busy = (oc->flags & OC_F_BUSY) != 0;
  Lck_Unlock(&oc->objhead->mtx);
  return busy;
}

void remove(struct worker* wrk, void* priv) noexcept;

// Never destroyed: threads use it.
Removals& leaving() {
  static auto* all = new Removals([](Removals::Errand& removal) {
    removal.item.task.func = remove;
    removal.item.task.priv = &removal;
    return varnish.Pool_Task_Any(&removal.item.task, TASK_QUEUE_BO) == 0;
  });
  return *all;
}

void remove(struct worker* wrk, void* priv) noexcept {
  const Removals::Errand& removal = *static_cast<Removals::Errand*>(priv);
  struct objcore* oc = removal.item.oc;
  // Between getting its body and being there for all is a moment.
  for (int i = 0; i < 1000 && is_busy(oc); ++i) usleep(1000);
  // Freeing it may log.
  std::array<std::byte, 1024> log_buffer;
  struct vsl_log log {};
  varnish.VSL_Setup(&log, log_buffer.data(), log_buffer.size());
  struct vsl_log* const before = wrk->vsl;
  wrk->vsl = &log;
  varnish.HSH_Kill(oc);
  (void)varnish.HSH_DerefObjCore(wrk, &oc, 0);
  varnish.VSL_Flush(&log, 0);
  wrk->vsl = before;
  leaving().finished(removal);
  if (!leaving().any_late()) told_late.store(false, std::memory_order_relaxed);
}

// One of the objcores, with a reference for us; not one of `done`, and not one that is on its way
// out. While the lock is held, its body is not being freed, and so it and its objhead are there;
// but it may be on its way. The one place where an objhead's mutex is taken under a lock of ours:
// nobody frees a body while he holds one.
struct objcore* reference(const Client* client, std::uint64_t lease_id,
                          const std::vector<struct objcore*>& done,
                          const std::list<Removals::Errand>& on_their_way) {
  const std::lock_guard lock(holders().mutex);
  const auto [first, last] = holders().of.equal_range({client, lease_id});
  for (auto one = first; one != last; ++one) {
    struct objcore* oc = one->second.oc;
    if (std::ranges::find(done, oc) != done.end()) continue;
    if (std::ranges::any_of(on_their_way, [oc](const auto& other) { return other.item.oc == oc; }))
      continue;
    Lck_Lock(&oc->objhead->mtx);
    const bool alive = oc->refcnt > 0;
    if (alive) oc->refcnt++;
    Lck_Unlock(&oc->objhead->mtx);
    if (!std::exchange(one->second.asked_back, true)) ++holders().asked_back[client];
    if (alive) return oc;
  }
  return nullptr;
}

}  // namespace

void is_short(const Client* client, std::uint64_t lease_id) {
  const std::lock_guard lock(holders().mutex);
  const auto one = holders().of.find({client, lease_id});
  if (one == holders().of.end() || one->second.held->loan()->lease.info().on_disk) return;
  Store::of(one->second.oc)->lent().budget.is_short(std::chrono::steady_clock::now());
}

// Where no worker removes them in time they keep their bodies until one does: the daemon asks
// again, and each time those that were put off are taken up again.
bool revoked(const Client* client, std::uint64_t lease_id) {
  leaving().take_up_again();
  std::vector<struct objcore*> done;
  while (true) {
    done.reserve(done.size() + 1);
    Store* store = nullptr;
    const auto number = leaving().begin([&](Removal& removal, const auto& on_their_way) {
      removal.oc = reference(client, lease_id, done, on_their_way);
      if (removal.oc == nullptr) return false;
      done.push_back(removal.oc);
      store = Store::of(removal.oc);
      return true;
    });
    if (!number) return !done.empty();
    if (leaving().see_to(*number, kRemovalLimit)) continue;
    count(store->counters().c_revoke_late);
    if (!told_late.exchange(true, std::memory_order_relaxed))
      notice(
          LOG_WARNING, store,
          "no worker thread has time to remove what the daemon wants back: it goes when one has");
  }
}

namespace {

// Leases that are asked for together.
constexpr std::size_t kTogether = 64;

struct Behind {
  std::uint64_t lease_id = 0;
  std::shared_ptr<const Held> held;
  Store* store = nullptr;
};

// What objects hold over this client, in the order of its numbers; without those that are on their
// way out.
std::vector<Behind> those_behind(const Client* client, std::uint64_t after) {
  std::vector<Behind> some;
  const std::lock_guard lock(holders().mutex);
  const auto& of = holders().of;
  for (auto one = of.lower_bound({client, after + 1}); one != of.end(); ++one) {
    const auto& [owner, lease_id] = one->first;
    if (owner != client) break;
    if (one->second.asked_back || (!some.empty() && some.back().lease_id == lease_id)) continue;
    if (some.size() == kTogether) break;
    some.push_back({lease_id, one->second.held, Store::of(one->second.oc)});
  }
  return some;
}

// Its objects hold this one from now on, those that are there still.
void replace(const Client* client, const Behind& behind, const std::shared_ptr<const Loan>& loan) {
  std::shared_ptr<const Loan> before;  // goes without the lock
  Holders& all = holders();
  const std::lock_guard lock(all.mutex);
  const std::pair<const Client*, std::uint64_t> earlier{client, behind.lease_id};
  const std::pair<const Client*, std::uint64_t> now{loan->client.get(), loan->lease.id()};
  if (!all.of.contains(earlier)) return;
  while (auto entry = all.of.extract(earlier)) {
    all.not_held(client, entry.mapped());
    entry.mapped().asked_back = false;
    entry.key() = now;
    count(Store::of(entry.mapped().oc)->counters().c_lease_renewed);
    all.of.insert(std::move(entry));
  }
  before = behind.held->replace(loan);
}

enum class Again { kTaken, kGone, kNotNow, kNoAnswer };

bool has_no_answer(Errc code) { return code == Errc::kTimeout || code == Errc::kUnavailable; }

Again take_again(const Client* lost, std::uint64_t ended_ns, const Behind& behind,
                 const std::shared_ptr<Client>& fresh, Result<std::optional<Lease>> lease) {
  if (!lease) {
    if (has_no_answer(lease.error().code)) return Again::kNoAnswer;
    // No more is lent, and this one stands in the way.
    if (lease.error().code == Errc::kQuota) return Again::kGone;
    return Again::kNotNow;  // no descriptors, for one, here or there
  }
  if (!*lease || !behind.held->is_the_same((*lease)->info(), ended_ns)) return Again::kGone;
  const auto loan = loan_of(fresh, **lease);
  if (loan == nullptr) return Again::kNotNow;
  replace(lost, behind, loan);
  return Again::kTaken;
}

}  // namespace

std::uint64_t renew(const std::shared_ptr<Client>& lost, std::uint64_t ended_ns,
                    std::uint64_t after, const std::shared_ptr<Client>& fresh,
                    LostClients::Deadline until) {
  const auto left = [until] {
    const auto time =
        std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    return std::max(time, std::chrono::milliseconds(1));
  };
  leaving().take_up_again();
  const std::vector<Behind> batch = those_behind(lost.get(), after);
  if (batch.empty()) return 0;
  std::vector<const Behind*> named;
  std::vector<std::string> keys;
  const auto drop = [&](const Behind& one) {
    if (!revoked(lost.get(), one.lease_id)) return;
    count(one.store->counters().c_lease_dropped);
  };
  for (const Behind& one : batch) {
    if (one.held->name.key.empty()) {
      drop(one);
      continue;
    }
    named.push_back(&one);
    keys.push_back(one.held->name.key);
  }
  if (named.empty()) return batch.back().lease_id;
  // A daemon that hangs answers later what it was asked in vain, and each answer would be as many
  // leases more: beyond the quota, for which those that we have would go. So it shows first that it
  // answers.
  if (const auto there = fresh->stat(keys.front(), left());
      !there && has_no_answer(there.error().code))
    return 0;
  auto leases = fresh->get_many(keys, left());
  if (!leases && has_no_answer(leases.error().code)) return 0;
  // One that cannot be had fails them all: they are asked for one by one.
  for (std::size_t i = 0; i < named.size(); ++i) {
    const Again how = take_again(lost.get(), ended_ns, *named[i], fresh,
                                 leases ? Result<std::optional<Lease>>(std::move((*leases)[i]))
                                        : fresh->get(keys[i], left()));
    // So slow that those before it took all the time: the next time goes on behind them.
    if (how == Again::kNoAnswer) return i == 0 ? 0 : named[i - 1]->lease_id;
    if (how == Again::kGone) drop(*named[i]);
  }
  return batch.back().lease_id;
}

namespace {

bool any_lost(const decltype(Holders::of)& of) {
  constexpr auto kLast = std::numeric_limits<std::uint64_t>::max();
  for (auto one = of.begin(); one != of.end(); one = of.upper_bound({one->first.first, kLast}))
    if (one->first.first->closed()) return true;
  return false;
}

bool has_room_for_one(Store& store) {
  return has_room(*store.region(), store.lent().leases, store.lent().record_bytes);
}

}  // namespace

bool has_room(const region::Region& region, std::uint64_t leases, std::uint64_t record_bytes) {
  return files_held.load(std::memory_order_relaxed) < files_max() && leases < kLeasesMax &&
         record_bytes < region.allocator().heap_bytes() / kRecordsShare;
}

bool may_take_over(struct busyobj* bo) {
  if (bo->storage == nullptr || bo->storage == *varnish.stv_transient) return false;
  Store* store = Store::of(bo->storage);
  if (store == nullptr) store = redirect::default_of(bo->vcl);
  if (store == nullptr || store->region() == nullptr) return false;
  bo->wrk->strangelove = static_cast<int>((*varnish.cache_param)->nuke_limit);
  while (!has_room_for_one(*store))
    if (!nuke(bo->wrk, *store, Place::kLease)) return false;
  LeaseBudget& budget = store->lent().budget;
  const auto now = std::chrono::steady_clock::now();
  for (unsigned gone = 0; gone < kOverBudgetMax && budget.is_over(now); ++gone) {
    const std::uint64_t before = budget.bytes();
    // One on disk makes no room; somebody may still read another.
    if (!nuke(bo->wrk, *store, Place::kLease) || budget.bytes() >= before) break;
  }
  return true;
}

bool give_back(struct worker* wrk, const Client* client, unsigned how_many, bool for_room) {
  Store* store = nullptr;
  {
    Holders& all = holders();
    const std::lock_guard lock(all.mutex);
    if (!for_room && all.asked_back.contains(client)) return false;
    // What a lost connection has leased stays where it is until all of that is leased again, and so
    // does what lies beside it: until then nothing that goes makes room.
    if (for_room && any_lost(all.of)) return false;
    auto any = all.of.lower_bound({client, 0});
    if (any == all.of.end() || any->first.first != client) {
      if (!for_room) return false;
      any = std::ranges::find_if(all.of, [epoch = client->daemon().epoch](const auto& one) {
        return one.first.first->daemon().epoch == epoch;
      });
      if (any == all.of.end()) return false;
    }
    store = Store::of(any->second.oc);
  }
  if (for_room) store->lent().budget.is_short(std::chrono::steady_clock::now());
  const int limit = std::exchange(wrk->strangelove, static_cast<int>(how_many));
  unsigned gone = 0;
  while (gone < how_many && nuke(wrk, *store, Place::kLease)) ++gone;
  wrk->strangelove = limit;
  return gone > 0;
}

void expect(const struct objcore* oc) { expected_object = oc; }
bool expected(const struct objcore* oc) { return oc != nullptr && expected_object == oc; }

bool give_scrap(const struct objcore* oc, ssize_t* size, uint8_t** place) {
  if (!expected(oc)) return false;
  *size = static_cast<ssize_t>(scrap.size());
  *place = scrap.data();
  return true;
}

std::unique_ptr<AttachedBody> hold(const struct objcore* oc, std::shared_ptr<Client> client,
                                   Lease lease, std::vector<std::span<const std::byte>> memory,
                                   Name name, Pins pins) {
  return body_of(const_cast<struct objcore*>(oc),
                 std::make_shared<Held>(make_loan(std::move(client), std::move(lease),
                                                  std::move(memory), std::move(pins)),
                                        std::move(name)));
}

std::unique_ptr<AttachedBody> body_of(struct objcore* oc, std::shared_ptr<const Held> held) {
  return std::make_unique<LeaseBody>(oc, std::move(held));
}

bool is_what_was_stored(Store& store, const Held& held, const region::Record& record) {
  if (checks_out(held.view(), record)) return true;
  held.remove_object(store);
  return false;
}

std::shared_ptr<const Held> take(std::shared_ptr<Client> client, Lease lease, Name name,
                                 std::optional<std::uint64_t> checksum) {
  auto loan = loan_of(std::move(client), lease);
  if (loan == nullptr) return nullptr;
  return std::make_shared<Held>(std::move(loan), std::move(name), checksum);
}

bool attach(struct objcore* oc, const std::shared_ptr<Client>& client, Lease& lease, Name name) {
  if (Store::of(oc) == nullptr || oc->boc == nullptr || attached_body(oc) != nullptr) return false;
  Fetch* fetch = Fetch::of(oc->boc);
  if (fetch == nullptr || fetch->settled || fetch->total != 0 || fetch->file != nullptr)
    return false;
  auto loan = loan_of(client, lease);
  if (loan == nullptr) return false;
  name.created_ns = loan->lease.info().created_ns;
  attach_body(oc, body_of(oc, std::make_shared<Held>(std::move(loan), std::move(name))));
  fetch->settled = true;
  return true;
}

}  // namespace om::vmod::lease_body
