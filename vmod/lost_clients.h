// lost_clients.h: connections to the daemon that ended while something was leased over them.
//
// The leases are good: what they mean stays as it is, in a segment that we have mapped or opened.
// But to a daemon that was started anew they are locks of an earlier one's holder, which say
// roughly which objects are leased (docs/adr/0004-leases-go-back-by-a-shared-page.md), and nothing
// that they mean can be asked back. So they are taken again over the connection that is there now,
// and the earlier one goes with its last lease. No Varnish in here. One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "objmapper/client.h"

namespace om::vmod {

class LostClients {
 public:
  // Takes again over `fresh` what is leased over `lost`, which ended at `ended_ns` (since 1970): a
  // later object of the same number is another one.
  using Renew = std::function<void(const std::shared_ptr<Client>& lost, std::uint64_t ended_ns,
                                   const std::shared_ptr<Client>& fresh)>;

  void add(std::shared_ptr<Client> client) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    lost_.push_back({std::move(client), static_cast<std::uint64_t>(
                                            std::chrono::nanoseconds(now).count())});
  }
  // Some are left: somebody may have leases over them, or be about to.
  bool any() {
    std::erase_if(lost_, [](const Lost& one) { return one.client.use_count() == 1; });
    return !lost_.empty();
  }
  // To be called again as long as there are any: a fetch that was under way may come late.
  void renew(const std::shared_ptr<Client>& fresh, const Renew& take_again) {
    if (!any()) return;
    for (const Lost& one : lost_) take_again(one.client, one.ended_ns, fresh);
  }

 private:
  struct Lost {
    std::shared_ptr<Client> client;
    std::uint64_t ended_ns = 0;
  };
  std::vector<Lost> lost_;
};

}  // namespace om::vmod
