// Pipes for splice(2), large ones, used again and again.
//
// The kernel lets an unprivileged user have 64 MiB of them (pipe-user-pages-soft); whoever gets
// none does without.
#pragma once

#include <cstddef>
#include <mutex>
#include <optional>
#include <vector>

#include "posix/unique_fd.h"

namespace om {

struct Pipe {
  UniqueFd out;  // read here
  UniqueFd in;   // write here
};

class PipePool {
 public:
  static constexpr std::size_t kBytes = std::size_t{1} << 20;
  explicit PipePool(std::size_t most) : most_(most) {}
  PipePool(const PipePool&) = delete;
  PipePool& operator=(const PipePool&) = delete;
  ~PipePool() = default;

  // Empty, of kBytes. nullopt: too many are in use, or the kernel gives none.
  std::optional<Pipe> take();
  // An empty one is kept; any other is closed.
  void give_back(Pipe pipe, bool empty);

 private:
  const std::size_t most_;
  std::mutex mutex_;
  std::size_t in_use_ = 0;
  std::vector<Pipe> idle_;
};

}  // namespace om
