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
  // How long the daemon may take for what is asked of it in one go, of all of them. One that hangs
  // keeps the thread from nothing else for longer; what it has not answered stays as it was.
  static constexpr std::chrono::milliseconds kLimit{1000};
  using Deadline = std::chrono::steady_clock::time_point;
  // Takes again over `fresh` what is leased over `lost`, which ended at `ended_ns` (since 1970): a
  // later object of the same number is another one. Some of it: what comes after the lease `after`;
  // returns the last that was looked at, 0 after all of them, or when `until` has passed.
  using Renew = std::function<std::uint64_t(const std::shared_ptr<Client>& lost,
                                            std::uint64_t ended_ns, std::uint64_t after,
                                            const std::shared_ptr<Client>& fresh, Deadline until)>;

  void add(std::shared_ptr<Client> client) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
    lost_.push_back({std::move(client), static_cast<std::uint64_t>(ns), 0});
  }
  // Some are left: somebody may have leases over them, or be about to.
  bool any() {
    std::erase_if(lost_, [](const Lost& one) { return one.client.use_count() == 1; });
    return !lost_.empty();
  }
  // Some of what is left. True: call again at once, after a look at the events of `fresh`; else as
  // long as there are any(), later: a fetch that was under way may come late.
  bool renew(const std::shared_ptr<Client>& fresh, const Renew& take_again) {
    if (!any()) return false;
    const Deadline until = std::chrono::steady_clock::now() + kLimit;
    bool more = false;
    for (Lost& one : lost_) {
      one.after = take_again(one.client, one.ended_ns, one.after, fresh, until);
      more = more || one.after != 0;
      if (std::chrono::steady_clock::now() >= until) break;
    }
    return more;
  }

 private:
  struct Lost {
    std::shared_ptr<Client> client;
    std::uint64_t ended_ns = 0;
    std::uint64_t after = 0;
  };
  std::vector<Lost> lost_;
};

}  // namespace om::vmod
