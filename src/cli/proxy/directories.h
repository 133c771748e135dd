// The directories of a proxy: made, looked at, and emptied for --discard.
//
// As root we make them where others may write: in /dev/shm, and below what belongs to objmapperd's
// user. So each is opened once, without following a link, and its owner looked at; what happens in
// it goes by that descriptor. And a --disk directory may hold what is not objmapper's: of that
// nothing is removed, handed to another user, or counted as room.
#pragma once

#include "base/result.h"
#include "cli/proxy/plan.h"

namespace om::cli::proxy {

// plan.directory. The lock lies there, so it is made before all else.
Result<void> make_runtime_directory(const Plan& plan);
// With the lock held: those that objmapperd is given, and that it is to make its socket in. With
// --discard what an earlier run has left in them goes. Checks that memory and disk have the room.
Result<void> make_store_directories(const Plan& plan);

}  // namespace om::cli::proxy
