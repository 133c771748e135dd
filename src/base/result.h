// A value, or the reason there is none.
//
// Three kinds of "no", never mixed: a miss is an answer (std::optional), a failure is an Error, a
// mistake of ours is an assertion (base/assert.h). The names are those of C++23's std::expected, so
// that we can switch to it on a newer compiler. Unlike it, a Result that nobody looks at draws a
// warning.
#pragma once

#include <cerrno>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "objmapper/result.h"

namespace om {

// An Error of kind kSystem from the errno of the call that has just failed.
inline Error system_error(std::string what) { return {Errc::kSystem, errno, std::move(what)}; }

}  // namespace om

// Evaluates to the value, or leaves the enclosing function with the error.
#define OM_TRY(expr)                           \
  __extension__({                              \
    auto om_try_result = (expr);               \
    if (!om_try_result) [[unlikely]]           \
      return std::move(om_try_result).error(); \
    *std::move(om_try_result);                 \
  })
