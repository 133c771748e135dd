// disk_fetch.cc: a body on its way into a file of the region's directory.
//
// It is received into a recycled buffer, from which readers that stream take it at once; a full
// buffer is written with one pwrite, and readers that are behind read the file. Nothing is mapped.
// When the disk is full, objects of the disk's LRU list go, within Varnish's nuke_limit; when it
// takes no more, or fails, what has come moves to memory, and the fetch goes on there.
#include <syslog.h>

#include <algorithm>

#include "fetch.h"
#include "methods.h"
#include "posix/file.h"

namespace om::vmod::disk {

namespace {

constexpr std::uint64_t kStepMin = std::uint64_t{1} << 20;
constexpr std::uint64_t kStepMax = std::uint64_t{8} << 20;

// A body whose end the disk did not take, nor memory: it serves as long as this process lives.
class TailBody final : public AttachedBody {
 public:
  TailBody(region::BodyFiles& files, const Fetch::File& body)
      : files_(files),
        file_(body.writer),
        written_(body.written),
        buffer_(body.buffer),
        filled_(body.filled) {}
  ~TailBody() override { files_.discard(*file_); }
  [[nodiscard]] Place place() const override { return Place::kFile; }
  [[nodiscard]] std::optional<BodyView> view() const override {
    BodyView view;
    view.add(file_->fd(), 0, written_);
    view.hold(file_);
    if (filled_ > 0) view.add(buffer_->at, filled_);
    view.hold(buffer_);
    return view;
  }

 private:
  region::BodyFiles& files_;
  std::shared_ptr<region::BodyFile> file_;
  std::uint64_t written_;
  std::shared_ptr<Fetch::Buffer> buffer_;
  std::size_t filled_;
};

bool no_room(const Error& error) { return error.code == Errc::kNoSpace; }

// nuke_limit is for each storage that is asked in turn.
void restore_nuke_limit(struct worker* wrk) {
  wrk->strangelove = static_cast<int>((*abi::varnish.cache_param)->nuke_limit);
}

void say_failed(Store& store, const Error& error) {
  if (no_room(error) || error.code == Errc::kUnavailable) return;
  notice(LOG_WARNING, &store, "the disk does not take a body: " + describe(error));
}

// Space for what the buffer has, and that written. When more is to come than was announced, some
// space for that, too, if it may be.
Result<void> write_buffer(struct worker* wrk, Store& store, Fetch::File& file,
                          std::uint64_t expected, bool last) {
  region::BodyFiles& files = *store.region()->files();
  const std::uint64_t bytes = file.written + file.filled;
  const auto write = [&]() -> Result<void> {
    OM_TRY(files.grow(*file.writer, bytes));
    return files.write(*file.writer, file.written, {file.buffer->at, file.filled});
  };
  if (!last && bytes > expected)
    (void)files.grow(*file.writer, bytes + std::clamp(bytes, kStepMin, kStepMax));
  auto written = write();
  while (!written && no_room(written.error()) && nuke(wrk, store, Place::kFile)) written = write();
  if (!written && no_room(written.error()) && written.error().sys_errno != 0) files.stays_full();
  return written;
}

}  // namespace

bool start(struct worker* wrk, Store& store, struct objcore* oc, Fetch& fetch) {
  VSC_objm& counters = store.counters();
  region::BodyFiles* files = store.region()->files();
  // Asked once for each object.
  const bool moves = !fetch.pieces.empty();
  fetch.file_from = 0;
  if (files == nullptr) {
    count(counters.c_disk_unavailable);
    return false;
  }
  const std::uint64_t bytes = std::max(fetch.expected, fetch.total);
  if (bytes > files->capacity()) {
    count(counters.c_disk_too_large);
    return false;
  }
  auto made = files->create(bytes);
  while (!made && no_room(made.error()) && nuke(wrk, store, Place::kFile))
    made = files->create(bytes);
  const auto refused = [&](const Error& error) {
    say_failed(store, error);
    if (no_room(error) && error.sys_errno != 0) files->stays_full();
    count(no_room(error) ? counters.c_disk_full : counters.c_disk_unavailable);
    restore_nuke_limit(wrk);
    return false;
  };
  if (!made) return refused(made.error());
  auto file = std::make_unique<Fetch::File>();
  file->writer = *std::move(made);
  file->file = file->writer;
  if (fetch.checksum) file->sum.emplace();
  std::vector<region::Extent> behind;
  for (const Fetch::Piece& piece : fetch.pieces) {
    const std::span bytes_of(store.region()->pointer(piece.extent.offset), piece.extent.length);
    if (auto written = files->write(*file->writer, file->written, bytes_of); !written) {
      files->discard(*file->writer);
      return refused(written.error());
    }
    if (file->sum) file->sum->add(bytes_of);
    file->written += bytes_of.size();
    behind.push_back(piece.extent);
  }
  count(moves ? counters.c_disk_moved : counters.c_disk_bodies);
  Lck_Lock(&oc->boc->mtx);
  fetch.file = std::move(file);
  fetch.left_behind.insert(fetch.left_behind.end(), behind.begin(), behind.end());
  fetch.pieces.clear();
  Lck_Unlock(&oc->boc->mtx);
  store.place(oc, Place::kFile);
  return true;
}

bool flush(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch, bool last) {
  Fetch::File& file = *fetch.file;
  if (file.writer == nullptr || file.filled == 0) return true;
  const std::span bytes(file.buffer->at, file.filled);
  if (auto written = write_buffer(wrk, store, file, fetch.expected, last); !written) {
    say_failed(store, written.error());
    return false;
  }
  if (file.sum) file.sum->add(bytes);
  if (oc->boc != nullptr) Lck_Lock(&oc->boc->mtx);
  file.written += std::exchange(file.filled, 0);
  // One that a reader is at is its from now on.
  if (file.buffer.use_count() > 1) file.buffer.reset();
  if (oc->boc != nullptr) Lck_Unlock(&oc->boc->mtx);
  return true;
}

bool more_space(struct worker* wrk, Store& store, struct objcore* oc, Fetch& fetch,
                std::uint64_t want, std::span<std::byte>& space) {
  Fetch::File& file = *fetch.file;
  if (file.buffer != nullptr && file.filled == file.buffer->bytes &&
      !flush(wrk, store, oc, fetch, false)) {
    (void)move_to_memory(wrk, store, oc, fetch);
    return false;
  }
  if (file.buffer == nullptr) {
    auto buffer = std::make_shared<Fetch::Buffer>();
    buffer->at = buffers::take(buffer->bytes);
    if (buffer->at == nullptr) return false;
    Lck_Lock(&oc->boc->mtx);
    file.buffer = std::move(buffer);
    Lck_Unlock(&oc->boc->mtx);
  }
  std::uint64_t room = file.buffer->bytes - file.filled;
  // As for pieces in memory: Varnish's gzip is given no more than it asks for.
  if (fetch.gzips) room = std::min(room, want);
  space = {file.buffer->at + file.filled, room};
  return true;
}

bool move_to_memory(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch) {
  Fetch::File& file = *fetch.file;
  region::Region& region = *store.region();
  restore_nuke_limit(wrk);
  std::vector<Fetch::Piece> pieces;
  const auto fail = [&] {
    for (const Fetch::Piece& piece : pieces) region.allocator().free(piece.extent);
    return false;
  };
  const std::uint64_t total = file.written + file.filled;
  for (std::uint64_t at = 0; at < total;) {
    const auto extent = allocate_piece(wrk, store, std::min(total - at, kExtentBytesMax));
    if (!extent) return fail();
    pieces.push_back({*extent, extent->capacity, at});
    Fetch::Piece& piece = pieces.back();
    piece.extent.length =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(extent->capacity, total - at));
    std::byte* to = region.pointer(piece.extent.offset);
    const std::uint64_t from_file =
        std::min<std::uint64_t>(piece.extent.length, file.written - std::min(at, file.written));
    if (from_file > 0 && !read_exactly(file.writer->fd(), at, {to, from_file})) return fail();
    if (from_file < piece.extent.length)
      std::memcpy(to + from_file, file.buffer->at + (at + from_file - file.written),
                  piece.extent.length - from_file);
    at += piece.extent.length;
  }
  count(store.counters().c_disk_to_memory);
  region.files()->discard(*file.writer);
  std::unique_ptr<Fetch::File> old;
  if (oc->boc != nullptr) Lck_Lock(&oc->boc->mtx);
  old = std::move(fetch.file);
  fetch.pieces = std::move(pieces);
  if (oc->boc != nullptr) Lck_Unlock(&oc->boc->mtx);
  store.place(oc, Place::kMemory);
  return true;
}

void settle(struct worker* wrk, Store& store, const struct objcore* oc, Fetch& fetch, bool lasts) {
  Fetch::File& file = *fetch.file;
  region::BodyFiles& files = *store.region()->files();
  bool whole = file.filled == 0;
  if (whole && file.written > 0) {
    const auto finished = files.finish(file.writer, file.written);
    whole = finished.has_value();
    if (!whole) say_failed(store, finished.error());
  }
  if (file.written == 0 && file.filled == 0) {
    files.discard(*file.writer);
    store.place(oc, Place::kMemory);
  } else if (whole) {
    std::optional<std::uint64_t> checksum;
    if (lasts && file.sum) checksum = file.sum->value();
    store.region()->attach_file(record_of(oc), file.writer->ref(), checksum);
  } else if (move_to_memory(wrk, store, oc, fetch)) {
    vmod::settle(wrk, store, oc, fetch, lasts);
    return;
  } else {
    vmod::attach_body(oc, std::make_unique<TailBody>(files, file));
  }
  file.writer.reset();
  fetch.settled = true;
}

}  // namespace om::vmod::disk
