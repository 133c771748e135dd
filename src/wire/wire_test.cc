// One row for every message: what was encoded comes back, and nothing shorter, longer or beyond a
// limit does.
#include <gtest/gtest.h>

#include <functional>

#include "wire/any.h"

namespace om::wire {
namespace {

std::span<const std::byte> bytes(const std::string& packet) {
  return std::as_bytes(std::span(packet));
}

ObjectInfo info() {
  return {7,
          10,
          20,
          5,
          1'700'000'000'000'000'000,
          42,
          1,
          1,
          3,
          std::string("meta\0data", 9),
          {"red", "green"}};
}
GetItem item() { return {static_cast<std::uint32_t>(Errc::kOk), 99, info(), {{1, 2, 3}}}; }
Segment segment() { return {1, std::uint64_t{1} << 30, 2, 1, 1}; }

struct Row {
  const char* name;
  std::string packet;
};

std::vector<Row> rows() {
  const auto reply = [](Type type, const auto& message, std::uint32_t descriptors = 0) {
    return encode_reply(type, 5, message, descriptors);
  };
  return {
      {"Hello", encode_request(1, Hello{kMagic, 1, 2, 3, "test"})},
      {"HelloReply",
       reply(Type::kHello, HelloReply{1, 2, 3, 1, 0, 1, 4, 5, 6, 7, 8, 1, "0.2.0"}, 1)},
      {"HelloReply with an owner",
       reply(Type::kHello, HelloReply{1, kFeatureClaims, 3, 1, 0, 1, 4, 5, 6, 7, 8, 1, "0.2.0", 9},
             1)},
      {"Get", encode_request(2, Get{{"a", "bc", std::string(8192, 'k')}})},
      {"GetReply", reply(Type::kGet, GetReply{{segment()}, {item(), GetItem{1, 0, {}, {}}}}, 1)},
      {"Release", encode_request(3, Release{{1, 2, 3}})},
      {"Reserve", encode_request(4, Reserve{"key", kUnknownLength, 3, 9, 1000, "m", {"t"}, 7, 2})},
      {"ReserveReply", reply(Type::kReserve, ReserveReply{1, 2, {segment()}, {{1, 2, 3}}, item()})},
      {"Extend", encode_request(5, Extend{1, 2})},
      {"ExtendReply", reply(Type::kExtend, ExtendReply{{segment()}, {{4, 5, 6}, {7, 8, 9}}})},
      {"Hold", encode_request(5, Hold{1, 2})},
      {"HoldReply", reply(Type::kHold, HoldReply{7, 8, {segment()}, {{4, 5, 6}, {7, 8, 9}}})},
      {"Commit", encode_request(6, Commit{1, 2})},
      {"CommitReply", reply(Type::kCommit, CommitReply{1, 2})},
      {"Refresh", encode_request(27, Refresh{1, 2, 3, "meta", {"tag"}})},
      {"RefreshReply", reply(Type::kRefresh, CommitReply{1, 2})},
      {"Abort", encode_request(7, Abort{1})},
      {"AbortReply", reply(Type::kAbort, Empty{})},
      {"Delete", encode_request(8, Delete{2, "tag"})},
      {"DeleteReply", reply(Type::kDelete, DeleteReply{3})},
      {"Stat", encode_request(9, Stat{"key"})},
      {"StatReply", reply(Type::kStat, StatReply{info()})},
      {"List", encode_request(10, List{"p", "a", 5, kListRegions})},
      {"ListReply", reply(Type::kList, ListReply{{{"key", 1, 2, 3, 1, "http://x/"}}, 1})},
      {"Region", encode_request(11, RegionOpen{"web/cache", 1, 2})},
      {"RegionReply", reply(Type::kRegion, RegionReply{1, 1, segment(), 2, 1}, 2)},
      {"RegionList", encode_request(12, RegionListRequest{})},
      {"RegionListReply", reply(Type::kRegionList, RegionListReply{{{"o", 1, 2, 1, 3}}})},
      {"RegionDrop", encode_request(13, RegionDrop{"web/cache"})},
      {"RegionDropReply", reply(Type::kRegionDrop, Empty{})},
      {"RegionDrain", encode_request(18, RegionDrain{"web/cache", 1})},
      {"RegionDrainReply", reply(Type::kRegionDrain, Empty{})},
      {"Status", encode_request(14, StatusRequest{})},
      {"StatusReply", reply(Type::kStatus, StatusReply{{{"n", 1, ""}, {"t", 0, "text"}}})},
      {"Describe", encode_request(15, Describe{{1, 2}})},
      {"DescribeReply", reply(Type::kDescribe, GetReply{{segment()}, {}}, 1)},
      {"Subscribe", encode_request(16, Subscribe{7, "prefix"})},
      {"SubscribeReply", reply(Type::kSubscribe, Empty{})},
      {"Event", encode(Type::kEvent, 0, Event{1, "key", 2, 3}, kReplyFlag)},
      {"Follow", encode_request(19, Follow{1, 2, 3, 4, 5})},
      {"FollowReply", reply(Type::kFollow, FollowReply{1, 5, 6, {}, {{1, 2, 3}}, {}})},
      {"Progress", encode_request(20, Progress{1, 2})},
      {"Join", encode_request(21, Join{"web", 7, 8})},
      {"JoinReply", reply(Type::kJoin, JoinReply{1, 2, 3, 4, 1, 5}, 1)},
      {"Remove", encode_request(22, Remove{1, "http://a/x", "digest", "web", 3, 250})},
      {"RemoveReply", reply(Type::kRemove, RemoveReply{1, 2, 3, 4, 5})},
      {"Removal", encode(Type::kRemoval, 0, Removal{1, 2, 3, "tag", "", "web", 4}, kReplyFlag)},
      {"Ack", encode_request(24, Ack{9})},
      {"Amend", encode_request(25, Amend{1, 2, 3, "meta", {"tag"}})},
      {"Room", encode_request(30, Room{1, 2, 3})},
      {"RoomReply", reply(Type::kRoom, RoomReply{7, {segment()}, {{1, 2, 3}}, 4, 5, 6}, 1)},
      {"Put", encode_request(31, Put{1, {{2, 64, 3, "key", 1, 4, "meta", {"t"}, 5, 6}, {}}})},
      {"PutReply", reply(Type::kPut, PutReply{{{0, 1, 2}, {}}})},
      {"Unclaim", encode_request(32, Unclaim{"key"})},
      {"Failure", encode_failure(Type::kGet, 9, Error{Errc::kQuota, 0, "too many leases"})},
  };
}

// What the decoder makes of a packet whose header is right about its length.
Result<std::string> decode(std::string packet) {
  const auto length = static_cast<std::uint32_t>(packet.size());
  std::memcpy(packet.data(), &length, sizeof length);
  std::uint32_t descriptors = 0;
  std::memcpy(&descriptors, packet.data() + 20, sizeof descriptors);
  const Header header = OM_TRY(decode_header(bytes(packet), descriptors));
  auto again = reencode(header, bytes(packet));
  if (!again) return Error{Errc::kUnsupported, 0, "no such type"};
  return *std::move(again);
}

TEST(Messages, ComeBackAsTheyWere) {
  for (const Row& row : rows()) {
    SCOPED_TRACE(row.name);
    auto again = decode(row.packet);
    ASSERT_TRUE(again) << describe(again.error());
    EXPECT_EQ(*again, row.packet);
    EXPECT_LE(row.packet.size(), kPacketBytesMax);
  }
}

TEST(Messages, AreMalformedWhenCutAnywhere) {
  for (const Row& row : rows()) {
    if (std::string(row.name) == "Failure") continue;  // its reason is only for people
    SCOPED_TRACE(row.name);
    for (std::size_t size = Header::kBytes; size < row.packet.size(); ++size) {
      auto again = decode(row.packet.substr(0, size));
      ASSERT_FALSE(again) << "of " << row.packet.size() << " bytes the first " << size;
      EXPECT_EQ(again.error().code, Errc::kMalformed);
    }
  }
}

TEST(Messages, AreMalformedWhenBytesAreLeftOver) {
  for (const Row& row : rows()) {
    if (std::string(row.name) == "Failure") continue;
    SCOPED_TRACE(row.name);
    auto again = decode(row.packet + '\0');
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, Errc::kMalformed);
  }
}

TEST(Messages, NeverAllocateForACountThatThePacketCannotHold) {
  for (const Row& row : rows()) {
    SCOPED_TRACE(row.name);
    // Every aligned or unaligned u32 of the body replaced by huge counts: no crash, no exception.
    for (std::size_t at = Header::kBytes; at + 4 <= std::min<std::size_t>(row.packet.size(), 400);
         ++at) {
      for (const std::uint32_t count : {0xffffffffU, 0x7fffffffU, 8193U, 4097U, 65U}) {
        std::string packet = row.packet;
        std::memcpy(packet.data() + at, &count, sizeof count);
        (void)decode(packet);
      }
    }
  }
}

TEST(Messages, KeepTheLimits) {
  const auto refused = [](const std::string& packet) {
    auto again = decode(packet);
    return !again && again.error().code == Errc::kMalformed;
  };
  const std::string long_key(kKeyBytesMax + 1, 'k');
  EXPECT_TRUE(refused(encode_request(1, Get{std::vector<std::string>(65, "k")})));
  EXPECT_FALSE(refused(encode_request(1, Get{std::vector<std::string>(64, "k")})));
  EXPECT_TRUE(refused(encode_request(1, Get{{long_key}})));
  EXPECT_TRUE(refused(encode_request(1, Stat{long_key})));
  EXPECT_TRUE(refused(encode_request(1, Unclaim{long_key})));
  EXPECT_TRUE(refused(encode_request(1, Delete{0, long_key})));
  EXPECT_TRUE(refused(encode_request(1, Subscribe{1, long_key})));
  EXPECT_TRUE(refused(encode_request(1, Hello{kMagic, 1, 1, 0, std::string(256, 'n')})));
  EXPECT_TRUE(refused(encode_request(1, RegionOpen{std::string(256, 'o'), 0, 0})));
  EXPECT_TRUE(refused(encode_request(1, RegionDrop{std::string(256, 'o')})));
  EXPECT_TRUE(refused(encode_request(1, Join{std::string(256, 'n'), 0, 0})));
  EXPECT_TRUE(refused(encode_request(1, Remove{1, long_key, "", "", 0, 0})));
  EXPECT_TRUE(refused(encode_request(1, Remove{1, "k", std::string(256, 't'), "", 0, 0})));
  EXPECT_TRUE(refused(encode_request(1, Remove{1, "k", "", std::string(256, 'o'), 0, 0})));
  EXPECT_TRUE(refused(encode_request(1, Release{std::vector<std::uint64_t>(8193, 1)})));
  EXPECT_TRUE(refused(encode_request(1, Describe{std::vector<std::uint64_t>(65, 1)})));
  Reserve reserve{"k", 1, 0, 0, 0, std::string(kMetadataBytesMax, 'm'), {}};
  EXPECT_FALSE(refused(encode_request(1, reserve)));
  reserve.metadata += 'm';
  EXPECT_TRUE(refused(encode_request(1, reserve)));
  reserve.metadata.clear();
  reserve.tags.assign(kTagsMax, std::string(kTagBytesMax, 't'));
  EXPECT_FALSE(refused(encode_request(1, reserve)));
  reserve.tags.emplace_back("t");
  EXPECT_TRUE(refused(encode_request(1, reserve)));
  reserve.tags.assign(1, std::string(kTagBytesMax + 1, 't'));
  EXPECT_TRUE(refused(encode_request(1, reserve)));
}

TEST(Messages, TheLargestReserveFitsOnePacket) {
  const Reserve reserve{std::string(kKeyBytesMax, 'k'),
                        1,
                        0,
                        0,
                        0,
                        std::string(kMetadataBytesMax, 'm'),
                        std::vector<std::string>(kTagsMax, std::string(kTagBytesMax, 't'))};
  EXPECT_LE(encode_request(1, reserve).size(), kPacketBytesMax);
}

TEST(Header, MustTellTheTruth) {
  std::string packet = encode_request(77, Stat{"key"});
  auto header = decode_header(bytes(packet), 0);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->type, Type::kStat);
  EXPECT_EQ(header->request_id, 77U);
  EXPECT_EQ(header->length, packet.size());
  EXPECT_FALSE(decode_header(bytes(packet), 1));  // a descriptor that the header does not know of
  EXPECT_FALSE(decode_header(bytes(packet + "x"), 0));
  EXPECT_FALSE(decode_header(bytes(packet).first(packet.size() - 1), 0));
  for (std::size_t size = 0; size < Header::kBytes; ++size)
    EXPECT_FALSE(decode_header(bytes(packet).first(size), 0));
}

TEST(Failure, CarriesItsReason) {
  const std::string packet =
      encode_failure(Type::kCommit, 3, Error{Errc::kNoSpace, 0, "the disk tier is full"});
  auto header = decode_header(bytes(packet), 0);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->flags, kReplyFlag);
  EXPECT_EQ(header->status, Errc::kNoSpace);
  EXPECT_EQ(decode_failure(*header, bytes(packet)).what, "the disk tier is full");
}

TEST(Failure, CutsAReasonThatIsTooLong) {
  const std::string packet =
      encode_failure(Type::kGet, 3, Error{Errc::kDenied, 0, std::string(9000, 'w')});
  auto header = decode_header(bytes(packet), 0);
  ASSERT_TRUE(header);
  EXPECT_EQ(decode_failure(*header, bytes(packet)).what.size(), 4096U);
}

TEST(Types, OthersAreUnknown) {
  std::string packet = encode_request(1, Stat{"key"});
  for (const std::uint16_t type : std::initializer_list<std::uint16_t>{0, 99, 255, 65535}) {
    std::memcpy(packet.data() + 4, &type, sizeof type);
    auto again = decode(packet);
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code, Errc::kUnsupported);
  }
}

}  // namespace
}  // namespace om::wire
