// The store as a whole: what was put is got, listed, within the quotas, and there after a crash.
// store_testing.h drives it. Its parts have files of their own, all of them one program:
// store_write_test.cc, store_room_test.cc, store_follow_test.cc, store_refresh_test.cc,
// store_lease_test.cc, store_remove_test.cc, store_evict_test.cc, store_disk_test.cc,
// store_regions_test.cc. Random calls against a model: store_model_test.cc.
#include <gtest/gtest.h>

#include <string>

#include "store/store_testing.h"

namespace om::store {
namespace {

TEST_F(StoreTest, WhatWasPutIsGot) {
  open();
  EXPECT_EQ(get("a"), std::nullopt);
  const auto body = body_of(100000, 1);
  auto wanted = request("a", body.size());
  wanted.metadata = "meta";
  wanted.tags = {"t1", "t2"};
  ASSERT_TRUE(put(wanted, body));
  EXPECT_EQ(get("a"), body);
  const auto info = store->stat("a");
  ASSERT_TRUE(info && *info);
  EXPECT_EQ((*info)->metadata, "meta");
  EXPECT_EQ((*info)->tags.size(), 2U);
}

TEST_F(StoreTest, DirectAndEmptyAndPackedAndLargeOnes) {
  with_disk();
  open();
  for (const bool direct : {false, true})
    for (const bool disk : {false, true})
      for (const std::size_t length : {0, 1, 5000, 70000, 900000}) {
        SCOPED_TRACE(std::to_string(direct) + std::to_string(disk) + " " + std::to_string(length));
        const auto body = body_of(length, 7);
        auto wanted = request("k" + std::to_string(length), length);
        wanted.direct = direct;
        wanted.disk = disk;
        const auto done = put(wanted, body);
        ASSERT_TRUE(done) << describe(done.error());
        EXPECT_EQ(get("k" + std::to_string(length)), body);
      }
  const auto before = status("memory.used_bytes");
  EXPECT_EQ(store->remove_prefix("k")->count, 5U);
  EXPECT_LE(status("memory.used_bytes"), before);
  EXPECT_EQ(status("memory.used_bytes"), 0U);
}

TEST_F(StoreTest, AReplacedObjectStaysForWhoHasALeaseOnIt) {
  open();
  ASSERT_TRUE(put("a", "old body"));
  auto old = store->get(me, "a");
  ASSERT_TRUE(old && *old);
  ASSERT_TRUE(put("a", "new body"));
  EXPECT_EQ(get("a"), "new body");
  EXPECT_EQ(read(me, **old), "old body");
  EXPECT_GT(status("held.bytes"), 0U);
  store->release(me, (*old)->lease_id);
  EXPECT_EQ(status("held.bytes"), 0U);
}

TEST_F(StoreTest, ListsInPages) {
  open();
  for (int i = 0; i < 25; ++i) ASSERT_TRUE(put("k" + std::to_string(100 + i), "x"));
  std::string after;
  std::size_t seen = 0;
  for (;;) {
    const auto page = store->list("k", after, 10);
    ASSERT_TRUE(page);
    seen += page->items.size();
    if (!page->more) break;
    after = page->items.back().key;
  }
  EXPECT_EQ(seen, 25U);
}

TEST_F(StoreTest, QuotasOfPutsLeasesAndBytes) {
  config.holder.puts = 2;
  config.holder.leases = 2;
  config.holder.put_bytes = 1000;
  open();
  ASSERT_TRUE(put("a", "x"));
  EXPECT_EQ(store->reserve(me, request("big", 1001), nullptr).error().code, Errc::kQuota);
  ASSERT_TRUE(store->reserve(me, request("b", 500), nullptr));
  ASSERT_TRUE(store->reserve(me, request("c", 500), nullptr));
  EXPECT_EQ(store->reserve(me, request("d", 1), nullptr).error().code, Errc::kQuota);
  const auto first = store->get(me, "a");
  ASSERT_TRUE(first && *first && store->get(me, "a"));
  EXPECT_EQ(store->get(me, "a").error().code, Errc::kQuota);
  store->release(me, (*first)->lease_id);
  EXPECT_TRUE(store->get(me, "a"));
}

TEST_F(StoreTest, EverythingPublishedIsThereAfterACrash) {
  with_disk();
  open();
  for (unsigned i = 0; i < 60; ++i) {
    auto wanted = request("k" + std::to_string(i), 3000 * (i % 30));
    wanted.disk = i % 2 == 0;
    ASSERT_TRUE(put(wanted, body_of(3000 * (i % 30), i)));
  }
  EXPECT_EQ(store->remove("k7")->count, 1U);
  ASSERT_TRUE(store->reserve(me, request("unfinished", 100000), nullptr));
  crash();
  for (unsigned i = 0; i < 60; ++i) {
    const auto body = get("k" + std::to_string(i));
    if (i == 7)
      EXPECT_EQ(body, std::nullopt);
    else
      EXPECT_EQ(body, body_of(3000 * (i % 30), i)) << i;
  }
  EXPECT_EQ(get("unfinished"), std::nullopt);
}

}  // namespace
}  // namespace om::store
