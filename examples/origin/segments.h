// The store's segments as memory, so that bodies are made where they will lie: no copy at all for
// one that is computed, one for a file.
//
// The memory tier has a few large segments that come again and again: each is mapped once, at its
// second use, and stays so. What comes once only (a file of its own on disk, the staging of a peer
// that is not in the write group) is written to. Thread-safe.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

namespace origin {

class Segments {
 public:
  class Mapped {
   public:
    Mapped(std::byte* begin, std::size_t size) : bytes_(begin, size) {}
    Mapped(const Mapped&) = delete;
    Mapped& operator=(const Mapped&) = delete;
    ~Mapped();
    [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }

   private:
    std::span<std::byte> bytes_;
  };
  // The whole file of `fd`, at least up to `end`; nullptr: write to it.
  std::shared_ptr<Mapped> find(int fd, std::uint64_t end, std::uint64_t daemon_epoch);

 private:
  std::mutex mutex_;
  std::uint64_t epoch_ = 0;  // another daemon has other segments
  // nullptr: seen once. A file that is mapped keeps its number.
  std::map<std::pair<dev_t, ino_t>, std::shared_ptr<Mapped>> known_;
};

}  // namespace origin
