// Runs a Plan: objmapperd, then varnishd, until somebody says stop.
#pragma once

#include "base/result.h"
#include "cli/proxy/plan.h"

namespace om::cli::proxy {

// Returns when SIGTERM, or SIGINT or SIGHUP unless they were ignored when we were started, was
// received and both have stopped; or when the first start failed: then with a sentence that says
// what to do.
Result<void> supervise(const Plan& plan);

}  // namespace om::cli::proxy
