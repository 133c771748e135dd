// expiry_pace.h: Varnish's expiry thread stays behind while many objects are attached.
//
// EXP_Insert puts an object into that thread's inbox and wakes it when it sleeps. It is faster than
// we are: it would empty the inbox, sleep, and be woken for every single object, which costs a
// system call here and a change of threads there. So it waits in an event that it sends for every
// object it takes in, until there is work for a while, and then does it beside us. It has the rest
// as soon as the pace ends; nothing of Varnish waits for it meanwhile.
#pragma once

#include <cstdint>

namespace om::vmod::adoption {

// On the thread that attaches. One at a time.
class ExpiryPace {
 public:
  ExpiryPace();
  ExpiryPace(const ExpiryPace&) = delete;
  ExpiryPace& operator=(const ExpiryPace&) = delete;
  ~ExpiryPace();
  // It has been told of another object.
  void one_more();

 private:
  std::uint64_t told_ = 0;
};

// The expiry thread has taken in an object: in the event TTLCHG, with no lock but that of Varnish's
// list of subscribers held, for reading.
void pace_expiry() noexcept;

}  // namespace om::vmod::adoption
