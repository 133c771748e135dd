#include "store/worker.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <system_error>
#include <utility>

#include "posix/file.h"

namespace om::store {

Result<std::unique_ptr<Worker>> Worker::start() {
  auto wakeup = UniqueFd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wakeup) return system_error("make an eventfd");
  std::unique_ptr<Worker> worker(new Worker(std::move(wakeup)));
  worker->thread_ = std::thread([raw = worker.get()] { raw->loop(); });
  return worker;
}

Result<std::unique_ptr<Worker>> Worker::start_beside() const {
  std::unique_ptr<Worker> worker(new Worker(OM_TRY(duplicate(wakeup_.borrow()))));
  // One is started when somebody asks for a list: where there is none, that is the answer.
  try {
    worker->thread_ = std::thread([raw = worker.get()] { raw->loop(); });
  } catch (const std::system_error& failure) {
    return Error{Errc::kSystem, failure.code().value(), "start a thread"};
  }
  return worker;
}

Worker::~Worker() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Worker::run(std::function<void()> work, std::function<void()> then) {
  ++pending_;
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back({std::move(work), std::move(then), true});
  }
  changed_.notify_all();
}

void Worker::run_idle(std::function<void()> work, std::function<void()> then) {
  {
    const std::lock_guard lock(mutex_);
    idle_jobs_.push_back({std::move(work), std::move(then), false});
  }
  changed_.notify_all();
}

void Worker::post(std::function<void()> then) {
  ++pending_;
  finish({nullptr, std::move(then), true});
}

void Worker::finish(Job job) {
  {
    const std::lock_guard lock(mutex_);
    finished_.push_back(std::move(job));
  }
  // A full counter (EAGAIN) is readable as well: there is nothing to repair.
  const std::uint64_t one = 1;
  (void)!::write(wakeup_.raw(), &one, sizeof one);
}

void Worker::clear_wakeup() {
  std::uint64_t count = 0;
  (void)!::read(wakeup_.raw(), &count, sizeof count);
}

void Worker::deliver() {
  std::deque<Job> due;
  {
    const std::lock_guard lock(mutex_);
    due.swap(finished_);
  }
  for (auto& job : due) {
    if (job.counted) --pending_;
    if (job.then) job.then();
  }
}

void Worker::loop() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !jobs_.empty() || !idle_jobs_.empty(); });
      if (stopping_) return;
      auto& queue = jobs_.empty() ? idle_jobs_ : jobs_;
      job = std::move(queue.front());
      queue.pop_front();
    }
    if (job.work) job.work();
    finish(std::move(job));
  }
}

}  // namespace om::store
