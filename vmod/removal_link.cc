#include "removal_link.h"

#include "shared_bans.h"

namespace om::vmod {

struct RemovalLink::Impl {};

RemovalLink::RemovalLink(const std::string& /*socket*/)
    : bans_(std::make_unique<SharedBans>()), impl_(std::make_unique<Impl>()) {}
RemovalLink::~RemovalLink() = default;

RemovalLink& RemovalLink::to(const std::string& socket) {
  static auto* link = new RemovalLink(socket);
  return *link;
}

bool RemovalLink::director_allowed() const noexcept { return true; }

}  // namespace om::vmod
