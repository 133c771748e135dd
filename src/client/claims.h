// The table of claims as one connection sees it (base/claims.h): its words are whoever's number
// they bear, and this connection's is known here, not in the table. Any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "base/claims.h"
#include "posix/mapping.h"
#include "posix/unique_fd.h"

namespace om::client {

class Claims {
 public:
  // nullptr: it is not what it is to be, or there is no such number.
  static std::unique_ptr<Claims> of(const UniqueFd& file, std::uint64_t owner);
  Claims(const Claims&) = delete;
  Claims& operator=(const Claims&) = delete;
  ~Claims() = default;

  // A key of this hash is this connection's to fetch. `known` counts keys like it. False: ask the
  // daemon.
  bool claim(std::uint64_t hash, const claims::Counter& known);
  // Nothing comes of it. True: the daemon is to be told.
  bool unclaim(std::uint64_t hash);
  // Somebody waits for it; or it is not known whether anybody does.
  [[nodiscard]] bool is_wanted(std::uint64_t hash) const;

 private:
  Claims(Mapping mapping, std::uint64_t owner) : mapping_(std::move(mapping)), owner_(owner) {}
  [[nodiscard]] claims::Table& table() const {
    return *reinterpret_cast<claims::Table*>(mapping_.data());
  }

  const Mapping mapping_;
  const std::uint64_t owner_;
};

}  // namespace om::client
