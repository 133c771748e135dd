#include "region/body_files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <optional>

#include "base/assert.h"
#include "base/units.h"
#include "posix/file.h"

namespace om::region {

namespace {

constexpr std::uint64_t kBlock = 4096;
// A disk that failed may come back; asking it for each object is no use meanwhile.
constexpr std::int64_t kFailedPauseNs = 10'000'000'000;
constexpr std::int64_t kFullPauseNs = 500'000'000;

std::int64_t clock_ns(clockid_t clock) {
  struct timespec now {};
  (void)::clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::string hex(std::uint64_t number, int digits) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text(static_cast<std::size_t>(digits), '0');
  for (auto at = text.rbegin(); at != text.rend(); ++at, number >>= 4) *at = kDigits[number & 15];
  return text;
}

std::optional<std::uint64_t> number_of(const std::string& name) {
  if (name.size() != 16) return std::nullopt;
  std::uint64_t number = 0;
  for (const char c : name) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return std::nullopt;
    number = number << 4 | static_cast<std::uint64_t>(c <= '9' ? c - '0' : c - 'a' + 10);
  }
  return number;
}

// No fault of the disk.
bool out_of_descriptors(const Error& error) {
  return error.sys_errno == EMFILE || error.sys_errno == ENFILE;
}

}  // namespace

BodyFile::~BodyFile() {
  if (!fd_) return;
  fd_.reset();
  files_.descriptors_.fetch_sub(1, std::memory_order_relaxed);
  // Only now are its blocks free.
  if (const std::uint64_t bytes = give_back_.load(std::memory_order_acquire); bytes != 0)
    files_.release(bytes);
}

std::uint64_t BodyFiles::blocks(std::uint64_t length) { return round_up(length, kBlock); }

std::string BodyFiles::name_of(std::uint64_t number) {
  return hex(number & 255, 2) + "/" + hex(number, 16);
}

BodyFiles::~BodyFiles() {
  stopping_.store(true);
  wait_until_removed();
}

Result<std::unique_ptr<BodyFiles>> BodyFiles::open(UniqueFd directory, Options options) {
  std::unique_ptr<BodyFiles> files(new BodyFiles(std::move(directory), options));
  // The numbers of a life whose region is gone are below the clock of this one.
  std::uint64_t next = static_cast<std::uint64_t>(clock_ns(CLOCK_REALTIME)) / 1000;
  for (const std::uint64_t number : OM_TRY(files->list())) next = std::max(next, number + 1);
  files->own_next_.store(next);
  return files;
}

Result<std::vector<std::uint64_t>> BodyFiles::list() const {
  std::vector<std::uint64_t> numbers;
  for (const auto& sub : OM_TRY(list_directory(directory()))) {
    if (sub.size() != 2) continue;
    const auto inner = open_at(directory(), sub, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!inner) continue;
    for (const auto& name : OM_TRY(list_directory(inner->borrow())))
      if (const auto number = number_of(name); number && name_of(*number) == sub + "/" + name)
        numbers.push_back(*number);
  }
  return numbers;
}

void BodyFiles::count_in(Word& next_number) {
  if (next_number.load() < own_next_.load()) next_number.store(own_next_.load());
  next_ = &next_number;
}

bool BodyFiles::check(const FileRef& ref) const {
  struct stat st {};
  return ::fstatat(directory_.raw(), name_of(ref.number).c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
         S_ISREG(st.st_mode) && st.st_ino == ref.inode &&
         static_cast<std::uint64_t>(st.st_size) == ref.length;
}

void BodyFiles::keep(const FileRef& ref) {
  used_.fetch_add(blocks(ref.length), std::memory_order_relaxed);
  files_.fetch_add(1, std::memory_order_relaxed);
}

void BodyFiles::remove_others(std::vector<std::uint64_t> kept) {
  wait_until_removed();
  // Signals are for the threads of whoever uses us.
  sigset_t all;
  sigset_t before;
  (void)sigfillset(&all);
  (void)pthread_sigmask(SIG_SETMASK, &all, &before);
  remover_ = std::thread([this, kept = std::move(kept), end = next_->load()] {
    (void)pthread_setname_np(pthread_self(), "objmapper-files");
    remove_all_but(kept, end);
  });
  (void)pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void BodyFiles::wait_until_removed() {
  if (remover_.joinable()) remover_.join();
}

void BodyFiles::remove_all_but(const std::vector<std::uint64_t>& kept, std::uint64_t before) {
  const auto numbers = list();
  if (!numbers) return;
  for (const std::uint64_t number : *numbers) {
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (number >= before || std::ranges::binary_search(kept, number)) continue;
    if (::unlinkat(directory_.raw(), name_of(number).c_str(), 0) == 0)
      counters_.orphans.fetch_add(1, std::memory_order_relaxed);
  }
}

// --- space ---

bool BodyFiles::reserve(std::uint64_t bytes) {
  std::uint64_t used = used_.load(std::memory_order_relaxed);
  do {
    if (used > options_.capacity || bytes > options_.capacity - used) return false;
  } while (!used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  return true;
}

void BodyFiles::release(std::uint64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }

bool BodyFiles::usable() const {
  const std::int64_t until = leave_alone_until_ns_.load(std::memory_order_relaxed);
  return until == 0 || clock_ns(CLOCK_MONOTONIC) >= until;
}

Error BodyFiles::failed(Error error) {
  counters_.write_errors.fetch_add(1, std::memory_order_relaxed);
  // One that is full is asked again: the caller makes room.
  if (error.code != Errc::kNoSpace && !out_of_descriptors(error))
    leave_alone_until_ns_.store(clock_ns(CLOCK_MONOTONIC) + kFailedPauseNs,
                                std::memory_order_relaxed);
  return error;
}

void BodyFiles::stays_full() {
  leave_alone_until_ns_.store(clock_ns(CLOCK_MONOTONIC) + kFullPauseNs, std::memory_order_relaxed);
}

// --- writing ---

Result<UniqueFd> BodyFiles::open_new(std::uint64_t number) {
  const std::string name = name_of(number);
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW;
  auto file = open_named(name, kFlags);
  if (!file && file.error().sys_errno == ENOENT) {
    const std::string sub = name.substr(0, 2);
    if (::mkdirat(directory_.raw(), sub.c_str(), 0777) != 0 && errno != EEXIST)
      return file_error("make a directory for bodies");
    // The daemon, another user, removes what is in it when the region is dropped; nobody else gets
    // here, the way to the region's directory is the daemon's.
    (void)::fchmodat(directory_.raw(), sub.c_str(), 0777, 0);
    file = open_named(name, kFlags);
  }
  return file;
}

Result<std::shared_ptr<BodyFile>> BodyFiles::create(std::uint64_t bytes) {
  if (!usable()) return Error{Errc::kUnavailable, 0, "the disk failed a moment ago"};
  const std::uint64_t wanted = blocks(bytes);
  if (!reserve(wanted)) return Error{Errc::kNoSpace, 0, "the disk space is used up"};
  const std::uint64_t number = next_->fetch_add(1);
  auto fd = open_new(number);
  if (!fd) {
    release(wanted);
    return failed(std::move(fd).error());
  }
  struct stat st {};
  if (::fstat(fd->raw(), &st) != 0) {
    release(wanted);
    return failed(file_error("look at a new file"));
  }
  descriptors_.fetch_add(1, std::memory_order_relaxed);
  files_.fetch_add(1, std::memory_order_relaxed);
  auto file = std::make_shared<BodyFile>(*this, *std::move(fd), FileRef{number, st.st_ino, 0});
  file->reserved_ = wanted;
  if (auto aside = set_aside(*file, 0, wanted); !aside) {
    discard(*file);
    return failed(std::move(aside).error());
  }
  counters_.created.fetch_add(1, std::memory_order_relaxed);
  return file;
}

// Blocks now, so that a full disk is met here and not in the middle of a body.
Result<void> BodyFiles::set_aside(const BodyFile& file, std::uint64_t from, std::uint64_t to) {
  if (to <= from || to - from <= kWrittenAtOnceBytes) return {};
  while (::fallocate(file.fd().raw(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(from),
                     static_cast<off_t>(to - from)) != 0) {
    if (errno == EINTR) continue;
    // Not every file system can. Then a write says that it is full.
    if (errno == EOPNOTSUPP || errno == ENOSYS) return {};
    return file_error("set aside space for a body");
  }
  return {};
}

Result<void> BodyFiles::grow(BodyFile& file, std::uint64_t bytes) {
  const std::uint64_t wanted = blocks(bytes);
  if (wanted <= file.reserved_) return {};
  if (!reserve(wanted - file.reserved_))
    return Error{Errc::kNoSpace, 0, "the disk space is used up"};
  const std::uint64_t had = std::exchange(file.reserved_, wanted);
  if (auto aside = set_aside(file, had, wanted); !aside) {
    release(wanted - had);
    file.reserved_ = had;
    return failed(std::move(aside).error());
  }
  return {};
}

Result<void> BodyFiles::write(BodyFile& file, std::uint64_t offset,
                              std::span<const std::byte> bytes) {
  OM_ASSERT(offset + bytes.size() <= file.reserved_);
  if (auto written = write_exactly(file.fd(), offset, bytes); !written)
    return failed(std::move(written).error());
  counters_.written_bytes.fetch_add(bytes.size(), std::memory_order_relaxed);
  return {};
}

Result<void> BodyFiles::finish(const std::shared_ptr<BodyFile>& file, std::uint64_t length) {
  const std::uint64_t used = blocks(length);
  if (used < file->reserved_) {
    // Blocks beyond the end go by truncating to the length that the file has already.
    if (::ftruncate(file->fd().raw(), static_cast<off_t>(length)) != 0)
      return failed(file_error("trim a body's file"));
    release(file->reserved_ - used);
    file->reserved_ = used;
  }
  file->ref_.length = length;
  remember(file);
  return {};
}

void BodyFiles::discard(BodyFile& file) {
  (void)::unlinkat(directory_.raw(), name_of(file.ref_.number).c_str(), 0);
  files_.fetch_sub(1, std::memory_order_relaxed);
  file.give_back_.store(file.reserved_, std::memory_order_release);
}

// --- reading ---

bool BodyFiles::close_idle() {
  std::vector<std::shared_ptr<BodyFile>> closed;  // outside the lock
  const std::lock_guard lock(mutex_);
  const std::size_t wanted = (open_.size() + 1) / 2;
  for (auto at = recent_.end(); at != recent_.begin() && closed.size() < wanted;) {
    const auto found = open_.find(*--at);
    if (found->second.file.use_count() > 1) continue;
    closed.push_back(std::move(found->second.file));
    open_.erase(found);
    at = recent_.erase(at);
  }
  return !closed.empty();
}

Result<UniqueFd> BodyFiles::open_named(const std::string& name, int flags) {
  auto file = open_at(directory(), name, flags, 0600);
  while (!file && out_of_descriptors(file.error()) && close_idle())
    file = open_at(directory(), name, flags, 0600);
  return file;
}

void BodyFiles::remember(const std::shared_ptr<BodyFile>& file) {
  std::vector<std::shared_ptr<BodyFile>> closed;  // outside the lock
  const std::lock_guard lock(mutex_);
  if (open_.contains(file->ref_.number)) return;
  recent_.push_front(file->ref_.number);
  open_[file->ref_.number] = {file, recent_.begin()};
  // What is being read stays in the table; there are not many of those at the end of the list.
  for (int tries = 8; open_.size() > options_.descriptors_max && tries > 0;) {
    const auto last = open_.find(recent_.back());
    if (last->second.file.use_count() > 1) {
      recent_.splice(recent_.begin(), recent_, last->second.place);
      --tries;
      continue;
    }
    closed.push_back(std::move(last->second.file));
    open_.erase(last);
    recent_.pop_back();
  }
}

Result<UniqueFd> BodyFiles::open_checked(const FileRef& ref) {
  auto fd = OM_TRY(open_named(name_of(ref.number), O_RDONLY | O_NOFOLLOW));
  struct stat st {};
  if (::fstat(fd.raw(), &st) != 0) return file_error("look at a body's file");
  if (!S_ISREG(st.st_mode) || st.st_ino != ref.inode ||
      static_cast<std::uint64_t>(st.st_size) != ref.length)
    return Error{Errc::kCorrupt, 0, "a body's file is another one"};
  return fd;
}

Result<std::shared_ptr<const BodyFile>> BodyFiles::pin(const FileRef& ref) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = open_.find(ref.number); found != open_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second.place);
      return std::shared_ptr<const BodyFile>(found->second.file);
    }
  }
  auto fd = open_checked(ref);
  if (!fd) {
    counters_.read_errors.fetch_add(1, std::memory_order_relaxed);
    return std::move(fd).error();
  }
  descriptors_.fetch_add(1, std::memory_order_relaxed);
  counters_.reopened.fetch_add(1, std::memory_order_relaxed);
  auto file = std::make_shared<BodyFile>(*this, *std::move(fd), ref);
  remember(file);
  return std::shared_ptr<const BodyFile>(std::move(file));
}

void BodyFiles::remove(const FileRef& ref) {
  std::shared_ptr<BodyFile> file;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = open_.find(ref.number); found != open_.end()) {
      file = std::move(found->second.file);
      recent_.erase(found->second.place);
      open_.erase(found);
    }
  }
  (void)::unlinkat(directory_.raw(), name_of(ref.number).c_str(), 0);
  files_.fetch_sub(1, std::memory_order_relaxed);
  // Whoever reads it still has it through the same BodyFile, as long as it is in the table. One
  // that was closed there while it was being read is counted as free a moment early.
  if (file)
    file->give_back_.store(blocks(ref.length), std::memory_order_release);
  else
    release(blocks(ref.length));
}

}  // namespace om::region
