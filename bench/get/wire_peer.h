// A peer that speaks the protocol by itself, with many requests under way on one connection: the
// library's calls wait for their answer, so depth is measured here. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "posix/mapping.h"
#include "posix/unique_fd.h"

namespace om::bench {

// Bytes of a GET of one key and of its answer (a segment that is known, one extent, no metadata).
std::size_t get_bytes(std::size_t key_bytes);
std::size_t get_reply_bytes();

class WirePeer {
 public:
  explicit WirePeer(const std::string& socket);
  // Asks for keys[i % size] with `depth` requests under way, for so long, gives every lease back,
  // and compares the first 8 bytes of every body with i % size. GETs a second.
  double run(const std::vector<std::string>& keys, std::size_t depth, double seconds);

 private:
  void send_get(const std::string& key, std::uint64_t index);
  std::uint64_t receive_one();  // the lease
  void send_release();
  void remember(std::uint64_t id, UniqueFd file, std::uint64_t size);

  UniqueFd socket_;
  UniqueFd lease_file_;
  std::vector<std::byte> buffer_;
  std::vector<std::uint64_t> done_;  // leases to give back
  struct Mapped {
    std::uint64_t id = 0;
    Mapping mapping;
  };
  std::vector<Mapped> segments_;
};

}  // namespace om::bench
