#include "server/outbox.h"

#include <array>
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
  queue(std::move(packet));
  return {};
}

void Outbox::queue(OutPacket packet) {
  waiting_bytes_ += packet.bytes.size();
  waiting_descriptors_ += packet.descriptors.size();
  account_->reply_bytes.add(packet.bytes.size());
  account_->descriptors.add(packet.descriptors.size());
  waiting_.push_back(std::move(packet));
}

void Outbox::sent_first() {
  const OutPacket& packet = waiting_.front();
  waiting_bytes_ -= packet.bytes.size();
  waiting_descriptors_ -= packet.descriptors.size();
  account_->reply_bytes.subtract(packet.bytes.size());
  account_->descriptors.subtract(packet.descriptors.size());
  waiting_.pop_front();
}

Result<void> Outbox::flush() {
  while (!waiting_.empty()) {
    if (waiting_.size() > 1 && waiting_.front().descriptors.empty()) {
      const std::size_t sent = OM_TRY(try_send_plain());
      if (sent == 0) return {};
      for (std::size_t i = 0; i < sent; ++i) {
        note_sent(waiting_.front());
        sent_first();
      }
      continue;
    }
    if (!OM_TRY(try_send(waiting_.front()))) return {};
    sent_first();
  }
  return {};
}

// Whether that is a lack of something, and no broken connection.
bool Outbox::starve(int reason) {
  starved_ = reason == ETOOMANYREFS || reason == ENOBUFS || reason == ENOMEM;
  return starved_;
}

Result<std::size_t> Outbox::try_send_plain() {
  std::array<std::span<const std::byte>, 16> packets;
  std::size_t count = 0;
  for (const OutPacket& packet : waiting_) {
    if (count == packets.size() || !packet.descriptors.empty()) break;
    packets[count++] = std::as_bytes(std::span(packet.bytes));
  }
  starved_ = false;
  auto sent = send_packets(socket_, std::span(packets).first(count));
  if (!sent && starve(sent.error().sys_errno)) return std::size_t{0};
  return sent;
}

Result<bool> Outbox::try_send(const OutPacket& packet) {
  std::vector<BorrowedFd> borrowed;
  for (const UniqueFd& descriptor : packet.descriptors) borrowed.push_back(descriptor.borrow());
  starved_ = false;
  auto sent = send_packet(socket_, std::as_bytes(std::span(packet.bytes)), borrowed);
  if (!sent) {
    if (starve(sent.error().sys_errno)) return false;
    return std::move(sent).error();
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
