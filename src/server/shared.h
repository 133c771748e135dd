// What all sessions of a daemon share. Made in main(), passed by reference; no globals.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/clock.h"
#include "base/limits.h"
#include "loop/loop.h"
#include "posix/unix_socket.h"
#include "server/access.h"
#include "server/account.h"
#include "server/removal_hub.h"
#include "store/store.h"

namespace om::server {

// Counted since the start, for STATUS and for Prometheus.
struct Statistics {
  std::array<std::uint64_t, 40> requests{};  // by wire::Type
  std::array<std::uint64_t, 16> refusals{};  // by Errc
  std::uint64_t connections_accepted = 0;
  std::uint64_t connections_shed = 0;  // at a limit, or for a lack of descriptors
  std::uint64_t malformed_packets = 0;
  std::uint64_t get_hits = 0;
  std::uint64_t get_misses = 0;
  std::uint64_t get_bytes = 0;     // of the bodies that were leased
  std::uint64_t put_bytes = 0;     // of those that were published
  std::uint64_t reads_paused = 0;  // how often we stopped reading from a peer that does not read
  std::uint64_t events_sent = 0;
  std::uint64_t events_lost = 0;
  std::uint64_t waits_timed_out = 0;
};

// Requests of one session that are received, and answered, together.
inline constexpr std::size_t kPacketsAtOnce = 16;

struct Shared {
  Loop& loop;
  store::Store& store;
  const Clock& clock;
  AccessGroups access;
  AccountLimits limits;
  std::uint64_t epoch = 0;
  uid_t own_uid = 0;
  Statistics statistics{};
  Totals totals{};
  Accounts accounts{totals};
  std::size_t subscribers = 0;
  RemovalHub removals{loop, store};
  // One session is handled at a time: one buffer does for all. One byte more than a packet may
  // have.
  PacketBatch received{kPacketsAtOnce, kPacketBytesMax + 1};
};

}  // namespace om::server
