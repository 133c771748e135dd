// The reader's role of a connection: packets come in, and go to whoever waits for them.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <list>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "client/connection.h"
#include "client/errors.h"
#include "posix/unix_socket.h"

namespace om::client {

bool Connection::read_one(Deadline deadline) noexcept {
  try {
    return receive_one(deadline);
  } catch (const std::exception&) {
    // What came is lost, and with it what the daemon believes that we have.
    break_off(no_memory());
    return true;
  }
}

bool Connection::receive_one(Deadline deadline) {
  // The socket's own limit serves when about that much time is left, and none is needed where there
  // is no time left; else we ask poll(2).
  const auto left = left_until(deadline);
  const bool waits = left.count() > 0;
  if (waits && left < receive_limit_ - receive_limit_ / 8) {
    pollfd look{socket_.raw(), POLLIN, 0};
    if (::poll(&look, 1, poll_ms(left)) <= 0) return false;
  }
  std::memset(buffer_.data(), 0, wire::Header::kBytes);
  auto packet = receive_packet(socket_.borrow(), buffer_, waits ? 0 : MSG_DONTWAIT);
  if (packet) {
    if (!packet->has_value()) return false;
    if ((*packet)->bytes == 0)
      break_off(hung_up());
    else
      deliver(std::span(buffer_).first((*packet)->bytes), std::move((*packet)->descriptors), false);
    return true;
  }
  if (packet.error().code == Errc::kSystem && packet.error().sys_errno == EMFILE) {
    // The packet is here, its descriptors are not: this process has no room for them. They are
    // asked for again, once there is some.
    cache_.shrink();
    std::uint32_t length = 0;
    std::memcpy(&length, buffer_.data(), sizeof length);
    if (length >= wire::Header::kBytes && length <= buffer_.size()) {
      deliver(std::span(buffer_).first(length), {}, true);
      return true;
    }
  }
  break_off(std::move(packet).error());
  return true;
}

void Connection::deliver(std::span<const std::byte> packet, std::vector<UniqueFd> descriptors,
                         bool descriptors_lost) {
  std::size_t count = descriptors.size();
  if (descriptors_lost) {
    std::uint32_t said = 0;
    std::memcpy(&said, packet.data() + offsetof(wire::Header, descriptors), sizeof said);
    count = said;
  }
  const auto header = wire::decode_header(packet, count);
  if (!header)
    return break_off({Errc::kMalformed, 0, "the daemon sent nonsense: " + header.error().what});
  if (header->type == wire::Type::kEvent) return deliver_event(packet);
  if (header->type == wire::Type::kRemoval) return deliver_removal(packet);
  if ((header->flags & wire::kReplyFlag) == 0)
    return break_off({Errc::kMalformed, 0, "the daemon sent a request"});

  Waiter* waiter = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(waiters_.begin(), waiters_.end(),
                                    [&](const Waiter* w) { return w->id_ == header->request_id; });
    if (found != waiters_.end()) {
      waiter = *found;
      if (waiter->type_ != header->type) {
        waiter = nullptr;
      } else {
        waiter->taking_ = true;
        *found = waiters_.back();
        waiters_.pop_back();
      }
    }
  }
  if (waiter == nullptr) return give_back(*header, packet, std::move(descriptors));

  std::optional<Error> failure;
  std::optional<Error> broken;
  // Nobody else knows of the waiter by now: whatever happens, it has to be told.
  try {
    if (header->status != Errc::kOk) {
      failure = wire::decode_failure(*header, packet);
    } else if (auto taken = waiter->take(*this, packet, descriptors); !taken) {
      broken = Error{Errc::kMalformed, 0, "the daemon sent nonsense: " + taken.error().what};
    }
    // Descriptors of segments are asked for again; what came with these replies alone is lost.
    if (!failure && !broken && descriptors_lost && header->type != wire::Type::kGet &&
        header->type != wire::Type::kDescribe && header->type != wire::Type::kReserve &&
        header->type != wire::Type::kRoom && header->type != wire::Type::kFollow &&
        header->type != wire::Type::kHold)
      failure = no_room();
  } catch (const std::bad_alloc&) {
    broken = no_memory();
  }
  if (broken) {
    failure = copy_of(*broken);
    break_off(*std::move(broken));
  }
  if (waiter->detached_) return waiter->concluded(std::move(failure));
  const std::lock_guard lock(mutex_);
  waiter->failure_ = std::move(failure);
  waiter->done_ = true;
  waiter->wake_.notify_one();
}

void Connection::give_back(const wire::Header& header, std::span<const std::byte> packet,
                           std::vector<UniqueFd> descriptors) {
  if (header.status != Errc::kOk) return;
  if (header.type == wire::Type::kGet) {
    Call<wire::GetReply> late;
    if (!late.take(*this, packet, descriptors)) return;
    std::vector<std::uint64_t> leases;
    for (const auto& item : late.reply.items)
      if (item.status == 0) leases.push_back(item.lease_id);
    if (!leases.empty()) release(std::move(leases));
  } else if (header.type == wire::Type::kRoom) {
    Call<wire::RoomReply> late;
    if (late.take(*this, packet, descriptors)) post(wire::Abort{late.reply.room_id});
  } else if (header.type == wire::Type::kReserve) {
    Call<wire::ReserveReply> late;
    if (!late.take(*this, packet, descriptors)) return;
    if (late.reply.outcome != static_cast<std::uint8_t>(wire::ReserveOutcome::kYours))
      release({late.reply.hit.lease_id});
    else
      post(wire::Abort{late.reply.put_id});
  } else if (header.type == wire::Type::kDescribe) {
    Call<wire::GetReply> late;  // for the cache: a descriptor is not sent a second time unasked
    (void)late.take(*this, packet, descriptors);
  } else if (header.type == wire::Type::kFollow) {
    Call<wire::FollowReply> late;
    if (late.take(*this, packet, descriptors) && late.reply.hit.status == 0)
      release({late.reply.hit.lease_id});
  } else if (header.type == wire::Type::kHold) {
    Call<wire::HoldReply> late;
    if (late.take(*this, packet, descriptors) && late.reply.lease_id != 0)
      release({late.reply.lease_id});
  } else if (header.type == wire::Type::kExtend) {
    Call<wire::ExtendReply> late;
    (void)late.take(*this, packet, descriptors);
  }
}

void Connection::break_off(const Error& reason) {
  std::vector<Waiter*> detached;
  std::list<Post> unsent;
  {
    const std::lock_guard lock(mutex_);
    if (!broken_) broken_ = copy_of(reason);
    is_broken_.store(true, std::memory_order_release);
    ::shutdown(socket_.raw(), SHUT_RDWR);
    detached.swap(waiters_);
    unsent.swap(posts_);
    post_bytes_ = 0;
    post_body_bytes_ = 0;
    std::erase_if(detached, [this](Waiter* waiter) {
      if (waiter->detached_) return false;
      waiter->failure_ = copy_of(*broken_);
      waiter->done_ = true;
      waiter->wake_.notify_one();
      return true;
    });
    event_wake_.notify_all();
  }
  for (Waiter* waiter : detached) {
    try {
      waiter->concluded(copy_of(reason));
    } catch (const std::exception&) {
      // Its own trouble: the others are to be told as well.
      continue;
    }
  }
  fail(std::move(unsent), reason);
}

}  // namespace om::client
