// Fd: the owner of a descriptor in the installed interface. Move-only; closes when it goes.
#pragma once

#include <unistd.h>

#include <utility>

namespace om {

class [[nodiscard]] Fd {
 public:
  Fd() = default;
  static Fd adopt(int fd) noexcept { return Fd(fd); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  explicit operator bool() const noexcept { return fd_ >= 0; }
  // Still ours to close.
  [[nodiscard]] int raw() const noexcept { return fd_; }
  // Given away: the caller closes it.
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset() noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  explicit Fd(int fd) noexcept : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace om
