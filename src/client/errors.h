// What the library itself has to say of a connection.
#pragma once

#include <cerrno>
#include <new>

#include "base/result.h"

namespace om::client {

// Without its words where there is no memory for them.
inline Error hung_up() noexcept {
  try {
    return {Errc::kUnavailable, 0, "the daemon has closed the connection"};
  } catch (const std::bad_alloc&) {
    return {Errc::kUnavailable, 0, {}};
  }
}

inline Error no_room() {
  return {Errc::kSystem, EMFILE, "no room for the descriptors of a reply (raise RLIMIT_NOFILE)"};
}

inline Error out_of_time() { return {Errc::kTimeout, 0, "the daemon did not answer in time"}; }

// Short: it takes no memory itself.
inline Error no_memory() { return {Errc::kSystem, ENOMEM, "no memory"}; }

// Without its words where there is no memory for them.
inline Error copy_of(const Error& error) noexcept {
  try {
    return error;
  } catch (const std::bad_alloc&) {
    return {error.code, error.sys_errno, {}};
  }
}

}  // namespace om::client
