// nested_fetch.h: another request to the backend inside a fetch that has begun already.
//
// For a fetch filter whose source went away in mid-body: the request goes out once more, as Varnish
// itself would send it (its connection pool, its time limits), and the body is read beside the one
// that Varnish thinks is being fetched. A busyobj knows one connection, one response and one chain
// of filters; they are swapped for ours during each call, in place, because the lists in them point
// to their own heads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "abi/abi.h"

namespace om::vmod {

class NestedFetch {
 public:
  // Sends the request and waits for the headers. nullptr: no answer.
  static std::unique_ptr<NestedFetch> open(struct busyobj* bo, VCL_BACKEND backend);
  NestedFetch(const NestedFetch&) = delete;
  NestedFetch& operator=(const NestedFetch&) = delete;
  // The connection goes back where all was read, else it is closed.
  ~NestedFetch();

  [[nodiscard]] const struct http* response() const { return response_.get(); }
  // Of the body; nullopt: not known.
  [[nodiscard]] std::optional<std::uint64_t> length() const { return length_; }
  // Only the end of the connection ends it.
  [[nodiscard]] bool until_close() const { return until_close_; }
  // As a filter's pull().
  enum vfp_status pull(void* into, ssize_t* length);

 private:
  struct Free {
    void operator()(struct http* made) const { std::free(made); }
  };
  NestedFetch(struct busyobj* bo, VCL_BACKEND backend) : bo_(bo), backend_(backend) {}
  bool start();
  void swap();

  struct busyobj* bo_;
  VCL_BACKEND backend_;
  std::unique_ptr<struct http, Free> response_;
  // Ours while it is Varnish's turn, Varnish's while it is ours.
  struct http* other_response_ = nullptr;
  struct http_conn* other_connection_ = nullptr;
  struct vfp_ctx other_chain_ {};
  std::optional<std::uint64_t> length_;
  bool until_close_ = false;
  bool open_ = false;
  bool ended_ = false;
};

}  // namespace om::vmod
