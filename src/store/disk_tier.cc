#include "store/disk_tier.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "base/assert.h"
#include "base/units.h"
#include "posix/file.h"
#include "store/segment_id.h"

namespace om::store {

namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::size_t kReadersMax = 256;
constexpr std::uint64_t kFullForNs = std::uint64_t{5} * 1'000'000'000;

std::string object_name(ObjectId object) {
  std::array<char, 24> text{};
  (void)std::snprintf(text.data(), text.size(), "%02x/%016llx",
                      static_cast<unsigned>(object & 0xff),
                      static_cast<unsigned long long>(object));
  return text.data();
}

std::optional<std::uint64_t> parse(const std::string& text, int base) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::uint64_t blocks(std::uint64_t length) {
  return round_up(std::max<std::uint64_t>(length, 1), kBlock);
}

std::uint64_t total_length(const std::vector<Extent>& extents) {
  std::uint64_t sum = 0;
  for (const auto& extent : extents) sum += extent.length;
  return sum;
}

Result<std::uint64_t> read_number(BorrowedFd directory, const std::string& name) {
  const auto file = OM_TRY(open_at(directory, name, O_RDONLY));
  std::array<std::byte, 32> bytes{};
  const std::size_t n = OM_TRY(read_some(file.borrow(), 0, bytes));
  std::string text(reinterpret_cast<const char*>(bytes.data()), n);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const auto number = parse(text, 10);
  if (!number) return Error{Errc::kCorrupt, 0, name + " holds no number"};
  return *number;
}

Result<void> write_number(BorrowedFd directory, const std::string& name, std::uint64_t number) {
  const std::string text = std::to_string(number) + "\n";
  const auto file = OM_TRY(open_at(directory, name + ".new", O_WRONLY | O_CREAT | O_TRUNC));
  OM_TRY(write_exactly(file.borrow(), 0, std::as_bytes(std::span(text))));
  OM_TRY(sync_data(file.borrow()));
  return rename_at(directory, name + ".new", name);
}

Result<UniqueFd> subdirectory(BorrowedFd parent, const std::string& name, mode_t mode = 0700) {
  if (::mkdirat(parent.raw(), name.c_str(), mode) != 0 && errno != EEXIST)
    return file_error("make the directory " + name);
  return open_at(parent, name, O_RDONLY | O_DIRECTORY);
}

}  // namespace

Result<std::unique_ptr<DiskTier>> DiskTier::open(Options options, const Clock& clock) {
  std::unique_ptr<DiskTier> tier(new DiskTier(std::move(options), clock));
  for (const auto& config : tier->options_.disks) {
    auto disk = std::make_unique<Disk>();
    disk->path = config.path;
    if (auto opened = tier->open_disk(*disk, config.bytes); !opened) {
      tier->fail(*disk, opened.error());
      tier->some_did_not_open_ = true;
    }
    tier->disks_.push_back(std::move(disk));
  }
  return tier;
}

Result<void> DiskTier::open_disk(Disk& disk, std::uint64_t bytes) {
  disk.root = OM_TRY(open_directory(disk.path));
  if (const int fault = injected("open", disk.path); fault != 0)
    return Error{Errc::kSystem, fault, "open " + disk.path};
  if (auto number = read_number(disk.root.borrow(), "disk-id"); number) {
    if (*number == 0 || *number > kDiskIdMax)
      return Error{Errc::kCorrupt, 0, disk.path + "/disk-id holds no number from 1 to 4095"};
    disk.id = static_cast<std::uint16_t>(*number);
    if (this->disk(disk.id) != nullptr)
      return Error{Errc::kCorrupt, 0, "two disk directories have the same disk-id"};
  } else if (number.error().sys_errno == ENOENT) {
    // From the clock, so that a directory that is away just now keeps its number to itself.
    std::uint64_t seed = clock_.real_ns() / 1000;
    do {
      disk.id = static_cast<std::uint16_t>(seed % kDiskIdMax + 1);
      ++seed;
    } while (this->disk(disk.id) != nullptr);
    OM_TRY(write_number(disk.root.borrow(), "disk-id", disk.id));
  } else {
    return std::move(number).error();
  }
  disk.objects = OM_TRY(subdirectory(disk.root.borrow(), "objects"));
  spread_subdirectories(disk.objects.borrow());
  disk.packs_dir = OM_TRY(subdirectory(disk.root.borrow(), "packs"));
  disk.regions_dir = OM_TRY(subdirectory(disk.root.borrow(), "regions"));
  OM_TRY(scan(disk));
  disk.capacity = bytes;
  if (bytes == 0) {
    const auto space = OM_TRY(file_system_space(disk.root.borrow()));
    disk.capacity = (space.free_bytes + disk.used) / 100 * 95;
  }
  return {};
}

// Files of objects, packs and regions that are there. Packs count in full from here on, files when
// a record claims them.
Result<void> DiskTier::scan(Disk& disk) {
  for (const auto& sub : OM_TRY(list_directory(disk.objects.borrow()))) {
    if (sub.size() != 2 || !parse(sub, 16)) continue;
    const auto directory = OM_TRY(open_at(disk.objects.borrow(), sub, O_RDONLY | O_DIRECTORY));
    for (const auto& file : OM_TRY(list_directory(directory.borrow()))) {
      const auto object = parse(file, 16);
      if (!object) continue;
      disk.unclaimed.insert(*object);
      highest_object_ = std::max(highest_object_, *object);
    }
  }
  for (const auto& file : OM_TRY(list_directory(disk.packs_dir.borrow()))) {
    const auto number = parse(file, 16);
    if (!number) continue;
    const auto pack = OM_TRY(open_at(disk.packs_dir.borrow(), file, O_RDONLY));
    Pack entry;
    entry.size = OM_TRY(file_size(pack.borrow()));
    entry.tail = entry.size;  // never appended to again: what follows the last record is unknown
    disk.used += blocks(entry.size);
    disk.packs.emplace(*number, std::move(entry));
    next_pack_ = std::max(next_pack_, *number + 1);
  }
  for (const auto& file : OM_TRY(list_directory(disk.regions_dir.borrow()))) {
    if (file.size() < 7 || file.substr(file.size() - 6) != ".bytes") continue;
    const std::string name = file.substr(0, file.size() - 6);
    const std::uint64_t bytes = OM_TRY(read_number(disk.regions_dir.borrow(), file));
    disk.regions[name] = bytes;
    disk.used += bytes;
  }
  return {};
}

DiskTier::Disk* DiskTier::disk(std::uint16_t id) {
  for (auto& entry : disks_)
    if (entry->id == id && id != 0) return entry.get();
  return nullptr;
}

const DiskTier::Disk* DiskTier::disk(std::uint16_t id) const {
  for (const auto& entry : disks_)
    if (entry->id == id && id != 0) return entry.get();
  return nullptr;
}

bool DiskTier::recover(ObjectId object, const std::vector<Extent>& extents, bool check_size) {
  highest_object_ = std::max(highest_object_, object);
  for (const auto& extent : extents) {
    Disk* const found = disk(disk_of(extent.segment));
    if (found == nullptr || !found->failure.empty()) return false;
    if (kind_of(extent.segment) == SegmentKind::kPack) {
      const auto pack = found->packs.find(number_of(extent.segment));
      if (pack == found->packs.end() || extent.offset > pack->second.size ||
          extent.length > pack->second.size - extent.offset)
        return false;
      pack->second.live += extent.length;
      ++pack->second.live_objects;
      pack->second.members.push_back({extent.offset, object});
      pack->second.in_order = false;
      continue;
    }
    if (kind_of(extent.segment) != SegmentKind::kFile || found->unclaimed.count(object) == 0)
      return false;
    if (check_size) {
      const auto file = open_segment(extent.segment, O_RDONLY);
      if (!file) return false;
      const auto size = file_size(file->borrow());
      if (!size || *size < extent.offset + extent.length) return false;
    }
    found->unclaimed.erase(object);
    found->used += blocks(extent.length);
  }
  return true;
}

void DiskTier::sweep_files() {
  for (auto& entry : disks_) {
    if (!entry->failure.empty()) continue;
    for (const ObjectId object : entry->unclaimed)
      (void)remove_at(entry->objects.borrow(), object_name(object));
    entry->unclaimed.clear();
  }
}

void DiskTier::sweep_packs() {
  for (auto& entry : disks_) {
    if (!entry->failure.empty()) continue;
    std::vector<std::uint64_t> dead;
    for (const auto& [number, pack] : entry->packs)
      if (pack.live_objects == 0 && !pack.current) dead.push_back(number);
    for (const std::uint64_t number : dead) drop_pack(*entry, number);
  }
}

bool DiskTier::may_return(SegmentId id) const {
  const Disk* const found = disk(disk_of(id));
  return found != nullptr ? !found->failure.empty() : some_did_not_open_;
}

std::vector<DiskTier::Disk*> DiskTier::by_room(std::uint64_t bytes) {
  std::vector<Disk*> candidates;
  for (auto& entry : disks_) {
    const std::uint64_t left = room(*entry);
    if (entry->failure.empty() && left != 0 && bytes <= left) candidates.push_back(entry.get());
  }
  std::sort(candidates.begin(), candidates.end(),
            [this](const Disk* a, const Disk* b) { return room(*a) > room(*b); });
  return candidates;
}

std::uint64_t DiskTier::room(const Disk& disk) const {
  std::uint64_t limit = disk.capacity;
  if (disk.full_until_ns > clock_.monotonic_ns()) limit = std::min(limit, disk.full_at);
  const std::uint64_t taken = disk.used + disk.beside;
  return taken < limit ? limit - taken : 0;
}

void DiskTier::count_beside(BorrowedFd directory, std::uint64_t bytes) {
  struct stat there {};
  if (::fstat(directory.raw(), &there) != 0) return;
  for (auto& entry : disks_) {
    struct stat here {};
    if (!entry->failure.empty() || ::fstat(entry->root.raw(), &here) != 0) continue;
    if (here.st_dev != there.st_dev) continue;
    entry->beside = bytes;
    return;
  }
}

bool DiskTier::over_capacity() const {
  return std::any_of(disks_.begin(), disks_.end(), [](const auto& entry) {
    return entry->failure.empty() && entry->used + entry->beside > entry->capacity;
  });
}

void DiskTier::fail(Disk& disk, const Error& error) {
  if (disk.failure.empty())
    troubles_.push_back("disk failed, what lies there is misses until a start path=" + disk.path +
                        " error=\"" + describe(error) + "\"");
  disk.failure = describe(error);
}

Error DiskTier::judge(Disk& disk, Error error) {
  if (error.code == Errc::kNoSpace) {
    disk.full_at = disk.used + disk.beside;
    disk.full_until_ns = clock_.monotonic_ns() + kFullForNs;
  } else if (error.sys_errno != EMFILE && error.sys_errno != ENFILE && error.sys_errno != EFBIG) {
    fail(disk, error);
    error.code = Errc::kUnavailable;  // whoever asked may ask again: it is out of use now
  }
  return error;
}

Result<DiskTier::NewFile> DiskTier::create_file(ObjectId object, std::uint64_t length) {
  Error last{Errc::kNoSpace, 0, "the disk tier is full"};
  const std::string name = object_name(object);
  for (Disk* const candidate : by_room(blocks(length))) {
    // Sub-directories are made when they are first wanted.
    if (::mkdirat(candidate->objects.raw(), name.substr(0, 2).c_str(), 0700) != 0 &&
        errno != EEXIST) {
      last = judge(*candidate, file_error("make a directory for objects"));
      continue;
    }
    Result<UniqueFd> file = open_at(candidate->objects.borrow(), name, O_RDWR | O_CREAT | O_EXCL);
    if (const int fault = injected("create", candidate->path); fault != 0)
      file = Error{fault == ENOSPC ? Errc::kNoSpace : Errc::kSystem, fault, "open " + name};
    Result<void> made = file ? resize(file->borrow(), length) : Result<void>(file.error());
    if (made) made = allocate(file->borrow(), 0, length);
    if (made) {
      candidate->used += blocks(length);
      return NewFile{segment_id(SegmentKind::kFile, candidate->id, object), *std::move(file)};
    }
    (void)remove_at(candidate->objects.borrow(), name);
    last = judge(*candidate, std::move(made).error());
  }
  return last;
}

Result<void> DiskTier::grow_file(SegmentId id, BorrowedFd file, std::uint64_t from,
                                 std::uint64_t to) {
  Disk* const home = disk(disk_of(id));
  OM_ASSERT(home != nullptr);
  const std::uint64_t more = blocks(to) - blocks(from);
  if (more > room(*home)) return Error{Errc::kNoSpace, 0, "the disk tier is full"};
  if (auto made = resize(file, to); !made) return judge(*home, std::move(made).error());
  if (auto made = allocate(file, from, to - from); !made)
    return judge(*home, std::move(made).error());
  home->used += more;
  return {};
}

Result<void> DiskTier::trim_file(SegmentId id, BorrowedFd file, std::uint64_t from,
                                 std::uint64_t to) {
  Disk* const home = disk(disk_of(id));
  OM_ASSERT(home != nullptr && to <= from);
  if (auto made = resize(file, to); !made) return judge(*home, std::move(made).error());
  home->used -= blocks(from) - blocks(to);
  return {};
}

Result<DiskTier::PackSlot> DiskTier::take_pack(ObjectId object, std::uint64_t length) {
  const auto put_into = [&](Disk& home, std::uint64_t number, Pack& pack) -> Result<PackSlot> {
    const SegmentId id = segment_id(SegmentKind::kPack, home.id, number);
    Result<UniqueFd> file = open_segment(id, O_RDWR);
    if (const int fault = injected("create", home.path); fault != 0)
      file = Error{fault == ENOSPC ? Errc::kNoSpace : Errc::kSystem, fault, "open a pack"};
    if (!file) return judge(home, std::move(file).error());
    PackSlot slot{{id, pack.tail, length}, *std::move(file)};
    pack.tail += round_up(length, 8);
    pack.live += length;
    ++pack.live_objects;
    pack.members.push_back({slot.extent.offset, object});
    return slot;
  };
  for (auto& entry : disks_) {
    if (!entry->failure.empty()) continue;
    for (auto& [number, pack] : entry->packs) {
      if (!pack.current) continue;
      if (round_up(length, 8) <= pack.size - pack.tail) {
        auto slot = put_into(*entry, number, pack);
        if (slot) return slot;
        break;
      }
      pack.current = false;
      if (pack.live_objects == 0) drop_pack(*entry, number);
      break;
    }
  }
  Error last{Errc::kNoSpace, 0, "the disk tier is full"};
  for (Disk* const candidate : by_room(0)) {
    const std::uint64_t size = pack_size(*candidate, length);
    if (size > room(*candidate)) continue;
    const std::uint64_t number = next_pack_++;
    std::array<char, 24> name{};
    (void)std::snprintf(name.data(), name.size(), "%016llx",
                        static_cast<unsigned long long>(number));
    auto file = open_at(candidate->packs_dir.borrow(), name.data(), O_RDWR | O_CREAT | O_EXCL);
    Result<void> made = file ? resize(file->borrow(), size) : Result<void>(file.error());
    if (made) made = allocate(file->borrow(), 0, size);
    if (!made) {
      (void)remove_at(candidate->packs_dir.borrow(), name.data());
      last = judge(*candidate, std::move(made).error());
      continue;
    }
    candidate->used += size;
    Pack& pack = candidate->packs[number];
    pack.size = size;
    pack.current = true;
    auto slot = put_into(*candidate, number, pack);
    if (slot) return slot;
    last = std::move(slot).error();
  }
  return last;
}

std::optional<DiskTier::Sparse> DiskTier::sparse_pack(unsigned live_percent_max,
                                                      const MayLeave& may_leave) const {
  for (const auto& entry : disks_) {
    if (!entry->failure.empty()) continue;
    for (const auto& [number, pack] : entry->packs) {
      if (pack.current || pack.live * 100 >= pack.size * live_percent_max) continue;
      const SegmentId id = segment_id(SegmentKind::kPack, entry->id, number);
      const auto leaves = [&may_leave, id](const Member& member) {
        return member.object != 0 && may_leave(id, member.object);
      };
      if (std::none_of(pack.members.begin(), pack.members.end(), leaves)) continue;
      Sparse sparse;
      sparse.pack = id;
      for (const Member& member : pack.members)
        if (member.object != 0) sparse.members.push_back(member.object);
      return sparse;
    }
  }
  return std::nullopt;
}

// So that a pack that lives for long does not remember all that it ever had.
void DiskTier::forget_member(Pack& pack, std::uint64_t offset) {
  const auto before = [](const Member& a, const Member& b) { return a.offset < b.offset; };
  if (!pack.in_order) std::sort(pack.members.begin(), pack.members.end(), before);
  pack.in_order = true;
  const auto member =
      std::lower_bound(pack.members.begin(), pack.members.end(), Member{offset, 0}, before);
  if (member == pack.members.end() || member->offset != offset || member->object == 0) return;
  member->object = 0;
  if (++pack.gone * 2 < pack.members.size()) return;
  std::erase_if(pack.members, [](const Member& one) { return one.object == 0; });
  pack.gone = 0;
}

void DiskTier::drop_pack(Disk& disk, std::uint64_t number) {
  const SegmentId id = segment_id(SegmentKind::kPack, disk.id, number);
  forget_reader(id);
  std::array<char, 24> name{};
  (void)std::snprintf(name.data(), name.size(), "%016llx", static_cast<unsigned long long>(number));
  (void)remove_at(disk.packs_dir.borrow(), name.data());
  const auto pack = disk.packs.find(number);
  disk.used -= blocks(pack->second.size);
  disk.packs.erase(pack);
}

void DiskTier::free(const std::vector<Extent>& extents) {
  if (extents.empty()) return;
  for (const auto& extent : extents) {
    Disk* const home = disk(disk_of(extent.segment));
    if (home == nullptr) continue;
    if (kind_of(extent.segment) == SegmentKind::kPack) {
      const auto pack = home->packs.find(number_of(extent.segment));
      if (pack == home->packs.end()) continue;
      forget_member(pack->second, extent.offset);
      pack->second.live -= std::min(pack->second.live, extent.length);
      if (--pack->second.live_objects == 0 && !pack->second.current) drop_pack(*home, pack->first);
    } else if (kind_of(extent.segment) == SegmentKind::kFile) {
      forget_reader(extent.segment);
      (void)remove_at(home->objects.borrow(), object_name(number_of(extent.segment)));
      home->used -= std::min(home->used, blocks(total_length(extents)));
      return;  // one file, however many extents
    }
  }
}

bool DiskTier::readable(SegmentId id) const {
  const Disk* const home = disk(disk_of(id));
  return home != nullptr && home->failure.empty();
}

Result<UniqueFd> DiskTier::open_segment(SegmentId id, int flags) {
  Disk* const home = disk(disk_of(id));
  if (home == nullptr || !home->failure.empty())
    return Error{Errc::kUnavailable, 0, "the disk directory has failed"};
  if (kind_of(id) == SegmentKind::kFile)
    return open_at(home->objects.borrow(), object_name(number_of(id)), flags);
  std::array<char, 24> name{};
  (void)std::snprintf(name.data(), name.size(), "%016llx",
                      static_cast<unsigned long long>(number_of(id)));
  return open_at(home->packs_dir.borrow(), name.data(), flags);
}

Result<UniqueFd> DiskTier::open_for_copy(SegmentId id) { return open_segment(id, O_RDONLY); }

Result<UniqueFd> DiskTier::open_directory_of(SegmentId id) {
  const Disk* const home = disk(disk_of(id));
  if (home == nullptr || !home->failure.empty())
    return Error{Errc::kUnavailable, 0, "the disk directory has failed"};
  if (kind_of(id) == SegmentKind::kPack)
    return open_at(home->packs_dir.borrow(), ".", O_RDONLY | O_DIRECTORY);
  return open_at(home->objects.borrow(), object_name(number_of(id)).substr(0, 2),
                 O_RDONLY | O_DIRECTORY);
}

bool DiskTier::has(SegmentId id) const {
  const Disk* const home = disk(disk_of(id));
  return home != nullptr && kind_of(id) == SegmentKind::kPack &&
         home->packs.count(number_of(id)) != 0;
}

void DiskTier::forget_reader(SegmentId id) {
  const auto found = reader_index_.find(id);
  if (found == reader_index_.end()) return;
  readers_.erase(found->second);
  reader_index_.erase(found);
}

Result<SegmentView> DiskTier::reader(SegmentId id) {
  auto found = reader_index_.find(id);
  if (found == reader_index_.end()) {
    auto file = open_segment(id, O_RDONLY);
    if (!file) {
      Error why = std::move(file).error();
      if (why.sys_errno == EIO) {
        report_failure(id, why);
        why.code = Errc::kUnavailable;  // as judge()
      }
      return why;
    }
    readers_.emplace_front(id, *std::move(file));
    reader_index_[id] = readers_.begin();
    if (readers_.size() > kReadersMax) forget_reader(readers_.back().first);
  } else {
    readers_.splice(readers_.begin(), readers_, found->second);
  }
  const BorrowedFd file = readers_.front().second.borrow();
  return SegmentView{id, kind_of(id), OM_TRY(file_size(file)), file};
}

Result<UniqueFd> DiskTier::region_directory(const std::string& name, std::uint64_t bytes) {
  Disk* home = nullptr;
  for (auto& entry : disks_)
    if (entry->failure.empty() && entry->regions.count(name) != 0) home = entry.get();
  if (home == nullptr) {
    const auto candidates = by_room(bytes);
    if (candidates.empty())
      return Error{Errc::kNoSpace, 0,
                   "no disk directory has " + format_size(bytes) + " left for a region"};
    home = candidates.front();
  }
  auto& promised = home->regions[name];
  if (bytes > promised &&
      (home->used > home->capacity || bytes - promised > home->capacity - home->used)) {
    if (promised == 0) home->regions.erase(name);
    return Error{Errc::kNoSpace, 0, home->path + " has not " + format_size(bytes) + " left"};
  }
  OM_TRY(write_number(home->regions_dir.borrow(), name + ".bytes", bytes));
  home->used = home->used - promised + bytes;
  promised = bytes;
  // Its owner is another user than we are and creates files by this descriptor alone: nobody gets
  // here by path, the directory above is ours (0700).
  auto directory = OM_TRY(subdirectory(home->regions_dir.borrow(), name, 0777));
  if (::fchmod(directory.raw(), 0777) != 0) return system_error("open a region's directory");
  spread_subdirectories(directory.borrow());
  return directory;
}

std::uint64_t DiskTier::region_bytes(const std::string& name) const {
  for (const auto& entry : disks_)
    if (const auto found = entry->regions.find(name); found != entry->regions.end())
      return found->second;
  return 0;
}

std::vector<std::string> DiskTier::region_names() const {
  std::vector<std::string> names;
  for (const auto& entry : disks_)
    for (const auto& [name, bytes] : entry->regions) names.push_back(name);
  return names;
}

namespace {

// What its owner made there: files, and directories of files. It may be another user: no link is
// followed.
void empty_region(BorrowedFd directory) {
  const auto names = list_directory(directory);
  if (!names) return;
  for (const auto& name : *names) {
    if (::unlinkat(directory.raw(), name.c_str(), 0) == 0) continue;
    if (auto inner = open_at(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW))
      if (const auto files = list_directory(inner->borrow()))
        for (const auto& file : *files) (void)::unlinkat(inner->raw(), file.c_str(), 0);
    (void)::unlinkat(directory.raw(), name.c_str(), AT_REMOVEDIR);
  }
}

}  // namespace

void DiskTier::drop_region(const std::string& name) {
  for (auto& entry : disks_) {
    const auto found = entry->regions.find(name);
    if (found == entry->regions.end()) continue;
    if (auto directory = open_at(entry->regions_dir.borrow(), name, O_RDONLY | O_DIRECTORY)) {
      empty_region(directory->borrow());
      (void)::unlinkat(entry->regions_dir.raw(), name.c_str(), AT_REMOVEDIR);
    }
    (void)remove_at(entry->regions_dir.borrow(), name + ".bytes");
    entry->used -= found->second;
    entry->regions.erase(found);
  }
}

bool DiskTier::any() const {
  return std::any_of(disks_.begin(), disks_.end(),
                     [](const auto& entry) { return entry->failure.empty(); });
}

std::uint64_t DiskTier::pack_size(const Disk& disk, std::uint64_t length) const {
  const std::uint64_t wanted = std::min(options_.pack_bytes, disk.capacity / 32);
  return blocks(std::max(wanted, round_up(length, 8)));
}

bool DiskTier::room_for(std::uint64_t length, bool file) {
  if (file) return !by_room(blocks(length)).empty();
  for (const auto& entry : disks_) {
    if (!entry->failure.empty()) continue;
    for (const auto& [number, pack] : entry->packs)
      if (pack.current && round_up(length, 8) <= pack.size - pack.tail) return true;
  }
  for (const Disk* const candidate : by_room(0)) {
    const std::uint64_t size = pack_size(*candidate, length);
    if (size <= room(*candidate)) return true;
  }
  return false;
}

void DiskTier::report_failure(SegmentId id, const Error& error) {
  report_failure(disk_of(id), error);
}

void DiskTier::report_failure(std::uint16_t id, const Error& error) {
  if (Disk* const home = disk(id); home != nullptr && home->failure.empty())
    (void)judge(*home, error);
}

std::vector<std::pair<std::uint16_t, UniqueFd>> DiskTier::directories() const {
  std::vector<std::pair<std::uint16_t, UniqueFd>> all;
  for (const auto& entry : disks_) {
    if (!entry->failure.empty()) continue;
    if (auto copy = duplicate(entry->root.borrow())) all.emplace_back(entry->id, *std::move(copy));
  }
  return all;
}

std::string DiskTier::path_of(std::uint16_t id) const {
  const Disk* const home = disk(id);
  return home == nullptr ? std::string() : home->path;
}

std::uint64_t DiskTier::capacity() const {
  std::uint64_t sum = 0;
  for (const auto& entry : disks_)
    if (entry->failure.empty()) sum += entry->capacity;
  return sum;
}

std::uint64_t DiskTier::used() const {
  std::uint64_t sum = 0;
  for (const auto& entry : disks_)
    if (entry->failure.empty()) sum += entry->used;
  return sum;
}

void DiskTier::add_status(std::vector<StatusItem>& items) const {
  std::size_t number = 0;
  std::uint64_t failed = 0;
  for (const auto& entry : disks_) {
    const std::string prefix = "disk." + std::to_string(number++) + ".";
    items.push_back({prefix + "path", 0, entry->path});
    items.push_back({prefix + "state", 0,
                     !entry->failure.empty()                        ? "failed: " + entry->failure
                     : entry->full_until_ns > clock_.monotonic_ns() ? "full"
                                                                    : "ok"});
    items.push_back({prefix + "capacity_bytes", entry->capacity, ""});
    items.push_back({prefix + "used_bytes", entry->used, ""});
    items.push_back({prefix + "packs", entry->packs.size(), ""});
    if (!entry->failure.empty()) ++failed;
  }
  items.push_back({"disk.capacity_bytes", capacity(), ""});
  items.push_back({"disk.used_bytes", used(), ""});
  items.push_back({"disk.failed", failed, ""});
}

}  // namespace om::store
