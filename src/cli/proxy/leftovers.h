// What a proxy of this name that was killed has left behind. Its guard (child.h) ends varnishd,
// then objmapperd; until they are gone the port, the region and the catalog are theirs, and a new
// start waits.
//
// Each program that is started is noted in the runtime directory by its number and the time of its
// start, which no two processes have both alike. Nothing is ended here: that is the guard's, and,
// where that was killed as well, the operator's.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/proxy/plan.h"

namespace om::cli::proxy {

// Our child `pid` runs this program. Slots are the Guard's.
void note_started(const Plan& plan, int slot, const std::string& program, pid_t pid);

struct Leftover {
  std::string program;
  pid_t pid = 0;
};
// What was noted and has not ended, or the worker of a varnishd that has.
std::vector<Leftover> leftovers(const Plan& plan);

// With the lock held, until there are none. What is waited for is said once; kBusy, with the
// numbers, when it is still there after that time.
Result<void> wait_for_leftovers(const Plan& plan, std::chrono::seconds within,
                                const std::function<void(const std::string&)>& say);

}  // namespace om::cli::proxy
