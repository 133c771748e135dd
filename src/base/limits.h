// Every limit of objmapper, each with its reason. docs/protocol.md repeats those that a peer meets.
#pragma once

#include <cstddef>
#include <cstdint>

namespace om {

// A URI, not a document; Varnish's own http_req_size default is 32 KiB for a whole request.
inline constexpr std::size_t kKeyBytesMax = 8192;
// The client's own bytes with an object: response headers and the like.
inline constexpr std::size_t kMetadataBytesMax = 64 * 1024;
inline constexpr std::size_t kTagsMax = 64;
inline constexpr std::size_t kTagBytesMax = 255;
// One message, one packet: key, metadata and tags of one object always fit.
inline constexpr std::size_t kPacketBytesMax = 128 * 1024;
// The kernel allows 253 in one message (SCM_MAX_FD).
inline constexpr std::size_t kFdsPerMessageMax = 64;
inline constexpr std::size_t kKeysPerGetMax = 64;
// Replies that wait for a peer that does not read; beyond it we stop reading from that peer.
inline constexpr std::size_t kRepliesQueuedMax = 1024;
inline constexpr std::size_t kReplyBytesQueuedMax = std::size_t{4} << 20;
// Descriptors in flight to one peer. They count against the sender's user until they are read
// (unix(7), ETOOMANYREFS).
inline constexpr std::size_t kFdsInFlightMax = 256;
inline constexpr std::size_t kPutsPerPeerMax = 1024;
inline constexpr std::size_t kLeasesPerPeerMax = 65536;
inline constexpr std::size_t kConnectionsMax = 4096;
// A body is a list of extents of at most this; also the size of a huge page.
inline constexpr std::uint64_t kExtentBytesMax = std::uint64_t{2} << 20;
inline constexpr std::size_t kOwnerBytesMax = 255;
// The board (base/board.h): its slots, a share of the memory tier, and none where that is small.
// The pages of those who use it take as much again at most: together less than the 2 % by which the
// tier's file system is larger than the tier.
inline constexpr std::uint64_t kBoardBytesMax = std::uint64_t{4} << 20;
inline constexpr std::uint64_t kBoardShare = 128;
inline constexpr std::uint64_t kBoardMemoryMin = std::uint64_t{32} << 20;
// Counters behind the slots, a byte each (base/claims.h): eight for each object of 4 KiB that
// memory has room for, so that seven misses of eight need no message. They are a fifth of a percent
// more.
inline constexpr std::uint64_t kCountersMin = 4096;
inline constexpr std::uint64_t kCountersMax = std::uint64_t{4} << 20;
inline constexpr std::uint64_t kMemoryPerCounter = 512;
// Above it a message is lost in what the body costs; and what caches keep leased for long (from 64
// KiB on) is to be counted by the daemon.
inline constexpr std::uint64_t kBoardObjectBytesMax = 64 * 1024 - 1;

}  // namespace om
