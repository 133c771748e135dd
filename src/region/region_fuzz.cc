// Arbitrary bytes as a region. Raw bytes rarely get past a checksum, so the input is also read as a
// list of stores into a good region, after which checksums may be made right again: as a wrong
// writer would leave it. One record's body lies in a file. Whatever comes of it: no crash, a sound
// allocator, lists that end.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "region/list.h"
#include "region/testing.h"

namespace om::region {
namespace {

using namespace testing;

constexpr std::uint64_t kSize = kRegionBytesMin;

// The directory of bodies; it goes with the process, as far as it can.
const std::string& directory() {
  // Never destroyed: the handler runs after what is.
  static const auto* path = [] {
    char made[] = "/tmp/om-region-fuzz.XXXXXX";
    OM_ASSERT(::mkdtemp(made) != nullptr);
    std::atexit([] {
      if (std::system(("rm -rf " + directory()).c_str()) != 0) std::abort();
    });
    return new std::string(made);
  }();
  return *path;
}

std::unique_ptr<BodyFiles> open_files() {
  auto files =
      BodyFiles::open(*open_file(directory(), O_RDONLY | O_DIRECTORY), {.capacity = 65536});
  OM_ASSERT(files.has_value());
  return *std::move(files);
}

// The one file, under its name and under one that the region does not know.
FileRef the_file;
std::string kept_name() { return directory() + "/kept"; }
std::string body_name() { return directory() + "/" + BodyFiles::name_of(the_file.number); }

const UniqueFd& pristine() {
  static const UniqueFd file = [] {
    UniqueFd made = make_region_file(kSize);
    auto region = open_region(made, kSize);
    region->use_files(open_files());
    Record* in_file = make_object(*region, {.id = 5, .body = 0, .with_checksum = false});
    in_file->magic.store(0);
    auto body = region->files()->create(500);
    OM_ASSERT(body.has_value());
    OM_ASSERT(region->files()->write(**body, 0, std::vector<std::byte>(500)).has_value());
    OM_ASSERT(region->files()->finish(*body, 500).has_value());
    the_file = (*body)->ref();
    region->attach_file(*in_file, the_file);
    region->seal(*in_file);
    OM_ASSERT(region->publish(*in_file));
    OM_ASSERT(::link(body_name().c_str(), kept_name().c_str()) == 0);
    Record* lent = make_object(*region, {.id = 6, .body = 0, .with_checksum = false});
    lent->magic.store(0);
    OM_ASSERT(region->attach_lent(*lent, {"http://example.org/lent#0", 7, 600'000, 8}));
    region->seal(*lent);
    OM_ASSERT(region->publish(*lent));
    for (std::uint64_t id = 1; id <= 4; ++id) {
      Record* record = make_object(*region, {.id = id, .body = 900, .extent_max = 256, .esi = 70});
      OM_ASSERT(region->publish(*record));
    }
    return made;
  }();
  return file;
}

struct Op {
  std::uint8_t kind;
  std::uint8_t shift;
  std::uint16_t where;
  std::uint32_t value;
};

// Where stores go: what a record number, and an offset within, mean.
void apply(const UniqueFd& file, const Op& op) {
  const auto mapping = Mapping::of(file.borrow(), 0, kSize, Access::kReadWrite);
  OM_ASSERT(mapping.has_value());
  std::byte* base = mapping->data();
  auto* header = reinterpret_cast<RegionHeader*>(base);
  const std::uint64_t heap = layout_for(kSize).heap_offset;
  const std::uint64_t record_at = heap + std::uint64_t{op.where} % 512 * kGranule;
  auto* record = reinterpret_cast<Record*>(base + record_at);
  const std::uint64_t value = std::uint64_t{op.value} << (op.shift % 64);
  switch (op.kind % 6) {
    case 0: std::memcpy(base + op.where % (sizeof(RegionHeader) - 8), &value, 8); break;
    case 1: std::memcpy(base + heap + op.where, &value, 8); break;
    case 2: base[heap + op.where] = static_cast<std::byte>(op.value); break;
    case 3:
      if (record->record_bytes >= sizeof(Record) && record->record_bytes < 4096) {
        seal_record(*record);
      }
      break;
    case 4: header->checksum = header_checksum(*header); break;
    default: {
      const std::uint64_t page = decode_pointer(header->index_root.load());
      if (page >= heap && page <= kSize - kIndexPageBytesSmall) {
        auto* index = reinterpret_cast<IndexPage*>(base + page);
        if (op.shift % 2 == 0) {
          index->checksum = index_page_checksum(*index);
        } else {
          reinterpret_cast<Word*>(index + 1)[op.where % 500].store(encode_pointer(record_at));
        }
      }
    }
  }
}

void use(const UniqueFd& file, bool with_files) {
  (void)list_objects(file.borrow(), [](const ListedObject& object) {
    volatile std::size_t sum = object.url.size() + object.host.size();
    for (const char c : object.url) sum = sum + static_cast<unsigned char>(c);
    return true;
  });
  auto opened = try_open(file, kSize);
  if (!opened) return;
  Region& region = **opened;
  if (with_files) {
    (void)::link(kept_name().c_str(), body_name().c_str());
    region.use_files(open_files());
  }
  (void)region.bans().load();
  if (!region.formatted()) {
    const ScanReport report = region.scan();
    for (const auto& candidate : report.candidates) {
      if (const auto lent = region.lent(*candidate.record)) {
        volatile std::size_t sum = 0;
        for (const char c : lent->key) sum = sum + static_cast<unsigned char>(c);
      } else {
        (void)region.verify_body(*candidate.record);
      }
      (void)variable(*candidate.record, Variable::kVary);
    }
    region.finish_scan(slots_of(report));
    OM_ASSERT(region.allocator().check());
    for (const auto& candidate : report.candidates) region.destroy(candidate.record);
  }
  if (Record* record = make_object(region, {.id = 9})) {
    OM_ASSERT(region.publish(*record));
    OM_ASSERT(read_object(region, *record).has_value());
    region.destroy(record);
  }
  OM_ASSERT(region.allocator().check());
}

}  // namespace
}  // namespace om::region

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace om;
  using namespace om::region;
  if (size == 0) return 0;
  static const UniqueFd file = make_region_file(kSize);
  if (data[0] % 8 == 1) {
    const auto* bytes = reinterpret_cast<const std::byte*>(data);
    (void)parse_snapshot({bytes + 1, bytes + size});
  }
  if (data[0] % 8 == 0) {
    const std::size_t length = std::min<std::size_t>(size - 1, 65536);
    OM_ASSERT(copy_bytes(pristine().borrow(), 0, file.borrow(), 0, kSize).has_value());
    OM_ASSERT(
        write_exactly(file.borrow(), 0, std::as_bytes(std::span(data + 1, length))).has_value());
  } else {
    OM_ASSERT(copy_bytes(pristine().borrow(), 0, file.borrow(), 0, kSize).has_value());
    for (std::size_t at = 1; at + sizeof(Op) <= size && at < 2048; at += sizeof(Op)) {
      Op op{};
      std::memcpy(&op, data + at, sizeof op);
      apply(file, op);
    }
  }
  use(file, data[0] % 2 == 0);
  return 0;
}
