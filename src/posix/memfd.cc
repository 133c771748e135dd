#include "posix/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "posix/file.h"

namespace om {

Result<UniqueFd> make_memfd(const char* name, std::uint64_t length) {
  auto memfd = UniqueFd::adopt(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memfd) return system_error("make an anonymous file");
  if (::fchmod(memfd.raw(), 0600) != 0) return system_error("set the mode of an anonymous file");
  OM_TRY(resize(memfd.borrow(), length));
  return memfd;
}

Result<void> seal_length(BorrowedFd memfd) {
  if (::fcntl(memfd.raw(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    return system_error("seal the length of an anonymous file");
  return {};
}

}  // namespace om
