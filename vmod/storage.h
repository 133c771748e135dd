// storage.h: one store = one stevedore with methods of its own over one region.
//
//   made        by the first VCL that names it, on the CLI thread; lives as long as the process
//   no region   the daemon has not granted one yet: objects go to Varnish's own storage
//   in use      region() is set, once and for all; the daemon may come and go
//
// An object is a region::Record, and oc->stobj->priv points straight at it: nothing of a finished
// object is in process memory but Varnish's objcore. While it is being fetched a Fetch hangs on
// boc->stevedore_priv, with the extents that have no place in the record yet.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "abi/abi.h"
#include "lease_budget.h"
#include "popularity.h"
#include "posix/drop_behind.h"
#include "region/region.h"

extern "C" {
#include "VSC_objm.h"
}

namespace om::vmod {

class Link;

// Where the body of an object lies. Each place has a stevedore and an LRU list of its own in every
// store, so that making room in one of them evicts nothing whose body lies in another.
enum class Place : unsigned {
  kMemory,  // of the region
  kFile,    // of the region's directory
  kLease,   // the daemon's (lease_body.h)
};
inline constexpr unsigned kPlaces = 3;

// When the checksum of a body that survived a restart is compared.
enum class Verify { kNone, kOnAdopt, kOnRead };
const char* to_string(Verify verify);

struct StoreConfig {
  std::string name;   // of the VCL object
  std::string owner;  // "<varnishd -n>/<name>": whose region it is
  std::string socket;
  std::uint64_t memory_bytes = 0;
  std::uint64_t disk_bytes = 0;
  Verify verify = Verify::kNone;
  double adopt_within = 0;  // seconds that adoption may take; 0: half of cli_timeout
};

class Store {
 public:
  explicit Store(StoreConfig config);
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;
  ~Store();

  [[nodiscard]] const StoreConfig& config() const { return config_; }
  // nullptr until the daemon has granted one. Never changes again.
  [[nodiscard]] region::Region* region() const { return region_.load(std::memory_order_acquire); }
  // The region has been prepared (adoption::prepare): objects may go to it from now on.
  void take(std::unique_ptr<region::Region> region);
  // New objects are to go elsewhere: `objm region drain` sets it, at run time, without VCL.
  [[nodiscard]] bool draining() const {
    const region::Region* region = this->region();
    return region != nullptr && region->draining();
  }
  [[nodiscard]] bool happy() const { return region() != nullptr && !draining(); }

  // Makes `oc` an object of this store; false, counted by reason: let another storage take it.
  bool allocate(struct worker* wrk, struct objcore* oc, unsigned wsl) noexcept;

  struct stevedore* stv(Place place = Place::kMemory) {
    return &stvs_[static_cast<unsigned>(place)];
  }
  // Where the body of a busy object is, from now on.
  void place(const struct objcore* oc, Place place);
  [[nodiscard]] bool is_on_disk(const struct objcore* oc) const;
  // What is at Place::kLease.
  struct Lent {
    std::atomic<std::uint64_t> leases{0};
    std::atomic<std::uint64_t> record_bytes{0};  // memory of the region
    LeaseBudget budget;
  };
  Lent& lent() { return lent_; }
  VSC_objm& counters() { return *counters_; }
  // Of its bodies in files.
  Popularity& popularity() { return popularity_; }
  DropBehind& drop_behind() { return drop_behind_; }
  Link& link() { return *link_; }
  // After bytes came or went: the gauges of varnishstat.
  void update_gauges();

  // stobj of ours, or nullptr.
  static Store* of(const struct stevedore* stv);
  static Store* of(const struct objcore* oc) { return of(oc->stobj->stevedore); }

 private:
  StoreConfig config_;
  std::string vclname_;
  void fill(struct stevedore& stv);

  std::array<struct stevedore, kPlaces> stvs_{};
  Lent lent_;
  VSC_objm* counters_ = nullptr;
  struct vsc_seg* counters_segment_ = nullptr;
  std::unique_ptr<region::Region> owned_region_;
  std::uint64_t adopted_bytes_ = 0;
  std::atomic<region::Region*> region_{nullptr};
  Popularity popularity_;
  DropBehind drop_behind_;
  std::unique_ptr<Link> link_;
};

// The store of that name, made when there is none. nullptr: `refusal` says why. CLI thread.
Store* store_for(StoreConfig config, std::string& refusal);
// A VCL named this store, and the VMOD does not know this varnishd: its counters say so (nothing
// else of the store is made). CLI thread.
void count_mismatch(const std::string& store_name);
// The child works in varnishd's -n directory: its name, as people give it to -n.
std::string instance_name();

// Counters are plain words in shared memory that any worker adds to.
inline void count(std::uint64_t& counter, std::uint64_t more = 1) {
  std::atomic_ref<std::uint64_t>(counter).fetch_add(more, std::memory_order_relaxed);
}
inline void uncount(std::uint64_t& counter, std::uint64_t less = 1) {
  std::atomic_ref<std::uint64_t>(counter).fetch_sub(less, std::memory_order_relaxed);
}
inline void gauge(std::uint64_t& counter, std::uint64_t value) {
  std::atomic_ref<std::uint64_t>(counter).store(value, std::memory_order_relaxed);
}

// One line for people, in syslog and as a VSL Error record. `store` may be nullptr.
void notice(int priority, const Store* store, std::string_view text);

// --- for adoption ------------------------------------------------------------------------------

// The record of an object of ours.
inline region::Record& record_of(const struct objcore* oc) {
  return *static_cast<region::Record*>(oc->stobj->priv);
}
// Makes `oc` (fresh from HSH_Lookup, busy, without storage) the object of a record that was scanned
// and kept: stobj, oa_present, timers, HFM/HFP never; n_object and the counters. The caller goes on
// with len_so_far, ObjSetState and the rest of VARNISH's way (objbocdone puts it on the LRU list).
void attach_record(struct worker* wrk, Store& store, struct objcore* oc, region::Record& record);
// Its body is compared with its checksum before it is handed on (verify.cc).
void verify_before_use(struct objcore* oc);
// Undoes attach_record for an objcore that is given up is objfree: fail and deref it.

// What adoption does for a store; adopt.cc defines them.
namespace adoption {
// Once per region, after it was locked and mapped, before anything else uses it. On the CLI thread
// inside vcl_init when the daemon answered in time (`on_cli`): bans may be reloaded, clients are
// not accepted yet or other VCLs serve them. Otherwise on the store's own thread with clients
// about: then what an earlier life left cannot be judged and is dropped. When it returns, the
// region is ready for use: scan() and finish_scan() were called unless it was formatted().
// `store.region()` is still nullptr; call store.take() inside when objects are to be attached.
// Takes the region; must end in store.take(std::move(region)).
void prepare(Store& store, std::unique_ptr<region::Region> region, bool on_cli);
// Whether this child has been told to start. Before, VCLs are loaded, and their stores take back
// what survived. Any thread.
bool serves_clients();
// An object of ours is about to be freed (objfree), its record still there.
void freed(Store& store, struct objcore* oc, region::Record& record);
// A record was published (complete, cacheable, with timers and ban time in it).
void published(Store& store, struct objcore* oc, region::Record& record);
// The process ends in order. On the CLI thread.
void ended(Store& store);
// Once per process, CLI thread, before the first store: event subscriptions and the like.
void start_process();
}  // namespace adoption

// --- the storage that varnishd was started with ------------------------------------------------

// allocobj for a stevedore that is in Varnish's list only to hear of bans: Varnish takes its turn
// of the list for objects that name no storage. The default store of the VCL, else a storage of -s.
int fallback_allocobj(struct worker* wrk, const struct stevedore* stv, struct objcore* oc,
                      unsigned wsl);

}  // namespace om::vmod
