// A program that we start, whose words we read, and that does not outlive us.
//
//   stopped --start()--> running --(it ends, ended())--> stopped
//
// It runs in a process group of its own, so that Ctrl-C in the terminal reaches us alone and we
// decide the order. PR_SET_PDEATHSIG ends it when we are killed; because a program that changes its
// user loses that (varnishd as root does), a Guard ends it as well.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om::cli::proxy {

// A small process beside us. When we are gone without a goodbye, it ends what we had started, in
// this order: varnishd, then objmapperd. Holds pidfds, so that a reused pid is never hit.
class Guard {
 public:
  static Result<Guard> start();
  Guard(Guard&&) = default;
  Guard& operator=(Guard&&) = delete;
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;
  ~Guard();  // the goodbye
  // Slot 0 is ended first.
  void watch(int slot, pid_t pid);
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  Guard(pid_t pid, UniqueFd pipe) : pid_(pid), pipe_(std::move(pipe)) {}
  pid_t pid_;
  UniqueFd pipe_;
};

class Child {
 public:
  struct Identity {
    uid_t uid;
    gid_t gid;
  };
  Child(std::string name, std::vector<std::string> command, std::string log_path,
        std::optional<Identity> identity);

  Result<void> start();
  void send(int signal) const;
  [[nodiscard]] bool is_running() const { return pid_ > 0; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  // To poll for POLLIN; -1 when it has closed it.
  [[nodiscard]] int output() const { return output_.raw(); }
  // Reads what there is: each whole line goes to the log and to `line`.
  void read_output(const std::function<void(const std::string&)>& line);
  // Its process was waited for.
  void ended() { pid_ = -1; }
  // The last lines it said since it was started.
  [[nodiscard]] const std::vector<std::string>& said() const { return said_; }

 private:
  void write_log(const std::string& line);

  std::string name_;
  std::vector<std::string> command_;
  std::string log_path_;
  std::optional<Identity> identity_;
  pid_t pid_ = -1;
  UniqueFd output_;
  UniqueFd log_;
  std::string partial_;
  std::vector<std::string> said_;
};

}  // namespace om::cli::proxy
