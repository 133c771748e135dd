// ban_ahead: a ban from another time in the log of a region, as a varnishd with another clock would
// have left it.
//
//   ban_ahead FILE SECONDS     FILE: of the region, which nobody uses; SECONDS from now
#include <fcntl.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "posix/file.h"
#include "posix/mapping.h"
#include "region/ban_log.h"
#include "region/format.h"

namespace {

void put_big_endian(std::byte* at, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) at[i] = static_cast<std::byte>(value >> (8 * (bytes - 1 - i)));
}

}  // namespace

int main(int argc, char** argv) {
  using namespace om;
  if (argc != 3) {
    (void)std::fprintf(stderr, "ban_ahead FILE SECONDS\n");
    return 2;
  }
  const UniqueFd file = UniqueFd::adopt(::open(argv[1], O_RDWR | O_CLOEXEC));
  const auto size = file_size(file.borrow());
  auto mapping = size ? Mapping::of(file.borrow(), 0, *size, Access::kReadWrite)
                      : Result<Mapping>(size.error());
  if (!mapping) {
    (void)std::fprintf(stderr, "ban_ahead: %s\n", describe(mapping.error()).c_str());
    return 1;
  }
  auto* header = reinterpret_cast<region::RegionHeader*>(mapping->data());
  const auto now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch() +
                                    std::chrono::seconds(std::strtol(argv[2], nullptr, 10)));
  // As Varnish writes one: time, length, flags, a test. This one has none left.
  std::vector<std::byte> spec(16);
  put_big_endian(spec.data(), std::bit_cast<std::uint64_t>(now.count()), 8);
  put_big_endian(spec.data() + 8, spec.size(), 4);
  spec[12] = std::byte{4};  // BANS_FLAG_COMPLETED
  region::BanLog log(header, mapping->data() + header->ban_log_offset, header->ban_log_bytes);
  return log.append(region::BanEvent::kNew, spec) ? 0 : 1;
}
