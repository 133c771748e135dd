#include "body.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>

#include "methods.h"
#include "posix/read_ahead.h"

namespace om::vmod {

void BodyView::add(const BodyPart& part) {
  if (part.length == 0) return;
  length_ += part.length;
  has_file_ = has_file_ || part.in_file();
  if (count_ < few_.size()) {
    few_[count_++] = part;
    return;
  }
  if (many_.empty()) many_.assign(few_.begin(), few_.end());
  many_.push_back(part);
}

void BodyView::add(const std::byte* memory, std::uint64_t length) {
  add(BodyPart{memory, BorrowedFd(-1), 0, length});
}

void BodyView::add(BorrowedFd file, std::uint64_t offset, std::uint64_t length) {
  add(BodyPart{nullptr, file, offset, length});
}

AttachedBody* attached_body(const struct objcore* oc) {
  // The lowest bits belong to verify.cc, whose threads change them while others look.
  const std::uintptr_t word = std::atomic_ref(const_cast<std::uintptr_t&>(oc->stobj->priv2))
                                  .load(std::memory_order_relaxed);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): Varnish keeps it as a number
  return reinterpret_cast<AttachedBody*>(word & ~kVerifyMask);
}

void attach_body(const struct objcore* oc, std::unique_ptr<AttachedBody> body) {
  Store::of(oc)->place(oc, body->place());
  const_cast<struct storeobj*>(oc->stobj)->priv2 = reinterpret_cast<std::uintptr_t>(body.release());
}

BodyView view_extents(const region::Region& region, std::span<const region::Extent> list) {
  BodyView view;
  for (const region::Extent& extent : list) view.add(region.pointer(extent.offset), extent.length);
  return view;
}

std::optional<std::uint64_t> checksum_of(const BodyView& body) {
  region::BodyChecksum sum;
  SliceReader reader(body);
  SliceReader::Slice slice;
  while (reader.next(slice)) sum.add({slice.bytes, slice.length});
  if (reader.error() != 0) return std::nullopt;
  return sum.value();
}

bool checks_out(const BodyView& body, const region::Record& record) {
  return checksum_of(body) == record.body_checksum;
}

std::optional<BodyView> view_body(const struct objcore* oc) {
  if (const AttachedBody* body = attached_body(oc); body != nullptr) return body->view();
  const region::Region& region = *Store::of(oc)->region();
  const region::Record& record = record_of(oc);
  const auto ref = file_of(record);
  if (!ref) return view_extents(region, region.body(record));
  auto file = region.files()->pin(*ref);
  if (!file) return std::nullopt;
  BodyView view;
  view.add((*file)->fd(), 0, ref->length);
  view.hold(*std::move(file));
  return view;
}

// --- slices ---

SliceReader::~SliceReader() {
  if (buffer_ != nullptr) buffers::give_back(buffer_, buffer_bytes_);
}

void SliceReader::skip(std::uint64_t length) {
  const auto parts = body_.parts();
  while (length > 0 && part_ < parts.size()) {
    const std::uint64_t some = std::min(length, parts[part_].length - done_);
    done_ += some;
    length -= some;
    if (done_ == parts[part_].length) {
      ++part_;
      done_ = 0;
    }
  }
}

bool SliceReader::next(Slice& slice) {
  const auto parts = body_.parts();
  while (part_ < parts.size() && done_ == parts[part_].length) {
    ++part_;
    done_ = 0;
  }
  if (part_ == parts.size() || error_ != 0) return false;
  const BodyPart& part = parts[part_];
  const std::uint64_t left = part.length - done_;
  if (!part.in_file()) {
    slice = {part.memory + done_, left, false, part_ + 1 == parts.size()};
    done_ = part.length;
    return true;
  }
  if (buffer_ == nullptr && (buffer_ = buffers::take(buffer_bytes_)) == nullptr) {
    error_ = ENOMEM;
    return false;
  }
  const std::uint64_t wanted = wanted_ == 0 ? left : std::min(left, wanted_);
  begin_reading(part.file, part.offset + done_, wanted);
  const std::size_t want = std::min<std::uint64_t>(wanted, buffer_bytes_);
  std::size_t got = 0;
  while (got < want) {
    const ssize_t n = ::pread(part.file.raw(), buffer_ + got, want - got,
                              static_cast<off_t>(part.offset + done_ + got));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      error_ = n < 0 ? errno : EIO;  // a file that ends early is as bad as one that cannot be read
      return false;
    }
    got += static_cast<std::size_t>(n);
  }
  done_ += got;
  wanted_ -= std::min<std::uint64_t>(wanted_, got);
  slice = {buffer_, got, true, part_ + 1 == parts.size() && done_ == part.length};
  return true;
}

// --- buffers ---

namespace buffers {

namespace {
// What is kept when nobody needs it; and from where on they get smaller.
constexpr std::size_t kIdleMax = 32;
constexpr std::uint64_t kPlenty = std::uint64_t{64} << 20;
std::mutex mutex;
// By size. Never destroyed: threads use them until the process ends.
auto& idle = *new std::array<std::vector<std::byte*>, 2>;
std::atomic<std::uint64_t> in_use{0};
}  // namespace

std::byte* take(std::size_t& bytes) {
  bytes = in_use.load(std::memory_order_relaxed) < kPlenty ? kLargeBytes : kSmallBytes;
  std::byte* buffer = nullptr;
  {
    const std::lock_guard lock(mutex);
    auto& ready = idle[bytes == kLargeBytes ? 1 : 0];
    if (!ready.empty()) {
      buffer = ready.back();  // the one that was used last: still in the processor's cache
      ready.pop_back();
    }
  }
  if (buffer == nullptr) {
    // A mapping of its own goes back to the system as a whole.
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    buffer = static_cast<std::byte*>(at);
  }
  in_use.fetch_add(bytes, std::memory_order_relaxed);
  return buffer;
}

void give_back(std::byte* buffer, std::size_t bytes) {
  in_use.fetch_sub(bytes, std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex);
    auto& ready = idle[bytes == kLargeBytes ? 1 : 0];
    if (ready.size() < kIdleMax) {
      ready.push_back(buffer);
      return;
    }
  }
  (void)::munmap(buffer, bytes);
}

std::uint64_t in_use_bytes() { return in_use.load(std::memory_order_relaxed); }

}  // namespace buffers

}  // namespace om::vmod
