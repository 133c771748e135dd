// Handing a body over: it goes into objmapper, and the cache takes it from there.
//
// Whether it may is the cache's word: a request with `X-Objmapper-Handoff: PREFIX` names the keys
// that are allowed, one with `X-Objmapper-Handoff: no` wants the body as usual. Since whoever
// reaches the origin can send that header, the prefix must also be one that the origin was started
// with.
//
// The key has the version of the body in it (its ETag). What is there already is not written again,
// and what another thread is writing is not written twice: both are answered with the key alone.
//
// A large body, or a slow one, is answered as soon as its beginning is announced; a thread of ours
// writes the rest while the cache follows. When it fails then, the object is aborted, and the cache
// sees that as it sees a connection that breaks. Whatever goes wrong before: nullopt, and the
// request is answered in the normal way.
#pragma once

#include <objmapper/client.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "body.h"
#include "segments.h"

namespace origin {

// What has become of requests, for /stats.
struct Counters {
  std::atomic<std::uint64_t> answered{0};       // in the normal way
  std::atomic<std::uint64_t> handed_over{0};    // written and handed over
  std::atomic<std::uint64_t> reused{0};         // was there already, or being written
  std::atomic<std::uint64_t> followed{0};       // of handed_over: answered before it was whole
  std::atomic<std::uint64_t> not_possible{0};   // allowed, but objmapper said no or was not there
  std::atomic<std::uint64_t> failed_midway{0};  // aborted after the answer
};

// Threads that write what has been answered already. Nothing waits for one: there is one, or not.
class Fillers {
 public:
  explicit Fillers(std::size_t count);
  Fillers(const Fillers&) = delete;
  Fillers& operator=(const Fillers&) = delete;
  ~Fillers();  // when all are done
  // False: all are busy.
  bool try_run(std::function<void()> work);

 private:
  void run();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;
  std::size_t busy_ = 0;
  bool ends_ = false;
  std::vector<std::thread> threads_;
};

class Handoff {
 public:
  struct Options {
    std::string socket = om::kDefaultSocket;
    std::string prefix;  // of the keys that we are willing to write; empty: none
    std::size_t fillers = 16;
  };
  struct Handed {
    std::string key;
    std::optional<std::uint64_t> length;
  };
  Handoff(Options options, Counters& counters);
  // `allowed` is the request's X-Objmapper-Handoff, empty without one; `target` its URL.
  std::optional<Handed> hand_over(const std::string& allowed, const std::string& target,
                                  const Resource& resource);

 private:
  struct Filling;
  om::Result<Handed> try_to(const std::string& key, const Resource& resource);
  Options options_;
  Counters& counters_;
  om::Pool pool_;
  Segments segments_;
  Fillers fillers_;  // last: ends first
};

}  // namespace origin
