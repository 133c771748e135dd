// Result<T>: a value, or the Error that says why there is none. Part of the installed interface.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

namespace om {

// What went wrong, in the words of the protocol (docs/protocol.md, "Status"): the numbers are wire
// format.
enum class Errc : std::uint32_t {
  kOk = 0,            // never inside an Error
  kNotFound = 1,      // no such object, put, lease or region
  kExists = 2,        // there is one already
  kBusy = 3,          // somebody else is writing it, or holds it
  kNoSpace = 4,       // the tier is full, or the file system is
  kQuota = 5,         // this peer's account is used up
  kMalformed = 6,     // a message or argument that is not one
  kDenied = 7,        // this peer may not
  kUnavailable = 8,   // the daemon is gone, or cannot just now
  kTimeout = 9,       // no answer in time
  kCorrupt = 10,      // bytes that do not check out
  kSystem = 11,       // a system call failed: sys_errno says how
  kUnsupported = 12,  // a version or feature that the other side does not speak
};

struct Error {
  Errc code = Errc::kSystem;
  int sys_errno = 0;  // 0 unless a system call failed
  std::string what;   // what failed, for people; with what to do where that is known
};

// "no space: cannot reserve 5 MiB" or "open /x: Permission denied".
std::string describe(const Error& error);
// The code's word, such as "not found".
const char* to_string(Errc code);

template <class T>
class [[nodiscard]] Result {
 public:
  // Implicit, so that `return value;` and `return error;` both read well.
  // NOLINTNEXTLINE(google-explicit-constructor)
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  [[nodiscard]] bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }
  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T operator*() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  [[nodiscard]] const Error& error() const& { return std::get<1>(state_); }
  [[nodiscard]] Error error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  // NOLINTNEXTLINE(google-explicit-constructor)
  Result(Error error) : error_(std::move(error)) {}
  [[nodiscard]] bool has_value() const noexcept { return !error_; }
  explicit operator bool() const noexcept { return has_value(); }
  void operator*() const {}
  [[nodiscard]] const Error& error() const& { return *error_; }
  [[nodiscard]] Error error() && { return *std::move(error_); }

 private:
  std::optional<Error> error_;
};

}  // namespace om
