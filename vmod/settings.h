// settings.h: what each VCL says about a store and what may differ from VCL to VCL: a reload
// changes it, objects stay as they are.
//
// Set while a VCL is loaded, on the CLI thread; looked up by workers.
#pragma once

#include "lane_choice.h"
#include "policy.h"
#include "storage.h"

namespace om::vmod {

struct Settings {
  DeliverySetting delivery = DeliverySetting::kAuto;
  Policy policy;
};

namespace settings {

void set(const struct vcl* vcl, const Store& store, const Settings& settings);
// Those of the VCL; of the one that was loaded last where this VCL does not know the store.
Settings of(const struct vcl* vcl, const Store& store);
// The VCL is gone.
void forget(const struct vcl* vcl);

}  // namespace settings
}  // namespace om::vmod
