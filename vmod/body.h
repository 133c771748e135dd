// body.h: a finished body, as those see it who hand it on: iterator, lanes, verify.
//
// It is a list of parts; a part is mapped memory, or bytes of a file that do not change until the
// file is unlinked. Who keeps it (the region's memory, a file of the region's directory, a list on
// the heap, a lease on a daemon's object) is not to be seen. A view is held while parts are used:
// what it pins (descriptors, leases) stays until it goes. The object itself must be referenced
// meanwhile, as Varnish does for deliveries.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "abi/abi.h"
#include "posix/unique_fd.h"
#include "region/region.h"
#include "storage.h"

namespace om::vmod {

struct BodyPart {
  const std::byte* memory = nullptr;  // mapped; nullptr: the bytes are in `file`
  BorrowedFd file{-1};
  std::uint64_t offset = 0;  // in `file`
  std::uint64_t length = 0;  // never 0
  // Memory that is used for other bodies once this one is freed: copy it, never splice it. What is
  // not `memory` is never recycled.
  [[nodiscard]] bool in_file() const { return memory == nullptr; }
};

class BodyView {
 public:
  void add(const std::byte* memory, std::uint64_t length);
  void add(BorrowedFd file, std::uint64_t offset, std::uint64_t length);
  // Kept as long as this view: what makes its parts stay.
  void hold(std::shared_ptr<const void> pin) { pins_.push_back(std::move(pin)); }

  [[nodiscard]] std::span<const BodyPart> parts() const {
    return many_.empty() ? std::span(few_.data(), count_) : std::span<const BodyPart>(many_);
  }
  [[nodiscard]] std::uint64_t length() const { return length_; }
  // Some part is in a file.
  [[nodiscard]] bool has_file() const { return has_file_; }

 private:
  void add(const BodyPart& part);
  // Most bodies are one or two parts: no allocation for a hit.
  std::array<BodyPart, 2> few_{};
  std::size_t count_ = 0;
  std::vector<BodyPart> many_;
  std::vector<std::shared_ptr<const void>> pins_;
  std::uint64_t length_ = 0;
  bool has_file_ = false;
};

// A body that the object's record does not name: hangs on stobj->priv2, and goes with the body
// (objslim, objfree). Its destructor gives back what it holds.
class AttachedBody {
 public:
  AttachedBody() = default;
  AttachedBody(const AttachedBody&) = delete;
  AttachedBody& operator=(const AttachedBody&) = delete;
  virtual ~AttachedBody() = default;
  // Which room its bytes take.
  [[nodiscard]] virtual Place place() const = 0;
  // nullopt: the bytes cannot be had any more. Any thread.
  [[nodiscard]] virtual std::optional<BodyView> view() const = 0;
  // The record, which is not sealed yet, says where the body is, so that a restart finds it. False:
  // it cannot. On the fetch's worker.
  virtual bool name(struct worker* /*wrk*/, region::Record& /*record*/) { return false; }
  // Its bytes are not what was stored, or cannot be read: nobody is to get them from where this
  // body has them. May wait for the daemon.
  virtual void remove_source() const {}
  // The same bytes for another object, with no copy made. nullptr: not possible.
  [[nodiscard]] virtual std::unique_ptr<AttachedBody> share(struct objcore* /*target*/) const {
    return nullptr;
  }
};
// nullptr: the record names the body.
AttachedBody* attached_body(const struct objcore* oc);
// Takes it over, with its place; `oc` has none yet. Only while it is busy.
void attach_body(const struct objcore* oc, std::unique_ptr<AttachedBody> body);

// Of an object of ours that is not being fetched any more. nullopt: its bytes cannot be had; the
// delivery fails, and the object is of no use.
std::optional<BodyView> view_body(const struct objcore* oc);
BodyView view_extents(const region::Region& region, std::span<const region::Extent> list);
// XXH3 of it, as region::BodyChecksum. nullopt: it cannot be read.
std::optional<std::uint64_t> checksum_of(const BodyView& body);
// Whether it is what was stored, by the record's checksum. Reads all of it.
bool checks_out(const BodyView& body, const region::Record& record);

// A body from begin to end in runs of memory, with no more than one buffer at a time.
class SliceReader {
 public:
  explicit SliceReader(const BodyView& body) : body_(body) {}
  SliceReader(const SliceReader&) = delete;
  SliceReader& operator=(const SliceReader&) = delete;
  ~SliceReader();

  struct Slice {
    const std::byte* bytes = nullptr;
    std::size_t length = 0;
    bool passing = false;  // valid until the next call only (else as long as the view)
    bool last = false;
  };
  // The next `length` bytes are not wanted: they are not read either.
  void skip(std::uint64_t length);
  // A slice ends where so many bytes more have been read from files, lest more is read than anybody
  // wants. Who goes on gets the rest.
  void stop_after(std::uint64_t length) { wanted_ = length; }
  // False: there is no more, or it could not be read (then error() is an errno).
  bool next(Slice& slice);
  [[nodiscard]] int error() const { return error_; }

 private:
  const BodyView& body_;
  std::size_t part_ = 0;
  std::uint64_t done_ = 0;    // of that part
  std::uint64_t wanted_ = 0;  // 0: all
  std::byte* buffer_ = nullptr;
  std::size_t buffer_bytes_ = 0;
  int error_ = 0;
};

// Buffers for bytes on their way to or from a file, used again and again. In use at the same time:
// as many as there are deliveries that cannot go by the file lane, and fetches into files; the more
// there are, the smaller they get.
namespace buffers {
inline constexpr std::size_t kLargeBytes = std::size_t{256} << 10;
inline constexpr std::size_t kSmallBytes = std::size_t{64} << 10;
// nullptr: no memory. `bytes` says which of the two sizes it has.
std::byte* take(std::size_t& bytes);
void give_back(std::byte* buffer, std::size_t bytes);
// For counters.
std::uint64_t in_use_bytes();
}  // namespace buffers

}  // namespace om::vmod
