#include "loop/signals.h"

#include <pthread.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace om {

Result<std::unique_ptr<Signals>> Signals::make(Loop& loop, std::initializer_list<int> numbers,
                                               std::function<void(int)> received) {
  sigset_t mask;
  sigemptyset(&mask);
  for (const int number : numbers) sigaddset(&mask, number);
  auto signals = std::unique_ptr<Signals>(new Signals);
  signals->fd_ = UniqueFd::adopt(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals->fd_) return system_error("make a signalfd");
  errno = ::pthread_sigmask(SIG_BLOCK, &mask, &signals->old_mask_);
  if (errno != 0) return system_error("block signals");
  signals->received_ = std::move(received);
  signals->watch_ = OM_TRY(loop.watch(signals->fd_.borrow(), EPOLLIN,
                                      [s = signals.get()](std::uint32_t) { s->read(); }));
  return signals;
}

Signals::~Signals() {
  watch_.reset();
  if (fd_) (void)::pthread_sigmask(SIG_SETMASK, &old_mask_, nullptr);
}

void Signals::read() {
  signalfd_siginfo info{};
  while (::read(fd_.raw(), &info, sizeof info) == sizeof info)
    received_(static_cast<int>(info.ssi_signo));
}

}  // namespace om
