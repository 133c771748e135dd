// ban_log.h: the ban list, where it survives the process.
//
// append() is called from Varnish's baninfo with ban_mtx held: it copies into shared memory and
// commits with one store; no system call, no allocation, no lock, nothing that waits. The area has
// two halves. When the current one is full append() says no; baninfo passes that on, and Varnish
// answers with banexport, all bans at once: replace() writes them into the other half and switches
// with one store. Both before the ban is answered to whoever made it.
//
// What cannot be recorded is not forgotten silently: bans_lost keeps the newest time of a lost ban,
// and adoption drops every object that is not known to have been tested against it.
//
// The bytes of a spec are Varnish's own; the first 8 are its time, a big endian double.
// Calls come one at a time (ban_mtx, or before the list is linked).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "region/format.h"

namespace om::region {

enum class BanEvent : std::uint32_t { kNew = 0, kDrop = 1 };  // as Varnish's baninfo

class BanLog {
 public:
  BanLog() = default;
  // Of a mapped region whose header checks out.
  BanLog(RegionHeader* header, std::byte* area, std::uint64_t bytes);

  // Both halves empty, nothing lost: a fresh region.
  void format();

  // False: no room. Then replace(), or mark_lost().
  bool append(BanEvent event, std::span<const std::byte> spec);
  // `specs` one after the other, oldest first, as banexport gets them and load() gives them (each
  // spec knows its length). When not all fit, the newest are kept, the rest is marked lost, and the
  // answer is false.
  bool replace(std::span<const std::byte> specs);
  // Bans up to that time are known to whoever else has to know them; those behind it may not be.
  void mark_sent(double time);
  [[nodiscard]] double sent_until() const;
  // Objects whose ban time is below `time` cannot be trusted any more.
  void mark_lost(double time);

  struct Loaded {
    std::vector<std::byte> specs;  // one after the other, oldest first: what BAN_Reload takes
    std::size_t count = 0;
    double newest = 0;      // time of the newest, or 0
    double lost_until = 0;  // an object with an older ban time may have missed a ban: drop it
  };
  // Times rise from ban to ban: one that came after another and has no later time (a clock that was
  // set back, two at once) gets the next one there is, because Varnish orders them by time, and an
  // object that was tested against the first may not have been tested against the second.
  // Trusts nothing: an entry that does not check out ends the list, and all that came before that
  // moment counts as lost (lost_until is then infinite: nothing can be adopted).
  [[nodiscard]] Loaded load() const;

  [[nodiscard]] std::uint64_t capacity() const;  // of one half
  [[nodiscard]] std::uint64_t used() const;

 private:
  struct Half;
  [[nodiscard]] Half* half(std::uint64_t number) const;

  RegionHeader* header_ = nullptr;
  std::byte* area_ = nullptr;
  std::uint64_t half_bytes_ = 0;
};

double ban_spec_time(std::span<const std::byte> spec);
// Bytes of the spec at the start of `specs`, by its own length field; 0 = not a spec.
std::size_t ban_spec_bytes(std::span<const std::byte> specs);

}  // namespace om::region
