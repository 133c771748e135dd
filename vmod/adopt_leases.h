// adopt_leases.h: objects of an earlier life whose bodies lie in the daemon: their leases are taken
// again, before they are attached.
//
// A record names the shared object that it means (region::LentRef). What the daemon has under that
// key must be that very one: another number, length or a later birth is another object, and what is
// removed, replaced or evicted there is not there. Asked for in batches, the most recently used
// first, over connections of their own, until half of the time for adoption is up or the store has
// as many leases as it may: the others are dropped. A store without such objects asks nobody.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "adopt.h"
#include "lease_body.h"
#include "storage.h"

namespace om::vmod::adoption {

class Leases {
 public:
  // Takes what the plan has; drops from it what cannot be had, by reason. `until`: VTIM_mono().
  void take(Store& store, const region::Region& region, Plan& plan, double until);
  // Of a record that is still in the plan and has its body in the daemon.
  [[nodiscard]] const std::shared_ptr<const lease_body::Held>& of(
      const region::Record& record) const {
    return held_.at(&record);
  }
  // The objects are attached: from now on leases that are asked back are let go of.
  void watch();

 private:
  struct Asked;
  void take_batch(Store& store, std::vector<Asked>& asked, std::size_t begin, std::size_t end);
  void take_one(Store& store, Asked& asked);
  void got(Store& store, const std::shared_ptr<Client>& client, Asked& asked, Lease lease);
  bool connect(Store& store);

  double until_ = 0;
  bool given_up_ = false;  // the daemon does not answer, or lends no more
  ConnectOptions options_;
  std::vector<std::shared_ptr<Client>> clients_;
  std::unordered_map<const region::Record*, std::shared_ptr<const lease_body::Held>> held_;
};

}  // namespace om::vmod::adoption
