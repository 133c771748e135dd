// bans.h: Varnish's ban list, kept in the region of every store.
//
// A stevedore that stores nothing sits in Varnish's list and hears of every ban, with ban_mtx held
// and before the ban is answered. What it hears goes into the ban log of each store that joined:
// memory, one store to commit, nothing that waits. A log that is full makes Varnish export the
// whole list; what fits nowhere is marked lost, and a restart drops what it might have matched.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "region/region.h"
#include "storage.h"

namespace om::vmod::bans {

// Puts the listener into Varnish's list. CLI thread, once per process.
void listen();

// The store's log gets the list as it is now, and every ban from now on, with no gap between the
// two. After restore() when there was something to restore. `saved`: what the log has of an earlier
// life, or nullptr. Of that, what the daemon never got goes to the other caches now
// (removal_link.h).
void join(Store& store, region::Region& region, const region::BanLog::Loaded* saved);
// What has been sent to the other caches has changed: into the logs. Not with ban_mtx held.
void note_sent();
// Bans of an earlier life of this varnishd that the daemon behind this socket never got; once.
struct Unsent {
  std::vector<std::vector<std::byte>> specs;
  bool lost = false;  // and some that nobody knows any more
};
Unsent take_unsent(const std::string& socket);

// Brings the bans of an earlier life back, with their times, and keeps the lurker from dropping the
// oldest of them while objects are being attached to them. CLI thread.
class Restored {
 public:
  // `saved` may be empty: then whatever is the oldest is kept.
  explicit Restored(const region::BanLog::Loaded& saved);
  Restored(const Restored&) = delete;
  Restored& operator=(const Restored&) = delete;
  ~Restored();
  // Objects that were not tested against this one have no place in the list any more.
  [[nodiscard]] double oldest() const { return places_.front().time; }
  // Of the bans that are in the list with their tests.
  [[nodiscard]] std::size_t count() const { return count_; }
  // Objects with an older ban time may have missed a ban, as in BanLog::Loaded: with those that
  // could not be brought back.
  [[nodiscard]] double lost_until() const { return lost_until_; }
  // Attaches an object to the newest ban that is not newer than `time`. False: there is none. Any
  // thread.
  bool attach(struct objcore* oc, double time) const;

 private:
  struct Place {
    double time;
    struct ban* ban;
  };
  // Oldest first. Varnish drops bans from the old end only, and stops at one that is referenced:
  // all of these stay while the first is pinned.
  std::vector<Place> places_;
  std::size_t count_;
  double lost_until_;
};

// From here on no ban goes for want of objects that have not been tested against it: objects of an
// earlier life may still come back, with a later VCL. Until let_go(); a second call does nothing.
void hold_all();
void let_go();
// Of the newest ban in Varnish's list; there is one at least, from the start of the child on.
double newest_time();
// The time of the newest ban that the object was tested against; 0: none.
double tested_until(const struct objcore* oc);
// Whether a ban that `tested` was not tested against yet matches `oc`, as `request` would find it.
// True also when `tested` has no place in the list any more: it may have been that. Of a ban that
// has lost its tests nobody knows; then `tested` has been killed, if it matched. Any thread that
// holds a reference to both.
bool untested_matches(struct worker* wrk, const struct objcore& tested, struct objcore* oc,
                      const struct http* request);

}  // namespace om::vmod::bans
