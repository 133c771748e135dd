#include "posix/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <memory>

namespace om {

Error file_error(std::string what) {
  const int reason = errno;
  const bool full = reason == ENOSPC || reason == EDQUOT;
  return {full ? Errc::kNoSpace : Errc::kSystem, reason, std::move(what)};
}

Result<UniqueFd> open_file(const std::string& path, int flags, mode_t mode) {
  while (true) {
    if (auto file = UniqueFd::adopt(::open(path.c_str(), flags | O_CLOEXEC, mode))) return file;
    if (errno != EINTR) return file_error("open " + path);
  }
}

Result<UniqueFd> open_at(BorrowedFd directory, const std::string& name, int flags, mode_t mode) {
  while (true) {
    if (auto file =
            UniqueFd::adopt(::openat(directory.raw(), name.c_str(), flags | O_CLOEXEC, mode)))
      return file;
    if (errno != EINTR) return file_error("open " + name);
  }
}

Result<UniqueFd> reopen(BorrowedFd file, int flags) {
  return open_file("/proc/self/fd/" + std::to_string(file.raw()), flags);
}

Result<UniqueFd> duplicate(BorrowedFd file) {
  auto copy = UniqueFd::adopt(::fcntl(file.raw(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return system_error("duplicate a descriptor");
  return copy;
}

Result<UniqueFd> open_directory(const std::string& path, mode_t mode) {
  for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (::mkdir(part.c_str(), slash == std::string::npos ? mode : 0755) != 0 && errno != EEXIST)
      return file_error("make the directory " + part);
    if (slash == std::string::npos) break;
  }
  return open_file(path, O_RDONLY | O_DIRECTORY);
}

Result<UniqueFd> open_directory_at(BorrowedFd directory, const std::string& name, mode_t mode) {
  if (::mkdirat(directory.raw(), name.c_str(), mode) != 0 && errno != EEXIST)
    return file_error("make the directory " + name);
  return open_at(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

Result<std::size_t> read_some(BorrowedFd file, std::uint64_t offset, std::span<std::byte> bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::pread(file.raw(), bytes.data() + done, bytes.size() - done,
                              static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error("read");
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return done;
}

Result<void> read_exactly(BorrowedFd file, std::uint64_t offset, std::span<std::byte> bytes) {
  if (OM_TRY(read_some(file, offset, bytes)) != bytes.size())
    return Error{Errc::kCorrupt, 0, "a file ends before the bytes it should have"};
  return {};
}

Result<std::string> read_to_end(BorrowedFd file, std::size_t most) {
  constexpr std::size_t kPiece = std::size_t{64} * 1024;
  std::string text;
  while (text.size() < most) {
    const std::size_t done = text.size();
    const std::size_t piece = std::min(kPiece, most - done);
    text.resize(done + piece);
    const ssize_t n = ::read(file.raw(), text.data() + done, piece);
    const int reason = errno;
    text.resize(done + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0 && reason == EINTR) continue;
    if (n < 0) return Error{Errc::kSystem, reason, "read"};
    if (n == 0) break;
  }
  return text;
}

Result<void> write_exactly(BorrowedFd file, std::uint64_t offset,
                           std::span<const std::byte> bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::pwrite(file.raw(), bytes.data() + done, bytes.size() - done,
                               static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return file_error("write");
    // Nobody says why: errno is of something else.
    if (n == 0) return Error{Errc::kSystem, EIO, "write"};
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Result<void> copy_bytes(BorrowedFd from, std::uint64_t from_offset, BorrowedFd to,
                        std::uint64_t to_offset, std::uint64_t length, bool* source_failed) {
  auto source = static_cast<off64_t>(from_offset);
  auto target = static_cast<off64_t>(to_offset);
  while (length > 0) {
    const ssize_t n = ::copy_file_range(from.raw(), &source, to.raw(), &target, length, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;  // another file system, or an end that read_exactly reports
    length -= static_cast<std::uint64_t>(n);
  }
  if (length == 0) return {};
  const std::size_t room = std::size_t{1} << 20;
  const auto buffer = std::make_unique<std::byte[]>(std::min<std::uint64_t>(room, length));
  while (length > 0) {
    const std::span<std::byte> part(buffer.get(), std::min<std::uint64_t>(room, length));
    if (auto read = read_exactly(from, static_cast<std::uint64_t>(source), part); !read) {
      if (source_failed != nullptr) *source_failed = true;
      return read;
    }
    OM_TRY(write_exactly(to, static_cast<std::uint64_t>(target), part));
    source += static_cast<off64_t>(part.size());
    target += static_cast<off64_t>(part.size());
    length -= part.size();
  }
  return {};
}

Result<void> allocate(BorrowedFd file, std::uint64_t offset, std::uint64_t length) {
  if (length == 0) return {};
  while (::fallocate(file.raw(), 0, static_cast<off_t>(offset), static_cast<off_t>(length)) != 0)
    if (errno != EINTR) return file_error("reserve " + std::to_string(length) + " bytes");
  return {};
}

Result<void> resize(BorrowedFd file, std::uint64_t length) {
  while (::ftruncate(file.raw(), static_cast<off_t>(length)) != 0)
    if (errno != EINTR) return file_error("set a file's length");
  return {};
}

Result<std::uint64_t> file_size(BorrowedFd file) {
  struct stat status {};
  if (::fstat(file.raw(), &status) != 0) return system_error("look at a file");
  return static_cast<std::uint64_t>(status.st_size);
}

Result<void> sync_data(BorrowedFd file) {
  while (::fdatasync(file.raw()) != 0)
    if (errno != EINTR) return file_error("sync a file");
  return {};
}

Result<void> remove_at(BorrowedFd directory, const std::string& name) {
  if (::unlinkat(directory.raw(), name.c_str(), 0) != 0 && errno != ENOENT)
    return file_error("remove " + name);
  return {};
}

Result<void> remove_tree(BorrowedFd directory, const std::string& name) {
  if (::unlinkat(directory.raw(), name.c_str(), 0) == 0 || errno == ENOENT) return {};
  if (errno != EISDIR) return file_error("remove " + name);
  {
    const auto inner = OM_TRY(open_at(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    for (const auto& below : OM_TRY(list_directory(inner.borrow())))
      OM_TRY(remove_tree(inner.borrow(), below));
  }
  if (::unlinkat(directory.raw(), name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT)
    return file_error("remove " + name);
  return {};
}

Result<void> rename_at(BorrowedFd directory, const std::string& from, const std::string& to) {
  if (::renameat(directory.raw(), from.c_str(), directory.raw(), to.c_str()) != 0)
    return file_error("rename " + from + " to " + to);
  return {};
}

Result<std::vector<std::string>> list_directory(BorrowedFd directory) {
  // A description of its own: fdopendir(3) takes it over, and its position is not the caller's.
  auto own = OM_TRY(open_at(directory, ".", O_RDONLY | O_DIRECTORY));
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(own.raw()), &::closedir);
  if (!stream) return system_error("list a directory");
  (void)own.release();
  std::vector<std::string> names;
  while (true) {
    errno = 0;  // each time: what we do with a name may leave something there
    const dirent* const entry =
        ::readdir(stream.get());  // NOLINT(concurrency-mt-unsafe): the stream is ours
    if (entry == nullptr) break;
    const std::string name = static_cast<const char*>(entry->d_name);
    if (name != "." && name != "..") names.push_back(name);
  }
  if (errno != 0) return system_error("list a directory");
  return names;
}

Result<Space> file_system_space(BorrowedFd file) {
  struct statvfs status {};
  if (::fstatvfs(file.raw(), &status) != 0) return system_error("ask for a file system's space");
  return Space{status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize};
}

bool is_tmpfs(BorrowedFd file) {
  struct statfs status {};
  return ::fstatfs(file.raw(), &status) == 0 && status.f_type == TMPFS_MAGIC;
}

void spread_subdirectories(BorrowedFd directory) {
  int flags = 0;  // as chattr +T
  if (::ioctl(directory.raw(), FS_IOC_GETFLAGS, &flags) != 0 || (flags & FS_TOPDIR_FL) != 0) return;
  flags |= FS_TOPDIR_FL;
  (void)::ioctl(directory.raw(), FS_IOC_SETFLAGS, &flags);
}

Result<std::string> boot_id() {
  const auto file = OM_TRY(open_file("/proc/sys/kernel/random/boot_id", O_RDONLY));
  std::array<std::byte, 64> text{};
  const std::size_t n = OM_TRY(read_some(file.borrow(), 0, text));
  std::string id(reinterpret_cast<const char*>(text.data()), n);
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

}  // namespace om
