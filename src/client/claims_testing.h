// For tests of claims: a daemon that is a script, and gives whatever it is asked for. What it
// shares with its client is written by the test.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/board.h"
#include "base/claims.h"
#include "client/client_testing.h"
#include "objmapper/client.h"
#include "posix/file.h"
#include "posix/mapping.h"
#include "posix/memfd.h"

namespace om::client {

inline constexpr std::uint64_t kClaimsSeed = 99;
inline constexpr std::uint64_t kClaimsOwner = 5;
inline constexpr std::uint64_t kClaimsSegment = 3;
inline constexpr std::size_t kClaimsSegmentBytes = 65536;

struct Grants {
  bool claims = true;
  std::uint64_t counters = 64;
  std::uint32_t owner = kClaimsOwner;
};

class ClaimsDaemon {
 public:
  explicit ClaimsDaemon(Grants grants = {})
      : grants_(grants),
        board_file_(*make_memfd("board", kBoardBytes)),
        claims_file_(*make_memfd("claims", sizeof(claims::Table))),
        page_file_(*make_memfd("page", sizeof(board::HazardPage))),
        segment_file_(*make_memfd("segment", kClaimsSegmentBytes)),
        board_(*Mapping::of(board_file_.borrow(), 0, kBoardBytes, Access::kReadWrite)),
        claims_(*Mapping::of(claims_file_.borrow(), 0, sizeof(claims::Table), Access::kReadWrite)) {
    header().sets = 1;
    header().seed = kClaimsSeed;
    header().counters = grants.counters;
    header().alive = 1;
    header().magic = board::kMagic;
    server_.emplace([this](FakeServer& server) { serve(server); });
    auto connected = connect_to(*server_);
    EXPECT_TRUE(connected) << describe(connected.error());
    client.emplace(*std::move(connected));
  }
  ClaimsDaemon(const ClaimsDaemon&) = delete;
  ClaimsDaemon& operator=(const ClaimsDaemon&) = delete;
  ~ClaimsDaemon() {
    client.reset();
    server_->join();
  }

  board::Header& header() { return *reinterpret_cast<board::Header*>(board_.data()); }
  claims::Counter& counter(const std::string& key) {
    return reinterpret_cast<claims::Counter*>(
        board_.data() + board::kHeaderBytes +
        board::kSetBytes)[claims::counter_of(board::hash(kClaimsSeed, key), 64)];
  }
  claims::Word& word(const std::string& key) {
    return reinterpret_cast<claims::Table*>(claims_.data())->of(board::hash(kClaimsSeed, key));
  }
  static std::uint64_t mine(const std::string& key) {
    return claims::word_of(board::hash(kClaimsSeed, key), kClaimsOwner);
  }
  // Since the last time.
  std::vector<std::string> messages() {
    EXPECT_TRUE(client->status());
    const std::lock_guard lock(mutex_);
    return std::exchange(messages_, {});
  }
  using Messages = std::vector<std::string>;

  std::optional<Client> client;
  std::atomic<bool> refuse{false};

 private:
  static constexpr std::size_t kBoardBytes = board::kHeaderBytes + board::kSetBytes + 64;

  void note(std::string text) {
    const std::lock_guard lock(mutex_);
    messages_.push_back(std::move(text));
  }
  std::vector<BorrowedFd> once() {
    if (std::exchange(told_, true)) return {};
    return {segment_file_.borrow()};
  }
  void serve(FakeServer& server) {
    const auto hello = server.receive();
    if (!hello) return;
    EXPECT_NE(hello->as<wire::Hello>().features & wire::kFeatureClaims, 0U);
    const UniqueFd lease_file = *make_memfd("leases", 0);
    const UniqueFd shown = *reopen(board_file_.borrow(), O_RDONLY);
    wire::HelloReply answer;
    answer.may_read = answer.may_write = 1;
    answer.with_lease_file = 1;
    answer.features = wire::kFeatureBoard | wire::kFeatureRoom;
    std::vector<BorrowedFd> descriptors{lease_file.borrow(), shown.borrow(), page_file_.borrow()};
    if (grants_.claims) {
      answer.features |= wire::kFeatureClaims;
      answer.owner = grants_.owner;
      descriptors.push_back(claims_file_.borrow());
    }
    server.reply(*hello, answer, descriptors);
    while (const auto request = server.receive()) answer_to(server, *request);
  }
  void answer_to(FakeServer& server, const FakeServer::Request& request) {
    if (request.header.type == wire::Type::kReserve) {
      const auto reserve = request.as<wire::Reserve>();
      note("reserve " + reserve.key + " " + std::to_string(reserve.flags));
      if (refuse.load()) return server.fail(request, Errc::kNoSpace, "the tier is full");
      wire::ReserveReply reply;
      reply.put_id = 7;
      const auto descriptors = once();
      reply.segments = {segment(kClaimsSegment, kClaimsSegmentBytes, wire::SegmentKind::kMemory,
                                true, !descriptors.empty())};
      reply.extents = {{kClaimsSegment, 0, 4096}};
      server.reply(request, reply, descriptors);
    } else if (request.header.type == wire::Type::kRoom) {
      wire::RoomReply reply;
      reply.room_id = 8;
      const auto descriptors = once();
      reply.segments = {segment(kClaimsSegment, kClaimsSegmentBytes, wire::SegmentKind::kMemory,
                                true, !descriptors.empty())};
      reply.extents = {{kClaimsSegment, 0, kClaimsSegmentBytes}};
      server.reply(request, reply, descriptors);
    } else if (request.header.type == wire::Type::kPut) {
      wire::PutReply reply;
      for (const wire::PutBody& body : request.as<wire::Put>().bodies) {
        note("put " + body.key + " " + std::to_string(body.flags));
        if (refuse.load())
          reply.items.push_back({static_cast<std::uint32_t>(Errc::kNoSpace), 0, 0});
        else
          reply.items.push_back({0, 1, 2});
      }
      server.reply(request, reply);
    } else if (request.header.type == wire::Type::kCommit) {
      note("commit " + std::to_string(request.as<wire::Commit>().put_id));
      server.reply(request, wire::CommitReply{1, 2});
    } else if (request.header.type == wire::Type::kUnclaim) {
      note("unclaim " + request.as<wire::Unclaim>().key);
    } else if (request.header.type == wire::Type::kAbort) {
      note("abort " + std::to_string(request.as<wire::Abort>().put_id));
      server.reply(request, wire::Empty{});
    } else if (request.header.type == wire::Type::kStatus) {
      server.reply(request, wire::StatusReply{});
    }
  }

  const Grants grants_;
  UniqueFd board_file_;
  UniqueFd claims_file_;
  UniqueFd page_file_;
  UniqueFd segment_file_;
  Mapping board_;
  Mapping claims_;
  bool told_ = false;
  std::mutex mutex_;
  Messages messages_;  // guarded by mutex_
  std::optional<FakeServer> server_;
};

}  // namespace om::client
