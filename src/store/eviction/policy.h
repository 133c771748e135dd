// policy.h: which object goes when room is needed.
//
// A Policy accounts bytes, knows objects by number, and keeps 32 bytes for each plus about 10 for
// its hash table. It removes nothing by itself: the owner asks evict() for a victim until there is
// room. One policy per tier and shard.
//
// Life of an object in it:
//   insert()   it is in
//   touch()    a hit: one look-up and a flag, no list moves (LRU, kept for comparison, moves one)
//   evict()    chosen, and out; S3-FIFO remembers its fingerprint, so that it comes back into main
//   erase()    removed for another reason, and out
//
// Threads: none of its own, no locks; all calls on the owner's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>

namespace om::eviction {

struct Victim {
  std::uint64_t id = 0;
  std::uint64_t bytes = 0;
};

class Policy {
 public:
  // True: not this one, not now (leased, pinned, in progress). It is passed over and stays in.
  using Skip = std::function<bool(std::uint64_t id)>;

  Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;
  virtual ~Policy() = default;

  // `fingerprint` names the content across lives, where ids are new each time: a hash of the key.
  // An id that is in already is put in anew. bytes: at most 2^40.
  virtual void insert(std::uint64_t id, std::uint64_t bytes, std::uint64_t fingerprint) = 0;
  // An unknown id is ignored.
  virtual void touch(std::uint64_t id) = 0;
  // False: it was not in.
  virtual bool erase(std::uint64_t id) = 0;
  // Chooses an object and takes it out. nullopt: nothing is in, or everything is to be skipped.
  virtual std::optional<Victim> evict(const Skip& skip) = 0;
  std::optional<Victim> evict() {
    return evict([](std::uint64_t) { return false; });
  }
  // The budget that shares (small queue, ghosts) are taken from. Nothing is evicted by it.
  virtual void set_capacity(std::uint64_t bytes) = 0;

  [[nodiscard]] virtual bool contains(std::uint64_t id) const = 0;
  [[nodiscard]] virtual std::uint64_t bytes() const = 0;
  [[nodiscard]] virtual std::size_t objects() const = 0;
  // Its own memory.
  [[nodiscard]] virtual std::size_t memory_bytes() const = 0;
  [[nodiscard]] virtual std::string_view name() const = 0;
};

// Small queue of 10 % for what is new, main queue for what was hit, ghosts of what was thrown out.
std::unique_ptr<Policy> make_s3fifo(std::uint64_t capacity_bytes);
// One queue and a hand that moves towards the newer.
std::unique_ptr<Policy> make_sieve(std::uint64_t capacity_bytes);
std::unique_ptr<Policy> make_lru(std::uint64_t capacity_bytes);
// "s3fifo", "sieve", "lru"; null for anything else.
std::unique_ptr<Policy> make_policy(std::string_view name, std::uint64_t capacity_bytes);

}  // namespace om::eviction
