// The daemon without its main(): accepts connections, owns their sessions, brings the store's
// events to those who subscribed, and drives the store's clockwork.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "loop/loop.h"
#include "posix/unique_fd.h"
#include "server/config.h"
#include "server/session.h"
#include "server/shared.h"

namespace om::server {

class Server {
 public:
  // `listener`: a listening SOCK_SEQPACKET socket, non-blocking.
  static Result<std::unique_ptr<Server>> start(Loop& loop, store::Store& store, const Clock& clock,
                                               const AccessGroups& access, UniqueFd listener);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  // Closes every connection; the store stays open.
  ~Server();

  // For connections from now on.
  void set_access(const AccessGroups& access) { shared_.access = access; }
  [[nodiscard]] const Shared& shared() const { return shared_; }

 private:
  struct Noted {
    std::uint32_t event = 0;
    std::string key;
    std::uint64_t object_id = 0;
    std::uint64_t lease_id = 0;
    std::uint64_t holder = 0;
  };
  Server(Loop& loop, store::Store& store, const Clock& clock, UniqueFd listener);
  void accept_some();
  void welcome(UniqueFd socket);
  void shed(const UniqueFd& socket, const Error& why);
  void shed_for_lack_of_descriptors();
  void pause_accepting();
  void note(const store::Event& event);
  void deliver();
  void tick();
  void tell_troubles();

  Shared shared_;
  UniqueFd listener_;
  UniqueFd spare_;  // given up for a moment to turn a client away when descriptors have run out
  Watch accept_watch_;
  Watch store_watch_;
  Timer tick_timer_;
  Timer accept_timer_;
  std::unordered_map<const Session*, std::shared_ptr<Session>> sessions_;
  std::vector<Noted> notes_;
  std::uint64_t ticks_ = 0;
  std::uint64_t shed_logged_ns_ = 0;
};

// RLIMIT_NOFILE up to the hard limit; what it is then.
std::size_t raise_descriptor_limit();
AccountLimits limits_for(std::size_t descriptors);

}  // namespace om::server
