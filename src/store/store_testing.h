// For tests of the store: a store on a directory of its own, driven without a loop, and peers that
// write and read as real ones do: by descriptors and extents.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "posix/file.h"
#include "store/store.h"

namespace om::store::testing {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    const char* base = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe)
    path_ = std::string(base != nullptr ? base : "/tmp") + "/om-store-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) std::abort();
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// No file grows longer than that for as long as it lives, nor can be written to beyond.
class NoWrites {
 public:
  explicit NoWrites(std::uint64_t length = 0) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &before_), 0);
    struct rlimit now = before_;
    now.rlim_cur = length;
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &now), 0);
  }
  NoWrites(const NoWrites&) = delete;
  NoWrites& operator=(const NoWrites&) = delete;
  ~NoWrites() {
    (void)::setrlimit(RLIMIT_FSIZE, &before_);
    (void)std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  struct rlimit before_ {};
};

class StoreFixture : public ::testing::Test {
 protected:
  StoreFixture() {
    config.memory_bytes = 4 << 20;
    config.memory_dir = directory.path() + "/mem";
    config.state_dir = directory.path() + "/state";
    config.segment_bytes = 1 << 20;
    config.background_faulting = false;
  }
  void with_disk(std::uint64_t bytes = 64 << 20) {
    config.disks.push_back(
        {directory.path() + "/disk" + std::to_string(config.disks.size()), bytes});
    config.pack_bytes = 256 * 1024;
  }
  void open() {
    store.reset();
    auto opened = Store::open(config, clock);
    ASSERT_TRUE(opened) << describe(opened.error());
    store = *std::move(opened);
    auto peer = store->open_holder({::getpid(), ::getuid(), ::getgid()});
    ASSERT_TRUE(peer) << describe(peer.error());
    me = *peer;
  }
  // As kill -9 does, and another start.
  void crash() { open(); }

  static std::string body_of(std::size_t length, unsigned seed) {
    std::string body(length, '\0');
    for (std::size_t i = 0; i < length; ++i)
      body[i] = static_cast<char>((i * 2654435761U + seed * 40503U) >> 7);
    return body;
  }

  // Runs the loop's part until `done`.
  void until(const std::function<bool()>& done) {
    for (int i = 0; i < 5000 && !done(); ++i) {
      struct pollfd wait {
        store->wakeup_fd().raw(), POLLIN, 0
      };
      (void)::poll(&wait, 1, 2);
      store->on_wakeup();
      if (!done()) store->tick();
    }
    ASSERT_TRUE(done());
  }

  static void write(const std::vector<WritableSegment>& segments,
                    const std::vector<Extent>& extents, std::string_view body) {
    for (const auto& extent : extents) {
      const std::string_view part = body.substr(0, extent.length);
      body.remove_prefix(part.size());
      for (const auto& segment : segments) {
        if (segment.id != extent.segment) continue;
        ASSERT_TRUE(write_exactly(segment.descriptor.borrow(), extent.offset,
                                  std::as_bytes(std::span(part))));
      }
    }
  }

  Result<Committed> commit(HolderId holder, PutId put, std::uint64_t length) {
    std::optional<Result<Committed>> answer;
    store->commit(holder, put, length, [&](const Result<Committed>& result) { answer = result; });
    until([&] { return answer.has_value(); });
    return answer ? *answer : Result<Committed>(Error{Errc::kTimeout, 0, "no answer"});
  }

  Result<Committed> refresh(HolderId holder, PutId put, ObjectId object, Amendment says) {
    std::optional<Result<Committed>> answer;
    store->refresh(holder, put, object, std::move(says),
                   [&](const Result<Committed>& result) { answer = result; });
    until([&] { return answer.has_value(); });
    return answer ? *answer : Result<Committed>(Error{Errc::kTimeout, 0, "no answer"});
  }

  // A body into a room, and published with others: see put_in_room().
  std::vector<Result<Committed>> put_in_room(HolderId holder, PutId room,
                                             std::vector<RoomBody> bodies) {
    std::optional<std::vector<Result<Committed>>> answer;
    store->put_in_room(
        holder, room, std::move(bodies),
        [&](std::vector<Result<Committed>> results) { answer = std::move(results); });
    until([&] { return answer.has_value(); });
    return answer ? *std::move(answer) : std::vector<Result<Committed>>();
  }
  // A body into a room at `at`, as put_in_room() wants it.
  static RoomBody into(const Reserved& room, std::uint64_t at, const std::string& key,
                       const std::string& body) {
    const Extent& place = room.extents.front();
    write(room.segments, {{place.segment, place.offset + at, body.size()}}, body);
    return {place.segment, place.offset + at, request(key, body.size())};
  }

  Result<RegionGrant> open_region(std::string_view owner, std::uint64_t memory_bytes,
                                  std::uint64_t disk_bytes, std::uint32_t pid) {
    std::optional<Result<RegionGrant>> answer;
    store->open_region(owner, memory_bytes, disk_bytes, pid,
                       [&](Result<RegionGrant> result) { answer = std::move(result); });
    until([&] { return answer.has_value(); });
    return answer ? *std::move(answer) : Result<RegionGrant>(Error{Errc::kTimeout, 0, "no answer"});
  }
  Result<void> drop_region(std::string_view owner) {
    std::optional<Result<void>> answer;
    store->drop_region(owner, [&](Result<void> result) { answer = std::move(result); });
    until([&] { return answer.has_value(); });
    return answer ? *std::move(answer) : Result<void>(Error{Errc::kTimeout, 0, "no answer"});
  }

  static ReserveRequest request(const std::string& key, std::optional<std::uint64_t> length) {
    ReserveRequest wanted;
    wanted.key = key;
    wanted.length = length;
    return wanted;
  }

  Result<Committed> put(ReserveRequest wanted, std::string_view body) {
    auto reservation = OM_TRY(store->reserve(me, std::move(wanted), nullptr));
    auto* const yours = std::get_if<Reserved>(&reservation);
    if (yours == nullptr) return Error{Errc::kBusy, 0, "not ours to write"};
    write(yours->segments, yours->extents, body);
    return commit(me, yours->put_id, body.size());
  }
  Result<Committed> put(const std::string& key, std::string_view body) {
    return put(request(key, body.size()), body);
  }

  std::string read(HolderId holder, const Leased& leased) {
    std::string body;
    for (const auto& extent : leased.extents) {
      const auto view = store->segment(holder, extent.segment);
      if (!view) return "no segment: " + describe(view.error());
      std::string part(extent.length, '\0');
      if (!read_exactly(view->descriptor, extent.offset, std::as_writable_bytes(std::span(part))))
        return "unreadable";
      body += part;
    }
    return body;
  }
  std::optional<std::string> get(const std::string& key) {
    auto leased = store->get(me, key);
    EXPECT_TRUE(leased) << describe(leased.error());
    if (!leased || !*leased) return std::nullopt;
    std::string body = read(me, **leased);
    store->release(me, (*leased)->lease_id);
    return body;
  }
  std::uint64_t status(const std::string& name) {
    for (const auto& item : store->status())
      if (item.name == name) return item.number;
    ADD_FAILURE() << "no status item " << name;
    return 0;
  }

  TemporaryDirectory directory;
  ManualClock clock;
  Config config;
  std::unique_ptr<Store> store;
  HolderId me = 0;
};

}  // namespace om::store::testing

namespace om::store {

// One suite in several files: it has to be one type for all of them.
class StoreTest : public testing::StoreFixture {};

}  // namespace om::store
