#include "cli/proxy/leftovers.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <optional>
#include <span>
#include <sstream>
#include <thread>

#include "posix/file.h"

namespace om::cli::proxy {
namespace {

constexpr std::chrono::milliseconds kLookEvery{20};
// Of a note: one write each, in a place of its own.
constexpr std::size_t kNoteBytes = 64;
constexpr std::size_t kSlots = 2;
constexpr std::size_t kProcTextMax = std::size_t{64} * 1024;

std::string notes_path(const Plan& plan) { return plan.path("started"); }

// Of /proc/PID/NAME; empty: there is none, or no such process.
std::string proc_text(pid_t pid, const char* name) {
  const auto file = open_file("/proc/" + std::to_string(pid) + "/" + name, O_RDONLY);
  if (!file) return {};
  auto text = read_to_end(file->borrow(), kProcTextMax);
  return text ? *std::move(text) : std::string();
}

struct Process {
  pid_t group = 0;
  std::uint64_t started = 0;  // ticks since the boot
};

// nullopt: there is no such process.
std::optional<Process> look_at(pid_t pid) {
  const std::string text = proc_text(pid, "stat");
  // The name, in brackets, may have anything in it.
  const auto name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  constexpr int kBetween = 16;  // from the group to the start, proc(5)
  std::string skipped;
  Process process;
  fields >> skipped >> skipped >> process.group;
  for (int i = 0; i < kBetween; ++i) fields >> skipped;
  fields >> process.started;
  if (!fields) return std::nullopt;
  return process;
}

// All of it: a process whose first thread has ended, or that waits to be reaped, is there in /proc.
bool has_ended(pid_t pid) {
  const auto process = UniqueFd::adopt(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) return errno == ESRCH;
  pollfd look{.fd = process.raw(), .events = POLLIN, .revents = 0};
  return ::poll(&look, 1, 0) == 1;
}

std::vector<pid_t> all_processes() {
  std::vector<pid_t> all;
  const auto proc = open_file("/proc", O_RDONLY | O_DIRECTORY);
  if (!proc) return all;
  const auto names = list_directory(proc->borrow());
  if (!names) return all;
  for (const std::string& name : *names) {
    pid_t pid = 0;
    const char* const end = name.data() + name.size();
    const auto [after, code] = std::from_chars(name.data(), end, pid);
    if (code == std::errc() && after == end) all.push_back(pid);
  }
  return all;
}

// Those that a program which is gone has left in its process group.
void add_orphans(const Plan& plan, const std::string& program, pid_t group,
                 std::vector<Leftover>& found) {
  for (const pid_t pid : all_processes()) {
    const auto process = look_at(pid);
    if (pid == group || !process || process->group != group) continue;
    // The number may have been another group's since. One that is ending has no command line.
    const std::string command = proc_text(pid, "cmdline");
    if (!command.empty() && command.find(plan.directory + "/") == std::string::npos) continue;
    if (!has_ended(pid)) found.push_back({program, pid});
  }
}

std::string listed(const std::vector<Leftover>& found) {
  std::string text;
  for (const Leftover& one : found) {
    if (!text.empty()) text += ", ";
    text += one.program + " (process " + std::to_string(one.pid) + ")";
  }
  return text;
}

std::string numbers(const std::vector<Leftover>& found) {
  std::string text;
  for (const Leftover& one : found) text += " " + std::to_string(one.pid);
  return text;
}

}  // namespace

void note_started(const Plan& plan, int slot, const std::string& program, pid_t pid) {
  const auto process = look_at(pid);
  const auto notes = open_file(notes_path(plan), O_WRONLY | O_CREAT, 0644);
  if (!process || !notes) return;
  std::string note = program + " " + std::to_string(pid) + " " + std::to_string(process->started);
  note.resize(kNoteBytes - 1, ' ');
  note += '\n';
  (void)write_exactly(notes->borrow(), static_cast<std::uint64_t>(slot) * kNoteBytes,
                      std::as_bytes(std::span(note)));
}

std::vector<Leftover> leftovers(const Plan& plan) {
  std::vector<Leftover> found;
  const auto notes = open_file(notes_path(plan), O_RDONLY);
  if (!notes) return found;
  const auto text = read_to_end(notes->borrow(), kSlots * kNoteBytes);
  if (!text) return found;
  for (std::size_t slot = 0; slot * kNoteBytes < text->size(); ++slot) {
    std::istringstream note(text->substr(slot * kNoteBytes, kNoteBytes));
    std::string program;
    pid_t pid = 0;
    std::uint64_t started = 0;
    // A slot that nothing was noted in is a hole.
    if (!(note >> program >> pid >> started) || pid <= 0) continue;
    const auto process = look_at(pid);
    // A number is not used again while a group has it: no worker is left either.
    if (process && process->started != started) continue;
    if (process && !has_ended(pid)) {
      found.push_back({program, pid});
    } else {
      add_orphans(plan, program, pid, found);
    }
  }
  return found;
}

Result<void> wait_for_leftovers(const Plan& plan, std::chrono::seconds within,
                                const std::function<void(const std::string&)>& say) {
  using std::chrono::steady_clock;
  const auto deadline = steady_clock::now() + within;
  auto found = leftovers(plan);
  if (found.empty()) return {};
  say("waiting for what a proxy named " + plan.name +
      " that was killed has left to end: " + listed(found));
  while (!found.empty()) {
    if (steady_clock::now() > deadline) {
      return Error{Errc::kBusy, 0,
                   "after " + std::to_string(within.count()) + " s there is still " +
                       listed(found) + " of a proxy named " + plan.name +
                       " that was killed: end it (kill" + numbers(found) +
                       ", with -9 where that does nothing), or choose another --name"};
    }
    std::this_thread::sleep_for(kLookEvery);
    found = leftovers(plan);
  }
  return {};
}

}  // namespace om::cli::proxy
