// A descriptor in a signature says who closes it: UniqueFd takes, BorrowedFd looks. No raw int.
#pragma once

#include <unistd.h>

#include <utility>

namespace om {

// A descriptor that somebody else closes. Valid while its owner is.
class BorrowedFd {
 public:
  explicit constexpr BorrowedFd(int fd) : fd_(fd) {}
  [[nodiscard]] int raw() const noexcept { return fd_; }

 private:
  int fd_;
};

class [[nodiscard]] UniqueFd {
 public:
  UniqueFd() = default;
  static UniqueFd adopt(int fd) noexcept { return UniqueFd(fd); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  explicit operator bool() const noexcept { return fd_ >= 0; }
  [[nodiscard]] BorrowedFd borrow() const noexcept { return BorrowedFd(fd_); }
  [[nodiscard]] int raw() const noexcept { return fd_; }
  // Gives the descriptor away; the caller closes it.
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset() noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace om
