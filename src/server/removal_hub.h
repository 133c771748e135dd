// The caches that have joined, and the removals that are on their way to them.
//
//   JOIN     a session becomes the cache of a name (an earlier one of that name is it no more, and
//            ends), and is sent what it has missed, at most kWindow beyond what it has
//            acknowledged; one that is so slow that the log goes on without it, ends and joins anew
//   REMOVE   recorded and hidden by the store, sent to every cache, answered when all of them but
//   its
//            origin have acknowledged it and it is as durable as it has to be, or when its time is
//            up
//   ACK      lets the next ones go out, and those who wait for it be answered
//
// Lives on the loop's thread. Sessions leave before they end.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "loop/loop.h"
#include "posix/mapping.h"
#include "posix/unique_fd.h"
#include "store/store.h"
#include "wire/messages.h"

namespace om::server {

class Session;

class RemovalHub {
 public:
  RemovalHub(Loop& loop, store::Store& store) : loop_(loop), store_(store) {}
  RemovalHub(const RemovalHub&) = delete;
  RemovalHub& operator=(const RemovalHub&) = delete;
  ~RemovalHub();

  void set_epoch(std::uint64_t epoch) { epoch_ = epoch; }
  // With the head page's descriptor, for reading. The caller replies, then calls pump().
  Result<std::pair<wire::JoinReply, UniqueFd>> join(Session& session, const wire::Join& request);
  void leave(Session& session);
  void acknowledge(Session& session, std::uint64_t sequence);
  void remove(Session& session, std::uint64_t request_id, wire::Remove request);
  void pump(Session& session);
  // Sends to those whose connection had no room for it.
  void pump_all();

  [[nodiscard]] std::size_t caches() const { return members_.size(); }
  [[nodiscard]] std::size_t behind() const;
  [[nodiscard]] std::uint64_t recorded() const { return recorded_; }
  [[nodiscard]] std::uint64_t failed() const { return failed_; }
  [[nodiscard]] std::uint64_t unapplied() const { return unapplied_; }

 private:
  struct Member {
    std::string name;
    std::uint64_t sent = 0;
    std::uint64_t acknowledged = 0;
  };
  struct Wait {
    std::weak_ptr<Session> session;
    std::uint64_t request_id = 0;
    wire::RemoveReply reply;
    std::unordered_map<const Session*, bool> open;  // caches that have not acknowledged
    std::uint32_t gone = 0;                         // of them, those that have left
    bool synced = false;
    bool out_of_time = false;
    Timer timer;
  };
  using WaitIterator = std::list<Wait>::iterator;
  Result<void> make_page();
  void publish_head(std::uint64_t head);
  void send(Session& session, Member& member);
  // Soon.
  void hang_up(Session& session);
  // Answers and forgets those that are ready to be.
  void answer_ready();

  Loop& loop_;
  store::Store& store_;
  std::uint64_t epoch_ = 0;
  UniqueFd page_file_;
  Mapping page_;
  std::unordered_map<Session*, Member> members_;
  std::list<Wait> waits_;
  std::uint64_t recorded_ = 0;
  std::uint64_t failed_ = 0;
  std::uint64_t unapplied_ = 0;
};

}  // namespace om::server
