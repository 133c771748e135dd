// Leases: what they let a reader do, how they are asked back when room is wanted, who stands in
// nobody's way, and what remains of them when holder or daemon are gone.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "base/release_ring.h"
#include "posix/file.h"
#include "posix/mapping.h"
#include "posix/range_lock.h"
#include "store/store_testing.h"

namespace om::store {
namespace {

TEST_F(StoreTest, WhenAllIsLeasedAPutGetsNoSpaceAndReadersAreAsked) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  open();
  std::vector<std::string> revoked;
  store->set_listener([&](const Event& event) {
    if (event.kind == EventKind::kRevoked) revoked.emplace_back(event.key);
  });
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
    ASSERT_TRUE(*store->get(me, "k" + std::to_string(i)));
  }
  EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  // Of the oldest, no more than it takes; and of others, when these do not come back.
  EXPECT_EQ(revoked, (std::vector<std::string>{"k0", "k1", "k2"}));
  EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  EXPECT_EQ(revoked.size(), 4U);
}

// As after a restart, when a cache has leased all of its own again.
TEST_F(StoreTest, NobodyIsAskedForWhatAnOrphanKeepsAllTheSame) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  open();
  std::vector<std::string> revoked;
  store->set_listener([&](const Event& event) {
    if (event.kind == EventKind::kRevoked) revoked.emplace_back(event.key);
  });
  const auto before = *store->open_holder({});
  auto alive = *duplicate(store->lease_descriptor(before));
  for (unsigned i = 0; i < 4; ++i) {
    const std::string key = "k" + std::to_string(i);
    ASSERT_TRUE(put(key, body_of(1000000, i)));
    ASSERT_TRUE(*store->get(before, key));
    ASSERT_TRUE(*store->get(me, key));
  }
  store->close_holder(before);
  EXPECT_EQ(status("holders.orphans"), 1U);
  EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  EXPECT_TRUE(revoked.empty());
  alive.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("holders.orphans"), 0U);
  EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  EXPECT_EQ(revoked, (std::vector<std::string>{"k0", "k1", "k2"}));
}

TEST_F(StoreTest, WhatIsGivenBackMakesRoomAtOnceHoweverManyPutsWereRefused) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  open();
  std::vector<LeaseId> held;
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
    held.push_back((*store->get(me, "k" + std::to_string(i)))->lease_id);
  }
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  store->release(me, held[2]);
  const auto reserved = store->reserve(me, request("more", 1000000), nullptr);
  EXPECT_TRUE(reserved) << describe(reserved.error());
}

// Many leases that nobody gives back, and those of others beside them.
class OneManyLeases : public StoreTest, public ::testing::WithParamInterface<bool> {};

TEST_P(OneManyLeases, DoNotStandInTheWayOfWhoCanBeAsked) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  config.revoke_grace_ns = 1000;
  open();
  std::vector<std::string> revoked;
  store->set_listener([&](const Event& event) {
    if (event.kind == EventKind::kRevoked) revoked.emplace_back(event.key);
  });
  const auto other = *store->open_holder({});
  const auto alive = *duplicate(store->lease_descriptor(other));
  for (unsigned i = 0; i < 64; ++i) {
    const std::string key = "o" + std::to_string(i);
    ASSERT_TRUE(put(key, body_of(1000, i)));
    ASSERT_TRUE(*store->get(other, key));
  }
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(900000, i)));
    ASSERT_TRUE(*store->get(me, "k" + std::to_string(i)));
  }
  const auto ask = [&] {
    revoked.clear();
    EXPECT_EQ(store->reserve(me, request("more", 900000), nullptr).error().code, Errc::kNoSpace);
  };
  if (GetParam()) {
    store->close_holder(other);
    EXPECT_EQ(status("holders.orphans"), 1U);
  } else {
    // It has its time to answer.
    ask();
    EXPECT_EQ(revoked.size(), 64U);
    ask();
    EXPECT_TRUE(revoked.empty());
    clock.now_ns += 1001;
  }
  ask();
  EXPECT_EQ(revoked, (std::vector<std::string>{"k0", "k1", "k2"}));
}

INSTANTIATE_TEST_SUITE_P(GoneOrDeaf, OneManyLeases, ::testing::Bool());

TEST_F(StoreTest, WhoDidNotHearThatALeaseIsWantedBackIsToldAgain) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  config.revoke_grace_ns = 1000;
  open();
  std::size_t told = 0;
  store->set_listener([&](const Event& event) {
    if (event.kind != EventKind::kRevoked) return;
    EXPECT_EQ(event.holder, me);
    EXPECT_NE(event.lease_id, 0U);
    ++told;
  });
  std::vector<LeaseId> held;
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
    held.push_back((*store->get(me, "k" + std::to_string(i)))->lease_id);
  }
  EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  EXPECT_EQ(told, 3U);
  for (const std::size_t so_far : {6U, 9U}) {
    store->tick();
    EXPECT_EQ(told, so_far - 3);
    clock.now_ns += 1001;
    store->tick();
    EXPECT_EQ(told, so_far);
  }
  for (const LeaseId lease : held) store->release(me, lease);
  clock.now_ns += 1001;
  store->tick();
  EXPECT_EQ(told, 9U);
  EXPECT_EQ(status("revoked"), 3U);
  EXPECT_TRUE(*store->get(me, "k0"));
}

TEST_F(StoreTest, AnOrphanHolderKeepsItsBytesAlsoOverARestart) {
  open();
  const auto body = body_of(50000, 5);
  ASSERT_TRUE(put("a", body));
  ASSERT_TRUE(put("b", body));
  const auto reader = *store->open_holder({});
  auto copy = *duplicate(store->lease_descriptor(reader));
  ASSERT_TRUE(*store->get(reader, "a"));
  auto b = store->get(reader, "b");
  ASSERT_TRUE(b && *b);
  store->close_holder(reader);
  EXPECT_EQ(status("holders.orphans"), 1U);
  EXPECT_EQ(store->remove("a")->count, 1U);
  EXPECT_EQ(status("held.bytes"), body.size());
  crash();
  EXPECT_EQ(status("holders.orphans"), 1U);
  EXPECT_EQ(status("held.bytes"), body.size());
  EXPECT_EQ(store->remove("b")->count, 1U);
  EXPECT_EQ(status("held.bytes"), 2 * body.size());
  // The holder lets go of one without a daemon to tell, then dies.
  ASSERT_TRUE(unlock_range(copy.borrow(), (*b)->info.object_id, 1));
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), body.size());
  copy.reset();
  clock.now_ns += 1'000'000'000;
  store->tick();
  EXPECT_EQ(status("held.bytes"), 0U);
  EXPECT_EQ(status("holders.orphans"), 0U);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

// A peer may open its lease file once more; the kernel then tells of locks in an order of its own.
TEST_F(StoreTest, WhatAnOrphanHasLockedIsSeenInWhateverDescription) {
  open();
  const auto reader = *store->open_holder({});
  auto first = *duplicate(store->lease_descriptor(reader));
  auto second = *reopen(first.borrow(), O_RDONLY);
  ASSERT_TRUE(put("a", body_of(1000, 1)));
  // Far from it: locks are taken in blocks of ids.
  for (unsigned i = 0; i < 130; ++i) ASSERT_TRUE(put("between", "x"));
  ASSERT_TRUE(put("z", body_of(2000, 2)));
  const auto a = store->get(reader, "a");
  ASSERT_TRUE(a && *a);
  ASSERT_TRUE(*store->get(reader, "z"));
  ASSERT_TRUE(*lock_range_shared(second.borrow(), (*a)->info.object_id, 1));
  store->close_holder(reader);
  ASSERT_TRUE(store->remove("a") && store->remove("z"));
  const auto held_later = [&] {
    clock.now_ns += 1'000'000'000;
    store->tick();
    return status("held.bytes");
  };
  EXPECT_EQ(held_later(), 3000U);
  ASSERT_TRUE(unlock_range(first.borrow(), (*a)->info.object_id, 1));
  EXPECT_EQ(held_later(), 3000U);
  first.reset();
  EXPECT_EQ(held_later(), 1000U);
  second.reset();
  EXPECT_EQ(held_later(), 0U);
  EXPECT_EQ(status("holders.orphans"), 0U);
}

TEST_F(StoreTest, AReadersDescriptorCannotWrite) {
  with_disk();
  open();
  for (const bool disk : {false, true}) {
    auto wanted = request("a", 100000);
    wanted.disk = disk;
    ASSERT_TRUE(put(wanted, body_of(100000, 1)));
    const auto leased = store->get(me, "a");
    ASSERT_TRUE(leased && *leased);
    const auto view = store->segment(me, (*leased)->extents.front().segment);
    ASSERT_TRUE(view);
    EXPECT_EQ(::pwrite(view->descriptor.raw(), "x", 1, 0), -1);
    EXPECT_EQ(errno, EBADF);
    struct stat status {};
    ASSERT_EQ(::fstat(view->descriptor.raw(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
    const auto stranger = *store->open_holder({});
    EXPECT_FALSE(store->segment(stranger, view->id));
    store->release(me, (*leased)->lease_id);
  }
}

TEST_F(StoreTest, WhoKeepsWhatItWasAskedForGetsNothingElse) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  config.revoke_grace_ns = 1000;
  open();
  std::vector<LeaseId> held;
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
    held.push_back((*store->get(me, "k" + std::to_string(i)))->lease_id);
  }
  for (int i = 0; i < 2; ++i)  // the first asks for what it needs
    EXPECT_EQ(store->reserve(me, request("more", 1000000), nullptr).error().code, Errc::kNoSpace);
  clock.now_ns += 500;
  store->tick();
  const auto early = store->get(me, "k0");
  ASSERT_TRUE(early && *early);
  store->release(me, (*early)->lease_id);
  clock.now_ns += 501;
  store->tick();
  EXPECT_EQ(status("leases.overdue"), 4U);
  EXPECT_EQ(store->get(me, "k0").error().code, Errc::kQuota);
  for (unsigned i = 0; i < 3; ++i) store->release(me, held[i]);
  EXPECT_EQ(store->get(me, "k0").error().code, Errc::kQuota);
  store->release(me, held[3]);
  EXPECT_TRUE(*store->get(me, "k0"));
}

TEST_F(StoreTest, LeasesThatComeBackByThePageMakeRoom) {
  config.holder.leased_bytes = std::uint64_t{1} << 30;
  open();
  auto page = store->release_page(me);
  ASSERT_TRUE(page) << describe(page.error());
  EXPECT_NE(::ftruncate(page->raw(), 0), 0);
  auto mapped = Mapping::of(page->borrow(), 0, kReleaseRingBytes, Access::kReadWrite);
  ASSERT_TRUE(mapped);
  auto* const ring = reinterpret_cast<ReleaseRing*>(mapped->data());
  for (unsigned i = 0; i < 4; ++i) {
    ASSERT_TRUE(put("k" + std::to_string(i), body_of(1000000, i)));
    ASSERT_TRUE(ring->push((*store->get(me, "k" + std::to_string(i)))->lease_id));
  }
  // Nobody has looked at the page when room is wanted.
  ASSERT_TRUE(put("more", body_of(1000000, 9)));
  EXPECT_EQ(status("leases"), 0U);
  EXPECT_EQ(get("more"), body_of(1000000, 9));
}

}  // namespace
}  // namespace om::store
