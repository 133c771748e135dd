// Signals as events of a loop (signalfd(2)). They must be blocked before any thread is started, so
// that no thread takes them in the old way: make this object first.
#pragma once

#include <csignal>
#include <functional>
#include <initializer_list>
#include <memory>

#include "base/result.h"
#include "loop/loop.h"
#include "posix/unique_fd.h"

namespace om {

class Signals {
 public:
  // Blocks `numbers` for this thread and those it starts, and hands each that arrives to
  // `received`.
  static Result<std::unique_ptr<Signals>> make(Loop& loop, std::initializer_list<int> numbers,
                                               std::function<void(int)> received);
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;
  // Unblocks them again.
  ~Signals();

 private:
  Signals() = default;
  void read();

  sigset_t old_mask_{};
  UniqueFd fd_;
  std::function<void(int)> received_;
  Watch watch_;
};

}  // namespace om
