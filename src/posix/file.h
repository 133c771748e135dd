// Files: whole reads and writes that do not stop half way, space, names.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "posix/unique_fd.h"

namespace om {

// open(2) with O_CLOEXEC added.
Result<UniqueFd> open_file(const std::string& path, int flags, mode_t mode = 0600);
Result<UniqueFd> open_at(BorrowedFd directory, const std::string& name, int flags,
                         mode_t mode = 0600);
// A second open file description of the same file, with its own access mode: what a reader is sent.
Result<UniqueFd> reopen(BorrowedFd file, int flags);
Result<UniqueFd> duplicate(BorrowedFd file);
// A directory, made with its parents where they are missing.
Result<UniqueFd> open_directory(const std::string& path, mode_t mode = 0700);
// One in another directory, made where it is missing. A symbolic link in its place is an error.
Result<UniqueFd> open_directory_at(BorrowedFd directory, const std::string& name,
                                   mode_t mode = 0700);

// All of it, or an error; a file that ends early is kCorrupt. EINTR and short calls are dealt with.
Result<void> read_exactly(BorrowedFd file, std::uint64_t offset, std::span<std::byte> bytes);
// As much as there is.
Result<std::size_t> read_some(BorrowedFd file, std::uint64_t offset, std::span<std::byte> bytes);
// From where it stands to its end, of a pipe as well; no more than `most` bytes.
Result<std::string> read_to_end(BorrowedFd file, std::size_t most);
Result<void> write_exactly(BorrowedFd file, std::uint64_t offset, std::span<const std::byte> bytes);
// Copies with copy_file_range(2) where the file systems do, else through a buffer of 1 MiB.
// When it fails, `source_failed` (if given) says which of the two was at fault.
Result<void> copy_bytes(BorrowedFd from, std::uint64_t from_offset, BorrowedFd to,
                        std::uint64_t to_offset, std::uint64_t length,
                        bool* source_failed = nullptr);
// Blocks on disk for [offset, offset + length): ENOSPC is kNoSpace, and so is EDQUOT.
Result<void> allocate(BorrowedFd file, std::uint64_t offset, std::uint64_t length);
Result<void> resize(BorrowedFd file, std::uint64_t length);
Result<std::uint64_t> file_size(BorrowedFd file);
Result<void> sync_data(BorrowedFd file);
// nullopt-like: removing what is not there is no error.
Result<void> remove_at(BorrowedFd directory, const std::string& name);
// Whatever it is, with all that lies in it. Symbolic links are removed and not followed, also those
// that somebody puts in a directory's place meanwhile.
Result<void> remove_tree(BorrowedFd directory, const std::string& name);
Result<void> rename_at(BorrowedFd directory, const std::string& from, const std::string& to);
// Names in a directory but "." and "..", unordered.
Result<std::vector<std::string>> list_directory(BorrowedFd directory);
struct Space {
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;  // for this user
};
Result<Space> file_system_space(BorrowedFd file);
bool is_tmpfs(BorrowedFd file);
// Directories that are made in this one from now on are to lie apart on the disk, where the file
// system can be told (ext4: in block groups of their own). Otherwise files that are made and
// removed all the time share one group, and its search for a free inode looks at all that were
// removed lately: 1 ms for each new file on an ext4 without journal.
void spread_subdirectories(BorrowedFd directory);
// /proc/sys/kernel/random/boot_id: another text after every boot.
Result<std::string> boot_id();
// ENOSPC and EDQUOT as kNoSpace, anything else as kSystem.
Error file_error(std::string what);

}  // namespace om
