// GETs by the board: without a message where all is well, by one where anything is not as it should
// be. The daemon is a script; its board and its bytes are written here.
#include "client/board.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "base/board.h"
#include "base/clock.h"
#include "client/client_testing.h"
#include "objmapper/client.h"
#include "posix/file.h"
#include "posix/mapping.h"
#include "posix/memfd.h"

namespace om::client {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kSegment = 7;
constexpr std::size_t kSegmentBytes = 65536;

// A daemon with a board of one set, a hazard page, and a segment. It answers GET of "known" with a
// lease on the segment's first bytes, of anything else with "not found". What is put goes into
// another segment, and does not get to the board.
class Daemon {
 public:
  explicit Daemon(bool grants = true)
      : board_file_(*make_memfd("board", board::kHeaderBytes + board::kSetBytes)),
        page_file_(*make_memfd("page", sizeof(board::HazardPage))),
        segment_file_(*make_memfd("segment", kSegmentBytes)),
        board_(*Mapping::of(board_file_.borrow(), 0, board::kHeaderBytes + board::kSetBytes,
                            Access::kReadWrite)),
        page_(*Mapping::of(page_file_.borrow(), 0, sizeof(board::HazardPage), Access::kReadWrite)),
        segment_(*Mapping::of(segment_file_.borrow(), 0, kSegmentBytes, Access::kReadWrite)) {
    for (std::size_t i = 0; i < kSegmentBytes; ++i)
      segment_.bytes()[i] = static_cast<std::byte>(i * 7 % 251);
    header().sets = 1;
    header().seed = 99;
    header().alive = 1;
    header().magic = board::kMagic;
    server_.emplace([this, grants](FakeServer& server) { serve(server, grants); });
    auto connected = connect_to(*server_);
    EXPECT_TRUE(connected) << describe(connected.error());
    client.emplace(*std::move(connected));
  }
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  ~Daemon() {
    client.reset();
    server_->join();
  }

  board::Header& header() { return *reinterpret_cast<board::Header*>(board_.data()); }
  board::Slot& slot(std::size_t at) {
    return reinterpret_cast<board::Slot*>(board_.data() + board::kHeaderBytes)[at];
  }
  board::HazardPage& page() { return *reinterpret_cast<board::HazardPage*>(page_.data()); }
  // Object `id` lies at 100 * id, and is 10 * id bytes long.
  static board::Shown object(std::uint64_t id) {
    board::Shown object;
    object.object_id = id;
    object.segment = kSegment;
    object.offset = 100 * id;
    object.length = 10 * id;
    object.created_ns = 5;
    object.revision = 3;
    object.ephemeral = true;
    return object;
  }
  void show(std::size_t at, const std::string& key, const board::Shown& object) {
    board::Text text;
    text.fill(key, "metadata", {"tag", "other"});
    slot(at).show(board::hash(99, key), object, text);
  }
  std::string body(std::uint64_t id) {
    return {reinterpret_cast<const char*>(segment_.data()) + 100 * id, 10 * id};
  }
  // What the client says that it reads.
  std::vector<std::uint64_t> named() {
    std::vector<std::uint64_t> named;
    for (const board::Word& word : page().objects)
      if (word.load() != 0) named.push_back(word.load());
    return named;
  }
  // Messages since the last time, but for the one that this asks.
  int messages() {
    EXPECT_TRUE(client->status());
    return received_.exchange(0) - 1;
  }
  // The client has met the segment, and nothing is counted yet.
  void meet() {
    {
      const auto known = client->get("known");
      ASSERT_TRUE(known && *known);
      EXPECT_TRUE((*known)->asked());
    }
    (void)messages();
  }
  void send_event(std::uint64_t object, std::uint64_t lease) {
    server_->send(wire::encode(wire::Type::kEvent, 0,
                               wire::Event{wire::kEventRevoked, "k", object, lease},
                               wire::kReplyFlag));
  }

  // Bodies so far.
  [[nodiscard]] int puts() const { return puts_.load(); }

  std::optional<Client> client;

 private:
  void serve(FakeServer& server, bool grants) {
    const auto hello = server.receive();
    if (!hello) return;
    EXPECT_NE(hello->as<wire::Hello>().features & wire::kFeatureBoard, 0U);
    const UniqueFd lease_file = *make_memfd("leases", 0);
    const UniqueFd shown = *reopen(board_file_.borrow(), O_RDONLY);
    wire::HelloReply answer;
    answer.daemon_epoch = 7;
    answer.may_read = answer.may_write = 1;
    answer.with_lease_file = 1;
    if (grants) {
      answer.features = wire::kFeatureBoard | wire::kFeatureRoom;
      server.reply(*hello, answer, {lease_file.borrow(), shown.borrow(), page_file_.borrow()});
    } else {
      server.reply(*hello, answer, {lease_file.borrow()});
    }
    while (const auto request = server.receive()) {
      ++received_;
      if (request->header.type == wire::Type::kGet) {
        wire::GetReply reply;
        std::vector<BorrowedFd> descriptors;
        for (const std::string& key : request->as<wire::Get>().keys) {
          reply.items.emplace_back();
          reply.items.back().status = static_cast<std::uint32_t>(Errc::kNotFound);
          if (key != "known") continue;
          reply.items.back() = item(1, {{kSegment, 0, 4}});
          if (std::exchange(told_, true)) continue;
          reply.segments = {segment(kSegment, kSegmentBytes, wire::SegmentKind::kMemory)};
          descriptors.push_back(segment_file_.borrow());
        }
        server.reply(*request, reply, descriptors);
      } else if (request->header.type == wire::Type::kReserve) {
        server.fail(*request, Errc::kNoSpace, "the tier is full");
      } else if (request->header.type == wire::Type::kRoom) {
        wire::RoomReply reply;
        reply.room_id = 1;
        reply.segments = {segment(kSegment + 1, kSegmentBytes, wire::SegmentKind::kMemory, true)};
        reply.extents = {{kSegment + 1, 0, kSegmentBytes}};
        server.reply(*request, reply, {room_file_.borrow()});
      } else if (request->header.type == wire::Type::kPut) {
        wire::PutReply reply;
        reply.items.assign(request->as<wire::Put>().bodies.size(), {0, 100, 5});
        puts_ += static_cast<int>(reply.items.size());
        server.reply(*request, reply);
      } else if (request->header.type == wire::Type::kStatus) {
        server.reply(*request, wire::StatusReply{});
      } else if (request->header.type == wire::Type::kSubscribe) {
        server.reply(*request, wire::Empty{});
      }
    }
  }

  UniqueFd board_file_;
  UniqueFd page_file_;
  UniqueFd segment_file_;
  UniqueFd room_file_ = *make_memfd("room", kSegmentBytes);
  Mapping board_;
  Mapping page_;
  Mapping segment_;
  bool told_ = false;
  std::atomic<int> received_{0};
  std::atomic<int> puts_{0};
  std::optional<FakeServer> server_;
};

TEST(Board, AGetByItIsALeaseLikeAnyOtherAndNoMessage) {
  Daemon daemon;
  daemon.meet();
  daemon.show(2, "k", Daemon::object(50));
  auto got = daemon.client->get("k");
  ASSERT_TRUE(got && *got);
  Lease lease = **std::move(got);
  EXPECT_FALSE(lease.asked());
  EXPECT_EQ(lease.id(), board::kLeases);
  EXPECT_EQ(lease.size(), 500U);
  const ObjectInfo& info = lease.info();
  EXPECT_EQ(info.object_id, 50U);
  EXPECT_EQ(info.total_bytes, 500U);
  EXPECT_EQ(info.offset, 0U);
  EXPECT_EQ(info.created_ns, 5U);
  EXPECT_EQ(info.expires_ns, 0U);
  EXPECT_EQ(info.revision, 3U);
  EXPECT_TRUE(info.ephemeral);
  EXPECT_FALSE(info.on_disk);
  EXPECT_EQ(info.metadata, "metadata");
  EXPECT_EQ(info.tags, (std::vector<std::string>{"tag", "other"}));
  EXPECT_EQ(daemon.named(), std::vector<std::uint64_t>{50});
  EXPECT_EQ(*lease.read_all(), daemon.body(50));
  const auto spans = *lease.map();
  ASSERT_EQ(spans.size(), 1U);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(spans[0].data()), spans[0].size()),
            daemon.body(50));
  const UniqueFd output = *make_memfd("output", 0);
  ASSERT_TRUE(lease.copy_to(output.raw()));
  std::string copied(500, '\0');
  ASSERT_TRUE(read_exactly(output.borrow(), 0, std::as_writable_bytes(std::span(copied))));
  EXPECT_EQ(copied, daemon.body(50));
  ASSERT_EQ(lease.slices().size(), 1U);
  std::string sliced(10, '\0');
  EXPECT_EQ(::pread(lease.slices()[0].fd, sliced.data(), 10,
                    static_cast<off_t>(lease.slices()[0].offset)),
            10);
  EXPECT_EQ(sliced, daemon.body(50).substr(0, 10));
  EXPECT_FALSE(lease.pins().empty());
  Lease moved = std::move(lease);
  moved.release();
  moved.release();
  EXPECT_TRUE(daemon.named().empty());
  EXPECT_EQ(daemon.messages(), 0);
  EXPECT_EQ(daemon.page().gets.load(), 1U);
  EXPECT_EQ(daemon.page().touched[0].load(), 50U);
  // And one that is dropped, and many together.
  {
    const auto dropped = daemon.client->get("k");
    EXPECT_EQ(daemon.named().size(), 1U);
  }
  EXPECT_TRUE(daemon.named().empty());
  auto many = daemon.client->get_many({"k", "k", "other", "k"});
  ASSERT_TRUE(many);
  ASSERT_TRUE((*many)[0] && (*many)[1] && (*many)[3]);
  EXPECT_FALSE((*many)[2]);
  EXPECT_EQ(daemon.named().size(), 3U);
  release(*std::move(many));
  EXPECT_TRUE(daemon.named().empty());
  EXPECT_EQ(daemon.messages(), 1);  // for the other one
}

TEST(Board, AReservationFindsWhatIsThereUnlessThatIsStale) {
  Daemon daemon;
  daemon.meet();
  daemon.show(0, "k", Daemon::object(9));
  PutOptions options;
  options.key = "k";
  auto either = daemon.client->reserve_or_get(options, 1s);
  ASSERT_TRUE(either && std::holds_alternative<Lease>(*either));
  auto any = daemon.client->reserve_or_follow(options);
  ASSERT_TRUE(any && std::holds_alternative<Lease>(*any));
  options.stale_object_id = 9;
  options.stale_revision = 2;
  EXPECT_TRUE(daemon.client->reserve_or_follow(options));
  EXPECT_EQ(daemon.messages(), 0);
  options.stale_revision = 3;
  EXPECT_EQ(daemon.client->reserve_or_follow(options).error().code, Errc::kNoSpace);
  EXPECT_EQ(daemon.client->reserve_or_get(options, 1s).error().code, Errc::kNoSpace);
  // Who wants to write is never answered with what is there.
  EXPECT_EQ(daemon.client->reserve(options).error().code, Errc::kNoSpace);
  EXPECT_EQ(daemon.messages(), 3);
}

// It shows what was there before the put, as that of a daemon does that has not come to it yet.
TEST(Board, IsNotAskedForWhatThisConnectionHasPutAndHasNoAnswerFor) {
  Daemon daemon;
  daemon.meet();
  daemon.show(0, "k", Daemon::object(9));
  daemon.show(1, "l", Daemon::object(10));
  const auto finds = [&daemon](const char* key) {
    const auto got = daemon.client->get(key);
    EXPECT_TRUE(got) << describe(got.error());
    return got && *got;  // by message there is none
  };
  EXPECT_TRUE(finds("k"));
  int puts = 0;
  for (const bool kept : {true, false}) {
    SCOPED_TRACE(kept);
    daemon.client->defer(kept ? 1h : 0h);
    auto writer = daemon.client->reserve_ahead({.key = "k", .length = 3}, 5s);
    ASSERT_TRUE(writer && *writer);
    const std::string body = "new";
    ASSERT_TRUE((*writer)->write(std::as_bytes(std::span(body))));
    bool answered = false;
    (**std::move(writer)).commit(std::nullopt, [&answered](const Result<PutResult>& done) {
      EXPECT_TRUE(done);
      answered = true;
    });
    EXPECT_TRUE(finds("l"));
    EXPECT_FALSE(answered);
    EXPECT_FALSE(finds("k"));
    // It went before that GET, and so its answer came before.
    EXPECT_EQ(daemon.puts(), ++puts);
    EXPECT_TRUE(answered);
    EXPECT_TRUE(finds("k"));
  }
}

// What the daemon is asked for all the same.
class ByMessage : public testing::TestWithParam<std::pair<const char*, void (*)(Daemon&)>> {};

TEST_P(ByMessage, WhereTheBoardWillNotDo) {
  Daemon daemon;
  daemon.meet();
  GetParam().second(daemon);
  const auto got = daemon.client->get("k");
  ASSERT_TRUE(got) << describe(got.error());
  EXPECT_FALSE(*got);  // as this daemon says
  EXPECT_EQ(daemon.messages(), 1);
  EXPECT_TRUE(daemon.named().empty());
}

INSTANTIATE_TEST_SUITE_P(
    Reasons, ByMessage,
    testing::Values(std::pair(
                        "NotShown", +[](Daemon& /*daemon*/) {}),
                    std::pair(
                        "Hidden",
                        +[](Daemon& daemon) {
                          daemon.show(0, "k", Daemon::object(9));
                          daemon.slot(0).hide();
                        }),
                    std::pair(
                        "AnotherKey",
                        +[](Daemon& daemon) { daemon.show(0, "l", Daemon::object(9)); }),
                    std::pair(
                        "TheDaemonHasGone",
                        +[](Daemon& daemon) {
                          daemon.show(0, "k", Daemon::object(9));
                          daemon.header().alive = 0;
                        }),
                    std::pair(
                        "Expired",
                        +[](Daemon& daemon) {
                          auto object = Daemon::object(9);
                          object.expires_ns = SystemClock().real_ns() - 1;
                          daemon.show(0, "k", object);
                        }),
                    std::pair(
                        "InASegmentThatWasNotMet",
                        +[](Daemon& daemon) {
                          auto object = Daemon::object(9);
                          object.segment = kSegment + 1;
                          daemon.show(0, "k", object);
                        }),
                    std::pair(
                        "OutsideItsSegment",
                        +[](Daemon& daemon) {
                          auto object = Daemon::object(9);
                          object.offset = kSegmentBytes - object.length + 1;
                          daemon.show(0, "k", object);
                        }),
                    std::pair(
                        "ItsTagsAreNone",
                        +[](Daemon& daemon) {
                          daemon.show(0, "k", Daemon::object(9));
                          daemon.slot(0).sizes = daemon.slot(0).sizes + (std::uint64_t{1} << 48);
                        }),
                    std::pair(
                        "ItsSizesAreNone",
                        +[](Daemon& daemon) {
                          daemon.show(0, "k", Daemon::object(9));
                          daemon.slot(0).sizes = (~std::uint64_t{0} << 16) | 1U;
                        })),
    [](const auto& reason) { return reason.param.first; });

TEST(Board, IsNotAskedForInVainNorUsedWithoutBeingGranted) {
  Daemon daemon(false);
  daemon.meet();
  daemon.show(0, "k", Daemon::object(9));
  EXPECT_FALSE(*daemon.client->get("k"));
  EXPECT_EQ(daemon.messages(), 1);
}

TEST(Board, WhoseConnectionHasEndedIsNotUsed) {
  Daemon daemon;
  daemon.meet();
  daemon.show(0, "k", Daemon::object(9));
  auto before = daemon.client->get("k");
  ASSERT_TRUE(before && *before);
  daemon.client->close();
  EXPECT_EQ(daemon.client->get("k").error().code, Errc::kUnavailable);
  // What was leased stays, and stays named.
  EXPECT_EQ(*(*before)->read_all(), daemon.body(9));
  EXPECT_EQ(daemon.named().size(), 1U);
  before->reset();
  EXPECT_TRUE(daemon.named().empty());
}

TEST(Board, HoldsAsManyAsThereAreWords) {
  Daemon daemon;
  daemon.meet();
  daemon.show(0, "k", Daemon::object(9));
  std::vector<Lease> leases;
  for (std::size_t i = 0; i < board::kHazards; ++i) {
    auto got = daemon.client->get("k");
    ASSERT_TRUE(got && *got);
    EXPECT_EQ((*got)->id(), board::kLeases + i);
    leases.push_back(**std::move(got));
  }
  EXPECT_EQ(daemon.messages(), 0);
  EXPECT_FALSE(*daemon.client->get("k"));
  EXPECT_EQ(daemon.messages(), 1);
  leases[30].release();
  auto again = daemon.client->get("k");
  ASSERT_TRUE(again && *again);
  EXPECT_EQ((*again)->id(), board::kLeases + 30);
  EXPECT_EQ(daemon.messages(), 0);
}

TEST(Board, ALeaseThatIsAskedBackIsMeantByItsObject) {
  Daemon daemon;
  daemon.meet();
  ASSERT_TRUE(daemon.client->subscribe(kRevokedEvents));
  daemon.show(0, "k", Daemon::object(9));
  const auto lease = daemon.client->get("k");
  ASSERT_TRUE(lease && *lease);
  daemon.send_event(8, board::kLeases);      // of an object that this word named before
  daemon.send_event(9, board::kLeases + 1);  // of a word that names nothing
  daemon.send_event(9, board::kLeases + 64);
  daemon.send_event(9, board::kLeases);
  const auto event = daemon.client->next_event(10s);
  ASSERT_TRUE(event && *event);
  EXPECT_EQ((*event)->lease_id, (*lease)->id());
  EXPECT_EQ((*event)->object_id, 9U);
  EXPECT_FALSE(*daemon.client->next_event(20ms));
}

// Readers, and a daemon that gives the bytes to another object once nobody names the first.
TEST(Board, BytesUnderAReaderNeverChange) {
  Daemon daemon;
  daemon.meet();
  std::atomic<bool> over{false};
  std::atomic<std::uint64_t> read{0};
  std::atomic<std::uint64_t> wrong{0};
  constexpr std::size_t kBytes = 3000;
  const UniqueFd segment = [&] {
    const auto known = daemon.client->get("known");
    return *reopen(BorrowedFd((*known)->slices()[0].fd), O_RDWR);
  }();
  const auto bytes = *Mapping::of(segment.borrow(), 0, kSegmentBytes, Access::kReadWrite);
  std::vector<std::thread> readers;
  readers.reserve(3);
  for (int i = 0; i < 3; ++i)
    readers.emplace_back([&] {
      while (!over.load()) {
        const auto got = daemon.client->get("k");
        if (!got || !*got) continue;  // by message: there is none
        const auto body = (*got)->read_all();
        const auto want = static_cast<char>((*got)->info().object_id);
        if (!body || *body != std::string(kBytes, want)) ++wrong;
        ++read;
      }
    });
  const auto is_named = [&daemon](std::uint64_t id) {
    for (const board::Word& word : daemon.page().objects)
      if (word.load(std::memory_order_seq_cst) == id) return true;
    return false;
  };
  // As long as it takes for some to be read; a busy machine has its own ideas.
  const auto deadline = std::chrono::steady_clock::now() + 20s;
  for (std::uint64_t id = 1; id <= 300 || read.load() < 100; ++id) {
    if (std::chrono::steady_clock::now() > deadline) break;
    std::memset(bytes.data(), static_cast<int>(id % 256), kBytes);
    board::Shown object = Daemon::object(id);
    object.offset = 0;
    object.length = kBytes;
    daemon.show(id % board::kWays, "k", object);
    std::this_thread::yield();
    daemon.slot(id % board::kWays).hide();
    while (is_named(id)) std::this_thread::yield();
  }
  over.store(true);
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong.load(), 0U);
  EXPECT_GT(read.load(), 0U);
}

}  // namespace
}  // namespace om::client
