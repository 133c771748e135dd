// For tests: signals in the way of system calls that wait.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace om {

// A hundred signals a second to the thread that makes it, for as long as it lives and for five
// seconds at most: who waits for as long as they come does not wait for ever.
class SignalStorm {
 public:
  SignalStorm() {
    struct sigaction action {};
    action.sa_handler = [](int /*number*/) {};  // SIG_IGN would interrupt nothing
    (void)::sigaction(SIGUSR1, &action, &before_);
    thread_ = std::thread([this, waits = ::pthread_self()] {
      for (int i = 0; i < 500 && !over_; ++i) {
        (void)::pthread_kill(waits, SIGUSR1);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    });
  }
  SignalStorm(const SignalStorm&) = delete;
  SignalStorm& operator=(const SignalStorm&) = delete;
  ~SignalStorm() {
    over_ = true;
    thread_.join();
    (void)::sigaction(SIGUSR1, &before_, nullptr);
  }

 private:
  struct sigaction before_ {};
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace om
