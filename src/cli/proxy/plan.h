// What `objm proxy` is going to do, decided before anything is started: which programs, where the
// data lies, which command lines. A plan is plain data: --dry-run prints it, supervise.h runs it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/proxy/origin.h"

namespace om::cli::proxy {

// As typed.
struct Options {
  std::string origin;
  std::string listen = ":8080";
  std::string memory = "2G";
  std::string disk;  // DIR:SIZE
  std::string vcl;
  std::string name;
  std::string host;
  std::string probe = "/";  // a URL path, or "none"
  bool no_x_cache = false;
  bool discard = false;
  bool verbose = false;
  bool dry_run = false;
};

// The programs and files that we need, each found beside objm, else installed, else in PATH.
struct Installation {
  std::string varnishd;
  std::string objmapperd;
  std::string vmod;  // libvmod_objmapper.so
};

struct Plan {
  Options options;
  Origin origin;
  Reached reached;
  Listen listen;
  std::string name;
  Installation installation;
  std::uint64_t memory_bytes = 0;
  std::uint64_t region_bytes = 0;
  std::string disk_directory;
  std::uint64_t disk_bytes = 0;
  // As root, objmapperd runs as this user, in varnishd's group.
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;

  std::string directory;         // runtime directory: sockets, VCL, logs, the lock
  std::string memory_directory;  // tmpfs
  std::string state_directory;   // catalog
  [[nodiscard]] std::string path(const std::string& name_of_file) const {
    return directory + "/" + name_of_file;
  }
  // In a directory that belongs to objmapperd's user, because it makes the socket.
  [[nodiscard]] std::string objmapper_socket() const { return path("store/objmapper.sock"); }
  [[nodiscard]] std::string control_socket() const { return path("control.sock"); }
  [[nodiscard]] std::string vcl() const;
  [[nodiscard]] std::vector<std::string> objmapperd_command() const;
  [[nodiscard]] std::vector<std::string> varnishd_command() const;
};

// Reads the options and looks at the machine; changes nothing. Errors are sentences that say what
// to do.
Result<Plan> make_plan(const Options& options);

// With plan.directory made and the lock held: makes the other directories (directories.h), copies
// the VMOD and writes the VCL to where varnishd's unprivileged processes can read them.
Result<void> prepare(const Plan& plan);

// For --dry-run: a command line that a shell reads back.
std::string shell_line(const std::vector<std::string>& arguments);

}  // namespace om::cli::proxy
