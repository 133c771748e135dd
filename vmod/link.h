// link.h: a store's connection to the daemon, on a thread of its own.
//
//   searching   connects, with back-off from 50 ms to 2 s; asks for the region when there is none
//   connected   waits for the daemon to hang up, then searches again
//
// The region stays mapped whatever the daemon does, so that nothing else ever waits for this thread
// but first_grant(), which has a time limit. Each change is one notice and a counter.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "objmapper/client.h"
#include "region/region.h"

namespace om::vmod {

class Store;

class Link {
 public:
  explicit Link(Store& store) : store_(store) {}
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  // Ends the thread. Only for a store that never came into use.
  ~Link();

  struct FirstGrant {
    std::unique_ptr<region::Region> region;  // locked and mapped, not prepared yet
    std::string refusal;                     // the daemon's words: it will not give the region
  };
  // Starts the thread and waits for the region, for as long as a daemon may need to set aside
  // memory that it gives for the first time. Neither region nor refusal: nobody answered in time;
  // the thread goes on by itself. CLI thread, once.
  FirstGrant first_grant();

 private:
  void run() noexcept;
  void search_and_watch();
  // Whether the region is had now. A refusal or failure is told once until its words change.
  bool ask_for_region(Client& client);
  void use_disk(region::Region& region, UniqueFd directory, std::uint64_t bytes);
  void watch(Client& client);
  // False: we are to end.
  bool pause(std::chrono::milliseconds time);
  void say_once(std::string text);

  Store& store_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  bool cli_waits_ = false;
  FirstGrant grant_;
  bool answered_ = false;     // grant_ is for the CLI thread to take
  bool have_region_ = false;  // asked for no more
  std::string said_;
};

}  // namespace om::vmod
