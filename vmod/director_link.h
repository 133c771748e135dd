// director_link.h: the connections over which directors ask the daemon, and the breaker before
// them. One per socket and time limit in a process, for good; no Varnish in here.
//
//   no connection   each has a thread that connects, with back-off from 50 ms to 2 s
//   closed          (the breaker) requests use the connections
//   open            after kFailuresMax failures without a success between them: nobody asks
//   half open       the thread asks once, after a pause from 250 ms to 4 s; success closes it
//
// A request never connects and never waits for a daemon that is known to be down: client() is
// nullptr then, at once. What is asked through client() has the time limit of the connection.
//
// Where many bodies are published that nobody waits for, their commits are kept for some
// milliseconds, and go together (Client::defer()): the thread sends them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lost_clients.h"
#include "objmapper/client.h"
#include "posix/unique_fd.h"

namespace om::vmod {

// Consecutive failures, counted; which of them opened it, and which success closed it.
class Breaker {
 public:
  static constexpr unsigned kFailuresMax = 5;
  [[nodiscard]] bool open() const { return open_.load(std::memory_order_acquire); }
  // True: this one opened it.
  bool failed();
  // True: this one closed it.
  bool succeeded();

 private:
  std::atomic<unsigned> failures_{0};
  std::atomic<bool> open_{false};
};

class DirectorLink {
 public:
  struct Watcher {
    // From the link's threads or from callers of report(); brief, and no lock of theirs held.
    std::function<void()> connected = [] {};
    std::function<void(bool up)> changed = [](bool /*up*/) {};  // what up() says
    std::function<void()> opened = [] {};
    // A lease of `client` is to be let go of.
    std::function<void(const std::shared_ptr<Client>& client, std::uint64_t lease)> revoked =
        [](const std::shared_ptr<Client>& /*client*/, std::uint64_t /*lease*/) {};
    // There is a connection again, and leases over an earlier one.
    LostClients::Renew renew = [](const std::shared_ptr<Client>& /*lost*/,
                                  std::uint64_t /*ended_ns*/, std::uint64_t /*after*/,
                                  const std::shared_ptr<Client>& /*fresh*/,
                                  LostClients::Deadline /*until*/) { return std::uint64_t{0}; };
  };
  struct Options {
    std::string socket;
    std::chrono::milliseconds timeout{50};
    std::string name;
    std::size_t connections = 2;
  };
  DirectorLink(Options options, Watcher watcher);
  DirectorLink(const DirectorLink&) = delete;
  DirectorLink& operator=(const DirectorLink&) = delete;
  ~DirectorLink();

  // nullptr: not connected, or the breaker is open.
  std::shared_ptr<Client> client();
  // The same for what is published without anybody waiting for it: some in a row get the same one,
  // so that their commits go together.
  std::shared_ptr<Client> publisher();
  // Something is about to be committed that nobody waits for, and that may be kept for a moment.
  void publishes(const Client& over);
  // How a call ended. A failure that says nothing about the daemon's health (a quota, say) is not
  // to be reported.
  void report(bool success);
  // Somebody may ask.
  [[nodiscard]] bool up() const;
  // Up within so long. For the load of a VCL: the first requests find it up.
  bool wait_up(std::chrono::milliseconds time);
  [[nodiscard]] const Options& options() const { return options_; }

 private:
  struct Line {
    std::shared_ptr<Client> client;                     // guarded by mutex_
    LostClients lost;                                   // the thread's own
    std::atomic<bool> many_commits{false};              // the thread's own to change
    UniqueFd wake;                                      // an eventfd(2): there are many; maybe none
    std::chrono::steady_clock::time_point burst_end{};  // guarded by mutex_, and
    std::size_t burst = 0;                              // of publications, until then
    std::thread thread;
  };
  void run(Line& line) noexcept;
  void serve(Line& line);
  void watch(Line& line, const std::shared_ptr<Client>& client);
  static void rest(Line& line, Client& client, std::chrono::milliseconds time);
  std::shared_ptr<Client> live_client(std::size_t first);  // under mutex_
  bool probe(Client& client);
  bool pause(std::chrono::milliseconds time);
  void tell_if_changed();

  const Options options_;
  const Watcher watcher_;
  Breaker breaker_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Line>> lines_;
  std::size_t next_ = 0;
  std::size_t publications_ = 0;
  bool stopping_ = false;
  bool said_up_ = false;
};

}  // namespace om::vmod
