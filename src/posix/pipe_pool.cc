#include "posix/pipe_pool.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

namespace om {

std::optional<Pipe> PipePool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (in_use_ == most_) return std::nullopt;
    ++in_use_;
    if (!idle_.empty()) {
      Pipe pipe = std::move(idle_.back());
      idle_.pop_back();
      return pipe;
    }
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) == 0) {
    Pipe pipe{UniqueFd::adopt(ends[0]), UniqueFd::adopt(ends[1])};
    if (::fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(kBytes)) >= static_cast<int>(kBytes))
      return pipe;
  }
  const std::lock_guard lock(mutex_);
  --in_use_;
  return std::nullopt;
}

void PipePool::give_back(Pipe pipe, bool empty) {
  const std::lock_guard lock(mutex_);
  --in_use_;
  if (empty) idle_.push_back(std::move(pipe));
}

}  // namespace om
