#include "server/access.h"

#include <algorithm>

namespace om::server {

Rights rights_of(const AccessGroups& groups, const PeerCredentials& peer,
                 const std::vector<gid_t>& peer_groups, uid_t own_uid) {
  if (peer.uid == 0 || peer.uid == own_uid) return {true, true, true, true};
  const auto member = [&](const std::optional<gid_t>& group) {
    return group && std::find(peer_groups.begin(), peer_groups.end(), *group) != peer_groups.end();
  };
  Rights rights;
  rights.admin = !groups.admin || member(groups.admin);
  rights.write = !groups.write || member(groups.write) || member(groups.admin);
  rights.read = !groups.read || member(groups.read) || member(groups.write) || member(groups.admin);
  rights.direct = member(groups.write);
  return rights;
}

}  // namespace om::server
