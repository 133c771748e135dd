// Puts: the room that a writer gets and asks for, what a body of another length comes to, and what
// a writer leaves that fails, dies or goes on writing.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include "posix/file.h"
#include "store/segment_id.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

TEST_F(StoreTest, BodiesOfAnotherLengthThanDeclaredLeaveNothing) {
  open();
  for (const std::uint64_t written : {9U, 11U}) {
    auto reservation = store->reserve(me, request("a", 10), nullptr);
    ASSERT_TRUE(reservation);
    const auto done = commit(me, std::get<Reserved>(*reservation).put_id, written);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, Errc::kMalformed);
  }
  EXPECT_EQ(get("a"), std::nullopt);
  EXPECT_EQ(status("puts"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

TEST_F(StoreTest, ADeadWriterLeavesNothing) {
  with_disk();
  open();
  const auto other = *store->open_holder({});
  for (const bool direct : {false, true}) {
    auto wanted = request("a" + std::to_string(direct), 100000);
    wanted.direct = direct;
    ASSERT_TRUE(store->reserve(other, wanted, nullptr));
    wanted.disk = true;
    ASSERT_TRUE(store->reserve(other, wanted, nullptr));
  }
  store->close_holder(other);
  EXPECT_EQ(status("puts"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
  EXPECT_EQ(status("disk.used_bytes"), 0U);
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(StoreTest, ACutOffDirectWriterKeepsItsPlaceFromBeingUsedAgain) {
  open();
  const auto other = *store->open_holder({});
  auto copy = *duplicate(store->lease_descriptor(other));
  auto wanted = request("a", 100000);
  wanted.direct = true;
  ASSERT_TRUE(store->reserve(other, wanted, nullptr));
  store->close_holder(other);
  EXPECT_EQ(status("held.bytes"), 100000U);
  crash();
  EXPECT_EQ(status("held.bytes"), 100000U);
  copy.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

TEST_F(StoreTest, UnknownLengthGrows) {
  with_disk();
  open();
  for (const bool direct : {false, true})
    for (const std::size_t length : {std::size_t{0}, std::size_t{1000}, std::size_t{2000000}}) {
      SCOPED_TRACE(std::to_string(direct) + " " + std::to_string(length));
      const auto body = body_of(length, 3);
      auto wanted = request("u", std::nullopt);
      wanted.direct = direct;
      auto reservation = store->reserve(me, wanted, nullptr);
      ASSERT_TRUE(reservation);
      auto& yours = std::get<Reserved>(*reservation);
      auto segments = std::move(yours.segments);
      auto extents = yours.extents;
      std::uint64_t room = 0;
      for (const auto& extent : extents) room += extent.length;
      while (room < length) {
        auto more = store->extend(me, yours.put_id, 300000);
        ASSERT_TRUE(more) << describe(more.error());
        for (auto& segment : more->segments) segments.push_back(std::move(segment));
        for (const auto& extent : more->extents) {
          room += extent.length;
          extents.push_back(extent);
        }
      }
      write(segments, extents, body);
      const auto done = commit(me, yours.put_id, length);
      ASSERT_TRUE(done) << describe(done.error());
      EXPECT_EQ(get("u"), body);
    }
}

// Room that its writer was never told of would be a hole in the middle of the body.
TEST_F(StoreTest, AnExtensionThatFailsLeavesThePutAsItWas) {
  std::atomic<bool> full = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    return full && std::string_view(operation) == "held" ? ENOSPC : 0;
  };
  config.holder.put_bytes = 600'000;
  for (const bool disk : {false, true}) {
    SCOPED_TRACE(disk);
    if (disk) with_disk();
    open();
    auto wanted = request("k", std::nullopt);
    wanted.direct = true;
    auto reservation = store->reserve(me, wanted, nullptr);
    ASSERT_TRUE(reservation);
    auto& yours = std::get<Reserved>(*reservation);
    const std::uint64_t used = status("memory.used_bytes");
    const std::uint64_t used_on_disk = status("disk.used_bytes");
    full = true;
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(store->extend(me, yours.put_id, 1).error().code, Errc::kNoSpace);
      EXPECT_EQ(store->hold(me, yours.put_id, 1).error().code, Errc::kNoSpace);
    }
    EXPECT_EQ(status("memory.used_bytes"), used);
    EXPECT_EQ(status("disk.used_bytes"), used_on_disk);
    full = false;
    // Nor is what it did not get charged: this much is all that this peer may have.
    auto more = store->extend(me, yours.put_id, 1);
    ASSERT_TRUE(more) << describe(more.error());
    const auto body = body_of(500'000, 4);
    auto segments = std::move(yours.segments);
    auto extents = yours.extents;
    for (auto& segment : more->segments) segments.push_back(std::move(segment));
    for (const auto& extent : more->extents) extents.push_back(extent);
    write(segments, extents, body);
    ASSERT_TRUE(commit(me, yours.put_id, body.size()));
    EXPECT_EQ(get("k"), body);
    ASSERT_TRUE(store->remove("k"));
    EXPECT_EQ(status("held.bytes"), 0U);
    EXPECT_EQ(status("memory.used_bytes"), 0U);
  }
}

TEST_F(StoreTest, AFileThatFailsToBecomeAPutsPlaceGoes) {
  with_disk();
  config.memory_object_bytes_max = 300'000;
  std::atomic<bool> full = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    return full && std::string_view(operation) == "held" ? ENOSPC : 0;
  };
  open();
  auto wanted = request("k", std::nullopt);
  wanted.direct = true;
  auto reservation = store->reserve(me, wanted, nullptr);
  ASSERT_TRUE(reservation);
  auto& yours = std::get<Reserved>(*reservation);
  auto segments = std::move(yours.segments);
  auto extents = yours.extents;
  const std::uint64_t used = status("disk.used_bytes");
  const auto body = body_of(900'000, 5);
  std::uint64_t room = extents.front().length;
  while (room < body.size()) {
    full = true;
    EXPECT_EQ(store->extend(me, yours.put_id, 1).error().code, Errc::kNoSpace);
    full = false;
    auto more = store->extend(me, yours.put_id, 1);
    ASSERT_TRUE(more) << describe(more.error());
    for (auto& segment : more->segments) segments.push_back(std::move(segment));
    for (const auto& extent : more->extents) {
      EXPECT_EQ(kind_of(extent.segment), SegmentKind::kFile);
      EXPECT_EQ(extent.offset, room);
      room += extent.length;
      extents.push_back(extent);
    }
  }
  write(segments, extents, body);
  ASSERT_TRUE(commit(me, yours.put_id, body.size()));
  EXPECT_EQ(get("k"), body);
  ASSERT_TRUE(store->remove("k"));
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
  EXPECT_EQ(status("disk.used_bytes"), used);
}

// Memory that cannot be held is none: a small body is staged instead, and nothing of the attempt
// is left to pin the object.
TEST_F(StoreTest, APutThatCannotHaveItsPlaceInMemoryIsStaged) {
  with_disk();
  std::atomic<bool> full = false;
  config.disk_fault = [&](const char* operation, const std::string&) {
    return full && std::string_view(operation) == "held" ? ENOSPC : 0;
  };
  open();
  auto wanted = request("k", 1000);
  wanted.direct = true;
  full = true;
  ASSERT_TRUE(put(wanted, body_of(1000, 6)));
  full = false;
  EXPECT_EQ(get("k"), body_of(1000, 6));
  ASSERT_TRUE(store->remove("k"));
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

TEST_F(StoreTest, WhatAWriterHoldsOutlivesItsPutAndTheDaemon) {
  open();
  const auto other = *store->open_holder({});
  auto copy = *duplicate(store->lease_descriptor(other));
  auto wanted = request("a", std::nullopt);
  wanted.direct = true;
  auto reservation = store->reserve(other, wanted, nullptr);
  ASSERT_TRUE(reservation);
  const auto put = std::get<Reserved>(*reservation).put_id;
  const auto held = store->hold(other, put, 100000);
  ASSERT_TRUE(held) << describe(held.error());
  EXPECT_NE(held->lease_id, 0U);
  EXPECT_FALSE(held->room.extents.empty());
  ASSERT_TRUE(store->abort(other, put));
  const auto bytes = status("held.bytes");
  EXPECT_GE(bytes, 356000U);
  crash();
  EXPECT_EQ(status("held.bytes"), bytes);
  copy.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(StoreTest, APeerMayWriteAndTruncateItsStagingAfterCommit) {
  open();
  const auto body = body_of(90000, 2);
  auto reservation = store->reserve(me, request("a", body.size()), nullptr);
  ASSERT_TRUE(reservation);
  auto& yours = std::get<Reserved>(*reservation);
  write(yours.segments, yours.extents, body);
  ASSERT_TRUE(commit(me, yours.put_id, body.size()));
  const int staging = yours.segments.front().descriptor.raw();
  ASSERT_EQ(::pwrite(staging, "garbage", 7, 0), 7);
  EXPECT_EQ(::ftruncate(staging, 0), -1);  // sealed
  EXPECT_EQ(get("a"), body);
}

}  // namespace
}  // namespace om::store
