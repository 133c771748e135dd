// shared_bans.h: whether an object that another cache fetched has been banned since.
//
// Varnish tests an object against the bans that are newer than itself, and a body from the shared
// store would be as new as the moment it came in. So it is tested here before it is used, against
// every ban that any cache has made since the object was fetched from its origin. What cannot be
// shown not to match counts as banned: a miss, and another fetch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "abi/abi.h"

namespace om::vmod {

// What the store says of an object.
struct SharedCandidate {
  // When its fetch from the origin began, seconds since 1970 (Varnish's VTIM_real()).
  double ban_time = 0;
  unsigned status = 200;
  std::span<const std::string> headers{};  // "Name: value"
  double t_origin = 0;
  double ttl = 0;
  double grace = 0;
  double keep = 0;
};

class SharedBans {
 public:
  SharedBans();
  SharedBans(const SharedBans&) = delete;
  SharedBans& operator=(const SharedBans&) = delete;
  ~SharedBans();

  // `request`: as the client's request was when the cache looked it up (bo->bereq0). An object
  // whose fetch began in the future (the clock was set back) counts as banned: a ban that this
  // cache has made, and the daemon has not dated yet, may look older than it. Any thread.
  [[nodiscard]] bool maybe_banned(const struct http* request, const SharedCandidate& object) const;
  // The same for an object that is here, with its own headers. For kUs, a fetch of this cache that
  // began at `since`: the daemon dates bans later than all that is shared, be that in the future;
  // here a ban is not younger than the moment when it came, or what it matches could not be cached
  // until then.
  enum class FetchedBy { kUs, kAnother };
  [[nodiscard]] bool banned_since(double since, FetchedBy by, const struct http* request,
                                  struct worker* wrk, struct objcore* oc) const;

  // --- for the link (removal_link.h)
  void add(double time, const std::string& canonical);
  // Bans up to that time may be unknown here: what is as old counts as banned.
  void raise_floor(double time);
  // The same for fetches of this cache alone.
  void raise_floor_here(double time);
  // There is a ban of that time whose text is still to come: everything older counts as banned
  // until then. Under ban_mtx: one atomic store.
  void set_unread(double time) noexcept;
  // What is still to come is no newer than that; 0: nothing is.
  void reset_unread(double time) noexcept;
  [[nodiscard]] std::size_t size() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace om::vmod
