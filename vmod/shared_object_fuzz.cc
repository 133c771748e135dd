// Any bytes as the metadata of a shared object: no crash, and what is accepted is encoded to the
// same bytes. Checksums rarely come right by chance, so they are also made right.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/checksum.h"
#include "shared_object.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace om::vmod;
  const auto check = [](const std::string& bytes) {
    const auto metadata = shared::decode(bytes);
    if (!metadata) return;
    const auto again = shared::encode(*metadata);
    // Longer than the store takes may be decoded; it never comes from there.
    if (again && *again != bytes) std::abort();
  };
  const std::string given(reinterpret_cast<const char*>(data), size);
  check(given);
  if (size >= 2) {
    const std::uint64_t sum = om::checksum(std::as_bytes(std::span(given)));
    std::string made("OMSH\x01\0", 6);
    made += given.substr(0, 2);
    made.append(reinterpret_cast<const char*>(&sum), sizeof sum);
    made += given.substr(2);
    check(made);
  }
  if (const auto names = shared::parse_vary(given)) {
    const auto fields =
        shared::select(*names, [&](std::string_view) { return std::optional(given); });
    if (fields.size() != names->size()) std::abort();
    (void)shared::variant_key("k", fields);
  }
  shared::Metadata validators;
  validators.headers = {"ETag: " + given.substr(0, size / 2), "Last-Modified: x"};
  (void)shared::not_modified(validators, std::string_view(given).substr(size / 2), std::nullopt,
                             [](std::string_view) { return 1.0; });
  return 0;
}
