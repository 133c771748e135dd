// Any bytes as a journal file, and as an object: the parsers answer, and what they accept is
// written back as it came.
#include <cstdlib>
#include <string>
#include <vector>

#include "store/catalog/journal.h"
#include "store/catalog/record.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace om::catalog;  // NOLINT(google-build-using-namespace)
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  if (const auto record = decode_record(bytes)) {
    std::string again;
    encode_record(*record, again);
    if (again != std::string(reinterpret_cast<const char*>(data), size)) std::abort();
  }
  std::uint64_t last = 0;
  const auto visit = [&](const ScannedEntry& entry) {
    if (entry.header.sequence <= last) std::abort();
    last = entry.header.sequence;
    (void)decode_record(entry.payload);
  };
  const auto scan = scan_journal(bytes, visit);
  if (scan.end > size) std::abort();
  // A fuzzer does not find checksums: give it a valid file header, and entries made of its bytes
  // that were then cut or changed.
  static std::vector<std::byte> header = [] {
    FileHeader head{kJournalMagic, kJournalVersion, sizeof(FileHeader), 1, 1, 0, 1, 2, 0};
    head.checksum =
        om::checksum({reinterpret_cast<const std::byte*>(&head), offsetof(FileHeader, checksum)});
    const auto* begin = reinterpret_cast<const std::byte*>(&head);
    return std::vector<std::byte>(begin, begin + sizeof head);
  }();
  std::vector<std::byte> file = header;
  file.insert(file.end(), bytes.begin(), bytes.end());
  last = 0;
  if (const auto with_header = scan_journal(file, visit);
      !with_header.header_valid || with_header.end + with_header.torn_bytes != file.size()) {
    std::abort();
  }
  return 0;
}
