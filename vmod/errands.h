// errands.h: what only a worker of Varnish may do, for a thread that is none, and that has to be
// done: nothing is dropped where there is no worker, and nobody waits for ever.
//
//   put off   no worker was to be had: tried again for as long as somebody waits for it, then by
//             take_up_again()
//   given     a worker has it, or will take it
//   over      finished()
//
// It is late when whoever waited for it has given up. While one is, others are not waited for: they
// would be late as well. Any thread; no lock of ours is held while a worker is looked for.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <utility>

namespace om::vmod {

template <class Item>
class Errands {
 public:
  struct Errand {
    Item item{};
    std::uint64_t number = 0;
    bool is_put_off = true;
    bool is_late = false;
  };
  // To a worker, which does it and then calls finished(). False: there is none.
  using Give = std::function<bool(Errand&)>;
  explicit Errands(Give how) : give_(std::move(how)) {}
  Errands(const Errands&) = delete;
  Errands& operator=(const Errands&) = delete;
  ~Errands() = default;

  // `make` says what there is to do, in an item, and is shown what is not over yet. The lock is
  // held. False: nothing. Returns the number of the errand, which somebody is to see to.
  template <class Make>
  std::optional<std::uint64_t> begin(Make make) {
    std::list<Errand> one(1);  // what may fail comes first
    const std::lock_guard lock(mutex_);
    if (!make(one.front().item, std::as_const(open_))) return std::nullopt;
    one.front().number = ++last_;
    open_.splice(open_.end(), one);
    return last_;
  }

  // Has it done. False: not within that time; it will be all the same.
  bool see_to(std::uint64_t number, std::chrono::milliseconds limit) {
    const auto until = std::chrono::steady_clock::now() + limit;
    const bool waits = !any_late();
    while (true) {
      const Given given = give(number);
      const auto now = std::chrono::steady_clock::now();
      std::unique_lock lock(mutex_);
      const auto is_over = [&] { return find(number) == open_.end(); };
      if (is_over()) return true;
      if (given != Given::kNoWorker && !waits) return true;
      if (!waits || now >= until) {
        find(number)->is_late = true;
        return false;
      }
      // Somebody else may try meanwhile, and put it off again.
      (void)over_.wait_until(lock, std::min(until, now + kPause), is_over);
    }
  }

  // What was put off, as far as there are workers. Waits for nobody.
  void take_up_again() {
    while (give(kAny) == Given::kGiven) continue;
  }

  // The worker. The errand is gone then.
  void finished(const Errand& errand) {
    const std::lock_guard lock(mutex_);
    open_.erase(find(errand.number));
    over_.notify_all();
  }

  [[nodiscard]] bool any_late() {
    const std::lock_guard lock(mutex_);
    return std::any_of(open_.begin(), open_.end(), [](const Errand& one) { return one.is_late; });
  }

 private:
  enum class Given { kGiven, kNothing, kNoWorker };
  static constexpr std::uint64_t kAny = 0;
  static constexpr std::chrono::milliseconds kPause{10};

  // The one of that number, or any, if it is put off.
  Given give(std::uint64_t number) {
    Errand* errand = nullptr;
    {
      const std::lock_guard lock(mutex_);
      const auto found = std::find_if(open_.begin(), open_.end(), [&](const Errand& one) {
        return one.is_put_off && (number == kAny || one.number == number);
      });
      if (found == open_.end()) return Given::kNothing;
      found->is_put_off = false;
      errand = &*found;
    }
    if (give_(*errand)) return Given::kGiven;  // it may be over by now
    const std::lock_guard lock(mutex_);
    errand->is_put_off = true;
    return Given::kNoWorker;
  }
  typename std::list<Errand>::iterator find(std::uint64_t number) {  // under the lock
    return std::find_if(open_.begin(), open_.end(),
                        [&](const Errand& one) { return one.number == number; });
  }

  const Give give_;
  std::mutex mutex_;
  std::condition_variable over_;
  std::list<Errand> open_;  // guarded by mutex_
  std::uint64_t last_ = 0;  // guarded by mutex_
};

}  // namespace om::vmod
