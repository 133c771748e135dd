#include "posix/mapping.h"

#include <sys/mman.h>

namespace om {

Result<Mapping> Mapping::of(BorrowedFd file, std::uint64_t offset, std::size_t length,
                            Access access) {
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  void* data =
      ::mmap(nullptr, length, protection, MAP_SHARED, file.raw(), static_cast<off_t>(offset));
  if (data == MAP_FAILED) return system_error("map " + std::to_string(length) + " bytes");
  (void)::madvise(data, length, MADV_DONTDUMP);
  return Mapping(static_cast<std::byte*>(data), length);
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace om
