#include "server/outbox.h"

#include <cerrno>
#include <span>

#include "posix/unix_socket.h"

namespace om::server {

namespace {
// sizeof(struct sk_buff) and the skb_shared_info behind the data: more than this on every kernel.
constexpr std::size_t kPacketOverhead = 512;
}  // namespace

Outbox::~Outbox() {
  account_->reply_bytes.subtract(waiting_bytes_);
  account_->descriptors.subtract(descriptors());
}

Result<void> Outbox::send(OutPacket packet) {
  if (waiting_.empty() && OM_TRY(try_send(packet))) return {};
  waiting_bytes_ += packet.bytes.size();
  waiting_descriptors_ += packet.descriptors.size();
  account_->reply_bytes.add(packet.bytes.size());
  account_->descriptors.add(packet.descriptors.size());
  waiting_.push_back(std::move(packet));
  return {};
}

Result<void> Outbox::flush() {
  while (!waiting_.empty()) {
    const OutPacket& packet = waiting_.front();
    if (!OM_TRY(try_send(packet))) return {};
    waiting_bytes_ -= packet.bytes.size();
    waiting_descriptors_ -= packet.descriptors.size();
    account_->reply_bytes.subtract(packet.bytes.size());
    account_->descriptors.subtract(packet.descriptors.size());
    waiting_.pop_front();
  }
  return {};
}

Result<bool> Outbox::try_send(const OutPacket& packet) {
  std::vector<BorrowedFd> borrowed;
  borrowed.reserve(packet.descriptors.size());
  for (const UniqueFd& descriptor : packet.descriptors) borrowed.push_back(descriptor.borrow());
  starved_ = false;
  auto sent = send_packet(socket_, std::as_bytes(std::span(packet.bytes)), borrowed);
  if (!sent) {
    switch (sent.error().sys_errno) {
      case ETOOMANYREFS:
      case ENOBUFS:
      case ENOMEM: starved_ = true; return false;
      default: return std::move(sent).error();
    }
  }
  if (*sent) note_sent(packet);
  return *sent;
}

void Outbox::note_sent(const OutPacket& packet) {
  const std::size_t cost = packet.bytes.size() + kPacketOverhead;
  const std::size_t count = packet.descriptors.size();
  if (count == 0) {
    if (sent_.empty()) return;
    sent_.back().cost += cost;
  } else {
    sent_.push_back({cost, count});
    in_flight_ += count;
    account_->descriptors.add(count);
  }
  sent_cost_ += cost;
}

void Outbox::look() {
  if (sent_.empty()) return;
  const auto unread = bytes_in_flight(socket_);
  if (!unread) return;
  while (!sent_.empty() && sent_cost_ > *unread) {
    // A packet of the group was read, and packets are read in order: so was its first, which is
    // the one with the descriptors.
    sent_cost_ -= sent_.front().cost;
    in_flight_ -= sent_.front().descriptors;
    account_->descriptors.subtract(sent_.front().descriptors);
    sent_.pop_front();
  }
}

}  // namespace om::server
