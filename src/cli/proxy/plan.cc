#include "cli/proxy/plan.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/units.h"
#include "cli/proxy/directories.h"
#include "cli/proxy/vcl.h"
#include "posix/file.h"

namespace om::cli::proxy {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20U;
constexpr std::uint64_t kMemoryMin = 32 * kMiB;
constexpr std::uint64_t kVclBytesMax = 16 * kMiB;

bool is_file(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

std::string own_directory() {
  char path[4096];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return ".";
  std::string text(path, static_cast<std::size_t>(length));
  return text.substr(0, text.rfind('/'));
}

std::string first_file(const std::vector<std::string>& candidates) {
  for (const auto& candidate : candidates) {
    if (is_file(candidate)) return candidate;
  }
  return {};
}

std::string in_path(const std::string& program) {
  const char* environment = std::getenv("PATH");
  std::string list = environment != nullptr ? environment : "";
  // An ordinary user's PATH has no sbin, and that is where Debian puts varnishd.
  list += ":/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin";
  std::size_t begin = 0;
  while (begin <= list.size()) {
    const std::size_t end = std::min(list.find(':', begin), list.size());
    std::string candidate = list.substr(begin, end - begin) + "/" + program;
    if (candidate.front() == '/' && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    begin = end + 1;
  }
  return {};
}

Result<Installation> find_installation(bool dry_run) {
  const std::string bin = own_directory();
  Installation found;
  found.varnishd = in_path("varnishd");
  found.objmapperd = first_file({bin + "/objmapperd", bin + "/../sbin/objmapperd"});
  if (found.objmapperd.empty()) found.objmapperd = in_path("objmapperd");
  const std::string vmod = "libvmod_objmapper.so";
  found.vmod = first_file({bin + "/../lib/" + vmod, bin + "/../lib/varnish/vmods/" + vmod,
                           "/usr/local/lib/varnish/vmods/" + vmod,
                           "/usr/lib/x86_64-linux-gnu/varnish/vmods/" + vmod,
                           "/usr/lib/aarch64-linux-gnu/varnish/vmods/" + vmod});
  if (dry_run) return found;
  if (found.varnishd.empty()) {
    return Error{Errc::kNotFound, 0, "varnishd is not installed: run apt-get install varnish"};
  }
  if (found.objmapperd.empty()) {
    return Error{Errc::kNotFound, 0,
                 "objmapperd is neither beside objm (" + bin +
                     ") nor in PATH: build it with script/build release, or install it"};
  }
  if (found.vmod.empty()) {
    return Error{Errc::kNotFound, 0,
                 vmod + " is neither in " + bin +
                     "/../lib nor among Varnish's vmods: build it with script/build release"};
  }
  return found;
}

bool is_name(const std::string& name) {
  return !name.empty() && name.size() <= 32 && name.front() != '.' &&
         name.find_first_not_of(
             "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
             std::string::npos;
}

Result<void> parse_disk(Plan& plan) {
  const std::string& text = plan.options.disk;
  if (text.empty()) return {};
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    return malformed("--disk " + text + ": say which directory and how much of it, such as " +
                     "/var/lib/objmapper:20G");
  }
  const auto size = parse_size(std::string_view(text).substr(colon + 1));
  if (!size) return malformed("--disk " + text + ": " + size.error().what);
  plan.disk_directory = text.substr(0, colon);
  while (plan.disk_directory.size() > 1 && plan.disk_directory.back() == '/') {
    plan.disk_directory.pop_back();
  }
  plan.disk_bytes = *size;
  if (plan.disk_directory.front() != '/') {
    char* here = ::getcwd(nullptr, 0);
    plan.disk_directory = std::string(here != nullptr ? here : ".") + "/" + plan.disk_directory;
    std::free(here);
  }
  return {};
}

// NOLINTBEGIN(concurrency-mt-unsafe): there is one thread yet
void choose_users(Plan& plan) {
  if (::geteuid() != 0) return;
  // An own user keeps the store's files out of varnishd's reach. Without one it is varnishd's
  // worker's, and there is no isolation between the two.
  for (const char* user : {"objmapper", "vcache"}) {
    if (const passwd* entry = ::getpwnam(user)) {
      plan.uid = entry->pw_uid;
      plan.gid = entry->pw_gid;
      break;
    }
  }
  if (const group* entry = ::getgrnam("varnish"); entry != nullptr && plan.uid) {
    plan.gid = entry->gr_gid;
  }
}
// NOLINTEND(concurrency-mt-unsafe)

void choose_directories(Plan& plan) {
  const std::string tail = "objm-proxy/" + plan.name;
  const uid_t uid = ::geteuid();
  std::string unique = plan.name;
  if (uid == 0) {
    plan.directory = "/run/" + tail;
  } else {
    const char* runtime = std::getenv("XDG_RUNTIME_DIR");
    unique = std::to_string(uid) + "-" + plan.name;
    plan.directory = runtime != nullptr && ::access(runtime, W_OK) == 0
                         ? std::string(runtime) + "/" + tail
                         : "/tmp/objm-proxy-" + std::to_string(uid) + "/" + plan.name;
  }
  // /run is small on most machines (a fifth of the memory); /dev/shm is half of it.
  plan.memory_directory = "/dev/shm/objm-proxy-" + unique;
  plan.state_directory = plan.disk_directory.empty() ? plan.memory_directory + "/state"
                                                     : plan.disk_directory + "/state";
}

Result<void> copy_file(const std::string& from, const std::string& to) {
  const auto source = open_file(from, O_RDONLY);
  if (!source) return system_error("cannot read " + from);
  const std::uint64_t size = OM_TRY(file_size(source->borrow()));
  // A varnishd of an earlier run may still have the old file mapped: replace, do not overwrite.
  ::unlink(to.c_str());
  const auto target = OM_TRY(open_file(to, O_WRONLY | O_CREAT | O_EXCL, 0644));
  ::fchmod(target.raw(), 0644);
  return copy_bytes(source->borrow(), 0, target.borrow(), 0, size);
}

Result<void> write_text(const std::string& path, const std::string& text) {
  ::unlink(path.c_str());
  const auto file = OM_TRY(open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
  ::fchmod(file.raw(), 0644);
  return write_exactly(file.borrow(), 0, std::as_bytes(std::span(text)));
}

// The operator's VCL, from a pipe as well.
Result<void> copy_vcl(const std::string& from, const std::string& to) {
  const auto cannot_read = [&](const Error& error) {
    return Error{error.code, error.sys_errno, "cannot read " + from};
  };
  const auto source = open_file(from, O_RDONLY);
  if (!source) return cannot_read(source.error());
  const auto text = read_to_end(source->borrow(), kVclBytesMax + 1);
  if (!text) return cannot_read(text.error());
  if (text->size() > kVclBytesMax) {
    return malformed("--vcl " + from + " has no end after " + format_size(kVclBytesMax) +
                     ": give the path of a file with VCL subs");
  }
  return write_text(to, *text);
}

}  // namespace

Result<Plan> make_plan(const Options& options) {
  Plan plan;
  plan.options = options;
  plan.origin = OM_TRY(parse_origin(options.origin));
  plan.listen = OM_TRY(parse_listen(options.listen));
  const auto memory = parse_size(options.memory);
  if (!memory) return malformed("--memory " + options.memory + ": " + memory.error().what);
  if (*memory < kMemoryMin) {
    return malformed("--memory " + options.memory + " is too little for a cache: give at least " +
                     format_size(kMemoryMin));
  }
  plan.memory_bytes = *memory;
  // The rest is for shared objects (objm put) and the daemon's rounding.
  const std::uint64_t shared = std::clamp(*memory / 16, 8 * kMiB, 256 * kMiB);
  plan.region_bytes = (*memory - shared) / kMiB * kMiB;
  OM_TRY(parse_disk(plan));
  plan.name = options.name;
  if (plan.name.empty()) {
    plan.name = plan.listen.host.empty() ? "" : plan.listen.host + "-";
    std::replace(plan.name.begin(), plan.name.end(), ':', '_');
    plan.name += std::to_string(plan.listen.port);
  }
  if (!is_name(plan.name)) {
    return malformed("--name " + plan.name +
                     ": a name has up to 32 letters, digits, dots, dashes and underscores");
  }
  if (options.probe != "none" && (!options.probe.starts_with('/') ||
                                  options.probe.find_first_of(" \t\r\n\"") != std::string::npos)) {
    return malformed("--probe " + options.probe + ": give a URL path such as /health, or none");
  }
  if (options.host.find_first_of(" \t\r\n\"") != std::string::npos) {
    return malformed("--host " + options.host + " is no host name");
  }
  if (!options.vcl.empty() && ::access(options.vcl.c_str(), R_OK) != 0) {
    return malformed("--vcl " + options.vcl + " cannot be read (" +
                     std::strerror(errno) +  // NOLINT(concurrency-mt-unsafe)
                     "): give the path of a file with VCL subs");
  }
  plan.installation = OM_TRY(find_installation(options.dry_run));
  choose_users(plan);
  choose_directories(plan);
  if (plan.objmapper_socket().size() > 107) {
    return malformed("the path " + plan.objmapper_socket() +
                     " is too long for a Unix socket: choose a shorter --name");
  }
  auto reached = reach(plan.origin, std::chrono::seconds(2));
  if (!reached) {
    if (!options.dry_run) return std::move(reached).error();
    plan.reached.address = plan.origin.host;
  } else {
    plan.reached = *reached;
  }
  return plan;
}

std::string Plan::vcl() const {
  VclInput in;
  in.origin = origin;
  in.origin_address = reached.address;
  in.host_header = options.host;
  if (options.probe != "none") in.probe = options.probe;
  in.vmod_path = path("libvmod_objmapper.so");
  if (!options.vcl.empty()) in.user_vcl_path = path("user.vcl");
  in.objmapper_socket = objmapper_socket();
  in.memory_bytes = region_bytes;
  in.disk_bytes =
      0;  // the VMOD keeps bodies in memory; the daemon uses the disk for shared objects
  in.x_cache = !options.no_x_cache;
  return make_vcl(in);
}

std::vector<std::string> Plan::objmapperd_command() const {
  std::vector<std::string> command = {
      installation.objmapperd.empty() ? "objmapperd" : installation.objmapperd,
      // Not that of the machine's own daemon.
      "--config", "/dev/null", "--socket", objmapper_socket(), "--memory",
      std::to_string(memory_bytes), "--memory-dir", memory_directory, "--state-dir",
      state_directory};
  if (!disk_directory.empty()) {
    command.insert(command.end(),
                   {"--disk", disk_directory + "/objects:" + std::to_string(disk_bytes)});
  }
  if (gid) {
    const std::string group = std::to_string(*gid);
    command.insert(command.end(), {"--read-gid", group, "--write-gid", group});
  }
  return command;
}

std::vector<std::string> Plan::varnishd_command() const {
  // Where objects go when the store cannot take them. Small: it is memory beyond --memory.
  const std::uint64_t spare = std::clamp(memory_bytes / 8, 16 * kMiB, 256 * kMiB);
  return {installation.varnishd.empty() ? "varnishd" : installation.varnishd,
          "-F",
          "-n",
          path("varnish"),
          "-i",
          name,
          "-a",
          "http=" + listen.text(),
          "-a",
          std::string(kControlName) + "=" + control_socket() + ",mode=0600",
          "-f",
          path("proxy.vcl"),
          "-s",
          "spare=malloc," + std::to_string(spare)};
}

Result<void> prepare(const Plan& plan) {
  OM_TRY(make_store_directories(plan));
  OM_TRY(copy_file(plan.installation.vmod, plan.path("libvmod_objmapper.so")));
  if (!plan.options.vcl.empty()) OM_TRY(copy_vcl(plan.options.vcl, plan.path("user.vcl")));
  return write_text(plan.path("proxy.vcl"), plan.vcl());
}

std::string shell_line(const std::vector<std::string>& arguments) {
  std::string line;
  for (const auto& argument : arguments) {
    if (!line.empty()) line += ' ';
    const bool is_plain =
        !argument.empty() && argument.find_first_not_of(
                                 "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                 "._-/=:,+") == std::string::npos;
    if (is_plain) {
      line += argument;
      continue;
    }
    line += '\'';
    for (const char letter : argument) {
      if (letter == '\'') {
        line += "'\\''";
      } else {
        line += letter;
      }
    }
    line += '\'';
  }
  return line;
}

}  // namespace om::cli::proxy
