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

}  // namespace om
