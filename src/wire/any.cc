#include "wire/any.h"

namespace om::wire {

namespace {

template <class T>
Result<std::string> again(const Header& header, std::span<const std::byte> packet) {
  const T message = OM_TRY(decode_body<T>(packet));
  return encode(header.type, header.request_id, message, header.flags, header.descriptors);
}

template <class Request, class Reply>
Result<std::string> either(const Header& header, std::span<const std::byte> packet) {
  return (header.flags & kReplyFlag) != 0 ? again<Reply>(header, packet)
                                          : again<Request>(header, packet);
}

}  // namespace

std::optional<Result<std::string>> reencode(const Header& header,
                                            std::span<const std::byte> packet) {
  if (header.status != Errc::kOk)
    return Result<std::string>(
        encode_failure(header.type, header.request_id, decode_failure(header, packet)));
  switch (header.type) {
    case Type::kHello: return either<Hello, HelloReply>(header, packet);
    case Type::kGet: return either<Get, GetReply>(header, packet);
    case Type::kRelease: return again<Release>(header, packet);
    case Type::kReserve: return either<Reserve, ReserveReply>(header, packet);
    case Type::kExtend: return either<Extend, ExtendReply>(header, packet);
    case Type::kCommit: return either<Commit, CommitReply>(header, packet);
    case Type::kAbort: return either<Abort, Empty>(header, packet);
    case Type::kDelete: return either<Delete, DeleteReply>(header, packet);
    case Type::kStat: return either<Stat, StatReply>(header, packet);
    case Type::kList: return either<List, ListReply>(header, packet);
    case Type::kRegion: return either<RegionOpen, RegionReply>(header, packet);
    case Type::kRegionList: return either<RegionListRequest, RegionListReply>(header, packet);
    case Type::kRegionDrop: return either<RegionDrop, Empty>(header, packet);
    case Type::kRegionDrain: return either<RegionDrain, Empty>(header, packet);
    case Type::kStatus: return either<StatusRequest, StatusReply>(header, packet);
    case Type::kDescribe: return either<Describe, GetReply>(header, packet);
    case Type::kSubscribe: return either<Subscribe, Empty>(header, packet);
    case Type::kEvent: return again<Event>(header, packet);
    case Type::kFollow: return either<Follow, FollowReply>(header, packet);
    case Type::kProgress: return again<Progress>(header, packet);
    case Type::kRoom: return either<Room, RoomReply>(header, packet);
    case Type::kPut: return either<Put, PutReply>(header, packet);
    case Type::kUnclaim: return again<Unclaim>(header, packet);
    case Type::kJoin: return either<Join, JoinReply>(header, packet);
    case Type::kRemove: return either<Remove, RemoveReply>(header, packet);
    case Type::kRemoval: return again<Removal>(header, packet);
    case Type::kAck: return again<Ack>(header, packet);
    case Type::kAmend: return again<Amend>(header, packet);
    case Type::kHold: return either<Hold, HoldReply>(header, packet);
    case Type::kRefresh: return either<Refresh, CommitReply>(header, packet);
  }
  return std::nullopt;
}

}  // namespace om::wire
