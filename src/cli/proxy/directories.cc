#include "cli/proxy/directories.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "base/units.h"
#include "posix/file.h"
#include "posix/range_lock.h"

namespace om::cli::proxy {
namespace {

constexpr std::uint64_t kShownBytes = 1ULL << 20U;
constexpr char kAnotherName[] = "choose another --name";
constexpr char kAnotherDisk[] = "choose another directory for --disk";

// Who has a directory: we, or objmapperd's user.
enum class For { kUs, kStore };

// A directory with its parents; its own name is no link.
Result<UniqueFd> open_no_link(const std::string& path, mode_t mode) {
  const auto slash = path.rfind('/');
  const UniqueFd parent = OM_TRY(open_directory(path.substr(0, slash), 0755));
  return open_directory_at(parent.borrow(), path.substr(slash + 1), mode);
}

// The directory that was opened at `path`, if it is nobody else's.
Result<UniqueFd> checked(Result<UniqueFd> opened, const std::string& path, const Plan& plan,
                         For whom, const std::string& advice) {
  if (!opened) {
    const int reason = opened.error().sys_errno;
    if (reason == ENOTDIR || reason == ELOOP) {
      return Error{Errc::kDenied, reason,
                   path + " is no directory, but a link or a file: " + advice};
    }
    return Error{Errc::kDenied, reason,
                 "cannot make the directory " + path + " (" +
                     std::strerror(reason) +  // NOLINT(concurrency-mt-unsafe)
                     "): make it yourself, or choose another user or place"};
  }
  struct stat info {};
  if (::fstat(opened->raw(), &info) != 0) return system_error("stat " + path);
  const bool is_ours =
      info.st_uid == ::geteuid() || (whom == For::kStore && plan.uid == info.st_uid);
  if (!is_ours) {
    return Error{Errc::kDenied, 0, path + " belongs to another user: " + advice};
  }
  return opened;
}

Result<void> hand_over(const UniqueFd& directory, const std::string& path, const Plan& plan) {
  if (plan.uid && ::fchown(directory.raw(), *plan.uid, *plan.gid) != 0) {
    return system_error("chown " + path);
  }
  return {};
}

// Takes the lock that an objmapperd holds on the catalog in its state directory. None: no
// objmapperd has ever used that directory.
Result<UniqueFd> lock_catalog(const UniqueFd& state, const std::string& path,
                              const std::string& advice) {
  const auto catalog = open_at(state.borrow(), "catalog", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!catalog) return UniqueFd();
  auto lock = open_at(catalog->borrow(), "lock", O_RDWR | O_NOFOLLOW);
  if (!lock) return UniqueFd();
  if (!OM_TRY(lock_range_exclusive(lock->borrow(), 0, 1))) {
    return Error{Errc::kBusy, 0,
                 "an objmapperd is running with " + path + ": stop it, or " + advice};
  }
  return lock;
}

bool has(const UniqueFd& directory, const char* name) {
  struct stat info {};
  return ::fstatat(directory.raw(), name, &info, AT_SYMLINK_NOFOLLOW) == 0;
}

Result<void> remove_all_but(const UniqueFd& directory, const char* kept) {
  for (const auto& name : OM_TRY(list_directory(directory.borrow()))) {
    if (name != kept) OM_TRY(remove_tree(directory.borrow(), name));
  }
  return {};
}

// What is there already from an earlier run counts as room.
std::uint64_t used_bytes(BorrowedFd directory) {
  const auto names = list_directory(directory);
  if (!names) return 0;
  std::uint64_t sum = 0;
  for (const auto& name : *names) {
    struct stat info {};
    if (::fstatat(directory.raw(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    sum += static_cast<std::uint64_t>(info.st_blocks) * 512;
    if (!S_ISDIR(info.st_mode)) continue;
    const auto inner = open_at(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (inner) sum += used_bytes(inner->borrow());
  }
  return sum;
}

Result<void> check_room(const std::string& path, std::uint64_t room, std::uint64_t wanted,
                        const std::string& flag, const std::string& advice) {
  if (room >= wanted) return {};
  return Error{Errc::kNoSpace, 0,
               path + " has room for " + format_size(room / kShownBytes * kShownBytes) + ", and " +
                   flag + " asks for " + format_size(wanted) + ": ask for less, or " + advice};
}

Result<void> make_memory_directory(const Plan& plan) {
  const std::string& path = plan.memory_directory;
  const UniqueFd memory =
      OM_TRY(checked(open_no_link(path, 0700), path, plan, For::kStore, kAnotherName));
  if (plan.options.discard) {
    // The state of a run without --disk.
    UniqueFd lock;
    const auto state = open_at(memory.borrow(), "state", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (state) lock = OM_TRY(lock_catalog(*state, path + "/state", kAnotherName));
    OM_TRY(remove_all_but(memory, ""));
  }
  OM_TRY(hand_over(memory, path, plan));
  const Space space = OM_TRY(file_system_space(memory.borrow()));
  OM_TRY(check_room(path, space.free_bytes + used_bytes(memory.borrow()), plan.memory_bytes,
                    "--memory", "enlarge it (mount -o remount,size=... /dev/shm)"));
  if (!plan.disk_directory.empty()) return {};
  const UniqueFd state = OM_TRY(checked(open_directory_at(memory.borrow(), "state"),
                                        plan.state_directory, plan, For::kStore, kAnotherName));
  return hand_over(state, plan.state_directory, plan);
}

// Whose are DIR/objects and DIR/state? Our objmapperd makes its catalog in the one before it marks
// the other with a disk-id. Objects beside no catalog are those of another one, and ours would
// remove them as what no record names.
Result<void> check_marks(const Plan& plan, const UniqueFd& objects, const UniqueFd& state,
                         bool has_catalog) {
  // A first start that was cut off may have left these.
  if (!has_catalog) (void)::unlinkat(state.raw(), "catalog", AT_REMOVEDIR);
  const bool is_marked = has_catalog && has(objects, "disk-id");
  for (const auto& name : OM_TRY(list_directory(objects.borrow()))) {
    if (is_marked || name == "disk-id.new") continue;
    return Error{
        Errc::kDenied, 0,
        plan.disk_directory + "/objects has files that are not this proxy's: " + kAnotherDisk};
  }
  if (has_catalog || OM_TRY(list_directory(state.borrow())).empty()) return {};
  return Error{Errc::kDenied, 0,
               plan.state_directory + " has files that are not objmapper's: " + kAnotherDisk};
}

// With the catalog's lock, and the marks checked. What carries the mark goes last, or stays: a
// discard that is cut off can be done again.
Result<void> discard_disk(const UniqueFd& objects, const UniqueFd& state) {
  for (const char* name : {"objects", "packs", "regions", "disk-id.new", "disk-id"}) {
    OM_TRY(remove_tree(objects.borrow(), name));
  }
  for (const char* name : {"removals", "next-object", "next-object.new"}) {
    OM_TRY(remove_tree(state.borrow(), name));
  }
  const UniqueFd catalog =
      OM_TRY(open_at(state.borrow(), "catalog", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  return remove_all_but(catalog, "lock");
}

Result<void> make_disk_directories(const Plan& plan) {
  const std::string& path = plan.disk_directory;
  const std::string objects_path = path + "/objects";
  // The operator's own choice, which may well be a link.
  const UniqueFd disk =
      OM_TRY(checked(open_directory(path, 0755), path, plan, For::kUs, kAnotherDisk));
  const UniqueFd objects = OM_TRY(checked(open_directory_at(disk.borrow(), "objects"), objects_path,
                                          plan, For::kStore, kAnotherDisk));
  const UniqueFd state = OM_TRY(checked(open_directory_at(disk.borrow(), "state"),
                                        plan.state_directory, plan, For::kStore, kAnotherDisk));
  const UniqueFd lock = OM_TRY(lock_catalog(state, plan.state_directory, kAnotherDisk));
  OM_TRY(check_marks(plan, objects, state, static_cast<bool>(lock)));
  if (plan.options.discard && lock) OM_TRY(discard_disk(objects, state));
  OM_TRY(hand_over(objects, objects_path, plan));
  OM_TRY(hand_over(state, plan.state_directory, plan));
  const Space space = OM_TRY(file_system_space(objects.borrow()));
  return check_room(path,
                    space.free_bytes + used_bytes(objects.borrow()) + used_bytes(state.borrow()),
                    plan.disk_bytes, "--disk", "choose another directory");
}

}  // namespace

Result<void> make_runtime_directory(const Plan& plan) {
  const auto slash = plan.directory.rfind('/');
  const std::string parent = plan.directory.substr(0, slash);
  const UniqueFd above = OM_TRY(checked(open_no_link(parent, 0755), parent, plan, For::kUs,
                                        "set XDG_RUNTIME_DIR to a directory of your own"));
  const UniqueFd own =
      OM_TRY(checked(open_directory_at(above.borrow(), plan.directory.substr(slash + 1), 0755),
                     plan.directory, plan, For::kUs, kAnotherName));
  return {};
}

Result<void> make_store_directories(const Plan& plan) {
  OM_TRY(make_memory_directory(plan));
  if (!plan.disk_directory.empty()) OM_TRY(make_disk_directories(plan));
  const std::string path = plan.path("store");
  const UniqueFd store =
      OM_TRY(checked(open_no_link(path, 0755), path, plan, For::kStore, kAnotherName));
  return hand_over(store, path, plan);
}

}  // namespace om::cli::proxy
