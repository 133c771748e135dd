#include "cli/proxy/leftovers.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "posix/unique_fd.h"

namespace om::cli::proxy {
namespace {

using std::chrono::seconds;

class Leftovers : public testing::Test {
 public:
  Leftovers() {
    std::string name = (std::filesystem::temp_directory_path() / "om-leftovers-XXXXXX").string();
    plan_.directory = ::mkdtemp(name.data());
    plan_.name = "name";
  }
  ~Leftovers() override { std::filesystem::remove_all(plan_.directory); }

  // A child in a process group of its own that does nothing.
  static pid_t start() {
    const pid_t pid = ::fork();
    if (pid == 0) wait_for_ever();
    (void)::setpgid(pid, pid);
    return pid;
  }
  static void end(pid_t pid) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  Result<void> wait(seconds within) {
    return wait_for_leftovers(plan_, within, [this](const std::string& text) { said_ += text; });
  }
  [[nodiscard]] bool is_left(pid_t pid) const {
    const auto found = leftovers(plan_);
    return found.size() == 1 && found[0].pid == pid;
  }

  Plan plan_;
  std::string said_;

 private:
  [[noreturn]] static void wait_for_ever() {
    (void)::setpgid(0, 0);
    while (true) ::pause();
  }
};

TEST_F(Leftovers, OfNobodyThatWasNoted) {
  EXPECT_TRUE(leftovers(plan_).empty());
  EXPECT_TRUE(wait(seconds(0)));
  note_started(plan_, 1, "objmapperd", -1);  // it is gone already
  EXPECT_TRUE(leftovers(plan_).empty());
  EXPECT_EQ(said_, "");
}

TEST_F(Leftovers, AreNamedAndNotEnded) {
  const pid_t pid = start();
  note_started(plan_, 1, "objmapperd", pid);  // nothing is noted in slot 0
  EXPECT_TRUE(is_left(pid));
  const auto waited = wait(seconds(0));
  ASSERT_FALSE(waited);
  EXPECT_EQ(waited.error().code, Errc::kBusy);
  const std::string process = "objmapperd (process " + std::to_string(pid) + ")";
  EXPECT_NE(said_.find("waiting for"), std::string::npos) << said_;
  EXPECT_NE(said_.find(process), std::string::npos) << said_;
  EXPECT_NE(waited.error().what.find(process), std::string::npos) << waited.error().what;
  EXPECT_NE(waited.error().what.find("(kill " + std::to_string(pid)), std::string::npos)
      << waited.error().what;
  EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), 0) << "it was ended";
  // Killed and not reaped yet, it holds nothing any more.
  ::kill(pid, SIGKILL);
  EXPECT_TRUE(wait(seconds(10)));
  end(pid);
  EXPECT_TRUE(leftovers(plan_).empty());
}

TEST_F(Leftovers, AreNotThoseThatHaveTheNumberNow) {
  const pid_t pid = start();
  note_started(plan_, 0, "varnishd", pid);
  ASSERT_TRUE(is_left(pid));
  std::string program;
  std::uint64_t started = 0;
  pid_t noted = 0;
  std::ifstream(plan_.path("started")) >> program >> noted >> started;
  EXPECT_EQ(noted, pid);
  std::ofstream(plan_.path("started")) << program << " " << noted << " " << started - 1 << "\n";
  EXPECT_TRUE(leftovers(plan_).empty());
  std::ofstream(plan_.path("started")) << "something else";
  EXPECT_TRUE(leftovers(plan_).empty());
  end(pid);
}

// varnishd's worker, when its manager was killed: it ends a moment later.
TEST_F(Leftovers, AreWorkersToo) {
  for (const bool is_ours : {true, false}) {
    int report[2];
    int life[2];
    ASSERT_EQ(::pipe(report), 0);
    ASSERT_EQ(::pipe(life), 0);
    const std::string directory = (is_ours ? plan_.directory : "/elsewhere") + "/varnish";
    const pid_t manager = ::fork();
    if (manager == 0) {
      (void)::setpgid(0, 0);
      const pid_t worker = ::fork();
      if (worker == 0) {
        ::dup2(life[0], STDIN_FILENO);
        ::close(life[1]);
        ::execl("/bin/sh", "varnishd", "-c", "read x", "-n", directory.c_str(), nullptr);
        ::_exit(127);
      }
      (void)!::write(report[1], &worker, sizeof worker);
      while (true) ::pause();
    }
    const auto from = UniqueFd::adopt(report[0]);
    auto until = UniqueFd::adopt(life[1]);
    ::close(report[1]);
    ::close(life[0]);
    pid_t worker = 0;
    ASSERT_EQ(::read(from.raw(), &worker, sizeof worker), static_cast<ssize_t>(sizeof worker));
    note_started(plan_, 0, "varnishd", manager);
    // It runs what it is to run.
    const std::string link = "/proc/" + std::to_string(worker) + "/cmdline";
    std::string command;
    while (command.find(directory) == std::string::npos) {
      std::ifstream file(link);
      std::getline(file, command);
    }
    EXPECT_TRUE(is_left(manager));
    end(manager);
    EXPECT_EQ(is_left(worker), is_ours);
    EXPECT_EQ(wait(seconds(0)).has_value(), !is_ours);
    EXPECT_EQ(::kill(worker, 0), 0);
    until.reset();
    EXPECT_TRUE(wait(seconds(10)));
  }
}

}  // namespace
}  // namespace om::cli::proxy
