// removal_link.h: what is removed in one cache of the machine is removed in all of them.
//
// One link per varnishd and daemon, with a thread of its own:
//
//   searching  connects, joins under this varnishd's name, says how far it had got
//   behind     applies the removals that it missed, in their order
//   current    applies each as it comes, and acknowledges it
//
// A removal of this varnishd goes to the daemon first, which records it, hides what it matches
// among the shared objects, and tells the other caches; then it is applied here. Echoes are not
// applied again. Bans from the command line are seen when Varnish makes them (under ban_mtx, where
// nothing may wait) and are handed to the thread; until the daemon has them they count here
// (shared_bans.h).
//
// Whoever uses a shared object asks in this order: get it from the daemon, then director_allowed(),
// then maybe_banned() (shared_bans.h). Links are made once and never end.
#pragma once

#include <memory>
#include <string>

namespace om::vmod {

class SharedBans;

class RemovalLink {
 public:
  // The link to the daemon behind that socket; made when there is none. CLI thread. Waits a moment
  // for it to be current, so that a cache that starts has applied what it missed before it serves.
  static RemovalLink& to(const std::string& socket);
  RemovalLink(const RemovalLink&) = delete;
  RemovalLink& operator=(const RemovalLink&) = delete;

  // Whether this cache has applied every removal that the daemon has recorded until now, and learns
  // of new ones. Two atomic loads; any thread. False: shared objects must not be used, and nothing
  // is to be published.
  [[nodiscard]] bool director_allowed() const noexcept;
  // Of all caches, as far as shared objects may be older than they are.
  [[nodiscard]] const SharedBans& bans() const { return *bans_; }

 private:
  struct Impl;
  explicit RemovalLink(const std::string& socket);
  ~RemovalLink();

  std::unique_ptr<SharedBans> bans_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace om::vmod
