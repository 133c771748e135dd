// removal_link.h: what is removed in one cache of the machine is removed in all of them.
//
// One link per varnishd and daemon, with two threads of its own:
//
//   receiver   searching  connects, joins under this varnishd's name, says how far it had got
//              behind     applies the removals that it missed, in their order
//              current    applies each as it comes, and acknowledges it
//              It is a worker of Varnish, of no pool: what only a worker may do (to look an objhead
//              up) is done in its turn, and no busy pool keeps it waiting.
//   sender     takes bans that were made here without asking the daemon first (command line,
//   std.ban)
//              to the daemon, in their order, until it has them
//
// A removal of this varnishd by way of objmapper.purge(), .ban() or .purge_tag() goes to the daemon
// first, which records it, hides what it matches among the shared objects, and tells the other
// caches; then it is applied here. Echoes are not applied again: each removal has a token, and the
// receiver acknowledges our own when the request that asked for it says that it is done.
//
// What the daemon has is marked in the ban logs of the stores, so that a varnishd that died before
// the daemon had all of its bans sends the others in its next life.
//
// Bans from the command line are seen when Varnish makes them, under ban_mtx, where nothing may
// wait: they are queued for the sender, and count here at once (shared_bans.h).
//
// Whoever uses a shared object asks in this order: get it from the daemon, then applied(), then
// maybe_banned() (shared_bans.h). Links are made once and never end.
//
// Locks: ban_mtx before ours; none of ours is held while Varnish or the daemon is called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "abi/abi.h"
#include "objmapper/client.h"

namespace om::vmod {

class SharedBans;

class RemovalLink {
 public:
  // The link to the daemon behind that socket; made when there is none. CLI thread.
  static RemovalLink& to(const std::string& socket);
  // Links that were made since begin to receive. When all objects of an earlier life are back: what
  // was missed is applied to them, and then acknowledged (VCL_EVENT_WARM, which comes after
  // vcl_init). CLI thread. Waits a moment for each to be current, or to have dropped everything, so
  // that a cache that starts has applied what it missed before it serves. It is acknowledged when
  // the child serves.
  static void start();
  // Removals in this VCL go through that link from now on. CLI thread.
  static void use(const struct vcl* vcl, RemovalLink& link);
  // Its set_uri_prefix() has changed. CLI thread.
  static void prefix_is_set(const struct vcl* vcl);
  static void forget(const struct vcl* vcl);
  // nullptr: they stay in this varnishd. Any thread.
  static RemovalLink* of(const struct vcl* vcl);
  [[nodiscard]] const std::string& socket() const noexcept;
  RemovalLink(const RemovalLink&) = delete;
  RemovalLink& operator=(const RemovalLink&) = delete;

  // Whether this cache has applied every removal that the daemon of that epoch has recorded until
  // now, and learns of new ones: the number of the last of them. nullopt: no, or they are another
  // daemon's; shared objects must not be used, and nothing is to be published. Looks at memory
  // alone; any thread.
  [[nodiscard]] std::optional<std::uint64_t> applied(std::uint64_t daemon_epoch) const noexcept;
  // Of all caches, as far as shared objects may be older than they are.
  [[nodiscard]] const SharedBans& bans() const { return *bans_; }

  // The daemon has recorded a removal; when this ends, it has been applied here as well.
  class [[nodiscard]] Ours {
   public:
    Ours(RemovalLink& link, std::uint64_t token) : link_(&link), token_(token) {}
    Ours(Ours&& other) noexcept
        : link_(std::exchange(other.link_, nullptr)), token_(other.token_) {}
    Ours& operator=(Ours&& other) noexcept {
      std::swap(link_, other.link_);
      std::swap(token_, other.token_);
      return *this;
    }
    ~Ours();

   private:
    RemovalLink* link_;
    std::uint64_t token_;
  };
  // Takes 250 ms at most. An error: it is not recorded, or that is not known.
  Result<Ours> record(RemovalKind kind, std::string what, std::string tag);

  // For note_local_ban(). `recorded`: the daemon has it.
  void note_ban(std::span<const std::byte> spec, bool recorded) noexcept;
  // Bans of this varnishd up to that time are known to all caches of the daemon behind this socket.
  // 0: there is no such link. Any thread, with ban_mtx held or not.
  static double bans_sent_until(const std::string& socket) noexcept;
  // Bans of an earlier life that the daemon never got (bans.h) travel now, where there is a link.
  static void send_unsent(const std::string& socket);

 private:
  struct Impl;
  explicit RemovalLink(const std::string& socket);
  ~RemovalLink();

  std::unique_ptr<SharedBans> bans_;
  std::unique_ptr<Impl> impl_;
};

// A ban of this varnishd, from Varnish's baninfo: with ban_mtx held.
void note_local_ban(std::span<const std::byte> spec) noexcept;
// Makes a ban that the daemon knows of already. Empty, or why not. Not with ban_mtx held.
std::string commit_ban(const std::string& canonical);
// Whether Varnish would take it; empty, or why not.
std::string check_ban(const std::string& canonical);

}  // namespace om::vmod
