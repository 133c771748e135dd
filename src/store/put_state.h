// The life of a PUT, as one table.
//
//   reserved    its space is charged, its writer does not know yet
//   writing     the peer holds writable descriptors and fills its extents
//   copying     the peer has committed; the worker copies what it wrote into its final place
//   published   the catalog names it, leases may be taken: it is an object now
//   aborted     its space is given back; nobody ever saw it
//
// Peers cause kExtend, kCommit, kAbort and kHolderGone, so any of them may arrive in any state: the
// table answers, and nullopt is an error reply, never an assertion. A holder that goes away after
// its COMMIT has said all that it had to say: the copy is finished and published.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace om::store {

enum class PutState : std::uint8_t { kReserved, kWriting, kCopying, kPublished, kAborted };
inline constexpr std::size_t kPutStates = 5;

enum class PutEvent : std::uint8_t {
  kHandedOut,   // the writer got its descriptors
  kExtend,      // more room
  kCommit,      // the bytes lie in their final place already (direct)
  kCommitCopy,  // the bytes are to be copied first
  kCopied,      // the worker is done
  kFailed,      // copy or catalog failed, or the length was not the declared one
  kAbort,       // the peer changed its mind
  kHolderGone,  // the peer is gone
};
inline constexpr std::size_t kPutEvents = 8;

namespace detail {

inline constexpr PutState kNo = static_cast<PutState>(255);
inline constexpr PutState kW = PutState::kWriting;
inline constexpr PutState kC = PutState::kCopying;
inline constexpr PutState kP = PutState::kPublished;
inline constexpr PutState kA = PutState::kAborted;

// clang-format off
inline constexpr std::array<std::array<PutState, kPutEvents>, kPutStates> kPutTable{{
    //            handed out  extend  commit  commit+copy  copied  failed  abort  holder gone
    /*reserved */ {{kW,       kNo,    kNo,    kNo,         kNo,    kA,     kA,    kA}},
    /*writing  */ {{kNo,      kW,     kP,     kC,          kNo,    kA,     kA,    kA}},
    /*copying  */ {{kNo,      kNo,    kNo,    kNo,         kP,     kA,     kNo,   kC}},
    /*published*/ {{kNo,      kNo,    kNo,    kNo,         kNo,    kNo,    kNo,   kNo}},
    /*aborted  */ {{kNo,      kNo,    kNo,    kNo,         kNo,    kNo,    kNo,   kNo}},
}};
// clang-format on

}  // namespace detail

constexpr std::optional<PutState> next(PutState state, PutEvent event) {
  const PutState to =
      detail::kPutTable[static_cast<std::size_t>(state)][static_cast<std::size_t>(event)];
  if (to == detail::kNo) return std::nullopt;
  return to;
}

static_assert(next(PutState::kReserved, PutEvent::kCommit) == std::nullopt);
static_assert(next(PutState::kWriting, PutEvent::kCommit) == PutState::kPublished);
static_assert(next(PutState::kWriting, PutEvent::kCopied) == std::nullopt);
static_assert(next(PutState::kCopying, PutEvent::kCommit) == std::nullopt);  // commits once
static_assert(next(PutState::kCopying, PutEvent::kAbort) == std::nullopt);
static_assert(next(PutState::kCopying, PutEvent::kHolderGone) == PutState::kCopying);
static_assert(next(PutState::kPublished, PutEvent::kAbort) == std::nullopt);
static_assert(next(PutState::kAborted, PutEvent::kCommit) == std::nullopt);

}  // namespace om::store
