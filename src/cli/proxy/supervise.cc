// One thread, one poll(2): a signalfd, the two children's output, a tick.
//
// Before anything is started, what a killed proxy of the same name has left has to end
// (leftovers.h).
//
// Phases: the store is started and waited for, then the cache, then the summary is printed and both
// are followed. Whatever dies afterwards is started again, with a pause that doubles while it does
// not live. When varnishd's manager is killed, its worker ends by itself a moment later; it holds
// the port and the region until then, and as a subreaper we see it go.

#include "cli/proxy/supervise.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "base/units.h"
#include "cli/proxy/child.h"
#include "cli/proxy/directories.h"
#include "cli/proxy/leftovers.h"
#include "posix/file.h"
#include "posix/unix_socket.h"

namespace om::cli::proxy {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kTick{20};
constexpr seconds kReadyWithin{60};
constexpr seconds kStopWithin{20};
constexpr seconds kOrphanWithin{3};
// A process that was killed has its locks until the kernel has taken it apart.
constexpr seconds kLockWithin{1};
// The guard of one that was killed gives each of the two 15 s.
constexpr seconds kLeftoversWithin{40};
constexpr milliseconds kPauseMax{5000};
constexpr rlim_t kDescriptorsMin = 1024;

Result<UniqueFd> take_lock(const Plan& plan) {
  auto lock = OM_TRY(open_file(plan.path("lock"), O_RDWR | O_CREAT, 0644));
  const auto deadline = Clock::now() + kLockWithin;
  while (::flock(lock.raw(), LOCK_EX | LOCK_NB) != 0) {
    if (Clock::now() < deadline) {
      std::this_thread::sleep_for(kTick);
      continue;
    }
    char pid[16] = "?";
    const ssize_t got = ::pread(lock.raw(), pid, sizeof pid - 1, 0);
    if (got > 0) pid[got] = '\0';
    return Error{Errc::kBusy, 0,
                 "a proxy named " + plan.name + " is running already (process " + pid +
                     "): stop it, or choose another --name"};
  }
  const std::string pid = std::to_string(::getpid());
  (void)!::ftruncate(lock.raw(), 0);
  (void)!::pwrite(lock.raw(), pid.data(), pid.size(), 0);
  return lock;
}

Result<void> raise_limits() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const rlim_t wanted = 131072;
  limit.rlim_cur = std::min(wanted, limit.rlim_max);
  ::setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur >= kDescriptorsMin) return {};
  return Error{Errc::kQuota, 0,
               "this shell allows only " + std::to_string(limit.rlim_max) +
                   " open files, and a cache needs " + std::to_string(kDescriptorsMin) +
                   ": raise the limit (ulimit -Hn, or nofile in /etc/security/limits.conf)"};
}

bool store_answers(const Plan& plan) {
  return connect_seqpacket(plan.objmapper_socket(), milliseconds(100)).has_value();
}

// True when a worker of varnishd with our VCL answers over the private socket.
bool cache_answers(const Plan& plan) {
  const auto socket = UniqueFd::adopt(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = plan.control_socket();
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path - 1));
  const timeval patience{.tv_sec = 0, .tv_usec = 200000};
  ::setsockopt(socket.raw(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(socket.raw(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (::connect(socket.raw(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return false;
  }
  const std::string request = "GET /ready HTTP/1.1\r\nHost: objm\r\nConnection: close\r\n\r\n";
  if (::send(socket.raw(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return false;
  char reply[64] = "";
  const ssize_t got = ::recv(socket.raw(), reply, sizeof reply - 1, 0);
  return got > 0 && std::string_view(reply).find(" 200 ") != std::string_view::npos;
}

bool says(const std::vector<std::string>& lines, const char* word) {
  return std::any_of(lines.begin(), lines.end(), [word](const std::string& line) {
    return line.find(word) != std::string::npos;
  });
}

// What a program that ended at once probably means, as a sentence; its own words follow.
Error start_failed(const Plan& plan, const Child& child, const std::string& how) {
  const auto& lines = child.said();
  std::string sentence = child.name() + " " + how + ": ";
  if (says(lines, "Address already in use")) {
    sentence += "port " + std::to_string(plan.listen.port) +
                " is taken: stop the other program (ss -ltnp), or choose another with --listen";
  } else if (says(lines, "ABI mismatch") || says(lines, "API mismatch")) {
    sentence += "vmod_objmapper was built for another varnishd than " + plan.installation.varnishd +
                ": rebuild it with that version's libvarnishapi-dev (script/build release)";
  } else if (says(lines, "user.vcl")) {
    sentence += "correct " + plan.options.vcl + " as it says";
  } else if (says(lines, "Running C-compiler failed") || says(lines, "gcc: not found")) {
    sentence += "VCL needs a C compiler: run apt-get install gcc";
  } else if (says(lines, "No space left")) {
    sentence += "a file system is full: make room in " + plan.directory;
  } else {
    sentence += "see what it said";
  }
  std::string text = sentence;
  const std::size_t begin = lines.size() > 12 ? lines.size() - 12 : 0;
  for (std::size_t i = begin; i < lines.size(); ++i) text += "\n    " + lines[i];
  return {Errc::kUnavailable, 0, text};
}

// Standard error, without waiting for it. A terminal that was stopped (Ctrl-S) or a pipe that
// nobody reads would keep us from reading what our programs say, and then them from working: what
// does not fit is dropped.
class Messages {
 public:
  Messages() {
    struct stat info {};
    if (::fstat(STDERR_FILENO, &info) != 0) return;
    // Opened anew, because O_NONBLOCK is for all who share a description, as the shell does.
    if (S_ISCHR(info.st_mode) || S_ISFIFO(info.st_mode)) {
      own_ =
          UniqueFd::adopt(::open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    }
  }
  void say(const std::string& text) const {
    const std::string line = "objm: " + text + "\n";
    pollfd ready{own_ ? own_.raw() : STDERR_FILENO, POLLOUT, 0};
    if (::poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0) return;
    (void)!::write(ready.fd, line.data(), line.size());
  }

 private:
  UniqueFd own_;
};

// The signals that stop us. What we were started to ignore, by nohup(1) say, is left out: a signal
// that is blocked comes to a signalfd all the same.
sigset_t stop_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  for (const int number : {SIGINT, SIGHUP}) {
    struct sigaction inherited {};
    ::sigaction(number, nullptr, &inherited);
    if (inherited.sa_handler != SIG_IGN) ::sigaddset(&set, number);
  }
  return set;
}

std::string how_it_ended(int status) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): a buffer for each thread
  if (WIFSIGNALED(status)) return "was killed (" + std::string(::strsignal(WTERMSIG(status))) + ")";
  return "ended with status " + std::to_string(WEXITSTATUS(status));
}

class Supervisor {
 public:
  Supervisor(const Plan& plan, Guard guard, UniqueFd signals)
      : plan_(plan),
        guard_(std::move(guard)),
        signals_(std::move(signals)),
        store_("objmapperd", plan.objmapperd_command(), plan.path("objmapperd.log"),
               plan.uid ? std::optional(Child::Identity{*plan.uid, *plan.gid}) : std::nullopt),
        cache_("varnishd", plan.varnishd_command(), plan.path("varnishd.log"), std::nullopt) {}

  Result<void> run() {
    auto result = start_all();
    if (result) follow();
    stop(cache_);
    stop(store_);
    return result;
  }

 private:
  Result<void> start_all() {
    OM_TRY(first_start(store_, 1, [this] { return store_answers(plan_); }));
    if (stopping_) return {};
    OM_TRY(first_start(cache_, 0, [this] { return cache_answers(plan_); }));
    if (!stopping_) print_summary();
    return {};
  }

  template <class Ready>
  Result<void> first_start(Child& child, int slot, const Ready& ready) {
    OM_TRY(start(child, slot));
    const auto deadline = Clock::now() + kReadyWithin;
    while (!stopping_ && !ready()) {
      wait();
      if (!child.is_running()) return start_failed(plan_, child, ended_how_);
      if (Clock::now() > deadline) {
        return start_failed(plan_, child,
                            "is not ready after " + std::to_string(kReadyWithin.count()) + " s");
      }
    }
    return {};
  }

  Result<void> start(Child& child, int slot) {
    OM_TRY(child.start());
    guard_.watch(slot, child.pid());
    note_started(plan_, slot, child.name(), child.pid());
    return {};
  }

  void follow() {
    following_ = true;
    while (!stopping_) {
      wait();
      revive(store_, 1, store_again_);
      revive(cache_, 0, cache_again_);
    }
  }

  struct Again {
    Clock::time_point died;
    Clock::time_point started = Clock::now();
    milliseconds pause{0};
    bool is_dead = false;
  };

  void revive(Child& child, int slot, Again& again) {
    if (child.is_running()) return;
    const auto now = Clock::now();
    if (!again.is_dead) {
      again.is_dead = true;
      again.died = now;
      const bool lived = now - again.started > seconds(10);
      again.pause =
          lived ? milliseconds(0) : std::min(kPauseMax, again.pause * 2 + milliseconds(100));
      say(child.name() + " " + ended_how_ + "; starting it again");
    }
    if (now < again.died + again.pause) return;
    // The port and the region are the old worker's until it is gone.
    if (&child == &cache_ && end_orphans(now - again.died > kOrphanWithin)) return;
    again.is_dead = false;
    again.started = now;
    const auto started = start(child, slot);
    if (!started) say("cannot start " + child.name() + ": " + describe(started.error()));
  }

  // Processes that a dead varnishd left to us. True: there are some.
  bool end_orphans(bool by_force) const {
    std::ifstream list("/proc/self/task/" + std::to_string(::gettid()) + "/children");
    bool any = false;
    pid_t pid = 0;
    while (list >> pid) {
      if (pid == store_.pid() || pid == cache_.pid() || pid == guard_.pid()) continue;
      any = true;
      if (by_force) ::kill(pid, SIGKILL);
    }
    return any;
  }

  // Something happened, or a tick has passed.
  void wait() {
    std::array<pollfd, 3> polled = {pollfd{signals_.raw(), POLLIN, 0},
                                    pollfd{store_.output(), POLLIN, 0},
                                    pollfd{cache_.output(), POLLIN, 0}};
    // With both running and nothing to wait for, there is no need for a tick.
    const bool idle = following_ && store_.is_running() && cache_.is_running();
    ::poll(polled.data(), polled.size(), idle ? -1 : static_cast<int>(kTick.count()));
    read_signals();
    store_.read_output([this](const std::string& line) { relay(store_, line); });
    cache_.read_output([this](const std::string& line) { relay(cache_, line); });
    reap();
  }

  void read_signals() {
    signalfd_siginfo info{};
    while (::read(signals_.raw(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      if (info.ssi_signo != SIGCHLD) stopping_ = true;
    }
  }

  void reap() {
    int status = 0;
    pid_t pid = 0;
    while ((pid = ::waitpid(-1, &status, WNOHANG)) > 0) {
      for (Child* child : {&store_, &cache_}) {
        if (pid != child->pid()) continue;
        child->read_output([this, child](const std::string& line) { relay(*child, line); });
        child->ended();
        ended_how_ = how_it_ended(status);
      }
    }
  }

  void relay(const Child& child, const std::string& line) const {
    if (!plan_.options.verbose) {
      // Before the summary, what matters is in the error, if there is one.
      if (!following_ || stopping_ || line.empty()) return;
      if (&child == &cache_ && !line.starts_with("Error:") && !line.starts_with("Child ")) return;
      if (&child == &store_ && line.find("warn") == std::string::npos &&
          line.find("error") == std::string::npos && line.find("critical") == std::string::npos) {
        return;
      }
    }
    say(child.name() + ": " + line);
  }

  void say(const std::string& text) const { messages_.say(text); }

  void stop(Child& child) {
    stopping_ = true;
    following_ = false;
    child.send(SIGTERM);
    const auto deadline = Clock::now() + kStopWithin;
    while (child.is_running() || (&child == &cache_ && end_orphans(Clock::now() > deadline))) {
      if (Clock::now() > deadline) child.send(SIGKILL);
      wait();
    }
  }

  void print_summary() const {
    const std::string url = "http://" + plan_.listen.local();
    std::ostringstream out;
    out << "objm proxy is ready.\n"
        << "  serving  " << url << "  from " << plan_.origin.text() << "\n"
        << "  cache    " << format_size(plan_.memory_bytes) << " in " << plan_.memory_directory;
    if (!plan_.disk_directory.empty()) {
      out << ", shared objects also " << format_size(plan_.disk_bytes) << " in "
          << plan_.disk_directory;
    }
    out << "\n  try      curl -sI " << url << "/ | grep -i -e ^HTTP -e ^X-Cache\n"
        << "  remove   curl -X PURGE " << url << "/PATH    curl -X BAN " << url << "/PREFIX\n"
        << "  look     varnishstat -n " << plan_.path("varnish") << "\n"
        << "           objm --socket " << plan_.objmapper_socket() << " status\n"
        << "  logs     " << plan_.directory << "/*.log    varnishlog -n " << plan_.path("varnish")
        << "\n  stop     Ctrl-C, or kill " << ::getpid()
        << " (the cache stays for the next start; --discard begins with an empty one)\n";
    std::cout << out.str() << std::flush;
  }

  const Plan& plan_;
  Guard guard_;
  UniqueFd signals_;
  Messages messages_;
  Child store_;
  Child cache_;
  Again store_again_;
  Again cache_again_;
  std::string ended_how_;
  bool following_ = false;
  bool stopping_ = false;
};

}  // namespace

Result<void> supervise(const Plan& plan) {
  OM_TRY(make_runtime_directory(plan));
  const auto lock = OM_TRY(take_lock(plan));
  const Messages messages;
  OM_TRY(wait_for_leftovers(plan, kLeftoversWithin,
                            [&](const std::string& text) { messages.say(text); }));
  OM_TRY(check_listen(plan.listen));
  OM_TRY(raise_limits());
  OM_TRY(prepare(plan));
  (void)::signal(SIGPIPE, SIG_IGN);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  auto guard = OM_TRY(Guard::start());
  // Of children that end nothing would be heard where it is ignored.
  (void)::signal(SIGCHLD, SIG_DFL);
  sigset_t set = stop_signals();
  ::sigaddset(&set, SIGCHLD);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  auto signals = UniqueFd::adopt(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals) return system_error("signalfd");
  return Supervisor(plan, std::move(guard), std::move(signals)).run();
}

}  // namespace om::cli::proxy
