// lease_body.h: a body that stays where it is, in the daemon.
//
// The object holds the lease; its parts are the daemon's segments: memory mapped read-only (once
// for each segment and connection, by the client library), disk files by descriptor. Nothing of it
// is copied, nothing of it lies in the region but the record with the headers. The record names the
// shared object, and a restarted varnishd takes the lease again (adopt_leases.h).
//
// What is lent is bounded: by a number of leases and by the region memory that their records take,
// for each store; by descriptors, for the process; by what the daemon lends one connection; and by
// what leaves it room, for each store (lease_budget.h). At each bound the least recently used of
// them go (Place::kLease), and no object of another kind.
//
// The fetch that takes a body over (director_hit.cc) says so beforehand: expect() makes objgetspace
// hand out a scrap instead of room for the body.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "abi/abi.h"
#include "body.h"
#include "lost_clients.h"
#include "objmapper/client.h"

namespace om::vmod::lease_body {

// Whether the object of this fetch may hold a lease: it goes to a store of ours, also as the
// default storage, and there is room for one more. Evicts. On the fetching worker, before the
// object is allocated.
bool may_take_over(struct busyobj* bo);

// The daemon lends `client` no more: as many as `how_many` leases go back. False: there are none,
// or it has asked for some already, and waits for those (not for_room, where it is full: any help,
// also leases of other connections to it).
// On a worker that holds no lock.
bool give_back(struct worker* wrk, const Client* client, unsigned how_many, bool for_room = false);

// The object that this thread fetches is about to get a lease instead of bytes; nullptr: no more.
void expect(const struct objcore* oc);
bool expected(const struct objcore* oc);
// For objgetspace of such an object. False: it is none.
bool give_scrap(const struct objcore* oc, ssize_t* size, uint8_t** place);

// What a restart needs to lease the same object again, beside Lease::info().object_id.
struct Name {
  std::string socket;            // of the daemon
  std::string key;               // empty: not known
  std::uint64_t created_ns = 0;  // 0: not published yet
};

// What keeps memory mapped, by being there.
using Pins = std::vector<std::shared_ptr<const void>>;

// Makes the lease the body of `oc`, whose fetch has no bytes yet, and takes it; the caller extends
// the object by its length. False: not an object of ours, or the body cannot be reached that way;
// the lease stays the caller's.
bool attach(struct objcore* oc, const std::shared_ptr<Client>& client, Lease& lease, Name name);

// The lease as a body for `oc`, which is not attached yet. `memory`: where the body lies, and
// `pins` what keeps that mapped beside the lease.
std::unique_ptr<AttachedBody> hold(const struct objcore* oc, std::shared_ptr<Client> client,
                                   Lease lease, std::vector<std::span<const std::byte>> memory,
                                   Name name, Pins pins = {});

// The shared object is damaged: it goes, unless there is another under the key by now. Waits for
// the daemon, 50 ms at most. False: it may be there still.
bool remove_shared(Client& client, const std::string& key, std::uint64_t object_id) noexcept;

// --- for adoption

// A lease, for the objects that have it together.
class Held;
// nullptr: its bytes cannot be reached.
std::shared_ptr<const Held> take(std::shared_ptr<Client> client, Lease lease, Name name,
                                 std::optional<std::uint64_t> checksum);
// Compares all of the body with the record's checksum. Where that fails, the shared object is
// removed from the daemon.
bool is_what_was_stored(Store& store, const Held& held, const region::Record& record);
std::unique_ptr<AttachedBody> body_of(struct objcore* oc, std::shared_ptr<const Held> held);
// Whether a store may have so many leases, and so much memory in their records, for this region.
bool has_room(const region::Region& region, std::uint64_t leases, std::uint64_t record_bytes);
// Memory of the region that the record of such an object takes.
std::uint64_t record_bytes(const region::Record& record);

// The daemon asks for the lease back: the object that holds it is removed, and lets go once the
// deliveries that are under way have ended. False: nobody holds it any more that is not on his way
// out. Waits for workers, a second at most for each object; those for which there is none keep
// their bodies, and are removed later. Any thread but a worker's.
bool revoked(const Client* client, std::uint64_t lease_id);
// The daemon is short of memory: it asks for that lease back. Before revoked().
void is_short(const Client* client, std::uint64_t lease_id);

// The connection `lost` has ended, at `ended_ns` (since 1970): what objects hold over it they hold
// over `fresh` from now on. Deliveries that are under way go on. An object whose body the daemon
// has not got any more, or has replaced, is removed: its bytes are pinned by nothing but a lease
// that stands in the way of others, and a restart would not find it. What cannot be had for another
// reason, or has no answer until then, is left for the next time: the lease that there is still
// keeps its bytes. Some at a time: those after the lease `after`; the last that was looked at is
// returned, 0 when there are no more. Any thread but a worker's; no lock is held while the daemon
// is asked.
std::uint64_t renew(const std::shared_ptr<Client>& lost, std::uint64_t ended_ns,
                    std::uint64_t after, const std::shared_ptr<Client>& fresh,
                    LostClients::Deadline until);

}  // namespace om::vmod::lease_body
