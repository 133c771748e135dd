// follow.h: a response that another cache of the machine is fetching right now, as ours.
//
// Exactly one cache fetches a key: the director's lookup reserves it, and who comes second follows
// the put while it is written (om::Follower). The headers come with AMEND, and nobody waits for
// them beyond a bound. The body comes through a filter at the bottom of the chain.
//
// The writer may die or give up in mid-body. Then the place is asked for again: whoever gets it
// asks the backend and publishes what comes, the others follow that one; without the store the
// backend is asked alone, and so it is when nothing comes for as long as a backend may pause.
//
// The headers are out by then. So what comes now must be the same response, by its status and its
// validators (from the store also by the time of the answer); a response without validators cannot
// be asked for once more. And what was passed on must be its beginning: a running hash of that is
// compared. Where there is no such thing, this fetch fails. What the key named when the writer
// began, and was of no use, is of no use now.
#pragma once

#include <xxhash.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "abi/abi.h"
#include "director.h"
#include "nested_fetch.h"
#include "objmapper/client.h"
#include "shared_object.h"
#include "tee.h"

namespace om::vmod::follow {

// Nobody waits longer for the headers of a response that another cache has asked for.
inline constexpr std::chrono::milliseconds kHeadersLimit{5000};

// How waiting for the headers ended.
enum class Headers { kThere, kGone, kLate, kNoAnswer };
Headers wait_for_headers(Follower& follower, std::chrono::milliseconds limit,
                         std::chrono::milliseconds answer_limit);

class Source {
 public:
  struct Origin {
    Director* director = nullptr;
    std::shared_ptr<Client> client;
    std::string primary;  // shared_object.h
    std::string key;
    VCL_BACKEND backend = nullptr;  // to be asked when the writer is gone
    tee::There replaces{};          // what `key` names, and is of no use as it is
    bool handed_off = false;        // a body, and nothing that says of which response
  };
  Source(Origin origin, Follower follower, shared::Metadata metadata, std::vector<std::string> tags,
         std::optional<std::uint64_t> length);
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  ~Source();

  [[nodiscard]] std::optional<std::uint64_t> length() const { return length_; }
  // As a filter's pull(). `why` is set with VFP_ERROR.
  enum vfp_status pull(struct busyobj* bo, std::span<std::byte> into, std::size_t& got,
                       std::string& why);

 private:
  enum class Step { kBytes, kEnd, kSourceGone, kStalled, kDiffers, kFailed };
  Step next(const struct busyobj* bo, std::span<std::byte> into, std::size_t& got);
  Step next_followed(const struct busyobj* bo, std::span<std::byte> into, std::size_t& got);
  Step next_fetched(std::span<std::byte> into, std::size_t& got);
  Step catch_up(const struct busyobj* bo);
  [[nodiscard]] bool is_followed(const ObjectInfo& info) const;
  bool find_other_source(struct busyobj* bo, bool in_the_store);
  bool ask_backend(struct busyobj* bo, Writer writer);
  [[nodiscard]] std::uint64_t hash() const;

  Origin origin_;
  shared::Metadata metadata_;
  std::vector<std::string> tags_;
  std::optional<std::uint64_t> length_;
  // One of the three.
  Follower follower_;
  Lease lease_;
  std::unique_ptr<NestedFetch> fetch_;
  std::optional<tee::Publication> publication_;  // of what fetch_ brings

  std::uint64_t at_ = 0;      // in the source
  std::uint64_t passed_ = 0;  // bytes that went up the chain
  int changes_ = 0;           // of the source, since the last byte
  struct FreeHash {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, FreeHash> hash_;
};

// The filter; the entry's priv1 is a director::Hit with a source.
extern const struct vfp kFilter;

}  // namespace om::vmod::follow
