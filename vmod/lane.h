// lane.h: one delivery of a body, and the file lane.
//
//   Delivery delivery(...)   chooses the lane (lane_choice.h), once; logs it
//   give(flags, bytes)       while sends_files(): these bytes go from their file to the socket
//   ~Delivery()              counts what the client got, and by which lane
//
// What is in memory goes to the iterator's function as ever, before, between and after.
//
// The file lane works without any VCL: an entry on this stack goes into Varnish's chain of delivery
// processors before the last one ("V1B", which writes to the socket), for as long as the Delivery
// lives. The filter that may stand before it, range, only counts and moves pointers: it is handed
// addresses in a window of address space that nobody can read, and what arrives behind it says
// which bytes of the file are wanted.
//
// The worker's thread makes one, uses it and drops it, all within one call of the iterator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "abi/abi.h"
#include "body.h"
#include "storage.h"

namespace om::vmod {

// Bytes of a file, which never change, not after it was unlinked either: pages of it are in sockets
// long after they were given. Memory is recycled, and cannot be made one of these.
class FileBytes {
 public:
  static std::optional<FileBytes> of(const BodyPart& part) {
    if (!part.in_file()) return std::nullopt;
    return FileBytes(part);
  }
  [[nodiscard]] BorrowedFd file() const { return part_.file; }
  [[nodiscard]] std::uint64_t offset() const { return part_.offset; }
  [[nodiscard]] std::uint64_t length() const { return part_.length; }

 private:
  explicit FileBytes(const BodyPart& part) : part_(part) {}
  BodyPart part_;
};

class Delivery {
 public:
  // `priv` and `func` as the iterator got them; `parts`: the body, as far as it is known yet,
  // looked at here alone. Without one in a file there is nothing to choose.
  Delivery(struct worker* wrk, struct objcore* oc, void* priv, objiterate_f* func, Store& store,
           std::span<const BodyPart> parts) noexcept;
  Delivery(const Delivery&) = delete;
  Delivery& operator=(const Delivery&) = delete;
  ~Delivery();

  [[nodiscard]] bool sends_files() const { return v1b_ != nullptr; }

  // Flags and answer are those of objiterate_f.
  int give(unsigned flags, const FileBytes& bytes);

  // After give() failed: the file could not be read, or was shorter than it should be.
  [[nodiscard]] bool file_failed() const { return file_failed_; }

 private:
  [[nodiscard]] bool chosen(struct req* req, std::span<const BodyPart> parts);
  void enter_chain();
  void leave_chain();
  static int bytes(struct vdp_ctx* vdc, enum vdp_action act, void** priv, const void* ptr,
                   ssize_t length) noexcept;
  int send(struct vdp_ctx* vdc, std::uint64_t offset, std::uint64_t length);
  bool worth_keeping(const struct req* req, std::span<const BodyPart> parts);
  void give_back(std::uint64_t from, std::uint64_t to);
  bool file_is_readable(std::uint64_t offset) const;
  void failed(stream_close_t why);

  static const struct vdp kProcessor;

  struct worker* wrk_;
  void* priv_;
  objiterate_f* func_;
  Store& store_;
  struct objcore* oc_;
  struct vdp_ctx* vdc_ = nullptr;  // of the client that this is for; nullptr: no delivery
  std::uint64_t taken_before_ = 0;

  // The file lane. v1b_ == nullptr: not taken.
  struct vdp_entry* v1b_ = nullptr;
  struct vdp_entry entry_ {};
  int socket_ = -1;
  double deadline_ = 0;
  int file_ = -1;                  // of the bytes on their way
  std::uint64_t file_offset_ = 0;  // of the first byte of the window
  bool file_failed_ = false;
  bool gives_back_ = false;  // its pages are not worth their place
  bool resident_ = false;    // most of it, for sure
};

}  // namespace om::vmod
