// equal_bans.h: two bans with the same text both count until no lookup can be between them.
//
// A lookup tests an object against the bans that were there when it began, without a lock, and
// passes over those that are marked completed (BAN_CheckObject). Varnish marks the older of two
// equal bans as soon as the newer one is in the list (BAN_Commit, `ban_dups`): a lookup that has
// begun before the newer one and has not come to the older one yet finds neither, and hands out
// what the older one, answered long ago, had removed. So here Varnish is told not to look for
// duplicates of a ban, and when the same ban is made again those are marked which have a newer one
// that has been there for longer than any lookup takes.
#pragma once

#include <cstdint>

#include "abi/abi.h"

namespace om::vmod {

// Guarded by ban_mtx.
class EqualBans {
 public:
  // Seconds for which a lookup may be on its way from the newest ban to the oldest.
  static constexpr double kLookupMax = 10;

  // Varnish has put a ban at the head of `list`, newest first, and has not looked for duplicates
  // yet. `complete` marks one: ban_mark_completed; nullptr with `ban_dups` off, then none is. `now`
  // and `monotonic` in seconds.
  void made(const struct banhead_s& list, double now, double monotonic,
            void (*complete)(struct ban*)) noexcept;
  // A ban leaves the list.
  void dropped(const std::uint8_t* spec) noexcept;

 private:
  bool clock_is_steady(double now, double monotonic) noexcept;

  // That of the newest ban, where its flag is ours and not Varnish's. A log that is written while
  // it is the newest has the flag; renew_spec() takes it out.
  const std::uint8_t* flagged_ = nullptr;
  double ahead_ = 0;  // the wall clock of the monotonic one
  double steady_from_ = 0;
};

}  // namespace om::vmod
