// The numbers of the daemon: STATUS answers with them, Prometheus is told them.
#pragma once

#include <string>
#include <vector>

#include "server/shared.h"
#include "store/store.h"

namespace om::server {

std::vector<store::StatusItem> status_items(const Shared& shared);
// The text format of Prometheus, version 0.0.4: names get the prefix objmapper_ and underscores,
// what ends in _total is a counter, a text becomes the label of a number that is always 1.
std::string prometheus_text(const std::vector<store::StatusItem>& items);

}  // namespace om::server
