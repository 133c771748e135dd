// Adoption without adoption: what an earlier life left is dropped. Stands in until adopt.cc does
// it.
#include "storage.h"

namespace om::vmod::adoption {

__attribute__((weak)) void prepare(Store& store, std::unique_ptr<region::Region> region,
                                   bool /*on_cli*/) {
  if (!region->formatted()) {
    (void)region->scan();
    region->finish_scan({});
  }
  store.take(std::move(region));
}
__attribute__((weak)) void freed(Store& /*store*/, struct objcore* /*oc*/,
                                 region::Record& /*record*/) {}
__attribute__((weak)) void published(Store& /*store*/, struct objcore* /*oc*/,
                                     region::Record& /*record*/) {}
__attribute__((weak)) void start_process() {}

}  // namespace om::vmod::adoption
