#include "server/access.h"

#include <gtest/gtest.h>

namespace om::server {
namespace {

constexpr uid_t kDaemon = 200;
const PeerCredentials kStranger{1, 1000, 1000};

TEST(Access, RootAndTheDaemonsOwnUserMayEverything) {
  const AccessGroups groups{1, 2, 3};
  for (const uid_t uid : {uid_t{0}, kDaemon}) {
    const Rights rights = rights_of(groups, {1, uid, 99}, {99}, kDaemon);
    EXPECT_TRUE(rights.read && rights.write && rights.admin && rights.direct);
  }
}

TEST(Access, WithoutGroupsWhoeverMayConnectMayButNotDirectly) {
  const Rights rights = rights_of({}, kStranger, {1000}, kDaemon);
  EXPECT_TRUE(rights.read && rights.write && rights.admin);
  EXPECT_FALSE(rights.direct);
}

TEST(Access, GroupsOpenWhatTheyNameAndWhatIsLess) {
  const AccessGroups groups{10, 20, 30};
  const auto with = [&](const std::vector<gid_t>& gids) {
    const Rights r = rights_of(groups, kStranger, gids, kDaemon);
    return std::string(r.read ? "r" : "-") + (r.write ? "w" : "-") + (r.admin ? "a" : "-") +
           (r.direct ? "d" : "-");
  };
  EXPECT_EQ(with({1000}), "----");
  EXPECT_EQ(with({1000, 10}), "r---");
  EXPECT_EQ(with({1000, 20}), "rw-d");
  EXPECT_EQ(with({1000, 30}), "rwa-");
  EXPECT_EQ(with({20, 30}), "rwad");
}

}  // namespace
}  // namespace om::server
