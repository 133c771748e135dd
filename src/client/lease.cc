// om::Lease: reading what is held. Everything here works without the daemon.
#include <poll.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "client/state.h"
#include "posix/file.h"
#include "posix/read_ahead.h"

namespace om {

namespace {

// Once what is behind `fd` says it has no room (a pipe or socket that was opened non-blocking).
Result<void> wait_writable(int fd) {
  pollfd look{fd, POLLOUT, 0};
  if (::poll(&look, 1, -1) < 0 && errno != EINTR) return system_error("wait for the output");
  return {};
}

Result<void> write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) {
        OM_TRY(wait_writable(fd));
        continue;
      }
      return file_error("write the output");
    }
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

// The slice by sendfile(2), which takes any output; what is left when the kernel refuses.
Result<std::uint64_t> send_slice(int fd, const Slice& slice) {
  begin_reading(BorrowedFd(slice.fd), slice.offset, slice.length);
  off_t at = static_cast<off_t>(slice.offset);
  std::uint64_t left = slice.length;
  while (left > 0) {
    const ssize_t n = ::sendfile(fd, slice.fd, &at, std::min<std::uint64_t>(left, 1U << 30));
    if (n > 0) {
      left -= static_cast<std::uint64_t>(n);
    } else if (n == 0) {
      return Error{Errc::kCorrupt, 0, "a segment ends before the object does"};
    } else if (errno == EAGAIN) {
      OM_TRY(wait_writable(fd));
    } else if (errno == EINVAL || errno == ENOSYS || errno == EOVERFLOW) {
      return left;
    } else if (errno != EINTR) {
      return file_error("write the output");
    }
  }
  return left;
}

}  // namespace

Lease::Lease() noexcept = default;
Lease::Lease(std::unique_ptr<client::LeaseState> state) noexcept : state_(std::move(state)) {}
Lease::Lease(Lease&& other) noexcept = default;
Lease& Lease::operator=(Lease&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}
Lease::~Lease() { release(); }

Lease::operator bool() const noexcept { return state_ != nullptr; }
const ObjectInfo& Lease::info() const { return state_->info; }
std::uint64_t Lease::size() const { return state_->info.length; }
std::uint64_t Lease::id() const { return state_->lease_id; }
bool Lease::asked() const { return !state_->word; }
const std::vector<Slice>& Lease::slices() const { return state_->slices; }

void Lease::release() {
  if (state_ == nullptr) return;
  const auto state = std::move(state_);
  if (state->word)
    state->connection->let_go(*state->word);
  else
    state->connection->release_one(state->lease_id);
}

void release(std::vector<std::optional<Lease>> leases) {
  std::shared_ptr<client::Connection> connection;
  std::vector<std::uint64_t> ids;
  const auto send = [&] {
    if (!ids.empty()) connection->release(std::exchange(ids, {}));
  };
  for (std::optional<Lease>& lease : leases) {
    if (!lease || lease->state_ == nullptr) continue;
    if (lease->state_->word) {
      lease->release();
      continue;
    }
    const auto state = std::move(lease->state_);
    if (state->connection != connection) {
      send();
      connection = state->connection;
    }
    ids.push_back(state->lease_id);
  }
  send();
}

Result<std::size_t> Lease::read(std::uint64_t offset, std::span<std::byte> into) const {
  std::size_t done = 0;
  std::uint64_t begin = 0;  // of the slice, in the body
  for (std::size_t i = 0; i < state_->slices.size() && done < into.size(); ++i) {
    const Slice& slice = state_->slices[i];
    const std::uint64_t skip = offset + done - begin;  // >= 0: earlier slices are behind us
    begin += slice.length;
    if (skip >= slice.length) continue;
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(slice.length - skip, into.size() - done));
    const std::span<std::byte> part = into.subspan(done, count);
    const std::uint64_t at = slice.offset + skip;
    if (const auto memory = state_->segments[i]->map(at, count); !memory.empty()) {
      std::memcpy(part.data(), memory.data(), count);
    } else {
      begin_reading(state_->segments[i]->file(), at, count);
      OM_TRY(read_exactly(state_->segments[i]->file(), at, part));
    }
    done += count;
  }
  return done;
}

Result<std::string> Lease::read_all() const {
  std::string body(static_cast<std::size_t>(size()), '\0');
  OM_TRY(read(0, std::as_writable_bytes(std::span(body))));
  return body;
}

Result<void> Lease::copy_to(int fd) const {
  std::vector<std::byte> buffer;
  for (std::size_t i = 0; i < state_->slices.size(); ++i) {
    const Slice& slice = state_->slices[i];
    // Memory is recycled once the lease ends; sendfile(2) would leave references to it in a socket.
    if (const auto memory = state_->segments[i]->map(slice.offset, slice.length); !memory.empty()) {
      OM_TRY(write_all(fd, memory));
      continue;
    }
    std::uint64_t left = slice.length;
    if (state_->segments[i]->kind == wire::SegmentKind::kFile) left = OM_TRY(send_slice(fd, slice));
    while (left > 0) {
      buffer.resize(std::size_t{1} << 20);
      const auto part = std::span(buffer).first(
          static_cast<std::size_t>(std::min<std::uint64_t>(left, buffer.size())));
      OM_TRY(read_exactly(state_->segments[i]->file(), slice.offset + slice.length - left, part));
      OM_TRY(write_all(fd, part));
      left -= part.size();
    }
  }
  return {};
}

Result<std::vector<std::span<const std::byte>>> Lease::map() const {
  std::vector<std::span<const std::byte>> spans;
  const std::lock_guard lock(state_->copy_mutex);
  auto& copies = state_->copies;
  copies.resize(state_->slices.size());
  for (std::size_t i = 0; i < state_->slices.size(); ++i) {
    const Slice& slice = state_->slices[i];
    const auto length = static_cast<std::size_t>(slice.length);
    if (const auto memory = state_->segments[i]->map(slice.offset, slice.length); !memory.empty()) {
      spans.push_back(memory);
      continue;
    }
    if (copies[i] == nullptr) {
      auto copy = std::make_unique_for_overwrite<std::byte[]>(length);
      begin_reading(state_->segments[i]->file(), slice.offset, length);
      OM_TRY(read_exactly(state_->segments[i]->file(), slice.offset, {copy.get(), length}));
      copies[i] = std::move(copy);
    }
    spans.emplace_back(copies[i].get(), length);
  }
  return spans;
}

std::vector<std::shared_ptr<const void>> Lease::pins() const {
  std::vector<std::shared_ptr<const void>> pins;
  const auto add = [&pins](std::shared_ptr<const void> pin) {
    if (std::find(pins.begin(), pins.end(), pin) == pins.end()) pins.push_back(std::move(pin));
  };
  const std::lock_guard lock(state_->copy_mutex);
  for (std::size_t i = 0; i < state_->segments.size(); ++i) {
    const client::SegmentRef& segment = state_->segments[i];
    // Without the descriptor, where the bytes are mapped.
    const Slice& slice = state_->slices[i];
    if (!segment->map(slice.offset, slice.length).empty()) {
      add(segment->mapping());
      continue;
    }
    add(segment);
    if (i < state_->copies.size() && state_->copies[i] != nullptr)
      add(std::shared_ptr<const void>(state_->copies[i], state_->copies[i].get()));
  }
  return pins;
}

}  // namespace om
