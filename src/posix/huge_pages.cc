#include "posix/huge_pages.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <array>
#include <fstream>
#include <sstream>

#include "base/units.h"
#include "posix/file.h"

namespace om {

namespace {

constexpr std::uint64_t kSmallPage = 4096;

// The huge= option of the mount with this device number; empty: none, or not a tmpfs.
std::string huge_option(dev_t device) {
  const std::string number = std::to_string(major(device)) + ":" + std::to_string(minor(device));
  std::ifstream mounts("/proc/self/mountinfo");
  std::string line;
  while (std::getline(mounts, line)) {
    std::istringstream words(line);
    std::string id, parent, where;
    if (!(words >> id >> parent >> where) || where != number) continue;
    const std::size_t at = line.find("huge=");
    return at == std::string::npos ? "" : line.substr(at, line.find_first_of(", ", at) - at);
  }
  return "";
}

// linux/fs.h of 6.7 and later; older headers have none of it.
struct ScanArguments {
  std::uint64_t size = sizeof(ScanArguments);
  std::uint64_t flags = 0;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t walk_end = 0;
  std::uint64_t vec = 0;
  std::uint64_t vec_len = 0;
  std::uint64_t max_pages = 0;
  std::uint64_t category_inverted = 0;
  std::uint64_t category_mask = 0;
  std::uint64_t category_anyof_mask = 0;
  std::uint64_t return_mask = 0;
};
struct ScanRegion {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t categories = 0;
};
constexpr unsigned long kScan = _IOWR('f', 16, ScanArguments);
constexpr std::uint64_t kIsHuge = 1 << 6;

}  // namespace

std::string page_kind_of(BorrowedFd directory_or_file) {
  struct stat status {};
  if (::fstat(directory_or_file.raw(), &status) != 0) return "unknown";
  const std::string option = huge_option(status.st_dev);
  // tmpfs says by its block size whether the kernel will try huge pages, all settings considered.
  const auto block = static_cast<std::uint64_t>(status.st_blksize);
  const std::string kind = block > kSmallPage ? "huge (" + format_size(block) + ")" : "4 KiB";
  return option.empty() ? kind : kind + ", " + option;
}

Result<std::uint64_t> huge_bytes_of(std::span<const std::byte> mapping) {
  const UniqueFd pagemap = OM_TRY(open_file("/proc/self/pagemap", O_RDONLY));
  std::array<ScanRegion, 64> regions{};
  ScanArguments arguments;
  arguments.start = reinterpret_cast<std::uintptr_t>(mapping.data());
  arguments.end = arguments.start + mapping.size();
  arguments.category_mask = kIsHuge;
  arguments.return_mask = kIsHuge;
  std::uint64_t bytes = 0;
  while (arguments.start < arguments.end) {
    arguments.vec = reinterpret_cast<std::uintptr_t>(regions.data());
    arguments.vec_len = regions.size();
    const int count = ::ioctl(pagemap.raw(), kScan, &arguments);
    if (count < 0) return Error{Errc::kUnsupported, errno, "scan the pages of a mapping"};
    for (int i = 0; i < count; ++i)
      bytes +=
          regions[static_cast<std::size_t>(i)].end - regions[static_cast<std::size_t>(i)].start;
    if (arguments.walk_end <= arguments.start) break;
    arguments.start = arguments.walk_end;
  }
  return bytes;
}

}  // namespace om
