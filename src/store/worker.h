// One thread for what blocks. Jobs run in the order they were given; each job's second half runs on
// the loop thread, from Worker::deliver(), after wakeup_fd() became readable. Small on purpose:
// order is what keeps a copy, the unlink that follows it and the sync that covers it right.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om::store {

class Worker {
 public:
  static Result<std::unique_ptr<Worker>> start();
  // Another thread, for jobs that must not wait for this one's, with the same wakeup_fd(): when it
  // is readable, clear_wakeup() of one, then deliver() of each.
  Result<std::unique_ptr<Worker>> start_beside() const;
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  // Finishes the job at hand, drops the others and all deliveries.
  ~Worker();

  // `work` runs on the worker's thread and must touch nothing that the loop thread changes
  // meanwhile; `then` runs on the loop thread.
  void run(std::function<void()> work, std::function<void()> then);
  // For work that nobody waits for, such as faulting memory: only while there is nothing else.
  void run_idle(std::function<void()> work, std::function<void()> then);
  // `then` on the loop thread, without work.
  void post(std::function<void()> then);
  // wakeup_fd() has been heard: what is finished from here on makes it readable again. Once, before
  // the first deliver(): later it would be that of another one, who is not looked at again.
  void clear_wakeup();
  // Runs the second halves that are due. Loop thread.
  void deliver();
  [[nodiscard]] BorrowedFd wakeup_fd() const { return wakeup_.borrow(); }
  // Jobs given and not yet delivered, idle ones excepted. Loop thread.
  [[nodiscard]] std::size_t pending() const { return pending_; }

 private:
  struct Job {
    std::function<void()> work;
    std::function<void()> then;
    bool counted = true;
  };
  explicit Worker(UniqueFd wakeup) : wakeup_(std::move(wakeup)) {}
  void loop();
  void finish(Job job);

  UniqueFd wakeup_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;       // guarded by mutex_
  std::deque<Job> idle_jobs_;  // guarded by mutex_
  std::deque<Job> finished_;   // guarded by mutex_
  bool stopping_ = false;      // guarded by mutex_
  std::size_t pending_ = 0;    // loop thread
  std::thread thread_;         // last: starts when the rest is there
};

}  // namespace om::store
