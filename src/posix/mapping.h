// A mapping of a file. It outlives the descriptor it was made from, and unmaps itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om {

enum class Access { kRead, kReadWrite };

class [[nodiscard]] Mapping {
 public:
  Mapping() = default;
  // MAP_SHARED, left out of core dumps (MADV_DONTDUMP). Bytes beyond the file's end fault: map only
  // files that nobody can shorten meanwhile.
  static Result<Mapping> of(BorrowedFd file, std::uint64_t offset, std::size_t length,
                            Access access);
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  explicit operator bool() const noexcept { return data_ != nullptr; }
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data_, size_}; }

 private:
  Mapping(std::byte* data, std::size_t size) : data_(data), size_(size) {}
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace om
