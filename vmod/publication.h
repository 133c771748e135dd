// publication.h: a body on its way into the store, while it is fetched.
//
//   begun      a put (om::Writer) of its key is reserved; of a variant (Vary), with an index that
//              names it. Nobody sees it before it is committed; followers (follow.h) may read.
//              Where nobody has looked for it, or its key was claimed (om::Claim) and it is small,
//              there is room ahead instead, and the store hears of it when it is whole: one
//              message, and no followers; who has come for what was claimed waits for it
//   live       bytes are written; followers are told of them
//   let go     the store was too late, too full or gone: the put is aborted, and the fetch goes on
//   finished   the body is whole and committed; or it is that of the very object that it was to
//              replace, and only what is said of that is new
//
// Dropped before it is finished, it is aborted.
//
// A large body is received straight into the put, where the object keeps it under a lease
// (landing.h); others are copied into it.
//
// The store never holds a fetch up: all that may wait for it has the director's time limit for the
// whole fetch together, and then it is let go.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "abi/abi.h"
#include "director.h"
#include "landing.h"
#include "objmapper/client.h"
#include "region/record.h"
#include "shared_object.h"

namespace om::vmod::tee {

// So long bytes may lie there before followers are told of them.
inline constexpr std::chrono::milliseconds kAnnounceInterval{10};
// From here on who wants it, too, is to have its bytes while they come, not when they are all
// there.
inline constexpr std::uint64_t kFollowedBytesMin = 64 * 1024;
// Longer bodies are published one by one (Client::defer()).
inline constexpr std::uint64_t kTogetherBytesMax = std::uint64_t{1} << 20;

// An object that lies in the store, as it was found there.
struct There {
  std::uint64_t object_id = 0;  // 0: nothing
  std::uint32_t revision = 0;
  std::uint64_t created_ns = 0;
  std::uint64_t length = 0;
  bool operator==(const There&) const = default;
};

// The right to publish what a fetch brings.
struct Share {
  Director* director = nullptr;
  std::shared_ptr<Client> client;
  std::string primary;  // shared_object.h
  std::string key;      // that `writer` writes
  Writer writer;        // may be empty: reserved when the publication begins
  // Of `primary`, and then `writer` is empty: whoever looks for it waits until this is over.
  std::optional<Claim> claim{};
  There replaces;        // what `key` names, and is of no use as it is
  bool indexed = false;  // there is a Vary index that names `key`
  bool ahead = false;    // nobody has looked for it, and so nobody waits for it or may follow
  double began = 0;      // when the backend was asked
  std::string stem;      // what a purge would name it by; empty: `writer` is older than the request
};

// A body on its way into the store. One thread.
class Publication {
 public:
  Publication(std::unique_ptr<Share> share, shared::Metadata metadata,
              std::vector<std::string> tags);
  // What is known when the headers are; followers are told of it with what is written first, or
  // when one has to wait for that. False: given up.
  bool begin(std::optional<std::uint64_t> length);
  void write(std::span<const std::byte> bytes);
  // landing::Source; write() is told of what was received there nevertheless.
  std::optional<landing::Room> land(struct worker* wrk, std::uint64_t there);
  landing::Memory more();
  [[nodiscard]] bool may_land() const;
  // Before a wait for more: followers are told of all there is.
  void announce();
  [[nodiscard]] bool has_unannounced() const {
    return live() && !ahead_ && (unsaid_ || written_ > announced_);
  }
  // What Varnish found out about the body, which is whole.
  void set_gzip_bits(const std::optional<std::array<std::uint8_t, 32>>& bits) {
    if (bits) metadata_.gzip_bits = bits;
  }
  // Instead of writing: the body is that of the shared object which `body` names. Where it is this
  // one that is to be replaced, it stays, and finish() only says anew what is said of it.
  [[nodiscard]] bool refreshes(const std::optional<region::LentRef>& body);
  // The body is whole: publishes it.
  void finish();
  [[nodiscard]] bool live() const { return static_cast<bool>(share_->writer); }
  [[nodiscard]] std::uint64_t written() const { return written_; }

 private:
  void let_go(const Error& why);
  // All that is known of the response. nullopt: it cannot be said, and all is over.
  std::optional<Amendment> amendment();
  bool amend();
  // Into room that the connection has. False: not this one, or not now.
  bool take_ahead();
  bool choose_key();
  [[nodiscard]] bool removed_meanwhile() const;
  // They lie in the put already.
  [[nodiscard]] bool is_there(std::span<const std::byte> bytes) const;
  // Time that may still be spent on waiting for the daemon.
  [[nodiscard]] std::chrono::milliseconds left() const;
  template <class Call>
  auto timed(Call call);

  std::unique_ptr<Share> share_;
  shared::Metadata metadata_;
  std::vector<std::string> tags_;
  std::optional<std::uint64_t> length_;
  std::vector<std::span<std::byte>> room_;  // that land() gave
  bool ahead_ = false;                      // in room ahead: all is said with the commit
  bool refreshes_ = false;                  // the body is in the store already
  bool unsaid_ = true;                      // followers do not know the headers yet
  std::uint64_t written_ = 0;
  std::uint64_t announced_ = 0;
  std::chrono::steady_clock::time_point announced_at_{};
  std::chrono::steady_clock::duration spent_{};
};

}  // namespace om::vmod::tee
