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

// Evaluates to the value, or leaves the enclosing function with the error. Nests: each use has a
// name of its own.
#define OM_TRY(expr) OM_TRY_NAMED(OM_TRY_JOIN(om_try_result_, __COUNTER__), expr)
#define OM_TRY_JOIN(a, b) OM_TRY_JOIN_(a, b)
#define OM_TRY_JOIN_(a, b) a##b
#define OM_TRY_NAMED(name, expr)      \
  __extension__({                     \
    auto name = (expr);               \
    if (!name) [[unlikely]]           \
      return std::move(name).error(); \
    *std::move(name);                 \
  })
