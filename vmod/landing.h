// landing.h: a body that is received straight into the store.
//
// The tee (tee.h) publishes what a fetch brings. A large body is not written twice for that:
// Varnish is given room in the daemon's memory, under a lease that outlives the put, and the object
// keeps the bytes there, as one that was taken over (lease_body.h).
//
//   expected   the tee has said that it may give room; nothing is asked for yet
//   landed     a body of known length at the first objgetspace, others when they turn out to be
//              large; what came before is in the put as well. Without room, or without a lease, the
//              body stays where it would have been otherwise
//   left       there is no more room: what has come moves to the region, and the fetch goes on
//   there settled    the lease is the object's body; of a fetch that failed, as much as came
//
// What becomes of the put is between tee and daemon: published, refused, aborted or orphaned, the
// bytes stay for as long as the object has the lease.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "abi/abi.h"
#include "fetch.h"
#include "lease_body.h"
#include "objmapper/client.h"

namespace om::vmod::landing {

// Less is copied: that is cheaper than asking for a lease on it.
inline constexpr std::uint64_t kBytesMin = 256 * 1024;

// Where the body goes, from its first byte on.
struct Memory {
  std::vector<std::span<std::byte>> parts;
  lease_body::Pins pins;  // that keep them mapped: the lease knows of the first of them only
};

struct Room {
  std::shared_ptr<Client> client;  // whose lease it is
  Lease lease;
  Memory memory;
  lease_body::Name name;
};

class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;
  // Room behind the first `there` bytes, which have come already. nullopt: there is none, or these
  // bytes are not among it. Asked once; on the fetch's worker.
  virtual std::optional<Room> land(struct worker* wrk, std::uint64_t there) = 0;
  // All the memory again, with more at its end. Empty: no more.
  virtual Memory more() = 0;
};

// The object that this thread fetches may land. Until forget().
void expect(const struct objcore* oc, Source* source);
void forget(const struct objcore* oc);
bool expected(const struct objcore* oc);

// For the fetch, on its worker, without boc->mtx: where the next bytes go. nullopt: it has not
// landed, or does no more.
std::optional<std::span<std::byte>> space(struct worker* wrk, Store& store, struct objcore* oc,
                                          Fetch& fetch);
// Published bytes from `at` on, in one piece. With boc->mtx held.
std::span<const std::byte> bytes(const Fetch& fetch, std::uint64_t at, std::uint64_t there);
// The object takes its body.
void settle(const struct objcore* oc, Fetch& fetch);

}  // namespace om::vmod::landing
