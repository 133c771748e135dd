// Any bytes as a ban of Varnish's list: no crash; what is taken for one says the same after it was
// renewed, and renewing it again changes nothing. Lengths rarely come right by chance, so they are
// also made right.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "ban_expression.h"

namespace {

using Spec = std::vector<std::byte>;

void check(std::span<const std::byte> spec) {
  using namespace om::vmod;
  const ExportPattern compiled = [](const std::string& pattern) { return "compiled:" + pattern; };
  const auto tests = tests_of_spec(spec);
  const auto renewed = renew_spec(spec, compiled);
  if (tests && !renewed) std::abort();
  if (renewed) {
    if (tests_of_spec(*renewed) != tests) std::abort();
    const auto again = renew_spec(*renewed, compiled);
    if (!again || *again != *renewed) std::abort();
  }
  const auto refused = renew_spec(spec, [](const std::string&) { return std::string(); });
  if (refused && !renewed) std::abort();
  if (const auto completed = completed_spec(spec)) {
    if (tests_of_spec(*completed)) std::abort();
    if (completed_spec(*completed) != completed) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Spec spec(size);
  for (std::size_t i = 0; i < size; ++i) spec[i] = std::byte{data[i]};
  check(spec);
  // At 8, big-endian; flags follow.
  if (size < 16) return 0;
  for (std::size_t i = 0; i < 4; ++i) spec[8 + i] = static_cast<std::byte>(size >> (24 - 8 * i));
  check(spec);
  spec[12] &= ~std::byte{4};  // not completed
  check(spec);
  return 0;
}
