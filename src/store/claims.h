// The daemon's side of the table of claims (base/claims.h): a file without a name that all sessions
// which claim keys map and write. Its length is sealed, so that we may map it, too; of what stands
// there we believe that somebody who is here wants to be waited for, and nothing else. It need not
// outlive us: claims end with their sessions.
//
// The numbers by which sessions are known there are given out in turn, so that one who was cut off,
// and has not noticed, is not taken for another one soon. Loop thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>

#include "base/claims.h"
#include "base/result.h"
#include "posix/mapping.h"
#include "posix/unique_fd.h"
#include "store/store.h"

namespace om::store {

class Claims {
 public:
  static Result<std::unique_ptr<Claims>> make();
  Claims(const Claims&) = delete;
  Claims& operator=(const Claims&) = delete;
  ~Claims() = default;

  // Once for each holder.
  Result<ClaimsAccess> give(HolderId holder);
  // Its words are free.
  void close(HolderId holder);
  // Whose claim a key of this hash is, which is wanted from now on; 0: nobody's. The key is known
  // by now (Board::know).
  HolderId want(std::uint64_t hash);
  // That claim of this holder is over.
  void end(std::uint64_t hash, HolderId holder);
  [[nodiscard]] std::size_t given() const { return of_.size(); }

 private:
  Claims(UniqueFd file, Mapping mapping) : file_(std::move(file)), mapping_(std::move(mapping)) {}
  [[nodiscard]] claims::Table& table() const {
    return *reinterpret_cast<claims::Table*>(mapping_.data());
  }

  UniqueFd file_;
  Mapping mapping_;
  std::unordered_map<HolderId, std::uint64_t> of_;      // the number of each
  std::unordered_map<std::uint64_t, HolderId> owners_;  // by number
  std::uint64_t last_ = 0;                              // number that was given out
};

}  // namespace om::store
