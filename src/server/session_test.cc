// Sessions over a socket pair, with a store that does what the test says.
#include "server/session.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>

#include "posix/unix_socket.h"
#include "server/fake_store.h"

namespace om::server {
namespace {

class SessionTest : public ::testing::Test {
 public:
  SessionTest() { reconnect(); }
  ~SessionTest() override {
    peer_.reset();
    session_.reset();
  }

  // `peer`: root can have another user at the other end.
  void reconnect(std::optional<uid_t> peer = std::nullopt) {
    const uid_t own = ::geteuid();
    ASSERT_EQ(::seteuid(peer.value_or(own)), 0);
    auto pair = seqpacket_pair();
    ASSERT_EQ(::seteuid(own), 0);
    ASSERT_TRUE(pair);
    peer_ = std::move(pair->first);
    ASSERT_EQ(::fcntl(pair->second.raw(), F_SETFL, O_NONBLOCK), 0);
    auto session =
        Session::start(shared_, std::move(pair->second), [this](Session&) { session_.reset(); });
    ASSERT_TRUE(session);
    session_ = *std::move(session);
  }
  void send(const std::string& packet) {
    ASSERT_EQ(::send(peer_.raw(), packet.data(), packet.size(), 0),
              static_cast<ssize_t>(packet.size()));
  }
  template <class T>
  void request(std::uint64_t id, const T& message) {
    send(wire::encode_request(id, message));
  }
  void turn() { ASSERT_TRUE(loop_->turn(std::chrono::milliseconds(50))); }

  struct Answer {
    wire::Header header;
    std::string packet;
    std::vector<UniqueFd> descriptors;
    template <class T>
    T as() const {
      auto message = wire::decode_body<T>(std::as_bytes(std::span(packet)));
      EXPECT_TRUE(message);
      return message ? *std::move(message) : T{};
    }
  };
  // nullopt: nothing came. A closed connection is a header of length 0.
  std::optional<Answer> receive() {
    std::vector<std::byte> buffer(kPacketBytesMax);
    for (int i = 0; i < 20; ++i) {
      pollable();
      auto packet = receive_packet(peer_.borrow(), buffer);
      if (!packet) return Answer{};
      if (!*packet) {
        turn();
        continue;
      }
      Answer answer;
      if ((*packet)->bytes == 0) return answer;
      const auto bytes = std::span(buffer).first((*packet)->bytes);
      auto header = wire::decode_header(bytes, (*packet)->descriptors.size());
      EXPECT_TRUE(header);
      answer.header = *header;
      answer.packet.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      answer.descriptors = std::move((*packet)->descriptors);
      return answer;
    }
    return std::nullopt;
  }
  void pollable() { ASSERT_EQ(::fcntl(peer_.raw(), F_SETFL, O_NONBLOCK), 0); }
  void greet() {
    request(1, wire::Hello{});
    const auto answer = receive();
    ASSERT_TRUE(answer);
    ASSERT_EQ(answer->header.status, Errc::kOk);
    ASSERT_EQ(answer->descriptors.size(), 1U);
  }
  void put(const std::string& key, std::uint64_t length = 10) {
    request(2, wire::Reserve{key, length, 0, 0, 0, "", {}});
    const auto reserved = receive();
    ASSERT_TRUE(reserved && reserved->header.status == Errc::kOk);
    request(3, wire::Commit{reserved->as<wire::ReserveReply>().put_id, length});
    const auto done = receive();
    ASSERT_TRUE(done && done->header.status == Errc::kOk);
  }

  SystemClock clock_;
  std::unique_ptr<Loop> loop_ = *Loop::make();
  FakeStore store_{clock_};
  Shared shared_{*loop_, store_, clock_, {}, {}};
  UniqueFd peer_;
  std::shared_ptr<Session> session_;
};

TEST_F(SessionTest, TheBoardIsForWhoAsksForItWhereThereIsOne) {
  shared_.own_uid = ::getuid();
  for (const bool there : {false, true}) {
    for (const bool is_asked : {false, true}) {
      reconnect();
      store_.has_board = there;
      wire::Hello hello;
      hello.features = wire::kFeatureRoom;
      if (is_asked) hello.features |= wire::kFeatureBoard;
      request(1, hello);
      const auto answer = receive();
      ASSERT_TRUE(answer);
      ASSERT_EQ(answer->header.status, Errc::kOk);
      const std::uint64_t features = answer->as<wire::HelloReply>().features;
      if (!there || !is_asked) {
        EXPECT_EQ(features, wire::kFeatureRoom);
        EXPECT_EQ(answer->descriptors.size(), 1U);
        continue;
      }
      EXPECT_EQ(features, wire::kFeatureRoom | wire::kFeatureBoard);
      ASSERT_EQ(answer->descriptors.size(), 3U);
      EXPECT_EQ(*file_size(answer->descriptors[1].borrow()), 8192U);
      EXPECT_EQ(*file_size(answer->descriptors[2].borrow()), 4096U);
    }
  }
}

TEST_F(SessionTest, TheTableOfClaimsGoesWithTheBoard) {
  shared_.own_uid = ::getuid();
  for (const bool there : {false, true}) {
    for (const std::uint64_t board : {std::uint64_t{0}, wire::kFeatureBoard}) {
      reconnect();
      store_.has_board = true;
      store_.has_claims = there;
      wire::Hello hello;
      hello.features = board | wire::kFeatureClaims;
      request(1, hello);
      const auto answer = receive();
      ASSERT_TRUE(answer);
      const auto said = answer->as<wire::HelloReply>();
      if (!there || board == 0) {
        EXPECT_EQ(said.features, board);
        EXPECT_EQ(said.owner, 0U);
        EXPECT_EQ(answer->descriptors.size(), board == 0 ? 1U : 3U);
        continue;
      }
      EXPECT_EQ(said.features, wire::kFeatureBoard | wire::kFeatureClaims);
      EXPECT_EQ(said.owner, 17U);
      ASSERT_EQ(answer->descriptors.size(), 4U);
      EXPECT_EQ(*file_size(answer->descriptors[3].borrow()), 65536U);
    }
  }
}

TEST_F(SessionTest, ClaimsEndByWhatIsSaidOfThem) {
  greet();
  request(2, wire::Reserve{"k", 5, wire::kReserveClaimed, 0, 0, "", {}});
  ASSERT_TRUE(receive());
  EXPECT_TRUE(store_.asked_for_put.claimed);
  request(3, wire::Reserve{"k", 5, wire::kReserveClaimed | wire::kReserveOrGet, 0, 0, "", {}});
  const auto refused = receive();
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->header.status, Errc::kMalformed);
  wire::Put put;
  put.bodies.resize(2);
  put.bodies[0].flags = wire::kReserveClaimed;
  request(4, put);
  ASSERT_TRUE(receive());
  ASSERT_EQ(store_.in_room.size(), 2U);
  EXPECT_TRUE(store_.in_room[0].claimed);
  EXPECT_FALSE(store_.in_room[1].claimed);
  request(5, wire::Unclaim{"k"});
  request(6, wire::Stat{"none"});
  const auto next = receive();
  ASSERT_TRUE(next);
  EXPECT_EQ(next->header.request_id, 6U);
  EXPECT_EQ(store_.unclaimed, std::vector<std::string>{"k"});
}

TEST_F(SessionTest, TheBoardIsForWhoMayWriteInPlace) {
  const bool is_root = ::geteuid() == 0;  // who may everything
  shared_.own_uid = is_root ? 0 : ::geteuid() + 1;
  reconnect(is_root ? std::optional<uid_t>(65534) : std::nullopt);
  store_.has_board = store_.has_claims = true;
  wire::Hello hello;
  hello.features = wire::kFeatureBoard | wire::kFeatureClaims;
  request(1, hello);
  const auto answer = receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->as<wire::HelloReply>().features, 0U);
  EXPECT_EQ(answer->descriptors.size(), 1U);
}

TEST_F(SessionTest, AnswersACommitWhenItIsDoneAndOthersMeanwhile) {
  greet();
  store_.hold_commits = true;
  request(2, wire::Reserve{"k", 5, 0, 0, 0, "", {}});
  const auto reserved = receive();
  ASSERT_TRUE(reserved);
  request(3, wire::Commit{reserved->as<wire::ReserveReply>().put_id, 5});
  request(4, wire::Stat{"k"});
  const auto first = receive();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->header.request_id, 4U);
  EXPECT_EQ(first->header.status, Errc::kNotFound);
  ASSERT_EQ(store_.held.size(), 1U);
  store_.held.front()();
  const auto second = receive();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->header.request_id, 3U);
  EXPECT_EQ(second->header.status, Errc::kOk);
}

TEST_F(SessionTest, ACommitThatIsDoneAfterItsPeerHasGoneHurtsNobody) {
  greet();
  store_.hold_commits = true;
  request(2, wire::Reserve{"k", 5, 0, 0, 0, "", {}});
  const auto reserved = receive();
  ASSERT_TRUE(reserved);
  request(3, wire::Commit{reserved->as<wire::ReserveReply>().put_id, 5});
  turn();
  peer_.reset();
  turn();
  EXPECT_EQ(session_, nullptr);
  EXPECT_TRUE(store_.holders.empty());
  store_.held.front()();
}

TEST_F(SessionTest, GivesTheLeaseBackWhenItsItemDoesNotFit) {
  greet();
  put("k");
  // Nothing more may be under way: the descriptor cannot be sent.
  shared_.limits.descriptors_max = 0;
  request(5, wire::Get{{"k"}});
  auto answer = receive();
  ASSERT_TRUE(answer);
  auto reply = answer->as<wire::GetReply>();
  ASSERT_EQ(reply.items.size(), 1U);
  EXPECT_EQ(reply.items[0].status, static_cast<std::uint32_t>(Errc::kBusy));
  EXPECT_TRUE(store_.leases.empty());
  shared_.limits.descriptors_max = 100;
  request(6, wire::Get{{"k"}});
  answer = receive();
  ASSERT_TRUE(answer);
  reply = answer->as<wire::GetReply>();
  EXPECT_EQ(reply.items[0].status, 0U);
  EXPECT_EQ(answer->descriptors.size(), 1U);
  EXPECT_EQ(store_.leases.size(), 1U);
}

TEST_F(SessionTest, ADescriptorThatWasNotSentWithAHitIsSentWithTheNext) {
  greet();
  put("k");
  const wire::Reserve or_get{"k", 10, wire::kReserveOrGet, 0, 0, "", {}};
  // The second segment cannot be had, when the first one is on its way already.
  store_.more_extents = {{12345, 0, 1}};
  request(5, or_get);
  auto answer = receive();
  ASSERT_TRUE(answer);
  EXPECT_NE(answer->header.status, Errc::kOk);
  EXPECT_TRUE(answer->descriptors.empty());
  EXPECT_TRUE(store_.leases.empty());
  store_.more_extents.clear();
  request(6, or_get);
  answer = receive();
  ASSERT_TRUE(answer);
  ASSERT_EQ(answer->header.status, Errc::kOk);
  EXPECT_EQ(answer->as<wire::ReserveReply>().outcome,
            static_cast<std::uint8_t>(wire::ReserveOutcome::kHit));
  EXPECT_EQ(answer->descriptors.size(), 1U);
}

TEST_F(SessionTest, AFailureOfTheStoreIsTheItemsStatus) {
  greet();
  store_.fail_get = Error{Errc::kQuota, 0, "too many leases"};
  request(5, wire::Get{{"a", "b"}});
  const auto answer = receive();
  ASSERT_TRUE(answer);
  for (const auto& item : answer->as<wire::GetReply>().items)
    EXPECT_EQ(item.status, static_cast<std::uint32_t>(Errc::kQuota));
}

TEST_F(SessionTest, RoomComesWithTheLeasesThatAreLentWithIt) {
  shared_.own_uid = ::getuid();
  reconnect();
  greet();
  request(5, wire::Room{1000, 10, 3});
  auto answer = receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->header.status, Errc::kNoSpace);
  EXPECT_EQ(store_.asked_for_room.bytes, 1000U);
  EXPECT_EQ(store_.asked_for_room.at_least, 10U);
  EXPECT_EQ(store_.asked_for_room.leases, 3U);
  store_.room = store::Reserved{7, {}, {{2, 64, 500}}, {11, 21, 2}};
  request(6, wire::Room{1000, 10, 3});
  answer = receive();
  ASSERT_TRUE(answer);
  const auto reply = answer->as<wire::RoomReply>();
  EXPECT_EQ(reply.room_id, 7U);
  ASSERT_EQ(reply.extents.size(), 1U);
  EXPECT_EQ(reply.extents[0].length, 500U);
  EXPECT_EQ(reply.first_object, 11U);
  EXPECT_EQ(reply.first_lease, 21U);
  EXPECT_EQ(reply.leases, 2U);
}

TEST_F(SessionTest, APutSaysUnderWhichNumberAndWhatItsWriterHasSeen) {
  greet();
  wire::Put put{
      7, {{2, 64, 3, "k", wire::kPutHeldOnly, 0, "", {}, 11, 5}, {2, 128, 3, "l", 0, 0, "", {}}}};
  request(5, put);
  auto answer = receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->as<wire::PutReply>().items.size(), 2U);
  ASSERT_EQ(store_.in_room.size(), 2U);
  EXPECT_TRUE(store_.in_room[0].held_only);
  EXPECT_EQ(store_.in_room[0].object, 11U);
  EXPECT_EQ(store_.in_room[0].removals_seen, 5U);
  EXPECT_FALSE(store_.in_room[1].held_only);
  EXPECT_EQ(store_.in_room[1].object, 0U);
  EXPECT_EQ(store_.in_room[1].removals_seen, wire::kAllRemovalsSeen);
  put.bodies[1].flags = 4;
  request(6, put);
  answer = receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->header.status, Errc::kUnsupported);
}

// As they come from a client that waits for none of them.
TEST_F(SessionTest, PutsThatAreThereTogetherAreAnsweredTogetherUpToAMalformedOne) {
  greet();
  const auto put = [](std::uint64_t id) {
    return wire::encode_request(id, wire::Put{7, {{2, 64 * id, 3, "k", 0, 0, "", {}}}});
  };
  send(put(5));
  send(put(6));
  send(put(7).substr(0, 40));
  send(put(8));
  turn();
  pollable();
  std::vector<std::byte> buffer(kPacketBytesMax);
  for (const std::uint64_t id : {5U, 6U, 0U}) {
    const auto packet = receive_packet(peer_.borrow(), buffer);
    ASSERT_TRUE(packet && *packet);
    const auto header = wire::decode_header(std::span(buffer).first((*packet)->bytes), 0);
    ASSERT_TRUE(header);
    EXPECT_EQ(header->request_id, id);
    EXPECT_EQ(header->status, id == 0 ? Errc::kMalformed : Errc::kOk);
  }
  ASSERT_EQ(store_.in_room.size(), 1U);
  EXPECT_EQ(store_.in_room[0].offset, 64U * 6);
  const auto end = receive();
  ASSERT_TRUE(end);
  EXPECT_EQ(end->header.length, 0U);
}

TEST_F(SessionTest, StopsReadingFromAPeerThatDoesNotRead) {
  greet();
  pollable();
  const std::string packet = wire::encode_request(9, wire::StatusRequest{});
  int sent = 0;
  for (int idle = 0; idle < 3;) {
    if (::send(peer_.raw(), packet.data(), packet.size(), 0) > 0) {
      ++sent;
      idle = 0;
    } else {
      ++idle;
      turn();
    }
    ASSERT_LT(sent, 100'000);
  }
  EXPECT_GT(shared_.statistics.reads_paused, 0U);
  EXPECT_LE(shared_.totals.reply_bytes.value(), kReplyBytesQueuedMax + kPacketBytesMax);
  int received = 0;
  while (received < sent && receive()) ++received;
  EXPECT_EQ(received, sent);
  EXPECT_EQ(shared_.totals.reply_bytes.value(), 0U);
}

TEST_F(SessionTest, EndsOnAMalformedPacketAfterSayingWhy) {
  greet();
  send(std::string(30, 'x'));
  const auto answer = receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->header.status, Errc::kMalformed);
  turn();
  EXPECT_EQ(session_, nullptr);
  EXPECT_TRUE(store_.holders.empty());
  EXPECT_EQ(shared_.totals.connections.value(), 0U);
}

TEST_F(SessionTest, CountsDescriptorsUnderWayUntilThePeerReads) {
  greet();
  for (int i = 0; i < 3; ++i) put("k" + std::to_string(i));
  turn();
  session_->look();
  EXPECT_EQ(shared_.totals.descriptors.value(), 0U);
  request(5, wire::Get{{"k0", "k1", "k2"}});
  turn();
  session_->look();
  EXPECT_EQ(shared_.totals.descriptors.value(), 3U);
  ASSERT_TRUE(receive());
  session_->look();
  EXPECT_EQ(shared_.totals.descriptors.value(), 0U);
}

TEST_F(SessionTest, ARemovalThatCannotBeRecordedIsAnErrorThatSaysSo) {
  greet();
  store_.fail_record = Error{Errc::kNoSpace, 0, "the disk is full"};
  request(2, wire::Remove{1, "http://a/x", "", "web", 3, 1000});
  const auto answer = receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->header.status, Errc::kNoSpace);
  const Error error =
      wire::decode_failure(answer->header, std::as_bytes(std::span(answer->packet)));
  EXPECT_EQ(error.what, "the removal cannot be recorded: the disk is full");
  EXPECT_EQ(shared_.removals.failed(), 1U);
}

TEST_F(SessionTest, ARemovalIsAnsweredOnceItIsOnDiskAndOthersMeanwhile) {
  greet();
  store_.hold_syncs = true;
  request(2, wire::Remove{3, "red", "", "", 0, 0});
  request(3, wire::Stat{"k"});
  const auto first = receive();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->header.request_id, 3U);
  ASSERT_EQ(store_.held.size(), 1U);
  // Its time is up, but there is nothing to promise yet.
  for (int i = 0; i < 3; ++i) turn();
  store_.held.front()();
  const auto second = receive();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->header.request_id, 2U);
  EXPECT_EQ(second->as<wire::RemoveReply>().sequence, 1U);
}

TEST_F(SessionTest, RegionsThatAreAskedForCountAsDescriptorsUnderWay) {
  constexpr std::uint64_t kAsked = 200;
  greet();
  store_.hold_regions = true;
  for (std::uint64_t id = 2; id < 2 + kAsked; ++id) {
    request(id, wire::RegionOpen{"web" + std::to_string(id), 4096, 0});
    turn();
  }
  const std::size_t taken = store_.held.size();
  EXPECT_GT(taken, kFdsPerMessageMax);
  EXPECT_LE(2 * taken, kFdsInFlightMax);
  for (std::size_t i = taken; i < kAsked; ++i) {
    const auto refused = receive();
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->header.status, Errc::kBusy);
  }
  for (; !store_.held.empty(); store_.held.pop_front()) {
    store_.held.front()();
    const auto opened = receive();
    ASSERT_TRUE(opened);
    EXPECT_EQ(opened->header.status, Errc::kOk);
    EXPECT_EQ(opened->descriptors.size(), 1U);
  }
  store_.hold_regions = false;
  request(500, wire::RegionOpen{"web2", 4096, 0});
  const auto again = receive();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->header.status, Errc::kOk);
  // And those of a peer that has gone meanwhile count for nobody.
  const std::size_t before = shared_.totals.descriptors.value();
  store_.hold_regions = true;
  request(501, wire::RegionOpen{"web3", 4096, 0});
  turn();
  EXPECT_EQ(shared_.totals.descriptors.value(), before + 2);
  peer_.reset();
  turn();
  EXPECT_EQ(session_, nullptr);
  store_.held.front()();
  EXPECT_EQ(shared_.totals.descriptors.value(), 0U);
}

TEST_F(SessionTest, AListOfRegionsIsAnsweredLaterAndOthersMeanwhile) {
  greet();
  store_.hold_lists = true;
  for (std::uint64_t id = 2; id < 7; ++id) request(id, wire::List{"", "", 0, wire::kListRegions});
  request(7, wire::List{"", "", 0, 0});
  // One too many, and one of what is not read for long.
  const auto refused = receive();
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->header.request_id, 6U);
  EXPECT_EQ(refused->header.status, Errc::kBusy);
  const auto other = receive();
  ASSERT_TRUE(other);
  EXPECT_EQ(other->header.request_id, 7U);
  ASSERT_EQ(store_.held.size(), 4U);
  for (std::uint64_t id = 2; id < 6; ++id) {
    store_.held.front()();
    store_.held.pop_front();
    const auto done = receive();
    ASSERT_TRUE(done);
    EXPECT_EQ(done->header.request_id, id);
    EXPECT_EQ(done->header.status, Errc::kOk);
  }
  // Who has gone meanwhile hurts nobody.
  request(8, wire::List{"", "", 0, wire::kListRegions});
  turn();
  ASSERT_EQ(store_.held.size(), 1U);
  ASSERT_NE(store_.last_list, nullptr);
  EXPECT_FALSE(store_.last_list->load());
  peer_.reset();
  turn();
  EXPECT_EQ(session_, nullptr);
  EXPECT_TRUE(store_.last_list->load());
  store_.held.front()();
}

TEST_F(SessionTest, ADeleteIsAnsweredOnceItIsOnDiskAndOthersMeanwhile) {
  greet();
  put("k");
  put("l");
  store_.hold_syncs = store_.durable_objects = true;
  request(4, wire::Delete{0, "k"});
  request(5, wire::Delete{1, "l"});
  request(6, wire::Stat{"k"});
  const auto first = receive();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->header.request_id, 6U);
  EXPECT_EQ(first->header.status, Errc::kNotFound);
  ASSERT_EQ(store_.held.size(), 2U);
  for (std::uint64_t id = 4; id < 6; ++id) {
    store_.held.front()();
    store_.held.pop_front();
    const auto done = receive();
    ASSERT_TRUE(done);
    EXPECT_EQ(done->header.request_id, id);
    EXPECT_EQ(done->as<wire::DeleteReply>().removed, 1U);
  }
}

TEST_F(SessionTest, ADeleteThatCannotBePutOnDiskSaysSo) {
  greet();
  put("k");
  store_.durable_objects = true;
  store_.fail_sync = Error{Errc::kSystem, EIO, "sync the journal"};
  request(4, wire::Delete{0, "k"});
  const auto answer = receive();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->header.status, Errc::kSystem);
}

TEST_F(SessionTest, WhoAsksForARemovalAndLeavesHurtsNobody) {
  greet();
  store_.hold_syncs = true;
  request(2, wire::Join{"web", 0, 0});
  request(3, wire::Remove{3, "red", "", "", 0, 60000});
  turn();
  peer_.reset();
  turn();
  EXPECT_EQ(session_, nullptr);
  EXPECT_EQ(shared_.removals.caches(), 0U);
  ASSERT_EQ(store_.held.size(), 1U);
  store_.held.front()();
  turn();
  EXPECT_EQ(shared_.removals.unapplied(), 1U);
}

}  // namespace
}  // namespace om::server
