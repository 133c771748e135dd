// removal_index.h: this varnishd's objects by their tags, and what was removed lately.
//
// Tags are those of the headers Xkey, Cache-Tag and Surrogate-Key, separated by blanks or commas.
// An object enters when Varnish inserts it and leaves with its EXPIRE event, which comes before its
// objcore goes: so what is in here is alive, as long as our mutex is held.
//
// An object whose fetch began before a removal and ended after it was not there to be removed. So
// each one is compared, when it is inserted and before anybody who waits for it may have it, with
// what was removed since its fetch began, and killed if it is one of those. Between the moment from
// which Varnish finds it and that event others might get it, who came after the removal: so an
// object of ours is compared already before Varnish finds it. What is removed between that and the
// event is not answered before those events have come (settle()): a moment, 100 ms at most. Objects
// of Varnish's own storage are compared at the event alone, and bans of the command line wait for
// nobody.
//
// What another cache fetched and shares is as old as that fetch: it may have been read from the
// board (ADR 11) while the daemon was at a ban that it had dated already and told nobody. So it is
// compared once more with the bans since then.
//
// And what a 304 brings is what Varnish had: it is compared with the bans that this was not tested
// against, and goes if this is on its way out (removals.h), for whatever reason. By the time of
// this fetch what was removed between the lookup and its begin is missed, and it may have waited
// for a thread; and without a link (removal_link.h) nobody else looks for bans.
//
// A purge names a key's stem, which has host and URL in it, and a tag that says which digest it is
// of (shared_object.h): where vcl_hash maps several URLs to one digest, it is about all of them.
// The objects themselves do not enter by that tag, since their objhead is found by its digest
// (removals.h).
//
// What is removed here is dated by the monotonic clock, and so is the begin of a fetch, as far as
// it is known how Varnish's clock was set meanwhile (fetch_clock.h). Bans have the daemon's time,
// by the same real-time clock as Varnish: compared with them, a fetch is older by as much as that
// clock was set back lately.
//
// Locks: ours, then an objhead's or that of Varnish's expiry. Events come with neither held.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "abi/abi.h"

namespace om::vmod {

class RemovalLink;
class SharedBans;

namespace removal_index {

// Subscribes to Varnish's events. CLI thread; once per process, later calls do nothing. Before the
// first object where that can be had.
void subscribe();

// Removes the objects with that tag, for good or (soft) so that grace still has them; their records
// say so when it returns. How many there were. Fetches under way are seen to; so they are by the
// tag of a digest (shared::digest_tag), which names none of the objects. Any thread.
std::uint64_t purge_tag(const std::string& tag, bool soft);
// A key's stem was purged: for fetches that are under way. Any thread.
void note_purge(const std::string& stem);
// What was removed up to now is not known: fetches under way count as overtaken. Any thread.
void note_everything();
// After a removal was noted: waits for the fetches that were compared before it, and that Varnish
// has not inserted yet. Any thread that holds no lock.
void settle();
// Whether what lies under that key, or has one of those tags, was removed since then (real time),
// by what this cache has applied. Any thread.
bool removed_since(std::string_view stem, const std::vector<std::string>& tags, double since);
// By how much the real-time clock was set back lately, in seconds. Any thread.
double set_back();
// The stem of what this fetch brings, as purges name it.
std::string stem_of(const struct busyobj* bo);
// Fetches under way are tested against the bans of this link. CLI thread.
void watch(RemovalLink& link);
// What this fetch brings was fetched by another cache, from `ban_time` on (shared_object.h), and is
// tested against these bans, which live as long as the process. The fetch's worker.
void brings_shared(const struct busyobj* bo, const SharedBans& bans, double ban_time) noexcept;
// What is being fetched is whole enough to be used, and Varnish will find it as soon as this
// returns (BOS_PREP_STREAM): nobody will, when it was removed since its fetch began. The fetch's
// worker.
void before_use(struct worker* wrk, struct objcore* oc) noexcept;
// How many fetches were overtaken by a removal.
std::uint64_t killed();

}  // namespace removal_index
}  // namespace om::vmod
