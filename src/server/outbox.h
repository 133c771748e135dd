// What a connection still has to tell its peer. Packets go out at once while the socket takes them,
// else they wait here, with duplicates of their descriptors, in order.
//
// Descriptors of packets that the peer has not read count against the daemon's user in the kernel
// (unix(7), ETOOMANYREFS), for all its peers together. The kernel does not tell us how many there
// are, but how much memory the unread packets take (SIOCOUTQ). As each takes at least its bytes and
// its sk_buff, that bounds which of the packets we sent may still be unread: an upper bound, exact
// once the peer has read everything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"
#include "server/account.h"

namespace om::server {

struct OutPacket {
  std::string bytes;
  std::vector<UniqueFd> descriptors;
};

class Outbox {
 public:
  Outbox(BorrowedFd socket, std::shared_ptr<Account> account)
      : socket_(socket), account_(std::move(account)) {}
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;
  ~Outbox();

  // An error means that the connection is dead.
  Result<void> send(OutPacket packet);
  // The same at the next flush(), together with others.
  void queue(OutPacket packet);
  // Sends what waits, as far as the socket takes it.
  Result<void> flush();

  [[nodiscard]] bool empty() const { return waiting_.empty(); }
  [[nodiscard]] std::size_t packets() const { return waiting_.size(); }
  [[nodiscard]] std::size_t bytes() const { return waiting_bytes_; }
  // Waiting here and, at most, unread by the peer.
  [[nodiscard]] std::size_t descriptors() const { return waiting_descriptors_ + in_flight_; }
  // Asks the kernel what the peer has read.
  void look();
  // The kernel refused for a lack of something: flush() again in a while.
  [[nodiscard]] bool starved() const { return starved_; }

 private:
  struct Sent {
    std::size_t cost = 0;  // the least that this packet, and those after it, take in the kernel
    std::size_t descriptors = 0;
  };
  // False: not now.
  Result<bool> try_send(const OutPacket& packet);
  // Those at the front that bring no descriptors; how many went out.
  Result<std::size_t> try_send_plain();
  void sent_first();
  bool starve(int reason);
  void note_sent(const OutPacket& packet);

  BorrowedFd socket_;
  std::shared_ptr<Account> account_;
  std::deque<OutPacket> waiting_;
  std::size_t waiting_bytes_ = 0;
  std::size_t waiting_descriptors_ = 0;
  std::deque<Sent> sent_;  // packets with descriptors that may be unread, oldest first
  std::size_t sent_cost_ = 0;
  std::size_t in_flight_ = 0;
  bool starved_ = false;
};

}  // namespace om::server
