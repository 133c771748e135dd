// Unix sockets of kind SOCK_SEQPACKET: one message, one packet, its descriptors with it (unix(7)).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om {

struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Takes away the file of a socket on which nobody listens. kBusy: somebody does, whatever kind of
// socket it is; kExists: it is something else. Either stays.
Result<void> remove_stale_socket(const std::string& path);
// A listening socket at `path`, non-blocking, close-on-exec, in place of a stale one. Of several
// who come at once, one gets it. A path that does not fit sockaddr_un is kMalformed.
Result<UniqueFd> listen_seqpacket(const std::string& path, mode_t mode, int backlog);
// The same, a SOCK_STREAM.
Result<UniqueFd> listen_stream(const std::string& path, mode_t mode, int backlog);
// Which file lies at a path, so that whoever made it removes no other one later.
struct FileId {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileId&) const = default;
};
std::optional<FileId> file_id(const std::string& path);
// While the socket itself is open: its number may be another file's after that.
void remove_own_socket(const std::string& path, const std::optional<FileId>& ours);
// A blocking connection; `timeout` bounds connect(2) and, by SO_RCVTIMEO and SO_SNDTIMEO, every
// later call on it (0: none).
Result<UniqueFd> connect_seqpacket(const std::string& path, std::chrono::milliseconds timeout);
// nullopt: nobody is waiting. EMFILE and the like are errors of kind kSystem.
Result<std::optional<UniqueFd>> accept_connection(BorrowedFd listener);
Result<std::pair<UniqueFd, UniqueFd>> seqpacket_pair();
Result<PeerCredentials> peer_credentials(BorrowedFd socket);
// The peer's supplementary groups too (SO_PEERGROUPS); its primary gid is the first.
Result<std::vector<gid_t>> peer_groups(BorrowedFd socket);

struct Packet {
  std::size_t bytes = 0;  // of the buffer; 0: the peer has closed
  std::vector<UniqueFd> descriptors;
};

// Sends one packet with up to kFdsPerMessageMax descriptors, which the kernel duplicates: they stay
// the caller's. False: the socket is full (EAGAIN) and nothing was sent; with MSG_DONTWAIT in
// `flags` one that blocks says so at once.
Result<bool> send_packet(BorrowedFd socket, std::span<const std::byte> bytes,
                         std::span<const BorrowedFd> descriptors, int flags = 0);
// Receives one packet. nullopt: nothing there yet (EAGAIN), or a signal came while it waited
// (EINTR). A packet longer than the buffer, or with more descriptors than kFdsPerMessageMax, is
// kMalformed and its descriptors are closed; so are those of a packet for which this process has no
// room (EMFILE shows as MSG_CTRUNC and is kSystem, EMFILE). `flags` as above.
Result<std::optional<Packet>> receive_packet(BorrowedFd socket, std::span<std::byte> buffer,
                                             int flags = 0);
// Sends packets in order, as many as the socket takes: how many that were. Without descriptors.
Result<std::size_t> send_packets(BorrowedFd socket,
                                 std::span<const std::span<const std::byte>> packets,
                                 int flags = 0);

// Several packets received by one system call, each in its own part of the buffer.
class PacketBatch {
 public:
  // Up to `most` packets of `packet_bytes`.
  PacketBatch(std::size_t most, std::size_t packet_bytes);
  // What is there already; 0 packets: nothing. What receive_packet() answers with an error for
  // one packet stands in problem().
  Result<std::size_t> receive(BorrowedFd socket);
  [[nodiscard]] std::size_t most() const { return most_; }
  // The packet's bytes; none: the peer has closed.
  [[nodiscard]] std::span<const std::byte> bytes(std::size_t i) const;
  [[nodiscard]] std::size_t descriptors(std::size_t i) const { return got_[i].descriptors.size(); }
  [[nodiscard]] const std::optional<Error>& problem(std::size_t i) const { return got_[i].problem; }

 private:
  struct Got {
    std::size_t bytes = 0;
    std::vector<UniqueFd> descriptors;
    std::optional<Error> problem;
  };
  std::size_t most_;
  std::size_t packet_bytes_;
  std::unique_ptr<std::byte[]> buffer_;  // pages that no packet reached cost nothing
  std::vector<std::byte> control_;
  std::vector<Got> got_;
};

// Receives what is there and throws it away, descriptors and all.
void discard_packets(BorrowedFd socket);

// Descriptors and bytes of packets the peer has not read yet, as far as the kernel tells: bytes
// (SIOCOUTQ).
Result<std::size_t> bytes_in_flight(BorrowedFd socket);

}  // namespace om
