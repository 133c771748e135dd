// What is behind a Lease, a Claim and a Writer.
#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "client/connection.h"

namespace om::client {

struct LeaseState {
  std::shared_ptr<Connection> connection;
  std::uint64_t lease_id = 0;
  std::optional<std::size_t> word;  // of the hazard page: the daemon does not know of this lease
  ObjectInfo info;
  std::vector<Slice> slices;
  std::vector<SegmentRef> segments;  // one for each slice

  // For map(): bytes of slices that are not to be mapped, read once.
  std::mutex copy_mutex;
  std::vector<std::shared_ptr<std::byte[]>> copies;
};

// The word in the table goes with it, unless the daemon sees to that.
struct ClaimState {
  ClaimState() = default;
  ClaimState(const ClaimState&) = delete;
  ClaimState& operator=(const ClaimState&) = delete;
  ~ClaimState() {
    if (is_over) return;
    try {
      connection->unclaim(hash, key);
    } catch (const std::exception&) {
      connection->end_for_lack_of_memory();  // which ends the claim as well
    }
  }
  std::shared_ptr<Connection> connection;
  std::string key;
  std::uint64_t hash = 0;
  bool is_over = true;  // or has not begun
};

// Where a part of the body goes.
struct Place {
  SegmentRef segment;
  std::uint64_t offset = 0;  // in the segment
  std::uint64_t length = 0;
};

struct WriterState {
  std::shared_ptr<Connection> connection;
  std::chrono::milliseconds limit{};  // for each answer
  std::uint64_t put_id = 0;
  std::uint64_t key_hash = 0;  // as Connection::hash_of()
  std::optional<std::uint64_t> declared;
  std::optional<std::uint64_t> amended;  // declared later: room is asked for nevertheless
  [[nodiscard]] std::optional<std::uint64_t> length() const {
    return declared ? declared : amended;
  }
  std::uint64_t written = 0;
  std::uint64_t room = 0;     // of all places together
  std::vector<Place> places;  // in the order of the body
  std::size_t place = 0;      // where the next byte goes
  std::uint64_t used = 0;     // of that place
  // Written to room ahead: what commit() says. Without a put_id.
  std::optional<Ahead> ahead;
  wire::PutBody put;
  std::unique_ptr<ClaimState> claim;  // that is over when this is put; else when the writer is
  // Under the lease that was lent for it: then the daemon has to hear of these bytes, put or not.
  [[nodiscard]] bool held() const { return put.object_id != 0; }
  // The daemon has been sent the put.
  void is_sent() {
    if (claim != nullptr) claim->is_over = true;
  }
};

struct FollowerState {
  std::shared_ptr<Connection> connection;
  std::chrono::milliseconds limit{};  // for each answer
  std::uint64_t lease_id = 0;
  ObjectInfo info;
  wire::FollowState ended = wire::FollowState::kWriting;
  std::uint64_t available = 0;
  std::uint32_t amended = 0;
  std::uint64_t room = 0;     // of all places together
  std::vector<Place> places;  // in the order of the body
  Lease lease;                // once it is committed, where there is one
};

// The end of a writer that publishes nothing. Nobody knows of what was written to room ahead, and
// its bytes go back with the rest of the room; where they are leased, they are cut out of it, for
// as long as the lease lasts. Without memory to say so, the connection ends.
void give_up(std::unique_ptr<WriterState> state) noexcept;
// Of a PUT: how long what it says of the body is, and its answer.
std::size_t encoded_bytes(const wire::PutBody& body);
Result<PutResult> result_of(const wire::PutItem& item);
// Metadata and tags within the protocol's limits.
Result<void> check_notes(const std::string& metadata, const std::vector<std::string>& tags);
// From the wire's words to the interface's.
ObjectInfo to_info(wire::ObjectInfo info);

}  // namespace om::client
