#include "cli/proxy/child.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "posix/file.h"

namespace om::cli::proxy {
namespace {

constexpr std::size_t kLinesKept = 40;
constexpr std::uint64_t kLogBytesMax = 8U << 20U;
constexpr int kGuardPatienceMs = 15000;

struct GuardMessage {
  std::int32_t slot;  // -1: goodbye
  std::int32_t pid;
};

void end_by_pidfd(int pidfd) {
  if (pidfd < 0) return;
  ::syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, nullptr, 0);
  pollfd wait{.fd = pidfd, .events = POLLIN, .revents = 0};
  if (::poll(&wait, 1, kGuardPatienceMs) == 0) {
    ::syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
  }
}

[[noreturn]] void guard_main(int pipe) {
  ::prctl(PR_SET_NAME, "objm-guard");
  ::setpgid(0, 0);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) (void)::signal(number, SIG_IGN);
  std::array<int, 2> watched = {-1, -1};
  GuardMessage message{};
  while (true) {
    const ssize_t got = ::read(pipe, &message, sizeof message);
    if (got < 0 && errno == EINTR) continue;
    if (got != static_cast<ssize_t>(sizeof message)) break;
    if (message.slot < 0) ::_exit(0);
    int& pidfd = watched.at(static_cast<std::size_t>(message.slot));
    if (pidfd >= 0) ::close(pidfd);
    pidfd = static_cast<int>(::syscall(SYS_pidfd_open, message.pid, 0));
  }
  for (const int pidfd : watched) end_by_pidfd(pidfd);
  ::_exit(0);
}

// Between fork and exec: async-signal-safe calls alone.
[[noreturn]] void become(int program, char* const* arguments, int output, pid_t parent,
                         const std::optional<Child::Identity>& identity) {
  ::setpgid(0, 0);
  sigset_t none;
  ::sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  const int null = ::open("/dev/null", O_RDONLY);
  if (null >= 0) ::dup2(null, STDIN_FILENO);
  if (identity) {
    if (::setgroups(1, &identity->gid) != 0 || ::setgid(identity->gid) != 0 ||
        ::setuid(identity->uid) != 0) {
      ::_exit(126);
    }
  }
  // After the change of user, which resets it.
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(126);
  // By descriptor: the new user need not be able to walk to the program.
  ::syscall(SYS_execveat, program, "", arguments, environ, AT_EMPTY_PATH);
  ::_exit(127);
}

}  // namespace

Result<Guard> Guard::start() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return system_error("pipe");
  auto reader = UniqueFd::adopt(ends[0]);
  auto writer = UniqueFd::adopt(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return system_error("fork");
  if (pid == 0) {
    writer.reset();
    // Nothing of ours is kept open by it: not the lock, not the terminal's pipe.
    const int pipe = ::dup2(reader.raw(), 3);
    ::close_range(4, ~0U, 0);
    const int null = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3 && null >= 0; ++fd) ::dup2(null, fd);
    guard_main(pipe);
  }
  return Guard(pid, std::move(writer));
}

Guard::~Guard() {
  if (!pipe_) return;
  const GuardMessage goodbye{.slot = -1, .pid = 0};
  (void)!::write(pipe_.raw(), &goodbye, sizeof goodbye);
  ::waitpid(pid_, nullptr, 0);
}

void Guard::watch(int slot, pid_t pid) {
  const GuardMessage message{.slot = slot, .pid = pid};
  (void)!::write(pipe_.raw(), &message, sizeof message);
}

Child::Child(std::string name, std::vector<std::string> command, std::string log_path,
             std::optional<Identity> identity)
    : name_(std::move(name)),
      command_(std::move(command)),
      log_path_(std::move(log_path)),
      identity_(identity) {}

Result<void> Child::start() {
  const auto program = open_file(command_.front(), O_PATH);
  if (!program) return system_error("cannot run " + command_.front());
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return system_error("pipe");
  auto reader = UniqueFd::adopt(ends[0]);
  const auto writer = UniqueFd::adopt(ends[1]);
  ::fcntl(reader.raw(), F_SETFL, O_NONBLOCK);
  std::vector<char*> arguments;
  for (auto& argument : command_) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return system_error("fork");
  if (pid == 0) become(program->raw(), arguments.data(), writer.raw(), parent, identity_);
  pid_ = pid;
  output_ = std::move(reader);
  partial_.clear();
  said_.clear();
  return {};
}

void Child::send(int signal) const {
  if (is_running()) ::kill(pid_, signal);
}

void Child::write_log(const std::string& line) {
  struct stat info {};
  if (log_ && ::fstat(log_.raw(), &info) == 0 &&
      static_cast<std::uint64_t>(info.st_size) > kLogBytesMax) {
    (void)::rename(log_path_.c_str(), (log_path_ + ".1").c_str());
    log_.reset();
  }
  if (!log_) {
    auto opened = open_file(log_path_, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (!opened) return;
    log_ = std::move(*opened);
  }
  const std::string text = line + "\n";
  (void)!::write(log_.raw(), text.data(), text.size());
}

void Child::read_output(const std::function<void(const std::string&)>& line) {
  std::array<char, 4096> buffer;
  while (output_) {
    const ssize_t got = ::read(output_.raw(), buffer.data(), buffer.size());
    if (got < 0) {
      if (errno == EINTR) continue;
      break;  // EAGAIN: that was all for now
    }
    if (got == 0) {
      output_.reset();
      break;
    }
    partial_.append(buffer.data(), static_cast<std::size_t>(got));
    std::size_t end = 0;
    while ((end = partial_.find('\n')) != std::string::npos) {
      const std::string text = partial_.substr(0, end);
      partial_.erase(0, end + 1);
      if (said_.size() == kLinesKept) said_.erase(said_.begin());
      said_.push_back(text);
      write_log(text);
      line(text);
    }
  }
}

}  // namespace om::cli::proxy
