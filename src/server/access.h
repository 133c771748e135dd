// Who may do what. Decided once for a connection, by what the kernel says of its peer.
#pragma once

#include <sys/types.h>

#include <optional>
#include <vector>

#include "posix/unix_socket.h"

namespace om::server {

struct Rights {
  bool read = false;
  bool write = false;
  bool admin = false;
  // May be given the final place of an object to write into: keeps a writable descriptor of it.
  bool direct = false;
};

// The groups of --read-gid, --write-gid and --admin-gid. Without one, whoever may connect may.
struct AccessGroups {
  std::optional<gid_t> read;
  std::optional<gid_t> write;
  std::optional<gid_t> admin;
};

// root and the daemon's own user may everything. Writers may read, administrators may both. Only
// the members of an explicit --write-gid (and those two) write directly.
Rights rights_of(const AccessGroups& groups, const PeerCredentials& peer,
                 const std::vector<gid_t>& peer_groups, uid_t own_uid);

}  // namespace om::server
